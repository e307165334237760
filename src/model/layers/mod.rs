//! The layers that a model is made of, each with weights that are dense or packed.
//!
//! Reading order: [`Matrix`] → [`Adapter`] (its trained change) → [`Linear`] and [`Embedding`] → [`Norm`] → [`Documents`] and [`Sight`] → [`Rope`] → [`KeptRows`], [`Remember`] and [`Cache`] →
//! [`Mixer`] ([`Attention`], [`Latent`], [`Delta`]) → [`FeedForward`] ([`Mlp`]; [`Router`] and [`Experts`]).

pub(super) mod device;
pub(super) mod frozen;
#[cfg(feature = "cpu")]
mod host;
pub(super) mod operations;

mod dropout;

mod matrix;

mod adapter;
mod low_rank;

mod embedding;
mod linear;

mod documents;

mod norm;
mod rope;

mod kept_rows;

mod remember;

mod cache;

mod sight;

mod attend;

mod attention;

mod latent;

mod delta_rule;

mod delta;

mod mixer;

mod mlp;

mod router;

mod experts;

mod feed_forward;

mod per_layer;

pub use adapter::{Adapter, AdapterSwitch, LowRank};
pub(crate) use attend::SCORES_MAX;
pub use attend::{QueryGrowth, Scores, attend};
pub use attention::{ApartQkv, Attention, Heads, KeySource, LentKeys, NormOver, Qkv, SharedRows};
pub use cache::{Cache, CacheError, LayerCache};
pub use delta::{ApartDelta, Delta, DeltaByHead, DeltaHeads, DeltaProjections};
pub use delta_rule::{DeltaTokens, delta_rule};
pub use documents::{Documents, DocumentsError};
pub use dropout::Dropout;
pub(crate) use dropout::{SPLIT_MIX_STEP, split_mix};
pub use embedding::Embedding;
pub use experts::{Experts, SharedExpert};
pub use feed_forward::{FeedForward, SideBySide};
pub use kept_rows::{KeptRows, ScaledRows};
pub use latent::{Latent, LatentHeads, LatentQuery, SmallQuery};
pub use linear::Linear;
pub(crate) use linear::{Place, Summand};
pub use matrix::Matrix;
pub use mixer::Mixer;
pub use mlp::{Activation, Clamp, FusedMlp, GateRows, GatedMlp, Gating, Mlp, PlainMlp};
pub use norm::{Norm, NormKind, NormSpec};
pub use per_layer::{PerLayerEmbedding, PerLayerInput};
pub use remember::{DeltaState, NoMemory, Remember};
pub use rope::{Pairs, Rope, RopeScaling, RotarySpec, Rotation};
pub use router::{Router, RouterGroups, RouterScales, RouterScore, RouterSpec, Routing};
pub use sight::{Sees, Sight};
