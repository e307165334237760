//! A state instead of keys and values: the delta rule behind a short convolution, with a gate (Gated DeltaNet,
//! arXiv:2412.06464; transformers' `modeling_qwen3_next.py` and `modeling_qwen3_5.py`).
//!
//! Letters: `b` batch, `t` new tokens, `f` features of the model, `g` heads of queries and keys, `h` heads of values, `k`
//! features of a query and a key, `v` features of a value, `c = 2·g·k + h·v` channels of the convolution, `w` tokens that it sees.

use burn::{
    module::{Module, Param},
    tensor::{
        DType, Int, Tensor, TensorData,
        activation::{sigmoid, silu, softplus},
    },
};

use super::{
    delta_rule::{DeltaTokens, delta_rule},
    documents::Documents,
    frozen::values,
    linear::Linear,
    norm::Norm,
    remember::{DeltaState, Remember},
    sight::Sight,
};

/// Is added to the squared length of queries and keys.
const LENGTH_EPS: f64 = 1e-6;

/// The delta rule of one layer. Between its projections everything is computed in f32.
#[derive(Module, Debug)]
pub struct Delta {
    /// To queries, keys, values, gates, strengths and fades.
    pub projections: DeltaProjections,
    /// `[c·w]`: for each channel its factors, that of the newest token last.
    pub convolution: Param<Tensor<1>>,
    /// `[h]`, is added to what fades are made of.
    pub fade_bias: Param<Tensor<1>>,
    /// `[h]`, logarithms of the factors of fades.
    pub fade_factor: Param<Tensor<1>>,
    /// Over `[v]`, of what comes out, before its gate.
    pub norm: Norm,
    /// `[f, h·v]`.
    pub out_proj: Linear,
    /// How the features are divided.
    #[module(skip)]
    pub heads: DeltaHeads,
}

/// The projections of a delta layer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and Burn's modules are not boxed"
)]
pub enum DeltaProjections {
    /// Four matrices.
    Apart(ApartDelta),
    /// Two matrices.
    ByHead(DeltaByHead),
}

/// Four matrices, the heads of each one after another.
#[derive(Module, Debug)]
pub struct ApartDelta {
    /// `[c, f]`: the rows of all queries, then those of all keys, then those of all values.
    pub qkv_proj: Linear,
    /// `[h·v, f]`, to gates.
    pub z_proj: Linear,
    /// `[h, f]`, to strengths.
    pub b_proj: Linear,
    /// `[h, f]`, to fades.
    pub a_proj: Linear,
}

/// Two matrices, ordered by key head, each of which has `h/g` value heads.
#[derive(Module, Debug)]
pub struct DeltaByHead {
    /// `[c + h·v, f]`: for each key head the rows of its query, its key, its values and their gates.
    pub qkvz_proj: Linear,
    /// `[2·h, f]`: for each key head the rows of the strengths and of the fades of its value heads.
    pub ba_proj: Linear,
}

/// How the features of a delta layer are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeads {
    /// `g`.
    pub key: usize,
    /// `h`, a multiple of `g`.
    pub value: usize,
    /// `k`.
    pub key_features: usize,
    /// `v`.
    pub value_features: usize,
    /// `w`, at least 2.
    pub kernel: usize,
}

/// What the projections make of `x` `[b, t, f]`.
struct Projected {
    /// `[b, t, c]`.
    qkv: Tensor<3>,
    /// `[b, t, h·v]`.
    gates: Tensor<3>,
    /// `[b, t, h]`.
    strengths: Tensor<3>,
    /// `[b, t, h]`.
    fades: Tensor<3>,
}

