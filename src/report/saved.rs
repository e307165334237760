//! What was saved.

use std::path::PathBuf;

use super::LoadReport;
use crate::place::SavedFolder;

/// A checkpoint that was saved. Serialises to what `firebox quantize --json` prints.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// The folder.
    pub folder: PathBuf,
    /// The dialect; `None` where no weight is packed.
    pub dialect: Option<&'static str>,
    /// Files of weights.
    pub files: Vec<String>,
    /// Bytes of all tensors in them.
    pub bytes_written: u64,
    /// Weights that an earlier save had finished. The report has them without time and bytes read.
    pub resumed: usize,
    /// Weights that were left, and that this save made: 0 where the folder was complete.
    pub made: usize,
    /// Bytes, seconds, memory, tensor by tensor.
    pub report: LoadReport,
}

impl Saved {
    pub(crate) fn new(written: SavedFolder, report: LoadReport) -> Self {
        let SavedFolder {
            folder,
            dialect,
            files,
            bytes,
            resumed,
        } = written;
        Self {
            folder,
            dialect,
            files,
            bytes_written: bytes,
            resumed,
            made: report.tensors - resumed,
            report,
        }
    }
}
