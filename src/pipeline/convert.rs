//! Converting: source bytes of one tensor, tile by tile, into its finished weight.

use burn::tensor::{AllocationProperty, Element, TensorData};
use firebox_kernels::{error::FormatError, float::DType, format::Packed, packer::Packer};
use half::{bf16, f16, slice::HalfFloatSliceExt, vec::HalfBitsVecExt};
use rayon::{ThreadPool, prelude::*};

use super::{PipelineError, Settings, pages, read::Tile, upload::DevicePacker};
use crate::{
    plan::{Action, Step, Stored},
    quant::PackedWeight,
    source::{Bytes, TensorInfo},
    target::ToBurn,
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
    /// Its rows have come in pieces, to a sink that takes them so: the scales are left, none of plain numbers.
    Pieces(Vec<u32>),
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
    /// Numbers of some type where the source has them, in the machine's order and aligned; never changed.
    Shared(DType, Bytes),
}

/// Some rows of a weight, for a sink that takes it as it comes.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Plain numbers.
    Dense(Dense),
    /// Packed words.
    Words {
        /// Rows that they are of.
        rows: usize,
        /// Their words.
        words: Vec<u32>,
    },
}

/// Turns one tensor's tiles into its finished weight.
pub(super) enum Converter {
    /// Nothing to do: the reader reads to where the weight stays.
    Direct,
    Dense {
        source: DType,
        cols: usize,
        values: Dense,
    },
    Pack {
        packer: Box<dyn Packer>,
        /// Of the whole weight.
        words: Vec<u32>,
        /// Words that are chosen already.
        done: usize,
    },
    /// What the sink takes as it comes: nothing of the weight stays here but its scales, if it is packed.
    Pieces {
        source: DType,
        into: Pieces,
    },
    Device(DevicePacker),
    /// The bytes of each part of a packed weight, in words.
    Adopt(Vec<Vec<u32>>),
}

/// What the rows of a weight become.
pub(super) enum Pieces {
    Dense(DType),
    Words(Box<dyn Packer>),
}

impl Converter {
    /// `whole` says whether the weight is finished in one piece.
    pub(super) fn new(
        step: &Step,
        settings: &Settings<'_>,
        whole: bool,
    ) -> Result<Self, FormatError> {
        let shape @ [rows, cols] = step.matrix();
        let source = match step.source {
            Stored::Plain(source) => source,
            Stored::Packed(ref adopt) => {
                let words = |part: &TensorInfo| vec![0; part.bytes().div_ceil(4) as usize];
                return Ok(Self::Adopt(adopt.parts.iter().map(words).collect()));
            }
        };
        let pieces = |into| Self::Pieces { source, into };
        Ok(match &step.action {
            Action::Keep(_) => unreachable!("what is kept packed was stored packed"),
            Action::Dense(dtype) if !whole => pieces(Pieces::Dense(*dtype)),
            // Bytes of a file are numbers as they are on machines of their order.
            Action::Dense(dtype)
                if *dtype == source && step.scaling.is_none() && cfg!(target_endian = "little") =>
            {
                Self::Direct
            }
            Action::Dense(dtype) => Self::Dense {
                source,
                cols,
                values: Dense::zeros(*dtype, rows * cols),
            },
            Action::Pack(spec, _) => {
                let method = spec
                    .method()
                    .expect("a step is packed because its spec has a method");
                match (settings.device, method.packing()) {
                    // A weight without numbers has no tile to upload.
                    (Some(device), Some(packing)) if rows * cols > 0 => {
                        DevicePacker::new(step, packing, device, settings.allocation_max)
                            .map(Self::Device)?
                    }
                    _ => {
                        let packer = method.packer(shape, source)?;
                        if whole {
                            let words = packer.format().words_len(packer.shape());
                            let (words, done) = (pages::zeros(words), 0);
                            Self::Pack {
                                packer,
                                words,
                                done,
                            }
                        } else {
                            pieces(Pieces::Words(packer))
                        }
                    }
                }
            }
        })
    }

    /// How often the source has to be read.
    pub(super) fn passes(&self) -> usize {
        match self {
            Self::Direct | Self::Dense { .. } | Self::Adopt(_) => 1,
            Self::Pack { packer, .. } => packer.passes(),
            Self::Pieces { into, .. } => match into {
                Pieces::Dense(_) => 1,
                Pieces::Words(packer) => packer.passes(),
            },
            Self::Device(packer) => packer.passes(),
        }
    }

