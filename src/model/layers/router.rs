//! What chooses experts for each token.
//!
//! Letters: `n` tokens, `e` experts, `k` experts that a token goes through, `f` features of the model.

use burn::{
    module::{Module, Param},
    tensor::{
        DType, Int, Tensor, TensorData,
        activation::{sigmoid, softmax},
    },
};
use serde::Serialize;

use super::{frozen::values, linear::Linear, matrix::Matrix, norm::NormSpec};

/// How experts are chosen, and how much each of them counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RouterSpec {
    /// From its products to scores.
    pub score: RouterScore,
    /// The scores of the chosen experts are divided by their sum.
    pub normalised: bool,
    /// Its matrix has a bias.
    pub bias: bool,
    /// A bias that decides which experts are chosen and not how much they count (DeepSeek V3).
    pub correction: bool,
    /// Experts are chosen from the best groups only.
    pub groups: Option<RouterGroups>,
    /// Scores of the chosen experts are multiplied by it.
    pub scaling: f64,
    /// Scores multiply the input of an expert and not its output (Llama 4).
    pub scores_input: bool,
    /// Its input is normalised and scaled, and each expert's score has its own scale (Gemma 4).
    pub scaled: bool,
}

/// From products of a router to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScore {
    /// A softmax over all experts.
    Softmax,
    /// A softmax over the chosen experts.
    SoftmaxOfChosen,
    /// A sigmoid of each.
    Sigmoid,
}

/// Experts are chosen from the best groups only: those whose best two experts have the largest sums of scores
/// (DeepSeek V3, arXiv:2412.19437).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RouterGroups {
    /// How many groups there are: a divisor of the number of experts, with two experts in each at least.
    pub count: usize,
    /// How many are chosen.
    pub chosen: usize,
}

impl RouterSpec {
    /// Scores as they are, without biases, groups and scales.
    pub const fn new(score: RouterScore, normalised: bool) -> Self {
        Self {
            score,
            normalised,
            bias: false,
            correction: false,
            groups: None,
            scaling: 1.0,
            scores_input: false,
            scaled: false,
        }
    }
}

/// Chooses experts for each token.
#[derive(Module, Debug)]
pub struct Router {
    /// `[e, f]`, with a bias where there is one.
    pub scores: Linear,
    /// `[e]`, is added to scores before experts are chosen.
    pub correction: Option<Param<Tensor<1>>>,
    /// What its input and its scores are multiplied by.
    pub scales: Option<RouterScales>,
    /// `k`.
    #[module(skip)]
    pub chosen: usize,
    /// How experts are chosen.
    #[module(skip)]
    pub spec: RouterSpec,
}

/// Scales of a router that normalises its input (Gemma 4).
#[derive(Module, Debug)]
pub struct RouterScales {
    /// `[f]`, times the normalised input.
    pub input: Param<Tensor<1>>,
    /// `[e]`, times the scores.
    pub each: Param<Tensor<1>>,
    /// How the input is normalised.
    #[module(skip)]
    pub norm: NormSpec,
}

/// The experts of some tokens.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `k` experts of each token, in ascending order, one token after another.
    pub experts: Vec<usize>,
    /// How much each of them counts, `[n, k]` in `f32`.
    pub weights: Tensor<2>,
}

impl Router {
    /// The experts of each row of `x` `[n, f]`. Their numbers are read back from the device: the host has to know which
    /// weights a pass needs.
    pub fn route(&self, x: Tensor<2>) -> Routing {
        let products = self.products(x);
        let device = products.device();
        let scores = match self.spec.score {
            RouterScore::Softmax => softmax(products, 1),
            RouterScore::Sigmoid => sigmoid(products),
            RouterScore::SoftmaxOfChosen => products,
        };
        let experts = self.choose(scores.clone());

        let [n, _] = scores.dims();
        let ids: Vec<i32> = experts.iter().map(|expert| *expert as i32).collect();
        let ids = TensorData::new(ids, [n, self.chosen]);
        let ids = Tensor::<2, Int>::from_data(ids, (&device, DType::I32));
        let weights = scores.gather(1, ids.clone());
        let weights = match self.spec.score {
            RouterScore::SoftmaxOfChosen => softmax(weights, 1),
            RouterScore::Softmax | RouterScore::Sigmoid => weights,
        };
        let weights = match self.spec.normalised {
            // As DeepSeek has it: sigmoids may all be next to 0. It changes no sum of a softmax.
            true => weights.clone() / (weights.sum_dim(1) + 1e-20),
            false => weights,
        };
        let weights = match self.spec.scaling {
            1.0 => weights,
            scaling => weights * scaling,
        };
        let weights = match &self.scales {
            Some(scales) => {
                let each = values(&scales.each).cast(DType::F32);
                weights * each.select(0, ids.flatten(0, 1)).reshape([n, self.chosen])
            }
            None => weights,
        };
        Routing { experts, weights }
    }

