// SPDX-License-Identifier: Apache-2.0

use std::fmt;
use std::marker::PhantomData;

use diffusion_scheduling_sys::*;

use crate::error::{certain, check, Error, Result};
use crate::tensor::{Form, RawTensor};
use crate::text::{address, optional_c_text, text_of};
use crate::{max_threads, Element, InOut, Scheduler, StepOptions, Tensor, MAX_SLOTS, MAX_STORES};

/// The plan of a scheduler: timesteps, noise levels, and the scalars of each step.
///
/// A plan borrows its scheduler, so it doesn't change while it is in use. It is copied like a reference, and threads may share it.
///
/// ```
/// # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "EulerDiscreteScheduler"}"#)?;
/// scheduler.set_timesteps(10)?;
/// let plan = scheduler.plan()?;
/// assert_eq!((plan.step_count(), plan.sigmas().len()), (10, 11));
/// let row = plan.row(0, 0)?;
/// println!("x becomes {:?}", row.next_sample);
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Plan<'s> {
    scheduler: &'s Scheduler,
    properties: ds_plan_properties,
    clamp: Clamp,
    process: Process,
}

/// The clamp of the predicted clean sample p.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Clamp {
    /// p stays unchanged.
    None,
    /// p becomes min(max(p, −range), range).
    Range(f64),
    /// p becomes min(max(p, −s), s) / s with s = min(max(quantile(|p|, ratio), 1), maximum) of each batch item (Saharia et al. 2022,
    /// arXiv:2205.11487, section 2.3).
    Threshold {
        /// The share of elements below the quantile.
        ratio: f64,
        /// The largest s.
        maximum: f64,
    },
}

/// The composition of a sample from data and noise at the noise level σ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Process {
    /// A sample is (data + σ noise) / √(1 + σ²).
    VariancePreserving,
    /// A sample is data + σ noise.
    VarianceExploding,
    /// A sample is (1 − σ) data + σ noise.
    Flow,
}

fn incompatible(what: &str, number: u32) -> Error {
    Error::IncompatibleLibrary(format!(
        "the plan has the {what} {number}, which this crate doesn't know: use a later one"
    ))
}

impl<'s> Plan<'s> {
    pub(crate) fn of(scheduler: &'s Scheduler) -> Result<Plan<'s>> {
        let mut properties = ds_plan_properties::default();
        // SAFETY: `properties` points to space for the struct.
        check(unsafe { ds_scheduler_plan_properties(scheduler.handle(), &mut properties) })?;
        let clamp = match properties.clamp {
            DS_CLAMP_NONE => Clamp::None,
            DS_CLAMP_RANGE => Clamp::Range(properties.clamp_range),
            DS_CLAMP_THRESHOLD => Clamp::Threshold {
                ratio: properties.threshold_ratio,
                maximum: properties.threshold_maximum,
            },
            number => return Err(incompatible("clamp", number)),
        };
        let process = match properties.process {
            DS_VARIANCE_PRESERVING => Process::VariancePreserving,
            DS_VARIANCE_EXPLODING => Process::VarianceExploding,
            DS_FLOW => Process::Flow,
            number => return Err(incompatible("process", number)),
        };
        Ok(Plan {
            scheduler,
            properties,
            clamp,
            process,
        })
    }

    /// The evaluations of the model, one for each timestep.
    pub fn step_count(&self) -> usize {
        self.properties.n_steps
    }

    /// The slots that the rows store and read, at most [`MAX_SLOTS`].
    pub fn slot_count(&self) -> usize {
        self.properties.n_slots
    }

    /// The age from which on the rows no longer depend on it, see [`Plan::row`].
    pub fn warm_up(&self) -> usize {
        self.properties.warm_up
    }

    /// The standard deviation of a run's initial noise.
    pub fn init_noise_sigma(&self) -> f64 {
        self.properties.init_noise_sigma
    }

    /// The clamp of the predicted clean sample.
    pub fn clamp(&self) -> Clamp {
        self.clamp
    }

    /// The composition of samples from data and noise.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Whether the model output may also hold a variance, see [`Session::step`](crate::Session::step).
    pub fn learns_variance(&self) -> bool {
        self.properties.learns_variance
    }

    /// Whether diffusers draws noise for at least one step, see [`Row::noise_draws`].
    pub fn is_stochastic(&self) -> bool {
        self.properties.is_stochastic
    }

    /// The timesteps that the model gets, one for each step.
    pub fn timesteps(&self) -> Vec<f64> {
        self.scheduler.timesteps()
    }

    /// The noise levels, one more than steps: step i goes from `sigmas[i]` to `sigmas[i + 1]`. Float32 values.
    pub fn sigmas(&self) -> Vec<f64> {
        self.scheduler.sigmas()
    }

    /// The rate of the data at each noise level: a sample is signal rate · data + noise rate · noise.
    pub fn signal_rates(&self) -> Vec<f64> {
        self.scheduler.numbers(ds_scheduler_signal_rates)
    }

    /// The rate of the noise at each noise level.
    pub fn noise_rates(&self) -> Vec<f64> {
        self.scheduler.numbers(ds_scheduler_noise_rates)
    }

    /// The input scale of each step: the model's input is input scale · sample.
    pub fn input_scales(&self) -> Vec<f64> {
        self.scheduler.numbers(ds_scheduler_input_scales)
    }

    /// For models that give several outputs, their weights in each step. The step's model output is the outputs' weighted sum,
    /// which callers compute. Empty for models that give one output.
    pub fn output_weights(&self) -> Vec<Vec<f64>> {
        let weights = self.scheduler.numbers(ds_scheduler_output_weights);
        let count = weights.len() / self.step_count().max(1);
        weights.chunks(count.max(1)).map(<[f64]>::to_vec).collect()
    }

    /// The whole plan as JSON, with all rows. [`Session::on_plan`](crate::Session::on_plan) reads it.
    pub fn json(&self) -> String {
        // SAFETY: the buffer has the stated capacity.
        certain(text_of(|buffer, capacity, length| unsafe {
            ds_scheduler_plan_json(self.scheduler.handle(), buffer, capacity, length)
        }))
    }
}

impl fmt::Debug for Plan<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Plan")
            .field("class_name", &self.scheduler.class_name())
            .field("step_count", &self.step_count())
            .field("process", &self.process)
            .field("clamp", &self.clamp)
            .finish()
    }
}

