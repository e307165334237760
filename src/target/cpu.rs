//! The CPU, through Burn's Flex: plain Rust, no kernels to compile, no driver.

use burn::{
    backend::{DispatchDevice, Flex},
    tensor::Device,
};

use super::{Capabilities, DType, MemoryKind, Target, TargetError, only, plain, sealed};
use crate::target::memory;

/// The CPU. There is one device, index 0; threads are the pipeline's and the kernels' business.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl sealed::Sealed for Cpu {}

impl Target for Cpu {
    type Backend = Flex;
    const NAME: &'static str = "cpu";
    const MEMORY: MemoryKind = MemoryKind::Host;

    fn device(index: usize) -> Result<Device, TargetError> {
        only(Self::NAME, index, Device::flex())
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
