//! The experts of gpt-oss as mlx-lm has them: gates and ups in two stacks, where OpenAI and transformers have one with their
//! rows in turn.
//!
//! ```text
//! P.experts.gate_up_proj, P.experts.gate_up_proj_bias     rows g0 u0 g1 u1 …
//! P.experts.down_proj, P.experts.down_proj_bias
//!
//! P.experts.gate_proj.weight, P.experts.gate_proj.bias    rows g0 g1 …
//! P.experts.up_proj.weight, P.experts.up_proj.bias        rows u0 u1 …
//! P.experts.down_proj.weight, P.experts.down_proj.bias
//! ```

use super::{Action, Every, Plan, PlanError, Step, Stored};
use crate::model::Slot;

/// The ends of the names of a weight and of its biases, before and after.
const ENDS: [(&str, &str); 2] = [("", ".weight"), ("_bias", ".bias")];

impl Plan {
    /// Gates and ups of experts become two stacks.
    ///
    /// # Errors
    ///
    /// [`PlanError::Format`] for a method that cannot pack one of them.
    pub(crate) fn split_gates(&mut self) -> Result<(), PlanError> {
        let steps = core::mem::take(&mut self.steps).into_iter();
        let split = steps.map(|step| {
            let name = step.slot.name.clone();
            let parts = ENDS.into_iter().find_map(|(end, becomes)| {
                let stack = name.strip_suffix(end)?;
                let both = stack.strip_suffix(".gate_up_proj");
                let parts = match (both, stack.ends_with(".experts.down_proj")) {
                    (Some(path), _) => vec![
                        (format!("{path}.gate_proj"), Some(0)),
                        (format!("{path}.up_proj"), Some(1)),
                    ],
                    (None, true) => vec![(stack.to_owned(), None)],
                    (None, false) => return None,
                };
                Some((parts, becomes))
            });
            let Some((parts, end)) = parts else {
                return Ok(vec![step]);
            };
            let parts = parts.into_iter();
            let step = step.unturned();
            let parts = parts.map(|(path, half)| step.clone().half(format!("{path}{end}"), half));
            parts.collect::<Result<Vec<Step>, PlanError>>()
        });
        self.steps = split.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(())
    }
}

impl Step {
    /// The same weight under another name, or the half of its rows from the first or the second on.
    fn half(mut self, name: String, half: Option<usize>) -> Result<Self, PlanError> {
        let mut shape = self.slot.shape.clone();
        // Rows of matrices, values of vectors.
        if let (Some(first), Some(rows)) = (half, shape.get_mut(1)) {
            *rows /= 2;
            self.every = Some(Every { first, step: 2 });
        }
        self.slot = Slot::new(name, shape, self.slot.role);
        self.stored = match self.stored {
            Stored::Packed(adopt) => Stored::Packed(adopt.unturned().into()),
            stored => stored,
        };
        match self.action.clone() {
            Action::Pack(quant, _) => self.packed(&quant),
            _ => Ok(self),
        }
    }
}
