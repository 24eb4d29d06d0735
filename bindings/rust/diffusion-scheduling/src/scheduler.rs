// SPDX-License-Identifier: Apache-2.0

use std::fmt;
use std::path::Path;

use diffusion_scheduling_sys::*;

use crate::error::{certain, check, Error, Result};
use crate::text::{address, c_text, numbers_of, optional_c_text, static_text, strings_of_json, text_of};
use crate::{max_threads, require_compatible_library, Element, InOut, Plan, Session, Tensor};

/// A scheduler: a configuration and, once timesteps have been set, a plan.
///
/// ```
/// use diffusion_scheduling::Scheduler;
///
/// let mut scheduler = Scheduler::from_json(None, r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#)?;
/// scheduler.set_timesteps(4)?;
/// assert_eq!(scheduler.timesteps(), [999.0, 749.0, 499.0, 249.0]);
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
///
/// Threads: any number of threads may use a scheduler at once, by `&Scheduler` or an `Arc`. [`Scheduler::set_timesteps`] needs
/// exclusive access, so a [`Plan`] doesn't change while it is in use. (C programs may set timesteps while other threads read; in
/// Rust, threads that set their own timesteps have schedulers of their own, or a `RwLock`.) Sessions keep their plan.
///
/// Dropping a scheduler frees it. Its sessions and prepared rows stay usable.
pub struct Scheduler {
    handle: ds_scheduler,
}

// ---- Making

impl Scheduler {
    /// The scheduler of a file: diffusers' `from_pretrained` without the download.
    ///
    /// - `path`: a `scheduler_config.json`, or a folder that contains one
    /// - `subfolder`: a folder inside `path` that contains the file, "scheduler" in model repositories
    ///
    /// Errors: [`Error::InaccessibleFile`], and the errors of [`Scheduler::from_json`].
    pub fn load(path: impl AsRef<Path>, subfolder: Option<&str>) -> Result<Scheduler> {
        Scheduler::load_with(path, subfolder, None, None)
    }

    /// The scheduler of a file, as another class or with other values.
    ///
    /// - `class_name`: the class to make, as in diffusers' `Class.from_config`; `None`: the file's class
    /// - `overrides`: a JSON object whose members replace the file's
    ///
    /// Errors: as [`Scheduler::load`].
    pub fn load_with(
        path: impl AsRef<Path>,
        subfolder: Option<&str>,
        class_name: Option<&str>,
        overrides: Option<&str>,
    ) -> Result<Scheduler> {
        let path = path.as_ref();
        let text = path
            .to_str()
            .ok_or_else(|| Error::InvalidValue(format!("path is {path:?}, but must be UTF-8")))?;
        let text = c_text(text, "path")?;
        let subfolder = optional_c_text(subfolder, "subfolder")?;
        let class_name = optional_c_text(class_name, "class_name")?;
        let overrides = optional_c_text(overrides, "overrides")?;
        // SAFETY: the texts end with a zero or are NULL, and live until the call returns.
        Scheduler::made(|handle| unsafe {
            ds_scheduler_load(
                text.as_ptr(),
                address(&subfolder),
                address(&class_name),
                address(&overrides),
                handle,
            )
        })
    }

    /// The scheduler of the text of a `scheduler_config.json`: strict JSON, plus the bare Infinity, -Infinity and NaN that Python
    /// writes.
    ///
    /// - `class_name`: the class to make, as in diffusers' `Class.from_config`; `None`: the text's `_class_name`
    ///
    /// Limits: 32 MiB, 2²⁰ values, 64 levels of nesting, 1,000,000 training timesteps.
    ///
    /// Errors: [`Error::MalformedJson`], [`Error::UnsupportedScheduler`], [`Error::InvalidValue`], [`Error::ConflictingKeys`],
    /// [`Error::TooLarge`], [`Error::TooManyHandles`].
    pub fn from_json(class_name: Option<&str>, json: &str) -> Result<Scheduler> {
        Scheduler::from_json_with(class_name, json, None)
    }

    /// The scheduler of a text, with a JSON object whose members replace the text's. Errors: as [`Scheduler::from_json`].
    pub fn from_json_with(class_name: Option<&str>, json: &str, overrides: Option<&str>) -> Result<Scheduler> {
        let class_name = optional_c_text(class_name, "class_name")?;
        let overrides = optional_c_text(overrides, "overrides")?;
        // SAFETY: `json` has the stated length; the other texts end with a zero or are NULL. All live until the call returns.
        Scheduler::made(|handle| unsafe {
            ds_scheduler_create(
                json.as_ptr().cast(),
                json.len(),
                address(&class_name),
                address(&overrides),
                handle,
            )
        })
    }

