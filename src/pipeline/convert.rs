//! Converting: source bytes of one tensor, tile by tile, into its finished weight.

use burn::tensor::{Element, TensorData};
use firebox_kernels::{
    float::FloatBits,
    format::{Format, Packed},
    packer::Packer,
};
use half::{bf16, f16, vec::HalfBitsVecExt};
use rayon::{ThreadPool, prelude::*};

use super::{PipelineError, Settings, read::Tile, upload::DevicePacker};
use crate::{
    plan::{Action, Step, Stored},
    quant::PackedWeight,
    source::TensorInfo,
    target::DType,
};

/// A finished weight.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Plain numbers in the tensor's own order, in host memory.
    Dense(Dense),
    /// Packed words in host memory.
    Packed(Packed),
    /// Packed on the device of [`Settings::device`](super::Settings), in parts of whole rows that are
    /// no larger than [`Settings::allocation_max`](super::Settings).
    Placed(Vec<PackedWeight>),
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
    Pack(Pack),
    Device(DevicePacker),
    /// The bytes of each part of a packed weight, in words.
    Adopt(Vec<Vec<u32>>),
}

/// A packer, and the words it writes.
pub(super) struct Pack {
    packer: Box<dyn Packer>,
    /// All of the weight, zeros until they are written.
    words: Vec<u32>,
}

impl Converter {
    pub(super) fn new(step: &Step, settings: &Settings<'_>) -> Result<Self, PipelineError> {
        let [rows, cols] = step.matrix();
        match (&step.source, &step.action) {
            (Stored::Packed(adopt), _) => {
                let words = |part: &TensorInfo| vec![0; part.bytes().div_ceil(4) as usize];
                Ok(Self::Adopt(adopt.parts.iter().map(words).collect()))
            }
            (Stored::Plain(_), Action::Keep(_)) => {
                unreachable!("what is kept packed was stored packed")
            }
            (Stored::Plain(source), Action::Dense(dtype)) => Ok(Self::Dense {
                source: *source,
                cols,
                values: Dense::zeros(*dtype, rows * cols),
            }),
            (Stored::Plain(source), Action::Pack(spec, format)) => {
                let refused = |source| PipelineError::Format {
                    tensor: step.slot.name.clone(),
                    source,
                };
                let method = spec
                    .method()
                    .expect("a step is packed because its spec has a method");
                match (settings.device, method.packing()) {
                    // A weight without numbers has no tile to upload.
                    (Some(device), Some(packing)) if rows * cols > 0 => {
                        DevicePacker::new(step, packing, device, settings.allocation_max)
                            .map(Self::Device)
                            .map_err(refused)
                    }
                    _ => {
                        let packer = method.packer([rows, cols], *source).map_err(refused)?;
                        Pack::new(step, *format, packer).map(Self::Pack)
                    }
                }
            }
        }
    }

    /// How often the source has to be read.
    pub(super) fn passes(&self) -> usize {
        match self {
            Self::Dense { .. } | Self::Adopt(_) => 1,
            Self::Pack(pack) => pack.packer.passes(),
            Self::Device(packer) => packer.passes(),
        }
    }

    /// Rows that a tile is a multiple of, and the most that it may have.
    pub(super) fn tile_rows(&self) -> [usize; 2] {
        match self {
            Self::Dense { .. } | Self::Adopt(_) => [1, usize::MAX],
            Self::Pack(pack) => [pack.packer.tile_rows(), usize::MAX],
            Self::Device(packer) => packer.tile_rows(),
        }
    }

    /// Whether tiles are handed on to a device, and so are wanted in memory that it reads from.
    pub(super) fn uploads(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Takes a tile: spread over `workers`, or by the device.
    pub(super) fn feed(
        &mut self,
        step: &Step,
        mut tile: Tile<'_>,
        workers: &ThreadPool,
    ) -> Result<(), PipelineError> {
        let (pass, first_row) = (tile.pass, tile.first_row);
        if !step.scaling.is_none() {
            let (float, [_, cols]) = (step.float(), step.matrix());
            if let Self::Dense { values, .. } = self {
                workers.install(|| {
                    let scaled = step.scaling.widen(float, first_row, cols, tile.bytes());
                    let bytes = bytemuck::cast_slice(&scaled);
                    values.feed(FloatBits::F32, first_row * cols, bytes);
                });
                return Ok(());
            }
            // What is packed is scaled where it lies, in its own type: that is what the plan's format and a device's
            // kernels go by.
            let len = tile.rows * cols * float.size();
            let bytes = &mut tile.bytes_mut()[..len];
            workers.install(|| step.scaling.apply_stored(float, first_row, cols, bytes));
        }
        match self {
            Self::Pack(pack) => workers.install(|| pack.feed(&tile)),
            Self::Dense {
                source,
                cols,
                values,
            } => workers.install(|| values.feed(*source, first_row * *cols, tile.bytes())),
            Self::Device(packer) => return packer.feed(step, tile),
            Self::Adopt(parts) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut parts[pass]);
                bytes[first_row..][..tile.bytes().len()].copy_from_slice(tile.bytes());
            }
        }
        Ok(())
    }

    /// The finished weight of `step`.
    pub(super) fn finish(self, step: &Step) -> Result<Finished, PipelineError> {
        match self {
            Self::Dense { values, .. } => Ok(Finished::Dense(values)),
            Self::Device(packer) => Ok(Finished::Placed(packer.finish())),
            Self::Adopt(parts) => adopt(step, parts),
            Self::Pack(pack) => pack.finish(step),
        }
    }
}

