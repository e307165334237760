//! The memory that a run takes, before it is begun.

use super::optimizer::{MomentForm, OptimizerConfig};
use crate::{
    config::{LoraConfig, Role},
    plan::Plan,
};

/// The memory that a run takes beside the weights of the base, in bytes, estimated from shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEstimate {
    /// The weights of the base.
    pub base: u64,
    /// Trained values, their gradients and the moments of the optimizer.
    pub trained: u64,
    /// What the graph keeps of the activations of a batch.
    pub activations: u64,
    /// Logits of the rows that exist at a time.
    pub logits: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn sum(&self) -> u64 {
        let parts = [self.trained, self.activations, self.logits];
        parts.into_iter().fold(self.base, u64::saturating_add)
    }
}

/// What is trained.
#[derive(Clone, Copy)]
pub(super) enum Trains<'t> {
    /// New factors.
    Factors(&'t LoraConfig),
    /// So many values of an adapter.
    Values(usize),
    /// New blocks.
    Blocks,
    /// All of the model.
    All,
}

/// What a batch is.
pub(super) struct BatchSize {
    pub(super) rows: usize,
    pub(super) length: usize,
    pub(super) recompute: bool,
}

/// Rows of logits at a time, and how many tensors of that size exist then: logits, their exponentials, their gradients.
const LOGITS: u64 = 256 * 3;
/// Features of a head of attention, to guess how many there are.
const HEAD: u64 = 64;
const F32: u64 = 4;

/// From the shapes of a plan. Each linear layer keeps what goes into it and what comes out of it; attention keeps scores and
/// probabilities; a layer that is computed again keeps its input alone.
pub(super) fn estimate(
    plan: &Plan,
    trains: Trains<'_>,
    optimizer: &OptimizerConfig,
    [layers, features]: [usize; 2],
    batch: &BatchSize,
) -> MemoryEstimate {
    let tokens = (batch.rows as u64).saturating_mul(batch.length as u64);
    let is_new = |name: &str| {
        let mut new = plan.new_blocks.iter();
        new.any(|block| name.contains(&format!(".{block}.")))
    };
    let slots = plan.steps.iter().map(|step| &step.slot);
    let (mut wide, mut trained, mut vocabulary) = (0, 0, 0);
    for slot in slots {
        let &[out, r#in] = slot.shape.as_slice() else {
            continue;
        };
        let (out, r#in) = (out as u64, r#in as u64);
        match slot.role {
            Role::Linear => wide += out + r#in,
            Role::Head | Role::Embedding => vocabulary = vocabulary.max(out),
            _ => {}
        }
        let more = match trains {
            Trains::Factors(lora) => of_factors(lora, &slot.name, slot.role, [out, r#in]),
            Trains::All => out * r#in,
            Trains::Blocks if is_new(&slot.name) => out * r#in,
            Trains::Blocks | Trains::Values(_) => 0,
        };
        trained = u64::saturating_add(trained, more);
    }
    if let Trains::Values(count) = trains {
        trained = count as u64;
    }
    let layers = (layers as u64).max(1);
    let scores = 2 * (features as u64).div_ceil(HEAD) * batch.length as u64;
    let of_layer = wide / layers + scores;
    let kept = match batch.recompute {
        true => layers * features as u64 + of_layer,
        false => layers * of_layer,
    };
    // The value, its gradient, the sum of gradients over batches.
    let of_value = 3 * F32
        + match optimizer.moments {
            MomentForm::Full => 2 * F32,
            MomentForm::Blocks => 2,
        };
    MemoryEstimate {
        base: plan.totals().bytes_finished,
        trained: trained.saturating_mul(of_value),
        activations: tokens.saturating_mul(kept).saturating_mul(F32),
        logits: LOGITS.min(tokens.saturating_mul(3)) * vocabulary * F32,
    }
}

fn of_factors(lora: &LoraConfig, name: &str, role: Role, [out, r#in]: [u64; 2]) -> u64 {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let mut patterns = lora.targets.iter();
    let targeted = match lora.targets.is_empty() {
        true => role == Role::Linear,
        false => patterns.any(|pattern| pattern.is_match(module, role)),
    };
    let whole = lora
        .whole
        .iter()
        .any(|pattern| pattern.is_match(module, role));
    match (whole, targeted) {
        (true, _) => out * r#in,
        (false, true) => {
            let magnitude = if lora.dora { out } else { 0 };
            let rank = lora.rank as u64;
            rank.saturating_mul(out + r#in).saturating_add(magnitude)
        }
        (false, false) => 0,
    }
}
