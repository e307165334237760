//! Tensors on their way between devices.

use burn::tensor::{Device, Int, Tensor};

/// `x` on `device`, in the graph that it is in. `device` records no gradients itself.
pub(crate) fn on<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    match x.device().without_autodiff() == *device {
        true => x,
        false => x.to_device(device),
    }
}

/// The same for ids.
pub(crate) fn ids_on<const D: usize>(ids: Tensor<D, Int>, device: &Device) -> Tensor<D, Int> {
    match ids.device().without_autodiff() == *device {
        true => ids,
        false => ids.to_device(device),
    }
}
