//! How the Python world writes quantized weights to disk.
//!
//! ```text
//! config.json ─┐
//!              ├─► detect ─► Dialect ──adopt(slot)─► Adopt: which tensors, which format
//! catalog ─────┘                                       │
//!                            the pipeline reads them ──┴─► assemble ─► packed weight
//!
//! packed weight, PackedSlot ─► Writer ─► its tensors, and what config.json says about them
//! ```
//!
//! A dialect is declared by `config.json` and seen in names, types and shapes of tensors. All of them have to
//! agree: a file that is read in the wrong dialect loads without a complaint and answers nonsense. So nothing
//! is guessed, and every disagreement is an error that names both sides.
//!
//! Codes and scales are adopted, put into our order, and never computed anew.

mod adopt;
mod detect;
mod error;
mod lookup;
mod names;
mod stream;
mod write;

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod fp8;
mod gptq;
mod hqq;
mod mlx;

pub use adopt::{Adopt, Provenance};
use adopt::{Assembly, CodesAndScales, Parts};
pub use detect::detect;
pub(crate) use detect::{DECLARED, is_packed};
pub use error::DialectError;
use lookup::Lookup;
pub(crate) use write::dtype;
pub use write::{Codes, Elements, Matrices, PackedSlot, Tensor, Writer, usual, writer};

use core::fmt;

use firebox_kernels::arith::float::DType;

use crate::{
    model::Slot,
    source::{Catalog, StoredType},
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

    /// Whether `tensor` is one of the dialect's that no weight needs: the scale of activations.
    fn leaves_out(&self, tensor: &str) -> bool {
        let _ = tensor;
        false
    }
}

/// The float type of plain numbers.
pub(crate) fn plain(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::BF16 => Some(DType::Bf16),
        _ => None,
    }
}
