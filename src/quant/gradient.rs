//! A product whose gradient is computed from a weight that is fetched again.
//!
//! Between forward and backward pass the graph holds a function, and no tensor of the weight.

use core::fmt;
use std::sync::Arc;

use burn::{
    backend::{
        Backend, Dispatch, DispatchKindConversion, DispatchTensor,
        autodiff::{
            Autodiff,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::Tensor,
};

use super::{ops_autodiff, packed::PackedWeight};

/// From the gradient of an output to that of its input, both without a graph of their own.
#[derive(Clone)]
pub(crate) struct Back(Arc<dyn Fn(Tensor<2>) -> Tensor<2> + Send + Sync>);

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Back")
    }
}

/// Backends that a gradient can be given to, which those without gradients ignore.
#[backend_extension(
    Flex: cfg(feature = "cpu"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
)]
pub(crate) trait GradientBackend: Backend {
    /// `y`, whose gradient goes through `back` to `x`.
    fn attach_gradient(x: FloatTensor<Self>, y: FloatTensor<Self>, back: Back)
    -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    ($backend:ty) => {
        impl GradientBackend for $backend {
            fn attach_gradient(
                _x: FloatTensor<Self>,
                y: FloatTensor<Self>,
                _back: Back,
            ) -> FloatTensor<Self> {
                y
            }
        }
    };
}

#[cfg(feature = "cpu")]
without_gradients!(burn::backend::Flex);
#[cfg(feature = "ndarray")]
without_gradients!(burn::backend::NdArray);
// With fusion and without: nothing is computed that would have to be queued.
#[cfg(feature = "cube")]
without_gradients!(burn::backend::Cube);

impl<B: Backend, C: CheckpointStrategy> GradientBackend for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn attach_gradient(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        back: Back,
    ) -> FloatTensor<Self> {
        match AttachedBackward
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => prepared.finish(back, y.into_primitive()),
            OpsKind::UnTracked(prepared) => prepared.finish(y.into_primitive()),
        }
    }
}

#[derive(Debug)]
struct AttachedBackward;

impl<B: Backend> Backward<B, 1> for AttachedBackward
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Back;

    fn backward(
        self,
        ops: Ops<Back, 1>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x] = ops.parents;
        let dy = gradients.consume::<B>(&ops.node);
        if let Some(x) = x {
            let Back(back) = ops.state;
            let dx = back(Tensor::from_primitive::<B>(dy));
            let dx = dx.try_into_primitive::<B>();
            gradients.register::<B>(x.id, dx.expect("a gradient is where its output's was"));
        }
    }
}

/// `y`, computed from `x` without a graph, as part of the graph of `x`: its gradient goes through `back`.
pub(crate) fn attach(
    x: Tensor<2>,
    y: Tensor<2>,
    back: impl Fn(Tensor<2>) -> Tensor<2> + Send + Sync + 'static,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as GradientBackend>::attach_gradient(
        x.into_dispatch(),
        y.into_dispatch(),
        Back(Arc::new(back)),
    ))
}

/// `dy` `[m, out]` times a packed weight: `[m, in]`, as the backward pass of [`ops::linear`](super::ops::linear)
/// computes it.
pub(crate) fn of_input(dy: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    let [words, scales] = weight.parts().map(Tensor::into_dispatch);
    Tensor::from_dispatch(ops_autodiff::product::<Dispatch>(
        dy.into_dispatch(),
        &words,
        &scales,
        weight.layout(),
    ))
}
