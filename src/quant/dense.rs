//! From a dense tensor to a packed weight, and how far the two are apart.

use burn::tensor::{Int, Tensor};
use firebox_kernels::{
    arith::float::DType,
    compare::{Stats, Sums},
    format::FormatError,
    packing::Packing,
};

use super::{
    ops::{self, SourceRows},
    packed::{Layout, PackedWeight},
};

impl PackedWeight {
    /// Packs a dense weight `[out, in]` on its device; no byte is copied to the host. The codes and scales equal, to the
    /// bit, those of a checkpoint that holds the same weight in the same type.
    ///
    /// # Errors
    ///
    /// [`FormatError`] when `packing` cannot represent the weight.
    ///
    /// # Panics
    ///
    /// When the weight is neither f32, f16 nor bf16.
    pub fn quantize(weight: Tensor<2>, packing: Packing) -> Result<Self, FormatError> {
        let (shape, source) = (weight.dims(), ops::float_bits(weight.dtype()));
        let format = packing.format(shape, source)?;
        let rows = SourceRows {
            packing,
            shape,
            source,
        };
        let bits = ops::bits(weight);
        let absmax = (packing.passes(shape) > 1).then(|| ops::absmax(bits.clone(), rows));
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
        assert_eq!(source.dims(), self.layout().shape, "shape of the source");
        let stored = ops::float_bits(source.dtype());
        let sums = self.sums(ops::bits(source), stored);
        sums.expect("the device works").stats()
    }

    /// The sums of [`compare`](Self::compare), from the bits of a source that is stored as `source`: two halves or one
    /// single in each word. The error is the message of the device.
    pub(crate) fn sums(&self, bits: Tensor<1, Int>, source: DType) -> Result<Sums, String> {
        let sums = ops::compare(bits, self, source).try_into_data();
        let sums = sums.map_err(|error| error.to_string())?;
        let sums: Vec<u32> = sums.try_into_vec().map_err(|error| format!("{error:?}"))?;
        let sums = sums.try_into().expect("as many as a comparison has");
        Ok(Sums::from_words(sums))
    }
}
