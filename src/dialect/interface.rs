//! What a dialect does.

use core::fmt;

use super::{Adopt, DialectError, lookup::Lookup, stack::PackedStack};
use crate::{
    model::Slot,
    source::{Catalog, StoredType, TensorInfo},
};

/// How one project writes quantized weights to disk.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// Its name: `bitsandbytes`.
    fn name(&self) -> &'static str;

    /// The packed weight that the checkpoint has for `slot`; `None` where the weight is dense or missing.
    ///
    /// # Errors
    ///
    /// [`DialectError`] when configuration and tensors disagree.
    fn adopt(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<Adopt>, DialectError> {
        match Lookup::new(self.name(), slot, catalog) {
            Some(lookup) => self.adopt_matrix(&lookup),
            None => Ok(None),
        }
    }

    /// The same for a matrix, whose tensors are looked up.
    #[doc(hidden)]
    fn adopt_matrix(&self, lookup: &Lookup<'_>) -> Result<Option<Adopt>, DialectError>;

    /// The packed stack that has the weight of `slot` as one of its matrices, where the checkpoint has it.
    ///
    /// # Errors
    ///
    /// [`DialectError`] for a stack without that matrix.
    #[doc(hidden)]
    fn stack(&self, slot: &Slot, catalog: &Catalog) -> Result<Option<PackedStack>, DialectError> {
        let _ = (slot, catalog);
        Ok(None)
    }

    /// The packed weight whose codes `tensor` holds: its name, and its shape `[out, in]` or `[experts, out, in]`. `None`
    /// for tensors of other purposes. Only files say so where no architecture does.
    ///
    /// # Errors
    ///
    /// [`DialectError`] when the tensors that have to say it do not.
    fn weight_of(
        &self,
        tensor: &TensorInfo,
        files: &Files<'_>,
    ) -> Result<Option<(String, Vec<usize>)>, DialectError>;

    /// Whether `tensor` is one of the dialect's that no weight needs: the scale of activations.
    fn leaves_out(&self, tensor: &str) -> bool {
        let _ = tensor;
        false
    }
}

/// The tensors of a checkpoint, of which small ones can be read.
pub struct Files<'a> {
    /// All of them.
    pub catalog: &'a Catalog,
    /// Reads all bytes of a tensor; the error says why that failed.
    pub read: &'a dyn Fn(&TensorInfo) -> Result<Vec<u8>, String>,
}

impl fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Files<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.catalog.get(name).is_some()
    }

    /// The bytes of a tensor that describes a weight.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, DialectError> {
        let unreadable = |reason: String| DialectError::Unreadable {
            tensor: name.to_owned(),
            reason,
        };
        let tensor = self.catalog.get(name);
        let tensor = tensor.ok_or_else(|| unreadable("it is missing".to_owned()))?;
        (self.read)(tensor).map_err(unreadable)
    }

    /// The sides that a tensor of I64 lists.
    pub(super) fn sides(&self, name: &str) -> Result<Vec<usize>, DialectError> {
        let bytes = self.bytes(name)?;
        let is_list = self
            .catalog
            .get(name)
            .is_some_and(|tensor| tensor.dtype == StoredType::I64);
        let (sides, rest) = bytes.as_chunks();
        let sides = sides
            .iter()
            .map(|side| i64::from_le_bytes(*side).try_into());
        match sides.collect::<Result<Vec<usize>, _>>() {
            Ok(sides) if is_list && rest.is_empty() => Ok(sides),
            _ => Err(DialectError::Unreadable {
                tensor: name.to_owned(),
                reason: "it is no list of sides in I64".to_owned(),
            }),
        }
    }
}
