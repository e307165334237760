//! The memory that training takes beside base weights.

use super::RecommendError;
use crate::{
    error::Error,
    model::decoder::Spec,
    plan::{Plan, memory::TrainingBytes},
    train::{FinetuneConfig, MemoryEstimate},
};

/// The memory of a run, where there is one.
pub(super) fn training(
    finetune: Option<&FinetuneConfig>,
    plan: &Plan,
    spec: &Spec,
    length: usize,
) -> Result<Option<TrainingBytes>, RecommendError> {
    let Some(finetune) = finetune else {
        return Ok(None);
    };
    let estimate = finetune.memory(plan, spec, length).map_err(Error::from)?;
    Ok(Some(bytes(&estimate)))
}

fn bytes(estimate: &MemoryEstimate) -> TrainingBytes {
    TrainingBytes {
        trained: estimate.trained + estimate.gradients + estimate.optimizer + estimate.checkpoint,
        activations: estimate.activations + estimate.backward,
        logits: estimate.logits,
        fixed: estimate.fixed,
    }
}
