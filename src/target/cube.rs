//! The devices of CubeCL: CUDA, and every graphics API that wgpu reaches.
//!
//! One backend owns the tensors of all of them; which driver a tensor is on is in its device value.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    backend::{Cube, DispatchDevice},
    tensor::Device,
};
use cubecl::{client::Client, ir::ElemType, prelude::*};

use super::{Capabilities, DType, MemoryKind, Target, TargetError, plain, sealed};

macro_rules! cube_target {
    ($(#[$doc:meta])* $target:ident, $name:literal, $driver:literal, $pattern:pat $(if $guard:expr)?, $like:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $target;

        impl sealed::Sealed for $target {}

        impl Target for $target {
            type Backend = Cube;
            const NAME: &'static str = $name;
            const MEMORY: MemoryKind = MemoryKind::Device;

            fn device(index: usize) -> Result<Device, TargetError> {
                open(Self::NAME, $driver, &$like, index)
            }

            fn owns(device: &Device) -> bool {
                match cube_device(device) {
                    Some($pattern) $(if $guard)? => true,
                    _ => false,
                }
            }

            fn capabilities(device: &Device) -> Capabilities {
                capabilities(device)
            }
        }
    };
}

#[cfg(feature = "cuda")]
cube_target!(
    /// An NVIDIA card through CUDA.
    Cuda, "cuda", "NVIDIA's driver (libcuda)",
    cubecl::Device::Cuda(_),
    cubecl::Device::Cuda(cubecl::device::CudaDevice::new(0))
);

#[cfg(feature = "wgpu")]
mod graphics {
    use super::*;
    use cubecl::device::{WgpuBackend, WgpuDevice, WgpuDeviceKind};

    fn on(backend: WgpuBackend) -> cubecl::Device {
        of_kind(WgpuDeviceKind::DefaultDevice, backend)
    }

    fn of_kind(kind: WgpuDeviceKind, backend: WgpuBackend) -> cubecl::Device {
        cubecl::Device::Wgpu(WgpuDevice::new(kind).on(backend))
    }

    /// Kinds of cards, in the order in which wgpu prefers them.
    const CARDS: [WgpuDeviceKind; 4] = [
        WgpuDeviceKind::DiscreteGpu(0),
        WgpuDeviceKind::IntegratedGpu(0),
        WgpuDeviceKind::Other(0),
        WgpuDeviceKind::VirtualGpu(0),
    ];

    /// What names another first card than wgpu prefers, for CubeCL.
    const DEFAULT: &str = "CUBECL_WGPU_DEFAULT_DEVICE";

    /// The adapters of a graphics API. The first is the one that wgpu prefers, and the others follow in the order of its preference; a
    /// software driver is no card beside one. Where there is no card, the software driver is two devices, which stand in for cards.
    pub(super) fn adapters(backend: WgpuBackend) -> Vec<cubecl::Device> {
        let listed = |kind| cubecl::Device::enumerate(of_kind(kind, backend).to_id());
        let kind = |id| match cubecl::Device::from_id(id) {
            cubecl::Device::Wgpu(device) => Some(device.kind),
            _ => None,
        };
        let cards = CARDS.into_iter().flat_map(listed).filter_map(kind);
        let mut others: Vec<WgpuDeviceKind> = cards.collect();
        match std::env::var(DEFAULT) {
            _ if others.is_empty() => match listed(WgpuDeviceKind::Cpu).is_empty() {
                true => return Vec::new(),
                false => others.push(WgpuDeviceKind::Cpu),
            },
            Ok(name) => others.retain(|kind| format!("{kind:?}") != name),
            Err(_) => {
                others.remove(0);
            }
        }
        // Under this name whoever asks CubeCL for its own default shares its memory and its kernels.
        let kinds = [WgpuDeviceKind::DefaultDevice].into_iter().chain(others);
        kinds.map(|kind| of_kind(kind, backend)).collect()
    }

    /// The API whose kernels are written in WebGPU's language. A browser has its own; elsewhere it is
    /// the driver that wgpu finds, unless this build writes kernels for Vulkan in SPIR-V: then it is OpenGL.
    #[cfg(feature = "webgpu")]
    const WEBGPU: WgpuBackend = if cfg!(target_family = "wasm") {
        WgpuBackend::WebGpu
    } else if cfg!(feature = "spirv") {
        WgpuBackend::Gl
    } else {
        WgpuBackend::Auto
    };

    cube_target!(
        /// The best graphics API of this machine, with whichever kernels this build compiles for it.
        Wgpu, "wgpu", "a driver for Vulkan, Metal, DirectX 12 or OpenGL",
        cubecl::Device::Wgpu(_),
        on(WgpuBackend::Auto)
    );

    #[cfg(feature = "vulkan")]
    cube_target!(
        /// Vulkan, with kernels in WebGPU's language, or with the feature `spirv` in SPIR-V.
        Vulkan, "vulkan", "a Vulkan driver (Debian: mesa-vulkan-drivers, or the vendor's)",
        cubecl::Device::Wgpu(device) if device.backend == WgpuBackend::Vulkan,
        on(WgpuBackend::Vulkan)
    );

    #[cfg(feature = "metal")]
    cube_target!(
        /// Metal, with kernels in its own language.
        Metal, "metal", "macOS or iOS on Apple's own processors",
        cubecl::Device::Wgpu(device) if device.backend == WgpuBackend::Metal,
        on(WgpuBackend::Metal)
    );

    #[cfg(feature = "webgpu")]
    cube_target!(
        /// WebGPU's own kernel language, in a browser and outside of one.
        WebGpu, "webgpu", "a browser with WebGPU, or a driver for Vulkan, Metal, DirectX 12 or OpenGL",
        cubecl::Device::Wgpu(device) if device.backend == WEBGPU,
        on(WEBGPU)
    );
}

#[cfg(feature = "metal")]
pub use graphics::Metal;
#[cfg(feature = "vulkan")]
pub use graphics::Vulkan;
#[cfg(feature = "webgpu")]
pub use graphics::WebGpu;
#[cfg(feature = "wgpu")]
pub use graphics::Wgpu;

/// The device `index` among those that share `like`'s driver.
fn open(
    target: &'static str,
    driver: &'static str,
    like: &cubecl::Device,
    index: usize,
) -> Result<Device, TargetError> {
    let found = alike(like);
    let Some(device) = found.get(index) else {
        return Err(if found.is_empty() {
            TargetError::NoDriver { target, driver }
        } else {
            let found = found.len();
            TargetError::NoDevice {
                target,
                index,
                found,
            }
        });
    };
    // Drivers that are there and do not work make CubeCL panic when it first asks for a client.
    catch_unwind(AssertUnwindSafe(|| device.client())).map_err(|panic| TargetError::Device {
        target,
        reason: message(&*panic),
    })?;
    Ok(Device::new(device.clone()))
}

/// The devices that share `like`'s driver, in the order of their indices.
fn alike(like: &cubecl::Device) -> Vec<cubecl::Device> {
    #[cfg(feature = "wgpu")]
    if let cubecl::Device::Wgpu(device) = like {
        return graphics::adapters(device.backend);
    }
    let found = cubecl::Device::enumerate(like.to_id());
    found.into_iter().map(cubecl::Device::from_id).collect()
}

/// The message of a panic.
fn message(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it gave no reason")
        .to_owned()
}

fn cube_device(device: &Device) -> Option<&cubecl::Device> {
    match plain(device) {
        DispatchDevice::Cube(device) => Some(device),
        #[allow(unreachable_patterns, reason = "this may be the only backend")]
        _ => None,
    }
}

fn capabilities(device: &Device) -> Capabilities {
    let device = cube_device(device).expect("a target asks its own devices");
    let client = device.client();
    let properties = client.properties();
    let (hardware, memory) = (&properties.hardware, &properties.memory);
    Capabilities {
        name: properties.identity.name.clone(),
        dtypes: dtypes(&client),
        // Weights stay in the type they come in.
        default_dtype: None,
        largest_allocation: Some(memory.max_page_size),
        memory: memory.max_memory(),
        unified: unified(device),
        planes: Some([hardware.plane_size_min, hardware.plane_size_max]),
    }
}

/// Where the card of a device is on the PCI bus, as its driver says; `None` for what is no card.
pub(super) fn pci_address(device: &Device) -> Option<String> {
    let client = cube_device(device)?.client();
    let card = client.properties().identity.physical.clone()?;
    card.pci_address.map(|address| address.to_string())
}

/// Whether the device's memory is the host's, as far as its kind says.
fn unified(device: &cubecl::Device) -> Option<bool> {
    match device {
        #[cfg(feature = "wgpu")]
        cubecl::Device::Wgpu(device) => {
            use cubecl::device::WgpuDeviceKind as Kind;
            match device.kind {
                Kind::IntegratedGpu(_) | Kind::Cpu => Some(true),
                Kind::DiscreteGpu(_) => Some(false),
                _ => None,
            }
        }
        #[allow(unreachable_patterns, reason = "this may be the only driver")]
        _ => None,
    }
}

/// Types that a device stores, converts and computes in.
fn dtypes(client: &Client) -> Vec<DType> {
    use cubecl::ir::features::TypeUsage;
    let has = |elem: ElemType| {
        let usage = client.features().type_usage(elem);
        usage.contains(TypeUsage::Arithmetic) && usage.contains(TypeUsage::Buffer)
    };
    DType::ALL
        .into_iter()
        .filter(|dtype| match dtype {
            DType::F32 => true,
            DType::F16 => has(half::f16::elem_type_native()),
            DType::Bf16 => has(half::bf16::elem_type_native()),
        })
        .collect()
}
