//! Converting: tiles of one tensor become its finished weight.
//!
//! | converter | source | becomes |
//! |---|---|---|
//! | [`DenseWhole`] | dense | dense, whole in host memory |
//! | [`DenseRows`] | dense | dense, some rows at a time |
//! | [`PackWhole`] | dense | packed by the host, whole in host memory |
//! | [`PackRows`] | dense | packed by the host, some rows at a time |
//! | [`DevicePacker`] | dense | packed by a device, in its memory |
//! | [`Adopted`] | packed | packed as it is stored, or dequantized |

mod adopted;
mod dense;
mod device;
mod packed;

use firebox_kernels::{arith::float::DType, format::Packed};
use rayon::ThreadPool;

use self::{
    adopted::Adopted,
    dense::{DenseRows, DenseWhole},
    device::DevicePacker,
    packed::{PackRows, PackWhole},
};
use super::{Dense, PipelineError, Settings, Values, tile::SourceTile};
use crate::{
    plan::{Action, Step, Stored},
    quant::PackedWeight,
};

/// A finished weight.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Dense values in the tensor's own order, in host memory.
    Dense(Dense),
    /// Packed words in host memory.
    Packed(Packed),
    /// Packed on the device of [`Settings::device`](super::Settings), in parts of whole rows that are
    /// no larger than [`Settings::allocation_max`](super::Settings).
    Placed(Vec<PackedWeight>),
}

/// Some rows of a weight, finished, for a [`RowSink`](super::RowSink).
#[derive(Debug, Clone)]
pub enum RowBatch {
    /// Dense values.
    Dense(Values),
    /// Packed words.
    Words {
        /// Number of rows.
        rows: usize,
        /// Their words.
        words: Vec<u32>,
    },
}

/// What the last tile of a tensor completes.
pub(super) enum Completed {
    /// The weight.
    Weight(Finished),
    /// A weight whose rows have gone to the sink. Its scales are left; a dense weight has none.
    Rows(Vec<u32>),
}

/// Turns the tiles of one tensor into its finished weight.
pub(super) trait Convert: Send {
    /// How often the source has to be read.
    fn passes(&self) -> usize {
        1
    }

    /// Rows of which a tile has to be a multiple, and the most rows that a tile may have.
    fn tile_rows(&self) -> [usize; 2] {
        [1, usize::MAX]
    }

    /// Whether tiles go on to a device, and should be read into memory that the device reads from.
    fn uploads(&self) -> bool {
        false
    }

    /// Takes the next tile. The work is spread over `workers`, or done by the device. Returns rows that are finished,
    /// where rows are wanted one batch after another.
    fn feed(
        &mut self,
        step: &Step,
        tile: SourceTile<'_>,
        workers: &ThreadPool,
    ) -> Result<Option<RowBatch>, PipelineError>;

    /// Completes the weight, after the last tile of the last pass.
    fn finish(self: Box<Self>, step: &Step) -> Result<Completed, PipelineError>;
}

/// How a tensor becomes its finished weight.
pub(super) enum Road {
    /// It is stored as it stays, in this type: the reader reads to where the weight stays.
    Straight(DType),
    /// Tile by tile, through a converter.
    Tiles(Box<dyn Convert>),
}

impl Road {
    /// The road of `step`; `by_rows` for a sink that takes its rows one batch after another.
    pub(super) fn of(
        step: &Step,
        settings: &Settings<'_>,
        by_rows: bool,
    ) -> Result<Self, PipelineError> {
        let shape @ [rows, cols] = step.matrix();
        let failed = |source| PipelineError::Format {
            tensor: step.slot.name.clone(),
            source,
        };
        let converter: Box<dyn Convert> = match (&step.stored, &step.action) {
            (Stored::Packed(adopt), _) => Box::new(Adopted::new(adopt)),
            (Stored::Plain(source), Action::Dense(dtype)) if by_rows => {
                Box::new(DenseRows::new(*source, *dtype, cols))
            }
            // Bytes of a file are values as they are on little-endian machines.
            (Stored::Plain(source), Action::Dense(dtype))
                if dtype == source && step.scaling.is_none() && cfg!(target_endian = "little") =>
            {
                return Ok(Self::Straight(*dtype));
            }
            (Stored::Plain(source), Action::Dense(dtype)) => {
                Box::new(DenseWhole::new(*source, *dtype, shape))
            }
            (Stored::Plain(source), Action::Pack(spec, _)) => {
                let method = spec
                    .method()
                    .expect("a step is packed because its spec has a method");
                match (settings.device, method.packing()) {
                    // A weight without values has no tile to upload.
                    (Some(device), Some(packing)) if rows * cols > 0 => {
                        let packer =
                            DevicePacker::new(step, packing, device, settings.allocation_max);
                        Box::new(packer.map_err(failed)?)
                    }
                    _ => {
                        let packer = method.packer(shape, *source).map_err(failed)?;
                        if by_rows {
                            Box::new(PackRows::new(packer))
                        } else {
                            Box::new(PackWhole::new(packer))
                        }
                    }
                }
            }
            (Stored::Plain(_), Action::Keep(format)) => {
                return Err(PipelineError::NotPacked {
                    tensor: step.slot.name.clone(),
                    format: *format,
                });
            }
        };
        Ok(Self::Tiles(converter))
    }
}

/// Multiplies a tile by the factors of its step, in the type that it is stored in: the format that was planned, and the
/// kernels of a device, depend on that type.
fn scale(step: &Step, tile: &mut SourceTile<'_>, workers: &ThreadPool) {
    if step.scaling.is_none() {
        return;
    }
    let (dtype, [_, cols], first) = (step.float(), step.matrix(), tile.first_row);
    let len = tile.rows * cols * dtype.size();
    tile.change(|bytes| {
        let bytes = &mut bytes[..len];
        workers.install(|| step.scaling.apply_stored(dtype, first, cols, bytes));
    });
}