impl Delta {
    /// `x` `[b, t, f]` to `[b, t, f]`. `memory` has the state after the tokens before; each document of `sight` begins without
    /// one, and its rows must be whole.
    pub fn forward(&self, x: Tensor<3>, sight: &Sight, memory: &mut impl Remember) -> Tensor<3> {
        let ([b, t, _], dtype) = (x.dims(), x.dtype());
        let (h, v) = (self.heads.value, self.heads.value_features);
        let projected = self.projections.forward(x, self.heads);
        let gates = silu(projected.gates.cast(DType::F32));
        let into_rule = [projected.qkv, projected.strengths, projected.fades];

        let answers = match sight.documents() {
            Some(documents) => self.by_document(into_rule, documents),
            None => {
                let before = memory.take_state();
                let (answers, after) = self.answers(into_rule, before);
                memory.keep_state(after);
                answers
            }
        };

        let answers = answers.cast(dtype);
        let y = self.norm.forward(answers).cast(DType::F32) * gates.reshape([b, t, h, v]);
        self.out_proj.forward(y.cast(dtype).reshape([b, t, h * v]))
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.projections {
            DeltaProjections::Apart(apart) => {
                vec![&apart.qkv_proj, &apart.z_proj, &apart.b_proj, &apart.a_proj]
            }
            DeltaProjections::ByHead(by_head) => vec![&by_head.qkvz_proj, &by_head.ba_proj],
        };
        linears.push(&self.out_proj);
        linears
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = match &mut self.projections {
            DeltaProjections::Apart(apart) => {
                vec![
                    &mut apart.qkv_proj,
                    &mut apart.z_proj,
                    &mut apart.b_proj,
                    &mut apart.a_proj,
                ]
            }
            DeltaProjections::ByHead(by_head) => vec![&mut by_head.qkvz_proj, &mut by_head.ba_proj],
        };
        linears.push(&mut self.out_proj);
        linears
    }

    /// Queries, keys and values `[b, t, c]`, strengths and fades `[b, t, h]` to the answers of the rule `[b, t, h, v]`, and the state after
    /// them.
    fn answers(
        &self,
        [qkv, strengths, fades]: [Tensor<3>; 3],
        before: Option<DeltaState>,
    ) -> (Tensor<4>, DeltaState) {
        let [_, t, _] = qkv.dims();
        let before = before.unwrap_or_else(|| self.empty(&qkv));
        let tokens = Tensor::cat(vec![before.tokens, qkv], 1);
        let qkv = self.convolved(tokens.clone(), t);
        let rule = self.rule(qkv, strengths, fades);
        let (answers, state) = delta_rule(&rule, before.state);
        let after = DeltaState {
            state,
            tokens: tokens.narrow(1, t, self.heads.kernel - 1),
        };
        (answers.swap_dims(1, 2), after)
    }

    /// The same for documents that begin without a state; those of one length go through the rule together.
    fn by_document(&self, into_rule: [Tensor<3>; 3], documents: &Documents) -> Tensor<4> {
        let [b, t, _] = into_rule[0].dims();
        let device = into_rule[0].device().without_autodiff();
        let ids = |tokens: Vec<i32>| -> Tensor<1, Int> {
            let count = tokens.len();
            Tensor::from_data(TensorData::new(tokens, [count]), (&device, DType::I32))
        };
        let mut places = vec![0; b * t];
        let mut place = 0;
        let answers = documents.by_length().into_iter().map(|(len, firsts)| {
            let tokens = firsts.iter().flat_map(|first| *first..first + len);
            let tokens: Vec<usize> = tokens.collect();
            for token in &tokens {
                places[*token] = place;
                place += 1;
            }
            let tokens = ids(tokens.into_iter().map(|token| token as i32).collect());
            let of_documents = |x: &Tensor<3>| {
                let [b, t, c] = x.dims();
                let rows = x.clone().reshape([b * t, c]).select(0, tokens.clone());
                rows.reshape([firsts.len(), len, c])
            };
            let (answers, _) = self.answers(into_rule.each_ref().map(of_documents), None);
            answers.flatten::<3>(0, 1)
        });
        let answers = Tensor::cat(answers.collect(), 0);
        let [_, h, v] = answers.dims();
        answers.select(0, ids(places)).reshape([b, t, h, v])
    }

    /// What there is before the first token of a text, for `qkv` `[b, t, c]`.
    fn empty(&self, qkv: &Tensor<3>) -> DeltaState {
        let [b, _, c] = qkv.dims();
        let (heads, device) = (self.heads, qkv.device());
        let state = [b, heads.value, heads.key_features, heads.value_features];
        DeltaState {
            state: Tensor::zeros(state, (&device, DType::F32)),
            tokens: Tensor::zeros([b, heads.kernel - 1, c], (&device, qkv.dtype())),
        }
    }

