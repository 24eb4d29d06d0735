// SPDX-License-Identifier: Apache-2.0

//! The C interface of DiffusionScheduling, declared for Rust: every function, struct and constant of `diffusion_scheduling.h`,
//! under its C name. The header is the manual: it documents each function's arguments and errors, the memory that may overlap, and
//! the calls that threads may make at once. The crate `diffusion-scheduling` is a safe layer over this one.
//!
//! Tests compare the declarations with the header: names, types, values, and a C compiler's layout of the structs.
//!
//! # Linking
//!
//! The build looks for `libdiffusion_scheduling.so` in the folder named by `DIFFUSION_SCHEDULING_LIB_DIR`, then asks `pkg-config`,
//! then looks into `out/lib` of the repository. It ends with a sentence if it finds no library or one of an unsuitable version.
//! Cargo passes the library's folder to crates that depend on this one, in the environment variable
//! `DEP_DIFFUSION_SCHEDULING_LIB_DIR` of their build scripts. Programs that Cargo runs find the library by themselves.
//!
//! # Safety
//!
//! All functions are unsafe to call. Pointers are NULL if the header allows it, or valid for the call: a tensor's shape holds
//! `rank` numbers, and its memory as many elements as the shape requires. A handle isn't freed while another thread uses it, and
//! one thread at a time uses a session or a noise source. Calls report all other mistakes as errors.
//!
//! # Example
//!
//! ```
//! use diffusion_scheduling_sys::*;
//!
//! // SAFETY: both functions take numbers only.
//! let (version, size) = unsafe { (ds_version(), ds_element_size(DS_FLOAT16)) };
//! assert_eq!(version / 10_000, DS_VERSION_MAJOR);
//! assert_eq!(size, 2);
//! ```
#![deny(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]
#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_uint, c_void};

// ---- Version

/// The major version of the header.
pub const DS_VERSION_MAJOR: u32 = 0;
/// The minor version of the header.
pub const DS_VERSION_MINOR: u32 = 1;
/// The patch version of the header.
pub const DS_VERSION_PATCH: u32 = 0;
/// The version of the header as one number: major · 10,000 + minor · 100 + patch.
pub const DS_VERSION: u32 = DS_VERSION_MAJOR * 10000 + DS_VERSION_MINOR * 100 + DS_VERSION_PATCH;

// ---- Errors

/// The outcome of a call. Numbers are never reused; later versions append.
pub type ds_status = c_uint;
/// Success.
pub const DS_OK: ds_status = 0;
/// A configuration key or an argument has a value that isn't allowed.
pub const DS_INVALID_VALUE: ds_status = 1;
/// Configuration keys exclude one another.
pub const DS_CONFLICTING_KEYS: ds_status = 2;
/// No scheduler has that class name.
pub const DS_UNSUPPORTED_SCHEDULER: ds_status = 3;
/// The file can't be read.
pub const DS_INACCESSIBLE_FILE: ds_status = 4;
/// The text isn't the JSON that diffusers writes.
pub const DS_MALFORMED_JSON: ds_status = 5;
/// The call needs a plan, but no timesteps have been set.
pub const DS_TIMESTEPS_NOT_SET: ds_status = 6;
/// The call doesn't accept this timestep.
pub const DS_UNKNOWN_TIMESTEP: ds_status = 7;
/// All steps of the plan have been taken.
pub const DS_STEP_PAST_END: ds_status = 8;
/// A tensor or an array has the wrong number of elements for the session or for the sample.
pub const DS_WRONG_ELEMENT_COUNT: ds_status = 9;
/// The tensors of a call or of a session differ in element type.
pub const DS_WRONG_ELEMENT_TYPE: ds_status = 10;
/// The step is stochastic, but noise is NULL.
pub const DS_MISSING_NOISE: ds_status = 11;
/// A coefficient of the plan isn't finite: the noise levels are too extreme for float64.
pub const DS_UNREPRESENTABLE_PLAN: ds_status = 12;
/// The bytes are not a saved state, or have been corrupted.
pub const DS_DAMAGED_STATE: ds_status = 13;
/// The state was saved with another plan.
pub const DS_FOREIGN_STATE: ds_status = 14;
/// A required argument is NULL.
pub const DS_NULL_POINTER: ds_status = 15;
/// The handle is zero, has been freed, or has another kind.
pub const DS_INVALID_HANDLE: ds_status = 16;
/// The element type is not one of [`ds_element_type`].
pub const DS_UNKNOWN_ELEMENT_TYPE: ds_status = 17;
/// A negative extent, or a rank above [`DS_MAX_RANK`].
pub const DS_INVALID_SHAPE: ds_status = 18;
/// The elements of a tensor don't fit the address space.
pub const DS_TOO_LARGE: ds_status = 19;
/// A tensor's address is not a multiple of its element size.
pub const DS_MISALIGNED: ds_status = 20;
/// An output overlaps an input in part, or overlaps another output.
pub const DS_OVERLAP: ds_status = 21;
/// The shapes of a call's tensors don't match.
pub const DS_SHAPE_MISMATCH: ds_status = 22;
/// The result doesn't fit the buffer; its size has been reported.
pub const DS_BUFFER_TOO_SMALL: ds_status = 23;
/// The scheduler has no such operation.
pub const DS_UNSUPPORTED_OPERATION: ds_status = 24;
/// Memory for a session's slots ran out.
pub const DS_OUT_OF_MEMORY: ds_status = 25;
/// 4,194,304 objects of the kind exist already.
pub const DS_TOO_MANY_HANDLES: ds_status = 26;
/// The kernels refused a call, which is a fault of the library.
pub const DS_KERNEL_FAILURE: ds_status = 27;