// ---- Rows

/// The coefficients of a sum of tensors. A tensor with coefficient 0 isn't read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Combination {
    /// The coefficient of the sample x.
    pub sample: f64,
    /// The coefficient of the model output e.
    pub model_output: f64,
    /// The coefficient of the noise z.
    pub noise: f64,
    /// The coefficient of the clamped prediction p.
    pub prediction: f64,
    /// The coefficients of the slots' contents, which earlier steps stored.
    pub slots: [f64; MAX_SLOTS],
}

/// The contents of a slot after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Store {
    /// The slot's number, from 0 on.
    pub slot: usize,
    /// The sum that it holds.
    pub value: Combination,
}

/// The factor f of each element of the noise, for model outputs with a variance v.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum NoiseFactor {
    /// 1.
    #[default]
    None,
    /// The root of max(v, 0).
    Root,
    /// exp(offset + slope v).
    Exponential {
        /// The summand.
        offset: f64,
        /// The factor of v.
        slope: f64,
    },
}

/// The scalars of one step, for engines that keep their tensors elsewhere:
///
/// ```text
/// p                    = clamp( prediction of x, e, z )
/// next sample          = next_sample of x, e, z, p, slots
/// slot stores[i].slot <- stores[i].value of x, e, z, p, slots    all from the slots before the step
/// report               = report of x, e, z, p, slots
/// ```
///
/// A noise factor replaces z by f z.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The slots that the row reads, in the order of summation, at most [`MAX_SLOTS`]; unlisted slots follow by number.
    pub reads: Vec<usize>,
    /// The predicted clean sample before the clamp.
    pub prediction: Combination,
    /// The next sample.
    pub next_sample: Combination,
    /// The slots that the row stores, at most [`MAX_STORES`].
    pub stores: Vec<Store>,
    /// The second result of a step, see [`StepOptions::report`].
    pub report: Combination,
    /// Tensors of noise that diffusers draws for the step, whether it reads them or not; the last one is read. [`Plan::prepare`]
    /// ignores it.
    pub noise_draws: usize,
    /// The factor of the noise.
    pub noise_factor: NoiseFactor,
}

impl From<ds_combination> for Combination {
    fn from(raw: ds_combination) -> Self {
        let ds_combination {
            sample,
            model_output,
            noise,
            prediction,
            slots,
        } = raw;
        Combination {
            sample,
            model_output,
            noise,
            prediction,
            slots,
        }
    }
}

impl From<Combination> for ds_combination {
    fn from(combination: Combination) -> Self {
        let Combination {
            sample,
            model_output,
            noise,
            prediction,
            slots,
        } = combination;
        ds_combination {
            sample,
            model_output,
            noise,
            prediction,
            slots,
        }
    }
}