    /// Rows that a tile is a multiple of, and the most that it may have.
    pub(super) fn tile_rows(&self) -> [usize; 2] {
        let most = usize::MAX;
        match self {
            Self::Direct | Self::Dense { .. } | Self::Adopt(_) => [1, most],
            Self::Pack { packer, .. } => [packer.tile_rows(), most],
            Self::Pieces { into, .. } => match into {
                Pieces::Dense(_) => [1, most],
                Pieces::Words(packer) => [packer.tile_rows(), most],
            },
            Self::Device(packer) => packer.tile_rows(),
        }
    }

    /// Whether tiles are handed on to a device, and so are wanted in memory that it reads from.
    pub(super) fn uploads(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Takes a tile: spread over `workers`, or by the device. Gives what a sink takes at once.
    pub(super) fn feed(
        &mut self,
        step: &Step,
        mut tile: Tile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<Piece>, PipelineError> {
        let (pass, first_row) = (tile.pass, tile.first_row);
        if !step.scaling.is_none() {
            let (float, [_, cols]) = (step.float(), step.matrix());
            if let Self::Dense { .. }
            | Self::Pieces {
                into: Pieces::Dense(_),
                ..
            } = self
            {
                return Ok(workers.install(|| {
                    let scaled = step.scaling.widen(float, first_row, cols, tile.bytes());
                    self.feed_dense(DType::F32, first_row, bytemuck::cast_slice(&scaled))
                }));
            }
            // What is packed is scaled where it lies, in its own type: that is what the plan's format and a device's
            // kernels go by.
            let len = tile.rows * cols * float.size();
            let bytes = &mut tile.bytes_mut()[..len];
            workers.install(|| step.scaling.apply_stored(float, first_row, cols, bytes));
        }
        match self {
            Self::Direct => unreachable!("nobody reads tiles of what is read to its place"),
            Self::Dense { source, .. }
            | Self::Pieces {
                source,
                into: Pieces::Dense(_),
                ..
            } => {
                let source = *source;
                return Ok(workers.install(|| self.feed_dense(source, first_row, tile.bytes())));
            }
            Self::Pack {
                packer,
                words,
                done,
            } => {
                let len = words_len(&**packer, &tile);
                let words = &mut words[*done..][..len];
                *done += len;
                workers.install(|| packer.feed(pass, first_row, tile.bytes(), words));
            }
            Self::Pieces {
                into: Pieces::Words(packer),
                ..
            } => {
                let mut words = vec![0; words_len(&**packer, &tile)];
                workers.install(|| packer.feed(pass, first_row, tile.bytes(), &mut words));
                let rows = tile.rows;
                return Ok((!words.is_empty()).then_some(Piece::Words { rows, words }));
            }
            Self::Device(packer) => packer.feed(step, tile)?,
            Self::Adopt(parts) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut parts[pass]);
                bytes[first_row..][..tile.bytes().len()].copy_from_slice(tile.bytes());
            }
        }
        Ok(None)
    }

    /// Takes plain numbers of `source` that stay plain.
    fn feed_dense(&mut self, source: DType, first_row: usize, bytes: &[u8]) -> Option<Piece> {
        match self {
            Self::Dense { cols, values, .. } => {
                values.feed(source, first_row * *cols, bytes);
                None
            }
            Self::Pieces {
                into: Pieces::Dense(dtype),
                ..
            } => {
                let mut values = Dense::zeros(*dtype, bytes.len() / source.size());
                values.feed(source, 0, bytes);
                Some(Piece::Dense(values))
            }
            _ => unreachable!("it stays plain"),
        }
    }

