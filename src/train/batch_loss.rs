//! The loss of a batch.

use burn::tensor::Tensor;

use super::batch::BatchPart;
use crate::model::{CausalLm, Documents, LossConfig, PassError};

/// The sum of the losses of the trained tokens of a batch.
pub(super) fn loss(
    model: &CausalLm,
    part: &BatchPart,
    recompute: bool,
) -> Result<Tensor<1>, PassError> {
    let BatchPart { batch, counts } = part;
    let documents = Documents::new(batch.starts(), batch.shape());
    let documents = documents.expect("rows of data have sound documents");
    let config = LossConfig {
        recompute,
        ..LossConfig::new(documents)
    };
    let loss = model.loss(batch.ids(), batch.labels(), &config)?;
    Ok(match counts {
        true => loss,
        false => loss * 0.0,
    })
}
