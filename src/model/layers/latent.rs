//! Attention whose keys and values are unfolded from one small row a token: multi-head latent attention
//! (arXiv:2405.04434; transformers' `modeling_deepseek_v3.py`).
//!
//! Letters: `b` batch, `h` heads, `t` new tokens, `s` all tokens (the new ones last), `f` features of the model, `r`
//! features of a small row; of a query or a key `n` plain features and `e` rotated ones; `v` features of a value.
//!
//! A layer remembers the small rows and the rotated keys, `r + e` numbers a token instead of `h·(n + e + v)`: 576 and
//! 40960 in DeepSeek V3. Two ways lead from them to the same answer, and the cheaper one is taken:
//!
//! ```text
//! unfolded   keys, values = W rows                  a prompt: every row is unfolded once for many queries
//! folded     queries W, and values W of the answer  a token after it: the rows stay small, all heads share them
//! ```

use burn::{module::Module, tensor::Tensor};

use super::{
    attend::{Scores, attend},
    linear::Linear,
    norm::Norm,
    remember::Remember,
    rope::Rotation,
    sight::Sight,
};

/// Latent attention of one layer.
#[derive(Module, Debug)]
pub struct Latent {
    /// To queries.
    pub query: LatentQuery,
    /// `[r + e, f]`, to the small row and to the rotated part of a key, which all heads share.
    pub kv_a_proj: Linear,
    /// Over `[r]`, of the small row.
    pub kv_a_norm: Norm,
    /// `[h·(n + v), r]`: for each head the rows of its key, then those of its value; no bias.
    pub kv_b_proj: Linear,
    /// `[f, h·v]`.
    pub o_proj: Linear,
    /// How the features are divided.
    #[module(skip)]
    pub heads: LatentHeads,
}

/// The projection to queries `[h·(n + e)]`.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum LatentQuery {
    /// `[h·(n + e), f]`.
    Whole(Linear),
    /// Through a small row of its own.
    Small(SmallQuery),
}

/// A projection to queries through a small row.
#[derive(Module, Debug)]
pub struct SmallQuery {
    /// `[rank, f]`.
    pub q_a_proj: Linear,
    /// Over `[rank]`.
    pub q_a_norm: Norm,
    /// `[h·(n + e), rank]`.
    pub q_b_proj: Linear,
}

/// How the features of latent attention are divided, and how its scores are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentHeads {
    /// `h`.
    pub count: usize,
    /// `r`.
    pub rank: usize,
    /// `n`.
    pub plain: usize,
    /// `e`.
    pub rotated: usize,
    /// `v`.
    pub value: usize,
    /// How queries are compared with keys.
    pub scores: Scores,
}

impl Latent {
    /// `x` `[b, t, f]` to `[b, t, f]`. `memory` has the small rows and the rotated keys of the tokens before, of which `sight` says
    /// which a token sees.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        sight: &Sight,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let LatentHeads {
            count,
            rank,
            plain,
            rotated,
            value,
            ..
        } = self.heads;

        let q = self.query.forward(x.clone());
        let q = q.reshape([b, t, count, plain + rotated]).swap_dims(1, 2);
        let q_plain = q.clone().narrow(3, 0, plain);
        let q_rotated = rotation.apply(q.narrow(3, plain, rotated));

        let kv = self.kv_a_proj.forward(x);
        let rows = self.kv_a_norm.forward(kv.clone().narrow(2, 0, rank));
        let k_rotated = kv.narrow(2, rank, rotated).unsqueeze_dim(1);
        let new = [rows.unsqueeze_dim(1), rotation.apply(k_rotated)];
        let dtype = new[0].dtype();
        let [rows, k_rotated] = memory.append(new).map(|rows| rows.dense(dtype));

        let [_, _, s, _] = rows.dims();
        let y = match self.heads.unfolds(t, s) {
            true => self.unfolded([q_plain, q_rotated], rows, k_rotated, sight),
            false => self.folded([q_plain, q_rotated], rows, k_rotated, sight),
        };
        let y = y.swap_dims(1, 2).reshape([b, t, count * value]);
        self.o_proj.forward(y)
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.query {
            LatentQuery::Whole(q) => vec![q],
            LatentQuery::Small(q) => vec![&q.q_a_proj, &q.q_b_proj],
        };
        linears.extend([&self.kv_a_proj, &self.kv_b_proj, &self.o_proj]);
        linears
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = match &mut self.query {
            LatentQuery::Whole(q) => vec![q],
            LatentQuery::Small(q) => vec![&mut q.q_a_proj, &mut q.q_b_proj],
        };
        linears.extend([&mut self.kv_a_proj, &mut self.kv_b_proj, &mut self.o_proj]);
        linears
    }

    /// Queries `[b, h, t, n]` and `[b, h, t, e]`, rows `[b, 1, s, r]` and rotated keys `[b, 1, s, e]` to `[b, h, t, v]`,
    /// with a key and a value for each head.
    fn unfolded(
        &self,
        q: [Tensor<4>; 2],
        rows: Tensor<4>,
        k_rotated: Tensor<4>,
        sight: &Sight,
    ) -> Tensor<4> {
        let [b, _, s, _] = rows.dims();
        let LatentHeads {
            count,
            plain,
            rotated,
            value,
            scores,
            ..
        } = self.heads;
        let kv = self.kv_b_proj.forward(rows);
        let kv = kv.reshape([b, s, count, plain + value]).swap_dims(1, 2);
        let k_rotated = k_rotated.expand([b, count, s, rotated]);
        let k = Tensor::cat(vec![kv.clone().narrow(3, 0, plain), k_rotated], 3);
        let v = kv.narrow(3, plain, value);
        attend(Tensor::cat(q.to_vec(), 3), [k, v], scores, None, sight)
    }

    /// The same, with the small rows as keys and values that all heads share: a query is multiplied with the rows of
    /// `kv_b_proj` that would have unfolded a key, and the answer with those that would have unfolded a value.
    fn folded(
        &self,
        [q_plain, q_rotated]: [Tensor<4>; 2],
        rows: Tensor<4>,
        k_rotated: Tensor<4>,
        sight: &Sight,
    ) -> Tensor<4> {
        let LatentHeads {
            count,
            rank,
            plain,
            value,
            scores,
            ..
        } = self.heads;
        let unfold = self.kv_b_proj.to_dense(rows.dtype().into());
        let unfold = unfold.reshape([1, count, plain + value, rank]);

        let q = q_plain.matmul(unfold.clone().narrow(2, 0, plain));
        let k = Tensor::cat(vec![rows.clone(), k_rotated], 3);
        let q = Tensor::cat(vec![q, q_rotated], 3);
        let y = attend(q, [k, rows], scores, None, sight);
        y.matmul(unfold.narrow(2, plain, value).swap_dims(2, 3))
    }
}

impl LatentHeads {
    /// Whether it costs fewer products to unfold `s` rows than to fold `t` queries, and to score and mix `r` features
    /// more than a head has.
    fn unfolds(&self, t: usize, s: usize) -> bool {
        let (r, head) = (self.rank, self.plain + self.value);
        s * r * head <= t * r * head + (t * s * 2 * r).saturating_sub(t * s * head)
    }
}

impl LatentQuery {
    /// `x` `[b, t, f]` to `[b, t, h·(n + e)]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Whole(q) => q.forward(x),
            Self::Small(q) => {
                let rows = q.q_a_norm.forward(q.q_a_proj.forward(x));
                q.q_b_proj.forward(rows)
            }
        }
    }
}
