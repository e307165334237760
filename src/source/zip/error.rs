//! What can be wrong with a zip archive.

/// An archive that is not read. Each variant names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// The file does not end as an archive does.
    #[error(
        "{file}: begins as a zip archive and does not end as one; it is cut short, fetch it again"
    )]
    NoEnd {
        /// The file.
        file: String,
    },

    /// The directory contradicts itself or the file's length.
    #[error("{file}: is a zip archive with {what}; the file is damaged, fetch it again")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },

    /// An entry whose bytes are not stored as they are.
    #[error(
        "{file}: the entry {entry} is {how}, and PyTorch stores bytes as they are; save it again with `torch.save`"
    )]
    NotStored {
        /// The file.
        file: String,
        /// The entry.
        entry: String,
        /// How it is stored.
        how: String,
    },

    /// An entry that lies over another one.
    #[error(
        "{file}: the entry {entry} goes beyond byte {next}, where the next one begins; the file is damaged, or an attack"
    )]
    Overlap {
        /// The file.
        file: String,
        /// The entry.
        entry: String,
        /// Where the next one begins.
        next: u64,
    },

    /// The header of an entry says otherwise than the directory.
    #[error(
        "{file}: the directory has the entry {entry}, and at its place is {what}; the file is damaged, or an attack"
    )]
    Header {
        /// The file.
        file: String,
        /// The entry.
        entry: String,
        /// What the header says.
        what: String,
    },
}
