//! The parts of a decoder that have values: those that adapters change, and those that a saved module is made of.

use burn::{module::Param, tensor::Tensor};

use super::{block::Block, forward::CausalLm, names::Part};
use crate::model::{
    Adaptable,
    layers::{
        Attention, Delta, DeltaProjections, Embedding, Experts, FeedForward, Latent, LatentQuery,
        Linear, Mixer, Mlp, Norm, Qkv,
    },
};

/// All parts of a model, each kind in the order in which a token meets them.
#[derive(Default)]
struct DecoderParts<'m> {
    linears: Vec<&'m mut Linear>,
    tables: Vec<&'m mut Embedding>,
    norms: Vec<&'m mut Norm>,
    /// Values that are of none of these, and the layer that has them.
    values: Vec<(usize, Part, &'m mut Param<Tensor<1>>)>,
}

/// Every linear layer, table and norm.
pub(super) fn modules(model: &mut CausalLm) -> Vec<Adaptable<'_>> {
    let parts = DecoderParts::of(model);
    let linears = parts.linears.into_iter().map(Adaptable::Linear);
    let tables = parts.tables.into_iter().map(Adaptable::Embedding);
    let norms = parts.norms.into_iter().map(Adaptable::Norm);
    linears.chain(tables).chain(norms).collect()
}

/// Every other tensor, under the name of its slot.
pub(super) fn others(model: &mut CausalLm) -> Vec<(String, &mut Param<Tensor<1>>)> {
    let spec = model.spec.clone();
    let values = DecoderParts::of(model).values.into_iter();
    let named = values.map(|(nth, part, values)| (spec.path(Some(nth), part), values));
    named.collect()
}

impl<'m> DecoderParts<'m> {
    fn of(model: &'m mut CausalLm) -> Self {
        let mut parts = Self::default();
        parts.tables.push(&mut model.embedding);
        parts.tables.extend(&mut model.positions);
        for block in &mut model.blocks {
            parts.block(block);
        }
        parts.norms.push(&mut model.norm);
        parts.linears.extend(&mut model.head);
        if let Some(small) = &mut model.per_layer {
            parts.tables.push(&mut small.table);
            parts.linears.push(&mut small.projection);
            parts.norms.push(&mut small.norm);
        }
        parts
    }

    fn block(&mut self, block: &'m mut Block) {
        let nth = block.nth;
        self.norms.extend(&mut block.attention_norm);
        match &mut block.mixer {
            Mixer::Attention(attention) => self.attention(nth, attention),
            Mixer::Latent(latent) => self.latent(latent),
            Mixer::Delta(delta) => self.delta(nth, delta),
        }
        self.norms.extend(&mut block.attention_norm_after);
        self.norms.extend(&mut block.mlp_norm);
        match &mut block.feed_forward {
            FeedForward::Mlp(mlp) => self.mlp(mlp),
            FeedForward::Experts(experts) => self.experts(nth, experts),
            FeedForward::Both(both) => {
                self.mlp(&mut both.mlp);
                self.norms
                    .extend([&mut both.mlp_norm_after, &mut both.experts_norm]);
                self.experts(nth, &mut both.experts);
                self.norms.push(&mut both.experts_norm_after);
            }
        }
        self.norms.extend(&mut block.mlp_norm_after);
        if let Some(small) = &mut block.per_layer {
            self.linears
                .extend([&mut small.gate, &mut small.projection]);
            self.norms.push(&mut small.norm);
        }
        let scalar = block.scalar.as_mut();
        self.values
            .extend(scalar.map(|scalar| (nth, Part::LayerScalar, scalar)));
    }

    fn attention(&mut self, nth: usize, attention: &'m mut Attention) {
        match &mut attention.qkv {
            Qkv::Apart(qkv) => {
                self.linears
                    .extend([&mut qkv.q_proj, &mut qkv.k_proj, &mut qkv.v_proj]);
            }
            Qkv::SharedRows(qkv) => self.linears.extend([&mut qkv.q_proj, &mut qkv.kv_proj]),
            Qkv::Queries(qkv) | Qkv::Blocks(qkv) | Qkv::ByHead(qkv) => self.linears.push(qkv),
        }
        self.linears.push(&mut attention.o_proj);
        self.norms.extend(&mut attention.q_norm);
        self.norms.extend(&mut attention.k_norm);
        let sinks = attention.sinks.as_mut();
        self.values
            .extend(sinks.map(|sinks| (nth, Part::Sinks, sinks)));
    }

    fn latent(&mut self, latent: &'m mut Latent) {
        match &mut latent.query {
            LatentQuery::Whole(query) => self.linears.push(query),
            LatentQuery::Small(query) => {
                self.linears
                    .extend([&mut query.q_a_proj, &mut query.q_b_proj]);
                self.norms.push(&mut query.q_a_norm);
            }
        }
        let (kv_a, kv_b) = (&mut latent.kv_a_proj, &mut latent.kv_b_proj);
        self.linears.extend([kv_a, kv_b, &mut latent.o_proj]);
        self.norms.push(&mut latent.kv_a_norm);
    }

    fn delta(&mut self, nth: usize, delta: &'m mut Delta) {
        match &mut delta.projections {
            DeltaProjections::Apart(apart) => {
                self.linears
                    .extend([&mut apart.qkv_proj, &mut apart.z_proj]);
                self.linears.extend([&mut apart.b_proj, &mut apart.a_proj]);
            }
            DeltaProjections::ByHead(by_head) => {
                self.linears
                    .extend([&mut by_head.qkvz_proj, &mut by_head.ba_proj]);
            }
        }
        self.linears.push(&mut delta.out_proj);
        self.norms.push(&mut delta.norm);
        self.values.extend([
            (nth, Part::DeltaConvolution, &mut delta.convolution),
            (nth, Part::DeltaFadeBias, &mut delta.fade_bias),
            (nth, Part::DeltaFadeFactor, &mut delta.fade_factor),
        ]);
    }

    fn mlp(&mut self, mlp: &'m mut Mlp) {
        match mlp {
            Mlp::Gated(mlp) => {
                self.linears
                    .extend([&mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj]);
            }
            Mlp::Fused(mlp) => {
                self.linears
                    .extend([&mut mlp.gate_up_proj, &mut mlp.down_proj]);
            }
            Mlp::Plain(mlp) => self.linears.extend([&mut mlp.up_proj, &mut mlp.down_proj]),
        }
    }

    fn experts(&mut self, nth: usize, experts: &'m mut Experts) {
        let router = &mut experts.router;
        self.linears.push(&mut router.scores);
        let correction = router.correction.as_mut();
        self.values
            .extend(correction.map(|values| (nth, Part::RouterCorrection, values)));
        if let Some(scales) = &mut router.scales {
            self.values.extend([
                (nth, Part::RouterInputScale, &mut scales.input),
                (nth, Part::RouterScales, &mut scales.each),
            ]);
        }
        for expert in &mut experts.experts {
            self.mlp(expert);
        }
        if let Some(shared) = &mut experts.shared {
            self.mlp(&mut shared.mlp);
            self.linears.extend(&mut shared.gate);
        }
    }
}
