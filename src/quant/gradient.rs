//! Parts of a graph that were computed outside of it, and say themselves how gradients go back through them.
//!
//! Between forward and backward pass the graph holds a function, and no tensor but those that the function holds.

use core::fmt;
use std::sync::Arc;

use burn::{
    backend::{
        Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata,
        autodiff::{
            Autodiff, NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, NodeGuard, Ops, OpsKind},
        },
        backend_extension,
        ops::FloatTensorOps,
        tensor::FloatTensor,
    },
    tensor::{DType, Tensor},
};

use super::{ops_autodiff, packed::PackedWeight};

/// Tensors inside a graph that one part of it can have gradients for, its parameters not counted.
const PARENTS: usize = 4;

/// From the gradient of an output to those of some tensors, in their order; `None` for a tensor that the output does not depend
/// on. All are without a graph of their own.
type Gradient = dyn Fn(DispatchTensor) -> Vec<Option<DispatchTensor>> + Send + Sync;

/// A function of the backward pass, and the tensors that it makes gradients for.
#[derive(Clone)]
pub(crate) struct Back {
    to: Vec<DispatchTensor>,
    run: Arc<Gradient>,
}

/// The same in a graph, which must not hold its own tensors.
#[derive(Clone)]
struct HeldBack {
    to: Vec<NodeId>,
    run: Arc<Gradient>,
}

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Back")
    }
}

impl fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldBack").field(&self.to).finish()
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
    /// `y`, whose gradient goes through `back`; `of` is one of the tensors that it goes to.
    fn attach_gradient(
        of: FloatTensor<Self>,
        y: FloatTensor<Self>,
        back: Back,
    ) -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    ($backend:ty) => {
        impl GradientBackend for $backend {
            fn attach_gradient(
                _of: FloatTensor<Self>,
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
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Self>,
{
    fn attach_gradient(
        of: FloatTensor<Self>,
        y: FloatTensor<Self>,
        back: Back,
    ) -> FloatTensor<Self> {
        let to = back.to.into_iter().map(in_graph::<B, C>);
        let to: Vec<FloatTensor<Self>> = to.collect();
        // A gradient for a leaf is looked up by its number. Other tensors have steps of their own, which must come later.
        let inside = |tensor: &&FloatTensor<Self>| !Self::float_is_require_grad(tensor);
        let mut nodes = to.iter().filter(inside).map(|tensor| tensor.node());
        let parents: [NodeGuard; PARENTS] =
            core::array::from_fn(|_| nodes.next().unwrap_or_else(|| of.node()));
        assert!(
            nodes.next().is_none(),
            "a part of a graph has {PARENTS} inputs inside of it at most"
        );
        let held = HeldBack {
            to: to.iter().map(|tensor| tensor.id()).collect(),
            run: back.run,
        };
        match AttachedBackward
            .prepare::<C>(parents)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => prepared.finish(held, y.into_primitive()),
            OpsKind::UnTracked(prepared) => prepared.finish(y.into_primitive()),
        }
    }
}

fn in_graph<B: Backend, C: CheckpointStrategy>(
    tensor: DispatchTensor,
) -> FloatTensor<Autodiff<B, C>>
where
    DispatchTensor: DispatchKindConversion<Autodiff<B, C>>,
{
    let tensor =
        <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::try_into_backend(tensor);
    tensor
        .expect("tensors of one graph are of one device and strategy")
        .float()
}

#[derive(Debug)]
struct AttachedBackward;

impl<B: Backend> Backward<B, PARENTS> for AttachedBackward
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = HeldBack;

    fn backward(
        self,
        ops: Ops<HeldBack, PARENTS>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let HeldBack { to, run } = ops.state;
        let dy = gradients.consume::<B>(&ops.node);
        let dy =
            <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(dy));
        for (id, gradient) in to.into_iter().zip(run(dy)) {
            if let Some(gradient) = gradient {
                let gradient =
                    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(gradient);
                let gradient = gradient.expect("a gradient is where its output's was");
                gradients.register::<B>(id, gradient.float());
            }
        }
    }
}

/// `y`, computed without a graph, as part of the graph of the tensors `to`, of which there is one at least: `back` makes
/// their gradients, in their order, from that of `y`. Up to four of them are inside a graph, any number are leaves.
pub(crate) fn attach_all<const D: usize>(
    to: Vec<DispatchTensor>,
    y: Tensor<D>,
    back: impl Fn(Tensor<D>) -> Vec<Option<DispatchTensor>> + Send + Sync + 'static,
) -> Tensor<D> {
    let of = to[0].clone();
    let run = move |dy| back(Tensor::from_dispatch(dy));
    let back = Back {
        to,
        run: Arc::new(run),
    };
    Tensor::from_dispatch(<Dispatch as GradientBackend>::attach_gradient(
        of,
        y.into_dispatch(),
        back,
    ))
}

/// `y`, computed from `x` without a graph, as part of the graph of `x`: its gradient goes through `back`.
pub(crate) fn attach(
    x: Tensor<2>,
    y: Tensor<2>,
    back: impl Fn(Tensor<2>) -> Tensor<2> + Send + Sync + 'static,
) -> Tensor<2> {
    let back = move |dy| vec![Some(back(dy).into_dispatch())];
    attach_all(vec![x.into_dispatch()], y, back)
}

/// The sum of two gradients of one tensor.
pub(crate) fn sum(
    (one, other): (Option<DispatchTensor>, Option<DispatchTensor>),
) -> Option<DispatchTensor> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Dispatch::float_add(one, other)),
        (one, other) => one.or(other),
    }
}

/// A gradient times a number `[1]`, multiplied in `f32`.
pub(crate) fn scaled(gradient: DispatchTensor, by: &Tensor<1>) -> DispatchTensor {
    let (shape, dtype) = (gradient.shape(), gradient.dtype());
    let flat = Dispatch::float_reshape(gradient, [shape.num_elements()].into());
    let flat = Tensor::<1>::from_dispatch(flat).cast(DType::F32);
    let scaled = (flat * by.clone().cast(DType::F32)).cast(dtype);
    Dispatch::float_reshape(scaled.into_dispatch(), shape)
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
