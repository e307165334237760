//! From finished weights to the module.

use super::{
    block::Block,
    check::{self, Unsupported},
    forward::CausalLm,
    spec::Spec,
    visit::Visit,
    walk::{self, LayerTree, MlpTree},
    walk_mixer::{AttentionTree, MixerTree, QkvTree},
};
use crate::model::{
    layers::{
        Activation, ApartQkv, Attention, Embedding, FusedMlp, GatedMlp, Heads, Linear, Mixer, Mlp,
        Norm, NormOver, NormSpec, PlainMlp, Qkv, Rope, RotarySpec, Scores,
    },
    slot::Role,
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
    let spec = checked.attention;
    let heads = Heads {
        query: spec.heads,
        key_value: spec.key_value_heads,
        features: spec.head_features,
        norm_over: spec.query_key_norm.map_or(NormOver::Head, |norm| norm.over),
        scores: Scores {
            scale: spec.scale,
            soft_cap: spec.soft_cap,
            window: checked.window,
        },
    };
    let rotary = spec.rotary.as_ref();
    Ok(Block {
        attention_norm: tree.attention_norm,
        mixer: match tree.mixer {
            MixerTree::Attention(tree) => Mixer::Attention(attention(tree, heads)),
        },
        attention_norm_after: tree.attention_norm_after,
        mlp_norm: tree.mlp_norm,
        mlp: mlp(tree.mlp, checked.mlp.activation),
        mlp_norm_after: tree.mlp_norm_after,
        places: checked.layer.norms,
        residual_multiplier: checked.layer.residual_multiplier,
        rope: rotary.map(|rotary| ropes.find(rotary)).transpose()?,
    })
}

fn attention(tree: AttentionTree<Taker<'_>>, heads: Heads) -> Attention {
    Attention {
        qkv: match tree.qkv {
            QkvTree::Apart { q, k, v } => Qkv::Apart(ApartQkv {
                q_proj: q,
                k_proj: k,
                v_proj: v,
            }),
            QkvTree::Blocks(qkv) => Qkv::Blocks(qkv),
            QkvTree::ByHead(qkv) => Qkv::ByHead(qkv),
        },
        q_norm: tree.q_norm,
        k_norm: tree.k_norm,
        o_proj: tree.o,
        heads,
    }
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

/// Takes weights.
struct Taker<'w>(&'w mut Weights);

impl Visit for Taker<'_> {
    type Table = Embedding;
    type Matrix = Linear;
    type Norm = Norm;
    type Error = BuildError;

    fn table(&mut self, path: String, _: [usize; 2]) -> Result<Embedding, BuildError> {
        self.0.embedding(&path)
    }

    fn matrix(
        &mut self,
        path: String,
        _: Role,
        _: [usize; 2],
        bias: bool,
    ) -> Result<Linear, BuildError> {
        let weight = self.0.matrix(&format!("{path}.weight"))?;
        let bias = bias.then(|| self.0.param(&format!("{path}.bias")));
        Ok(Linear::new(weight, bias.transpose()?))
    }

    fn norm(&mut self, path: String, shape: &[usize], spec: NormSpec) -> Result<Norm, BuildError> {
        let mut row = |end: &str| {
            let name = format!("{path}.{end}");
            match shape {
                [_] => self.0.param(&name),
                // A row for each head, one after another.
                _ => self.0.flat_param(&name),
            }
        };
        let scale = row("weight")?;
        let bias = spec.bias.then(|| row("bias")).transpose()?;
        Ok(Norm::new(scale, bias, spec))
    }
}
