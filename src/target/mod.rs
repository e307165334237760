//! Where a model is loaded to, as a type.
//!
//! A Burn 0.22 tensor does not name its backend in its type, and Burn's `Cuda`, `Vulkan`, `Metal` and
//! `Wgpu` are aliases of one backend type: a backend type parameter cannot tell a CUDA load from a
//! Vulkan load. These zero-sized types can. A loader asks its target for a device and for what the device can do;
//! [`Target::Backend`] makes sure that the target has the packed operations.
//!
//! Module *forward* passes go through Burn's own dispatch on the device value, because Burn's modules do.

use core::fmt::Debug;

use burn::{backend::DispatchDevice, tensor::Device};
use firebox_kernels::format::Half;

use crate::quant::ops::QuantBackend;

#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod dtype;
mod host;
mod known;
pub(crate) mod memory;
#[cfg(feature = "ndarray")]
mod ndarray;
mod tracker;

#[cfg(feature = "cpu")]
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cube::Cuda;
#[cfg(feature = "metal")]
pub use cube::Metal;
#[cfg(feature = "vulkan")]
pub use cube::Vulkan;
#[cfg(feature = "webgpu")]
pub use cube::WebGpu;
#[cfg(feature = "wgpu")]
pub use cube::Wgpu;
pub(crate) use dtype::dense_types;
pub use dtype::{DType, ToBurn};
pub(crate) use host::in_host_memory;
pub use known::{KnownTarget, UnknownTarget};
pub use tracker::{MemoryReading, MemoryTracker};

#[cfg(feature = "ndarray")]
pub use ndarray::NdArray;

/// A place a model can be loaded to.
///
/// Sealed: a target is a backend with our packed operations, a device constructor and an honest list
/// of what the device can do, and those three are tested together.
pub trait Target: sealed::Sealed + Copy + Default + Debug + Send + Sync + 'static {
    /// Owns the tensors and has the packed operations: a target without them does not compile.
    type Backend: QuantBackend;

    /// Short name for plans, logs, tests and `--target`: `"cpu"`, `"cuda"`.
    const NAME: &'static str;

    /// Whether its tensors are in host or device memory, and so where weights are quantized.
    const MEMORY: MemoryKind;

    /// The device with this index, counted from 0 in the order the driver lists them.
    ///
    /// # Errors
    ///
    /// [`TargetError`] where no driver, no adapter or no device of this index is found. Never a panic.
    fn device(index: usize) -> Result<Device, TargetError>;

    /// Whether tensors on `device` belong to this target, with or without gradients.
    fn owns(device: &Device) -> bool;

    /// The abilities of the device.
    fn capabilities(device: &Device) -> Capabilities;
}

/// Where a target's tensors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// This process's memory: weights are quantized by threads and moved into their tensors.
    Host,
    /// A device's own: weights are uploaded tile by tile and quantized there.
    Device,
}

/// The abilities of a device, asked of its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The driver's name for it.
    pub name: String,
    /// Types that dense weights and activations may have, preferred first.
    pub dtypes: Vec<DType>,
    /// The type that a checkpoint is computed in if none is asked for; `None` for the type it is stored
    /// in.
    pub default_dtype: Option<DType>,
    /// Bytes of the largest single allocation, `None` where only memory is the limit.
    pub largest_allocation: Option<u64>,
    /// Bytes of memory, `None` where they are unknown.
    pub memory: Option<u64>,
    /// Whether that memory is the host's too; `None` where the driver does not say, as CUDA's does not through CubeCL.
    pub unified: Option<bool>,
    /// Units that run in step, fewest and most; `None` for a processor.
    pub planes: Option<[u32; 2]>,
}

/// A device that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// No device at all.
    #[error("{target}: no device was found; it needs {driver}")]
    NoDriver {
        /// [`Target::NAME`].
        target: &'static str,
        /// The driver that it needs.
        driver: &'static str,
    },

    /// No such device.
    #[error("{target}: there is no device {index}, {found} found; choose an index below {found}")]
    NoDevice {
        /// [`Target::NAME`].
        target: &'static str,
        /// The index asked for.
        index: usize,
        /// Devices found.
        found: usize,
    },

    /// The device failed while it worked, out of memory for example.
    #[error("{target}: the device failed: {reason}")]
    Device {
        /// [`Target::NAME`].
        target: &'static str,
        /// The driver's message.
        reason: String,
    },

    /// A type that the cache of keys and values cannot have there.
    #[error(
        "{target}: the device does not compute in {dtype}, in which keys and values should be kept; ask for f32 or int8"
    )]
    KvCacheDtype {
        /// [`Target::NAME`].
        target: &'static str,
        /// The type that was asked for.
        dtype: DType,
    },

    /// A device of another target was given.
    #[error("{target}: was given the device {found}, which belongs to another target")]
    Foreign {
        /// [`Target::NAME`].
        target: &'static str,
        /// The device.
        found: String,
    },
}

impl Capabilities {
    /// The type to compute in: the one asked for, else this device's own choice, else the type that the
    /// weights are `stored` in. Where the device does not compute in it, it is `f32`, which every device
    /// has and which holds every value of the others; f16 would not hold bf16's. Matrices of halves then stay as they are
    /// stored, unless `f32` was asked for: reading them is what a product waits for.
    pub fn dtype(&self, asked: Option<DType>, stored: DType) -> DTypeChoice {
        let wanted = asked.or(self.default_dtype).unwrap_or(stored);
        let dtype = if self.dtypes.contains(&wanted) {
            wanted
        } else {
            DType::F32
        };
        let halves = Half::of(stored).is_some() && dtype == DType::F32 && asked != Some(dtype);
        DTypeChoice {
            wanted,
            dtype,
            halves,
        }
    }
}

/// The type that dense weights and activations get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DTypeChoice {
    /// The type that was asked for or is stored.
    pub wanted: DType,
    /// The type that is used.
    pub dtype: DType,
    /// Whether matrices that are stored as halves stay so, and are widened while they are multiplied.
    pub halves: bool,
}

impl DTypeChoice {
    /// The type of a dense matrix that is stored in another.
    pub(crate) fn of_matrix(self, stored: DType) -> DType {
        match Half::of(stored) {
            Some(half) if self.halves => half.dtype(),
            _ => self.dtype,
        }
    }
}

/// `device` of a target that has this one only, which answers to the indices below `found`.
#[cfg(any(feature = "cpu", feature = "ndarray"))]
fn below(
    found: usize,
    target: &'static str,
    index: usize,
    device: Device,
) -> Result<Device, TargetError> {
    match index < found {
        true => Ok(device),
        false => Err(TargetError::NoDevice {
            target,
            index,
            found,
        }),
    }
}

/// A device for what needs none: the first that this build has, not opened.
pub(crate) fn any_device() -> Device {
    #[cfg(feature = "cpu")]
    return Device::flex();
    #[cfg(not(feature = "cpu"))]
    return Device::default();
}

/// The device itself, whether or not it records gradients.
fn plain(device: &Device) -> &DispatchDevice {
    match device.as_dispatch() {
        DispatchDevice::Autodiff(device) => device,
        device => device,
    }
}

mod sealed {
    pub trait Sealed {}
}
