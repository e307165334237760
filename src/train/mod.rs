//! Training of adapters: from text to the folder of an adapter.
//!
//! ```text
//! files ─► documents ─► rows ─► Batch ─► loss ─► gradients ─► optimizer ─► checkpoint
//! ```

mod batch;
mod data;
pub mod optimizer;

pub use batch::{Batch, Row};
pub use data::{
    Batches, Data, DataConfig, DataCounts, DataError, DataPosition, DataSummary, Order, Packing,
    RecordError, shown,
};
pub use optimizer::{Optimizer, OptimizerConfig};
