//! Training of adapters: from text to the folder of an adapter.
//!
//! ```text
//! files ─► documents ─► rows ─► Batch ─► loss ─► gradients ─► optimizer ─► checkpoint
//! ```

mod activations;
mod batch;
mod batch_loss;
mod batch_moment;
mod data;
pub mod optimizer;

mod checkpoint;
mod config;
mod error;
mod estimate;
mod evaluation;
mod event;
mod exact;
mod facts;
mod finish;
mod folder;
mod identity;
mod keys;
mod load;
mod metrics;
mod on_devices;
mod open;
mod param_path;
mod ranks;
mod report;
mod run;
mod saver;
mod schedule;
mod subject;
mod trained;

pub use batch::{Batch, Row};
pub use checkpoint::{CheckpointFault, Ended};
pub use config::FinetuneConfig;
pub use data::{
    Batches, Data, DataConfig, DataCounts, DataError, DataOrder, DataPosition, DataSummary,
    RecordError, RowPacking, shown,
};
pub use error::TrainError;
pub use estimate::MemoryEstimate;
pub use event::RunEvent;
pub use facts::{DataFacts, FinetuneFacts};
pub use folder::FolderError;
pub use keys::FinetuneConfigError;
pub use metrics::{EvalMetrics, MetricsLine, StepMetrics};
pub use on_devices::on_devices;
pub use open::Run;
pub use optimizer::{Optimizer, OptimizerConfig};
pub use report::{BestStep, RunReport};
pub use run::{LoadedRun, RunWatch};
pub use schedule::{Decay, Schedule};
