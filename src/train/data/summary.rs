//! What became of the documents.

use std::{fmt, ops::AddAssign, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What becomes of the documents in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataSummary {
    /// Files that were read.
    pub files: usize,
    /// What the folders hold beside them.
    pub ignored: Vec<PathBuf>,
    /// Tokens of the longest row.
    pub length: usize,
    /// Counts.
    pub counts: DataCounts,
}

/// Counts of documents and their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataCounts {
    /// Documents in the files.
    pub documents: u64,
    /// Rows that are made of them.
    pub rows: u64,
    /// Tokens in the rows.
    pub tokens: u64,
    /// Tokens that the model is trained on.
    pub trained: u64,
    /// Texts that were cut in parts, since they are longer than a row.
    pub cut: u64,
    /// Chats and completions that lost their end, since they are longer than a row.
    pub truncated: u64,
    /// Documents without text; they are left out.
    pub without_text: u64,
    /// Chats without an answer of the assistant; they are left out.
    pub without_answer: u64,
    /// Chats and completions that lost all that is trained on; they are left out.
    pub without_rest: u64,
}

impl AddAssign for DataCounts {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.rows += other.rows;
        self.tokens += other.tokens;
        self.trained += other.trained;
        self.cut += other.cut;
        self.truncated += other.truncated;
        self.without_text += other.without_text;
        self.without_answer += other.without_answer;
        self.without_rest += other.without_rest;
    }
}

impl DataCounts {
    /// Documents that are left out.
    pub fn dropped(&self) -> u64 {
        self.without_text + self.without_answer + self.without_rest
    }
}

impl DataSummary {
    /// The share of the places in the rows that hold a token.
    pub fn fill(&self) -> f64 {
        let places = self.counts.rows * self.length as u64;
        self.counts.tokens as f64 / places.max(1) as f64
    }
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        write!(
            f,
            "{} documents in {} files: {} tokens, {} trained, in {} rows of {} ({:.1} % full)",
            counts.documents,
            self.files,
            counts.tokens,
            counts.trained,
            counts.rows,
            self.length,
            100.0 * self.fill(),
        )?;
        for (count, of) in [
            (counts.cut, "texts cut into rows"),
            (counts.truncated, "chats or completions without their end"),
            (counts.without_text, "left out without text"),
            (counts.without_answer, "left out without an answer"),
            (
                counts.without_rest,
                "left out since no answer fits into a row",
            ),
            (self.ignored.len() as u64, "files ignored"),
        ] {
            if count > 0 {
                write!(f, "; {count} {of}")?;
            }
        }
        Ok(())
    }
}
