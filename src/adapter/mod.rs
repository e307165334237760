//! Adapters: small trained changes of a model that stays as it is.
//!
//! ```text
//! LoraConfig ────────────────► add ────┐
//! folder ─► AdapterFile ─────► attach ─┴─► a model whose modules have Adapters ─► AdapterFile ─► folder
//! ```
//!
//! Reading order: `peft` (the configuration, and which modules it names) → `file` (both files of a folder) → `sites` (the modules
//! of a model by their names there) → `complete`, `expanded` (whether both fit) → `parts` (the parameters that an adapter brings) →
//! `fits` (whether it can be put on a model) → `beside` (their device) → `attach` (the adapters on a model) → `detach` (the files of a model's adapter) → `trained` (a model whose records hold what is
//! trained) → `change` (the values of changed rows) → `tied` (heads that are the embedding) → `merge` (an adapter in the values of a
//! checkpoint) → `blocks` (layers that are trained whole) → `whole` (all of a model, and the train types).

mod error;
mod random;

mod peft;

mod file;

mod sites;

mod complete;
mod expanded;

mod parts;

mod fits;

mod beside;

mod attach;

mod detach;

mod trained;

pub(crate) mod change;

pub(crate) mod tied;

pub(crate) mod merge;

mod blocks;

mod whole;

pub use crate::config::{AdapterConfig, AdapterSpecError, LoraConfig, TrainedBiases};
pub use attach::{adapters, add, attach, trainable, trainable_params};
pub use blocks::train_blocks;
pub use detach::detach;
pub use error::AdapterError;
pub(crate) use expanded::check_numbers;
pub use file::AdapterFile;
pub(crate) use fits::check;
pub(crate) use parts::{AdapterParts, rank_of, values};
pub use peft::PeftConfig;
pub use trained::Trained;
pub use whole::{train, train_all};
