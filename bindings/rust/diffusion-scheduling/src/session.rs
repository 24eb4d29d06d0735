// SPDX-License-Identifier: Apache-2.0

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use diffusion_scheduling_sys::*;

use crate::error::{certain, check, Error, Result};
use crate::tensor::{sealed, Form, RawTensor};
use crate::text::bytes_of;
use crate::{max_threads, require_compatible_library, Element, InOut, Tensor, TensorMut};

/// A session: one request's progress through a plan, which is the index of the next step and the slots that earlier steps stored.
///
/// ```
/// # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DDIMScheduler"}"#)?;
/// # fn model(x: &[f32], timestep: f64) -> Vec<f32> { x.iter().map(|x| x * (timestep / 1000.0) as f32).collect() }
/// # let mut x = vec![0.5f32; 64];
/// scheduler.set_timesteps(20)?;
/// let mut session = scheduler.session()?;
/// while let Some(timestep) = session.timestep() {
///     let e = model(&x, timestep);
///     session.step(&e, &mut x)?; // x becomes the next sample
/// }
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
///
/// A session keeps its plan: its scheduler may be dropped or given another plan.
///
/// Threads: a session may move to another thread, but only one thread at a time may use it. It is `Send`, not `Sync`.
///
/// ```compile_fail
/// fn share<T: Sync>() {}
/// share::<diffusion_scheduling::Session>();
/// ```
pub struct Session {
    handle: ds_session,
    _one_thread: PhantomData<Cell<()>>,
}

/// Optional tensors of a step, besides the model output and the sample: noise and a report.
///
/// ```
/// # use diffusion_scheduling::{Scheduler, StepOptions};
/// # let mut scheduler = Scheduler::from_json(None, r#"{"_class_name": "DDPMScheduler"}"#)?;
/// # scheduler.set_timesteps(20)?;
/// # let mut session = scheduler.session()?;
/// # let (e, z) = (vec![0.1f32; 64], vec![0.2f32; 64]);
/// # let (mut x, mut clean) = (vec![0.5f32; 64], vec![0f32; 64]);
/// session.step_with(&e, &mut x, StepOptions::new().noise(&z).report(&mut clean))?;
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
#[derive(Debug)]
pub struct StepOptions<'a, T: Element> {
    noise: Option<Tensor<'a, T>>,
    report: Option<TensorMut<'a, T>>,
}

impl<'a, T: Element> StepOptions<'a, T> {
    /// No noise, and no report.
    pub fn new() -> StepOptions<'a, T> {
        StepOptions {
            noise: None,
            report: None,
        }
    }

    /// Standard normal numbers, one for each element of the sample, which [`Session::needs_noise`] asks for.
    pub fn noise(mut self, noise: impl Into<Tensor<'a, T>>) -> Self {
        self.noise = Some(noise.into());
        self
    }

    /// A tensor that receives the step's second result: for most schedulers the predicted clean sample after the clamp, diffusers'
    /// `pred_original_sample`.
    pub fn report(mut self, report: impl Into<TensorMut<'a, T>>) -> Self {
        self.report = Some(report.into());
        self
    }

    /// Noise and report as C tensors.
    pub(crate) fn raw<'t>(&'t mut self, form: &Form<'t>) -> (Option<RawTensor<'t>>, Option<RawTensor<'t>>) {
        (
            self.noise.as_ref().map(|noise| noise.raw(form)),
            self.report.as_mut().map(|report| report.raw(form)),
        )
    }
}

impl<T: Element> Default for StepOptions<'_, T> {
    fn default() -> Self {
        StepOptions::new()
    }
}

/// Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6), optionally rescaled (Lin et al. 2023,
/// arXiv:2305.08891, section 3.4). With the model's conditional output c and its unconditional output u, a guided step uses
///
/// ```text
/// e = u + scale (c − u),  and then  e ← rescale e std(c) / std(e) + (1 − rescale) e  for each batch item
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// diffusers' `guidance_scale`: finite. At 1, e is c, and u isn't read.
    pub scale: f64,
    /// diffusers' `guidance_rescale`: from 0 to 1. An item with a constant e stays unchanged.
    pub rescale: f64,
}

impl Guidance {
    /// Guidance without rescaling.
    pub const fn new(scale: f64) -> Guidance {
        Guidance { scale, rescale: 0.0 }
    }

    /// Guidance with rescaling; the paper uses 0.7.
    pub const fn rescaled(scale: f64, rescale: f64) -> Guidance {
        Guidance { scale, rescale }
    }

    fn raw(&self) -> ds_guidance {
        ds_guidance {
            scale: self.scale,
            rescale: self.rescale,
        }
    }
}

// ---- Making, and position

