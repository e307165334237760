//! The walk through the half of a layer that looks at other tokens.
//!
//! Letters: `f` features of the model, `h` query heads, `kv` key and value heads, `d` features of a head.

use super::{
    names::Part,
    spec::{AttentionSpec, DeltaSpec, LatentSpec, MixerSpec, Projections},
    visit::{InLayer, Visit},
};
use crate::model::layers::NormOver;

/// What a visitor made of a mixer, beside what the mixer is.
pub(super) enum MixerTree<'s, V: Visit> {
    Attention(&'s AttentionSpec, AttentionTree<V>),
    Latent(&'s LatentSpec, LatentTree<V>),
    Delta(&'s DeltaSpec, DeltaTree<V>),
}

/// What it made of attention.
pub(super) struct AttentionTree<V: Visit> {
    pub(super) qkv: QkvTree<V>,
    pub(super) q_norm: Option<V::Norm>,
    pub(super) k_norm: Option<V::Norm>,
    /// `[h]`.
    pub(super) sinks: Option<V::Values>,
    pub(super) o: V::Matrix,
}

/// What it made of the projections to queries, keys and values.
pub(super) enum QkvTree<V: Visit> {
    Apart {
        q: V::Matrix,
        k: V::Matrix,
        v: V::Matrix,
    },
    SharedRows {
        q: V::Matrix,
        kv: V::Matrix,
    },
    Queries(V::Matrix),
    Blocks(V::Matrix),
    ByHead(V::Matrix),
}

/// What it made of latent attention.
pub(super) struct LatentTree<V: Visit> {
    pub(super) query: QueryTree<V>,
    pub(super) kv_a: V::Matrix,
    pub(super) kv_a_norm: V::Norm,
    pub(super) kv_b: V::Matrix,
    pub(super) o: V::Matrix,
}

/// What it made of the projection to latent queries.
pub(super) enum QueryTree<V: Visit> {
    Whole(V::Matrix),
    Small {
        a: V::Matrix,
        norm: V::Norm,
        b: V::Matrix,
    },
}

/// What it made of a delta layer.
pub(super) struct DeltaTree<V: Visit> {
    pub(super) projections: ProjectionsTree<V>,
    pub(super) convolution: V::Values,
    pub(super) fade_bias: V::Values,
    pub(super) fade_factor: V::Values,
    pub(super) norm: V::Norm,
    pub(super) out: V::Matrix,
}

/// What it made of the projections of a delta layer.
pub(super) enum ProjectionsTree<V: Visit> {
    Apart {
        qkv: V::Matrix,
        z: V::Matrix,
        b: V::Matrix,
        a: V::Matrix,
    },
    ByHead {
        qkvz: V::Matrix,
        ba: V::Matrix,
    },
}

/// The mixer of a layer.
pub(super) fn mixer<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    mixer: &'s MixerSpec,
) -> Result<MixerTree<'s, V>, V::Error> {
    Ok(match mixer {
        MixerSpec::Attention(spec) => MixerTree::Attention(spec, attention(at, spec)?),
        MixerSpec::Latent(spec) => MixerTree::Latent(spec, latent(at, spec)?),
        MixerSpec::Delta(spec) => MixerTree::Delta(spec, delta(at, spec)?),
    })
}

