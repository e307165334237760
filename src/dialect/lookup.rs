//! Looking up the tensors of one packed weight, and comparing them with what the dialect prescribes.

use firebox_kernels::{arith::float::DType, format::FormatError};

use super::{
    DialectError,
    names::Excepted,
    plain,
    types::{beside, module, stacked},
};
use crate::{
    config::To,
    model::{Role, Slot},
    source::{Catalog, StoredType, TensorInfo, is_made_up},
};

/// Dialects that pack the stacked matrices of experts as one tensor.
const STACKING: [&str; 5] = [
    To::BitsAndBytes.name(),
    To::Fp8.name(),
    To::Gguf.name(),
    To::Mlx.name(),
    To::Mxfp4.name(),
];

/// One weight `[out, in]` that may be packed, and the tensors around it.
#[derive(Debug)]
pub struct Lookup<'a> {
    pub(super) dialect: &'static str,
    pub(super) slot: &'a Slot,
    pub(super) shape: [usize; 2],
    catalog: &'a Catalog,
}

impl<'a> Lookup<'a> {
    /// `None` for tensors that no dialect packs: all but matrices, and stacks of matrices where the dialect has them.
    pub(super) fn new(dialect: &'static str, slot: &'a Slot, catalog: &'a Catalog) -> Option<Self> {
        let shape = match slot.shape[..] {
            [rows, cols] => [rows, cols],
            [experts, rows, cols] if STACKING.contains(&dialect) => [experts * rows, cols],
            _ => return None,
        };
        slot.is_matrix().then_some(Self {
            dialect,
            slot,
            shape,
            catalog,
        })
    }

