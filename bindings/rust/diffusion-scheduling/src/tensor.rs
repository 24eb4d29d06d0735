// SPDX-License-Identifier: Apache-2.0

use std::marker::PhantomData;

use diffusion_scheduling_sys::{ds_element_type, ds_tensor, DS_FLOAT32, DS_FLOAT64};

use crate::error::{Error, Result};
use crate::MAX_RANK;

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// The types of tensors' elements: `f32` and `f64`, and with the feature `half-types` also `F16` and `Bf16`.
///
/// The trait is sealed: only the library's element types implement it.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The number in the C interface.
    #[doc(hidden)]
    const ELEMENT_TYPE: ds_element_type;
}

macro_rules! element {
    ($type:ty, $number:expr) => {
        impl $crate::tensor::sealed::Sealed for $type {}
        impl $crate::tensor::Element for $type {
            const ELEMENT_TYPE: diffusion_scheduling_sys::ds_element_type = $number;
        }
    };
}
#[cfg(feature = "half-types")]
pub(crate) use element;

element!(f32, DS_FLOAT32);
element!(f64, DS_FLOAT64);

// ---- Views

/// Elements of a tensor and their shape, for reading.
///
/// The elements are contiguous, the last axis fastest. Axis 0 counts the batch items; a tensor of rank 0 or 1 is one item. Batch items
/// matter for thresholding, for rescaled guidance and for timesteps per item.
///
/// [`Tensor::new`] makes a view with a shape, and `From` makes one from a slice alone: wherever a call takes a tensor, it takes
/// `&[T]`, `&Vec<T>` and `&[T; N]` as well. A slice without a shape takes the shape of the call's sample if it has as many
/// elements, else it has one axis.
///
/// ```
/// use diffusion_scheduling::Tensor;
///
/// let elements = vec![0f32; 24];
/// let tensor = Tensor::new(&elements, &[2, 3, 4])?;
/// assert_eq!(tensor.shape(), [2, 3, 4]);
/// let error = Tensor::new(&elements, &[2, 3]).unwrap_err();
/// assert_eq!(error.to_string(), "the tensor has 24 elements, but must have 6, as its shape [2, 3] says");
/// # Ok::<(), diffusion_scheduling::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a, T: Element> {
    elements: &'a [T],
    shape: Option<&'a [usize]>,
    length: [usize; 1],
}

/// Elements of a tensor and their shape, for writing. Calls take `&mut [T]`, `&mut Vec<T>` and `&mut [T; N]` as well, see [`Tensor`].
#[derive(Debug)]
pub struct TensorMut<'a, T: Element> {
    elements: &'a mut [T],
    shape: Option<&'a [usize]>,
    length: [usize; 1],
}

/// Checks that a shape has `count` elements.
fn check_shape(count: usize, shape: &[usize]) -> Result<()> {
    if shape.len() > MAX_RANK {
        return Err(Error::InvalidShape(format!(
            "the tensor has the rank {}, but must have at most {MAX_RANK}",
            shape.len()
        )));
    }
    if let Some(extent) = shape.iter().find(|extent| i64::try_from(**extent).is_err()) {
        return Err(Error::InvalidShape(format!(
            "the shape {shape:?} has the extent {extent}, but must have at most {}",
            i64::MAX
        )));
    }
    let product = shape.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent));
    let product = if shape.contains(&0) { Some(0) } else { product };
    match product {
        Some(product) if product == count => Ok(()),
        Some(product) => Err(Error::WrongElementCount(format!(
            "the tensor has {count} elements, but must have {product}, as its shape {shape:?} says"
        ))),
        None => Err(Error::TooLarge(format!(
            "the shape {shape:?} has more elements than fit the address space"
        ))),
    }
}