/// Attention over groups of heads.
fn attention<V: Visit>(
    at: &mut InLayer<'_, '_, V>,
    attention: &AttentionSpec,
) -> Result<AttentionTree<V>, V::Error> {
    let (f, d) = (at.spec.features, attention.head_features);
    let (h, kv) = (attention.heads, attention.key_value_heads);
    let bias = attention.qkv_bias;

    // A query and its gate.
    let queries = if attention.gate { 2 * h * d } else { h * d };
    let fused = [(h + 2 * kv) * d, f];
    let qkv = match attention.projections {
        Projections::Apart if attention.keys_of.is_some() => {
            QkvTree::Queries(at.linear(Part::Q, [queries, f], bias)?)
        }
        Projections::Apart if attention.values_are_keys => QkvTree::SharedRows {
            q: at.linear(Part::Q, [queries, f], bias)?,
            kv: at.linear(Part::K, [kv * d, f], bias)?,
        },
        Projections::Apart => QkvTree::Apart {
            q: at.linear(Part::Q, [queries, f], bias)?,
            k: at.linear(Part::K, [kv * d, f], bias)?,
            v: at.linear(Part::V, [kv * d, f], bias)?,
        },
        Projections::Blocks => QkvTree::Blocks(at.linear(Part::Qkv, fused, bias)?),
        Projections::ByHead => QkvTree::ByHead(at.linear(Part::Qkv, fused, bias)?),
    };
    let mut norm = |part, n| {
        let own = part == Part::QNorm || attention.keys_of.is_none();
        let Some(norm) = attention.query_key_norm.filter(|norm| own && norm.scaled) else {
            return Ok(None);
        };
        let shape = match norm.over {
            NormOver::Head => vec![d],
            NormOver::OwnHead => vec![n, d],
            NormOver::All => vec![n * d],
        };
        at.norm(part, &shape, norm.norm).map(Some)
    };
    Ok(AttentionTree {
        qkv,
        q_norm: norm(Part::QNorm, h)?,
        k_norm: norm(Part::KNorm, kv)?,
        sinks: match attention.sinks {
            true => Some(at.values(Part::Sinks, &[h])?),
            false => None,
        },
        o: at.linear(Part::O, [f, h * d], attention.o_bias)?,
    })
}

/// Latent attention.
fn latent<V: Visit>(
    at: &mut InLayer<'_, '_, V>,
    spec: &LatentSpec,
) -> Result<LatentTree<V>, V::Error> {
    let (f, h, bias) = (at.spec.features, spec.heads, spec.bias);
    let (rank, rotated) = (spec.key_value_rank, spec.rotary.features);
    let queries = h * (spec.plain_features + rotated);
    Ok(LatentTree {
        query: match spec.query_rank {
            None => QueryTree::Whole(at.linear(Part::Q, [queries, f], false)?),
            Some(rank) => QueryTree::Small {
                a: at.linear(Part::QueryA, [rank, f], bias)?,
                norm: at.norm(Part::QueryANorm, &[rank], spec.norm)?,
                b: at.linear(Part::QueryB, [queries, rank], false)?,
            },
        },
        kv_a: at.linear(Part::KeyValueA, [rank + rotated, f], bias)?,
        kv_a_norm: at.norm(Part::KeyValueANorm, &[rank], spec.norm)?,
        kv_b: {
            let unfolded = h * (spec.plain_features + spec.value_features);
            at.linear(Part::KeyValueB, [unfolded, rank], false)?
        },
        o: at.linear(Part::O, [f, h * spec.value_features], bias)?,
    })
}

/// The gated delta rule.
fn delta<V: Visit>(
    at: &mut InLayer<'_, '_, V>,
    spec: &DeltaSpec,
) -> Result<DeltaTree<V>, V::Error> {
    let (f, h) = (at.spec.features, spec.value_heads);
    let values = h * spec.value_features;
    let channels = 2 * spec.key_heads * spec.key_features + values;
    Ok(DeltaTree {
        projections: match spec.fused {
            false => ProjectionsTree::Apart {
                qkv: at.linear(Part::DeltaQkv, [channels, f], false)?,
                z: at.linear(Part::DeltaGate, [values, f], false)?,
                b: at.linear(Part::DeltaStrength, [h, f], false)?,
                a: at.linear(Part::DeltaFade, [h, f], false)?,
            },
            true => ProjectionsTree::ByHead {
                qkvz: at.linear(Part::DeltaQkvGate, [channels + values, f], false)?,
                ba: at.linear(Part::DeltaStrengthFade, [2 * h, f], false)?,
            },
        },
        convolution: at.values(Part::DeltaConvolution, &[channels, 1, spec.kernel])?,
        fade_bias: at.values(Part::DeltaFadeBias, &[h])?,
        fade_factor: at.values(Part::DeltaFadeFactor, &[h])?,
        norm: at.norm(Part::DeltaNorm, &[spec.value_features], spec.norm)?,
        out: at.linear(Part::DeltaOut, [f, values], false)?,
    })
}
