//! Parameters that are not trained.

use burn::{module::Param, tensor::Tensor};

/// The values of a parameter: outside of any graph where the parameter is frozen, so that they go with tensors of every
/// device that records gradients, whatever its strategy of checkpointing. Factors that Burn's own `apply_lora` puts on a frozen
/// parameter are part of its values, and stay in the graph.
pub(crate) fn values<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<D> {
    let values = param.val();
    match values.is_require_grad() || param.adapter().is_some() {
        true => values,
        false => values.without_autodiff(),
    }
}
