//! Causal attention over groups of heads that share keys and values.
//!
//! Letters: `b` batch, `h` query heads, `kv` key and value heads, `g = h / kv` query heads a key head,
//! `t` new tokens, `s` all tokens (the new ones last), `d` features of a head, `f` features of the model.

use std::collections::BTreeMap;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::sigmoid},
};
use serde::Serialize;

use super::{
    attend::{Scores, attend},
    frozen::values,
    kept_rows::KeptRows,
    linear::Linear,
    norm::{Norm, NormSpec},
    remember::Remember,
    rope::Rotation,
    sight::Sight,
};

/// Self-attention of one layer.
#[derive(Module, Debug)]
pub struct Attention {
    /// To queries, keys and values.
    pub qkv: Qkv,
    /// Normalises the queries before they are rotated.
    pub q_norm: Option<Norm>,
    /// Normalises the keys before they are rotated.
    pub k_norm: Option<Norm>,
    /// `[h]`: a score more for each head, whose weight is dropped.
    pub sinks: Option<Param<Tensor<1>>>,
    /// `[f, h·d]`.
    pub o_proj: Linear,
    /// How the features are divided.
    #[module(skip)]
    pub heads: Heads,
}

/// The projections to queries, keys and values.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum Qkv {
    /// Three matrices.
    Apart(ApartQkv),
    /// Two matrices: values are keys before their norm and their rotation.
    SharedRows(SharedRows),
    /// `[h·d, f]`: the layer uses keys and values of a layer before it.
    Queries(Linear),
    /// One matrix `[(h + 2·kv)·d, f]`: the rows of all queries, then those of all keys, then those of all values.
    Blocks(Linear),
    /// One matrix `[kv·(g + 2)·d, f]`: for each key head the rows of its `g` queries, its key and its value.
    ByHead(Linear),
}

/// A matrix each for queries, keys and values.
#[derive(Module, Debug)]
pub struct ApartQkv {
    /// `[h·d, f]`; `[2·h·d, f]` where heads are gated.
    pub q_proj: Linear,
    /// `[kv·d, f]`.
    pub k_proj: Linear,
    /// `[kv·d, f]`.
    pub v_proj: Linear,
}

/// A matrix for queries, and one for keys and values.
#[derive(Module, Debug)]
pub struct SharedRows {
    /// `[h·d, f]`.
    pub q_proj: Linear,
    /// `[kv·d, f]`.
    pub kv_proj: Linear,
}

/// Keys and values `[b, kv, s, d]` that layers of one pass lend to later ones, by the number of the layer.
pub type LentKeys = BTreeMap<usize, [Tensor<4>; 2]>;

/// Where an attention layer has its keys and values from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// Its projections.
    Own,
    /// Its projections; later layers use them under this number.
    Lent(usize),
    /// The layer of this number.
    Of(usize),
}

/// How the features of an attention layer are divided, and how its scores are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// `h`, a multiple of `kv`.
    pub query: usize,
    /// `kv`.
    pub key_value: usize,
    /// `d`.
    pub features: usize,
    /// What a norm of queries and keys runs over.
    pub norm_over: NormOver,
    /// Heads of queries and keys are normalised after they were rotated, without a scale.
    pub unit_norm: Option<NormSpec>,
    /// Values are normalised, without a scale.
    pub value_norm: Option<NormSpec>,
    /// Where keys and values are from.
    pub keys: KeySource,
    /// The rows of queries have twice `d` features a head: its query, then its gate.
    pub gated: bool,
    /// How queries are compared with keys.
    pub scores: Scores,
}

/// What a norm of queries and keys runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormOver {
    /// The `d` features of each head; all heads share a scale `[d]`.
    Head,
    /// The `d` features of each of `n` heads, which have a row each of a scale `[n, d]`.
    OwnHead,
    /// The `n·d` features of all heads together, with a scale `[n·d]`.
    All,
}

impl Attention {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    ///
    /// Heads are not rotated where there is no `rotation`. `memory` has the keys and values of the tokens before, `lent`
    /// those of layers before; `sight` says which of them a token sees.
    ///
    /// # Panics
    ///
    /// When the layer that lends keys was not run in this pass.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        lent: &mut LentKeys,
        sight: &Sight,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let Heads {
            query,
            key_value,
            features,
            norm_over,
            gated,
            scores,
            ..
        } = self.heads;

        let (q, kv) = self.qkv.forward(x, self.heads);
        let (q, gate) = match gated {
            true => {
                let [q, gate] = halves(q, query);
                (q, Some(gate))
            }
            false => (q, None),
        };
        let positioned = |x: Tensor<3>, n, norm: Option<&Norm>| {
            let x = normed_heads(x, n, norm, norm_over);
            let x = match rotation {
                Some(rotation) => rotation.apply(x),
                None => x,
            };
            unit(x, self.heads.unit_norm)
        };
        let q = positioned(q, query, self.q_norm.as_ref());
        let new = kv.map(|[k, v]| {
            let v = unit(split(v, key_value), self.heads.value_norm);
            [positioned(k, key_value, self.k_norm.as_ref()), v]
        });
        let [k, v] = match (new, self.heads.keys) {
            (Some(new), KeySource::Lent(layer)) => {
                let dtype = new[0].dtype();
                let all = memory.append(new).map(|rows| rows.dense(dtype));
                lent.insert(layer, all.clone());
                all.map(KeptRows::Plain)
            }
            (Some(new), _) => memory.append(new),
            (None, keys) => keys.borrowed(lent).map(KeptRows::Plain),
        };

