//! From queries, keys and values to what heads read.
//!
//! Letters: `b` batch, `h` query heads, `kv` key and value heads, `g = h / kv` query heads a key head,
//! `t` new tokens, `s` all tokens (the new ones last), `d` features of a query and a key, `e` features of a value.

use burn::tensor::{
    Bool, DType, Device, Int, Tensor, TensorData,
    activation::{softmax, tanh},
};
use serde::Serialize;

/// Scores computed at once, in numbers: a long prompt goes through in blocks of queries, so that its
/// scores take 128 MiB and not the square of its length.
const SCORES_MAX: usize = 1 << 25;

/// How queries are compared with keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Is multiplied with the product of a query and a key: `1/√d` in most models.
    pub scale: f64,
    /// `c` bends scores `s` to `c·tanh(s/c)`.
    pub soft_cap: Option<f64>,
    /// The tokens that a query sees.
    pub sees: Sees,
    /// Queries grow with their position.
    pub growth: Option<QueryGrowth>,
}

/// The tokens that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sees {
    /// All before it, and itself.
    All,
    /// This number of tokens, itself included.
    Window(usize),
    /// Those of its own chunk of this number of tokens (Llama 4).
    Chunk(usize),
}

/// A query at position `p` is multiplied by `1 + factor · ln(1 + floor((p + offset) / positions))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QueryGrowth {
    /// Its strength.
    pub factor: f64,
    /// Positions of a step.
    pub positions: usize,
    /// 1 in Llama 4, 0 in Ministral 3.
    pub offset: usize,
}

impl Sees {
    /// The first position that a query at `position` sees.
    const fn first(self, position: usize) -> usize {
        match self {
            Self::All => 0,
            Self::Window(window) => (position + 1).saturating_sub(window),
            Self::Chunk(chunk) => position / chunk * chunk,
        }
    }
}

impl QueryGrowth {
    /// `q` `[b, h, t, d]`, of which the first token is at position `first`.
    fn forward(self, q: Tensor<4>, first: usize) -> Tensor<4> {
        let [_, _, t, _] = q.dims();
        let steps = (first..first + t).map(|position| (position + self.offset) / self.positions);
        if steps.clone().all(|steps| steps == 0) {
            return q;
        }
        let factors = steps.map(|steps| (1.0 + self.factor * (steps as f64).ln_1p()) as f32);
        let factors = TensorData::new(factors.collect::<Vec<f32>>(), [1, 1, t, 1]);
        let dtype = q.dtype();
        let factors = Tensor::from_data(factors, (&q.device(), DType::F32));
        (q.cast(DType::F32) * factors).cast(dtype)
    }
}

/// `softmax(scale · q kᵀ) v`, each query seeing the tokens that `scores` says: `q` `[b, h, t, d]`, `k` `[b, kv, s, d]`
/// and `v` `[b, kv, s, e]` to `[b, h, t, e]`. The queries are the last `t` of the `s` tokens. `sinks` `[h]` are the scores
/// of one more key for each head, whose value is 0.
///
/// Keys and values are not repeated for the heads that share them: the queries of a group are rows of
/// one product. Burn's own `attention` wants them repeated, which costs `g` times the cache in traffic
/// a token.
pub fn attend(
    q: Tensor<4>,
    kv: [Tensor<4>; 2],
    scores: Scores,
    sinks: Option<Tensor<1>>,
) -> Tensor<4> {
    let [b, h, t, _] = q.dims();
    let [_, _, s, _] = kv[0].dims();
    let q = match scores.growth {
        Some(growth) => growth.forward(q, s - t),
        None => q,
    };
    let rows = (SCORES_MAX / (b * h * s).max(1)).clamp(1, t.max(1));
    attend_by(rows, q, kv, scores, sinks)
}