// ---- Tensors

/// The type of a tensor's elements. Numbers are never reused; later versions append.
pub type ds_element_type = c_uint;
/// `f32`.
pub const DS_FLOAT32: ds_element_type = 0;
/// `f64`.
pub const DS_FLOAT64: ds_element_type = 1;
/// IEEE 754's binary16: 5 bits of exponent, 10 of fraction.
pub const DS_FLOAT16: ds_element_type = 2;
/// The upper half of a float32: 8 bits of exponent, 7 of fraction.
pub const DS_BFLOAT16: ds_element_type = 3;

/// The largest number of axes of a tensor.
pub const DS_MAX_RANK: usize = 64;

/// A contiguous tensor in the caller's memory. Functions don't keep a reference to it, and never write to input tensors.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ds_tensor {
    /// The address of the first element; may be NULL for an empty tensor.
    pub data: *mut c_void,
    /// The type of the elements.
    pub element_type: ds_element_type,
    /// The number of axes, at most [`DS_MAX_RANK`].
    pub rank: usize,
    /// `[rank]`, each at least 0; may be NULL if `rank` is 0, which means one element.
    pub shape: *const i64,
}

// ---- Schedulers

/// The handle of a scheduler: a configuration and, once timesteps have been set, a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ds_scheduler {
    /// 0: none.
    pub handle: u64,
}

/// The clamp of the predicted clean sample p. Numbers are never reused; later versions append.
pub type ds_clamp = c_uint;
/// p stays unchanged.
pub const DS_CLAMP_NONE: ds_clamp = 0;
/// p becomes min(max(p, −range), range).
pub const DS_CLAMP_RANGE: ds_clamp = 1;
/// p becomes min(max(p, −s), s) / s with s = min(max(quantile(|p|, ratio), 1), maximum) of each batch item.
pub const DS_CLAMP_THRESHOLD: ds_clamp = 2;

/// The composition of a sample from data and noise at the noise level σ. Numbers are never reused; later versions append.
pub type ds_process = c_uint;
/// A sample is (data + σ noise) / √(1 + σ²).
pub const DS_VARIANCE_PRESERVING: ds_process = 0;
/// A sample is data + σ noise.
pub const DS_VARIANCE_EXPLODING: ds_process = 1;
/// A sample is (1 − σ) data + σ noise.
pub const DS_FLOW: ds_process = 2;

/// The properties that all steps of a plan share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ds_plan_properties {
    /// Evaluations of the model, one for each timestep.
    pub n_steps: usize,
    /// Slots that the rows store and read, at most [`DS_MAX_SLOTS`].
    pub n_slots: usize,
    /// The age from which on the rows no longer depend on it, see [`ds_scheduler_row`].
    pub warm_up: usize,
    /// The standard deviation of a run's initial noise.
    pub init_noise_sigma: f64,
    /// The clamp of the prediction.
    pub clamp: ds_clamp,
    /// The range of [`DS_CLAMP_RANGE`], else 0.
    pub clamp_range: f64,
    /// The ratio of [`DS_CLAMP_THRESHOLD`], else 0.
    pub threshold_ratio: f64,
    /// The maximum of [`DS_CLAMP_THRESHOLD`], else 0.
    pub threshold_maximum: f64,
    /// Whether the model output may also hold a variance, see [`ds_session_step`].
    pub learns_variance: bool,
    /// Whether diffusers draws noise for at least one step.
    pub is_stochastic: bool,
    /// The process of the noise levels.
    pub process: ds_process,
}

