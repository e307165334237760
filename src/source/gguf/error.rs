//! What can be wrong with the header of a GGUF file.

/// A header that contradicts itself or the file's length. Each variant names the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Another kind of file.
    #[error(
        "{file}: begins with {found:?}, and a GGUF file begins with \"GGUF\"; is it the file that its name says?"
    )]
    NotGguf {
        /// The file.
        file: String,
        /// Its first bytes.
        found: [u8; 4],
    },

    /// A version that is not read.
    #[error(
        "{file}: is GGUF of version {}, and 2 and 3 are read; convert it again with llama.cpp of today", version_of(*version)
    )]
    Version {
        /// The file.
        file: String,
        /// The version, as a little-endian number.
        version: u32,
    },

    /// The file ends inside the header.
    #[error(
        "{file}: the header goes on to byte {end} at least, and the file has {file_len}; it is cut short, fetch it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// One past the byte that is needed.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// A header that is too long.
    #[error(
        "{file}: the header goes on to byte {end} at least, and may have {max}; the file is damaged, fetch it again"
    )]
    HeaderTooLarge {
        /// The file.
        file: String,
        /// One past the byte that is needed.
        end: u64,
        /// The limit.
        max: u64,
    },

    /// A count of things that the file cannot hold.
    #[error(
        "{file}: says {found} for {what}, and {most} at most can be there; the file is damaged, fetch it again"
    )]
    Count {
        /// The file.
        file: String,
        /// Which things, or the bytes of which text.
        what: String,
        /// The count, as written.
        found: u64,
        /// How many there is room for.
        most: u64,
    },

    /// A text that is not UTF-8.
    #[error(
        "{file}: byte {at_byte}, in {what}, breaks its UTF-8; the file is damaged, fetch it again"
    )]
    NotUtf8 {
        /// The file.
        file: String,
        /// Which text.
        what: String,
        /// The first byte that does not fit.
        at_byte: u64,
    },

    /// A type of values that there is not.
    #[error(
        "{file}: the value of {key} is of type {number}, and there are 0 to 12, lists of lists not among them; convert the file again"
    )]
    ValueType {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The type, as written.
        number: u32,
    },

    /// A truth value that is none.
    #[error(
        "{file}: {key} is the byte {byte}, and has to be 0 or 1; the file is damaged, fetch it again"
    )]
    Bool {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The byte.
        byte: u8,
    },

    /// A key twice.
    #[error("{file}: has the key {key} twice; convert the file again")]
    DuplicateKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },

    /// A tensor twice.
    #[error("{file}: has the tensor {tensor} twice; convert the file again")]
    DuplicateTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },

    /// An alignment that cannot be.
    #[error(
        "{file}: general.alignment is {found}, and has to be a power of two up to {max}; convert the file again"
    )]
    Alignment {
        /// The file.
        file: String,
        /// The value, as written.
        found: String,
        /// The largest.
        max: u64,
    },

    /// A name that ggml has no room for.
    #[error("{file}: the name {name} has {} bytes, and a tensor's has {max} at most; convert the file again", name.len())]
    LongName {
        /// The file.
        file: String,
        /// The name.
        name: String,
        /// Bytes at most.
        max: usize,
    },

    /// A tensor of no or too many dimensions.
    #[error(
        "{file}: tensor {tensor} has {count} dimensions, and has to have 1 to {max}; the file is damaged, fetch it again"
    )]
    Sides {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Dimensions, as written.
        count: u32,
        /// The most.
        max: u32,
    },

    /// A type of tensors that is not read.
    #[error(
        "{file}: tensor {tensor} is of type {number} of ggml, which is not read; quantize the model again with llama.cpp of today"
    )]
    UnknownType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The type, as written.
        number: u32,
    },

    /// Sides of which one is 0, or whose product nobody can count.
    #[error(
        "{file}: tensor {tensor} is {shape:?}, which is nothing or more than can be counted; the file is damaged, fetch it again"
    )]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Outermost first, as written.
        shape: Vec<u64>,
    },

    /// Rows that are not whole blocks.
    #[error(
        "{file}: a row of tensor {tensor} has {row} values, which are not whole blocks of {block}; quantize the model again"
    )]
    Row {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Values of a row.
        row: u64,
        /// Values of a block.
        block: u64,
    },

    /// A tensor that does not begin where the one before ends.
    #[error(
        "{file}: tensor {tensor} begins {offset} bytes after the header, and the one before it ends at {expected}; the file is damaged, fetch it again"
    )]
    Offset {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its offset, as written.
        offset: u64,
        /// Where it has to begin.
        expected: u64,
    },

    /// A tensor beyond the end of the file.
    #[error(
        "{file}: tensor {tensor} ends at byte {end}, and the file has {file_len}; it is cut short, fetch it again"
    )]
    OutOfRange {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// One past its last byte.
        end: u128,
        /// The file's length in bytes.
        file_len: u64,
    },
}

/// A version, or that the bytes are in the other order.
fn version_of(version: u32) -> String {
    match version.swap_bytes() {
        swapped @ 1..=9 => format!("{swapped} with the bytes of a big-endian computer"),
        _ => version.to_string(),
    }
}
