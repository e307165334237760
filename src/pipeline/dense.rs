//! Dense values in host memory: converted for a weight, or shared with the source.

use burn::tensor::{AllocationProperty, Element, TensorData};
use firebox_kernels::arith::float::DType;
use half::{bf16, f16, slice::HalfFloatSliceExt, vec::HalfBitsVecExt};
use rayon::prelude::*;

use super::{error::PipelineError, pages};
use crate::{
    plan::{CHUNK, Step},
    source::Bytes,
    target::ToBurn,
};

/// The dense values of a finished weight, in host memory.
#[derive(Debug, Clone)]
pub enum Dense {
    /// Values in memory of this weight.
    Owned(Values),
    /// Values in memory of the source (a mapped file, for example), in the machine's byte order and aligned. Nobody
    /// writes to them.
    Shared(DType, Bytes),
}

/// Dense values in memory that may be written.
#[derive(Debug, Clone)]
pub enum Values {
    /// IEEE single precision.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// The upper half of an IEEE single.
    Bf16(Vec<bf16>),
}

impl Dense {
    /// A copy of little-endian bytes of values of `dtype`.
    pub(crate) fn copied(dtype: DType, bytes: &[u8]) -> Self {
        let halves = || bytemuck::pod_collect_to_vec::<u8, u16>(bytes);
        Self::Owned(match dtype {
            DType::F32 => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
            DType::F16 => Values::F16(halves().reinterpret_into()),
            DType::Bf16 => Values::Bf16(halves().reinterpret_into()),
        })
    }

    /// `bytes` of the source as values of `dtype`, if their alignment and byte order allow it.
    pub(super) fn shared(dtype: DType, bytes: Bytes) -> Option<Self> {
        let aligned = bytes.as_ptr().addr().is_multiple_of(dtype.size());
        (cfg!(target_endian = "little") && aligned).then_some(Self::Shared(dtype, bytes))
    }

    /// The type of the values.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Owned(values) => values.dtype(),
            Self::Shared(dtype, _) => *dtype,
        }
    }

    /// The values as bytes, in the machine's order.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(values) => values.bytes(),
            Self::Shared(_, bytes) => bytes,
        }
    }

    /// Writes the values that begin with the one at `first` to `out`, as `f32`.
    pub(crate) fn widen(&self, first: usize, out: &mut [f32]) {
        fn each<V: Copy>(values: &[V], out: &mut [f32], widen: impl Fn(V) -> f32) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = widen(*value);
            }
        }
        match self {
            Self::Owned(Values::F32(values)) => each(&values[first..], out, |value| value),
            Self::Owned(Values::F16(values)) => each(&values[first..], out, f16::to_f32),
            Self::Owned(Values::Bf16(values)) => each(&values[first..], out, bf16::to_f32),
            Self::Shared(dtype, bytes) => {
                let size = dtype.size();
                dtype.widen(&bytes[first * size..][..out.len() * size], out);
            }
        }
    }

    /// Makes tensor data of the values, without a copy.
    pub(crate) fn into_data(self) -> (DType, TensorData) {
        fn flat<E: Element>(values: Vec<E>) -> TensorData {
            let len = values.len();
            TensorData::new(values, [len])
        }
        match self {
            Self::Owned(Values::F32(values)) => (DType::F32, flat(values)),
            Self::Owned(Values::F16(values)) => (DType::F16, flat(values)),
            Self::Owned(Values::Bf16(values)) => (DType::Bf16, flat(values)),
            Self::Shared(dtype, bytes) => {
                let len = bytes.len() / dtype.size();
                let bytes = burn::tensor::Bytes::from_shared(bytes, AllocationProperty::Other);
                let data = TensorData::from_bytes(bytes, [len], dtype.burn().into());
                (dtype, data)
            }
        }
    }
}

impl Values {
    /// `len` zeros for `step`. Their pages take memory when they are first written.
    pub(super) fn zeros(step: &Step, dtype: DType, len: usize) -> Result<Self, PipelineError> {
        Ok(match dtype {
            DType::F32 => Self::F32(pages::zeros(step, len)?),
            DType::F16 => Self::F16(pages::zeros::<u16>(step, len)?.reinterpret_into()),
            DType::Bf16 => Self::Bf16(pages::zeros::<u16>(step, len)?.reinterpret_into()),
        })
    }

    /// The type of the values.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
        }
    }

    /// The values as bytes, in the machine's order.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::F16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Self::Bf16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice_mut(values),
            Self::F16(values) => bytemuck::cast_slice_mut(values.reinterpret_cast_mut()),
            Self::Bf16(values) => bytemuck::cast_slice_mut(values.reinterpret_cast_mut()),
        }
    }

    /// Converts stored values of `source` to those that begin with the one at `first`. Rounds to nearest even where the
    /// type gets narrower; a half of the same type stays as it is to the bit.
    pub(super) fn convert(&mut self, source: DType, first: usize, bytes: &[u8]) {
        match (self, source) {
            (Self::F32(values), _) => fill(values, source, first, bytes, |bytes, out| {
                source.widen(bytes, out);
            }),
            (Self::F16(values), DType::F16) => {
                fill(values, source, first, bytes, copy(f16::from_le_bytes));
            }
            (Self::Bf16(values), DType::Bf16) => {
                fill(values, source, first, bytes, copy(bf16::from_le_bytes));
            }
            (Self::F16(values), _) => {
                fill(values, source, first, bytes, narrow(source, f16::from_f32));
            }
            (Self::Bf16(values), _) => {
                fill(values, source, first, bytes, narrow(source, bf16::from_f32));
            }
        }
    }
}

fn fill<V: Send>(
    values: &mut [V],
    source: DType,
    first: usize,
    bytes: &[u8],
    convert: impl Fn(&[u8], &mut [V]) + Sync,
) {
    values[first..first + bytes.len() / source.size()]
        .par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * source.size()))
        .for_each(|(values, bytes)| convert(bytes, values));
}

fn copy<V>(read: impl Fn([u8; 2]) -> V) -> impl Fn(&[u8], &mut [V]) {
    move |bytes, out| {
        for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *value = read(*bytes);
        }
    }
}

fn narrow<V>(source: DType, round: impl Fn(f32) -> V) -> impl Fn(&[u8], &mut [V]) {
    move |bytes, out| {
        let mut wide = [0.0; 256];
        for (out, bytes) in out
            .chunks_mut(wide.len())
            .zip(bytes.chunks(wide.len() * source.size()))
        {
            let wide = &mut wide[..out.len()];
            source.widen(bytes, wide);
            for (value, wide) in out.iter_mut().zip(wide) {
                *value = round(*wide);
            }
        }
    }
}