fn require_at_most(most: usize, count: usize, what: &str) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::InvalidValue(format!(
        "the number of {what} is {count}, but must be at most {most}"
    )))
}

impl Row {
    fn of(raw: &ds_row) -> Result<Row> {
        let noise_factor = match raw.noise_factor {
            DS_NOISE_FACTOR_NONE => NoiseFactor::None,
            DS_NOISE_FACTOR_ROOT => NoiseFactor::Root,
            DS_NOISE_FACTOR_EXPONENTIAL => NoiseFactor::Exponential {
                offset: raw.noise_offset,
                slope: raw.noise_slope,
            },
            number => return Err(incompatible("noise factor", number)),
        };
        Ok(Row {
            reads: raw.reads.iter().take(raw.n_reads).copied().collect(),
            prediction: raw.prediction.into(),
            next_sample: raw.next_sample.into(),
            stores: raw
                .stores
                .iter()
                .take(raw.n_stores)
                .map(|raw| Store {
                    slot: raw.slot,
                    value: raw.value.into(),
                })
                .collect(),
            report: raw.report.into(),
            noise_draws: raw.n_noise_draws,
            noise_factor,
        })
    }

    fn raw(&self) -> Result<ds_row> {
        require_at_most(MAX_SLOTS, self.reads.len(), "reads")?;
        require_at_most(MAX_STORES, self.stores.len(), "stores")?;
        let mut raw = ds_row {
            n_reads: self.reads.len(),
            prediction: self.prediction.into(),
            next_sample: self.next_sample.into(),
            n_stores: self.stores.len(),
            report: self.report.into(),
            n_noise_draws: self.noise_draws,
            ..ds_row::default()
        };
        raw.reads[..self.reads.len()].copy_from_slice(&self.reads);
        for (place, store) in raw.stores.iter_mut().zip(&self.stores) {
            *place = ds_store {
                slot: store.slot,
                value: store.value.into(),
            };
        }
        match self.noise_factor {
            NoiseFactor::None => raw.noise_factor = DS_NOISE_FACTOR_NONE,
            NoiseFactor::Root => raw.noise_factor = DS_NOISE_FACTOR_ROOT,
            NoiseFactor::Exponential { offset, slope } => {
                raw.noise_factor = DS_NOISE_FACTOR_EXPONENTIAL;
                raw.noise_offset = offset;
                raw.noise_slope = slope;
            }
        }
        Ok(raw)
    }
}

