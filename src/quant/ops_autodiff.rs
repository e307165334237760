//! [`QuantBackend`] with gradients: to the activation of a product, and nowhere else.
//!
//! Between forward and backward a product keeps its packed words, never a dense weight.

use core::ops::Range;

use burn::{
    backend::{
        AutodiffBackend, TensorMetadata,
        autodiff::{
            Autodiff,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{FloatDType, Slice},
};
use firebox_kernels::{arith::float::DType, linear::Compute};

use super::{
    ops::{PackedParts, QuantBackend, SourceRows},
    packed::Layout,
    scratch,
};

impl<B: QuantBackend, C: CheckpointStrategy> QuantBackend for Autodiff<B, C> {
    fn packed_dequantize(
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        rows: Range<usize>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::packed_dequantize(words, scales, layout, rows, dtype))
    }

    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        compute: Compute,
    ) -> FloatTensor<Self> {
        match LinearBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => {
                let kept = (words.clone(), scales.clone(), layout);
                let x = x.into_primitive();
                let y = B::packed_linear(x, words, scales, layout, compute);
                prepared.finish(kept, y)
            }
            OpsKind::UnTracked(prepared) => {
                let x = x.into_primitive();
                prepared.finish(B::packed_linear(x, words, scales, layout, compute))
            }
        }
    }

    fn packed_rows(
        ids: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::packed_rows(ids, words, scales, layout, dtype))
    }

    fn packed_bits(x: FloatTensor<Self>) -> IntTensor<Self> {
        B::packed_bits(x.into_primitive())
    }

    fn packed_absmax(bits: IntTensor<Self>, rows: SourceRows) -> IntTensor<Self> {
        B::packed_absmax(bits, rows)
    }

    fn packed_quantize(
        bits: IntTensor<Self>,
        absmax: IntTensor<Self>,
        rows: SourceRows,
    ) -> PackedParts<Self> {
        let PackedParts { words, scales } = B::packed_quantize(bits, absmax, rows);
        PackedParts { words, scales }
    }

    fn packed_nest(scales: IntTensor<Self>) -> IntTensor<Self> {
        B::packed_nest(scales)
    }

    fn packed_checksums(bits: IntTensor<Self>) -> IntTensor<Self> {
        B::packed_checksums(bits)
    }

    fn packed_compare(
        bits: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        source: DType,
    ) -> IntTensor<Self> {
        B::packed_compare(bits, words, scales, layout, source)
    }
}

/// `dx = dy W`.
#[derive(Debug)]
struct LinearBackward;

impl<B: QuantBackend> Backward<B, 1> for LinearBackward {
    type State = (IntTensor<B>, IntTensor<B>, Layout);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x] = ops.parents;
        let (words, scales, layout) = ops.state;
        let dy = gradients.consume::<B>(&ops.node);
        if let Some(x) = x {
            gradients.register::<B>(x.id, product::<B>(dy, &words, &scales, layout));
        }
    }
}

/// `dy` `[m, out]` times the weight: `[m, in]`, with no more of it dense at once than the scratch allows.
pub(super) fn product<B: QuantBackend>(
    dy: FloatTensor<B>,
    words: &IntTensor<B>,
    scales: &IntTensor<B>,
    layout: Layout,
) -> FloatTensor<B> {
    let dtype = dy.dtype();
    let m = dy.shape()[0];
    scratch::rows(layout.shape, dtype.size())
        .map(|rows| {
            let weight = B::packed_dequantize(
                words.clone(),
                scales.clone(),
                layout,
                rows.clone(),
                dtype.into(),
            );
            let part = B::float_slice(dy.clone(), &[Slice::from(0..m), Slice::from(rows)]);
            B::float_matmul(part, weight)
        })
        .reduce(B::float_add)
        .unwrap_or_else(|| B::float_zeros([m, layout.shape[1]].into(), &dy.device(), dtype.into()))
}
