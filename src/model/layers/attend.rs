//! From queries, keys and values to what heads read.
//!
//! Letters: `b` batch, `h` query heads, `kv` key and value heads, `g = h / kv` query heads a key head,
//! `t` new tokens, `s` all tokens (the new ones last), `d` features of a query and a key, `e` features of a value.

use burn::tensor::{
    Bool, DType, Tensor, TensorData,
    activation::{softmax, tanh},
};
use serde::Serialize;

#[cfg(feature = "cpu")]
use super::host;
use super::{
    kept_rows::KeptRows,
    sight::{Sees, Sight},
};

/// Scores computed at once, in numbers: a long prompt goes through in blocks of queries, so that its
/// scores take 128 MiB and not the square of its length.
pub(crate) const SCORES_MAX: usize = 1 << 25;

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

impl QueryGrowth {
    /// `q` `[b, h, t, d]`, whose tokens are at these `positions`, the same in all rows or others in each.
    fn forward(self, q: Tensor<4>, positions: &[Vec<usize>]) -> Tensor<4> {
        let [_, _, t, _] = q.dims();
        let positions_of_all = positions.iter().flatten();
        let steps = positions_of_all.map(|position| (position + self.offset) / self.positions);
        if steps.clone().all(|steps| steps == 0) {
            return q;
        }
        let factors = steps.map(|steps| (1.0 + self.factor * (steps as f64).ln_1p()) as f32);
        let shape = [positions.len(), 1, t, 1];
        let factors = TensorData::new(factors.collect::<Vec<f32>>(), shape);
        let (dtype, device) = (q.dtype(), q.device().without_autodiff());
        let factors = Tensor::from_data(factors, (&device, DType::F32));
        (q.cast(DType::F32) * factors).cast(dtype)
    }
}

/// `softmax(scale · q kᵀ) v`, each query seeing the tokens that `scores` says: `q` `[b, h, t, d]`, `k` `[b, kv, s, d]`
/// and `v` `[b, kv, s, e]`, in types of their own, to `[b, h, t, e]`. The queries are the last `t` of the `s` tokens, and see those of their documents, as
/// `sight` has them. `sinks` `[h]` are the scores
/// of one more key for each head, whose value is 0.
///
/// Keys and values are not repeated for the heads that share them: the queries of a group are rows of
/// one product. Burn's own `attention` wants them repeated, which costs `g` times the cache in traffic
/// a token.
pub fn attend(
    q: Tensor<4>,
    kv: [impl Into<KeptRows>; 2],
    scores: Scores,
    sinks: Option<Tensor<1>>,
    sight: &Sight,
) -> Tensor<4> {
    let kv = kv.map(Into::into);
    let [b, h, t, _] = q.dims();
    let [_, _, s, _] = kv[0].dims();
    let q = match scores.growth {
        Some(growth) => growth.forward(q, &sight.positions(s - t..s)),
        None => q,
    };
    #[cfg(feature = "cpu")]
    if host::takes(&q) && kv.iter().all(host::reads_rows) && sinks.as_ref().is_none_or(host::reads)
    {
        let compared = host::Compared {
            scale: scores.scale,
            soft_cap: scores.soft_cap,
            sinks,
            first: &sight.firsts(scores.sees, s - t..s),
        };
        return host::attend(q, kv, compared);
    }
    let rows = (SCORES_MAX / (b * h * s).max(1)).clamp(1, t.max(1));
    attend_by(rows, q, kv, scores, sinks, sight)
}

/// [`attend`], `rows` queries at a time.
fn attend_by(
    rows: usize,
    q: Tensor<4>,
    [k, v]: [KeptRows; 2],
    scores: Scores,
    sinks: Option<Tensor<1>>,
    sight: &Sight,
) -> Tensor<4> {
    let [_, _, t, _] = q.dims();
    let dtype = q.dtype();
    let [_, _, s, _] = k.dims();
    let mut blocks: Vec<Tensor<4>> = (0..t)
        .step_by(rows)
        .map(|row| {
            let rows = rows.min(t - row);
            // The block's queries, and the keys that any of them sees.
            let first = s - t + row;
            let queries = first..first + rows;
            let keys = sight.first(scores.sees, &queries)..queries.end;
            let kv = [&k, &v].map(|rows| rows.tokens(keys.clone()).dense(dtype));
            let q = q.clone().narrow(2, row, rows);
            let hidden = sight.hidden(scores.sees, queries, keys, rows == t, &q.device());
            attend_block(q, kv, scores, sinks.clone(), hidden)
        })
        .collect();
    match blocks.len() {
        1 => blocks.remove(0),
        _ => Tensor::cat(blocks, 2),
    }
}

/// [`attend`] of one block, its keys and values cut to those that any of its queries sees; `hidden` `[1 or b, t, s]` are those that
/// a query does not see.
fn attend_block(
    q: Tensor<4>,
    [k, v]: [Tensor<4>; 2],
    by: Scores,
    sinks: Option<Tensor<1>>,
    hidden: Option<Tensor<3, Bool>>,
) -> Tensor<4> {
    let [b, h, t, d] = q.dims();
    let [_, kv, s, _] = k.dims();
    let [_, _, _, e] = v.dims();
    let g = h / kv;
    let dtype = q.dtype();

    let q = q.reshape([b, kv, g * t, d]);
    // Queries are fewer than scores, but half types would round them once more.
    let scores = match dtype {
        DType::F32 => (q * by.scale).matmul(k.swap_dims(2, 3)),
        _ => q.matmul(k.swap_dims(2, 3)).cast(DType::F32) * by.scale,
    };
    let scores = match by.soft_cap {
        Some(cap) => tanh(scores / cap) * cap,
        None => scores,
    };
    let scores = match hidden {
        Some(hidden) => scores
            .reshape([b, h, t, s])
            .mask_fill(hidden.unsqueeze_dim(1), f32::NEG_INFINITY)
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

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Device;

    use super::{super::documents::Documents, *};

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
            let starts = [
                [0; 14].as_slice(),
                &[0, 0, 0, 0, 0, 0, 6, 6, 6, 9, 9, 9, 9, 9],
            ]
            .concat();
            let documents = Documents::new(&starts, [2, 14]).expect("documents");
            for sight in [Sight::default(), Sight::new(&documents)] {
                let by = |rows| -> Vec<f32> {
                    let kv = [&k, &v].map(|rows| KeptRows::from(rows.clone()));
                    let y = attend_by(rows, q.clone(), kv, scores, None, &sight);
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
}
