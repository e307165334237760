//! One decoder for every family: a [`Spec`] says what it is made of, one walk makes slots, links and the module of it.
//!
//! ```text
//! config.json ─► arch/FAMILY.rs ─► Spec ─► walk ─┬─► slots
//!                                                ├─► links
//!                                                └─► CausalLm
//! ```
//!
//! Reading order: [`Spec`] (what differs) → [`Names`] → the walk → [`Block`] → [`CausalLm`].

mod spec;

mod names;

mod check;

mod visit;

mod walk_feed;
mod walk_mixer;

mod walk;

mod cut;
mod links;
mod pass;
mod sizes;
mod slots;
mod units;

mod passage;

mod block;

mod ranks;

mod tail;

mod forward;

mod divided;

mod again;

mod loss;

mod take;

mod build_feed;
mod build_mixer;

mod build;

mod burn_lora;

mod parts;

mod architecture;

pub use block::Block;
pub use burn_lora::NotDense;
pub use check::Unsupported;
pub use forward::CausalLm;
pub use loss::{LossConfig, PassError};
pub(crate) use names::INSIDE;
pub use names::{LLAMA, Names, Part, Prefixes};
pub use passage::Passage;
pub(in crate::model) use sizes::check_sizes;
pub use slots::slots;
// Words of a `Spec` that layers have too.
pub use super::layers::{QueryGrowth, Sees};
pub use spec::{
    AttentionSpec, DeltaSpec, EmbeddingSpec, ExpertStorage, ExpertsSpec, FeedForwardSpec, Gate,
    HeadSpec, LatentSpec, LayerSpec, MixerSpec, MlpSpec, NormPlaces, PerLayerSpec, Projections,
    QueryKeyNormSpec, SharedExpertSpec, Spec,
};
