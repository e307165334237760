//! The walk through the half of a layer that looks at other tokens.
//!
//! Letters: `f` features of the model, `h` query heads, `kv` key and value heads, `d` features of a head.

use super::{
    names::Part,
    spec::{AttentionSpec, Projections},
    visit::{InLayer, Visit},
};
use crate::model::layers::NormOver;

/// What a visitor made of a mixer.
pub(super) enum MixerTree<V: Visit> {
    Attention(AttentionTree<V>),
}

/// What it made of attention.
pub(super) struct AttentionTree<V: Visit> {
    pub(super) qkv: QkvTree<V>,
    pub(super) q_norm: Option<V::Norm>,
    pub(super) k_norm: Option<V::Norm>,
    pub(super) o: V::Matrix,
}

/// What it made of the projections to queries, keys and values.
pub(super) enum QkvTree<V: Visit> {
    Apart {
        q: V::Matrix,
        k: V::Matrix,
        v: V::Matrix,
    },
    Blocks(V::Matrix),
    ByHead(V::Matrix),
}

/// Attention over groups of heads.
pub(super) fn attention<V: Visit>(
    at: &mut InLayer<'_, '_, V>,
    attention: &AttentionSpec,
) -> Result<MixerTree<V>, V::Error> {
    let (f, d) = (at.spec.features, attention.head_features);
    let (h, kv) = (attention.heads, attention.key_value_heads);
    let bias = attention.qkv_bias;

    let fused = [(h + 2 * kv) * d, f];
    let qkv = match attention.projections {
        Projections::Apart => QkvTree::Apart {
            q: at.linear(Part::Q, [h * d, f], bias)?,
            k: at.linear(Part::K, [kv * d, f], bias)?,
            v: at.linear(Part::V, [kv * d, f], bias)?,
        },
        Projections::Blocks => QkvTree::Blocks(at.linear(Part::Qkv, fused, bias)?),
        Projections::ByHead => QkvTree::ByHead(at.linear(Part::Qkv, fused, bias)?),
    };
    let mut norm = |part, n| {
        let Some(norm) = attention.query_key_norm else {
            return Ok(None);
        };
        let shape = match norm.over {
            NormOver::Head => vec![d],
            NormOver::OwnHead => vec![n, d],
            NormOver::All => vec![n * d],
        };
        at.norm(part, &shape, norm.norm).map(Some)
    };
    Ok(MixerTree::Attention(AttentionTree {
        qkv,
        q_norm: norm(Part::QNorm, h)?,
        k_norm: norm(Part::KNorm, kv)?,
        o: at.linear(Part::O, [f, h * d], attention.o_bias)?,
    }))
}
