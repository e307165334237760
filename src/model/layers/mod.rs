//! The layers that a model is made of, each with weights that are dense or packed.
//!
//! Reading order: [`Linear`] and [`Embedding`] (matrices) → [`Norm`] → [`Rope`] → [`Remember`] and
//! [`Cache`] → [`Mixer`] ([`Attention`], [`Latent`], [`Delta`]) → [`Mlp`].

mod embedding;
mod linear;

mod norm;
mod rope;

mod remember;

mod cache;

mod attention;

mod latent;

mod delta_rule;

mod delta;

mod mixer;

mod mlp;

pub use attention::{ApartQkv, Attention, Heads, NormOver, Qkv, Scores, attend};
pub use cache::{Cache, CacheError, LayerCache};
pub use delta::{ApartDelta, Delta, DeltaByHead, DeltaHeads, DeltaProjections};
pub use delta_rule::{DeltaTokens, delta_rule};
pub use embedding::Embedding;
pub use latent::{Latent, LatentHeads, LatentQuery, SmallQuery};
pub use linear::{Linear, Matrix};
pub use mixer::Mixer;
pub use mlp::{Activation, FusedMlp, GatedMlp, Mlp, PlainMlp};
pub use norm::{Norm, NormKind, NormSpec};
pub use remember::{DeltaState, NoMemory, Remember};
pub use rope::{Pairs, Rope, RopeScaling, RotarySpec, Rotation};
