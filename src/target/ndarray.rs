//! The CPU, through Burn's older backend over the `ndarray` crate.

use burn::{backend::DispatchDevice, tensor::Device};

use super::{Capabilities, DType, MemoryKind, Target, TargetError, below, plain, sealed};
use crate::target::memory;

/// The CPU through `ndarray`, for comparing with [`Cpu`](super::Cpu). Burn has deprecated it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NdArray;

impl sealed::Sealed for NdArray {}

#[expect(deprecated, reason = "it is a target for as long as Burn has it")]
impl Target for NdArray {
    type Backend = burn::backend::NdArray;
    const NAME: &'static str = "ndarray";
    const MEMORY: MemoryKind = MemoryKind::Host;

    fn device(index: usize) -> Result<Device, TargetError> {
        below(1, Self::NAME, index, Device::ndarray())
    }

    fn owns(device: &Device) -> bool {
        matches!(plain(device), DispatchDevice::NdArray(_))
    }

    /// It has no half types.
    fn capabilities(_device: &Device) -> Capabilities {
        Capabilities {
            name: "ndarray".to_owned(),
            dtypes: vec![DType::F32],
            default_dtype: Some(DType::F32),
            largest_allocation: None,
            memory: memory::available(),
            unified: Some(true),
            planes: None,
        }
    }
}
