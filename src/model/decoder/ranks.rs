//! The ranks that a decoder is divided among, and how tokens go from one to the next.

use core::ops::Range;

use super::{block::Block, passage::Passage};
use crate::{
    collective::Together,
    model::layers::{Attention, KeySource, Mixer, Remember},
};
use burn::tensor::Tensor;

/// The ranks of a decoder that is divided.
#[derive(Debug, Clone)]
pub(crate) struct DecoderRanks {
    pub(super) together: Together,
    /// The layers of each rank; empty where all have all.
    pub(super) stages: Vec<Range<usize>>,
}

/// An end of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelEnd {
    /// The embedding.
    First,
    /// Norm and head.
    Last,
}

impl DecoderRanks {
    /// The rank that has a layer.
    fn owner(&self, layer: usize) -> usize {
        let owner = self.stages.iter().position(|stage| stage.contains(&layer));
        owner.expect("every layer has a rank")
    }

    /// A layer that one rank has. The others get what comes out of the last layer of its rank, and the keys and values that it lends.
    pub(super) fn through(
        &self,
        block: &Block,
        x: Tensor<3>,
        passage: &mut Passage,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        let (nth, owner) = (block.nth, self.owner(block.nth));
        let is_here = self.together.ranks().rank() == owner;
        let (shape, device, dtype) = (x.dims(), x.device(), x.dtype());
        let y = match is_here {
            true => block.forward(x, passage, memory),
            false => x,
        };
        if let Some((layer, kind)) = lends(block) {
            let [b, t, _] = shape;
            let [keys, values] = [0, 1].map(|which| {
                let mine = passage.lent.get(&layer).map(|lent| lent[which].clone());
                let shape = [b, kind.0, t, kind.1];
                self.together
                    .share_any(mine.filter(|_| is_here), owner, shape, (&device, dtype))
            });
            passage.lent.insert(layer, [keys, values]);
        }
        match self.stages[owner].end == nth + 1 && owner + 1 < self.stages.len() {
            true => self
                .together
                .share(is_here.then_some(y), owner, shape, (&device, dtype)),
            false => y,
        }
    }
}

/// The number under which a layer lends its keys and values, and their heads and features.
fn lends(block: &Block) -> Option<(usize, (usize, usize))> {
    let Mixer::Attention(Attention { heads, .. }) = &block.mixer else {
        return None;
    };
    match heads.keys {
        KeySource::Lent(layer) => Some((layer, (heads.key_value, heads.features))),
        KeySource::Own | KeySource::Of(_) => None,
    }
}