/// The largest number of slots of a plan.
pub const DS_MAX_SLOTS: usize = 6;
/// The largest number of slots that one row stores.
pub const DS_MAX_STORES: usize = 2;
/// The size of a prepared row in words of 64 bits.
pub const DS_PREPARED_ROW_WORDS: usize = 160;

/// The coefficients of a sum of tensors. A tensor with coefficient 0 isn't read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ds_combination {
    /// The coefficient of the sample x.
    pub sample: f64,
    /// The coefficient of the model output e.
    pub model_output: f64,
    /// The coefficient of the noise z.
    pub noise: f64,
    /// The coefficient of the clamped prediction p.
    pub prediction: f64,
    /// The coefficients of the slots' contents, which earlier steps stored.
    pub slots: [f64; DS_MAX_SLOTS],
}

/// The factor f of each element of the noise, for model outputs with a variance v. Numbers are never reused; later versions append.
pub type ds_noise_factor = c_uint;
/// 1.
pub const DS_NOISE_FACTOR_NONE: ds_noise_factor = 0;
/// The root of max(v, 0).
pub const DS_NOISE_FACTOR_ROOT: ds_noise_factor = 1;
/// exp(noise_offset + noise_slope v).
pub const DS_NOISE_FACTOR_EXPONENTIAL: ds_noise_factor = 2;

/// The contents of a slot after a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ds_store {
    /// The slot's number, from 0 on.
    pub slot: usize,
    /// The sum that it holds.
    pub value: ds_combination,
}

/// The scalars of one step, for engines that keep their tensors elsewhere. The header gives the formulas.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ds_row {
    /// The number of slots in `reads`.
    pub n_reads: usize,
    /// The slots that the row reads, in the order of summation.
    pub reads: [usize; DS_MAX_SLOTS],
    /// The predicted clean sample p before the clamp.
    pub prediction: ds_combination,
    /// The next sample.
    pub next_sample: ds_combination,
    /// The number of stores in `stores`.
    pub n_stores: usize,
    /// The slots that the row stores.
    pub stores: [ds_store; DS_MAX_STORES],
    /// The second result, which [`ds_session_step`] writes to `pred_original_sample`.
    pub report: ds_combination,
    /// Tensors of noise that diffusers draws for the step; the last is read.
    pub n_noise_draws: usize,
    /// The factor of the noise.
    pub noise_factor: ds_noise_factor,
    /// The offset of [`DS_NOISE_FACTOR_EXPONENTIAL`], else 0.
    pub noise_offset: f64,
    /// The slope of [`DS_NOISE_FACTOR_EXPONENTIAL`], else 0.
    pub noise_slope: f64,
}

/// A row ready for any number of steps. It may be copied, and any number of threads may step with it at once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ds_prepared_row {
    /// Private to the library.
    pub contents: [u64; DS_PREPARED_ROW_WORDS],
}

// ---- Sessions

/// The handle of a session: one request's progress through a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ds_session {
    /// 0: none.
    pub handle: u64,
}

/// Classifier-free guidance, optionally rescaled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ds_guidance {
    /// diffusers' `guidance_scale`: finite. At 1 the unconditional output isn't read.
    pub scale: f64,
    /// diffusers' `guidance_rescale`: from 0 to 1.
    pub rescale: f64,
}

// ---- Noise

/// The handle of a noise source: a seeded generator.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ds_noise {
    /// 0: none.
    pub handle: u64,
}

/// The generators. Numbers are never reused; later versions append.
pub type ds_noise_kind = c_uint;
/// `torch.randn` on a CPU, bit for bit; float32 and float64.
pub const DS_NOISE_TORCH_CPU: ds_noise_kind = 0;
/// `torch.randn` on CUDA with an A100's launch sizes, within 2⁻²⁰ of the radius; float32.
pub const DS_NOISE_TORCH_CUDA: ds_noise_kind = 1;
/// `numpy.random.RandomState.standard_normal`, bit for bit; float64, and float32 rounded from it.
pub const DS_NOISE_NUMPY: ds_noise_kind = 2;