    /// `x` `[n, f]` to `[n, e]` in `f32`: half types round scores to the same number.
    fn products(&self, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.scales {
            Some(scales) => {
                let ([_, f], dtype) = (x.dims(), x.dtype());
                let x = scales.norm.unit(x).cast(dtype) * values(&scales.input).unsqueeze();
                x / (f as f64).sqrt()
            }
            None => x,
        };
        let products = match &self.scores.weight {
            Matrix::Dense(weight) => {
                let weight = values(weight).cast(DType::F32);
                x.clone().cast(DType::F32).matmul(weight.transpose())
            }
            other => other.product(x.clone()).cast(DType::F32),
        };
        let products = match self.scores.adapters.is_empty() {
            true => products,
            false => self.scores.with_changes(&x.cast(DType::F32), products),
        };
        match self.scores.changed_bias() {
            Some(bias) => products + bias.cast(DType::F32).unsqueeze(),
            None => products,
        }
    }

    /// The `k` experts of each row of `scores` `[n, e]`.
    fn choose(&self, scores: Tensor<2>) -> Vec<usize> {
        let [_, e] = scores.dims();
        let scores = match &self.correction {
            Some(correction) => scores + values(correction).cast(DType::F32).unsqueeze(),
            None => scores,
        };
        let scores: Vec<f32> = scores.into_data().iter().collect();
        let rows = scores.chunks(e.max(1));
        rows.flat_map(|scores| chosen(scores, self.chosen, self.spec.groups))
            .collect()
    }
}

/// The `k` experts with the largest scores, in ascending order. Of equal scores the first is taken.
fn chosen(scores: &[f32], k: usize, groups: Option<RouterGroups>) -> Vec<usize> {
    let Some(groups) = groups else {
        return largest(scores, 0..scores.len(), k);
    };
    let size = scores.len() / groups.count;
    let best_two = |group: &[f32]| -> f32 {
        let two = largest(group, 0..group.len(), 2);
        two.into_iter().map(|expert| group[expert]).sum()
    };
    let of_groups: Vec<f32> = scores.chunks(size).map(best_two).collect();
    let groups = largest(&of_groups, 0..of_groups.len(), groups.chosen);
    let allowed = groups
        .into_iter()
        .flat_map(|group| group * size..(group + 1) * size);
    largest(scores, allowed, k)
}

/// The `k` of `places` with the largest scores, in ascending order.
fn largest(scores: &[f32], places: impl Iterator<Item = usize>, k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = places.collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    places.truncate(k);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from the rule of DeepSeek V3. Would catch groups that are compared by their best expert alone (the
    /// second group would win) or by all of them, experts of a group that was not chosen, and of equal scores the later one.
    #[test]
    fn experts_are_of_the_groups_with_the_best_two() {
        let scores = [0.5, 0.4, 0.0, 0.9, -0.5, 0.2, 0.3, 0.3, 0.3];
        let groups = |chosen| Some(RouterGroups { count: 3, chosen });
        // Sums of the best two: 0.9, 1.1, 0.6; of the best ones 0.5, 0.9, 0.3.
        assert_eq!(chosen(&scores, 2, groups(1)), [3, 5]);
        assert_eq!(chosen(&scores, 3, groups(2)), [0, 1, 3]);
        let even = [0.5, 0.6, 0.0, 0.9, -0.5, -0.6, 0.3, 0.3, 0.3];
        assert_eq!(
            chosen(&even, 1, groups(1)),
            [1],
            "0.5 + 0.6 is more than 0.9 - 0.5"
        );
        assert_eq!(chosen(&scores, 4, None), [0, 1, 3, 6]);
        assert_eq!(chosen(&scores, 5, None), [0, 1, 3, 6, 7]);
    }
}
