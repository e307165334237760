//! Targets by their names, whether or not this build has them.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Capabilities, DType, MemoryKind};

/// A target that firebox can be built with. A plan can be made for each, on any machine and with any build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KnownTarget {
    /// Plain Rust on the CPU.
    Cpu,
    /// The CPU through `ndarray`.
    NdArray,
    /// NVIDIA's cards through CUDA.
    Cuda,
    /// Any card with a Vulkan driver.
    Vulkan,
    /// Apple's cards.
    Metal,
    /// Kernels in WebGPU's language.
    WebGpu,
    /// The best graphics driver of a machine.
    Wgpu,
}

/// A name that no target has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no target; there are {}", KnownTarget::ALL.map(KnownTarget::name).join(", "))]
pub struct UnknownTarget {
    /// The name.
    pub found: String,
}

/// The largest allocation of graphics drivers, in bytes, where the device is not there to be asked: less than that of any
/// desktop driver.
const GRAPHICS_ALLOCATION: u64 = (1 << 31) - 4;

/// What CUDA's context, its modules and the libraries of Burn take of a card, in bytes. Not measured here: 300 to 600 MiB are
/// reported for the driver of this decade.
const CUDA_CONTEXT: u64 = 512 << 20;

impl KnownTarget {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::NdArray,
        Self::Cuda,
        Self::Vulkan,
        Self::Metal,
        Self::WebGpu,
        Self::Wgpu,
    ];

    /// Its [`Target::NAME`](super::Target::NAME).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::NdArray => "ndarray",
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::WebGpu => "webgpu",
            Self::Wgpu => "wgpu",
        }
    }

    /// Where its tensors are.
    pub const fn memory(self) -> MemoryKind {
        match self {
            Self::Cpu | Self::NdArray => MemoryKind::Host,
            Self::Cuda | Self::Vulkan | Self::Metal | Self::WebGpu | Self::Wgpu => {
                MemoryKind::Device
            }
        }
    }

    /// The abilities of a device with `memory` bytes that is not there to be asked.
    pub fn stated(self, memory: u64) -> Capabilities {
        let dtypes = match self {
            Self::Cpu | Self::Cuda | Self::Metal => vec![DType::F32, DType::F16, DType::Bf16],
            Self::NdArray => vec![DType::F32],
            Self::Vulkan | Self::WebGpu | Self::Wgpu => vec![DType::F32, DType::F16],
        };
        let on_host = self.memory() == MemoryKind::Host;
        Capabilities {
            name: "stated".to_owned(),
            dtypes,
            default_dtype: on_host.then_some(DType::F32),
            largest_allocation: match self {
                Self::Cpu | Self::NdArray => None,
                // As CubeCL bounds a page.
                Self::Cuda => Some(memory / 4),
                Self::Metal => Some(memory / 2),
                Self::Vulkan | Self::WebGpu | Self::Wgpu => Some(GRAPHICS_ALLOCATION.min(memory)),
            },
            memory: Some(memory),
            unified: match self {
                Self::Cpu | Self::NdArray | Self::Metal => Some(true),
                Self::Cuda | Self::Vulkan | Self::WebGpu | Self::Wgpu => None,
            },
            planes: None,
        }
    }

    /// Bytes of a device that are taken before its first tensor; `None` where nobody has measured them.
    pub const fn fixed_bytes(self) -> Option<u64> {
        match self {
            Self::Cpu | Self::NdArray => Some(0),
            Self::Cuda => Some(CUDA_CONTEXT),
            Self::Vulkan | Self::Metal | Self::WebGpu | Self::Wgpu => None,
        }
    }
}

impl fmt::Display for KnownTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KnownTarget {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        let mut all = Self::ALL.into_iter();
        all.find(|target| target.name() == text)
            .ok_or_else(|| UnknownTarget {
                found: text.to_owned(),
            })
    }
}