    /// The scheduler for a sampler's name and a model: AUTOMATIC1111's names, ComfyUI's, and the DEIS paper's.
    ///
    /// - `name`: a name of [`sampler_names`] or of a class, optionally followed by a name of noise levels; case, spaces and
    ///   punctuation don't matter: "DPM++ 2M SDE Karras", "euler_ancestral sgm_uniform", "deis:tab3"
    /// - `model`: a scheduler of the model, whose configuration describes its training; `None`: diffusers' defaults
    ///
    /// Errors: [`Error::UnsupportedScheduler`], with the nearest sampler in the sentence; [`Error::InvalidValue`],
    /// [`Error::ConflictingKeys`], [`Error::TooManyHandles`].
    pub fn named(name: &str, model: Option<&Scheduler>) -> Result<Scheduler> {
        Scheduler::named_with(name, model, None)
    }

    /// The scheduler for a sampler's name, with a JSON object whose members override the name's values. Errors: also
    /// [`Error::MalformedJson`].
    pub fn named_with(name: &str, model: Option<&Scheduler>, overrides: Option<&str>) -> Result<Scheduler> {
        let name = c_text(name, "name")?;
        let overrides = optional_c_text(overrides, "overrides")?;
        let model = model.map_or(ds_scheduler::default(), |model| model.handle);
        // SAFETY: the texts end with a zero or are NULL, and live until the call returns; so does the model.
        Scheduler::made(|handle| unsafe { ds_scheduler_create_named(name.as_ptr(), model, address(&overrides), handle) })
    }

    fn made(make: impl FnOnce(*mut ds_scheduler) -> ds_status) -> Result<Scheduler> {
        require_compatible_library()?;
        let mut handle = ds_scheduler::default();
        check(make(&mut handle))?;
        Ok(Scheduler { handle })
    }

    pub(crate) fn handle(&self) -> ds_scheduler {
        self.handle
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: the handle belongs to this object alone, and this is its last use.
        unsafe { ds_scheduler_free(self.handle) };
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.plan().ok().map(|plan| plan.step_count());
        formatter
            .debug_struct("Scheduler")
            .field("class_name", &self.class_name())
            .field("step_count", &steps)
            .finish()
    }
}

// ---- Properties

impl Scheduler {
    /// The class name.
    pub fn class_name(&self) -> String {
        self.text(ds_scheduler_class_name)
    }

    /// The configuration in the format of diffusers' `scheduler_config.json`: all parameters, the kept keys and `_class_name`.
    pub fn config_json(&self) -> String {
        self.text(ds_scheduler_config_json)
    }

    /// The names from which [`Scheduler::named`] makes a scheduler like this one; may be empty.
    pub fn sampler_names(&self) -> Vec<String> {
        strings_of_json(&self.text(ds_scheduler_sampler_names))
    }

    /// The configuration's keys that have no effect on this scheduler, sorted.
    pub fn unused_keys(&self) -> Vec<String> {
        strings_of_json(&self.text(ds_scheduler_unused_keys))
    }

    /// The configuration's keys that were never set: diffusers' `_use_default_values`.
    pub fn defaulted_keys(&self) -> Vec<String> {
        strings_of_json(&self.text(ds_scheduler_defaulted_keys))
    }

    /// T, the number of timesteps that the model was trained with.
    pub fn training_timestep_count(&self) -> usize {
        let mut count = 0;
        // SAFETY: `count` points to space for a number.
        certain(check(unsafe { ds_scheduler_num_train_timesteps(self.handle, &mut count) }));
        count
    }

    /// The signal variances of the training, `[T]`, from timestep 0 on. Float32 values.
    pub fn alphas_cumprod(&self) -> Vec<f64> {
        self.numbers(ds_scheduler_alphas_cumprod)
    }

    /// The standard deviation of a run's initial noise; 1 before timesteps are set.
    pub fn init_noise_sigma(&self) -> f64 {
        let mut sigma = 0.0;
        // SAFETY: `sigma` points to space for a number.
        certain(check(unsafe { ds_scheduler_init_noise_sigma(self.handle, &mut sigma) }));
        sigma
    }

    /// The timesteps that the model gets, one for each step. Before timesteps are set: the training timesteps, `[T]`, noisiest first.
    pub fn timesteps(&self) -> Vec<f64> {
        self.numbers(ds_scheduler_timesteps)
    }

    /// The noise levels, one more than steps: step i goes from `sigmas[i]` to `sigmas[i + 1]`. Before timesteps are set: the training
    /// levels, `[T]`, noisiest first. Float32 values.
    pub fn sigmas(&self) -> Vec<f64> {
        self.numbers(ds_scheduler_sigmas)
    }

