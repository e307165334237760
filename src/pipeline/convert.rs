//! Converting: source bytes of one tensor, tile by tile, into its finished weight on the host.

use firebox_kernels::{error::FormatError, float::FloatBits, format::Packed, packer::Packer};
use half::{bf16, f16, vec::HalfBitsVecExt};
use rayon::prelude::*;

use super::PipelineError;
use crate::{
    plan::{Action, Step},
    target::DType,
};

/// A finished weight in host memory.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Plain numbers in the tensor's own order.
    Dense(Dense),
    /// Packed words.
    Packed(Packed),
}

/// Plain numbers.
#[derive(Debug, Clone)]
pub enum Dense {
    /// IEEE single.
    F32(Vec<f32>),
    /// IEEE half.
    F16(Vec<f16>),
    /// The upper half of an IEEE single.
    Bf16(Vec<bf16>),
}

/// Turns one tensor's tiles into its finished weight.
pub(super) enum Converter {
    Dense {
        source: FloatBits,
        cols: usize,
        values: Dense,
    },
    Pack(Box<dyn Packer>),
}

impl Converter {
    pub(super) fn new(step: &Step) -> Result<Self, FormatError> {
        let [rows, cols] = step.matrix();
        match &step.action {
            Action::Dense(dtype) => {
                let values = Dense::zeros(*dtype, rows * cols);
                Ok(Self::Dense {
                    source: step.source,
                    cols,
                    values,
                })
            }
            Action::Pack(spec, _) => {
                let method = spec
                    .method()
                    .expect("a step is packed because its spec has a method");
                method.packer([rows, cols], step.source).map(Self::Pack)
            }
        }
    }

    /// How often the source has to be read.
    pub(super) fn passes(&self) -> usize {
        match self {
            Self::Dense { .. } => 1,
            Self::Pack(packer) => packer.passes(),
        }
    }

    /// Rows that have to stay together.
    pub(super) fn tile_rows(&self) -> usize {
        match self {
            Self::Dense { .. } => 1,
            Self::Pack(packer) => packer.tile_rows(),
        }
    }

    /// Takes the rows from `first_row` on, spread over the current rayon pool.
    pub(super) fn feed(&mut self, pass: usize, first_row: usize, bytes: &[u8]) {
        match self {
            Self::Pack(packer) => packer.feed(pass, first_row, bytes),
            Self::Dense {
                source,
                cols,
                values,
            } => values.feed(*source, first_row * *cols, bytes),
        }
    }

    /// The finished weight of `step`. A packer may be the caller's own, so what it made is checked.
    pub(super) fn finish(self, step: &Step) -> Result<Finished, PipelineError> {
        let packer = match self {
            Self::Dense { values, .. } => return Ok(Finished::Dense(values)),
            Self::Pack(packer) => packer,
        };
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packer.finish();
        let tensor = || step.slot.name.clone();
        match &step.action {
            Action::Pack(_, planned) if (*planned, step.matrix()) == (format, shape) => {}
            _ => {
                return Err(PipelineError::NotAsPlanned {
                    tensor: tensor(),
                    format,
                    shape,
                });
            }
        }
        let packed = Packed::new(format, shape, words, scales);
        packed
            .map(Finished::Packed)
            .map_err(|source| PipelineError::Format {
                tensor: tensor(),
                source,
            })
    }
}

/// Weights that one worker converts at a time.
const CHUNK: usize = 64 << 10;

impl Dense {
    fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(vec![0.0; len]),
            // Zeros of an integer come from the system and cost nothing until they are written.
            DType::F16 => Self::F16(vec![0_u16; len].reinterpret_into()),
            DType::Bf16 => Self::Bf16(vec![0_u16; len].reinterpret_into()),
        }
    }

    /// Rounds to nearest even where the type gets narrower; a half stays the same half to the bit.
    fn feed(&mut self, source: FloatBits, first: usize, bytes: &[u8]) {
        match (self, source) {
            (Self::F32(values), _) => {
                fill(values, source, first, bytes, |bytes, out| {
                    source.widen(bytes, out);
                });
            }
            (Self::F16(values), FloatBits::F16) => {
                fill(values, source, first, bytes, copy(f16::from_le_bytes));
            }
            (Self::Bf16(values), FloatBits::Bf16) => {
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
    source: FloatBits,
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

fn narrow<V>(source: FloatBits, round: impl Fn(f32) -> V) -> impl Fn(&[u8], &mut [V]) {
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
