//! Converting: tiles of one tensor become its finished weight.
//!
//! | converter | source | becomes |
//! |---|---|---|
//! | [`DenseWhole`](dense::DenseWhole) | dense, or unpacked | dense, whole in host memory |
//! | [`DenseRows`](dense::DenseRows) | dense, or unpacked | dense, some rows at a time |
//! | [`PackWhole`](packed::PackWhole) | dense, or unpacked | packed by the host, whole in host memory |
//! | [`PackRows`](packed::PackRows) | dense, or unpacked | packed by the host, some rows at a time |
//! | [`DevicePacker`](device::DevicePacker) | dense, or unpacked | packed by a device, in its memory |
//! | [`Adopted`](adopted::Adopted) | packed | packed as it is stored |
//! | [`Carried`](carried::Carried) | any | the same bytes |

pub(super) mod adopted;
pub(super) mod carried;
pub(super) mod dense;
pub(super) mod device;
pub(super) mod packed;

use rayon::ThreadPool;

use super::{
    error::PipelineError,
    finished::{Finished, RowBatch},
    tile::SourceTile,
};
use crate::plan::Step;

/// The result of a tensor, after its last tile.
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
