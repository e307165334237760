//! The packed operations every backend of ours has, and their `Tensor` faces.
//!
//! This is the one module where tensors are exchanged for backend primitives.

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{FloatDType, Int, Tensor},
};

use super::packed::{Layout, PackedWeight};

/// Operations on packed weights. A target whose backend lacks them does not compile.
///
/// `words` and `scales` are `u32` tensors of rank 1, laid out as `layout.format` says.
#[backend_extension(Flex: cfg(feature = "cpu"))]
pub trait QuantBackend: Backend {
    /// The dense weight `[out, in]` in `dtype`.
    fn packed_dequantize(
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// `x` `[m, in]` times the transposed weight: `[m, out]` in the type of `x`, summed in `f32`.
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
    ) -> FloatTensor<Self>;

    /// The rows that `ids` `[m]` name: `[m, in]` in `dtype`. Only those rows are unpacked.
    fn packed_rows(
        ids: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;
}

/// The dense weight `[out, in]` in `dtype`.
pub fn dequantize(weight: &PackedWeight, dtype: FloatDType) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_dequantize(
        weight.words.val().into_dispatch(),
        weight.scales.val().into_dispatch(),
        weight.layout(),
        dtype,
    ))
}

/// `x` `[m, in]` times the transposed weight: `[m, out]` in the type of `x`, summed in `f32`.
pub fn linear(x: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_linear(
        x.into_dispatch(),
        weight.words.val().into_dispatch(),
        weight.scales.val().into_dispatch(),
        weight.layout(),
    ))
}

/// The rows that `ids` `[m]` name: `[m, in]` in `dtype`.
///
/// # Panics
///
/// On the CPU when an id is not below `out`, as Burn's own embedding lookup does.
pub fn rows(ids: Tensor<1, Int>, weight: &PackedWeight, dtype: FloatDType) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantBackend>::packed_rows(
        ids.into_dispatch(),
        weight.words.val().into_dispatch(),
        weight.scales.val().into_dispatch(),
        weight.layout(),
        dtype,
    ))
}
