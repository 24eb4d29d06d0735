// SPDX-License-Identifier: Apache-2.0

use std::ffi::CStr;
use std::fmt;

use diffusion_scheduling_sys::*;

/// The result of a call to the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! errors {
    ($($(#[$documentation:meta])* $variant:ident = $status:ident,)*) => {
        /// The errors of this crate: a variant for each status of the C interface, with the library's sentence.
        ///
        /// The sentence says what was wrong, with its value, then what is allowed. It has no full stop. A call that returns an
        /// error hasn't changed any tensor, session or scheduler.
        ///
        /// ```
        /// use diffusion_scheduling::{Error, Scheduler};
        ///
        /// let error = Scheduler::from_json(None, "{}").unwrap_err();
        /// assert!(matches!(error, Error::InvalidValue(_)));
        /// assert!(error.to_string().contains("_class_name is missing"));
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$documentation])* $variant(String),)*
            /// The library in the process has a version that this crate doesn't support.
            IncompatibleLibrary(String),
            /// A library later than this crate reports an error that the crate doesn't know.
            Unknown {
                /// The number in the C interface.
                status: u32,
                /// The library's sentence.
                sentence: String,
            },
        }

        impl Error {
            /// The error of a status that isn't success.
            fn new(status: ds_status, sentence: String) -> Error {
                match status {
                    $($status => Error::$variant(sentence),)*
                    status => Error::Unknown { status, sentence },
                }
            }

            /// The number in the C interface; `None` for [`Error::IncompatibleLibrary`].
            pub fn status(&self) -> Option<u32> {
                match self {
                    $(Error::$variant(_) => Some($status),)*
                    Error::IncompatibleLibrary(_) => None,
                    Error::Unknown { status, .. } => Some(*status),
                }
            }

            /// The sentence, which [`Display`](fmt::Display) writes, too.
            pub fn sentence(&self) -> &str {
                match self {
                    $(Error::$variant(sentence) => sentence,)*
                    Error::IncompatibleLibrary(sentence) => sentence,
                    Error::Unknown { sentence, .. } => sentence,
                }
            }
        }
    };
}

errors! {
    /// A configuration key or an argument has a value that isn't allowed.
    InvalidValue = DS_INVALID_VALUE,
    /// Configuration keys exclude one another.
    ConflictingKeys = DS_CONFLICTING_KEYS,
    /// No scheduler has that class name, or that sampler's name.
    UnsupportedScheduler = DS_UNSUPPORTED_SCHEDULER,
    /// The file can't be read.
    InaccessibleFile = DS_INACCESSIBLE_FILE,
    /// The text isn't the JSON that diffusers writes; the sentence has line and column.
    MalformedJson = DS_MALFORMED_JSON,
    /// The call needs a plan, but no timesteps have been set.
    TimestepsNotSet = DS_TIMESTEPS_NOT_SET,
    /// The call doesn't accept this timestep.
    UnknownTimestep = DS_UNKNOWN_TIMESTEP,
    /// All steps of the plan have been taken.
    StepPastEnd = DS_STEP_PAST_END,
    /// A tensor or an array has the wrong number of elements for its shape, for the session or for the sample.
    WrongElementCount = DS_WRONG_ELEMENT_COUNT,
    /// A tensor has another element type than the session, or one that a noise source doesn't make.
    WrongElementType = DS_WRONG_ELEMENT_TYPE,
    /// The step is stochastic, but noise is missing.
    MissingNoise = DS_MISSING_NOISE,
    /// A coefficient of the plan isn't finite: the noise levels are too extreme for float64.
    UnrepresentablePlan = DS_UNREPRESENTABLE_PLAN,
    /// The bytes are not a saved state, or have been corrupted.
    DamagedState = DS_DAMAGED_STATE,
    /// The state was saved with another plan.
    ForeignState = DS_FOREIGN_STATE,
    /// A required argument is missing. Calls of this crate pass all of them.
    NullPointer = DS_NULL_POINTER,
    /// A handle has been freed. Owners in this crate free a handle only when they are dropped.
    InvalidHandle = DS_INVALID_HANDLE,
    /// The library is older than the element type.
    UnknownElementType = DS_UNKNOWN_ELEMENT_TYPE,
    /// A shape has more than [`MAX_RANK`](crate::MAX_RANK) axes, or an extent above `i64::MAX`.
    InvalidShape = DS_INVALID_SHAPE,
    /// A shape has more elements than the address space, or a text more bytes.
    TooLarge = DS_TOO_LARGE,
    /// An address is not a multiple of its element size. Slices are aligned.
    Misaligned = DS_MISALIGNED,
    /// An output overlaps another tensor. The borrow checker already rejects such calls.
    Overlap = DS_OVERLAP,
    /// The shapes of a call's tensors don't match.
    ShapeMismatch = DS_SHAPE_MISMATCH,
    /// A buffer is too small. This crate asks for the size first.
    BufferTooSmall = DS_BUFFER_TOO_SMALL,
    /// The scheduler has no such operation.
    UnsupportedOperation = DS_UNSUPPORTED_OPERATION,
    /// Memory for a session's slots ran out.
    OutOfMemory = DS_OUT_OF_MEMORY,
    /// 4,194,304 objects of the kind exist already.
    TooManyHandles = DS_TOO_MANY_HANDLES,
    /// The kernels refused a call, which is a fault of the library.
    KernelFailure = DS_KERNEL_FAILURE,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.sentence())
    }
}

