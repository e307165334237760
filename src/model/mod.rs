//! Modules whose weights are dense or packed, and the trait that ties a module to a checkpoint.
//!
//! Reading order: [`Slot`] (what a module wants) → [`Weights`] (what it is handed) → the layers
//! ([`Embedding`], [`Linear`], [`RmsNorm`], [`Rope`], [`Attention`] with its [`Cache`]) → [`llama`], a
//! whole family of them → [`generate()`], tokens out of any of them.

mod slot;

mod link;

mod weights;

pub(crate) mod fields;

pub mod stream;

mod embedding;
mod linear;
mod norm;
mod rope;

mod cache;

mod attention;

pub mod llama;

mod generate;

pub use attention::{Attention, Heads, attend};
pub use cache::{Cache, CacheError, LayerCache};
pub use embedding::Embedding;
pub use generate::{
    Decoder, Draw, GenerateError, GenerateOptions, Generated, Sampling, StopReason, generate,
};
pub use linear::{Linear, Matrix};
pub use link::Link;
pub use norm::RmsNorm;
pub use rope::{Rope, RopeScaling, Rotation};
pub(crate) use slot::TIED_HEAD;
pub use slot::{Origin, Role, Slot};
pub use weights::{BuildError, Weight, Weights};

use core::fmt::Debug;

use serde_json::Value;

/// A module that can be loaded from a checkpoint.
///
/// ```text
/// config.json ─► Config ─► slots ─► (plan, pipeline) ─► weights ─► build ─► module
/// ```
pub trait Architecture: Sized {
    /// What `config.json` says, checked.
    type Config: Clone + Debug + Send + Sync;

    /// Reads `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the file describes another architecture or values that cannot be.
    fn config(json: &Value) -> Result<Self::Config, ConfigError>;

    /// Every tensor that [`build`](Self::build) will take, named as the checkpoint names it.
    fn slots(config: &Self::Config) -> Vec<Slot>;

    /// Builds the module from finished weights.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when it asks for something that [`slots`](Self::slots) did not promise.
    fn build(config: &Self::Config, weights: &mut Weights) -> Result<Self, BuildError>;

    /// Which matrices share an input, and what makes it; none if not said. Balancing columns
    /// ([`LoadConfig::presinq`](crate::LoadConfig::presinq)) goes by it.
    fn links(_config: &Self::Config) -> Vec<Link> {
        Vec::new()
    }

    /// Whether a tensor that no slot wants is a known leftover (`rotary_emb.inv_freq`, the copy of a
    /// tied head) and not a sign of the wrong architecture.
    fn leaves_out(_config: &Self::Config, _tensor: &str) -> bool {
        false
    }
}

/// A `config.json` that an architecture cannot be built from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field is not there.
    #[error("config.json: `{field}` is missing")]
    Missing {
        /// The field.
        field: String,
    },
    /// A field has a value that cannot be.
    #[error("config.json: `{field}` is {found}, expected {expected}")]
    Value {
        /// The field.
        field: String,
        /// What the file says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Another architecture.
    #[error("config.json: `model_type` is \"{found}\"; known are {known}")]
    Architecture {
        /// What the file says.
        found: String,
        /// What can be loaded.
        known: String,
    },
    /// Something this library does not do (yet).
    #[error(
        "config.json: `{field}` asks for {found}, which is not supported; supported: {supported}"
    )]
    Unsupported {
        /// The field.
        field: String,
        /// What it asks for.
        found: String,
        /// What could be asked for.
        supported: String,
    },
}
