//! All of a model that is trained, and the train types.

use burn::{
    module::Module,
    tensor::{Device, FloatDType},
};

use super::{
    AdapterError,
    blocks::{train_blocks, train_module, unpack},
};
use crate::{
    config::TrainType,
    model::{Adaptable, Architecture, CausalLm},
};

/// Trains every value of a dense model where it is, with gradients recorded as on `device` (`T::device(0)?.autodiff()`): matrices, tables,
/// norms and biases, and adapters that are on the model. An optimizer sees new parameters, with ids of their own.
///
/// Matrices that are kept as halves or streamed become parameters in `f32` on the device. Routers get the gradients that their
/// scores have; the choice of experts has none.
///
/// # Errors
///
/// [`AdapterError::PackedWhole`] for a packed matrix, [`AdapterError::NoGradients`] for a device that records none; the model is as
/// before.
pub fn train_all<A: Architecture + Module>(
    model: &mut A,
    device: &Device,
) -> Result<(), AdapterError> {
    if !device.is_autodiff() {
        let device = format!("{:?}", device.as_dispatch());
        return Err(AdapterError::NoGradients { device });
    }
    for place in model.adaptable() {
        if let Some(format) = place.matrix().and_then(|matrix| matrix.format()) {
            return Err(AdapterError::PackedWhole {
                module: place.path().to_owned(),
                format,
            });
        }
    }
    for place in model.adaptable() {
        match place {
            Adaptable::Linear(linear) => unpack(&mut linear.weight, FloatDType::F32),
            Adaptable::Embedding(table) => unpack(&mut table.table, FloatDType::F32),
            Adaptable::Norm(_) => {}
        }
    }
    *model = train_module(model.clone(), device);
    Ok(())
}

/// Begins the training of a model that was loaded by [`TrainType::config`] of the same type: all of it, its `new_blocks`
/// ([`Loaded::new_blocks`](crate::Loaded::new_blocks)), or its factors, which a load trains already. `device` should record gradients.
///
/// # Errors
///
/// Those of [`train_all`] and [`train_blocks`], and [`AdapterError::NoFactors`] for a model without factors.
pub fn train(
    model: &mut CausalLm,
    train: TrainType,
    new_blocks: &[usize],
    device: &Device,
) -> Result<(), AdapterError> {
    match train {
        TrainType::Full => train_all(model, device),
        train if train.has_new_blocks() => train_blocks(model, new_blocks, device),
        train => match super::trainable_params(model) {
            0 => Err(AdapterError::NoFactors { train }),
            _ => Ok(()),
        },
    }
}
