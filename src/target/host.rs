//! Devices whose memory is that of the process.

use burn::{backend::DispatchDevice, tensor::Device};

use super::plain;

/// Whether tensors on `device` are in this process's memory.
pub(crate) fn in_host_memory(device: &Device) -> bool {
    match plain(device) {
        #[cfg(feature = "cpu")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        _ => false,
    }
}
