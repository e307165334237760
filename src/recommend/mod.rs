//! A configuration for a model and a memory: what loses least among what fits, each choice with its reason.
//!
//! ```text
//! task, memory ─► trials, the best first ─► a plan of each ─► the first that fits ─► choices, TOML
//!                                                      └─► changes that make another plan fit
//! ```
//!
//! Nothing here knows a formula: a trial fits where its [`MemoryPlan`] does.

mod error;
mod task;

mod training;

mod planned;

mod trial;

mod choose;

mod reasons;

mod remedy;

mod write;

pub use choose::{Recommendation, recommend, recommended_config};
pub use error::RecommendError;
pub use planned::{PlannedTask, planned};
pub use reasons::ReasonedChoice;
pub use remedy::{Remedy, remedies};
pub use task::Task;

#[cfg(doc)]
use crate::plan::MemoryPlan;
