//! Training of adapters: from text to the folder of an adapter.
//!
//! ```text
//! files ─► documents ─► rows ─► Batch ─► loss ─► gradients ─► optimizer ─► checkpoint
//! ```

mod batch;
pub mod optimizer;

pub use batch::{Batch, Row};
pub use optimizer::{Optimizer, OptimizerConfig};
