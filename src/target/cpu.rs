//! The CPU, through Burn's Flex: plain Rust, no kernels to compile, no driver.

use burn::{
    backend::{DispatchDevice, Flex},
    tensor::Device,
};

use super::{Capabilities, DType, MemoryKind, Target, TargetError, below, plain, sealed};
use crate::target::memory;

/// The CPU. Threads are the pipeline's and the kernels' business.
///
/// There is one device. It answers to the indices 0 to 7, to try out how a model is spread over several devices: they share
/// memory and processor, and a load counts the bytes of each for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

/// Indices that the device answers to.
const INDICES: usize = 8;

impl sealed::Sealed for Cpu {}

impl Target for Cpu {
    type Backend = Flex;
    const NAME: &'static str = "cpu";
    const MEMORY: MemoryKind = MemoryKind::Host;

    fn device(index: usize) -> Result<Device, TargetError> {
        below(INDICES, Self::NAME, index, Device::flex())
    }

    fn owns(device: &Device) -> bool {
        matches!(plain(device), DispatchDevice::Flex(_))
    }

    /// Burn's products of half types run at the speed of `f32` or below it, so `f32` is what a bf16 checkpoint computes in
    /// unless asked otherwise.
    fn capabilities(_device: &Device) -> Capabilities {
        Capabilities {
            name: "Flex".to_owned(),
            dtypes: vec![DType::F32, DType::F16, DType::Bf16],
            default_dtype: Some(DType::F32),
            largest_allocation: None,
            memory: memory::available(),
            unified: Some(true),
            planes: None,
        }
    }
}