    /// The finished weight of `step`. A packer may be the caller's own, so what it made is checked.
    pub(super) fn finish(self, step: &Step) -> Result<Finished, PipelineError> {
        let (packer, words) = match self {
            Self::Direct => unreachable!("the reader hands over what it has read to its place"),
            Self::Dense { values, .. } => return Ok(Finished::Dense(values)),
            Self::Device(packer) => return Ok(Finished::Placed(packer.finish())),
            Self::Adopt(parts) => return adopt(step, parts),
            Self::Pack { packer, words, .. } => (packer, Some(words)),
            Self::Pieces {
                into: Pieces::Words(packer),
                ..
            } => (packer, None),
            Self::Pieces {
                into: Pieces::Dense(_),
                ..
            } => return Ok(Finished::Pieces(Vec::new())),
        };
        let (format, shape) = (packer.format(), packer.shape());
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
        let scales = packer.finish();
        let Some(words) = words else {
            return Ok(Finished::Pieces(scales));
        };
        let packed = Packed::new(format, shape, words, scales);
        packed
            .map(Finished::Packed)
            .map_err(|source| PipelineError::Format {
                tensor: tensor(),
                source,
            })
    }
}

/// Words that a packer makes of a tile: they are chosen in its last pass.
fn words_len(packer: &dyn Packer, tile: &Tile<'_>) -> usize {
    if tile.pass + 1 < packer.passes() {
        return 0;
    }
    let [_, cols] = packer.shape();
    packer.format().words_len([tile.rows, cols])
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
    pub(super) fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(pages::zeros(len)),
            DType::F16 => Self::F16(pages::zeros::<u16>(len).reinterpret_into()),
            DType::Bf16 => Self::Bf16(pages::zeros::<u16>(len).reinterpret_into()),
        }
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::Bf16(_) => DType::Bf16,
            Self::Shared(dtype, _) => *dtype,
        }
    }

    /// What the source has of numbers of `dtype`, if they can be used as they are.
    pub(super) fn shared(dtype: DType, bytes: Bytes) -> Option<Self> {
        let aligned = bytes.as_ptr().addr().is_multiple_of(dtype.size());
        (cfg!(target_endian = "little") && aligned).then_some(Self::Shared(dtype, bytes))
    }

    /// The numbers as bytes, in the machine's order.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::F16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Self::Bf16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Self::Shared(_, bytes) => bytes,
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice_mut(values),
            Self::F16(values) => bytemuck::cast_slice_mut(values.reinterpret_cast_mut()),
            Self::Bf16(values) => bytemuck::cast_slice_mut(values.reinterpret_cast_mut()),
            Self::Shared(..) => unreachable!("what the source has is not written to"),
        }
    }

    /// What `packed` gives back.
    fn given_back(dtype: DType, packed: &Packed) -> Self {
        let Packed {
            format,
            shape,
            words,
            scales,
        } = packed;
        let (rows, len) = (0..shape[0], shape[0] * shape[1]);
        let mut dense = Self::zeros(dtype, len);
        match &mut dense {
            Self::F32(out) => format.dequantize_rows(*shape, words, scales, rows, out),
            Self::F16(out) => format.dequantize_rows(*shape, words, scales, rows, out),
            Self::Bf16(out) => format.dequantize_rows(*shape, words, scales, rows, out),
            Self::Shared(..) => unreachable!("zeros are nobody else's"),
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
            Self::Shared(dtype, bytes) => {
                let float = *dtype;
                let size = float.size();
                float.widen(&bytes[first * size..][..out.len() * size], out);
            }
        }
    }

    /// Without a copy.
    pub(crate) fn into_data(self) -> (DType, TensorData) {
        fn flat<E: Element>(values: Vec<E>) -> TensorData {
            let len = values.len();
            TensorData::new(values, [len])
        }
        match self {
            Self::F32(values) => (DType::F32, flat(values)),
            Self::F16(values) => (DType::F16, flat(values)),
            Self::Bf16(values) => (DType::Bf16, flat(values)),
            Self::Shared(dtype, bytes) => {
                let len = bytes.len() / dtype.size();
                let bytes = burn::tensor::Bytes::from_shared(bytes, AllocationProperty::Other);
                let data = TensorData::from_bytes(bytes, [len], dtype.burn().into());
                (dtype, data)
            }
        }
    }

    /// Rounds to nearest even where the type gets narrower; a half stays the same half to the bit.
    fn feed(&mut self, source: DType, first: usize, bytes: &[u8]) {
        match (self, source) {
            (Self::F32(values), _) => {
                fill(values, source, first, bytes, |bytes, out| {
                    source.widen(bytes, out);
                });
            }
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
            (Self::Shared(..), _) => unreachable!("what the source has is not written to"),
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
