//! Causal attention over groups of heads that share keys and values.
//!
//! Letters: `b` batch, `h` query heads, `kv` key and value heads, `g = h / kv` query heads a key head,
//! `t` new tokens, `s` all tokens (the new ones last), `d` features of a head, `f` features of the model.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{
        Bool, DType, Device, Int, Tensor,
        activation::{sigmoid, softmax, tanh},
    },
};
use serde::Serialize;

use super::{
    linear::Linear,
    norm::{Norm, NormSpec},
    remember::Remember,
    rope::Rotation,
};

/// Scores computed at once, in numbers: a long prompt goes through in blocks of queries, so that its
/// scores take 128 MiB and not the square of its length.
const SCORES_MAX: usize = 1 << 25;

/// Self-attention of one layer.
#[derive(Module, Debug)]
pub struct Attention {
    /// To queries, keys and values.
    pub qkv: Qkv,
    /// Normalises the queries before they are rotated.
    pub q_norm: Option<Norm>,
    /// Normalises the keys before they are rotated.
    pub k_norm: Option<Norm>,
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

/// How queries are compared with keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Is multiplied with the product of a query and a key: `1/√d` in most models.
    pub scale: f64,
    /// `c` bends scores `s` to `c·tanh(s/c)`.
    pub soft_cap: Option<f64>,
    /// Tokens that a query sees, itself included. `None`: all before it.
    pub window: Option<usize>,
}

impl Attention {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    ///
    /// Heads are not rotated where there is no `rotation`. `memory` has the keys and values of the tokens before, `lent`
    /// those of layers before.
    ///
    /// # Panics
    ///
    /// When the layer that lends keys was not run in this pass.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: Option<&Rotation>,
        lent: &mut LentKeys,
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
            match rotation {
                Some(rotation) => rotation.apply(x),
                None => x,
            }
        };
        let q = positioned(q, query, self.q_norm.as_ref());
        let new = kv.map(|[k, v]| {
            let v = split(v, key_value);
            let v = match self.heads.value_norm {
                Some(norm) => norm.unit(v.clone()).cast(v.dtype()),
                None => v,
            };
            [positioned(k, key_value, self.k_norm.as_ref()), v]
        });
        let [k, v] = match (new, self.heads.keys) {
            (Some(new), KeySource::Lent(layer)) => {
                let all = memory.append(new);
                lent.insert(layer, all.clone());
                all
            }
            (Some(new), _) => memory.append(new),
            (None, keys) => keys.borrowed(lent),
        };

        let y = attend(q, k, v, scores);
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

/// `[b, t, n·d]` to `[b, n, t, d]`, normalised.
fn normed_heads(x: Tensor<3>, n: usize, norm: Option<&Norm>, over: NormOver) -> Tensor<4> {
    match (norm, over) {
        (None, _) => split(x, n),
        (Some(norm), NormOver::Head) => norm.forward(split(x, n)),
        (Some(norm), NormOver::OwnHead) => norm.forward_by_head(split(x, n)),
        (Some(norm), NormOver::All) => split(norm.forward(x), n),
    }
}

/// `softmax(scale · q kᵀ) v`, each query seeing the `window` tokens up to itself: `q` `[b, h, t, d]`, `k`
/// `[b, kv, s, d]` and `v` `[b, kv, s, e]` to `[b, h, t, e]`. The queries are the last `t` of the `s` tokens.
///
/// Keys and values are not repeated for the heads that share them: the queries of a group are rows of
/// one product. Burn's own `attention` wants them repeated, which costs `g` times the cache in traffic
/// a token.
pub fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scores: Scores) -> Tensor<4> {
    let [b, h, t, _] = q.dims();
    let [_, _, s, _] = k.dims();
    let rows = (SCORES_MAX / (b * h * s).max(1)).clamp(1, t.max(1));
    attend_by(rows, q, k, v, scores)
}

