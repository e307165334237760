//! `metrics.jsonl`: a JSON object for every step and every evaluation of a run.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// A step of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps that are done, with this one.
    pub step: u64,
    /// Mean over the tokens of the step that are trained on, in nats, before the step.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The norm over all gradients before they are clipped.
    pub grad_norm: f64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// How long the step took.
    pub seconds: f64,
}

/// An evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvalMetrics {
    /// Steps that were done before.
    pub step: u64,
    /// Mean over all tokens, in nats.
    pub eval_loss: f64,
    /// `exp` of it.
    pub eval_perplexity: f64,
    /// Tokens that were measured on.
    pub eval_tokens: u64,
    /// How long the evaluation took.
    pub seconds: f64,
}

/// A line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetricsLine {
    /// An evaluation.
    Eval(EvalMetrics),
    /// A step.
    Step(StepMetrics),
}

/// The file, while it is written. It is locked.
#[derive(Debug)]
pub(super) struct MetricsFile {
    file: File,
    bytes: u64,
}

/// A file of metrics that cannot be used.
#[derive(Debug)]
pub(super) enum MetricsError {
    /// Another process has it.
    Busy,
    /// The system's reason.
    Io(io::Error),
}

impl From<io::Error> for MetricsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl MetricsFile {
    /// Opens the file, which is made if it is not there, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, MetricsError> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MetricsError::Busy),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), "cannot be locked; let no other process write this folder");
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Cuts the file back to the length that it had. Whether it was that long.
    pub(super) fn cut(&mut self, bytes: u64) -> io::Result<bool> {
        let was = self.bytes >= bytes;
        self.bytes = if was { bytes } else { 0 };
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        Ok(was)
    }

    pub(super) fn push(&mut self, line: &MetricsLine) -> io::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Brings the lines to the disk. How many bytes they have.
    pub(super) fn sync(&self) -> io::Result<u64> {
        self.file.sync_data()?;
        Ok(self.bytes)
    }
}

/// The lines of a file; the last one is left out where it is not whole.
pub(super) fn read(path: &Path) -> io::Result<Vec<MetricsLine>> {
    let lines = BufReader::new(File::open(path)?).lines();
    let mut read = Vec::new();
    for line in lines {
        read.extend(serde_json::from_str::<MetricsLine>(&line?));
    }
    Ok(read)
}
