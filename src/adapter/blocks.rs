//! Weights of the model itself that are trained: all of a module, whatever it was packed as.

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{Device, FloatDType, Tensor},
};

use super::{AdapterError, beside::recording};
use crate::{
    model::{CausalLm, layers::Matrix},
    target::ToBurn,
};

/// Trains the layers of a model whose numbers are `blocks` ([`Loaded::new_blocks`](crate::Loaded::new_blocks)): all their
/// tensors, norms and biases too, where they are, with gradients recorded as on `device` (`T::device(0)?.autodiff()`). The other layers,
/// the embedding and the head stay where they are and are not trained, so they may be packed; no gradient of theirs exists.
///
/// Packed and streamed matrices of these layers become dense, in the type of the model's activations. An optimizer sees new
/// parameters, with ids of their own.
///
/// # Errors
///
/// [`AdapterError::NoBlock`] where the model has no layer of a number, or none is named, and [`AdapterError::NoGradients`] for
/// a device that records none; the model is as before.
pub fn train_blocks(
    model: &mut CausalLm,
    blocks: &[usize],
    device: &Device,
) -> Result<(), AdapterError> {
    let layers = model.blocks.len();
    let wrong = blocks.iter().find(|block| **block >= layers);
    if wrong.is_some() || blocks.is_empty() {
        return Err(AdapterError::NoBlock {
            block: wrong.copied(),
            layers,
        });
    }
    if !device.is_autodiff() {
        let device = format!("{:?}", device.as_dispatch());
        return Err(AdapterError::NoGradients { device });
    }
    let dtype = model.embedding.dtype().burn();
    for (nth, block) in model.blocks.iter_mut().enumerate() {
        if blocks.contains(&nth) {
            for linear in block.linears_mut() {
                unpack(&mut linear.weight, dtype);
            }
            *block = train_module(block.clone(), device);
        }
    }
    Ok(())
}

/// Makes a matrix dense.
pub(super) fn unpack(matrix: &mut Matrix, dtype: FloatDType) {
    match matrix {
        Matrix::Dense(_) => {}
        Matrix::Split(parts) => parts.iter_mut().for_each(|part| unpack(part, dtype)),
        Matrix::Packed(_) | Matrix::Streamed(_) => {
            let values = matrix.to_dense(dtype).without_autodiff();
            *matrix = Matrix::Dense(Param::initialized(ParamId::new(), values));
        }
    }
}

/// The same module, trained where it is, with gradients recorded as on `device`: its parameters are new ones with the same values.
pub(crate) fn train_module<M: Module>(module: M, device: &Device) -> M {
    struct TrainAll<'d>(&'d Device);
    impl ModuleMapper for TrainAll<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let values = param.val().without_autodiff();
            let (dtype, device) = (values.dtype(), recording(values.device(), self.0));
            let values = Tensor::from_data(values.into_data(), (&device, dtype));
            Param::initialized(ParamId::new(), values.require_grad())
        }
    }
    module.map(&mut TrainAll(device))
}
