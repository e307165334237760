//! A plan as JSON: a summary for scripts, and all of it, which can be read back.

use std::collections::BTreeMap;

use firebox_kernels::linear::Compute;
use serde::Serialize;

use super::{
    Action, Plan, PlanError, PlannedAdapter, RankPart, RankShare, Step, Totals,
    treatment::Treatment,
};
use crate::{config::Role, quant::QuantSpec};

/// A plan in the words of `firebox plan --json`: a line of facts for each tensor, and sums.
#[derive(Debug, Clone, Serialize)]
pub struct Summary<'a> {
    model: &'a str,
    target: &'a str,
    dtype: super::DType,
    dtype_wanted: super::DType,
    halves: Vec<super::DType>,
    compute: Compute,
    computes: BTreeMap<Compute, usize>,
    strategy: super::Strategy,
    strategy_reason: &'a str,
    totals: Totals,
    missing: &'a [String],
    unused: &'a [String],
    unexpected: &'a [String],
    #[serde(flatten)]
    ranks: Option<&'a RankShare>,
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    new_blocks: &'a [usize],
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    adapters: &'a [PlannedAdapter],
    tensors: Vec<TensorRow<'a>>,
}

/// A step in a summary.
#[derive(Debug, Clone, Serialize)]
struct TensorRow<'a> {
    name: &'a str,
    shape: &'a [usize],
    role: Role,
    file: &'a str,
    offset: u64,
    quant: Treatment,
    #[serde(skip_serializing_if = "Option::is_none")]
    compute: Option<Compute>,
    bytes_read: u64,
    #[serde(rename = "bytes_kept")]
    bytes_finished: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<&'a RankPart>,
}

impl Plan {
    /// The plan in the words of `firebox plan --json`. It says less than the plan; [`to_json`](Self::to_json) says all.
    pub fn summary(&self) -> Summary<'_> {
        Summary {
            model: &self.model,
            target: self.target(),
            dtype: self.dtype,
            dtype_wanted: self.dtype_wanted,
            halves: self.halves(),
            compute: self.compute,
            computes: self.computes(),
            strategy: self.strategy,
            strategy_reason: &self.strategy_reason,
            totals: self.totals(),
            missing: &self.missing,
            unused: &self.unused,
            unexpected: &self.unexpected,
            ranks: self.ranks.as_ref(),
            new_blocks: &self.new_blocks,
            warnings: self.warnings(),
            adapters: &self.adapters,
            tensors: self.steps.iter().map(|step| row(self, step)).collect(),
        }
    }

    /// All of the plan, for [`from_json`](Self::from_json).
    ///
    /// # Errors
    ///
    /// [`PlanError::Custom`] where a weight is packed by a custom method, which has no words.
    pub fn to_json(&self) -> Result<String, PlanError> {
        for step in &self.steps {
            if let Action::Pack(QuantSpec::Custom(method), _) = &step.action {
                return Err(PlanError::Custom {
                    tensor: step.slot.name.clone(),
                    method: format!("{method:?}"),
                });
            }
        }
        serde_json::to_string_pretty(self).map_err(|error| PlanError::Json {
            reason: error.to_string(),
        })
    }

    /// A plan that [`to_json`](Self::to_json) wrote; the two are equal.
    ///
    /// # Errors
    ///
    /// [`PlanError::Json`].
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        serde_json::from_str(text).map_err(|error| PlanError::Json {
            reason: error.to_string(),
        })
    }
}

fn row<'a>(plan: &Plan, step: &'a Step) -> TensorRow<'a> {
    let (file, offset) = step.begins();
    TensorRow {
        name: &step.slot.name,
        shape: &step.slot.shape,
        role: step.slot.role,
        file,
        offset,
        quant: step.quant(),
        // As `f32` goes without saying.
        compute: match plan.compute {
            Compute::F32 => None,
            _ => step.compute(plan),
        },
        bytes_read: step.bytes_source(),
        bytes_finished: step.bytes_kept(),
        part: step.part.as_ref(),
    }
}
