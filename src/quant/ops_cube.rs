//! [`QuantBackend`] by the device halves of the formats, for every device CubeCL reaches.
//!
//! Implemented for the backend without fusion; with fusion, calls of this one are queued.

use core::ops::Range;

use burn::{
    backend::{
        TensorMetadata,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType as BurnDType, FloatDType, Shape},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use firebox_kernels::{
    arith::{checksum, float::DType, launch::Buffer},
    compare,
    device::DeviceWeight,
    linear::{Compute, INPUTS},
    quantize,
};

use super::{
    ops::{PackedParts, QuantBackend, SourceRows, bits_len, float_bits},
    packed::Layout,
    scratch,
};

impl QuantBackend for CubeBackend {
    fn packed_dequantize(
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        rows: Range<usize>,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let shape = [rows.len(), layout.shape[1]];
        let (like, weight) = weight(words, scales, layout);
        let dense = weight.dequantize(&like.client, rows, float_bits(dtype.into()));
        like.tensor(dense, shape, dtype.into())
    }

    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        _compute: Compute,
    ) -> FloatTensor<Self> {
        let dtype = x.dtype;
        let (m, [o, i]) = (x.shape()[0], layout.shape);
        if m <= INPUTS {
            let (like, weight) = weight(words, scales, layout);
            let y = weight.linear(&like.client, &buffer(x).1, float_bits(dtype), m);
            return like.tensor(y, [m, o], dtype);
        }
        // Many rows repay unpacking: Burn's own product then runs on the device's matrix units.
        let parts = scratch::rows([o, i], dtype.size()).map(|rows| {
            let (words, scales) = (words.clone(), scales.clone());
            let dense = Self::packed_dequantize(words, scales, layout, rows, dtype.into());
            Self::float_matmul(x.clone(), Self::float_transpose(dense))
        });
        let mut parts: Vec<_> = parts.collect();
        match parts.len() {
            1 => parts.remove(0),
            0 => Self::float_zeros([m, o].into(), &x.device, dtype.into()),
            _ => Self::float_cat(parts, 1),
        }
    }

    fn packed_rows(
        ids: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let shape = [ids.shape()[0], layout.shape[1]];
        let (like, weight) = weight(words, scales, layout);
        let id_type = burn::backend::cubecl::dtype_to_elem_type(ids.dtype);
        let found = weight.rows(
            &like.client,
            &buffer(ids).1,
            id_type,
            float_bits(dtype.into()),
        );
        like.tensor(found, shape, dtype.into())
    }

    fn packed_bits(x: FloatTensor<Self>) -> IntTensor<Self> {
        let len = bits_len(x.dtype, x.shape().num_elements());
        // The same bytes under another name.
        let CubeTensor {
            client,
            handle,
            device,
            ..
        } = into_contiguous(x);
        CubeTensor::new_contiguous(client, device, Shape::new([len]), handle, BurnDType::U32)
    }

    fn packed_absmax(bits: IntTensor<Self>, rows: SourceRows) -> IntTensor<Self> {
        let (like, bits) = buffer(bits);
        let n = rows.shape[0] * rows.shape[1];
        let largest = quantize::absmax(&like.client, rows.source, n, &bits);
        like.tensor(largest, [1], BurnDType::U32)
    }

    fn packed_quantize(
        bits: IntTensor<Self>,
        absmax: IntTensor<Self>,
        rows: SourceRows,
    ) -> PackedParts<Self> {
        let (like, bits) = buffer(bits);
        let (_, absmax) = buffer(absmax);
        let whole = (rows.packing.passes(rows.shape) > 1).then_some(&absmax);
        let (words, scales) = quantize::quantize(
            &like.client,
            rows.packing,
            rows.shape,
            rows.source,
            &bits,
            whole,
        );
        let [words, scales] = [words, scales].map(|part| {
            let len = part.len();
            like.tensor(part, [len], BurnDType::U32)
        });
        PackedParts { words, scales }
    }

    fn packed_nest(scales: IntTensor<Self>) -> IntTensor<Self> {
        let (like, scales) = buffer(scales);
        let nested = quantize::nest(&like.client, &scales);
        let len = nested.len();
        like.tensor(nested, [len], BurnDType::U32)
    }

    fn packed_checksums(bits: IntTensor<Self>) -> IntTensor<Self> {
        let (like, bits) = buffer(bits);
        let sums = checksum::cube::partial_sums(&like.client, &bits);
        like.tensor(sums, [checksum::cube::SUMS], BurnDType::U32)
    }

    fn packed_compare(
        bits: IntTensor<Self>,
        words: IntTensor<Self>,
        scales: IntTensor<Self>,
        layout: Layout,
        source: DType,
    ) -> IntTensor<Self> {
        let (like, weight) = weight(words, scales, layout);
        let (_, bits) = buffer(bits);
        let sums = compare::compare(&like.client, source, &bits, &weight);
        like.tensor(sums, [compare::SUMS], BurnDType::U32)
    }
}

/// Where a tensor is, for others to be made beside it.
struct TensorPlace {
    client: cubecl::client::Client,
    device: burn_cubecl::CubeDevice,
}

impl TensorPlace {
    fn tensor<const D: usize>(
        &self,
        buffer: Buffer,
        shape: [usize; D],
        dtype: BurnDType,
    ) -> CubeTensor {
        CubeTensor::new_contiguous(
            self.client.clone(),
            self.device.clone(),
            Shape::new(shape),
            buffer.into_handle(),
            dtype,
        )
    }
}

/// A tensor's elements without gaps: CUDA may have padded its rows.
fn buffer(tensor: CubeTensor) -> (TensorPlace, Buffer) {
    let len = tensor.shape().num_elements();
    let CubeTensor {
        client,
        handle,
        device,
        ..
    } = into_contiguous(tensor);
    // SAFETY: a contiguous tensor's handle holds as many elements as its shape has.
    let buffer = unsafe { Buffer::new(handle, len) };
    (TensorPlace { client, device }, buffer)
}

fn weight(words: CubeTensor, scales: CubeTensor, layout: Layout) -> (TensorPlace, DeviceWeight) {
    let (like, words) = buffer(words);
    let (_, scales) = buffer(scales);
    let Layout { format, shape } = layout;
    let weight = DeviceWeight {
        format,
        shape,
        words,
        scales,
    };
    (like, weight)
}
