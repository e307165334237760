//! The devices that this build tests on: one for each target compiled in, and a target without a device fails.

use cubecl::Device;
use cubecl::client::Client;
use cubecl::device::WgpuDeviceKind;

/// Kernels as SPIR-V.
#[cfg(feature = "vulkan")]
pub(crate) fn vulkan() -> Client {
    Device::vulkan(WgpuDeviceKind::default())
        .expect("a Vulkan device")
        .client()
}

/// Kernels as WGSL. Vulkan takes them as SPIR-V where it is compiled in, GL never does.
#[cfg(feature = "webgpu")]
pub(crate) fn webgpu() -> Client {
    let device = if cfg!(feature = "spirv") {
        Device::gl(WgpuDeviceKind::default())
    } else {
        Device::wgpu(WgpuDeviceKind::default())
    };
    device.expect("a device for WGSL").client()
}

/// Kernels as PTX.
#[cfg(feature = "cuda")]
pub(crate) fn cuda() -> Client {
    Device::cuda(0).expect("a CUDA device").client()
}

/// `#[test]` functions of the names given, each a function of a client, for each target compiled in.
macro_rules! on_devices {
    ($($test:ident),+ $(,)?) => {
        #[cfg(feature = "vulkan")]
        mod vulkan {
            $(#[test] fn $test() { super::$test(&crate::targets::vulkan()); })+
        }
        #[cfg(feature = "webgpu")]
        mod webgpu {
            $(#[test] fn $test() { super::$test(&crate::targets::webgpu()); })+
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test] fn $test() { super::$test(&crate::targets::cuda()); })+
        }
    };
}
pub(crate) use on_devices;