impl Plan<'_> {
    /// The scalars of step `index` in a run that has taken `age` steps before: `index` in a run from the start, 0 at the first step of
    /// a run that begins later. Ages of [`Plan::warm_up`] and more have the same row.
    ///
    /// Errors: [`Error::InvalidValue`] for an index that isn't a step.
    pub fn row(&self, index: usize, age: usize) -> Result<Row> {
        // SAFETY: `row` points to space for the struct.
        self.row_of(|row| unsafe { ds_scheduler_row(self.scheduler.handle(), index, age, row) })
    }

    /// The row of step `index` for callers who keep the attributes of diffusers' objects instead of slots. The member `attributes`
    /// of [`class_description`](crate::class_description) names them: first one slot for each of its `tensors`, then one for each
    /// tensor of its `history`, newest first. A store to the first slot of the history becomes its newest element, and the others
    /// move back by one: [`PreparedRow::step_apart`] takes memory for it. Errors: as [`Plan::row`].
    pub fn attribute_row(&self, index: usize, age: usize) -> Result<Row> {
        // SAFETY: `row` points to space for the struct.
        self.row_of(|row| unsafe { ds_scheduler_attribute_row(self.scheduler.handle(), index, age, row) })
    }

    /// The scalars of the step at a training timestep, in or out of the plan, for stateless schedulers: their steps depend only on
    /// their arguments and on the current number of steps. Schedulers whose description has a `timestep` in `attributes` also allow
    /// it; that attribute is the previous step's timestep (see [`class_description`](crate::class_description)).
    ///
    /// - `timestep`: a whole number from 0 to T − 1
    /// - `arguments`: a JSON object of run options, as for [`Scheduler::set_timesteps_with`]
    ///
    /// Complexity: O(1). Errors: [`Error::UnknownTimestep`], [`Error::MalformedJson`], [`Error::InvalidValue`];
    /// [`Error::UnsupportedOperation`] for other schedulers.
    pub fn row_at(&self, timestep: f64, arguments: Option<&str>) -> Result<Row> {
        let arguments = optional_c_text(arguments, "arguments")?;
        // SAFETY: the text ends with a zero or is NULL; `row` points to space for the struct.
        self.row_of(|row| unsafe { ds_scheduler_row_at(self.scheduler.handle(), timestep, address(&arguments), row) })
    }

    /// A part of step `index` as a row, for the parts that diffusers documents. Only schedulers that extrapolate model outputs have
    /// parts.
    ///
    /// - `order`: 0 converts the model output to the solver's prediction. 1, 2 and 3 are the updates of that order, at most `index`
    ///   + 1; their model output is the step's converted output, and slot k holds the converted output of k + 1 steps before.
    ///
    /// Errors: [`Error::InvalidValue`]; [`Error::UnsupportedOperation`] for other schedulers.
    pub fn part_row(&self, index: usize, order: u32) -> Result<Row> {
        // SAFETY: `row` points to space for the struct.
        self.row_of(|row| unsafe { ds_scheduler_part_row(self.scheduler.handle(), index, order, row) })
    }

    fn row_of(&self, write: impl FnOnce(*mut ds_row) -> ds_status) -> Result<Row> {
        let mut raw = ds_row::default();
        check(write(&mut raw))?;
        Row::of(&raw)
    }

    /// Prepares a row for any number of steps, with the clamp of this plan.
    ///
    /// - `row`: one of this plan, or the caller's own
    ///
    /// Errors: [`Error::InvalidValue`] for a coefficient that isn't finite, a slot number or a number of slots out of range, a
    /// prediction that reads slots or itself.
    pub fn prepare(&self, row: &Row) -> Result<PreparedRow> {
        let raw = row.raw()?;
        let mut prepared = ds_prepared_row {
            contents: [0; DS_PREPARED_ROW_WORDS],
        };
        // SAFETY: both pointers lead to their structs.
        check(unsafe { ds_scheduler_prepare_row(self.scheduler.handle(), &raw, &mut prepared) })?;
        Ok(PreparedRow {
            raw: prepared,
            store_count: raw.n_stores,
        })
    }

    /// The prepared rows of a run from the start, one for each step. Complexity: O(steps).
    pub fn prepared_rows(&self) -> Result<Vec<PreparedRow>> {
        (0..self.step_count())
            .map(|index| self.prepare(&self.row(index, index)?))
            .collect()
    }
}

/// A row that is ready for any number of steps: a step without a session, on tensors that the caller keeps.
///
/// A prepared row is plain memory of 1,288 bytes and no longer needs the scheduler. Any number of threads may step with it at once.
/// A run whose slots keep their memory has the bits of a session's run:
///
/// ```
/// # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DEISMultistepScheduler"}"#)?;
/// # fn model(x: &[f32], timestep: f64) -> Vec<f32> { x.iter().map(|x| x * (timestep / 1000.0) as f32).collect() }
/// # let mut x = vec![0.5f32; 64];
/// scheduler.set_timesteps(20)?;
/// let plan = scheduler.plan()?;
/// let (rows, timesteps) = (plan.prepared_rows()?, plan.timesteps()); // once for all requests
/// let mut slots = vec![vec![0f32; x.len()]; plan.slot_count()];
/// for (row, timestep) in rows.iter().zip(timesteps) {
///     let e = model(&x, timestep);
///     row.step(&e, &mut x, &mut slots)?;
/// }
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct PreparedRow {
    raw: ds_prepared_row,
    /// The number of the row's stores, which is the number of tensors that a call reads for them.
    store_count: usize,
}

impl fmt::Debug for PreparedRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PreparedRow")
            .field("store_count", &self.store_count)
            .finish_non_exhaustive()
    }
}

impl PreparedRow {
    /// The number of slots that the row stores, at most [`MAX_STORES`].
    pub fn store_count(&self) -> usize {
        self.store_count
    }

    /// Executes the row, with slots that it reads and stores.
    ///
    /// - `model_output`, `sample`: as for [`Session::step`](crate::Session::step)
    /// - `slots`: by number, at most [`MAX_SLOTS`]: vectors, or anything else that gives a slice of the sample's type. A slot that
    ///   the row reads or stores has as many elements as the sample; other slots are ignored. [`Plan::slot_count`] slots are enough
    ///   for the rows of the plan.
    ///
    /// Complexity: as [`Session::step`](crate::Session::step). The step doesn't lock or allocate (more with thresholding).
    /// Errors: [`Error::MissingNoise`], [`Error::InvalidValue`] for a slot that isn't given, [`Error::ShapeMismatch`];
    /// [`Error::OutOfMemory`] with thresholding.
    pub fn step<'a, 'b, E: Element, T: Element, S: AsMut<[T]>>(
        &self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
        slots: &mut [S],
    ) -> Result<()> {
        self.step_with(model_output, sample, slots, StepOptions::new())
    }

