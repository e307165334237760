//! Carrying out a plan: tiles are read ahead of the workers, converted, and placed.
//!
//! ```text
//! reader threads ──tiles──► converter, worker pool ──finished weights, or rows──► sink
//!      ▲                         │
//!      └──── bytes in flight ◄───┘ a tile's bytes are free as soon as it is converted
//! ```
//!
//! Tensors are cut into tiles of whole rows. One tensor is converted at a time, each tile by all
//! workers: memory beside the finished weights is the bytes in flight plus scratch for a model of any size, and a
//! single huge tensor keeps every core busy. Tiles of the next tensors are read meanwhile, and the tensors before
//! are placed: a file is written while the next weight is packed. A weight whose sink takes rows is never whole in memory.
//!
//! The sink and the observers are called from the caller's thread. Where a device packs, conversion is on that thread as
//! well: the device works by itself, and its queue belongs to one thread.
//!
//! A cancel or a failure takes effect when the read under way returns.

// In the order of their imports: a file imports only files above it.
mod error;

mod ahead;
mod in_flight;
mod pages;
mod settings;

mod fetch;

mod staging;
mod timing;

mod dense;
mod finished;
mod pieces;
mod sink;
mod tile;
mod unpack;
mod weave;

mod values;

mod cut;
mod upload;

mod rows;

mod compare;

mod convert;

mod road;
mod room;

mod read;

mod run;

mod foretell;

pub use crate::observe::{Event, Flow, Observer};
pub(crate) use ahead::StepReads;
pub(crate) use compare::{Comparer, comparing};
pub(crate) use cut::{cut_dense, cut_halves, cut_packed};
pub use dense::{Dense, Values};
pub use error::{PipelineError, SinkError};
pub(crate) use fetch::fetching;
pub use finished::{Finished, RowBatch, WeightShare};
pub(crate) use foretell::{RunSize, foretell};
pub use in_flight::InFlight;
pub(crate) use pieces::Pieces;
pub(crate) use rows::{Original, RowReader, read_error};
pub use run::run;
pub use settings::Settings;
pub(crate) use settings::tile_bytes;
pub use sink::{RowSink, Sink};
pub use timing::Timing;
pub(crate) use upload::{upload, upload_halves};
pub(crate) use values::SourceValues;
