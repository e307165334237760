//! Parts of a model whose backward pass computes their forward pass once more, or computes all of it at once: in both cases the
//! graph keeps nothing of what is inside.
//!
//! ```text
//! forward    y = run(part, x)                         without a graph
//! backward   y = run(part, x), in a graph of its own; its gradients by x and by what the part trains go to the graph outside
//! ```

use burn::{
    backend::DispatchTensor,
    module::{Module, ModuleMapper, Param},
    tensor::{GradientCheckpointingStrategy, Gradients, Tensor},
};

use super::layers::operations::in_operations;
use crate::quant::gradient;

/// `run(module, inputs)`, of which the graph keeps the `inputs` alone: its backward pass calls `run` a second time. The module's
/// packed weights stay packed, and what it streams is fetched once more.
///
/// Gradients are those of an ordinary pass, by the inputs and by all parameters of `module` that are trained. Where neither is,
/// `run` is called in the ordinary way. `run` has to compute the same both times, so it must draw no random numbers of its own.
///
/// # Panics
///
/// When more than four of the inputs were computed in a graph; parameters are not counted.
pub fn recompute<M, const D: usize>(
    module: M,
    inputs: Vec<Tensor<D>>,
    run: impl Fn(&M, Vec<Tensor<D>>) -> Tensor<D> + Send + Sync + 'static,
) -> Tensor<D>
where
    M: Module + Sync + 'static,
{
    recompute_held(module, inputs, |_| (), run)
}

/// [`recompute`] with what `hold` returns kept while the module is run: in the forward pass, and in the backward pass until all gradients
/// are there.
pub(crate) fn recompute_held<M, H, const D: usize>(
    module: M,
    inputs: Vec<Tensor<D>>,
    hold: impl Fn(&M) -> H + Send + Sync + 'static,
    run: impl Fn(&M, Vec<Tensor<D>>) -> Tensor<D> + Send + Sync + 'static,
) -> Tensor<D>
where
    M: Module + Sync + 'static,
{
    let (cut, to) = CutOut::new(module, &inputs);
    let inputs: Vec<_> = inputs.into_iter().map(Tensor::without_autodiff).collect();
    let held = hold(&cut.module);
    if to.is_empty() {
        return run(&cut.module, inputs);
    }
    let y = in_operations(|| run(&cut.module, inputs.clone()));
    drop(held);
    gradient::attach_all(to, y, move |dy| {
        let _held = hold(&cut.module);
        let (_, gradients) = cut.gradients(&inputs, |module, inputs| {
            let y = run(module, inputs);
            // A number whose gradient by `y` is `dy`.
            let number = Tensor::zeros([1], &dy.device());
            let dy = dy.clone();
            match y.is_tracked() {
                true => {
                    let back = move |_| vec![Some(dy.clone().into_dispatch())];
                    gradient::attach_all(vec![y.into_dispatch()], number, back)
                }
                false => number,
            }
        });
        gradients
    })
}

/// A part of a model outside of any graph.
#[derive(Debug)]
pub(super) struct CutOut<M> {
    /// Its parameters are constants.
    pub(super) module: M,
    /// Whether each parameter is trained, in the order of a mapper.
    trained: Vec<bool>,
    /// Whether each input is in a graph.
    tracked: Vec<bool>,
    /// That of the graph outside.
    strategy: GradientCheckpointingStrategy,
}

impl<M: Module> CutOut<M> {
    /// Cuts out `module`, and what gradients go to: those of `inputs` that are in a graph, and trained parameters.
    pub(super) fn new<const D: usize>(
        module: M,
        inputs: &[Tensor<D>],
    ) -> (Self, Vec<DispatchTensor>) {
        let mut constants = Constants::default();
        let module = module.map(&mut constants);
        let tracked = inputs.iter().filter(|input| input.is_tracked());
        let mut to: Vec<DispatchTensor> = tracked.cloned().map(Tensor::into_dispatch).collect();
        let of_inputs = inputs.iter().find(|input| input.is_tracked());
        let of_inputs = of_inputs.and_then(Tensor::gradient_checkpointing_strategy);
        to.extend(constants.leaves);
        let cut = Self {
            module,
            trained: constants.trained,
            tracked: inputs.iter().map(Tensor::is_tracked).collect(),
            strategy: of_inputs.or(constants.strategy).unwrap_or_default(),
        };
        (cut, to)
    }

    /// The number that `run` makes of the module and `inputs`, outside of any graph, and its gradients: those of the inputs that
    /// were in a graph, then those of trained parameters; `None` where the number does not depend on one.
    pub(super) fn gradients<const D: usize>(
        &self,
        inputs: &[Tensor<D>],
        run: impl FnOnce(&M, Vec<Tensor<D>>) -> Tensor<1>,
    ) -> (Tensor<1>, Vec<Option<DispatchTensor>>) {
        let mut leaves = Leaves {
            trained: self.trained.iter(),
            strategy: self.strategy,
            look: Vec::new(),
        };
        let inputs = inputs.iter().cloned().zip(&self.tracked);
        let inputs = inputs.map(|(input, tracked)| match tracked {
            true => leaves.leaf(input),
            false => input,
        });
        let inputs = inputs.collect();
        let module = self.module.clone().map(&mut leaves);
        let number = run(&module, inputs);
        let value = number.clone().without_autodiff();
        if !number.is_tracked() {
            return (value, leaves.look.iter().map(|_| None).collect());
        }
        let gradients = number.backward();
        let found = leaves.look.into_iter().map(|look| look(&gradients));
        (value, found.collect())
    }
}

/// Takes parameters out of their graph.
#[derive(Default)]
struct Constants {
    trained: Vec<bool>,
    leaves: Vec<DispatchTensor>,
    strategy: Option<GradientCheckpointingStrategy>,
}

impl ModuleMapper for Constants {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let trained = value.is_require_grad();
        if trained {
            self.strategy = value.gradient_checkpointing_strategy();
            self.leaves.push(value.clone().into_dispatch());
        }
        self.trained.push(trained);
        Param::from_mapped_value(id, value.without_autodiff(), mapper)
    }
}

/// Finds the gradient of one leaf.
type Look = Box<dyn Fn(&Gradients) -> Option<DispatchTensor>>;

/// Makes trained parameters leaves of a graph of their own.
struct Leaves<'a> {
    trained: core::slice::Iter<'a, bool>,
    strategy: GradientCheckpointingStrategy,
    look: Vec<Look>,
}

impl Leaves<'_> {
    fn leaf<const D: usize>(&mut self, value: Tensor<D>) -> Tensor<D> {
        let leaf = value.autodiff();
        let leaf = leaf.with_gradient_checkpointing_strategy(self.strategy);
        let leaf = leaf.require_grad();
        let same = leaf.clone();
        let look = move |gradients: &_| same.grad(gradients).map(Tensor::into_dispatch);
        self.look.push(Box::new(look));
        leaf
    }
}

impl ModuleMapper for Leaves<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.trained.next() {
            Some(true) => {
                let (id, value, mapper) = param.consume();
                Param::from_mapped_value(id, self.leaf(value), mapper)
            }
            _ => param,
        }
    }
}
