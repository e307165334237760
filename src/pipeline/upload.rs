//! Uploads: dense weights to a device, and the check that bytes have arrived there.

use burn::tensor::{Bytes, DType as BurnDType, Device, Int, Tensor, TensorData};
use firebox_kernels::{arith::checksum::checksum, format::Half};

use super::{
    cut::{cut_dense, cut_halves},
    dense::Dense,
    error::PipelineError,
    settings::Settings,
};
use crate::{
    plan::Step,
    quant::{PackedWeight, ops},
    target::ToBurn,
};

/// The tensors of a dense weight, flattened: one, or parts of whole rows where the device's allocations are
/// smaller. On a host target the values are moved, not copied.
pub(crate) fn upload(
    step: &Step,
    dense: Dense,
    device: &Device,
    settings: &Settings<'_>,
) -> Result<Vec<Tensor<1>>, PipelineError> {
    let (dtype, data) = dense.into_data();
    let place = |data| Tensor::from_data(data, (device, BurnDType::from(dtype.burn())));
    if settings.devices.is_empty() {
        return Ok(vec![place(data)]);
    }
    let row_bytes = step.matrix()[1] * dtype.size();
    let parts = cut_dense(data.into_bytes(), row_bytes, settings.allocation_max);
    let upload = |bytes: Bytes| {
        let (sent, words) = (checksum(&bytes), bytes.len() / size_of::<u32>());
        let len = bytes.len() / dtype.size();
        let tensor = place(TensorData::from_bytes(bytes, [len], dtype.burn().into()));
        if words > 0 {
            // An odd number of halves leaves half a word at the end.
            arrived(step, sent, ops::bits(tensor.clone()).narrow(0, 0, words))?;
        }
        Ok(tensor)
    };
    parts.into_iter().map(upload).collect()
}

/// A matrix of halves that stay so: one weight, or parts of whole rows where the device's allocations are smaller. On a
/// host target the values are moved, or shared, not copied.
pub(crate) fn upload_halves(
    step: &Step,
    half: Half,
    dense: Dense,
    device: &Device,
    settings: &Settings<'_>,
) -> Result<Vec<PackedWeight>, PipelineError> {
    let parts = cut_halves(half, dense, step.matrix(), settings.allocation_max);
    let upload = |(layout, bytes): (_, Bytes)| {
        let sent = (!settings.devices.is_empty()).then(|| checksum(&bytes));
        let words = words(bytes, device);
        if let Some(sent) = sent.filter(|_| words.dims() != [0]) {
            arrived(step, sent, words.clone())?;
        }
        Ok(PackedWeight::halves(words, layout))
    };
    parts.into_iter().map(upload).collect()
}

pub(super) fn words(bytes: Bytes, device: &Device) -> Tensor<1, Int> {
    let len = bytes.len() / size_of::<u32>();
    let data = TensorData::from_bytes(bytes, [len], BurnDType::U32);
    Tensor::from_data(data, (device, BurnDType::U32))
}

/// Waits until the device has the words, and compares their checksum with that of the words that were sent.
///
/// Some graphics drivers lose early writes (tracel-ai/cubecl#1120), which no other check would find.
pub(super) fn arrived(step: &Step, sent: u32, words: Tensor<1, Int>) -> Result<(), PipelineError> {
    let tensor = || step.slot.name.clone();
    let failed = |error: String| PipelineError::Device {
        tensor: tensor(),
        reason: error,
    };
    let sums = read(ops::checksums(words)).map_err(failed)?;
    let found = sums.into_iter().fold(0, u32::wrapping_add);
    if found == sent {
        Ok(())
    } else {
        Err(PipelineError::Lost {
            tensor: tensor(),
            sent,
            found,
        })
    }
}

pub(super) fn read(words: Tensor<1, Int>) -> Result<Vec<u32>, String> {
    let data = words.try_into_data().map_err(|error| error.to_string())?;
    data.try_into_vec().map_err(|error| format!("{error:?}"))
}
