//! Where a checkpoint's bytes come from, and their headers, which are read before any weight.
//!
//! ```text
//! Source  (local folder | hub | memory | your own)         names and byte ranges; the only I/O
//!   │
//!   ├─ config.json ───────────────────────────────► serde_json::Value
//!   ├─ model.safetensors.index.json ─► index ─────► Index ──┐
//!   └─ the first bytes of each shard ─► header ───► Header ─┴─► catalog ─► Catalog
//!
//! Checkpoint::open(source)   asks the source, hands the bytes to the parsers, keeps the results
//! ```
//!
//! The parsers ([`header`], [`gguf`], pickles, zip archives, burnpack, [`Index`], [`Catalog`]) do no I/O: bytes in, values out. What they
//! accept has been checked, so that no later reader has to check the range of a tensor again.
//!
//! A custom source is three short methods: see [`Source`].

pub(crate) mod address;

mod error;
mod fetched;
mod name;
mod probe;
mod read;

mod local;
mod memory;

#[cfg(any(feature = "hub", feature = "remote"))]
mod backoff;
#[cfg(any(feature = "hub", feature = "remote"))]
mod environment;
#[cfg(any(feature = "hub", feature = "remote"))]
mod origin;
#[cfg(any(feature = "hub", feature = "remote"))]
mod tally;

#[cfg(feature = "remote")]
pub(crate) mod remote;

#[cfg(feature = "hub")]
mod hub;

mod apart;

mod overlay;

mod pairs;

mod dtype;

pub(crate) mod json;

pub mod header;

pub mod gguf;

pub(crate) mod pickle;

pub(crate) mod zip;

pub(crate) mod burnpack;

mod index;

mod instead;

mod catalog;

mod gaps;

mod unindexed;

pub(crate) mod checkpoint;

pub use address::without_secrets;
pub(crate) use apart::Apart;
pub use burnpack::BurnpackError;
pub use bytes::Bytes;
pub(crate) use catalog::Renaming;
pub use catalog::{Catalog, CatalogError, TensorInfo};
pub use checkpoint::{Checkpoint, CheckpointError, WeightFile};
pub use dtype::StoredType;
pub use error::SourceError;
pub use fetched::FetchTotals;
pub use header::{Entry, Header, HeaderError};
#[cfg(feature = "hub")]
pub use hub::{Download, Hub, HubBuilder};
#[cfg(feature = "hub")]
pub(crate) use hub::{HubLine, HubRequest};
pub use index::{Index, IndexError};
pub use local::Local;
pub use memory::{Fault, Memory};
pub(crate) use name::{BURNPACK, GGUF, SAFETENSORS, TORCH};
pub(crate) use overlay::{Overlay, ZEROS, is_made_up, ones};
pub use pickle::PickleError;
pub use probe::Probe;
pub use read::{Access, SMALL_FILE_BYTES_MAX, Source, SourceExt, SourceHints};
#[cfg(feature = "remote")]
pub use remote::{Remote, RemoteBuilder};

pub(crate) use unindexed::{UnindexedFiles, find as find_unindexed};
pub use zip::ZipError;

use name::{is_weights, stays_inside};
