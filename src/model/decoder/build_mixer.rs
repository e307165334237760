//! From finished weights to the half of a layer that looks at other tokens.

use super::{
    spec::{AttentionSpec, DeltaSpec, LatentSpec},
    take::Taker,
    walk_mixer::{
        AttentionTree, DeltaTree, LatentTree, MixerTree, ProjectionsTree, QkvTree, QueryTree,
    },
};
use crate::model::layers::{
    ApartDelta, ApartQkv, Attention, Delta, DeltaByHead, DeltaHeads, DeltaProjections, Heads,
    KeySource, Latent, LatentHeads, LatentQuery, Mixer, NormOver, Qkv, Scores, Sees, SharedRows,
    SmallQuery,
};

/// The module of a mixer.
pub(super) fn mixer(tree: MixerTree<'_, Taker<'_>>, keys: KeySource) -> Mixer {
    match tree {
        MixerTree::Attention(spec, tree) => Mixer::Attention(attention(spec, tree, keys)),
        MixerTree::Latent(spec, tree) => Mixer::Latent(latent(spec, tree)),
        MixerTree::Delta(spec, tree) => Mixer::Delta(delta(spec, tree)),
    }
}

fn attention(spec: &AttentionSpec, tree: AttentionTree<Taker<'_>>, keys: KeySource) -> Attention {
    Attention {
        qkv: match tree.qkv {
            QkvTree::Apart { q, k, v } => Qkv::Apart(ApartQkv {
                q_proj: q,
                k_proj: k,
                v_proj: v,
            }),
            QkvTree::SharedRows { q, kv } => Qkv::SharedRows(SharedRows {
                q_proj: q,
                kv_proj: kv,
            }),
            QkvTree::Queries(q) => Qkv::Queries(q),
            QkvTree::Blocks(qkv) => Qkv::Blocks(qkv),
            QkvTree::ByHead(qkv) => Qkv::ByHead(qkv),
        },
        q_norm: tree.q_norm,
        k_norm: tree.k_norm,
        sinks: tree.sinks,
        o_proj: tree.o,
        heads: Heads {
            query: spec.heads,
            key_value: spec.key_value_heads,
            features: spec.head_features,
            norm_over: spec.query_key_norm.map_or(NormOver::Head, |norm| norm.over),
            unit_norm: spec
                .query_key_norm
                .filter(|norm| !norm.scaled)
                .map(|norm| norm.norm),
            value_norm: spec.value_norm,
            keys,
            gated: spec.gate,
            scores: Scores {
                scale: spec.scale,
                soft_cap: spec.soft_cap,
                sees: spec.sees,
                growth: spec.query_growth,
            },
        },
    }
}

fn latent(spec: &LatentSpec, tree: LatentTree<Taker<'_>>) -> Latent {
    Latent {
        query: match tree.query {
            QueryTree::Whole(q) => LatentQuery::Whole(q),
            QueryTree::Small { a, norm, b } => LatentQuery::Small(SmallQuery {
                q_a_proj: a,
                q_a_norm: norm,
                q_b_proj: b,
            }),
        },
        kv_a_proj: tree.kv_a,
        kv_a_norm: tree.kv_a_norm,
        kv_b_proj: tree.kv_b,
        o_proj: tree.o,
        heads: LatentHeads {
            count: spec.heads,
            rank: spec.key_value_rank,
            plain: spec.plain_features,
            rotated: spec.rotary.features,
            value: spec.value_features,
            scores: Scores {
                scale: spec.scale,
                soft_cap: None,
                sees: Sees::All,
                growth: None,
            },
        },
    }
}

fn delta(spec: &DeltaSpec, tree: DeltaTree<Taker<'_>>) -> Delta {
    Delta {
        projections: match tree.projections {
            ProjectionsTree::Apart { qkv, z, b, a } => DeltaProjections::Apart(ApartDelta {
                qkv_proj: qkv,
                z_proj: z,
                b_proj: b,
                a_proj: a,
            }),
            ProjectionsTree::ByHead { qkvz, ba } => DeltaProjections::ByHead(DeltaByHead {
                qkvz_proj: qkvz,
                ba_proj: ba,
            }),
        },
        convolution: tree.convolution,
        fade_bias: tree.fade_bias,
        fade_factor: tree.fade_factor,
        norm: tree.norm,
        out_proj: tree.out,
        heads: DeltaHeads {
            key: spec.key_heads,
            value: spec.value_heads,
            key_features: spec.key_features,
            value_features: spec.value_features,
            kernel: spec.kernel,
        },
    }
}