    /// Each channel of `tokens` `[b, w - 1 + t, c]` over the last `w` tokens: `[b, t, c]` in f32.
    fn convolved(&self, tokens: Tensor<3>, t: usize) -> Tensor<3> {
        let ([_, _, c], w) = (tokens.dims(), self.heads.kernel);
        let tokens = tokens.cast(DType::F32);
        let factors = values(&self.convolution).cast(DType::F32).reshape([c, w]);
        let sum = (0..w)
            .map(|nth| {
                let factors = factors.clone().narrow(1, nth, 1).reshape([1, 1, c]);
                tokens.clone().narrow(1, nth, t) * factors
            })
            .reduce(|sum, term| sum + term);
        silu(sum.expect("a kernel sees a token"))
    }

    /// What goes into the rule: `qkv` `[b, t, c]` after the convolution, `strengths` and `fades` `[b, t, h]` before their
    /// functions.
    fn rule(&self, qkv: Tensor<3>, strengths: Tensor<3>, fades: Tensor<3>) -> DeltaTokens {
        let [b, t, _] = qkv.dims();
        let DeltaHeads {
            key: g,
            value: h,
            key_features: k,
            value_features: v,
            ..
        } = self.heads;
        let part = |start, n, d| {
            let part = qkv.clone().narrow(2, start, n * d);
            part.reshape([b, t, n, d]).swap_dims(1, 2)
        };
        let for_values = |x: Tensor<4>| {
            let x: Tensor<5> = unit(x).unsqueeze_dim(2);
            x.expand([b, g, h / g, t, k]).reshape([b, h, t, k])
        };
        let per_head = |x: Tensor<3>| x.swap_dims(1, 2).unsqueeze_dim::<4>(3);
        let weights = |weights: &Param<Tensor<1>>| values(weights).cast(DType::F32).unsqueeze();

        let fades = softplus(fades.cast(DType::F32) + weights(&self.fade_bias), 1.0);
        DeltaTokens {
            queries: for_values(part(0, g, k)) / (k as f64).sqrt(),
            keys: for_values(part(g * k, g, k)),
            values: part(2 * g * k, h, v),
            strengths: per_head(sigmoid(strengths.cast(DType::F32))),
            fades: per_head(-fades * weights(&self.fade_factor).exp()),
        }
    }
}

impl DeltaProjections {
    fn forward(&self, x: Tensor<3>, heads: DeltaHeads) -> Projected {
        match self {
            Self::Apart(apart) => Projected {
                qkv: apart.qkv_proj.forward(x.clone()),
                gates: apart.z_proj.forward(x.clone()),
                strengths: apart.b_proj.forward(x.clone()),
                fades: apart.a_proj.forward(x),
            },
            Self::ByHead(by_head) => {
                let [b, t, _] = x.dims();
                let (g, k, each) = (heads.key, heads.key_features, heads.value / heads.key);
                let values = each * heads.value_features;
                let qkvz = by_head.qkvz_proj.forward(x.clone());
                let qkvz = qkvz.reshape([b, t, g, 2 * (k + values)]);
                let ba = by_head.ba_proj.forward(x);
                let ba = ba.reshape([b, t, g, 2 * each]);
                let rows = |x: &Tensor<4>, start, len| {
                    let rows = x.clone().narrow(3, start, len);
                    rows.reshape([b, t, g * len])
                };
                let qkv = vec![
                    rows(&qkvz, 0, k),
                    rows(&qkvz, k, k),
                    rows(&qkvz, 2 * k, values),
                ];
                Projected {
                    qkv: Tensor::cat(qkv, 2),
                    gates: rows(&qkvz, 2 * k + values, values),
                    strengths: rows(&ba, 0, each),
                    fades: rows(&ba, each, each),
                }
            }
        }
    }
}

/// Each row of `x` over the last dimension, of length 1.
fn unit(x: Tensor<4>) -> Tensor<4> {
    let squares = (x.clone() * x.clone()).sum_dim(3);
    x * (squares + LENGTH_EPS).sqrt().recip()
}
