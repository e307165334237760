//! [`QuantBackend`] by the host halves of the formats, for backends whose tensors are host memory.

use core::ops::Range;
use std::borrow::Cow;

use burn::{
    backend::{
        Backend, TensorMetadata,
        ops::{FloatTensorOps, IntTensorOps},
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType as BurnDType, Element, FloatDType, TensorData, read_sync},
};
use firebox_kernels::{
    arith::{float::DType, number::Number, pack},
    compare,
    format::Packed,
    formats::nested,
    linear, packer,
};
use half::{bf16, f16, vec::HalfBitsVecExt};

use super::{
    ops::{PackedParts, QuantBackend, SourceRows, planned},
    packed::Layout,
};

macro_rules! host_ops {
    ($backend:ty) => {
        impl QuantBackend for $backend {
            fn packed_dequantize(
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                rows: Range<usize>,
                dtype: FloatDType,
            ) -> FloatTensor<Self> {
                let device = words.device();
                let len = rows.len() * layout.shape[1];
                let weights = Self::lend([words, scales], |parts| match dtype {
                    FloatDType::F16 => {
                        unpacked(vec![0; len].reinterpret_into::<f16>(), layout, parts, rows)
                    }
                    FloatDType::BF16 => {
                        unpacked(vec![0; len].reinterpret_into::<bf16>(), layout, parts, rows)
                    }
                    _ => unpacked(vec![0f32; len], layout, parts, rows),
                });
                placed::<Self>(weights, dtype, &device)
            }

            fn packed_linear(
                x: FloatTensor<Self>,
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                compute: linear::Compute,
            ) -> FloatTensor<Self> {
                let (device, dtype) = (x.device(), x.dtype().into());
                let Layout { format, shape } = layout;
                let rows = x.shape()[0];
                let x = floats::<Self>(x);
                let mut y = vec![0.0; rows * shape[0]];
                Self::lend([words, scales], |[words, scales]| {
                    linear::linear_in(compute, format, shape, words, scales, &x, &mut y);
                });
                placed::<Self>(TensorData::new(y, [rows, shape[0]]), dtype, &device)
            }

            fn packed_rows(
                ids: IntTensor<Self>,
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                dtype: FloatDType,
            ) -> FloatTensor<Self> {
                let device = words.device();
                let ids: Vec<usize> = host(Self::int_into_data(ids))
                    .iter::<i64>()
                    .map(|id| usize::try_from(id).expect("a token id is not negative"))
                    .collect();
                let len = ids.len() * layout.shape[1];
                let found = Self::lend([words, scales], |parts| match dtype {
                    FloatDType::F16 => {
                        embedded(vec![0; len].reinterpret_into::<f16>(), layout, parts, &ids)
                    }
                    FloatDType::BF16 => {
                        embedded(vec![0; len].reinterpret_into::<bf16>(), layout, parts, &ids)
                    }
                    _ => embedded(vec![0f32; len], layout, parts, &ids),
                });
                placed::<Self>(found, dtype, &device)
            }

            fn packed_bits(x: FloatTensor<Self>) -> IntTensor<Self> {
                let device = x.device();
                let data = host(Self::float_into_data(x));
                let words = pack::from_bytes(data.as_bytes());
                words_tensor::<Self>(words, &device)
            }

            fn packed_absmax(bits: IntTensor<Self>, rows: SourceRows) -> IntTensor<Self> {
                let device = bits.device();
                let mut largest = 0.0;
                Self::lend([bits], |[bits]| {
                    largest = rows.source.absmax(&rows.bytes(bits));
                });
                words_tensor::<Self>(vec![largest.to_bits()], &device)
            }

            /// The rows are the whole weight here: nobody has to cut one that is in this memory already.
            fn packed_quantize(
                bits: IntTensor<Self>,
                _absmax: IntTensor<Self>,
                rows: SourceRows,
            ) -> PackedParts<Self> {
                let device = bits.device();
                let packer = planned(rows.packing.plain().packer(rows.shape, rows.source));
                let (mut words, mut scales) = (Vec::new(), Vec::new());
                Self::lend([bits], |[bits]| {
                    let packed = packer::pack_whole(packer, &rows.bytes(bits));
                    (words, scales) = (packed.words, packed.scales);
                });
                PackedParts {
                    words: words_tensor::<Self>(words, &device),
                    scales: words_tensor::<Self>(scales, &device),
                }
            }

            fn packed_nest(scales: IntTensor<Self>) -> IntTensor<Self> {
                let device = scales.device();
                let mut nested = Vec::new();
                Self::lend([scales], |[scales]| {
                    let absmax: Vec<f32> = scales.iter().copied().map(f32::from_bits).collect();
                    nested = nested::quantize(&absmax);
                });
                words_tensor::<Self>(nested, &device)
            }

            /// Nothing is sent to be lost; the sum is the first word.
            fn packed_checksums(bits: IntTensor<Self>) -> IntTensor<Self> {
                let device = bits.device();
                let mut sum = 0;
                Self::lend([bits], |[bits]| {
                    sum = bits.iter().copied().fold(0, u32::wrapping_add);
                });
                words_tensor::<Self>(vec![sum], &device)
            }

            fn packed_compare(
                bits: IntTensor<Self>,
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                source: DType,
            ) -> IntTensor<Self> {
                let device = bits.device();
                let mut sums = Vec::new();
                Self::lend([bits, words, scales], |[bits, words, scales]| {
                    let Layout { format, shape } = layout;
                    let len = shape[0] * shape[1] * source.size();
                    let packed = Packed {
                        format,
                        shape,
                        words: words.to_vec(),
                        scales: scales.to_vec(),
                    };
                    let bytes = &bytemuck::cast_slice(bits)[..len];
                    sums = compare::host(source, bytes, &packed).to_words().into();
                });
                words_tensor::<Self>(sums, &device)
            }
        }
    };
}

