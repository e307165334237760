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
mod error;
mod experts;
mod find;
mod in_stack;
mod interface;
mod lookup;
mod names;
mod part_layout;
mod pattern;
mod stack;
mod stream;
mod transposed;
mod types;
mod whole;
mod write;

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod fp8;
pub(crate) mod gguf;
mod gptq;
mod hqq;
mod mlx;
mod modelopt;
mod mxfp4;

mod assemble;
mod detect;
mod excerpt;
mod held;
mod slice;
pub(crate) mod undeclared;
mod writers;

pub use adopt::{Adopt, Provenance};
use adopt::{Assembly, CodesAndScales, Parts};
pub use detect::detect;
pub(crate) use detect::{DECLARED, is_packed};
pub use error::DialectError;
pub(crate) use excerpt::Excerpt;
pub(crate) use experts::{stack_in, stacks_of};
pub(crate) use find::{adopt, stack_of};
pub(crate) use held::{HeldFormat, HeldWeights, SCALES};
pub use interface::{Dialect, Files};
pub use names::KNOWN;
pub(crate) use part_layout::ByteRuns;
pub(crate) use types::{dtype, plain};
pub(crate) use write::torch;
pub use write::{Codes, Elements, Matrices, PackedSlot, Tensor, Writer};
pub(crate) use writers::{has_gates_apart, holds_stack};
pub use writers::{usual, writer};