/// A packer may be the caller's own, so what it makes is checked.
impl Pack {
    fn new(step: &Step, planned: Format, packer: Box<dyn Packer>) -> Result<Self, PipelineError> {
        let (format, shape) = (packer.format(), packer.shape());
        if (format, shape) != (planned, step.matrix()) {
            return Err(PipelineError::NotAsPlanned {
                tensor: step.slot.name.clone(),
                format,
                shape,
            });
        }
        Ok(Self {
            packer,
            words: vec![0; format.words_len(shape)],
        })
    }

    fn feed(&mut self, tile: &Tile<'_>) {
        let (format, [_, cols]) = (self.packer.format(), self.packer.shape());
        let words = if tile.pass + 1 == self.packer.passes() {
            let from = format.words_len([tile.first_row, cols]);
            &mut self.words[from..][..format.words_len([tile.rows, cols])]
        } else {
            &mut []
        };
        let (pass, first_row) = (tile.pass, tile.first_row);
        self.packer.feed(pass, first_row, tile.bytes(), words);
    }

    fn finish(self, step: &Step) -> Result<Finished, PipelineError> {
        let (format, shape) = (self.packer.format(), self.packer.shape());
        Packed::new(format, shape, self.words, self.packer.finish())
            .map(Finished::Packed)
            .map_err(|source| PipelineError::Format {
                tensor: step.slot.name.clone(),
                source,
            })
    }
}

/// A weight that was packed in the checkpoint: kept so, or given back.
fn adopt(step: &Step, parts: Vec<Vec<u32>>) -> Result<Finished, PipelineError> {
    let Stored::Packed(adopt) = &step.source else {
        unreachable!("plain numbers have no parts");
    };
    let packed = adopt.assemble(step.matrix(), parts)?;
    match step.action {
        Action::Dense(dtype) => Ok(Finished::Dense(Dense::given_back(dtype, &packed))),
        _ => Ok(Finished::Packed(packed)),
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

    /// What `packed` gives back.
    fn given_back(dtype: DType, packed: &Packed) -> Self {
        let [rows, cols] = packed.shape;
        let mut dense = Self::zeros(dtype, rows * cols);
        let together = (CHUNK / cols.max(1)).max(1);
        let mut values = vec![0.0; together * cols];
        for first in (0..rows).step_by(together) {
            let rows = first..rows.min(first + together);
            let values = &mut values[..rows.len() * cols];
            let Packed { format, shape, .. } = packed;
            format.dequantize_rows(*shape, &packed.words, &packed.scales, rows, values);
            dense.feed(FloatBits::F32, first * cols, bytemuck::cast_slice(values));
        }
        dense
    }

    /// The numbers from the one at `first` on.
    pub(crate) fn widen(&self, first: usize, out: &mut [f32]) {
        fn each<V: Copy>(values: &[V], out: &mut [f32], widen: impl Fn(V) -> f32) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = widen(*value);
            }
        }
        match self {
            Self::F32(values) => each(&values[first..], out, |value| value),
            Self::F16(values) => each(&values[first..], out, f16::to_f32),
            Self::Bf16(values) => each(&values[first..], out, bf16::to_f32),
        }
    }

    /// Without a copy.
    pub(super) fn into_data(self) -> (DType, TensorData) {
        fn flat<E: Element>(values: Vec<E>) -> TensorData {
            let len = values.len();
            TensorData::new(values, [len])
        }
        match self {
            Self::F32(values) => (DType::F32, flat(values)),
            Self::F16(values) => (DType::F16, flat(values)),
            Self::Bf16(values) => (DType::Bf16, flat(values)),
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