/// [`attend`], `rows` queries at a time.
fn attend_by(
    rows: usize,
    q: Tensor<4>,
    [k, v]: [Tensor<4>; 2],
    scores: Scores,
    sinks: Option<Tensor<1>>,
) -> Tensor<4> {
    let [_, _, t, _] = q.dims();
    let [_, _, s, _] = k.dims();
    let mut blocks: Vec<Tensor<4>> = (0..t)
        .step_by(rows)
        .map(|row| {
            let rows = rows.min(t - row);
            // Positions of the block's queries, and of the keys that any of them sees.
            let first = s - t + row;
            let end = first + rows;
            let start = scores.sees.first(first);
            let seen = |x: &Tensor<4>| x.clone().narrow(2, start, end - start);
            let q = q.clone().narrow(2, row, rows);
            attend_block(q, [&k, &v].map(seen), scores, sinks.clone())
        })
        .collect();
    match blocks.len() {
        1 => blocks.remove(0),
        _ => Tensor::cat(blocks, 2),
    }
}

/// [`attend`] of one block, its keys and values cut to those that any of its queries sees.
fn attend_block(
    q: Tensor<4>,
    [k, v]: [Tensor<4>; 2],
    by: Scores,
    sinks: Option<Tensor<1>>,
) -> Tensor<4> {
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
    let scores = match hidden([t, s], by.sees, &scores.device()) {
        Some(hidden) => scores
            .reshape([b * kv, g, t, s])
            .mask_fill(hidden.unsqueeze(), f32::NEG_INFINITY)
            .reshape([b, kv, g * t, s]),
        None => scores,
    };
    let weights = match sinks {
        Some(sinks) => {
            let sinks = sinks.cast(DType::F32).reshape([1, kv, g, 1]);
            let sinks = sinks.expand([b, kv, g, t]).reshape([b, kv, g * t, 1]);
            softmax(Tensor::cat(vec![scores, sinks], 3), 3).narrow(3, 0, s)
        }
        None => softmax(scores, 3),
    };
    weights.cast(dtype).matmul(v).reshape([b, h, t, e])
}

/// `[t, s]`, true where a query does not see a key: the key is later, or has left the window or the chunk. The queries
/// are the last `t` of the `s` tokens, of which the first is the first of its chunk. `None` where one query sees all it is
/// given, as in every step after the prompt.
fn hidden([t, s]: [usize; 2], sees: Sees, device: &Device) -> Option<Tensor<2, Bool>> {
    if t == 1 {
        return None;
    }
    let positions = |from: usize| {
        let (from, to) = (as_i64(from), as_i64(s));
        Tensor::<1, Int>::arange(from..to, (device, DType::I32))
    };
    let query = positions(s - t).reshape([t, 1]);
    let key = positions(0).reshape([1, s]);
    let distance = query.clone() - key;

    let later = distance.clone().lower_elem(0);
    Some(match sees {
        Sees::All => later,
        Sees::Window(window) => later.bool_or(distance.greater_equal_elem(as_i64(window))),
        Sees::Chunk(chunk) => {
            let before = distance.greater(query.remainder_scalar(as_i64(chunk)).expand([t, s]));
            later.bool_or(before)
        }
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
        let seen = [1, 4, 14].map(Sees::Window);
        let chunks = [1, 4, 6, 20].map(Sees::Chunk);
        for sees in seen.into_iter().chain(chunks).chain([Sees::All]) {
            let scores = Scores {
                scale: 6f64.sqrt().recip(),
                soft_cap: None,
                sees,
                growth: None,
            };
            let by = |rows| -> Vec<f32> {
                let y = attend_by(rows, q.clone(), [k.clone(), v.clone()], scores, None);
                y.try_into_vec_as().expect("a CPU tensor can be read")
            };
            let whole = by(9);
            for rows in [1, 2, 4, 8] {
                let largest = by(rows)
                    .iter()
                    .zip(&whole)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(largest < 1e-6, "{rows} rows, {sees:?}: {largest}");
            }
        }
    }
}
