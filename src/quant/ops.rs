//! The packed operations every backend of ours has, and their `Tensor` faces.
//!
//! This is the one module where tensors are exchanged for backend primitives.

#![allow(
    missing_debug_implementations,
    reason = "what Burn's macro adds has none"
)]

use core::ops::Range;

#[cfg(all(feature = "cube", feature = "fusion"))]
use burn::{backend::fusion::custom::TensorSpec, tensor::Shape};
use burn::{
    backend::{
        Backend, Dispatch, ExtensionType, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType as BurnDType, FloatDType, Int, Tensor},
};
#[cfg(all(feature = "cube", feature = "fusion"))]
use firebox_kernels::{arith::checksum, compare, formats::nested};
use firebox_kernels::{
    arith::float::DType, format::FormatError, linear::Compute, packing::Packing,
};

use super::packed::{Layout, PackedWeight};

/// Words and scales, `u32` of rank 1.
#[derive(Debug, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cube", feature = "fusion")))]
pub struct PackedParts<B: Backend> {
    /// Codes.
    pub words: IntTensor<B>,
    /// Everything else the format needs.
    pub scales: IntTensor<B>,
}

/// Some rows of a weight, as a checkpoint stores them, and the packing for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceRows {
    /// How codes are chosen.
    pub packing: Packing,
    /// `[rows, in]`.
    pub shape: [usize; 2],
    /// How a weight is stored.
    pub source: DType,
}

/// Operations on packed weights. A target whose backend lacks them does not compile.
///
/// `words` and `scales` are `u32` tensors of rank 1, laid out as `layout.format` says; `bits` are
/// source weights of a [`DType`], two halves or one single in each `u32`, the last one padded with
/// zeros.
#[backend_extension(
    Flex: cfg(feature = "cpu"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(all(feature = "cube", feature = "fusion")),
    Autodiff,
)]
pub trait QuantBackend: Backend {
    /// The rows `rows` of the dense weight: `[rows, in]` in `dtype`.
    #[fusion(dtype = BurnDType::from(*dtype), shape = Shape::new([rows.len(), layout.shape[1]]))]
    fn packed_dequantize(
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        rows: Range<usize>,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// `x` `[m, in]` times the transposed weight: `[m, out]` in the type of `x`, summed in `f32` or more. `compute` is for
    /// backends whose tensors are host memory.
    #[fusion(dtype = x, shape = Shape::new([x[0], layout.shape[0]]))]
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        compute: Compute,
    ) -> FloatTensor<Self>;

    /// The rows that `ids` `[m]` name: `[m, in]` in `dtype`. Only those rows are unpacked.
    #[fusion(dtype = BurnDType::from(*dtype), shape = Shape::new([ids[0], layout.shape[1]]))]
    fn packed_rows(
        ids: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// The numbers of `x`, f32, f16 or bf16, as their bit patterns.
    #[fusion(meta = |x: &TensorSpec| {
        let len = bits_len(x.dtype, x.shape.num_elements());
        TensorSpec::new(Shape::new([len]), BurnDType::U32)
    })]
    fn packed_bits(x: FloatTensor<Self>) -> IntTensor<Self>;

    /// Bits of the largest magnitude in `bits`, `[1]`; those of a NaN if there is one.
    #[fusion(dtype = BurnDType::U32, shape = Shape::new([1]))]
    fn packed_absmax(bits: IntTensor<Self>, rows: SourceRows) -> IntTensor<Self>;

    /// Chooses codes for some rows of a weight: whole tiles of its packer. Scales of a nested format are
    /// plain still. `absmax` is that of the whole weight, for a format with one scale; others ignore it.
    #[fusion(meta = |_: &TensorSpec, _: &TensorSpec, rows: &SourceRows| {
        let [words, scales] = rows.parts_len().map(|len| TensorSpec::new(Shape::new([len]), BurnDType::U32));
        PackedPartsMetadata { words, scales }
    })]
    fn packed_quantize(
        bits: IntTensor<Self>,
        absmax: IntTensor<Self>,
        rows: SourceRows,
    ) -> PackedParts<Self>;

    /// Nested scales from all plain ones of a weight.
    #[fusion(dtype = BurnDType::U32, shape = Shape::new([nested::words_len(scales.num_elements())]))]
    fn packed_nest(scales: IntTensor<Self>) -> IntTensor<Self>;

    /// Words that add up to the [`checksum`](firebox_kernels::arith::checksum) of `bits`.
    #[fusion(dtype = BurnDType::U32, shape = Shape::new([checksum::cube::SUMS]))]
    fn packed_checksums(bits: IntTensor<Self>) -> IntTensor<Self>;

    /// Sums over the errors of a packed weight against its source, as
    /// [`compare`](firebox_kernels::compare) has them in words.
    #[fusion(dtype = BurnDType::U32, shape = Shape::new([compare::SUMS]))]
    fn packed_compare(
        bits: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        source: DType,
    ) -> IntTensor<Self>;
}