#[cfg(feature = "cpu")]
host_ops!(burn::backend::Flex);

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "it is a target for as long as Burn has it")]
mod ndarray {
    use super::*;

    host_ops!(burn::backend::NdArray);
}

/// Lends words where they are: a packed weight is never copied to be multiplied.
trait Lend: Backend {
    fn lend<const N: usize, R>(
        tensors: [IntTensor<Self>; N],
        run: impl FnOnce([&[u32]; N]) -> R,
    ) -> R;
}

#[cfg(feature = "cpu")]
impl Lend for burn::backend::Flex {
    fn lend<const N: usize, R>(
        tensors: [IntTensor<Self>; N],
        run: impl FnOnce([&[u32]; N]) -> R,
    ) -> R {
        let tensors = tensors.map(|tensor| tensor.to_contiguous());
        run(tensors.each_ref().map(|tensor| tensor.storage::<u32>()))
    }
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "it is a target for as long as Burn has it")]
impl Lend for burn::backend::NdArray {
    fn lend<const N: usize, R>(
        tensors: [IntTensor<Self>; N],
        run: impl FnOnce([&[u32]; N]) -> R,
    ) -> R {
        type Ints = IntTensor<burn::backend::NdArray>;
        let views = tensors.each_ref().map(|tensor| match tensor {
            Ints::U32(words) => words.view(),
            _ => panic!("words are u32 on every backend"),
        });
        run(views
            .each_ref()
            .map(|words| words.as_slice().expect("words lie one after another")))
    }
}

impl SourceRows {
    /// These rows' own bytes, without the padding of the last word.
    fn bytes<'a>(&self, bits: &'a [u32]) -> Cow<'a, [u8]> {
        let len = self.shape[0] * self.shape[1] * self.source.size();
        if cfg!(target_endian = "little") {
            Cow::Borrowed(&bytemuck::cast_slice(bits)[..len])
        } else {
            Cow::Owned(pack::to_bytes(bits, len))
        }
    }
}

fn words_tensor<B: Backend>(words: Vec<u32>, device: &B::Device) -> IntTensor<B> {
    let len = words.len();
    B::int_from_data(TensorData::new(words, [len]), device)
}

/// Host tensors are read without waiting on any device.
fn host(
    data: impl Future<Output = Result<TensorData, burn::backend::ExecutionError>>,
) -> TensorData {
    read_sync(data).expect("a host tensor can always be read")
}

fn floats<B: Backend>(tensor: FloatTensor<B>) -> Vec<f32> {
    let data = host(B::float_into_data(tensor)).convert_dtype(BurnDType::F32);
    data.try_into_vec()
        .expect("converted to f32 one line above")
}

/// These rows of a weight.
fn unpacked<T: Number + Element>(
    mut out: Vec<T>,
    Layout { format, shape }: Layout,
    [words, scales]: [&[u32]; 2],
    rows: Range<usize>,
) -> TensorData {
    let found = [rows.len(), shape[1]];
    format.dequantize_rows(shape, words, scales, rows, &mut out);
    TensorData::new(out, found)
}

/// The rows `ids` of a weight.
fn embedded<T: Number + Element>(
    mut out: Vec<T>,
    Layout { format, shape }: Layout,
    [words, scales]: [&[u32]; 2],
    ids: &[usize],
) -> TensorData {
    linear::rows(format, shape, words, scales, ids, &mut out).expect("an id is a row of the table");
    TensorData::new(out, [ids.len(), shape[1]])
}

fn placed<B: Backend>(values: TensorData, dtype: FloatDType, device: &B::Device) -> FloatTensor<B> {
    B::float_from_data(values.convert_dtype(dtype.into()), device)
}
