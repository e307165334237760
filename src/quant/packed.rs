//! A packed weight inside a Burn module.

use burn::{
    module::{Module, Param, ParamId},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use firebox_kernels::format::{Format, Packed};

/// What the words of a packed weight mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Codes and scales.
    pub format: Format,
    /// `[out, in]` of the weight, not of the words.
    pub shape: [usize; 2],
}

/// A packed weight on a device: codes and scales as `u32` words.
///
/// Scales are bit patterns in an integer parameter, not floats: Burn's optimizers, LoRA, casts and
/// quantizers act on every float parameter they find, and none of them may touch these.
#[derive(Module, Debug)]
pub struct PackedWeight {
    /// Codes, `[words]`.
    pub words: Param<Tensor<1, Int>>,
    /// Everything else the format needs, `[words]`.
    pub scales: Param<Tensor<1, Int>>,
    #[module(skip)]
    layout: Layout,
}

impl PackedWeight {
    /// Places a packed weight on `device`. On a host target the words are moved, not copied.
    pub fn from_host(packed: Packed, device: &Device) -> Self {
        let layout = Layout {
            format: packed.format,
            shape: packed.shape,
        };
        Self {
            words: words(packed.words, device),
            scales: words(packed.scales, device),
            layout,
        }
    }

    /// What the words mean.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.layout.format.packed_bytes(self.layout.shape)
    }
}

fn words(words: Vec<u32>, device: &Device) -> Param<Tensor<1, Int>> {
    let len = words.len();
    let data = TensorData::new(words, [len]);
    Param::initialized(
        ParamId::new(),
        Tensor::from_data(data, (device, DType::U32)),
    )
}
