//! What a pickle makes.

use std::sync::Arc;

use super::{StoredType, globals::Global};

/// What a pickle made.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(super) objects: Vec<PickleObject>,
    /// What the whole of it is.
    pub(crate) root: ObjectId,
    /// The storages that tensors lie in, each once.
    pub(crate) storages: Vec<Storage>,
    /// Bytes that it took.
    pub(crate) bytes: usize,
}

impl Pickle {
    /// An object of this pickle.
    pub(crate) fn object(&self, id: ObjectId) -> &PickleObject {
        &self.objects[id.0]
    }

    /// Objects that were made.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
}

/// A pickle, or that there are too few bytes of it.
#[derive(Debug)]
pub(crate) enum PickleParsed {
    /// All of it.
    Whole(Pickle),
    /// It goes on after these bytes.
    More,
}

/// The number of an object of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectId(pub(super) usize);

impl ObjectId {
    /// Its place among the objects.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// An object.
#[derive(Debug, Clone)]
pub(crate) enum PickleObject {
    None,
    /// A whole number of at most 16 bytes.
    Whole(i128),
    Text(Arc<str>),
    List(Vec<ObjectId>),
    Tuple(Vec<ObjectId>),
    /// Keys and values in the order in which they were put in.
    Dict(Vec<(ObjectId, ObjectId)>),
    Global(Global),
    /// The number of a storage.
    Storage(usize),
    Tensor(PickledTensor),
    /// Something that holds no tensor: a bool, a float, bytes, a set.
    Other(&'static str),
}

impl PickleObject {
    /// Its kind, for messages.
    pub(crate) fn kind(&self) -> String {
        let kind = match self {
            Self::None => "None",
            Self::Whole(_) => "an int",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Global(global) => return global.name().to_owned(),
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Other(kind) => kind,
        };
        kind.to_owned()
    }
}

/// Bytes that tensors lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    /// Its name in the file.
    pub(crate) key: Arc<str>,
    /// The type of its elements; `None` of plain bytes.
    pub(crate) dtype: Option<StoredType>,
    /// Its elements, or bytes.
    pub(crate) count: u64,
}

impl Storage {
    /// Its length in bytes; `None` where no number holds it.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(bytes_of(self.dtype))
    }
}

/// Bytes of an element. No storage has elements that are no whole bytes.
pub(crate) fn bytes_of(dtype: Option<StoredType>) -> u64 {
    dtype.map_or(1, |dtype| dtype.bits() / 8)
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickledTensor {
    /// The number of the storage.
    pub(crate) storage: usize,
    /// The type of its values.
    pub(crate) dtype: StoredType,
    /// The first value, counted in values.
    pub(crate) offset: u64,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// Values from one to the next along each dimension.
    pub(crate) strides: Vec<u64>,
}
