//! From finished weights to the module.

use super::{
    block::Block,
    build_feed, build_mixer,
    check::{self, Unsupported},
    forward::CausalLm,
    spec::{MixerSpec, Spec},
    take::Taker,
    walk::{self, LayerTree},
};
use crate::model::{
    layers::{Rope, RotarySpec},
    weights::{BuildError, Weights},
};

/// The module of a [`Spec`].
pub(super) fn build(spec: &Spec, weights: &mut Weights) -> Result<CausalLm, BuildError> {
    let tree = walk::walk(spec, &mut Taker(weights))?;
    let mut ropes = Ropes::default();
    let layers = tree.layers.into_iter();
    let blocks = layers.map(|layer| block(layer, &mut ropes));
    let blocks = blocks.collect::<Result<_, _>>()?;
    Ok(CausalLm {
        embedding: tree.embedding,
        positions: tree.positions,
        ropes: ropes.ropes,
        blocks,
        norm: tree.norm,
        head: tree.head,
        spec: spec.clone(),
    })
}

/// The different rotations of a model.
#[derive(Default)]
struct Ropes<'s> {
    specs: Vec<&'s RotarySpec>,
    ropes: Vec<Rope>,
}

impl<'s> Ropes<'s> {
    /// Where in the list a rotation is.
    fn find(&mut self, spec: &'s RotarySpec) -> Result<usize, Unsupported> {
        if let Some(at) = self.specs.iter().position(|other| *other == spec) {
            return Ok(at);
        }
        self.ropes.push(check::rope("", spec)?);
        self.specs.push(spec);
        Ok(self.specs.len() - 1)
    }
}

fn block<'s>(tree: LayerTree<'s, Taker<'_>>, ropes: &mut Ropes<'s>) -> Result<Block, Unsupported> {
    let checked = tree.checked;
    let rotary = match &checked.layer.mixer {
        MixerSpec::Attention(spec) => spec.rotary.as_ref(),
        MixerSpec::Latent(spec) => Some(&spec.rotary),
        MixerSpec::Delta(_) => None,
    };
    Ok(Block {
        attention_norm: tree.attention_norm,
        mixer: build_mixer::mixer(tree.mixer)?,
        attention_norm_after: tree.attention_norm_after,
        mlp_norm: tree.mlp_norm,
        feed_forward: build_feed::feed_forward(tree.feed_forward),
        mlp_norm_after: tree.mlp_norm_after,
        places: checked.layer.norms,
        residual_multiplier: checked.layer.residual_multiplier,
        rope: rotary.map(|rotary| ropes.find(rotary)).transpose()?,
    })
}
