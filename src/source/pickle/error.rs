//! What can be wrong with a pickle.

/// The most bytes that a pickle may have. That of a file with 100,000 tensors has a quarter of it.
pub(crate) const PICKLE_BYTES_MAX: u64 = 64 << 20;

/// A pickle that is not read. Nothing of it was executed. Each variant names the file and the byte where it stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// A name that a dictionary of tensors does not need. Python would import it, and might call it.
    #[error(
        "{file}: names {global} at byte {at}, which no dictionary of tensors needs and Python would run; it was not run, and the \
         file is not read: if you trust it, load it in Python and save `model.state_dict()` as safetensors"
    )]
    Global {
        /// The file.
        file: String,
        /// The module and the name in it.
        global: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// An instruction that no dictionary of tensors needs, or none at all.
    #[error(
        "{file}: has the instruction {opcode} at byte {at}, which no file of `torch.save` has; the file is damaged, or an attack"
    )]
    Opcode {
        /// The file.
        file: String,
        /// The name of the instruction, or its number.
        opcode: String,
        /// Its byte.
        at: u64,
    },

    /// An instruction that takes what is not there.
    #[error(
        "{file}: the instruction {opcode} at byte {at} needs {expected}, and has {found}; the file is damaged, or an attack"
    )]
    Operand {
        /// The file.
        file: String,
        /// The name of the instruction.
        opcode: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What there is.
        found: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// A call with arguments that cannot be.
    #[error(
        "{file}: calls {callable} at byte {at} with {reason}; the file is damaged, or an attack"
    )]
    Call {
        /// The file.
        file: String,
        /// What is called.
        callable: String,
        /// What is wrong with the arguments.
        reason: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// A type of values that safetensors does not have.
    #[error(
        "{file}: has a tensor of {dtype} at byte {at}, and that type is not read; convert the tensor in Python"
    )]
    Type {
        /// The file.
        file: String,
        /// The type, or the storage of it.
        dtype: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// A storage that does not agree with itself.
    #[error(
        "{file}: names a storage at byte {at} with {reason}; the file is damaged, or an attack"
    )]
    Storage {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// A text that is not UTF-8.
    #[error("{file}: the text at byte {at} is not UTF-8; the file is damaged")]
    NotUtf8 {
        /// The file.
        file: String,
        /// The byte of the instruction.
        at: u64,
    },

    /// More than any file needs.
    #[error(
        "{file}: makes more than {max} {what} up to byte {at}; no file of `torch.save` has so many"
    )]
    TooMany {
        /// The file.
        file: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
        /// The byte of the instruction.
        at: u64,
    },

    /// The file ends inside the pickle.
    #[error("{file}: ends inside its pickle, at byte {at}; it is cut short, fetch it again")]
    Truncated {
        /// The file.
        file: String,
        /// One past the last byte.
        at: u64,
    },

    /// A pickle that is too long.
    #[error(
        "{file}: its pickle has {bytes} bytes or more, and may have {PICKLE_BYTES_MAX}; is it a file of tensors?"
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes that it has at least.
        bytes: u64,
    },
}