impl std::error::Error for Error {}

/// The error of a call that has just failed on this thread.
#[cold]
fn last_error(status: ds_status) -> Error {
    // SAFETY: the text ends with a zero and stays valid until the next failed call on this thread.
    let message = unsafe { CStr::from_ptr(ds_error_message()) };
    let mut sentence = message.to_string_lossy().into_owned();
    if sentence.is_empty() {
        // SAFETY: the text ends with a zero and is valid for the life of the process.
        sentence = unsafe { CStr::from_ptr(ds_status_message(status)) }
            .to_string_lossy()
            .into_owned();
    }
    // A path may contain any words.
    if status != DS_INACCESSIBLE_FILE {
        sentence = with_names_of_rust(&sentence);
    }
    Error::new(status, sentence)
}

/// Success, or the error of the call that has just returned this status on this thread.
#[inline]
pub(crate) fn check(status: ds_status) -> Result<()> {
    if status == DS_OK {
        Ok(())
    } else {
        Err(last_error(status))
    }
}

/// The value of a call that fails only because of a wrong handle in this crate.
#[track_caller]
pub(crate) fn certain<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("diffusion-scheduling holds an invalid handle: {error}"))
}

/// The C interface's names in messages, and this crate's names for them.
const NAMES: [(&str, &str); 13] = [
    ("NULL", "None"),
    ("ds_element_type", "Element"),
    ("ds_scheduler_prepare_row", "Plan::prepare"),
    ("ds_scheduler_set_timesteps", "set_timesteps"),
    ("ds_session_reset", "reset"),
    ("n_multiprocessors", "multiprocessors"),
    ("n_reads", "the number of reads"),
    ("n_rows", "the number of sessions"),
    ("n_slots", "the number of slots"),
    ("n_stores", "the number of stores"),
    ("n_threads_per_multiprocessor", "threads_per_multiprocessor"),
    ("pred_original_sample", "report"),
    ("prev_sample", "out"),
];

/// A message with this crate's names. Quoted words come from a configuration and stay unchanged.
fn with_names_of_rust(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let length = if first == '"' {
            rest[1..].find('"').map_or(1, |end| end + 2)
        } else if is_of_word(first) {
            rest.find(|character| !is_of_word(character)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (part, next) = rest.split_at(length);
        let name = NAMES.iter().find(|(name, _)| *name == part);
        text.push_str(name.map_or(part, |(_, name)| name));
        rest = next;
    }
    text
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_names_of_this_crate() {
        for (message, expected) in [
            ("", ""),
            ("NULL", "None"),
            ("n_rows is 3, but must be 2", "the number of sessions is 3, but must be 2"),
            (
                "no timesteps have been set: call ds_scheduler_set_timesteps first",
                "no timesteps have been set: call set_timesteps first",
            ),
            ("\"prev_sample\" is σ, prev_sample too", "\"prev_sample\" is σ, out too"),
            ("a lone \" before prev_sample", "a lone \" before out"),
            ("prev_samples", "prev_samples"),
        ] {
            assert_eq!(with_names_of_rust(message), expected);
        }
    }

    #[test]
    fn every_status_has_a_variant_of_its_own_and_a_summary() {
        let mut sentences = std::collections::BTreeSet::new();
        for status in DS_INVALID_VALUE..=DS_KERNEL_FAILURE {
            let error = Error::new(status, String::new());
            assert_eq!(error.status(), Some(status));
            assert!(!matches!(error, Error::Unknown { .. }), "status {status} has no variant");
            // SAFETY: the text ends with a zero and is valid for the life of the process.
            sentences.insert(unsafe { CStr::from_ptr(ds_status_message(status)) });
        }
        assert_eq!(sentences.len(), 27);
        let later = Error::new(1_000, "later".to_owned());
        assert_eq!((later.status(), later.sentence()), (Some(1_000), "later"));
    }
}
