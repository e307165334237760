//! [`QuantBackend`] by the host halves of the formats, for backends whose tensors are host memory.

use burn::{
    backend::{
        Backend, TensorMetadata,
        ops::IntTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, FloatDType, TensorData, read_sync},
};
use firebox_kernels::linear;

use super::{ops::QuantBackend, packed::Layout};

macro_rules! host_ops {
    ($backend:ty) => {
        impl QuantBackend for $backend {
            fn packed_dequantize(
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                dtype: FloatDType,
            ) -> FloatTensor<Self> {
                let device = words.device();
                let Layout { format, shape } = layout;
                let mut weights = vec![0.0; shape[0] * shape[1]];
                with_words(words, scales, |words, scales| {
                    format.dequantize_rows(shape, words, scales, 0..shape[0], &mut weights);
                });
                placed::<Self>(weights, shape, dtype, &device)
            }

            fn packed_linear(
                x: FloatTensor<Self>,
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
            ) -> FloatTensor<Self> {
                let (device, dtype) = (x.device(), x.dtype().into());
                let Layout { format, shape } = layout;
                let rows = x.shape()[0];
                let x = floats::<Self>(x);
                let mut y = vec![0.0; rows * shape[0]];
                with_words(words, scales, |words, scales| {
                    linear::linear(format, shape, words, scales, &x, &mut y);
                });
                placed::<Self>(y, [rows, shape[0]], dtype, &device)
            }

            fn packed_rows(
                ids: IntTensor<Self>,
                words: IntTensor<Self>,
                scales: IntTensor<Self>,
                layout: Layout,
                dtype: FloatDType,
            ) -> FloatTensor<Self> {
                let device = words.device();
                let Layout { format, shape } = layout;
                let ids: Vec<usize> = host(Self::int_into_data(ids))
                    .iter::<i64>()
                    .map(|id| usize::try_from(id).expect("a token id is not negative"))
                    .collect();
                let mut found = vec![0.0; ids.len() * shape[1]];
                with_words(words, scales, |words, scales| {
                    linear::rows(format, shape, words, scales, &ids, &mut found)
                        .expect("an id is a row of the table");
                });
                placed::<Self>(found, [ids.len(), shape[1]], dtype, &device)
            }
        }
    };
}

#[cfg(feature = "cpu")]
host_ops!(burn::backend::Flex);

/// Lends the words where they are: a packed weight is never copied to be multiplied.
#[cfg(feature = "cpu")]
fn with_words(
    words: burn::backend::flex::FlexTensor,
    scales: burn::backend::flex::FlexTensor,
    run: impl FnOnce(&[u32], &[u32]),
) {
    run(
        words.to_contiguous().storage::<u32>(),
        scales.to_contiguous().storage::<u32>(),
    );
}

/// Host tensors are read without waiting on any device.
fn host(
    data: impl Future<Output = Result<TensorData, burn::backend::ExecutionError>>,
) -> TensorData {
    read_sync(data).expect("a host tensor can always be read")
}

fn floats<B: Backend>(tensor: FloatTensor<B>) -> Vec<f32> {
    let data = host(B::float_into_data(tensor)).convert_dtype(DType::F32);
    data.try_into_vec()
        .expect("converted to f32 one line above")
}

fn placed<B: Backend>(
    values: Vec<f32>,
    shape: [usize; 2],
    dtype: FloatDType,
    device: &B::Device,
) -> FloatTensor<B> {
    B::float_from_data(
        TensorData::new(values, shape).convert_dtype(dtype.into()),
        device,
    )
}
