//! The gated delta rule: a state that each token fades and corrects (arXiv:2412.06464; transformers'
//! `modeling_qwen3_next.py`).
//!
//! Letters: `b` batch, `h` heads, `t` tokens, `c` tokens of a chunk, `k` features of a query and a key, `v` features of a
//! value.
//!
//! ```text
//! state  = exp(fade) · state
//! state += keyᵀ · strength · (value - key · state)       one token
//! answer = query · state
//! ```
//!
//! A chunk of tokens is computed at once. What its tokens write depends on what the ones before them in the chunk wrote, which is
//! a triangular system of `c` equations; one inverse solves it for all features.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};

/// Tokens that are computed at once.
const CHUNK: usize = 32;

/// What goes into the rule, in f32.
#[derive(Debug, Clone)]
pub struct DeltaTokens {
    /// `[b, h, t, k]`.
    pub queries: Tensor<4>,
    /// `[b, h, t, k]`, of length 1 at most.
    pub keys: Tensor<4>,
    /// `[b, h, t, v]`.
    pub values: Tensor<4>,
    /// `[b, h, t, 1]`, from 0 (nothing is written) to 1 (the value replaces what the key finds).
    pub strengths: Tensor<4>,
    /// `[b, h, t, 1]`, logarithms of factors, 0 or less.
    pub fades: Tensor<4>,
}

/// The answers `[b, h, t, v]` of all tokens and the `state` `[b, h, k, v]` after them.
pub fn delta_rule(tokens: &DeltaTokens, mut state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, _, t, _] = tokens.keys.dims();
    let mut answers = Vec::with_capacity(t.div_ceil(CHUNK));
    for start in (0..t).step_by(CHUNK) {
        let (answer, after) = chunk(tokens.narrow(start, CHUNK.min(t - start)), state);
        answers.push(answer);
        state = after;
    }
    (Tensor::cat(answers, 2), state)
}

impl DeltaTokens {
    /// `len` tokens from `start`.
    fn narrow(&self, start: usize, len: usize) -> Self {
        let part = |x: &Tensor<4>| x.clone().narrow(2, start, len);
        Self {
            queries: part(&self.queries),
            keys: part(&self.keys),
            values: part(&self.values),
            strengths: part(&self.strengths),
            fades: part(&self.fades),
        }
    }
}

/// The rule for one chunk.
fn chunk(tokens: DeltaTokens, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, _, c, _] = tokens.keys.dims();
    let device = tokens.keys.device();
    // Logarithms of what is left at a token of the state before the chunk, and of what the tokens before it wrote.
    let faded = tokens.fades.cumsum(2);
    let later = Tensor::<2, Bool>::tril_mask([c, c], 0, &device);
    let between = faded.clone() - faded.clone().swap_dims(2, 3);
    let between = between
        .mask_fill(later.unsqueeze(), f32::NEG_INFINITY)
        .exp();
    let last = faded.clone().narrow(2, c - 1, 1);
    let until_end = (last.clone() - faded.clone()).exp();
    let faded = faded.exp();

    let strong = tokens.keys.clone() * tokens.strengths.clone();
    let keys_across = tokens.keys.clone().swap_dims(2, 3);
    let found = (strong.clone() * faded.clone()).matmul(state.clone());
    let wanted = tokens.values * tokens.strengths - found;
    let disturbed = strong.matmul(keys_across.clone()) * between.clone();
    let written = match c {
        1 => wanted,
        _ => inverse(disturbed, c, &device).matmul(wanted),
    };

    let seen = tokens.queries.clone().matmul(keys_across) * between;
    let answer = (tokens.queries * faded).matmul(state.clone()) + seen.matmul(written.clone());
    let keys_left = (tokens.keys * until_end).swap_dims(2, 3);
    let state = state * last.exp() + keys_left.matmul(written);
    (answer, state)
}

/// The inverse of `1 + L`, where `L` `[b, h, c, c]` is `below` under its diagonal, `c` at least 2.
///
/// The inverse of a block and that of its neighbour make that of both: `[A, 0; C, B]` has
/// `[A⁻¹, 0; -B⁻¹ C A⁻¹, B⁻¹]`. So blocks of one row, which are 1, double until they are the whole. A power series
/// would need as many products and lose all digits where neighbours have like keys.
fn inverse(below: Tensor<4>, c: usize, device: &Device) -> Tensor<4> {
    // The second of two neighbouring blocks of `size` rows meets the columns of the first.
    let corner = |size: usize| {
        let corners = ones(c, device, |row, column| {
            let (row, column) = (row / size, column / size);
            row % 2 == 1 && column + 1 == row
        });
        below.clone() * corners
    };
    let mut inverse = ones(c, device, |row, column| row == column) - corner(1);
    let mut size = 2;
    while size < c {
        inverse = inverse.clone() - inverse.clone().matmul(corner(size)).matmul(inverse);
        size *= 2;
    }
    inverse
}

