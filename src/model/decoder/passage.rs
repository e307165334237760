//! What the layers of a decoder share while tokens pass through them.
//!
//! Letters: `b` batch, `t` new tokens, `l` layers, `p` features of a small embedding.

use burn::tensor::{Device, Tensor};

use crate::model::layers::{LentKeys, Rotation, Sight, device::on};

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
    /// Takes along what the layers share, to the device of those that follow.
    pub(super) fn come_to(&mut self, device: &Device) {
        let rotations = core::mem::take(&mut self.rotations).into_iter();
        self.rotations = rotations.map(|rotation| rotation.on(device)).collect();
        self.small = self.small.take().map(|small| on(small, device));
        for keys in self.lent.values_mut() {
            *keys = keys.clone().map(|keys| on(keys, device));
        }
    }

    /// The small embeddings of one layer, `[b, t, p]`.
    pub(super) fn small_of(&self, layer: usize) -> Option<Tensor<3>> {
        let small = self.small.as_ref()?;
        Some(small.clone().narrow(2, layer, 1).squeeze_dim(2))
    }
}
