// SPDX-License-Identifier: Apache-2.0

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use diffusion_scheduling_sys::*;

use crate::error::{certain, check, Error, Result};
use crate::text::bytes_of;
use crate::{max_threads, require_compatible_library, Element, InOut, Tensor, TensorMut};

/// A noise source: standard normal numbers that match torch's and NumPy's for the same seeds and calls.
///
/// ```
/// use diffusion_scheduling::Noise;
///
/// let mut noise = Noise::torch_cpu(42)?;
/// let mut x = vec![0f32; 4];
/// noise.fill(&mut x)?; // torch.manual_seed(42); torch.randn(4)
/// assert!((x[0] - 0.3367).abs() < 1e-4 && (x[3] - 0.2303).abs() < 1e-4);
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
///
/// Threads: a noise source may move to another thread, but only one thread at a time may use it. It is `Send`, not `Sync`.
pub struct Noise {
    handle: ds_noise,
    _one_thread: PhantomData<Cell<()>>,
}

impl Noise {
    fn made(make: impl FnOnce(*mut ds_noise) -> ds_status) -> Result<Noise> {
        require_compatible_library()?;
        let mut handle = ds_noise::default();
        check(make(&mut handle))?;
        Ok(Noise {
            handle,
            _one_thread: PhantomData,
        })
    }

    /// `torch.randn` on a CPU, bit for bit; float32 and float64.
    ///
    /// - `seed`: torch's `manual_seed`; the generator uses its low 32 bits
    ///
    /// Errors: [`Error::TooManyHandles`].
    pub fn torch_cpu(seed: u64) -> Result<Noise> {
        // SAFETY: `handle` points to space for a handle.
        Noise::made(|handle| unsafe { ds_noise_create(DS_NOISE_TORCH_CPU, seed, handle) })
    }

    /// `torch.randn` on CUDA with an A100's launch sizes, within 2⁻²⁰ of the radius; float32. Errors: as [`Noise::torch_cpu`].
    pub fn torch_cuda(seed: u64) -> Result<Noise> {
        // SAFETY: `handle` points to space for a handle.
        Noise::made(|handle| unsafe { ds_noise_create(DS_NOISE_TORCH_CUDA, seed, handle) })
    }

    /// `torch.randn` on CUDA for a given device, which matters for tensors of more than about 100,000 elements.
    ///
    /// - `offset`: the value of `Generator.get_offset()`, a multiple of 4; 0 after seeding
    /// - `multiprocessors`: `multi_processor_count` of torch's device properties, from 1 to 65,535
    /// - `threads_per_multiprocessor`: `max_threads_per_multi_processor` of torch's device properties, from 256 to 65,535
    ///
    /// Errors: also [`Error::InvalidValue`].
    pub fn torch_cuda_on(seed: u64, offset: u64, multiprocessors: u32, threads_per_multiprocessor: u32) -> Result<Noise> {
        // SAFETY: `handle` points to space for a handle.
        Noise::made(|handle| unsafe {
            ds_noise_create_torch_cuda(seed, offset, multiprocessors, threads_per_multiprocessor, handle)
        })
    }

    /// `numpy.random.RandomState.standard_normal`, bit for bit; float64, and float32 rounded from it. Errors: as [`Noise::torch_cpu`].
    pub fn numpy(seed: u32) -> Result<Noise> {
        // SAFETY: `handle` points to space for a handle.
        Noise::made(|handle| unsafe { ds_noise_create(DS_NOISE_NUMPY, seed.into(), handle) })
    }

