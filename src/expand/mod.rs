//! New blocks (LLaMA-Pro, arXiv 2401.02415): copies of some layers that change nothing until they are trained.
//!
//! ```text
//! model.layers.0  1  2  3         a copy after every second layer:
//!              │  │  │  │
//! model.layers.0  1 [2] 3  4 [5]  [n] is a copy of the layer before; what it adds to the features is zero
//! ```
//!
//! An expansion is a view of a checkpoint: another `config.json`, other names for the same bytes, and tensors of zeros that
//! are in no file. Planning, loading, saving and comparing see an ordinary checkpoint.
//!
//! Reading order: [`Expansion`] (which layers are new) → `ends` (what is zero in a new block) → `config` and `declared`
//! (the rewritten `config.json`) → `tensors` (the names) → `view` (all together).

mod error;

mod layers;

mod ends;

mod declared;

mod config;

mod tensors;

mod view;

pub use config::new_blocks;
pub use error::ExpandError;
pub use layers::Expansion;
pub(crate) use view::{expanded, patterns, recognised, without_stale_index};
