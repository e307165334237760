//! Layers whose backward pass computes them once more.
//!
//! Letters: `b` rows, `t` tokens, `f` features of the model, `p` features of a small embedding, `n` heads, `d` features of a head.

use burn::tensor::Tensor;

use super::{block::Block, passage::Passage};
use crate::model::{
    layers::{KeySource, LentKeys, NoMemory},
    recompute::recompute_held,
};

/// [`Block::forward`] of `x` `[b, t, f]` without a memory, of which the graph keeps what goes in alone: `x`, the small embedding and
/// the keys that the layer borrows. A layer that lends its keys has more than one output, and is kept as usual.
pub(super) fn forward(block: &Block, x: Tensor<3>, passage: &mut Passage) -> Tensor<3> {
    let keys = block
        .mixer
        .attention()
        .map(|attention| attention.heads.keys);
    let borrowed = match keys {
        Some(KeySource::Lent(_)) => return once(block, x, passage),
        Some(KeySource::Of(layer)) => Some(layer),
        Some(KeySource::Own) | None => None,
    };
    let x = block.receive(x, passage);
    let borrowed = borrowed.map(|layer| (layer, passage.lent[&layer].clone()));
    let small = passage.small_of(block.nth);
    let (has_small, mut inputs) = (small.is_some(), vec![x]);
    inputs.extend(small);
    let lender = borrowed.map(|(layer, keys)| {
        let heads = keys[0].dims()[1];
        // `[b, n, t, d]` to `[b·n, t, d]`.
        inputs.extend(keys.map(|keys| keys.flatten(0, 1)));
        (layer, heads)
    });
    let shared = Passage {
        small: None,
        lent: LentKeys::new(),
        ..passage.clone()
    };

    let run = move |block: &Block, inputs: Vec<Tensor<3>>| {
        block.rewind();
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("as many as went in");
        let x = next();
        let small = has_small.then(&mut next);
        let mut passage = shared.clone();
        if let Some((layer, heads)) = lender {
            let keys = [next(), next()].map(|keys| {
                let [rows, t, d] = keys.dims();
                keys.reshape([rows / heads, heads, t, d])
            });
            passage.lent.insert(layer, keys);
        }
        block.forward_with(x, small, &mut passage, &mut NoMemory)
    };
    recompute_held(block.again(), inputs, Block::hold, run)
}

/// The same, with all that is inside kept.
pub(super) fn once(block: &Block, x: Tensor<3>, passage: &mut Passage) -> Tensor<3> {
    let _held = block.hold();
    block.forward(x, passage, &mut NoMemory)
}
