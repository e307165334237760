//! From finished weights to the module.

use super::{
    block::Block,
    build_feed, build_mixer,
    check::Unsupported,
    forward::CausalLm,
    spec::Spec,
    take::Taker,
    walk::{self, LayerTree},
};
use crate::model::{
    layers::{KeySource, PerLayerEmbedding, PerLayerInput, Rope, RotarySpec},
    weights::{BuildError, Weights},
};

/// The module of a [`Spec`].
pub(super) fn build(spec: &Spec, weights: &mut Weights) -> Result<CausalLm, BuildError> {
    let tree = walk::walk(spec, &mut Taker { weights, spec })?;
    let mut ropes = Vec::new();
    let layers = tree.layers.into_iter().enumerate();
    let blocks = layers.map(|(nth, layer)| block(spec, nth, layer, &mut ropes));
    let blocks = blocks.collect::<Result<_, _>>()?;
    Ok(CausalLm {
        embedding: tree.embedding,
        positions: tree.positions,
        per_layer: match (tree.per_layer, &spec.embedding.per_layer) {
            (Some(tree), Some(small)) => Some(PerLayerEmbedding {
                table: tree.table,
                projection: tree.projection,
                norm: tree.norm,
                features: small.features,
            }),
            _ => None,
        },
        ropes,
        blocks,
        norm: tree.norm,
        head: tree.head,
        spec: spec.clone(),
        kv_cache: weights.kv_cache(),
        ranks: None,
    })
}

/// Where a rotation is among the different ones of a model.
fn rope(ropes: &mut Vec<Rope>, spec: &RotarySpec) -> usize {
    let rope = Rope::new(spec.clone());
    if let Some(at) = ropes.iter().position(|other| *other == rope) {
        return at;
    }
    ropes.push(rope);
    ropes.len() - 1
}

fn block(
    spec: &Spec,
    nth: usize,
    tree: LayerTree<'_, Taker<'_>>,
    ropes: &mut Vec<Rope>,
) -> Result<Block, Unsupported> {
    let layer = tree.spec;
    let rotary = layer.rotary();
    Ok(Block {
        attention_norm: tree.attention_norm,
        mixer: build_mixer::mixer(tree.mixer, keys(spec, nth)),
        attention_norm_after: tree.attention_norm_after,
        mlp_norm: tree.mlp_norm,
        feed_forward: build_feed::feed_forward(tree.feed_forward, layer.norm),
        mlp_norm_after: tree.mlp_norm_after,
        per_layer: match (tree.per_layer, &spec.embedding.per_layer) {
            (Some(tree), Some(small)) => Some(PerLayerInput {
                gate: tree.gate,
                projection: tree.projection,
                norm: tree.norm,
                activation: small.activation,
            }),
            _ => None,
        },
        scalar: tree.scalar,
        nth,
        places: layer.norms,
        residual_multiplier: layer.residual_multiplier,
        rope: rotary.map(|rotary| rope(ropes, rotary)),
    })
}

/// Where layer `nth` has its keys and values from.
fn keys(spec: &Spec, nth: usize) -> KeySource {
    let attention = spec.layers[nth].attention();
    match attention.and_then(|attention| attention.keys_of) {
        Some(of) => KeySource::Of(of),
        None if spec.lends(nth) => KeySource::Lent(nth),
        None => KeySource::Own,
    }
}
