//! Layers on the CPU: what [`firebox_kernels::layers`] computes in one walk, on tensors of Burn's Flex.
//!
//! Each function here has its counterpart in operations of Burn, for every other backend and for tensors inside of a graph; who
//! calls one has asked [`takes`] before.

use burn::{
    backend::{
        BackendTensor, DispatchKindConversion, DispatchTensor, Flex, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Tensor, TensorData},
};
use firebox_kernels::layers::{
    attend::{Attend, HeadRows, HeadValues, RowScales},
    gate::Bend,
    norm::NormRows,
    rotate::Turns,
};
use half::{bf16, f16};

use super::{kept_rows::KeptRows, operations};
use crate::target::{Cpu, Target};

/// A tensor of the backend.
type HostTensor = FloatTensor<Flex>;

/// Whether `x` is on the CPU, outside of any graph, in `f32`.
pub(super) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && reads(x)
}

/// Whether `x` is on the CPU and outside of any graph, in a pass that is not to be computed as in one.
pub(super) fn reads<const D: usize>(x: &Tensor<D>) -> bool {
    Cpu::owns(&x.device()) && !x.is_tracked() && !operations::only()
}

/// `x` `[.., features]` normalised, with a scale and a bias `[features]`.
pub(super) fn norm<const D: usize>(
    x: Tensor<D>,
    centred: bool,
    eps: f64,
    scale: Option<Tensor<1>>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let features = x.dims()[D - 1];
    let [scale, bias] = [scale, bias].map(|weights| weights.map(|weights| whole(flat(weights))));
    fn values(weights: &Option<HostTensor>) -> Option<&[f32]> {
        weights.as_ref().map(HostTensor::storage)
    }
    changed(x, |x| {
        let rows = NormRows {
            centred,
            eps: eps as f32,
            scale: values(&scale),
            bias: values(&bias),
        };
        rows.apply(x, features);
    })
}

/// `bend(gate) · up`.
pub(super) fn gate<const D: usize>(bend: Bend, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let up = whole(flat(up));
    changed(gate, |gate| bend.gate(gate, up.storage()))
}

/// `x` `[b, t, h, d]`, turned by cosines and sines `[1 or b, 1, t, r/2]`.
pub(super) fn rotate(x: Tensor<4>, [cos, sin]: [Tensor<4>; 2], interleaved: bool) -> Tensor<4> {
    let ([_, _, heads, features], [_, _, _, pairs]) = (x.dims(), cos.dims());
    let [cos, sin] = [cos, sin].map(|values| whole(flat(values)));
    changed(x, |x| {
        let turns = Turns {
            cos: cos.storage(),
            sin: sin.storage(),
            pairs,
            interleaved,
        };
        turns.apply(x, heads, features);
    })
}

/// How queries are compared with keys.
pub(super) struct Compared<'a> {
    pub(super) scale: f64,
    pub(super) soft_cap: Option<f64>,
    /// `[h]`.
    pub(super) sinks: Option<Tensor<1>>,
    /// `[1 or b, t]`: the first key that each query sees.
    pub(super) first: &'a [usize],
}

/// Whether rows are on the CPU and outside of any graph.
pub(super) fn reads_rows(rows: &KeptRows) -> bool {
    match rows {
        KeptRows::Plain(rows) => reads(rows),
        KeptRows::Scaled(rows) => reads(&rows.scales),
    }
}

/// `softmax(scale · q kᵀ) v`: `q` `[b, h, t, d]`, `k` `[b, kv, s, d]` and `v` `[b, kv, s, e]` to `[b, h, t, e]`.
pub(super) fn attend(q: Tensor<4>, kv: [KeptRows; 2], by: Compared<'_>) -> Tensor<4> {
    let device = q.device().without_autodiff();
    let ([b, h, t, _], [_, _, _, e]) = (q.dims(), kv[1].dims());
    let [k, v] = kv.map(HostRows::new);
    let q = HostRows::new(q.into());
    let sinks = by.sinks.map(|sinks| whole(flat(sinks.cast(DType::F32))));
    let read = Attend {
        q: q.head_rows(),
        k: k.head_rows(),
        v: v.head_rows(),
        scale: by.scale as f32,
        soft_cap: by.soft_cap.map(|cap| cap as f32),
        sinks: sinks.as_ref().map(|sinks| sinks.storage()),
        first: by.first,
    };
    let read = TensorData::new(read.run(), [b, t, h, e]);
    Tensor::<4>::from_data(read, (&device, DType::F32)).swap_dims(1, 2)
}

