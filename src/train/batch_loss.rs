//! The loss of a batch.

use burn::tensor::Tensor;

use super::batch::Batch;
use crate::model::{CausalLm, Documents, LossConfig, PassError};

/// The sum of the losses of the trained tokens of a batch.
pub(super) fn loss(
    model: &CausalLm,
    batch: &Batch,
    recompute: bool,
) -> Result<Tensor<1>, PassError> {
    let documents = Documents::new(batch.starts(), batch.shape());
    let documents = documents.expect("rows of data have sound documents");
    let config = LossConfig {
        recompute,
        ..LossConfig::new(documents)
    };
    model.loss(batch.ids(), batch.labels(), &config)
}
