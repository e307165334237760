//! Files of PyTorch that are not read.

/// A file of PyTorch whose tensors cannot be found. Each variant names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// Another kind of file.
    #[error(
        "{file}: begins with {found:?}, and a file of `torch.save` with a zip archive or a pickle; is it the file that its name says?"
    )]
    NotTorch {
        /// The file.
        file: String,
        /// Its first bytes.
        found: String,
    },

    /// A pickle that `torch.save` did not write.
    #[error(
        "{file}: is a pickle of {found}, and not one of `torch.save`; load it in Python and save its tensors as safetensors"
    )]
    NotSaved {
        /// The file.
        file: String,
        /// What it begins with.
        found: String,
    },

    /// A zip archive without a pickle, or with several.
    #[error(
        "{file}: is a zip archive with {found} entries named data.pkl, and `torch.save` writes one; is it a file of PyTorch?"
    )]
    NoPickle {
        /// The file.
        file: String,
        /// How many there are.
        found: usize,
    },

    /// A program of TorchScript.
    #[error(
        "{file}: is a program of TorchScript, not a dictionary of tensors; load it in Python and save `module.state_dict()` as safetensors"
    )]
    Script {
        /// The file.
        file: String,
    },

    /// An unknown byte order.
    #[error(
        "{file}: names the byte order {found:?}, and little and big are known; the file is damaged"
    )]
    ByteOrder {
        /// The file.
        file: String,
        /// The order.
        found: String,
    },

    /// A storage of another length than the pickle says.
    #[error(
        "{file}: the storage {storage} has {}, and the pickle says {expected}; the file is damaged, or an attack",
        found.map_or("no place".to_owned(), |found| found.to_string())
    )]
    Storage {
        /// The file.
        file: String,
        /// The storage.
        storage: String,
        /// Bytes of a zip archive, elements of an older file; `None` where there is no such storage.
        found: Option<u64>,
        /// The same by the pickle.
        expected: u64,
    },

    /// A storage that only one of pickle and list of keys has, or the list twice.
    #[error(
        "{file}: pickle and list of storages disagree about the storage {key}; the file is damaged"
    )]
    Key {
        /// The file.
        file: String,
        /// The storage.
        key: String,
    },

    /// A file that ends in a storage.
    #[error(
        "{file}: the storage {storage} goes to byte {end}, and the file has {file_len}; it is cut short, fetch it again"
    )]
    Cut {
        /// The file.
        file: String,
        /// The storage.
        storage: String,
        /// One past its last byte.
        end: u64,
        /// The file's length in bytes.
        file_len: u64,
    },

    /// No dictionary.
    #[error(
        "{file}: holds {found}, and a dictionary of tensors is read; save `model.state_dict()` in Python"
    )]
    NoDictionary {
        /// The file.
        file: String,
        /// What it holds.
        found: String,
    },

    /// A dictionary without a tensor.
    #[error("{file}: holds no tensor; its keys are {keys:?}")]
    NoTensors {
        /// The file.
        file: String,
        /// Its keys.
        keys: String,
    },

    /// Several models, or a model and something else.
    #[error(
        "{file}: has tensors under {keys}, and which of them are the model is not known; save that one alone in Python"
    )]
    Several {
        /// The file.
        file: String,
        /// The keys.
        keys: String,
    },

    /// A key that cannot be the name of a tensor.
    #[error("{file}: has {found} as a key under {under:?}, and names of tensors are texts")]
    KeyKind {
        /// The file.
        file: String,
        /// The keys that lead there.
        under: String,
        /// Its kind.
        found: String,
    },

    /// Two tensors of one name.
    #[error(
        "{file}: has two tensors named {tensor}; save it again in Python, where the last one counts"
    )]
    Twice {
        /// The file.
        file: String,
        /// The name.
        tensor: String,
    },

    /// A view that has a value at two places.
    #[error(
        "{file}: tensor {tensor} of {shape:?} with the strides {strides:?} has values in common places; save `tensor.contiguous()` in Python"
    )]
    Overlapping {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape, outermost first.
        shape: Vec<usize>,
        /// Values from one to the next along each dimension.
        strides: Vec<u64>,
    },

    /// More than any file has.
    #[error("{file}: has more than {max} {what}; is it a file of tensors?")]
    TooMany {
        /// The file.
        file: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },

    /// Weights that are divided among several files.
    #[error(
        "{at}: {file} is one of {count} parts of each tensor, as Meta saved larger models; take the version for transformers"
    )]
    Parts {
        /// The source.
        at: String,
        /// One of the files.
        file: String,
        /// How many files there are.
        count: usize,
    },
}