impl Session {
    pub(crate) fn made(make: impl FnOnce(*mut ds_session) -> ds_status) -> Result<Session> {
        let mut handle = ds_session::default();
        check(make(&mut handle))?;
        Ok(Session {
            handle,
            _one_thread: PhantomData,
        })
    }

    /// A session without a scheduler, on a plan that [`Plan::json`](crate::Plan::json) wrote in any process, from step
    /// `begin_index` on. Further sessions are best made as copies, which share the plan.
    ///
    /// Errors: [`Error::MalformedJson`], [`Error::InvalidValue`], [`Error::UnrepresentablePlan`], [`Error::TooManyHandles`].
    pub fn on_plan(json: &str, begin_index: usize) -> Result<Session> {
        require_compatible_library()?;
        // SAFETY: the text has the stated length and lives until the call returns.
        Session::made(|handle| unsafe { ds_session_create_on_plan(json.as_ptr().cast(), json.len(), begin_index, handle) })
    }

    /// The index of the next step, from 0; the number of steps after the last one.
    pub fn step_index(&self) -> usize {
        let mut index = 0;
        // SAFETY: `index` points to space for a number.
        certain(check(unsafe { ds_session_step_index(self.handle, &mut index) }));
        index
    }

    /// The timestep that the model gets at the next step; `None` after the last step.
    pub fn timestep(&self) -> Option<f64> {
        let mut timestep = 0.0;
        // SAFETY: `timestep` points to space for a number.
        match unsafe { ds_session_timestep(self.handle, &mut timestep) } {
            DS_STEP_PAST_END => None,
            status => {
                certain(check(status));
                Some(timestep)
            }
        }
    }

    /// Whether the next step adds noise; false after the last step.
    pub fn needs_noise(&self) -> bool {
        let mut needs_noise = false;
        // SAFETY: `needs_noise` points to space for a Boolean value.
        match unsafe { ds_session_needs_noise(self.handle, &mut needs_noise) } {
            DS_STEP_PAST_END => false,
            status => {
                certain(check(status));
                needs_noise
            }
        }
    }

    /// Returns to the first step and clears slots, element type and number of elements, for another request.
    pub fn reset(&mut self) {
        // SAFETY: the handle belongs to this object, which is borrowed uniquely.
        certain(check(unsafe { ds_session_reset(self.handle) }));
    }

    /// A second session in the same state, independent of the first. The two share the slots until one of them steps.
    ///
    /// Errors: [`Error::TooManyHandles`].
    pub fn try_clone(&self) -> Result<Session> {
        // SAFETY: the handle belongs to this object, and no other thread uses it.
        Session::made(|copy| unsafe { ds_session_copy(self.handle, copy) })
    }

    /// The session's state: its steps, slots, element type and number of elements, and a fingerprint of its plan; with a checksum,
    /// in a format that is the same on every machine. The size is 72 bytes and the elements of the slots that are still read.
    pub fn save(&self) -> Vec<u8> {
        // SAFETY: the buffer has the stated capacity.
        certain(bytes_of(|buffer, capacity, length| unsafe {
            ds_session_save(self.handle, buffer, capacity, length)
        }))
    }