extern "C" {
    // ---- Version and threads

    /// The version of the running library, encoded like [`DS_VERSION`].
    pub fn ds_version() -> u32;
    /// The OpenMP runtime that provides the threads, as a sentence. Never NULL; valid for the life of the process.
    pub fn ds_runtime_description() -> *const c_char;

    // ---- Errors

    /// The meaning of a status, as a sentence. Never NULL; valid for the life of the process.
    pub fn ds_status_message(status: ds_status) -> *const c_char;
    /// The message of the last failed call on this thread. Valid until the next failed call on this thread.
    pub fn ds_error_message() -> *const c_char;

    // ---- Tensors

    /// Bytes of one element; 0 for an unknown type.
    pub fn ds_element_size(r#type: ds_element_type) -> usize;

    // ---- Schedulers: making

    /// The supported class names, sorted, by index from 0; NULL after the last. Valid for the life of the process.
    pub fn ds_supported_class_name(index: usize) -> *const c_char;
    /// Describes a class as a JSON object.
    pub fn ds_class_description(class_name: *const c_char, buffer: *mut c_char, capacity: usize, length: *mut usize) -> ds_status;
    /// Makes a scheduler from the text of a `scheduler_config.json`.
    pub fn ds_scheduler_create(
        json: *const c_char,
        length: usize,
        class_name: *const c_char,
        overrides: *const c_char,
        scheduler: *mut ds_scheduler,
    ) -> ds_status;
    /// Makes a scheduler from a file or from a folder that contains one.
    pub fn ds_scheduler_load(
        path: *const c_char,
        subfolder: *const c_char,
        class_name: *const c_char,
        overrides: *const c_char,
        scheduler: *mut ds_scheduler,
    ) -> ds_status;
    /// Makes the scheduler for a sampler's name.
    pub fn ds_scheduler_create_named(
        name: *const c_char,
        model: ds_scheduler,
        overrides: *const c_char,
        scheduler: *mut ds_scheduler,
    ) -> ds_status;
    /// The names of samplers by index from 0; NULL after the last. Valid for the life of the process.
    pub fn ds_sampler_name(index: usize) -> *const c_char;
    /// Frees a scheduler. Its sessions stay usable.
    pub fn ds_scheduler_free(scheduler: ds_scheduler) -> ds_status;

    // ---- Schedulers: properties

    /// The class name.
    pub fn ds_scheduler_class_name(scheduler: ds_scheduler, buffer: *mut c_char, capacity: usize, length: *mut usize) -> ds_status;
    /// The configuration as diffusers writes `scheduler_config.json`.
    pub fn ds_scheduler_config_json(scheduler: ds_scheduler, buffer: *mut c_char, capacity: usize, length: *mut usize)
        -> ds_status;
    /// The names from which [`ds_scheduler_create_named`] makes a scheduler like this one, as a JSON array of strings.
    pub fn ds_scheduler_sampler_names(
        scheduler: ds_scheduler,
        buffer: *mut c_char,
        capacity: usize,
        length: *mut usize,
    ) -> ds_status;
    /// The configuration's keys that have no effect on this scheduler, as a JSON array of strings.
    pub fn ds_scheduler_unused_keys(scheduler: ds_scheduler, buffer: *mut c_char, capacity: usize, length: *mut usize)
        -> ds_status;
    /// The configuration's keys that were never set, as a JSON array of strings.
    pub fn ds_scheduler_defaulted_keys(
        scheduler: ds_scheduler,
        buffer: *mut c_char,
        capacity: usize,
        length: *mut usize,
    ) -> ds_status;
    /// T, the number of timesteps that the model was trained with.
    pub fn ds_scheduler_num_train_timesteps(scheduler: ds_scheduler, count: *mut usize) -> ds_status;
    /// The signal variances of the training, `[T]`.
    pub fn ds_scheduler_alphas_cumprod(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The standard deviation of a run's initial noise; 1 before timesteps are set.
    pub fn ds_scheduler_init_noise_sigma(scheduler: ds_scheduler, sigma: *mut f64) -> ds_status;

    // ---- Schedulers: the plan

    /// Plans a run. Existing sessions keep the plan that they were created with.
    pub fn ds_scheduler_set_timesteps(scheduler: ds_scheduler, n_steps: usize, arguments: *const c_char) -> ds_status;
    /// The properties that all steps of the plan share.
    pub fn ds_scheduler_plan_properties(scheduler: ds_scheduler, properties: *mut ds_plan_properties) -> ds_status;
    /// The timesteps that the model gets, `[n_steps]`.
    pub fn ds_scheduler_timesteps(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The noise levels, `[n_steps + 1]`.
    pub fn ds_scheduler_sigmas(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The rates of the signal at each of the plan's noise levels, `[n_steps + 1]`.
    pub fn ds_scheduler_signal_rates(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The rates of the noise at each of the plan's noise levels, `[n_steps + 1]`.
    pub fn ds_scheduler_noise_rates(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The input scale of each step, `[n_steps]`.
    pub fn ds_scheduler_input_scales(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The weights of the model's outputs in each step, `[n_steps, n_outputs]`; none for models that give one.
    pub fn ds_scheduler_output_weights(scheduler: ds_scheduler, buffer: *mut f64, capacity: usize, count: *mut usize) -> ds_status;
    /// The scalars of step `index` in a run that has taken `age` steps before.
    pub fn ds_scheduler_row(scheduler: ds_scheduler, index: usize, age: usize, row: *mut ds_row) -> ds_status;
    /// The scalars of a step for callers who keep the attributes of diffusers' objects.
    pub fn ds_scheduler_attribute_row(scheduler: ds_scheduler, index: usize, age: usize, row: *mut ds_row) -> ds_status;
    /// The whole plan as JSON.
    pub fn ds_scheduler_plan_json(scheduler: ds_scheduler, buffer: *mut c_char, capacity: usize, length: *mut usize) -> ds_status;
    /// All rows of the plan as a table for kernels on devices, in the layout of `device_table.h`.
    pub fn ds_scheduler_device_table(
        scheduler: ds_scheduler,
        first_record: usize,
        bytes: *mut c_void,
        capacity: usize,
        length: *mut usize,
    ) -> ds_status;

    // ---- Sessions

    /// Makes a session on the scheduler's current plan.
    pub fn ds_session_create(scheduler: ds_scheduler, begin_index: usize, session: *mut ds_session) -> ds_status;
    /// Frees a session.
    pub fn ds_session_free(session: ds_session) -> ds_status;
    /// Makes a second session in the same state.
    pub fn ds_session_copy(session: ds_session, copy: *mut ds_session) -> ds_status;
    /// Returns the session to its first step.
    pub fn ds_session_reset(session: ds_session) -> ds_status;
    /// The index of the next step, from 0; `n_steps` after the last step.
    pub fn ds_session_step_index(session: ds_session, index: *mut usize) -> ds_status;
    /// The timestep that the model gets at the next step.
    pub fn ds_session_timestep(session: ds_session, timestep: *mut f64) -> ds_status;
    /// Whether the next step adds noise.
    pub fn ds_session_needs_noise(session: ds_session, needs_noise: *mut bool) -> ds_status;
    /// Takes the next step.
    pub fn ds_session_step(
        session: ds_session,
        model_output: *const ds_tensor,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        prev_sample: *const ds_tensor,
        pred_original_sample: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Takes the next step, and writes the model's input at the step after it.
    pub fn ds_session_step_with_input(
        session: ds_session,
        model_output: *const ds_tensor,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        prev_sample: *const ds_tensor,
        pred_original_sample: *const ds_tensor,
        model_input: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Takes the next step with a guided model output.
    pub fn ds_session_step_guided(
        session: ds_session,
        conditional: *const ds_tensor,
        unconditional: *const ds_tensor,
        guidance: *const ds_guidance,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        prev_sample: *const ds_tensor,
        pred_original_sample: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Takes the next step of many sessions at once: index i of axis 0 of each tensor belongs to `sessions[i]`.
    pub fn ds_sessions_step(
        sessions: *const ds_session,
        n_rows: usize,
        model_output: *const ds_tensor,
        unconditional: *const ds_tensor,
        guidance: *const ds_guidance,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        prev_sample: *const ds_tensor,
        pred_original_sample: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Writes the session's state as bytes.
    pub fn ds_session_save(session: ds_session, bytes: *mut c_void, capacity: usize, length: *mut usize) -> ds_status;
    /// Makes a session in a saved state.
    pub fn ds_session_restore(scheduler: ds_scheduler, bytes: *const c_void, length: usize, session: *mut ds_session) -> ds_status;
    /// Makes a session on a plan that [`ds_scheduler_plan_json`] wrote in any process.
    pub fn ds_session_create_on_plan(json: *const c_char, length: usize, begin_index: usize, session: *mut ds_session)
        -> ds_status;
    /// Makes a session in a saved state, with another session's plan.
    pub fn ds_session_restore_like(other: ds_session, bytes: *const c_void, length: usize, session: *mut ds_session) -> ds_status;

    // ---- Other operations

    /// Adds noise to a sample at the level of each batch item's timestep.
    pub fn ds_scheduler_add_noise(
        scheduler: ds_scheduler,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        timesteps: *const f64,
        n_timesteps: usize,
        out: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Combines a sample and noise with the caller's rates.
    pub fn ds_combine_noise(
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        signal_rates: *const f64,
        noise_rates: *const f64,
        n_rates: usize,
        out: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// The training target of models that predict velocities.
    pub fn ds_scheduler_get_velocity(
        scheduler: ds_scheduler,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        timesteps: *const f64,
        n_timesteps: usize,
        out: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Scales a sample to the model's input at a timestep of the plan.
    pub fn ds_scheduler_scale_model_input(
        scheduler: ds_scheduler,
        sample: *const ds_tensor,
        timestep: f64,
        out: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// The scalars of the step at a training timestep, in or out of the plan.
    pub fn ds_scheduler_row_at(scheduler: ds_scheduler, timestep: f64, arguments: *const c_char, row: *mut ds_row) -> ds_status;
    /// A part of step `index` as a row, for the parts that diffusers documents.
    pub fn ds_scheduler_part_row(scheduler: ds_scheduler, index: usize, order: c_uint, row: *mut ds_row) -> ds_status;
    /// Prepares a row for steps with the clamp of the scheduler's plan.
    pub fn ds_scheduler_prepare_row(scheduler: ds_scheduler, row: *const ds_row, prepared: *mut ds_prepared_row) -> ds_status;
    /// The record of a row in the format of [`ds_scheduler_device_table`].
    pub fn ds_scheduler_device_row(scheduler: ds_scheduler, row: *const ds_row, record: *mut c_void) -> ds_status;
    /// Executes a row with the caller's tensors as slots.
    pub fn ds_row_step(
        row: *const ds_prepared_row,
        model_output: *const ds_tensor,
        sample: *const ds_tensor,
        noise: *const ds_tensor,
        slots: *const ds_tensor,
        n_slots: usize,
        stores: *const ds_tensor,
        prev_sample: *const ds_tensor,
        pred_original_sample: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;
    /// Rescales the guided output of each batch item so that guidance doesn't change the picture's contrast.
    pub fn ds_rescale_noise_cfg(
        guided: *const ds_tensor,
        conditional: *const ds_tensor,
        guidance_rescale: f64,
        out: *const ds_tensor,
        max_threads: c_uint,
    ) -> ds_status;

    // ---- Noise

    /// Makes a noise source.
    pub fn ds_noise_create(kind: ds_noise_kind, seed: u64, noise: *mut ds_noise) -> ds_status;
    /// Makes a [`DS_NOISE_TORCH_CUDA`] source for a given device.
    pub fn ds_noise_create_torch_cuda(
        seed: u64,
        offset: u64,
        n_multiprocessors: c_uint,
        n_threads_per_multiprocessor: c_uint,
        noise: *mut ds_noise,
    ) -> ds_status;
    /// Frees a noise source.
    pub fn ds_noise_free(noise: ds_noise) -> ds_status;
    /// Makes a second source in the same state.
    pub fn ds_noise_copy(noise: ds_noise, copy: *mut ds_noise) -> ds_status;
    /// Overwrites a tensor with the next numbers.
    pub fn ds_noise_fill(noise: ds_noise, out: *const ds_tensor, max_threads: c_uint) -> ds_status;
    /// Writes the state of a source as bytes.
    pub fn ds_noise_save(noise: ds_noise, bytes: *mut c_void, capacity: usize, length: *mut usize) -> ds_status;
    /// Makes a source in a saved state.
    pub fn ds_noise_restore(bytes: *const c_void, length: usize, noise: *mut ds_noise) -> ds_status;
}