        let sinks = self.sinks.as_ref().map(values);
        let y = attend(q, [k, v], scores, sinks, sight);
        let y = y.swap_dims(1, 2).reshape([b, t, query * features]);
        let y = match gate {
            Some(gate) => y * sigmoid(gate),
            None => y,
        };
        self.o_proj.forward(y)
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.qkv {
            Qkv::Apart(qkv) => vec![&qkv.q_proj, &qkv.k_proj, &qkv.v_proj],
            Qkv::SharedRows(qkv) => vec![&qkv.q_proj, &qkv.kv_proj],
            Qkv::Queries(qkv) | Qkv::Blocks(qkv) | Qkv::ByHead(qkv) => vec![qkv],
        };
        linears.push(&self.o_proj);
        linears
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = match &mut self.qkv {
            Qkv::Apart(qkv) => vec![&mut qkv.q_proj, &mut qkv.k_proj, &mut qkv.v_proj],
            Qkv::SharedRows(qkv) => vec![&mut qkv.q_proj, &mut qkv.kv_proj],
            Qkv::Queries(qkv) | Qkv::Blocks(qkv) | Qkv::ByHead(qkv) => vec![qkv],
        };
        linears.push(&mut self.o_proj);
        linears
    }
}

impl KeySource {
    /// Keys and values of another layer.
    fn borrowed(self, lent: &LentKeys) -> [Tensor<4>; 2] {
        match self {
            Self::Of(layer) => lent[&layer].clone(),
            Self::Own | Self::Lent(_) => panic!("a layer with its own keys has a matrix for them"),
        }
    }
}

impl Qkv {
    /// `x` `[b, t, f]` to queries `[b, t, h·d]` and, where the layer has its own, keys and values `[b, t, kv·d]`.
    fn forward(&self, x: Tensor<3>, heads: Heads) -> (Tensor<3>, Option<[Tensor<3>; 2]>) {
        let (h, kv, d) = (heads.query, heads.key_value, heads.features);
        match self {
            Self::Apart(qkv) => {
                let q = qkv.q_proj.forward(x.clone());
                let k = qkv.k_proj.forward(x.clone());
                (q, Some([k, qkv.v_proj.forward(x)]))
            }
            Self::SharedRows(qkv) => {
                let q = qkv.q_proj.forward(x.clone());
                let kv = qkv.kv_proj.forward(x);
                (q, Some([kv.clone(), kv]))
            }
            Self::Queries(q) => (q.forward(x), None),
            Self::Blocks(qkv) => {
                let all = qkv.forward(x);
                let rows = |from, len| all.clone().narrow(2, from, len);
                let k = rows(h * d, kv * d);
                (rows(0, h * d), Some([k, rows((h + kv) * d, kv * d)]))
            }
            Self::ByHead(qkv) => {
                let all = qkv.forward(x);
                let ([b, t, _], g) = (all.dims(), h / kv);
                let by_head = all.reshape([b, t, kv, g + 2, d]);
                let rows = |from, len| {
                    let rows = by_head.clone().narrow(3, from, len);
                    rows.reshape([b, t, kv * len * d])
                };
                (rows(0, g), Some([rows(g, 1), rows(g + 1, 1)]))
            }
        }
    }
}

/// `[b, t, n·2d]` to `[b, t, n·d]` twice: for each of `n` heads the first half of its features, and the second.
fn halves(x: Tensor<3>, n: usize) -> [Tensor<3>; 2] {
    let [b, t, features] = x.dims();
    let d = features / n / 2;
    let x = x.reshape([b, t, n, 2 * d]);
    [0, d].map(|from| x.clone().narrow(3, from, d).reshape([b, t, n * d]))
}

/// `[b, t, n·d]` to `[b, n, t, d]`.
fn split(x: Tensor<3>, n: usize) -> Tensor<4> {
    let [b, t, features] = x.dims();
    x.reshape([b, t, n, features / n]).swap_dims(1, 2)
}

/// `x` `[b, n, t, d]`, each row normalised without a scale where there is a norm.
fn unit(x: Tensor<4>, norm: Option<NormSpec>) -> Tensor<4> {
    let dtype = x.dtype();
    match norm {
        Some(norm) => norm.unit(x).cast(dtype),
        None => x,
    }
}

/// `[b, t, n·d]` to `[b, n, t, d]`, normalised.
fn normed_heads(x: Tensor<3>, n: usize, norm: Option<&Norm>, over: NormOver) -> Tensor<4> {
    match (norm, over) {
        (None, _) => split(x, n),
        (Some(norm), NormOver::Head) => norm.forward(split(x, n)),
        (Some(norm), NormOver::OwnHead) => norm.forward_by_head(split(x, n)),
        (Some(norm), NormOver::All) => split(norm.forward(x), n),
    }
}