/// [`attend`], `rows` queries at a time.
fn attend_by(rows: usize, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scores: Scores) -> Tensor<4> {
    let [_, _, t, _] = q.dims();
    let [_, _, s, _] = k.dims();
    let mut blocks: Vec<Tensor<4>> = (0..t)
        .step_by(rows)
        .map(|row| {
            let rows = rows.min(t - row);
            // Positions of the block's queries, and of the keys that any of them sees.
            let first = s - t + row;
            let end = first + rows;
            let start = scores
                .window
                .map_or(0, |window| (first + 1).saturating_sub(window));
            let seen = |x: &Tensor<4>| x.clone().narrow(2, start, end - start);
            attend_block(q.clone().narrow(2, row, rows), seen(&k), seen(&v), scores)
        })
        .collect();
    match blocks.len() {
        1 => blocks.remove(0),
        _ => Tensor::cat(blocks, 2),
    }
}

/// [`attend`] of one block, its keys and values cut to those that any of its queries sees.
fn attend_block(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, by: Scores) -> Tensor<4> {
    let [b, h, t, d] = q.dims();
    let [_, kv, s, _] = k.dims();
    let [_, _, _, e] = v.dims();
    let g = h / kv;
    let dtype = q.dtype();

    let q = q.reshape([b, kv, g * t, d]);
    let scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32) * by.scale;
    let scores = match by.soft_cap {
        Some(cap) => tanh(scores / cap) * cap,
        None => scores,
    };
    let scores = match hidden([t, s], by.window, &scores.device()) {
        Some(hidden) => scores
            .reshape([b * kv, g, t, s])
            .mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY)
            .reshape([b, kv, g * t, s]),
        None => scores,
    };
    let weights = softmax(scores, 3).cast(dtype);
    weights.matmul(v).reshape([b, h, t, e])
}

/// `[t, s]`, true where a query does not see a key: the key is later, or has left the window. The
/// queries are the last `t` of the `s` tokens. `None` where one query sees all it is given, as in every
/// step after the prompt.
fn hidden([t, s]: [usize; 2], window: Option<usize>, device: &Device) -> Option<Tensor<2, Bool>> {
    if t == 1 {
        return None;
    }
    let positions = |from: usize| {
        let (from, to) = (as_i64(from), as_i64(s));
        Tensor::<1, Int>::arange(from..to, (device, DType::I32))
    };
    let query = positions(s - t).reshape([t, 1]);
    let key = positions(0).reshape([1, s]);
    let distance = query - key;

    let later = distance.clone().lower_elem(0);
    Some(match window {
        Some(window) => later.bool_or(distance.greater_equal_elem(as_i64(window))),
        None => later,
    })
}

fn as_i64(position: usize) -> i64 {
    i64::try_from(position).expect("positions are bounded by memory")
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    /// Numbers without a pattern, `[b, n, t, d]`.
    fn some(shape: [usize; 4], seed: usize) -> Tensor<4> {
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect();
        let device = Device::flex();
        Tensor::<1>::from_data(numbers.as_slice(), (&device, DType::F32)).reshape(shape)
    }

    /// Catches a block of a long prompt that sees a key too many or too few: models small enough to
    /// test with go through in one block.
    #[test]
    fn blocks_of_queries_see_what_all_of_them_see() {
        let (q, k, v) = (
            some([2, 4, 9, 6], 1),
            some([2, 2, 14, 6], 2),
            some([2, 2, 14, 6], 3),
        );
        for window in [None, Some(1), Some(4), Some(14)] {
            let scores = Scores {
                scale: 6f64.sqrt().recip(),
                soft_cap: None,
                window,
            };
            let by = |rows| -> Vec<f32> {
                let y = attend_by(rows, q.clone(), k.clone(), v.clone(), scores);
                y.try_into_vec_as().expect("a CPU tensor can be read")
            };
            let whole = by(9);
            for rows in [1, 2, 4, 8] {
                let largest = by(rows)
                    .iter()
                    .zip(&whole)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(largest < 1e-6, "{rows} rows, window {window:?}: {largest}");
            }
        }
    }
}
