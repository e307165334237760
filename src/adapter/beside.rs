//! The device of what is trained: that of the layer which it changes.

use burn::tensor::{Device, GradientCheckpointingStrategy};

/// `at`, with gradients recorded as `device` records them. A model may be on several devices, and an adapter is with
/// its layer.
pub(super) fn recording(at: Device, device: &Device) -> Device {
    let at = at.without_autodiff();
    match device.gradient_checkpointing_strategy() {
        None => at,
        Some(GradientCheckpointingStrategy::Balanced) => at.autodiff().gradient_checkpointing(),
        Some(_) => at.autodiff(),
    }
}