/// `[1, 1, c, c]`, 1 `at` some rows and columns, else 0.
fn ones(c: usize, device: &Device, at: impl Fn(usize, usize) -> bool) -> Tensor<4> {
    let values = (0..c * c).map(|i| f32::from(u8::from(at(i / c, i % c))));
    let values = TensorData::new(values.collect::<Vec<f32>>(), [1, 1, c, c]);
    Tensor::from_data(values, (device, DType::F32))
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    const B: usize = 2;
    const H: usize = 3;
    const K: usize = 4;
    const V: usize = 5;

    /// Numbers from 0 to 1 without a pattern, `[b, h, t, d]`.
    fn some(t: usize, d: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0;
        (0..B * H * t * d).map(number).collect()
    }

    fn place(values: &[f32], t: usize, d: usize) -> Tensor<4> {
        let device = Device::flex();
        let data = TensorData::new(values.to_vec(), [B, H, t, d]);
        Tensor::from_data(data, (&device, DType::F32))
    }

    /// The three lines of the rule, token by token in f64, and the same by chunks. Catches tokens of a chunk that see
    /// later ones, a state that fades too often or too rarely, and a last chunk that is shorter. `alike`: all keys are
    /// one, nothing fades and all is replaced, where the inverse by a power series has sums of 1e18 that cancel.
    fn check(t: usize, alike: bool) {
        let queries = some(t, K, 1);
        let mut keys = some(t, K, 2);
        let values = some(t, V, 3);
        let mut strengths = some(t, 1, 4);
        let mut fades: Vec<f32> = some(t, 1, 5).iter().map(|x| -2.0 * x).collect();
        if alike {
            keys.fill(0.5);
            strengths.fill(1.0);
            fades.fill(0.0);
        }
        for key in keys.chunks_mut(K) {
            let length = key.iter().map(|x| x * x).sum::<f32>().sqrt();
            key.iter_mut().for_each(|x| *x /= length.max(1e-3));
        }
        let before = some(K, V, 6);

        let mut states: Vec<f64> = before.iter().map(|x| f64::from(*x)).collect();
        let mut expected = Vec::new();
        for (head, state) in states.chunks_mut(K * V).enumerate() {
            for token in head * t..(head + 1) * t {
                let (fade, strength) = (f64::from(fades[token]).exp(), f64::from(strengths[token]));
                let row = |of: &[f32], i: usize| f64::from(of[token * K + i]);
                state.iter_mut().for_each(|x| *x *= fade);
                for v in 0..V {
                    let found: f64 = (0..K).map(|k| row(&keys, k) * state[k * V + v]).sum();
                    let written = strength * (f64::from(values[token * V + v]) - found);
                    (0..K).for_each(|k| state[k * V + v] += row(&keys, k) * written);
                    let answer = (0..K).map(|k| row(&queries, k) * state[k * V + v]);
                    expected.push(answer.sum::<f64>());
                }
            }
        }
        let tokens = DeltaTokens {
            queries: place(&queries, t, K),
            keys: place(&keys, t, K),
            values: place(&values, t, V),
            strengths: place(&strengths, t, 1),
            fades: place(&fades, t, 1),
        };
        let (answers, after) = delta_rule(&tokens, place(&before, K, V));
        for (found, expected) in [(answers, expected), (after, states)] {
            let found: Vec<f32> = found.try_into_vec_as().expect("a CPU tensor can be read");
            let errors = found.iter().zip(&expected);
            let error = errors
                .map(|(a, b)| (f64::from(*a) - b).abs())
                .fold(0.0, f64::max);
            assert!(error < 1e-5, "{t} tokens, alike: {alike}: {error}");
        }
    }

    #[test]
    fn chunks_compute_what_tokens_one_by_one_do() {
        for t in [1, 2, 3, 31, 32, 33, 64, 90] {
            check(t, false);
            check(t, true);
        }
    }
}
