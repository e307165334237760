//! A packed weight inside a Burn module.

use burn::{
    module::{Module, Param, ParamId},
    tensor::{DType as BurnDType, Device, Int, Tensor, TensorData},
};
use firebox_kernels::{
    format::{Format, FormatError, Packed},
    formats::nested,
};

/// The meaning of the words of a packed weight.
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
    /// From words that are on their device already.
    pub(crate) fn new(words: Tensor<1, Int>, scales: Tensor<1, Int>, layout: Layout) -> Self {
        let [words, scales] =
            [words, scales].map(|tensor| Param::initialized(ParamId::new(), tensor));
        Self {
            words,
            scales,
            layout,
        }
    }

    /// From halves that are on their device already.
    pub(crate) fn halves(words: Tensor<1, Int>, layout: Layout) -> Self {
        let none = TensorData::new(Vec::<u32>::new(), [0]);
        let scales = Tensor::from_data(none, (&words.device(), BurnDType::U32));
        Self::new(words, scales, layout)
    }

    /// The same words in the same memory, as parameters of their own.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.words.val(), self.scales.val(), self.layout)
    }

    /// Places a packed weight on `device`. On a host target the words are moved, not copied.
    pub fn from_host(packed: Packed, device: &Device) -> Self {
        let layout = Layout {
            format: packed.format,
            shape: packed.shape,
        };
        let place = |words: Vec<u32>| {
            let len = words.len();
            Tensor::from_data(TensorData::new(words, [len]), (device, BurnDType::U32))
        };
        Self::new(place(packed.words), place(packed.scales), layout)
    }

    /// Copies the packed weight to the host.
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub fn to_host(&self) -> Packed {
        let [words, scales] = [&self.words, &self.scales].map(|tensor| {
            let words = tensor.val().into_data().try_into_vec();
            words.expect("words are u32")
        });
        let Layout { format, shape } = self.layout;
        Packed {
            format,
            shape,
            words,
            scales,
        }
    }

    /// Refuses scales by which every value of the weight is lost, as [`Packed::check_scales`] does. Reads one word of the
    /// device where scales are nested.
    ///
    /// # Errors
    ///
    /// [`FormatError::NestedMean`].
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub(crate) fn check_scales(&self) -> Result<(), FormatError> {
        let scales = self.scales.val();
        let [len] = scales.dims();
        if !self.layout.format.is_nested() || len == 0 {
            return Ok(());
        }
        let mean = scales.narrow(0, len - 1, 1).into_data();
        let mean: Vec<u32> = mean.try_into_vec().expect("words are u32");
        nested::check(mean[0])
    }

    /// The meaning of the words.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.layout.format.packed_bytes(self.layout.shape)
    }
}
