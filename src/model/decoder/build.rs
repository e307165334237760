//! From finished weights to the module.

use super::{
    block::Block,
    build_mixer,
    check::{self, Unsupported},
    forward::CausalLm,
    spec::{MixerSpec, Spec},
    take::Taker,
    walk::{self, LayerTree, MlpTree},
};
use crate::model::{
    layers::{Activation, FusedMlp, GatedMlp, Mlp, PlainMlp, Rope, RotarySpec},
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
        mlp: mlp(tree.mlp, checked.mlp.activation),
        mlp_norm_after: tree.mlp_norm_after,
        places: checked.layer.norms,
        residual_multiplier: checked.layer.residual_multiplier,
        rope: rotary.map(|rotary| ropes.find(rotary)).transpose()?,
    })
}

fn mlp(tree: MlpTree<Taker<'_>>, activation: Activation) -> Mlp {
    match tree {
        MlpTree::Gated { gate, up, down } => Mlp::Gated(GatedMlp {
            gate_proj: gate,
            up_proj: up,
            down_proj: down,
            activation,
        }),
        MlpTree::Fused { gate_up, down } => Mlp::Fused(FusedMlp {
            gate_up_proj: gate_up,
            down_proj: down,
            activation,
        }),
        MlpTree::Plain { up, down } => Mlp::Plain(PlainMlp {
            up_proj: up,
            down_proj: down,
            activation,
        }),
    }
}