    fn text(
        &self,
        function: unsafe extern "C" fn(ds_scheduler, *mut std::os::raw::c_char, usize, *mut usize) -> ds_status,
    ) -> String {
        // SAFETY: the buffer has the stated capacity.
        certain(text_of(|buffer, capacity, length| unsafe {
            function(self.handle, buffer, capacity, length)
        }))
    }

    pub(crate) fn numbers(
        &self,
        function: unsafe extern "C" fn(ds_scheduler, *mut f64, usize, *mut usize) -> ds_status,
    ) -> Vec<f64> {
        // SAFETY: the buffer has the stated capacity.
        certain(numbers_of(|buffer, capacity, count| unsafe {
            function(self.handle, buffer, capacity, count)
        }))
    }
}

// ---- Planning and sessions

impl Scheduler {
    /// Plans a run of `steps` steps, from 1 to 100,000; some schedulers allow at most the number of training timesteps.
    ///
    /// Complexity: O(steps), tens of microseconds for 20 steps; O(steps + T) for schedulers that interpolate in the training's
    /// time.
    /// Errors: [`Error::InvalidValue`], [`Error::UnrepresentablePlan`].
    pub fn set_timesteps(&mut self, steps: usize) -> Result<()> {
        self.set_timesteps_with(steps, "{}")
    }

    /// Plans a run with arguments, a JSON object whose members are diffusers' arguments of `set_timesteps` and the scheduler's run
    /// options, such as `"eta"`: see [`class_description`].
    ///
    /// - `steps`: 0 or their number, if `arguments` has timesteps or noise levels
    /// - `arguments`: `"timesteps": [...]`, `"sigmas": [...]`, `"mu"`, the exponent of dynamic shifting, `"sigma_schedule"`, the
    ///   name of noise levels such as "karras", and run options. A null counts as absent. Any other member is an error. If
    ///   timesteps have been set, `"levels": [...]`, one more than `"timesteps"`, replaces the plan's levels unchanged.
    ///
    /// ```
    /// # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DDPMScheduler"}"#)?;
    /// scheduler.set_timesteps_with(0, r#"{"timesteps": [999, 500, 20]}"#)?;
    /// assert_eq!(scheduler.timesteps(), [999.0, 500.0, 20.0]);
    /// # Ok::<(), diffusion_scheduling::Error>(())
    /// ```
    ///
    /// Errors: as [`Scheduler::set_timesteps`], and [`Error::MalformedJson`].
    pub fn set_timesteps_with(&mut self, steps: usize, arguments: &str) -> Result<()> {
        let arguments = c_text(arguments, "arguments")?;
        // SAFETY: the text ends with a zero and lives until the call returns.
        check(unsafe { ds_scheduler_set_timesteps(self.handle, steps, arguments.as_ptr()) })
    }

    /// The current plan, to read. Errors: [`Error::TimestepsNotSet`].
    pub fn plan(&self) -> Result<Plan<'_>> {
        Plan::of(self)
    }

    /// A session on the current plan, from its first step. Errors: [`Error::TimestepsNotSet`], [`Error::TooManyHandles`].
    pub fn session(&self) -> Result<Session> {
        self.session_from(0)
    }

    /// A session on the current plan, from step `begin_index` on, at most the number of steps. For image-to-image, begin later than
    /// 0 and first add noise to the image at `timesteps[begin_index]`. Errors: also [`Error::InvalidValue`].
    pub fn session_from(&self, begin_index: usize) -> Result<Session> {
        // SAFETY: `handle` points to space for a handle.
        Session::made(|handle| unsafe { ds_session_create(self.handle, begin_index, handle) })
    }

    /// A session in a state that [`Session::save`] wrote, in this process or another. It continues with the bits of an
    /// uninterrupted session. The plan must equal the saved session's in every bit of its coefficients.
    ///
    /// Errors: [`Error::DamagedState`], [`Error::ForeignState`], [`Error::TimestepsNotSet`], [`Error::OutOfMemory`],
    /// [`Error::TooManyHandles`].
    pub fn restore(&self, bytes: &[u8]) -> Result<Session> {
        // SAFETY: the bytes have the stated length and live until the call returns.
        Session::made(|handle| unsafe { ds_session_restore(self.handle, bytes.as_ptr().cast(), bytes.len(), handle) })
    }
}

// ---- Other operations