    /// A session in a saved state, with the plan of this session: [`Scheduler::restore`](crate::Scheduler::restore) without a
    /// scheduler.
    ///
    /// Errors: [`Error::DamagedState`], [`Error::ForeignState`], [`Error::OutOfMemory`], [`Error::TooManyHandles`].
    pub fn restore_like(&self, bytes: &[u8]) -> Result<Session> {
        // SAFETY: the bytes have the stated length and live until the call returns; this session's handle is valid.
        Session::made(|handle| unsafe { ds_session_restore_like(self.handle, bytes.as_ptr().cast(), bytes.len(), handle) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the handle belongs to this object alone, and this is its last use.
        unsafe { ds_session_free(self.handle) };
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("step_index", &self.step_index())
            .field("timestep", &self.timestep())
            .finish()
    }
}

// ---- Steps

impl Session {
    /// Takes the next step: from the sample at this step's timestep to the next sample.
    ///
    /// - `model_output`: the model's output at this timestep, of any element type. If the plan learns a variance, axis 1 (axis 0 for
    ///   rank 1) may be twice as long as the sample's: the first half of each batch item is the prediction, the second its variance.
    /// - `sample`: in place, `&mut x`, or apart, `(&x, &mut next)`. It sets the shape of the call. The first step of a session
    ///   fixes the element type and the number of elements for all later steps.
    ///
    /// Complexity: one pass over memory (more with thresholding); the call itself takes about 0.1 microseconds. It doesn't lock,
    /// and allocates only the slots, at the first step and at the first step after a copy. Results have the same bits on every
    /// processor, for any number of threads, in place or not.
    ///
    /// Errors: [`Error::StepPastEnd`], [`Error::MissingNoise`], [`Error::ShapeMismatch`], [`Error::WrongElementType`],
    /// [`Error::WrongElementCount`], [`Error::OutOfMemory`].
    pub fn step<'a, 'b, E: Element, T: Element>(
        &mut self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.step_with(model_output, sample, StepOptions::new())
    }

    /// Takes the next step with noise or with a report. Errors: as [`Session::step`].
    pub fn step_with<'a, 'b, E: Element, T: Element>(
        &mut self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
        mut options: StepOptions<'_, T>,
    ) -> Result<()> {
        let (model_output, mut sample) = (model_output.into(), sample.into());
        let ready = sample.ready();
        let model_output = model_output.raw(&ready.form);
        let (noise, report) = options.raw(&ready.form);
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, outputs' exclusively. The session is borrowed
        // uniquely.
        check(unsafe {
            ds_session_step(
                self.handle,
                &model_output.0,
                &ready.input.0,
                RawTensor::address(&noise),
                &ready.out.0,
                RawTensor::address(&report),
                max_threads(),
            )
        })
    }

    /// Takes the next step, and writes the model's input at the step after it: the next sample times that step's input scale, or
    /// after the last step the next sample itself.
    ///
    /// The scaling doesn't cost a pass over memory, unless the step stores two slots or writes a report, too. The input is scaled
    /// before it is rounded, so its last bit may differ from
    /// [`Scheduler::scale_model_input`](crate::Scheduler::scale_model_input)'s.
    ///
    /// - `model_input`: like the sample
    ///
    /// Errors: as [`Session::step`].
    pub fn step_with_input<'a, 'b, 'c, E: Element, T: Element>(
        &mut self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
        model_input: impl Into<TensorMut<'c, T>>,
        mut options: StepOptions<'_, T>,
    ) -> Result<()> {
        let (model_output, mut sample, mut model_input) = (model_output.into(), sample.into(), model_input.into());
        let ready = sample.ready();
        let model_output = model_output.raw(&ready.form);
        let model_input = model_input.raw(&ready.form);
        let (noise, report) = options.raw(&ready.form);
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, outputs' exclusively. The session is borrowed
        // uniquely.
        check(unsafe {
            ds_session_step_with_input(
                self.handle,
                &model_output.0,
                &ready.input.0,
                RawTensor::address(&noise),
                &ready.out.0,
                RawTensor::address(&report),
                &model_input.0,
                max_threads(),
            )
        })
    }

    /// Takes the next step with a guided model output, which it computes within the step at the cost of reading one more tensor;
    /// rescaling takes one more pass over both outputs. Intermediate values aren't rounded to an element type.
    ///
    /// - `conditional`, `unconditional`: c and u of [`Guidance`], each like the model output of [`Session::step`]
    ///
    /// Errors: as [`Session::step`], and [`Error::InvalidValue`] for the guidance.
    pub fn step_guided<'a, 'b, 'c, E: Element, T: Element>(
        &mut self,
        conditional: impl Into<Tensor<'b, E>>,
        unconditional: impl Into<Tensor<'c, E>>,
        guidance: Guidance,
        sample: impl Into<InOut<'a, T>>,
        mut options: StepOptions<'_, T>,
    ) -> Result<()> {
        let (conditional, unconditional, mut sample) = (conditional.into(), unconditional.into(), sample.into());
        let ready = sample.ready();
        let (conditional, unconditional) = (conditional.raw(&ready.form), unconditional.raw(&ready.form));
        let (noise, report) = options.raw(&ready.form);
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, outputs' exclusively. The session is borrowed
        // uniquely.
        check(unsafe {
            ds_session_step_guided(
                self.handle,
                &conditional.0,
                &unconditional.0,
                &guidance.raw(),
                &ready.input.0,
                RawTensor::address(&noise),
                &ready.out.0,
                RawTensor::address(&report),
                max_threads(),
            )
        })
    }
}

// ---- Steps of many sessions

/// A row of a batch: a session, or none for a free row, owned or borrowed.
///
/// The trait is sealed: rows are `Session`, `&mut Session`, and an `Option` of either.
pub trait SessionRow: sealed::Sealed {
    /// The handle; zero for a free row.
    #[doc(hidden)]
    fn handle(&mut self) -> ds_session;
}

impl sealed::Sealed for Session {}
impl SessionRow for Session {
    fn handle(&mut self) -> ds_session {
        self.handle
    }
}

impl sealed::Sealed for &mut Session {}
impl SessionRow for &mut Session {
    fn handle(&mut self) -> ds_session {
        self.handle
    }
}

