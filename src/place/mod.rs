//! The ends of the pipeline: a module, weights that stream, comparisons, files of a folder.

mod dedup;
mod module;

mod stream;

mod apart;

mod compare;
mod guard;
mod verify;

pub(crate) mod folder;

pub(crate) use compare::CompareSink;
pub use dedup::Shared;
pub(crate) use folder::SavedFolder;
pub use folder::{Difference, SaveError};
pub(crate) use guard::{CheckedWeight, Guard};
pub(crate) use module::ModuleSink;
pub(crate) use stream::Streamer;
pub use verify::VerifyError;
pub(crate) use verify::{refuse_packed, refused};