/// Rows of heads in host memory.
enum HostRows {
    Plain(HostTensor),
    /// Words, factors, and features of a row.
    Scaled(IntTensor<Flex>, HostTensor, usize),
}

impl HostRows {
    fn new(rows: KeptRows) -> Self {
        match rows {
            KeptRows::Plain(rows) => Self::Plain(in_pieces(flat(rows))),
            KeptRows::Scaled(rows) => {
                let words = rows.words.without_autodiff().into_dispatch();
                let words =
                    <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(words);
                let words = words.expect("words are where their factors are").int();
                let scales = in_pieces(flat(rows.scales));
                Self::Scaled(in_pieces(words), scales, rows.features)
            }
        }
    }

    /// The rows where they lie.
    fn head_rows(&self) -> HeadRows<'_> {
        match self {
            Self::Plain(rows) => {
                let (shape, start, strides) = place(rows);
                HeadRows {
                    values: match rows.dtype() {
                        DType::F16 => HeadValues::F16(rows.storage::<f16>()),
                        DType::BF16 => HeadValues::Bf16(rows.storage::<bf16>()),
                        _ => HeadValues::F32(rows.storage::<f32>()),
                    },
                    shape,
                    start,
                    strides,
                }
            }
            Self::Scaled(words, scales, features) => {
                let ([b, n, s, _], start, strides) = place(words);
                let (_, first, apart) = place(scales);
                let scales = RowScales {
                    values: scales.storage(),
                    start: first,
                    strides: apart,
                };
                let codes = bytemuck::cast_slice(words.storage::<i32>());
                HeadRows {
                    values: HeadValues::Scaled(codes, scales),
                    shape: [b, n, s, *features],
                    // Four to a word.
                    start: 4 * start,
                    strides: strides.map(|stride| 4 * stride),
                }
            }
        }
    }
}

/// Shape, first number, and strides of all dimensions but the last.
fn place(x: &HostTensor) -> ([usize; 4], usize, [usize; 3]) {
    let (shape, layout) = (x.shape(), x.layout());
    let strides = layout.strides();
    (
        core::array::from_fn(|dim| shape[dim]),
        layout.start_offset(),
        core::array::from_fn(|dim| strides[dim].unsigned_abs()),
    )
}

/// The tensor of the backend.
///
/// # Panics
///
/// For a tensor that [`reads`] is false for: a bug of ours.
fn flat<const D: usize>(x: Tensor<D>) -> HostTensor {
    let x = x.without_autodiff().into_dispatch();
    let x = <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(x);
    x.expect("the tensor was asked for its device before")
        .float()
}

/// Values that lie one after another, from the first of the memory on.
fn whole(x: HostTensor) -> HostTensor {
    x.to_contiguous()
}

/// Rows that lie anywhere, each in one piece.
fn in_pieces(x: HostTensor) -> HostTensor {
    let strides = x.layout().strides();
    let lies = strides.last() == Some(&1) && strides.iter().all(|stride| *stride >= 0);
    match lies {
        true => x,
        false => x.to_contiguous(),
    }
}

/// `x` with its values changed by `change`: in their own memory where nobody else reads them, else in a copy.
fn changed<const D: usize>(x: Tensor<D>, change: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let x = flat(x);
    let mut own = x.to_contiguous();
    // Or it would be one of two owners.
    drop(x);
    change(own.storage_mut());
    let own = BackendTensor::Float(own);
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<Flex>>::from_backend(own))
}