    /// The module's path: the name without `.weight`.
    pub(super) fn module(&self) -> &'a str {
        module(self.slot)
    }

    /// Whether `is_match` holds for a name of the module: its own, or that which the file has for it.
    pub(super) fn any_name(
        &self,
        is_match: impl Fn(&str) -> Result<bool, DialectError>,
    ) -> Result<bool, DialectError> {
        for name in self.names() {
            if is_match(&name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether `list` has the module.
    pub(super) fn is_excepted(&self, list: &Excepted) -> bool {
        self.names().iter().any(|name| list.names(name))
    }

    /// The names that a configuration may have for the module: its own, and that of the file where the file has another.
    pub(super) fn names(&self) -> Vec<String> {
        let stored = self.catalog.as_stored(self.module());
        [self.module().to_owned()]
            .into_iter()
            .chain(stored)
            .collect()
    }

    /// A shape of this many rows and columns in the file, where experts are the outermost dimension of a stack.
    pub(super) fn stacked(&self, matrix: [usize; 2]) -> Vec<usize> {
        stacked(self.slot, matrix)
    }

    pub(super) fn weights(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The tensor of the weight's own name.
    pub(super) fn weight(&self) -> Option<&'a TensorInfo> {
        self.catalog.get(&self.slot.name)
    }

    /// A tensor beside the weight: `weight_scale` of the same module.
    pub(super) fn beside(&self, name: &str) -> Option<&'a TensorInfo> {
        self.catalog.get(&beside(self.slot, name))
    }

    /// The same, which has to be there.
    pub(super) fn need(&self, name: &str) -> Result<&'a TensorInfo, DialectError> {
        self.beside(name).ok_or_else(|| DialectError::Missing {
            weight: self.slot.name.clone(),
            dialect: self.dialect,
            part: beside(self.slot, name),
        })
    }

    /// Checks a weight that is not packed: an error if it is a linear layer that `field` does not list as an exception.
    /// Every project packs linear layers; heads and embeddings may be dense without being listed.
    pub(super) fn plain(
        &self,
        weight: Option<&TensorInfo>,
        excepted: bool,
        field: &'static str,
    ) -> Result<(), DialectError> {
        match weight {
            Some(weight) if plain(weight.dtype).is_none() => Err(self.dtype_error(
                weight,
                "F64, F32, F16 or BF16, or the tensors of a packed weight",
            )),
            // Zeros of a new block are in no file, so no list of the files can name them.
            Some(weight) if is_made_up(&weight.file) => Ok(()),
            Some(weight) if self.is_linear() && !excepted => Err(DialectError::Unpacked {
                tensor: self.slot.name.clone(),
                dtype: weight.dtype,
                field,
            }),
            _ => Ok(()),
        }
    }

    fn is_linear(&self) -> bool {
        matches!(self.slot.role, Role::Linear | Role::Expert) && self.slot.name.ends_with(".weight")
    }

    /// The codes of a dialect that names them otherwise than the weight; `None` where the weight is dense. Refuses codes of
    /// a weight that is excepted, a dense weight that is not, and codes beside a dense weight: either could be meant.
    pub(super) fn codes(
        &self,
        name: &str,
        list: &Excepted,
    ) -> Result<Option<&'a TensorInfo>, DialectError> {
        let (excepted, field) = (self.is_excepted(list), list.field);
        match (self.beside(name), self.weight()) {
            (None, weight) => self.plain(weight, excepted, field).map(|()| None),
            (Some(_), _) if excepted => Err(self.excepted(field)),
            (Some(_), Some(weight)) => Err(DialectError::Unpacked {
                tensor: self.slot.name.clone(),
                dtype: weight.dtype,
                field,
            }),
            (codes, None) => Ok(codes),
        }
    }

    /// The error of a packed weight that `field` excepts.
    pub(super) fn excepted(&self, field: &'static str) -> DialectError {
        let tensor = self.slot.name.clone();
        DialectError::Excepted { tensor, field }
    }

    pub(super) fn dtype(
        &self,
        tensor: &TensorInfo,
        allowed: &[StoredType],
    ) -> Result<(), DialectError> {
        if allowed.contains(&tensor.dtype) {
            return Ok(());
        }
        let names: Vec<String> = allowed.iter().map(StoredType::to_string).collect();
        Err(self.dtype_error(tensor, &names.join(" or ")))
    }

    /// The type of a tensor that has to hold plain numbers.
    pub(super) fn floats(&self, tensor: &TensorInfo) -> Result<DType, DialectError> {
        let expected = || self.dtype_error(tensor, "F32, F16 or BF16");
        let stored = plain(tensor.dtype).filter(|_| tensor.dtype != StoredType::F64);
        stored.ok_or_else(expected)
    }

    /// Refuses a format that cannot be, or not in this shape.
    pub(super) fn format<T>(&self, made: Result<T, FormatError>) -> Result<T, DialectError> {
        made.map_err(|source| {
            let tensor = self.slot.name.clone();
            DialectError::Format { tensor, source }
        })
    }

    fn dtype_error(&self, tensor: &TensorInfo, expected: &str) -> DialectError {
        DialectError::Dtype {
            tensor: tensor.name.to_string(),
            found: tensor.dtype,
            dialect: self.dialect,
            expected: expected.to_owned(),
        }
    }

    /// Refuses a tensor that has none of the shapes.
    pub(super) fn shape(
        &self,
        tensor: &TensorInfo,
        allowed: &[&[usize]],
    ) -> Result<(), DialectError> {
        if allowed.contains(&&tensor.shape[..]) {
            return Ok(());
        }
        let shapes: Vec<String> = allowed.iter().map(|shape| format!("{shape:?}")).collect();
        Err(DialectError::Shape {
            tensor: tensor.name.to_string(),
            found: tensor.shape.clone(),
            weight: self.shape,
            expected: shapes.join(" or "),
            dialect: self.dialect,
        })
    }

    /// Refuses a tensor that says something else than a field of the configuration.
    pub(super) fn agree<T: PartialEq + ToString>(
        &self,
        tensor: &TensorInfo,
        found: T,
        field: impl Into<String>,
        declared: T,
    ) -> Result<(), DialectError> {
        if found == declared {
            return Ok(());
        }
        Err(DialectError::Field {
            tensor: tensor.name.to_string(),
            found: found.to_string(),
            field: field.into(),
            declared: declared.to_string(),
        })
    }
}
