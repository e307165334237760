//! From what comes out of the last layer to logits, and to a loss.
//!
//! Letters: `n` rows, of which `r` are computed at once, `f` features, `v` vocabulary.

use core::num::NonZero;
use std::mem;

use burn::{
    module::Module,
    tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation::tanh},
};

use super::spec::HeadSpec;
use crate::{
    model::{
        layers::{Embedding, Linear, Norm},
        recompute::CutOut,
    },
    quant::gradient,
};

/// What follows the layers.
#[derive(Module, Debug)]
pub(super) struct Tail {
    /// Over `[f]`; absent where rows are normalised already.
    pub(super) norm: Option<Norm>,
    /// `[v, f]`; absent where the embedding is the head too.
    pub(super) head: Option<Linear>,
    /// The embedding, where it is.
    pub(super) tied: Option<Embedding>,
    /// What logits go through.
    #[module(skip)]
    pub(super) spec: HeadSpec,
}

/// Logits, multiplied and capped as the model wants them.
pub(super) fn bent<const D: usize>(logits: Tensor<D>, spec: &HeadSpec) -> Tensor<D> {
    let logits = match spec.multiplier {
        Some(multiplier) => logits * multiplier,
        None => logits,
    };
    match spec.soft_cap {
        Some(cap) => tanh(logits / cap) * cap,
        None => logits,
    }
}

impl Tail {
    /// The sum of the losses of the rows `x` `[n, f]`, one at least, each of which should be followed by its label: `[1]` in `f32`.
    ///
    /// At most `at_once` rows of logits exist at a time. Where something is trained, the gradients of a chunk of rows are computed
    /// beside its loss: the loss is one number, so that the backward pass only has to scale them.
    pub(super) fn loss(self, x: Tensor<2>, labels: &[u32], at_once: NonZero<usize>) -> Tensor<1> {
        let [_, f] = x.dims();
        let (cut, to) = CutOut::new(self, core::slice::from_ref(&x));
        let is_tracked = x.is_tracked();
        let x = x.without_autodiff();
        let device = x.device();
        let (mut first, mut losses) = (0, Vec::new());
        let mut of_x: Vec<Tensor<2>> = Vec::new();
        let mut of_leaves = Vec::new();
        for labels in labels.chunks(at_once.get()) {
            let x = x.clone().narrow(0, first, labels.len());
            first += labels.len();
            let labels: Vec<i32> = labels.iter().map(|label| label.cast_signed()).collect();
            let shape = [labels.len(), 1];
            let labels = Tensor::from_data(TensorData::new(labels, shape), (&device, DType::I32));
            if to.is_empty() {
                losses.push(cut.module.chunk(x, labels));
                continue;
            }
            let (loss, mut gradients) = cut.gradients(&[x], |tail, x| {
                let x = x.into_iter().next().expect("it went in");
                tail.chunk(x, labels)
            });
            losses.push(loss);
            if is_tracked {
                let gradient = gradients.remove(0).expect("a loss depends on its rows");
                of_x.push(Tensor::from_dispatch(gradient));
            }
            of_leaves = match mem::take(&mut of_leaves) {
                empty if empty.is_empty() => gradients,
                sums => sums.into_iter().zip(gradients).map(gradient::sum).collect(),
            };
        }
        let loss = Tensor::cat(losses, 0).sum();
        if to.is_empty() {
            return loss;
        }
        let of_x =
            is_tracked.then(|| Some(Tensor::cat(of_x, 0).reshape([first, f]).into_dispatch()));
        let gradients: Vec<_> = of_x.into_iter().chain(of_leaves).collect();
        gradient::attach_all(to, loss, move |dy| {
            let gradients = gradients.iter().cloned();
            let scaled = gradients.map(|gradient| Some(gradient::scaled(gradient?, &dy)));
            scaled.collect()
        })
    }

    /// The sum of the losses of some rows `x` `[r, f]` with labels `[r, 1]`: `[1]` in `f32`.
    fn chunk(&self, x: Tensor<2>, labels: Tensor<2, Int>) -> Tensor<1> {
        let x = match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let logits = match (&self.head, &self.tied) {
            (Some(head), _) => head.forward(x),
            (None, Some(embedding)) => embedding.table.product(x),
            (None, None) => unreachable!("a model has a head or ties it"),
        };
        cross_entropy(bent(logits.cast(DType::F32), &self.spec), labels)
    }
}

/// The sum over rows of `ln Σ exp(logits) - logits[label]`, of logits `[r, v]` in `f32` and labels `[r, 1]`.
///
/// Its gradient, `softmax(logits)` less 1 at the label, is made of the exponentials that the loss has computed.
pub(super) fn cross_entropy(logits: Tensor<2>, labels: Tensor<2, Int>) -> Tensor<1> {
    let plain = logits.clone().without_autodiff();
    let most = plain.clone().max_dim(1);
    let at_labels = plain.clone().gather(1, labels.clone());
    let exponentials = (plain - most.clone()).exp();
    let sums = exponentials.clone().sum_dim(1);
    let loss = (sums.clone().log() + most - at_labels)
        .sum()
        .reshape([1, 1]);
    if !logits.is_tracked() {
        return loss.reshape([1]);
    }
    let less = Tensor::full(labels.dims(), -1.0, (&labels.device(), DType::F32));
    let gradient = exponentials / sums;
    let gradient = gradient.scatter(1, labels, less, IndexingUpdateOp::Add);
    let loss = gradient::attach(logits, loss, move |dy| gradient.clone() * dy);
    loss.reshape([1])
}
