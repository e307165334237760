//! A packed weight inside a Burn module.

use burn::{
    module::{Module, Param, ParamId},
    tensor::{DType as BurnDType, Device, Int, Tensor, TensorData},
};
use firebox_kernels::{
    arith::float::DType,
    compare::{Stats, Sums},
    error::FormatError,
    format::{Format, Packed},
    packing::Packing,
};

use super::ops::{self, Rows};

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

    /// Packs a dense weight `[out, in]` where it is; on a device nothing of it comes to the host. The numbers
    /// are those that a checkpoint of the same weight in the same type gives, to the bit.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when `packing` cannot represent such a weight.
    ///
    /// # Panics
    ///
    /// When the weight is neither f32, f16 nor bf16.
    pub fn quantize(weight: Tensor<2>, packing: Packing) -> Result<Self, FormatError> {
        let (shape, source) = (weight.dims(), ops::float_bits(weight.dtype()));
        let format = packing.format(shape, source)?;
        let rows = Rows {
            packing,
            shape,
            source,
        };
        let bits = ops::bits(weight);
        let absmax = (packing.passes() > 1).then(|| ops::absmax(bits.clone(), rows));
        let [words, scales] = ops::quantize(bits, absmax, rows);
        let scales = if packing == packing.plain() {
            scales
        } else {
            ops::nest(scales)
        };
        Ok(Self::new(words, scales, Layout { format, shape }))
    }

    /// How far this weight is from `source` `[out, in]`, computed where both are.
    ///
    /// # Panics
    ///
    /// When the shapes differ, the source is neither f32, f16 nor bf16, or the device fails.
    pub fn compare(&self, source: Tensor<2>) -> Stats {
        assert_eq!(source.dims(), self.layout.shape, "shape of the source");
        let stored = ops::float_bits(source.dtype());
        let sums = self.sums(ops::bits(source), stored);
        sums.expect("the device works").stats()
    }

    /// What [`compare`](Self::compare) adds up, from the bits of a source that is stored as `source`: two halves or
    /// one single in each word. The error is what the device says.
    pub(crate) fn sums(&self, bits: Tensor<1, Int>, source: DType) -> Result<Sums, String> {
        let sums = ops::compare(bits, self, source).try_into_data();
        let sums = sums.map_err(|error| error.to_string())?;
        let sums: Vec<u32> = sums.try_into_vec().map_err(|error| format!("{error:?}"))?;
        let sums = sums.try_into().expect("as many as a comparison has");
        Ok(Sums::from_words(sums))
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
