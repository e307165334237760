//! What a dialect does.

use core::fmt;

use super::{Adopt, DialectError, lookup::Lookup};
use crate::{model::Slot, source::Catalog};

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

    /// Whether `tensor` is one of the dialect's that no weight needs: the scale of activations.
    fn leaves_out(&self, tensor: &str) -> bool {
        let _ = tensor;
        false
    }
}