impl<R: SessionRow> sealed::Sealed for Option<R> {}
impl<R: SessionRow> SessionRow for Option<R> {
    fn handle(&mut self) -> ds_session {
        self.as_mut().map_or(ds_session::default(), |row| row.handle())
    }
}

/// Takes the next step of many sessions at once: index i of axis 0 of each tensor belongs to `sessions[i]`.
///
/// Engines that run one model for many requests use it: each session has its own plan, step, solver and order, and sessions may
/// come and go between calls. Every row gets the bits of a separate call. All rows share one parallel region.
///
/// - `sessions`: a `None` marks a free row, which is neither read nor written
/// - `model_output`: as for [`Session::step`]. With a predicted variance, axis 1 is twice as long, and the plans of all sessions
///   learn a variance.
/// - `sample`: each row is a batch item. A slice without a shape has one row for each session.
/// - `options`: noise is read in the rows that need it
///
/// ```
/// # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DDIMScheduler"}"#)?;
/// # scheduler.set_timesteps(20)?;
/// # let (e, mut batch) = (vec![0.1f32; 3 * 64], vec![0.5f32; 3 * 64]);
/// use diffusion_scheduling::{step_sessions, StepOptions};
///
/// let mut sessions = vec![Some(scheduler.session()?), None, Some(scheduler.session_from(7)?)];
/// step_sessions(&mut sessions, &e, &mut batch, StepOptions::new())?;
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
///
/// Allocates about 600 bytes per row. Errors: as [`Session::step`], with the row at the start of the sentence. An error leaves all
/// sessions and tensors unchanged.
pub fn step_sessions<'a, 'b, R: SessionRow, E: Element, T: Element>(
    sessions: &mut [R],
    model_output: impl Into<Tensor<'b, E>>,
    sample: impl Into<InOut<'a, T>>,
    options: StepOptions<'_, T>,
) -> Result<()> {
    step_rows(sessions, model_output.into(), None, sample.into(), options)
}

/// Takes the next step of many sessions at once with guided model outputs; each row has its own guidance.
///
/// - `conditional`, `unconditional`: as for [`Session::step_guided`]
/// - `guidance`: one for each session; a scale of 1 for rows without guidance
/// - others: as for [`step_sessions`]
///
/// Errors: as [`step_sessions`]; [`Error::WrongElementCount`] for a wrong number of guidances, [`Error::InvalidValue`] for a
/// guidance.
pub fn step_sessions_guided<'a, 'b, 'c, R: SessionRow, E: Element, T: Element>(
    sessions: &mut [R],
    conditional: impl Into<Tensor<'b, E>>,
    unconditional: impl Into<Tensor<'c, E>>,
    guidance: &[Guidance],
    sample: impl Into<InOut<'a, T>>,
    options: StepOptions<'_, T>,
) -> Result<()> {
    if guidance.len() != sessions.len() {
        return Err(Error::WrongElementCount(format!(
            "guidance has {} elements, but must have {}, like sessions",
            guidance.len(),
            sessions.len()
        )));
    }
    step_rows(
        sessions,
        conditional.into(),
        Some((unconditional.into(), guidance)),
        sample.into(),
        options,
    )
}

/// Takes the step of each row; `guidance` has one entry for each session.
fn step_rows<R: SessionRow, E: Element, T: Element>(
    sessions: &mut [R],
    model_output: Tensor<'_, E>,
    guided: Option<(Tensor<'_, E>, &[Guidance])>,
    mut sample: InOut<'_, T>,
    mut options: StepOptions<'_, T>,
) -> Result<()> {
    let handles: Vec<ds_session> = sessions.iter_mut().map(SessionRow::handle).collect();
    let mut rows = [handles.len(), 0];
    let ready = sample.ready_for_rows(&mut rows);
    let model_output = model_output.raw(&ready.form);
    let unconditional = guided.as_ref().map(|(unconditional, _)| unconditional.raw(&ready.form));
    let guidance: Option<Vec<ds_guidance>> = guided
        .as_ref()
        .map(|(_, guidance)| guidance.iter().map(Guidance::raw).collect());
    let (noise, report) = options.raw(&ready.form);
    // SAFETY: the tensors' memory and shapes are borrowed until the call returns, outputs' exclusively. The numbers of handles and
    // guidances are the stated ones, and the sessions are borrowed uniquely.
    check(unsafe {
        ds_sessions_step(
            handles.as_ptr(),
            handles.len(),
            &model_output.0,
            RawTensor::address(&unconditional),
            guidance.as_ref().map_or(std::ptr::null(), |guidance| guidance.as_ptr()),
            &ready.input.0,
            RawTensor::address(&noise),
            &ready.out.0,
            RawTensor::address(&report),
            max_threads(),
        )
    })
}
