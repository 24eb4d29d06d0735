// SPDX-License-Identifier: Apache-2.0

//! Diffusion-model schedulers for inference engines: they read diffusers' configuration files and reproduce its noise levels, solvers
//! and random numbers. A step is one pass over memory.
//!
//! ```no_run
//! use diffusion_scheduling::{Noise, Result, Scheduler};
//!
//! fn sample(model: impl Fn(&[f32], f64) -> Vec<f32>) -> Result<Vec<f32>> {
//!     let mut scheduler = Scheduler::load("model", Some("scheduler"))?; // reads model/scheduler/scheduler_config.json
//!     scheduler.set_timesteps(20)?;
//!     let mut x = vec![0f32; 4 * 64 * 64];
//!     Noise::torch_cpu(42)?.fill(&mut x)?; // the numbers of torch.randn
//!     let sigma = scheduler.init_noise_sigma() as f32;
//!     x.iter_mut().for_each(|x| *x *= sigma);
//!
//!     let mut input = x.clone();
//!     let mut session = scheduler.session()?;
//!     while let Some(timestep) = session.timestep() {
//!         scheduler.scale_model_input((&x, &mut input), timestep)?;
//!         let e = model(&input, timestep);
//!         session.step(&e, &mut x)?; // in place
//!     }
//!     Ok(x)
//! }
//! ```
//!
//! # Overview
//!
//! | task | here |
//! |---|---|
//! | make a scheduler from a file, a text, or a sampler's name | [`Scheduler::load`], [`Scheduler::from_json`], [`Scheduler::named`] |
//! | plan a run, with arguments such as `{"eta": 0.5}` | [`Scheduler::set_timesteps`], [`Scheduler::set_timesteps_with`] |
//! | take the steps of a request | [`Scheduler::session`], [`Session::step`] |
//! | noise for stochastic steps, and a step's second result | [`StepOptions`] |
//! | guide a step | [`Session::step_guided`] |
//! | write the next model input in a step | [`Session::step_with_input`] |
//! | step many sessions at once | [`step_sessions`], [`step_sessions_guided`] |
//! | pause and continue, also in another process | [`Session::save`], [`Scheduler::restore`] |
//! | take the scalars to a device | [`Plan::row`], [`Plan::json`] |
//! | keep the state in your own tensors | [`Plan::prepare`], [`PreparedRow::step`] |
//! | list classes, parameters and options | [`supported_class_names`], [`class_description`] |
//! | draw noise, add noise | [`Noise`], [`Scheduler::add_noise`] |
//!
//! # Tensors
//!
//! A tensor is a slice: `&[T]` or `&mut [T]` with elements `f32` or `f64`, and with the feature `half-types` also `F16` and `Bf16`.
//! Where batch items matter (thresholding, rescaled guidance, timesteps per item), [`Tensor`] and [`TensorMut`] add the shape. Slices
//! without one take the shape of the call's sample. A model output may have its own element type: an engine's half output steps a
//! float32 sample. A call that would overlap tensors doesn't compile:
//!
//! ```compile_fail
//! # let mut scheduler = diffusion_scheduling::Scheduler::from_json(None, r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
//! # scheduler.set_timesteps(20).unwrap();
//! # let mut session = scheduler.session().unwrap();
//! # let mut x = vec![0f32; 64];
//! session.step(&x, &mut x).unwrap(); // error: x is borrowed as immutable
//! ```
//!
//! # Errors
//!
//! [`Error`] has a variant for each status of the C interface, with a sentence that names the argument, its value and what is
//! allowed. A call that fails has changed nothing. Functions that can't fail return their value. The crate never prints.
//!
//! # Threads
//!
//! [`Scheduler`], [`Plan`], [`Row`] and [`PreparedRow`] are `Send` and `Sync`. [`Session`] and [`Noise`] are `Send`: one thread at a time
//! uses them. The work on large tensors is shared among the threads of the process's OpenMP runtime ([`runtime_description`]);
//! [`set_max_threads`] limits them. Results don't depend on their number.
#![deny(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

mod error;
#[cfg(feature = "half-types")]
mod half;
mod noise;
mod plan;
mod scheduler;
mod session;
mod tensor;
mod text;

