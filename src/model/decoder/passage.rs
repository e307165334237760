//! What the layers of a decoder share while tokens pass through them.
//!
//! Letters: `b` batch, `t` new tokens, `l` layers, `p` features of a small embedding.

use burn::tensor::Tensor;

use crate::model::layers::{LentKeys, Rotation, Sight};

/// What the layers of a decoder share while tokens pass through them; [`CausalLm::enter`](super::CausalLm::enter) makes
/// one.
#[derive(Debug, Clone)]
pub struct Passage {
    /// The rotations of [`CausalLm::ropes`](super::CausalLm::ropes) at the positions of the tokens.
    pub rotations: Vec<Rotation>,
    /// Small embeddings of the tokens `[b, t, l, p]`, in models that have them.
    pub small: Option<Tensor<4>>,
    /// Keys and values that layers so far lend to later ones.
    pub lent: LentKeys,
    /// The tokens that each of them sees.
    pub sight: Sight,
}

impl Passage {
    /// The small embeddings of one layer, `[b, t, p]`.
    pub(super) fn small_of(&self, layer: usize) -> Option<Tensor<3>> {
        let small = self.small.as_ref()?;
        Some(small.clone().narrow(2, layer, 1).squeeze_dim(2))
    }
}