impl<'a, T: Element> Tensor<'a, T> {
    /// A view of elements with a shape.
    ///
    /// Errors: [`Error::WrongElementCount`], [`Error::InvalidShape`], [`Error::TooLarge`].
    pub fn new(elements: &'a [T], shape: &'a [usize]) -> Result<Tensor<'a, T>> {
        check_shape(elements.len(), shape)?;
        Ok(Tensor {
            elements,
            shape: Some(shape),
            length: [elements.len()],
        })
    }

    /// The elements.
    pub fn elements(&self) -> &'a [T] {
        self.elements
    }

    /// The shape: one axis if the view was made from a slice alone.
    pub fn shape(&self) -> &[usize] {
        self.shape.unwrap_or(&self.length)
    }

    pub(crate) fn raw<'t>(&'t self, form: &Form<'t>) -> RawTensor<'t> {
        form.tensor(self.elements.as_ptr() as *mut T, self.shape, &self.length)
    }
}

impl<'a, T: Element> TensorMut<'a, T> {
    /// A view of elements with a shape. Errors: as [`Tensor::new`].
    pub fn new(elements: &'a mut [T], shape: &'a [usize]) -> Result<TensorMut<'a, T>> {
        check_shape(elements.len(), shape)?;
        let length = [elements.len()];
        Ok(TensorMut {
            elements,
            shape: Some(shape),
            length,
        })
    }

    /// The shape: one axis if the view was made from a slice alone.
    pub fn shape(&self) -> &[usize] {
        self.shape.unwrap_or(&self.length)
    }

    /// A shorter-lived view of the same elements, for a call that takes the view itself.
    pub fn reborrow(&mut self) -> TensorMut<'_, T> {
        TensorMut {
            elements: self.elements,
            shape: self.shape,
            length: self.length,
        }
    }

    pub(crate) fn raw<'t>(&'t mut self, form: &Form<'t>) -> RawTensor<'t> {
        let data = self.elements.as_mut_ptr();
        form.tensor(data, self.shape, &self.length)
    }

    /// The tensor of a call without a sample.
    pub(crate) fn raw_alone(&mut self) -> RawTensor<'_> {
        let data = self.elements.as_mut_ptr();
        Form::new(self.shape(), self.length[0]).tensor(data, self.shape, &self.length)
    }
}