    /// Executes the row with noise or with a report. Errors: as [`PreparedRow::step`].
    pub fn step_with<'a, 'b, E: Element, T: Element, S: AsMut<[T]>>(
        &self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
        slots: &mut [S],
        options: StepOptions<'_, T>,
    ) -> Result<()> {
        require_at_most(MAX_SLOTS, slots.len(), "slots")?;
        let mut given = Memory::new();
        for slot in slots {
            given.add_mut(slot.as_mut());
        }
        self.execute(model_output.into(), sample.into(), &given, None, options)
    }

    /// Executes the row without writing to its slots: it stores to other tensors, in the order of [`Row::stores`].
    ///
    /// - `stores`: at least [`PreparedRow::store_count`], each with as many elements as the sample
    ///
    /// Errors: as [`PreparedRow::step`], and [`Error::WrongElementCount`] for too few stores.
    pub fn step_apart<'a, 'b, E: Element, T: Element, S: AsRef<[T]>, D: AsMut<[T]>>(
        &self,
        model_output: impl Into<Tensor<'b, E>>,
        sample: impl Into<InOut<'a, T>>,
        slots: &[S],
        stores: &mut [D],
        options: StepOptions<'_, T>,
    ) -> Result<()> {
        require_at_most(MAX_SLOTS, slots.len(), "slots")?;
        if stores.len() < self.store_count {
            return Err(Error::WrongElementCount(format!(
                "stores has {} elements, but must have {}, like the row",
                stores.len(),
                self.store_count
            )));
        }
        let (mut given, mut apart) = (Memory::new(), Memory::new());
        for slot in slots {
            given.add(slot.as_ref());
        }
        for store in stores.iter_mut().take(self.store_count) {
            apart.add_mut(store.as_mut());
        }
        self.execute(model_output.into(), sample.into(), &given, Some(&apart), options)
    }

    /// Executes the row. Without `stores` it writes to its slots, which must then be unique borrows.
    fn execute<E: Element, T: Element>(
        &self,
        model_output: Tensor<'_, E>,
        mut sample: InOut<'_, T>,
        slots: &Memory<'_, T>,
        stores: Option<&Memory<'_, T>>,
        mut options: StepOptions<'_, T>,
    ) -> Result<()> {
        let ready = sample.ready();
        let model_output = model_output.raw(&ready.form);
        let (noise, report) = options.raw(&ready.form);
        let slot_tensors = slots.raw(&ready.form);
        let store_tensors = stores.map(|stores| stores.raw(&ready.form));
        // SAFETY: the tensors' memory and shapes are borrowed until the call returns, outputs' exclusively. The row comes from
        // ds_scheduler_prepare_row, and the number of stores is the row's.
        check(unsafe {
            ds_row_step(
                &self.raw,
                &model_output.0,
                &ready.input.0,
                RawTensor::address(&noise),
                slot_tensors.as_ptr().cast(),
                slots.count,
                store_tensors
                    .as_ref()
                    .map_or(std::ptr::null(), |stores| stores.as_ptr().cast()),
                &ready.out.0,
                RawTensor::address(&report),
                max_threads(),
            )
        })
    }
}

/// Up to [`MAX_SLOTS`] slots or stores.
struct Memory<'s, T> {
    count: usize,
    data: [*mut T; MAX_SLOTS],
    lengths: [[usize; 1]; MAX_SLOTS],
    _borrows: PhantomData<&'s mut [T]>,
}

impl<'s, T: Element> Memory<'s, T> {
    fn new() -> Self {
        Memory {
            count: 0,
            data: [std::ptr::null_mut(); MAX_SLOTS],
            lengths: [[0]; MAX_SLOTS],
            _borrows: PhantomData,
        }
    }

    fn add_mut(&mut self, slice: &'s mut [T]) {
        self.put(slice.as_mut_ptr(), slice.len());
    }

    fn add(&mut self, slice: &'s [T]) {
        self.put(slice.as_ptr() as *mut T, slice.len());
    }

    /// Callers check the number of slices.
    fn put(&mut self, data: *mut T, length: usize) {
        self.data[self.count] = data;
        self.lengths[self.count] = [length];
        self.count += 1;
    }

    fn raw<'t>(&'t self, form: &Form<'t>) -> [RawTensor<'t>; MAX_SLOTS] {
        std::array::from_fn(|slot| form.tensor(self.data[slot], None, &self.lengths[slot]))
    }
}
