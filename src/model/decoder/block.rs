//! One layer: mixer and MLP, their norms, and the shortcuts beside them.
//!
//! Letters: `b` batch, `t` new tokens, `f` features of the model.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};

use super::{passage::Passage, spec::NormPlaces};
use crate::model::{
    layers::{Dropout, FeedForward, Linear, Mixer, Norm, PerLayerInput, Remember, frozen::values},
    stream::HeldWeight,
};

/// A layer.
#[derive(Module, Debug)]
pub struct Block {
    /// Over `[f]`, before attention; before both halves where they run in parallel and share a norm.
    pub attention_norm: Option<Norm>,
    /// Looks at the tokens so far.
    pub mixer: Mixer,
    /// Over `[f]`, of what attention adds.
    pub attention_norm_after: Option<Norm>,
    /// Over `[f]`, before the MLP.
    pub mlp_norm: Option<Norm>,
    /// Looks at each token alone.
    pub feed_forward: FeedForward,
    /// Over `[f]`, of what the MLP adds.
    pub mlp_norm_after: Option<Norm>,
    /// What it does with its small embedding, in models that have one for each layer.
    pub per_layer: Option<PerLayerInput>,
    /// `[1]`: what comes out is multiplied by it.
    pub scalar: Option<Param<Tensor<1>>>,
    /// Its place among the layers, from 0.
    #[module(skip)]
    pub nth: usize,
    /// Where the norms are.
    #[module(skip)]
    pub places: NormPlaces,
    /// What a half adds is multiplied by it.
    #[module(skip)]
    pub residual_multiplier: Option<f64>,
    /// The rotation of its heads, by its place in [`CausalLm::ropes`](super::CausalLm::ropes); `None`: nothing turns.
    #[module(skip)]
    pub rope: Option<usize>,
}

impl Block {
    /// `x` `[b, t, f]` to `[b, t, f]`, on the device of the layer; `passage` is what the layers share, `memory` what this layer
    /// remembers of the tokens before.
    pub fn forward(
        &self,
        x: Tensor<3>,
        passage: &mut Passage,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        let x = self.receive(x, passage);
        let small = passage.small_of(self.nth);
        self.forward_with(x, small, passage, memory)
    }

    /// Where the layer is.
    pub fn device(&self) -> Device {
        self.mixer.out().weight.device()
    }

    /// `x` on the device of the layer, and `passage` with it: they are always together.
    pub(super) fn receive(&self, x: Tensor<3>, passage: &mut Passage) -> Tensor<3> {
        let device = self.device();
        if x.device().without_autodiff() == device {
            return x;
        }
        passage.come_to(&device);
        x.to_device(&device)
    }

    /// [`forward`](Self::forward) on the device of the layer, with its small embedding `[b, t, p]`.
    pub(super) fn forward_with(
        &self,
        x: Tensor<3>,
        small: Option<Tensor<3>>,
        passage: &mut Passage,
        memory: &mut impl Remember,
    ) -> Tensor<3> {
        let Passage {
            rotations,
            lent,
            sight,
            ..
        } = passage;
        let rotation = self.rope.map(|rope| &rotations[rope]);
        let mut mixer = |y| {
            let y = self.mixer.forward(y, rotation, lent, sight, memory);
            self.added(y, self.attention_norm_after.as_ref())
        };
        let mlp = |y, x: &Tensor<3>| {
            let y = self.feed_forward.forward(y, x);
            self.added(y, self.mlp_norm_after.as_ref())
        };

        let y = normed(x.clone(), self.attention_norm.as_ref());
        let x = match self.places {
            NormPlaces::Before | NormPlaces::After | NormPlaces::Around => {
                let x = x + mixer(y);
                let y = mlp(normed(x.clone(), self.mlp_norm.as_ref()), &x);
                x + y
            }
            NormPlaces::Parallel => x.clone() + mixer(y.clone()) + mlp(y, &x),
            NormPlaces::ParallelApart => {
                let z = normed(x.clone(), self.mlp_norm.as_ref());
                x.clone() + mixer(y) + mlp(z, &x)
            }
        };
        let x = match (&self.per_layer, small) {
            (Some(per_layer), Some(small)) => x.clone() + per_layer.forward(x, small),
            _ => x,
        };
        match &self.scalar {
            Some(scalar) => x * values(scalar).unsqueeze(),
            None => x,
        }
    }

    /// Its matrices, in the order in which a token meets them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = self.mixer.linears();
        linears.extend(self.feed_forward.linears());
        linears.extend(self.per_layer.iter().flat_map(PerLayerInput::linears));
        linears
    }

    /// Keeps the matrices of which ranks have some bytes each on the device: they come together once, however often the layer is run.
    pub(super) fn hold(&self) -> Vec<HeldWeight> {
        let linears = self.linears().into_iter();
        linears.flat_map(|linear| linear.weight.hold()).collect()
    }

    /// The same layer for two runs: after each [`rewind`](Self::rewind) its dropouts draw what they drew in the first run.
    pub(super) fn again(&self) -> Self {
        let mut again = self.clone();
        let linears = again.linears_mut().into_iter();
        let dropouts = linears.flat_map(Linear::dropouts_mut);
        dropouts.for_each(|dropout| *dropout = dropout.again());
        again
    }

    /// Begins the next run of a layer that is run twice.
    pub(super) fn rewind(&self) {
        let linears = self.linears().into_iter();
        linears.flat_map(Linear::dropouts).for_each(Dropout::rewind);
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = self.mixer.linears_mut();
        linears.extend(self.feed_forward.linears_mut());
        let per_layer = self.per_layer.iter_mut();
        linears.extend(per_layer.flat_map(PerLayerInput::linears_mut));
        linears
    }

    /// What a half adds to the shortcut.
    fn added(&self, y: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        let y = normed(y, norm);
        match self.residual_multiplier {
            Some(multiplier) => y * multiplier,
            None => y,
        }
    }
}

fn normed(x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
