//! What the known names make of their arguments.

use std::sync::Arc;

use super::{
    PickleError, StoredType,
    globals::{Global, Rebuild},
    object::{ObjectId, PickleObject, PickledTensor, Storage, bytes_of},
};

/// More dimensions than any tensor has; the limit of PyTorch.
const DIMENSIONS_MAX: usize = 64;

/// What is called, and where.
pub(super) struct PickleCall<'a> {
    pub(super) file: &'a str,
    pub(super) at: u64,
    pub(super) objects: &'a [PickleObject],
    pub(super) storages: &'a [Storage],
}

impl PickleCall<'_> {
    fn wrong(&self, callable: Global, reason: impl Into<String>) -> PickleError {
        PickleError::Call {
            file: self.file.to_owned(),
            callable: callable.name().to_owned(),
            reason: reason.into(),
            at: self.at,
        }
    }

    fn object(&self, id: ObjectId) -> &PickleObject {
        &self.objects[id.0]
    }

    /// The result of `callable` of `arguments`.
    pub(super) fn result(
        &self,
        callable: Global,
        arguments: &[ObjectId],
    ) -> Result<PickleObject, PickleError> {
        match callable {
            Global::OrderedDict => self.dict(callable, arguments),
            Global::Size => match arguments {
                [sides] => match self.object(*sides) {
                    PickleObject::Tuple(sides) | PickleObject::List(sides) => {
                        Ok(PickleObject::Tuple(sides.clone()))
                    }
                    other => Err(self.wrong(callable, other.kind())),
                },
                _ => Err(self.wrong(callable, count(arguments))),
            },
            Global::Device => Ok(PickleObject::Other("a device")),
            Global::Rebuild(rebuild) => {
                let tensor = self.tensor(callable, rebuild, arguments)?;
                Ok(PickleObject::Tensor(tensor))
            }
            Global::Parameter(_) => match arguments.first().map(|id| self.object(*id)) {
                Some(PickleObject::Tensor(tensor)) => Ok(PickleObject::Tensor(tensor.clone())),
                Some(other) => Err(self.wrong(callable, format!("{} for a tensor", other.kind()))),
                None => Err(self.wrong(callable, count(arguments))),
            },
            Global::Storage(..) | Global::Type(..) => {
                Err(self.wrong(callable, "arguments, and it is no function"))
            }
        }
    }

    fn dict(&self, callable: Global, arguments: &[ObjectId]) -> Result<PickleObject, PickleError> {
        let pairs = match arguments {
            [] => return Ok(PickleObject::Dict(Vec::new())),
            [pairs] => match self.object(*pairs) {
                PickleObject::List(pairs) | PickleObject::Tuple(pairs) => pairs,
                other => return Err(self.wrong(callable, other.kind())),
            },
            _ => return Err(self.wrong(callable, count(arguments))),
        };
        let pairs = pairs.iter().map(|pair| match self.object(*pair) {
            PickleObject::List(pair) | PickleObject::Tuple(pair) if pair.len() == 2 => {
                Ok((pair[0], pair[1]))
            }
            other => Err(self.wrong(callable, format!("{} for a key and a value", other.kind()))),
        });
        Ok(PickleObject::Dict(pairs.collect::<Result<_, _>>()?))
    }

    fn tensor(
        &self,
        callable: Global,
        rebuild: Rebuild,
        arguments: &[ObjectId],
    ) -> Result<PickledTensor, PickleError> {
        let (least, extra) = match rebuild {
            Rebuild::V1 => (4, 4),
            Rebuild::V2 => (6, 6),
            Rebuild::V3 => (7, 7),
        };
        if arguments.len() < least || arguments.len() > extra + 1 {
            return Err(self.wrong(callable, count(arguments)));
        }
        // A conjugated or negated view has other values than its storage.
        if let Some(more) = arguments.get(extra)
            && !matches!(self.object(*more), PickleObject::None)
            && !matches!(self.object(*more), PickleObject::Dict(pairs) if pairs.is_empty())
        {
            return Err(self.wrong(callable, "attributes, which are not read"));
        }
        let PickleObject::Storage(nth) = *self.object(arguments[0]) else {
            let kind = self.object(arguments[0]).kind();
            return Err(self.wrong(callable, format!("{kind} for a storage")));
        };
        let storage = &self.storages[nth];
        let dtype = match (rebuild, storage.dtype) {
            (Rebuild::V3, None) => self.dtype(callable, arguments[6])?,
            (Rebuild::V3, Some(_)) => {
                return Err(self.wrong(callable, "a storage that has a type"));
            }
            (_, Some(dtype)) => dtype,
            (_, None) => return Err(self.wrong(callable, "a storage of bytes, and no type")),
        };
        let [shape, strides] =
            [arguments[2], arguments[3]].map(|sides| self.sides(callable, sides));
        let (shape, strides) = (shape?, strides?);
        if shape.len() != strides.len() {
            let [sides, found] = [shape.len(), strides.len()];
            return Err(self.wrong(callable, format!("{sides} sides and {found} strides")));
        }
        let shape = shape.into_iter().map(usize::try_from);
        let shape: Result<Vec<usize>, _> = shape.collect();
        let shape = shape.map_err(|_| self.wrong(callable, "a side that no memory holds"))?;
        let tensor = PickledTensor {
            storage: nth,
            dtype,
            offset: self.number(callable, arguments[1])?,
            shape,
            strides,
        };
        self.check_inside(callable, &tensor, storage)?;
        Ok(tensor)
    }

    /// Refuses a view that leads out of its storage.
    fn check_inside(
        &self,
        callable: Global,
        tensor: &PickledTensor,
        storage: &Storage,
    ) -> Result<(), PickleError> {
        let bytes = storage.bytes().ok_or_else(|| {
            let count = storage.count;
            self.wrong(callable, format!("a storage of {count} elements"))
        })?;
        let held = bytes / bytes_of(Some(tensor.dtype));
        let empty = tensor.shape.contains(&0);
        let mut steps = tensor.shape.iter().zip(&tensor.strides);
        let last = steps.try_fold(tensor.offset, |last: u64, (side, stride)| {
            last.checked_add((side.saturating_sub(1) as u64).checked_mul(*stride)?)
        });
        let values =
            (tensor.shape.iter()).try_fold(1u64, |values, side| values.checked_mul(*side as u64));
        let inside = |last: u64| if empty { last <= held } else { last < held };
        let first = if empty { Some(tensor.offset) } else { last };
        match (first.filter(|last| inside(*last)), values) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(self.wrong(
                callable,
                format!(
                    "the shape {:?}, the strides {:?} and the offset {}, which lead out of the storage {:?} of {held} values",
                    tensor.shape, tensor.strides, tensor.offset, storage.key
                ),
            )),
        }
    }

    fn dtype(&self, callable: Global, id: ObjectId) -> Result<StoredType, PickleError> {
        match self.object(id) {
            PickleObject::Global(Global::Type(_, Some(dtype))) => Ok(*dtype),
            PickleObject::Global(Global::Type(name, None)) => Err(PickleError::Type {
                file: self.file.to_owned(),
                dtype: (*name).to_owned(),
                at: self.at,
            }),
            other => Err(self.wrong(callable, format!("{} for a type", other.kind()))),
        }
    }

    fn sides(&self, callable: Global, id: ObjectId) -> Result<Vec<u64>, PickleError> {
        match self.object(id) {
            PickleObject::Tuple(sides) | PickleObject::List(sides)
                if sides.len() <= DIMENSIONS_MAX =>
            {
                let sides = sides.iter();
                sides.map(|side| self.number(callable, *side)).collect()
            }
            other => Err(self.wrong(callable, format!("{} for sides", other.kind()))),
        }
    }

    fn number(&self, callable: Global, id: ObjectId) -> Result<u64, PickleError> {
        match self.object(id) {
            PickleObject::Whole(number) => u64::try_from(*number)
                .map_err(|_| self.wrong(callable, format!("the number {number}"))),
            other => Err(self.wrong(callable, format!("{} for a number", other.kind()))),
        }
    }

    /// The storage that a persistent id means: `('storage', class, key, place, elements)`.
    pub(super) fn storage(&self, id: ObjectId) -> Result<Storage, PickleError> {
        let wrong = |reason: String| PickleError::Storage {
            file: self.file.to_owned(),
            reason,
            at: self.at,
        };
        let PickleObject::Tuple(parts) = self.object(id) else {
            return Err(wrong(format!("{} for a tuple", self.object(id).kind())));
        };
        // The sixth part is the place in another storage, which PyTorch has not written for years.
        let parts: &[ObjectId] = match parts[..] {
            [ref five @ .., view] if five.len() == 5 => match self.object(view) {
                PickleObject::None => five,
                _ => return Err(wrong("a place in another one".to_owned())),
            },
            _ => parts,
        };
        let parts: Vec<&PickleObject> = parts.iter().map(|id| self.object(*id)).collect();
        match parts[..] {
            [
                PickleObject::Text(kind),
                PickleObject::Global(Global::Storage(_, dtype)),
                PickleObject::Text(key),
                PickleObject::Text(_),
                PickleObject::Whole(count),
            ] if **kind == *"storage" => Ok(Storage {
                key: Arc::clone(key),
                dtype: *dtype,
                count: u64::try_from(*count).map_err(|_| wrong(format!("{count} elements")))?,
            }),
            _ => {
                let kinds: Vec<String> = parts.iter().map(|part| part.kind()).collect();
                Err(wrong(format!("({})", kinds.join(", "))))
            }
        }
    }
}

fn count(arguments: &[ObjectId]) -> String {
    format!("{} arguments", arguments.len())
}