    /// Overwrites a tensor with the next numbers. A call corresponds to one `torch.randn` or `standard_normal` with the tensor's
    /// number of elements, whatever the shape: two calls of 8 elements differ from one call of 16.
    ///
    /// Complexity: O(elements). Errors: [`Error::WrongElementType`] for a type that the source doesn't make;
    /// [`Error::WrongElementCount`] for more than 2²⁹ elements from CUDA's generator.
    pub fn fill<'a, T: Element>(&mut self, out: impl Into<TensorMut<'a, T>>) -> Result<()> {
        let mut out = out.into();
        // SAFETY: the tensor's memory and shape are borrowed until the call returns, and the source is borrowed uniquely.
        check(unsafe { ds_noise_fill(self.handle, &out.raw_alone().0, max_threads()) })
    }

    /// A second source in the same state: it gives the same numbers. Errors: [`Error::TooManyHandles`].
    pub fn try_clone(&self) -> Result<Noise> {
        // SAFETY: the handle belongs to this object, and no other thread uses it.
        Noise::made(|copy| unsafe { ds_noise_copy(self.handle, copy) })
    }

    /// The state of the source, fewer than 3,000 bytes, in the same form on every machine.
    pub fn save(&self) -> Vec<u8> {
        // SAFETY: the buffer has the stated capacity.
        certain(bytes_of(|buffer, capacity, length| unsafe {
            ds_noise_save(self.handle, buffer, capacity, length)
        }))
    }

    /// A source in a saved state. Errors: [`Error::DamagedState`], [`Error::InvalidValue`], [`Error::TooManyHandles`].
    pub fn restore(bytes: &[u8]) -> Result<Noise> {
        // SAFETY: the bytes have the stated length and live until the call returns.
        Noise::made(|handle| unsafe { ds_noise_restore(bytes.as_ptr().cast(), bytes.len(), handle) })
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        // SAFETY: the handle belongs to this object alone, and this is its last use.
        unsafe { ds_noise_free(self.handle) };
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Noise").finish_non_exhaustive()
    }
}

/// Combines a sample with noise by the caller's rates: signal rate · sample + noise rate · noise, in place or into another tensor.
///
/// - `signal_rates`, `noise_rates`: finite; one for all elements, or one for each index of axis 0
///
/// Errors: [`Error::InvalidValue`], [`Error::WrongElementCount`], [`Error::ShapeMismatch`].
pub fn combine_noise<'a, 'b, T: Element>(
    sample: impl Into<InOut<'a, T>>,
    noise: impl Into<Tensor<'b, T>>,
    signal_rates: &[f64],
    noise_rates: &[f64],
) -> Result<()> {
    if signal_rates.len() != noise_rates.len() {
        return Err(Error::WrongElementCount(format!(
            "noise_rates has {} elements, but must have {}, like signal_rates",
            noise_rates.len(),
            signal_rates.len()
        )));
    }
    let (mut sample, noise) = (sample.into(), noise.into());
    let ready = sample.ready();
    let noise = noise.raw(&ready.form);
    // SAFETY: the tensors' memory and shapes are borrowed until the call returns, the output's exclusively. The number of rates of
    // both kinds is the stated one.
    check(unsafe {
        ds_combine_noise(
            &ready.input.0,
            &noise.0,
            signal_rates.as_ptr(),
            noise_rates.as_ptr(),
            signal_rates.len(),
            &ready.out.0,
            max_threads(),
        )
    })
}

/// Rescales the guided output of each batch item so that guidance doesn't change the picture's contrast (Lin et al. 2023,
/// arXiv:2305.08891, section 3.4), in place or into another tensor:
///
/// ```text
/// result = factor · guided,   factor = r std(conditional) / std(guided) + (1 − r)
/// ```
///
/// - `guidance_rescale`: r in [0, 1]; the paper uses 0.7
///
/// An item with equal elements in `guided` is copied. [`Session::step_guided`](crate::Session::step_guided) rescales within the
/// step.
/// Errors: [`Error::InvalidValue`], [`Error::ShapeMismatch`].
pub fn rescale_noise_cfg<'a, 'b, T: Element>(
    guided: impl Into<InOut<'a, T>>,
    conditional: impl Into<Tensor<'b, T>>,
    guidance_rescale: f64,
) -> Result<()> {
    let (mut guided, conditional) = (guided.into(), conditional.into());
    let ready = guided.ready();
    let conditional = conditional.raw(&ready.form);
    // SAFETY: the tensors' memory and shapes are borrowed until the call returns, the output's exclusively.
    check(unsafe { ds_rescale_noise_cfg(&ready.input.0, &conditional.0, guidance_rescale, &ready.out.0, max_threads()) })
}