impl Scheduler {
    /// Scales a sample to the model's input at a timestep of the plan: input scale · sample, in place or into another tensor.
    ///
    /// The result is a copy if all input scales are 1, and before timesteps have been set.
    ///
    /// Errors: [`Error::UnknownTimestep`], [`Error::ShapeMismatch`].
    pub fn scale_model_input<'a, T: Element>(&self, sample: impl Into<InOut<'a, T>>, timestep: f64) -> Result<()> {
        let mut sample = sample.into();
        let ready = sample.ready();
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, the output's exclusively.
        check(unsafe { ds_scheduler_scale_model_input(self.handle, &ready.input.0, timestep, &ready.out.0, max_threads()) })
    }

    /// Adds noise to a sample: signal rate · sample + noise rate · noise, with the rates of each batch item's timestep, in place or into
    /// another tensor.
    ///
    /// - `timesteps`: one for all elements, or one for each index of axis 0. Once timesteps are set, they must belong to the plan.
    ///   Before that, and always for schedulers that step between whole training timesteps, they are training timesteps.
    ///
    /// ```
    /// # let scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DDIMScheduler"}"#)?;
    /// let (image, noise) = (vec![1f32; 6], vec![0.5f32; 6]);
    /// let mut noisy = vec![0f32; 6];
    /// scheduler.add_noise((&image, &mut noisy), &noise, &[300.0])?;
    /// # Ok::<(), diffusion_scheduling::Error>(())
    /// ```
    ///
    /// Errors: [`Error::UnknownTimestep`], [`Error::WrongElementCount`], [`Error::ShapeMismatch`].
    pub fn add_noise<'a, 'b, T: Element>(
        &self,
        sample: impl Into<InOut<'a, T>>,
        noise: impl Into<Tensor<'b, T>>,
        timesteps: &[f64],
    ) -> Result<()> {
        self.at_timesteps(ds_scheduler_add_noise, sample.into(), noise.into(), timesteps)
    }

    /// The training target of models that predict velocities: signal rate · noise − noise rate · sample, in place of the sample or into
    /// another tensor. Arguments as for [`Scheduler::add_noise`].
    ///
    /// Errors: also [`Error::UnsupportedOperation`] for schedulers without `has_velocity`, see [`class_description`].
    pub fn velocity<'a, 'b, T: Element>(
        &self,
        sample: impl Into<InOut<'a, T>>,
        noise: impl Into<Tensor<'b, T>>,
        timesteps: &[f64],
    ) -> Result<()> {
        self.at_timesteps(ds_scheduler_get_velocity, sample.into(), noise.into(), timesteps)
    }

    fn at_timesteps<T: Element>(
        &self,
        function: AtTimesteps,
        mut sample: InOut<'_, T>,
        noise: Tensor<'_, T>,
        timesteps: &[f64],
    ) -> Result<()> {
        let ready = sample.ready();
        let noise = noise.raw(&ready.form);
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, the output's exclusively; the number of
        // timesteps is the stated one.
        check(unsafe {
            function(
                self.handle,
                &ready.input.0,
                &noise.0,
                timesteps.as_ptr(),
                timesteps.len(),
                &ready.out.0,
                max_threads(),
            )
        })
    }
}

/// The type of ds_scheduler_add_noise and ds_scheduler_get_velocity.
type AtTimesteps = unsafe extern "C" fn(
    ds_scheduler,
    *const ds_tensor,
    *const ds_tensor,
    *const f64,
    usize,
    *const ds_tensor,
    std::os::raw::c_uint,
) -> ds_status;

// ---- Lists

/// The class names that the library supports, sorted.
pub fn supported_class_names() -> impl Iterator<Item = &'static str> {
    names(ds_supported_class_name)
}

/// The names of samplers that [`Scheduler::named`] knows.
pub fn sampler_names() -> impl Iterator<Item = &'static str> {
    names(ds_sampler_name)
}

fn names(function: unsafe extern "C" fn(usize) -> *const std::os::raw::c_char) -> impl Iterator<Item = &'static str> {
    // SAFETY: the texts end with a zero and are valid for the life of the process; NULL comes after the last.
    (0..).map_while(move |index| unsafe { static_text(function(index)) })
}

/// The description of a class, a JSON object: its parameters with their types, defaults and summaries, the run options of
/// [`Scheduler::set_timesteps_with`], and the properties of its steps. The header of the C interface describes the members.
///
/// Errors: [`Error::UnsupportedScheduler`].
pub fn class_description(class_name: &str) -> Result<String> {
    let class_name = c_text(class_name, "class_name")?;
    // SAFETY: the name ends with a zero; the buffer has the stated capacity.
    text_of(|buffer, capacity, length| unsafe { ds_class_description(class_name.as_ptr(), buffer, capacity, length) })
}
