//! What is said about a run in its first seconds.

use core::fmt;

use super::{data::DataSummary, estimate::MemoryEstimate};
use crate::config::Bytes;

/// What is known of a run before its base is loaded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FinetuneFacts {
    /// Steps of the run.
    pub steps: u64,
    /// Rows of a step.
    pub rows: usize,
    /// The data.
    pub data: DataFacts,
    /// The first row as text, with marks around all that is trained on.
    pub example: String,
    /// The memory of the run.
    pub memory: MemoryEstimate,
}

/// What is known of the data.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataFacts {
    /// Lines, entries of lists, and parts of texts.
    pub records: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What becomes of the documents in an epoch; `None` where there are too many to make tokens of them before the run.
    pub summary: Option<DataSummary>,
}

/// Letters of the example that are shown.
const SHOWN: usize = 600;

impl fmt::Display for FinetuneFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data.summary {
            Some(summary) => writeln!(f, "data: {summary}")?,
            None => {
                let (records, bytes) = (self.data.records, Bytes(self.data.bytes));
                writeln!(
                    f,
                    "data: {records} records in {bytes}; tokens are made while it trains"
                )?;
            }
        }
        write!(f, "memory: about {}", Bytes(self.memory.peak()))?;
        let MemoryEstimate {
            weights,
            trained,
            gradients,
            optimizer,
            activations,
            backward,
            logits,
            checkpoint,
            fixed,
            load,
        } = self.memory;
        let parts = [
            ("weights", weights),
            ("trained values", trained),
            ("gradients", gradients),
            ("moments", optimizer),
            ("activations", activations),
            ("one layer backwards", backward),
            ("logits", logits),
            ("a checkpoint", checkpoint),
            ("the program", fixed),
            ("the load", load),
        ];
        let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
        for (nth, (part, bytes)) in parts.enumerate() {
            let between = if nth == 0 { ": " } else { ", " };
            write!(f, "{between}{part} {}", Bytes(bytes))?;
        }
        writeln!(f)?;
        let mut letters = self.example.chars();
        let example: String = letters.by_ref().take(SHOWN).collect();
        let more = if letters.next().is_some() { "…" } else { "" };
        writeln!(
            f,
            "the first row, trained on between ⟦ and ⟧:\n{example}{more}"
        )?;
        let (steps, rows) = (self.steps, self.rows);
        write!(f, "{steps} steps of {rows} rows")
    }
}
