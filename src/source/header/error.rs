//! What can be wrong with a header.

#[cfg(doc)]
use super::HEADER_BYTES_MAX;
use crate::source::dtype::StoredType;

/// A lie or a mistake in a header. Offsets in messages count from the start of the file, except in
/// [`Inverted`](Self::Inverted), where there is no telling what was meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too few bytes to hold even the header's length.
    #[error("{file}: {file_len} bytes, and a safetensors file has at least 8; fetch it again")]
    TooShort {
        /// The file.
        file: String,
        /// Its length in bytes.
        file_len: u64,
    },

    /// The length is beyond what any header has; most likely the file is something else.
    #[error(
        "{file}: its header claims {header_len} bytes, and {max} are allowed; is this a safetensors \
         file, or the text of a failed download or of a git-lfs pointer?"
    )]
    HeaderTooLarge {
        /// The file.
        file: String,
        /// The claim, in bytes.
        header_len: u64,
        /// [`HEADER_BYTES_MAX`].
        max: u64,
    },

    /// The header is longer than the file.
    #[error(
        "{file}: its header claims {header_len} bytes after the first 8, and the file has \
         {file_len}; it is cut short, fetch it again"
    )]
    HeaderPastEnd {
        /// The file.
        file: String,
        /// The claim, in bytes.
        header_len: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// The header is not text.
    #[error(
        "{file}: byte {at_byte} breaks the UTF-8 of a header of {header_len} bytes; the file is damaged, fetch or save it again"
    )]
    NotUtf8 {
        /// The file.
        file: String,
        /// The first byte that is not UTF-8, counted from the start of the file.
        at_byte: u64,
        /// The header's length in bytes.
        header_len: u64,
    },

    /// The header is text, but not the JSON of a header.
    #[error(
        "{file}: its header does not parse: {source}; the file is damaged, fetch or save it again"
    )]
    Json {
        /// The file.
        file: String,
        /// What and where; it begins with the tensor when the parser was inside one.
        source: serde_json::Error,
    },

    /// Two tensors of one name. Readers disagree about which counts.
    #[error("{file}: tensor {tensor} is there twice; the file is damaged, fetch or save it again")]
    DuplicateTensor {
        /// The file.
        file: String,
        /// The name.
        tensor: String,
    },

    /// One metadata key twice.
    #[error(
        "{file}: metadata key {key} is there twice; the file is damaged, fetch or save it again"
    )]
    DuplicateMetadata {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },

    /// A dtype that safetensors 0.8 does not have.
    #[error(
        "{file}: tensor {tensor} has the unknown dtype {dtype:?}; save it in a type that safetensors lists, such as F32, F16 or BF16"
    )]
    UnknownDtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The dtype as written.
        dtype: String,
    },

    /// A shape with more elements than can be counted.
    #[error(
        "{file}: tensor {tensor} of {dtype} {shape:?} has more bits than fit 64 bits; the file is damaged, fetch or save it again"
    )]
    ShapeOverflow {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: StoredType,
        /// Its shape as written.
        shape: Vec<u64>,
    },

    /// Elements narrower than a byte that end inside one.
    #[error(
        "{file}: tensor {tensor} of {dtype} {shape:?} has {bits} bits, not a multiple of 8; the file is damaged, fetch or save it again"
    )]
    PartialByte {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: StoredType,
        /// Its shape.
        shape: Vec<usize>,
        /// Its length in bits.
        bits: u64,
    },

    /// A tensor that ends before it starts.
    #[error(
        "{file}: tensor {tensor} has the data offsets {start} to {end}, which run backwards; the file is damaged, fetch or save it again"
    )]
    Inverted {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first offset, as written.
        start: u64,
        /// The second offset, as written.
        end: u64,
    },

    /// Offsets, dtype and shape contradict each other.
    #[error(
        "{file}: tensor {tensor} of {dtype} {shape:?} takes {needed} bytes and is given {found}; the file is damaged, fetch or save it again"
    )]
    LengthMismatch {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: StoredType,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes that dtype and shape take.
        needed: u64,
        /// Bytes that the offsets span.
        found: u64,
    },

    /// A tensor beyond the end of the file.
    #[error(
        "{file}: tensor {tensor} ends at byte {end}, and the file has {file_len}; it is cut short, \
         fetch it again"
    )]
    OutOfRange {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// One past the tensor's last byte.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// Two tensors share bytes.
    #[error(
        "{file}: tensor {tensor} starts at byte {start}, inside {other}, which ends at {other_end}; the file is damaged, fetch or save it again"
    )]
    Overlap {
        /// The file.
        file: String,
        /// The later tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The earlier tensor.
        other: String,
        /// One past its last byte.
        other_end: u64,
    },

    /// Bytes before a tensor that belong to none. They could hide anything.
    #[error(
        "{file}: tensor {tensor} starts at byte {start}, and what is before it ends at {end}; the file is damaged, fetch or save it again"
    )]
    Hole {
        /// The file.
        file: String,
        /// The tensor after the hole.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// Where the hole begins.
        end: u64,
    },

    /// Bytes after the last tensor.
    #[error(
        "{file}: its last tensor ends at byte {end}, and the file has {file_len}; the file is damaged, fetch or save it again"
    )]
    TrailingBytes {
        /// The file.
        file: String,
        /// One past the last tensor.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },
}