#[cfg(all(feature = "cube", feature = "fusion"))]
impl SourceRows {
    /// Words, and scales that are not nested yet.
    ///
    /// # Panics
    ///
    /// When the packing refuses the shape: the plan has asked it before.
    pub(crate) fn parts_len(&self) -> [usize; 2] {
        let format = planned(self.packing.plain().format(self.shape, self.source));
        [format.words_len(self.shape), format.scales_len(self.shape)]
    }
}

/// A result for a shape that the plan has asked the packing for before.
///
/// # Panics
///
/// When the packing refuses the shape: a bug of ours.
pub(super) fn planned<T>(result: Result<T, FormatError>) -> T {
    result.expect("the packing took this shape when the weight was planned")
}

/// How the values of `dtype` are stored.
///
/// # Panics
///
/// For any other type than f32, f16 and bf16.
pub(super) fn float_bits(dtype: BurnDType) -> DType {
    match dtype {
        BurnDType::F32 => DType::F32,
        BurnDType::F16 => DType::F16,
        BurnDType::BF16 => DType::Bf16,
        other => panic!("weights are f32, f16 or bf16, not {other:?}"),
    }
}

/// Words that hold the bits of `n` numbers of `dtype`.
#[cfg(feature = "cube")]
pub(super) fn bits_len(dtype: BurnDType, n: usize) -> usize {
    (n * dtype.size()).div_ceil(size_of::<u32>())
}

/// The dense weight `[out, in]` in `dtype`.
pub fn dequantize(weight: &PackedWeight, dtype: FloatDType) -> Tensor<2> {
    let layout = weight.layout();
    let [words, scales] = weight.parts();
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_dequantize(
        words.into_dispatch(),
        scales.into_dispatch(),
        layout,
        0..layout.shape[0],
        dtype,
    ))
}

/// `x` `[m, in]` times the transposed weight: `[m, out]` in the type of `x`, summed in `f32` or more.
///
/// Gradients reach `x` and nothing else; they are computed from the packed words, in `f32` whatever the arithmetic of the
/// product is.
pub fn linear(x: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    linear_in(weight.compute(), x, weight)
}

/// [`linear`] in another arithmetic than the weight's own.
pub(crate) fn linear_in(compute: Compute, x: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    let [words, scales] = weight.parts();
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_linear(
        x.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        weight.layout(),
        compute,
    ))
}

/// The rows that `ids` `[m]` name: `[m, in]` in `dtype`.
///
/// An id that is not below `out` panics on a host target, as Burn's own embedding lookup does, and gives
/// a row of NaN on a device, which cannot.
pub fn rows(ids: Tensor<1, Int>, weight: &PackedWeight, dtype: FloatDType) -> Tensor<2> {
    let [words, scales] = weight.parts();
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_rows(
        ids.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        weight.layout(),
        dtype,
    ))
}

/// The numbers of `x` as bit patterns: one a `u32` for f32, two for f16 and bf16.
///
/// # Panics
///
/// For any other type.
pub fn bits<const D: usize>(x: Tensor<D>) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_bits(x.into_dispatch()))
}

/// Bits of the largest magnitude of these rows, `[1]`.
pub(crate) fn absmax(bits: Tensor<1, Int>, rows: SourceRows) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_absmax(
        bits.into_dispatch(),
        rows,
    ))
}

/// Codes and scales of some rows of a weight; see [`QuantBackend::packed_quantize`]. `absmax` is that of
/// the whole weight, where its packing passes over it twice.
pub(crate) fn quantize(
    bits: Tensor<1, Int>,
    absmax: Option<Tensor<1, Int>>,
    rows: SourceRows,
) -> [Tensor<1, Int>; 2] {
    // An operation has no optional tensors, so that those who do not want it get one they do not read.
    let absmax = absmax.unwrap_or_else(|| bits.clone());
    let parts = <Dispatch as QuantBackend>::packed_quantize(
        bits.into_dispatch(),
        absmax.into_dispatch(),
        rows,
    );
    [parts.words, parts.scales].map(Tensor::from_dispatch)
}

/// Nested scales from all plain ones of a weight.
pub(crate) fn nest(scales: Tensor<1, Int>) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_nest(
        scales.into_dispatch(),
    ))
}

/// Words that add up to the checksum of `bits`.
pub(crate) fn checksums(bits: Tensor<1, Int>) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_checksums(
        bits.into_dispatch(),
    ))
}

/// Sums over the errors of `weight` against its source.
pub(crate) fn compare(
    bits: Tensor<1, Int>,
    weight: &PackedWeight,
    source: DType,
) -> Tensor<1, Int> {
    let [words, scales] = weight.parts();
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_compare(
        bits.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        weight.layout(),
        source,
    ))
}