use std::cell::Cell;
use std::fmt;

use diffusion_scheduling_sys as sys;

pub use error::{Error, Result};
#[cfg(feature = "half-types")]
pub use half::{Bf16, F16};
pub use noise::{combine_noise, rescale_noise_cfg, Noise};
pub use plan::{Clamp, Combination, NoiseFactor, Plan, PreparedRow, Process, Row, Store};
pub use scheduler::{class_description, sampler_names, supported_class_names, Scheduler};
pub use session::{step_sessions, step_sessions_guided, Guidance, Session, SessionRow, StepOptions};
pub use tensor::{Element, InOut, Tensor, TensorMut};

/// The largest number of axes of a tensor.
pub const MAX_RANK: usize = sys::DS_MAX_RANK;
/// The largest number of slots of a plan.
pub const MAX_SLOTS: usize = sys::DS_MAX_SLOTS;
/// The largest number of slots that one row stores.
pub const MAX_STORES: usize = sys::DS_MAX_STORES;

// ---- Version

/// A version of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The major version.
    pub major: u32,
    /// The minor version.
    pub minor: u32,
    /// The patch version.
    pub patch: u32,
}

impl Version {
    const fn decoded(number: u32) -> Version {
        Version {
            major: number / 10_000,
            minor: number / 100 % 100,
            patch: number % 100,
        }
    }

    /// Whether programs made for `needed` run with this version: major versions are equal, minor versions not older. Before 1.0
    /// minor versions may change anything, so they must be equal, too.
    fn serves(self, needed: Version) -> bool {
        self.major == needed.major
            && if needed.major == 0 {
                self.minor == needed.minor
            } else {
                self.minor >= needed.minor
            }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version of the running library.
pub fn version() -> Version {
    // SAFETY: the function takes no arguments.
    Version::decoded(unsafe { sys::ds_version() })
}

fn require_compatible(found: Version, needed: Version) -> Result<()> {
    if found.serves(needed) {
        return Ok(());
    }
    Err(Error::IncompatibleLibrary(format!(
        "the library in this process has the version {found}, but this crate needs {}.{}",
        needed.major, needed.minor
    )))
}

/// Fails if the process has loaded another library than this crate's, whose structs could have another layout.
pub(crate) fn require_compatible_library() -> Result<()> {
    require_compatible(version(), Version::decoded(sys::DS_VERSION))
}

// ---- Threads

/// The OpenMP runtime that provides the threads, as a sentence.
///
/// The runtime is chosen once, at the first call that needs it: the one already in the process, else the system's libomp or libgomp.
/// Without any of them, every call stays on the caller's thread.
pub fn runtime_description() -> &'static str {
    // SAFETY: the text ends with a zero and is valid for the life of the process.
    unsafe { text::static_text(sys::ds_runtime_description()) }.unwrap_or_default()
}

thread_local! {
    static MAX_THREADS: Cell<u32> = Cell::default();
}

/// Limits the threads of each later call by the current thread: 0, the default, leaves the number to the OpenMP runtime, 1 stays on
/// the current thread. Results don't depend on it.
///
/// A server with a thread for each request sets 1 in each, so the requests don't compete for the cores.
pub fn set_max_threads(limit: u32) {
    MAX_THREADS.with(|threads| threads.set(limit));
}

/// The current thread's limit from [`set_max_threads`].
pub fn max_threads() -> u32 {
    MAX_THREADS.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_compatible_libraries_are_used() {
        let version = |major, minor| Version { major, minor, patch: 3 };
        for (found, needed, is_right) in [
            (version(0, 1), version(0, 1), true),
            (version(0, 2), version(0, 1), false),
            (version(0, 1), version(0, 2), false),
            (version(1, 0), version(0, 1), false),
            (version(1, 4), version(1, 2), true),
            (version(1, 1), version(1, 2), false),
            (version(2, 2), version(1, 2), false),
        ] {
            assert_eq!(require_compatible(found, needed).is_ok(), is_right, "{found} for {needed}");
        }
        let error = require_compatible(version(0, 2), version(0, 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the library in this process has the version 0.2.3, but this crate needs 0.1"
        );
        assert_eq!(error.status(), None);
    }
}
