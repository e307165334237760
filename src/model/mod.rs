//! Modules whose weights are dense or packed, and the trait that ties a module to a checkpoint.
//!
//! Reading order: [`Slot`] (what a module wants) → [`Weights`] (the finished ones) → [`layers`] → [`decoder`] (one
//! module for every family, from a [`Spec`](decoder::Spec)) → `arch` (a file for each family: from `config.json` to a
//! [`Spec`](decoder::Spec)) → [`generate()`], tokens out of any of them.

mod slot;

mod adaptable;

mod cut;
mod divided;

mod link;

mod stacks;

mod unit;

mod weights;

mod error;

mod pass;

pub(crate) mod fields;

pub mod stream;

mod recompute;

pub mod layers;

pub mod decoder;

mod arch;

mod held;

mod generate;

pub use adaptable::Adaptable;
pub use arch::{Family, Wrapper, families, wrappers};
pub use cut::{CutError, WeightCut};
pub(crate) use decoder::INSIDE;
pub use decoder::{CausalLm, LossConfig, PassError};
pub use divided::Divided;
pub use error::ConfigError;
pub use generate::{
    Draw, GenerateError, GenerateOptions, Generated, NextToken, Sampling, StopReason, generate,
};
pub(crate) use held::{SlotValues, held};
pub use layers::{
    Attention, Cache, CacheError, Documents, DocumentsError, Embedding, LayerCache, Linear, Matrix,
    Norm, Rope, RopeScaling, Rotation,
};
pub use link::Link;
pub use pass::{LayerPass, PassBytes, PassMeans, PassSize};
pub use recompute::recompute;
pub(crate) use slot::TIED_HEAD;
pub use slot::{Origin, Role, Slot};
pub(crate) use stacks::SWITCH;
pub use stacks::Stacks;
pub use unit::Unit;
pub use weights::{BuildError, Weight, Weights};

use core::fmt::Debug;

use burn::{module::Param, tensor::Tensor};
use serde_json::Value;

use crate::collective::Together;

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

    /// The same configuration for the checkpoint at hand, which `has` the tensors of some names: files of one model may
    /// name its tensors in several ways.
    fn named(config: Self::Config, _has: &dyn Fn(&str) -> bool) -> Self::Config {
        config
    }

    /// The tensors of the embedding and of the head, where the configuration takes both for one matrix. A checkpoint that has
    /// both, with other values in the head, is loaded as [`untied`](Self::untied) says.
    fn tied(_config: &Self::Config) -> Option<[String; 2]> {
        None
    }

    /// The same configuration with a head of its own.
    fn untied(config: Self::Config) -> Self::Config {
        config
    }

    /// The configuration of the part that one of several ranks multiplies by, and how the weights of the part are cut out of
    /// the whole ones. A product over cut columns is a summand of the whole product.
    ///
    /// # Errors
    ///
    /// [`CutError`] where heads or features do not divide, and for an architecture that does not say how it is cut.
    fn of_rank(
        _config: &Self::Config,
        _rank: usize,
        _ranks: usize,
    ) -> Result<(Self::Config, Vec<WeightCut>), CutError> {
        Err(CutError::Unknown)
    }

    /// Computes with the other ranks from now on, among which the model is divided.
    ///
    /// # Errors
    ///
    /// [`CutError::Unknown`] for an architecture that does not compute with others.
    fn join(&mut self, _together: &Together, _divided: Divided) -> Result<(), CutError> {
        Err(CutError::Unknown)
    }

    /// Every tensor that [`build`](Self::build) will take, named as the checkpoint names it.
    fn slots(config: &Self::Config) -> Vec<Slot>;

    /// Builds the module from finished weights.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when it asks for something that [`slots`](Self::slots) did not promise.
    fn build(config: &Self::Config, weights: &mut Weights) -> Result<Self, BuildError>;

    /// How files have the experts in stacks, where dense files of the model do; `config` is what [`config`](Self::config) read.
    /// What is written of such a model has the names that other projects have for it.
    fn stacks(_config: &Self::Config) -> Option<Stacks> {
        None
    }

    /// Which matrices share an input, and what makes it; none if not said. Balancing columns
    /// ([`LoadConfig::presinq`](crate::LoadConfig::presinq)) goes by it.
    fn links(_config: &Self::Config) -> Vec<Link> {
        Vec::new()
    }

    /// The memory that a pass takes beside the weights; `None` if not said.
    fn pass_bytes(
        _config: &Self::Config,
        _size: &PassSize,
        _means: &PassMeans,
    ) -> Option<PassBytes> {
        None
    }

    /// The parts that are computed on one device each, in the order in which a token meets them: each slot is in one of them. None
    /// if not said: the model goes to one device then, and all of it.
    ///
    /// A module whose units are on several devices moves activations between them by itself.
    fn units(_config: &Self::Config) -> Vec<Unit> {
        Vec::new()
    }

    /// The linear layers, tables and norms, which adapters can change and a saved module is made of; none if not said.
    fn adaptable(&mut self) -> Vec<Adaptable<'_>> {
        Vec::new()
    }

    /// The parameters of a saved module that are of no module of [`adaptable`](Self::adaptable), each under the name of its
    /// slot, with its values row after row; none if not said.
    fn others(&mut self) -> Vec<(String, &mut Param<Tensor<1>>)> {
        Vec::new()
    }

    /// Gives the head of a model that is tied to the embedding a module of its own, so that an adapter can change the head
    /// alone. Does nothing if not said.
    fn untie(&mut self) {}

    /// The name that adapters of peft have for the module at a path of the checkpoint, which is that of transformers; the path, if
    /// not said.
    fn module_of(_config: &Self::Config, path: &str) -> String {
        path.to_owned()
    }

    /// Whether a tensor that no slot wants is a known leftover (`rotary_emb.inv_freq`, the copy of a
    /// tied head) and not a sign of the wrong architecture.
    fn leaves_out(_config: &Self::Config, _tensor: &str) -> bool {
        false
    }
}
