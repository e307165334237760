//! Where a model is loaded to, as a type.
//!
//! A Burn 0.22 tensor does not name its backend in its type, and Burn's `Cuda`, `Vulkan`, `Metal` and
//! `Wgpu` are aliases of one backend type: a backend type parameter cannot tell a CUDA load from a
//! Vulkan load. These zero-sized types can. Loading and quantizing are generic over
//! [`Target::Backend`] and never ask which one it is; only the constructors here know.
//!
//! Module *forward* passes go through Burn's own dispatch on the device value, because Burn's modules do.

use core::fmt::Debug;

use burn::tensor::Device;

use crate::quant::ops::QuantBackend;

#[cfg(feature = "cpu")]
mod cpu;
mod dtype;

#[cfg(feature = "cpu")]
pub use cpu::Cpu;
pub use dtype::DType;

/// A place a model can be loaded to.
///
/// Sealed: a target is a backend with our packed operations, a device constructor and an honest list
/// of what the device can do, and those three are tested together.
pub trait Target: sealed::Sealed + Copy + Default + Debug + Send + Sync + 'static {
    /// Owns the tensors and has the packed operations: a target without them does not compile.
    type Backend: QuantBackend;

    /// Short name for plans, logs, tests and `--target`: `"cpu"`, `"cuda"`.
    const NAME: &'static str;

    /// The device with this index, counted from 0 in the order the driver lists them.
    ///
    /// # Errors
    ///
    /// [`TargetError`] where no driver, no adapter or no device of this index is found. Never a panic.
    fn device(index: usize) -> Result<Device, TargetError>;

    /// Whether tensors on `device` belong to this target.
    fn owns(device: &Device) -> bool;

    /// What the device can do.
    fn capabilities(device: &Device) -> Capabilities;
}

/// What a device can do, asked of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Types that dense weights and activations may have, preferred first.
    pub dtypes: Vec<DType>,
    /// The type a checkpoint is computed in when nobody asked for one.
    pub default_dtype: DType,
    /// Bytes of the largest single allocation, `None` where only memory is the limit.
    pub largest_allocation: Option<u64>,
    /// Bytes of memory, `None` where it cannot be told.
    pub memory: Option<u64>,
}

/// A device that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
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
        /// What it says.
        reason: String,
    },

    /// The device cannot compute in the type asked for.
    #[error("{target}: this device does not compute in {asked}; it has {}", list(.has))]
    Dtype {
        /// [`Target::NAME`].
        target: &'static str,
        /// The type asked for.
        asked: DType,
        /// Types it has.
        has: Vec<DType>,
    },
}

fn list(dtypes: &[DType]) -> String {
    let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
    names.join(", ")
}

impl Capabilities {
    /// The type to compute in: the one asked for, or this device's own choice.
    ///
    /// # Errors
    ///
    /// [`TargetError::Dtype`] when the device lacks the type asked for.
    pub fn resolve(
        &self,
        asked: Option<DType>,
        target: &'static str,
    ) -> Result<DType, TargetError> {
        match asked {
            None => Ok(self.default_dtype),
            Some(dtype) if self.dtypes.contains(&dtype) => Ok(dtype),
            Some(asked) => Err(TargetError::Dtype {
                target,
                asked,
                has: self.dtypes.clone(),
            }),
        }
    }
}

mod sealed {
    pub trait Sealed {}
}