impl<'a, T: Element> From<&'a [T]> for Tensor<'a, T> {
    fn from(elements: &'a [T]) -> Self {
        Tensor {
            elements,
            shape: None,
            length: [elements.len()],
        }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Tensor<'a, T> {
    fn from(elements: &'a Vec<T>) -> Self {
        elements.as_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for Tensor<'a, T> {
    fn from(elements: &'a [T; N]) -> Self {
        elements.as_slice().into()
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a, T> {
    fn from(elements: &'a mut [T]) -> Self {
        let length = [elements.len()];
        TensorMut {
            elements,
            shape: None,
            length,
        }
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorMut<'a, T> {
    fn from(elements: &'a mut Vec<T>) -> Self {
        elements.as_mut_slice().into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorMut<'a, T> {
    fn from(elements: &'a mut [T; N]) -> Self {
        elements.as_mut_slice().into()
    }
}

// ---- In place, or apart

/// A tensor that a call reads, and the memory that receives the result: the same tensor, or another one.
///
/// In place: `&mut x` or a [`TensorMut`]. Apart: a pair `(&x, &mut next)` of anything that converts to a [`Tensor`] and a
/// [`TensorMut`].
/// Results have the same bits either way.
#[derive(Debug)]
pub struct InOut<'a, T: Element> {
    input: Option<Tensor<'a, T>>,
    out: TensorMut<'a, T>,
}

impl<'a, T: Element> InOut<'a, T> {
    /// The shape of the input; `None` if both are slices.
    fn given_shape(&self) -> Option<&'a [usize]> {
        match &self.input {
            Some(input) => input.shape,
            None => self.out.shape,
        }
    }

    fn input_length(&self) -> &[usize; 1] {
        self.input.as_ref().map_or(&self.out.length, |input| &input.length)
    }

    /// The addresses of input and output, for [`Ready`].
    fn data(&mut self) -> [*mut T; 2] {
        let out = self.out.elements.as_mut_ptr();
        [self.input.map_or(out, |input| input.elements.as_ptr() as *mut T), out]
    }

    /// The tensors for a call whose other tensors have the input's shape.
    pub(crate) fn ready(&mut self) -> Ready<'_> {
        let data = self.data();
        let this: &Self = self;
        let form = Form::new(
            this.given_shape().unwrap_or_else(|| this.input_length()),
            this.input_length()[0],
        );
        this.ready_with(data, form)
    }

    /// The tensors for a call of `rows.0` rows, which is the number of batch items of a slice without a shape. `rows` receives the
    /// extents.
    pub(crate) fn ready_for_rows<'t>(&'t mut self, rows: &'t mut [usize; 2]) -> Ready<'t> {
        let data = self.data();
        let this: &Self = self;
        let count = this.input_length()[0];
        let shape = match this.given_shape() {
            Some(shape) => shape,
            None if rows[0] > 0 && count % rows[0] == 0 => {
                rows[1] = count / rows[0];
                rows
            }
            None if rows[0] == 0 && count == 0 => rows,
            None => this.input_length(),
        };
        this.ready_with(data, Form::new(shape, count))
    }

    fn ready_with<'t>(&'t self, [input, out]: [*mut T; 2], form: Form<'t>) -> Ready<'t> {
        let input = form.tensor(input, self.given_shape(), self.input_length());
        let out = form.tensor(out, self.out.shape, &self.out.length);
        Ready { form, input, out }
    }
}

impl<'a, T: Element> From<TensorMut<'a, T>> for InOut<'a, T> {
    fn from(out: TensorMut<'a, T>) -> Self {
        InOut { input: None, out }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for InOut<'a, T> {
    fn from(elements: &'a mut [T]) -> Self {
        TensorMut::from(elements).into()
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for InOut<'a, T> {
    fn from(elements: &'a mut Vec<T>) -> Self {
        TensorMut::from(elements).into()
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for InOut<'a, T> {
    fn from(elements: &'a mut [T; N]) -> Self {
        TensorMut::from(elements).into()
    }
}

impl<'a, T: Element, I: Into<Tensor<'a, T>>, O: Into<TensorMut<'a, T>>> From<(I, O)> for InOut<'a, T> {
    fn from((input, out): (I, O)) -> Self {
        InOut {
            input: Some(input.into()),
            out: out.into(),
        }
    }
}

// ---- For C

/// The shape and the number of elements of a call's sample, which slices without a shape adopt.
#[derive(Clone, Copy)]
pub(crate) struct Form<'t> {
    shape: &'t [usize],
    count: usize,
}

/// A C tensor whose shape lives for `'t`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct RawTensor<'t>(pub ds_tensor, PhantomData<&'t [usize]>);

/// The tensors of an [`InOut`] for a call, and the form for its other tensors.
pub(crate) struct Ready<'t> {
    pub form: Form<'t>,
    pub input: RawTensor<'t>,
    pub out: RawTensor<'t>,
}

impl<'t> Form<'t> {
    pub fn new(shape: &'t [usize], count: usize) -> Form<'t> {
        Form { shape, count }
    }

    /// The C tensor at an address, with the shape `own` or a shape that follows from the length.
    pub fn tensor<T: Element>(&self, data: *mut T, own: Option<&'t [usize]>, length: &'t [usize; 1]) -> RawTensor<'t> {
        let shape = match own {
            Some(shape) => shape,
            None if length[0] == self.count => self.shape,
            None => length,
        };
        // An extent is a usize of 64 bits and, as checked, at most i64::MAX: the number is the same in C.
        const _: () = assert!(std::mem::size_of::<usize>() == std::mem::size_of::<i64>());
        let tensor = ds_tensor {
            data: data.cast(),
            element_type: T::ELEMENT_TYPE,
            rank: shape.len(),
            shape: shape.as_ptr().cast(),
        };
        RawTensor(tensor, PhantomData)
    }
}

impl RawTensor<'_> {
    /// The address of an optional tensor.
    pub fn address(tensor: &Option<Self>) -> *const ds_tensor {
        tensor.as_ref().map_or(std::ptr::null(), |tensor| &tensor.0)
    }
}
