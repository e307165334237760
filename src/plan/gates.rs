//! The stacks of experts that dense files have, as other files have them.
//!
//! ```text
//! P.experts.gate_up_proj, P.experts.gate_up_proj_bias     rows g0 u0 g1 u1 … (gpt-oss), or g0 g1 … u0 u1 …
//! P.experts.down_proj, P.experts.down_proj_bias
//!
//! P.SWITCH.gate_proj.weight, P.SWITCH.gate_proj.bias      rows g0 g1 …        mlx-lm
//! P.SWITCH.up_proj.weight, P.SWITCH.up_proj.bias          rows u0 u1 …
//! P.SWITCH.down_proj.weight, P.SWITCH.down_proj.bias
//!
//! P.experts.{e}.gate_proj.weight                          rows g0 g1 …        a tensor for each expert
//! P.experts.{e}.up_proj.weight                            rows u0 u1 …
//! P.experts.{e}.down_proj.weight
//! P.experts.{e}.gate_up_proj.weight                       as in the stack      the same, as one; biases stay in stacks
//! ```

use std::collections::BTreeMap;

use super::{Action, Every, Piece, Plan, PlanError, Step, Stored, Woven, stacks::stored};
use crate::model::{Origin, Role, Slot, Stacks};

/// The two matrices of each expert in one stack.
const GATE_UP: &str = "gate_up_proj";
/// The two of them, in the order of their rows.
const HALVES: [&str; 2] = ["gate_proj", "up_proj"];
const DOWN: &str = "down_proj";

/// The stack that a step is of.
struct StackName<'n> {
    /// What comes before `.experts.`, or nothing.
    path: &'n str,
    /// `gate_up_proj`.
    matrix: &'n str,
    is_bias: bool,
}

impl<'n> StackName<'n> {
    fn of(slot: &'n Slot) -> Option<Self> {
        let weights = slot.name.strip_suffix("_bias");
        let is_bias = weights.is_some();
        let (path, matrix) = weights.unwrap_or(&slot.name).rsplit_once('.')?;
        let path = path.strip_suffix(".experts")?;
        let is_stack = match slot.role {
            Role::Expert => slot.shape.len() == 3 && !is_bias,
            Role::Bias => slot.shape.len() == 2 && is_bias,
            _ => false,
        };
        let is_known = matrix == GATE_UP || matrix == DOWN;
        (is_stack && is_known).then_some(Self {
            path,
            matrix,
            is_bias,
        })
    }

    fn end(&self) -> &'static str {
        if self.is_bias { "bias" } else { "weight" }
    }
}

/// The files that stacks are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpertFiles {
    /// Those of mlx-lm: gates and ups in stacks of their own.
    Switch,
    /// A tensor for each matrix of each expert, with gates and ups `apart` or as one.
    Each {
        /// Whether they are two matrices.
        apart: bool,
    },
}

impl Plan {
    /// The stacks of dense files become what `files` has in their place.
    ///
    /// # Errors
    ///
    /// [`PlanError::Format`] for a method that cannot pack one of them.
    pub(crate) fn split_experts(
        &mut self,
        stacks: Stacks,
        files: ExpertFiles,
    ) -> Result<(), PlanError> {
        let steps = core::mem::take(&mut self.steps).into_iter();
        let split = steps.map(|step| {
            let slot = step.slot.clone();
            let Some(name) = StackName::of(&slot) else {
                return Ok(vec![step]);
            };
            let step = step.unturned();
            match files {
                ExpertFiles::Switch => step.switch(&name, stacks),
                // Their biases are found in the stack.
                ExpertFiles::Each { apart: false } if name.is_bias => Ok(vec![step]),
                ExpertFiles::Each { apart } => step.each(&name, apart),
            }
        });
        self.steps = split.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(())
    }
}

impl Step {
    /// The stacks of mlx-lm.
    fn switch(self, name: &StackName<'_>, stacks: Stacks) -> Result<Vec<Self>, PlanError> {
        let (experts, rows) = (self.slot.shape[0], self.slot.shape[1]);
        let halves = halves(name.matrix, rows, stacks.interleaved, true);
        let parts = halves.into_iter().map(|(matrix, every)| {
            let StackName { path, .. } = name;
            let name = format!("{path}.{}.{matrix}.{}", stacks.switch, name.end());
            let mut shape = self.slot.shape.clone();
            shape[1] = every.map_or(rows, |_| rows / 2);
            let every = every.map(|every| Every {
                of: experts * rows,
                ..every
            });
            let slot = Slot::new(name, shape, self.slot.role);
            self.clone().rows_as(slot, every)
        });
        parts.collect()
    }

    /// A tensor for each matrix of each expert.
    fn each(self, name: &StackName<'_>, apart: bool) -> Result<Vec<Self>, PlanError> {
        let (experts, rows) = (self.slot.shape[0], self.slot.shape[1]);
        let halves = halves(name.matrix, rows, false, apart);
        let parts = (0..experts).flat_map(|nth| {
            let (alone, first) = self.expert(nth, experts);
            let self_ = &self;
            halves.iter().map(move |(matrix, every)| {
                let StackName { path, .. } = name;
                let name = format!("{path}.experts.{nth}.{matrix}.{}", name.end());
                let mut shape = self_.slot.shape[1..].to_vec();
                shape[0] = every.map_or(rows, |_| rows / 2);
                let whole = Every {
                    first: 0,
                    run: rows,
                    step: rows,
                    of: rows,
                };
                let every = match first {
                    None => *every,
                    Some(first) => {
                        let every = every.unwrap_or(whole);
                        Some(Every {
                            first: first + every.first,
                            of: experts * rows,
                            ..every
                        })
                    }
                };
                let slot = Slot::new(name, shape, self_.slot.role);
                alone.clone().rows_as(slot, every)
            })
        });
        parts.collect()
    }

    /// The source of the expert `nth` of a stack alone. Where it cannot be told apart, the whole source, and the first row
    /// of the expert in it.
    fn expert(&self, nth: usize, experts: usize) -> (Self, Option<usize>) {
        let mut alone = self.clone();
        let is_alone = match (&mut alone.stored, &alone.pieces[..]) {
            (Stored::Packed(adopt), _) => match adopt.expert(nth, experts) {
                Some(one) => {
                    **adopt = one;
                    true
                }
                None => false,
            },
            (_, [whole]) if whole.is_whole() => {
                let rows = whole.rows.len() / experts.max(1);
                let rows = nth * rows..(nth + 1) * rows;
                alone.pieces = vec![Piece {
                    rows,
                    ..whole.clone()
                }];
                true
            }
            (_, pieces) if pieces.len() == experts => {
                alone.pieces = vec![pieces[nth].clone()];
                true
            }
            _ => false,
        };
        (alone, (!is_alone).then(|| nth * self.slot.shape[1]))
    }

    /// The weight of `slot`, which is `every` row of this one, or all of it.
    fn rows_as(mut self, slot: Slot, every: Option<Every>) -> Result<Self, PlanError> {
        self.slot = slot;
        self.every = every;
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

/// A matrix of one expert, or its biases, where a file has a tensor for each.
struct ExpertName<'n> {
    path: &'n str,
    nth: usize,
    /// The matrix of the stack that it is in, and which half of it, where it is one.
    matrix: &'static str,
    half: usize,
    end: &'n str,
}

impl<'n> ExpertName<'n> {
    fn of(slot: &'n Slot) -> Option<Self> {
        let (path, rest) = slot.name.split_once(".experts.")?;
        let (nth, rest) = rest.split_once('.')?;
        let (matrix, end) = rest.split_once('.')?;
        let is_expert = match slot.role {
            Role::Expert => end == "weight" && slot.shape.len() == 2,
            Role::Bias => end == "bias",
            _ => false,
        };
        let (matrix, half) = match matrix {
            "gate_proj" => (GATE_UP, 0),
            "up_proj" => (GATE_UP, 1),
            GATE_UP => (GATE_UP, 0),
            DOWN => (DOWN, 0),
            _ => return None,
        };
        let nth = nth.parse().ok().filter(|_| is_expert)?;
        Some(Self {
            path,
            nth,
            matrix,
            half,
            end,
        })
    }
}

impl Plan {
    /// Experts that the checkpoint has otherwise than dense files become the stacks of those, where none stays packed. Those
    /// that are packed anew do where `packs` says so: as `[experts, out, in]`.
    ///
    /// # Errors
    ///
    /// [`PlanError::Stack`] where two experts of a stack are treated differently.
    pub(crate) fn join_experts(&mut self, stacks: Stacks, packs: bool) -> Result<(), PlanError> {
        let of_expert = |step: &&Step| ExpertName::of(&step.slot).is_some();
        let joins = |step: &Step| match step.action {
            Action::Dense(_) => true,
            Action::Pack(..) => packs,
            Action::Adopt(_) | Action::Carry => false,
        };
        let is_as_stored = |step: &Step| {
            let own = step.whole().is_some_and(|own| *own.name == *step.slot.name);
            own && matches!(step.action, Action::Dense(_))
        };
        let mut experts = self.steps.iter().filter(of_expert);
        if !experts.clone().all(joins) || experts.all(is_as_stored) {
            return Ok(());
        }
        let mut parts: BTreeMap<(String, usize, usize), Step> = BTreeMap::new();
        let mut steps = Vec::new();
        for step in core::mem::take(&mut self.steps) {
            match ExpertName::of(&step.slot) {
                None => steps.push(step),
                Some(name) => {
                    let ExpertName { path, matrix, .. } = name;
                    let end = if name.end == "bias" { "_bias" } else { "" };
                    let stack = format!("{path}.experts.{matrix}{end}");
                    parts.insert((stack, name.nth, name.half), step);
                }
            }
        }
        let mut of_stack: BTreeMap<String, Vec<StackPart>> = BTreeMap::new();
        for ((stack, nth, half), step) in parts {
            of_stack.entry(stack).or_default().push(((nth, half), step));
        }
        for (stack, parts) in of_stack {
            steps.push(joined(stack, parts, stacks)?);
        }
        self.steps = steps;
        Ok(())
    }
}

/// A part of a stack: the number of its expert, which half of that it is, and its step.
type StackPart = ((usize, usize), Step);

/// The stack of the same matrices of all experts, which are sorted by expert and half.
fn joined(stack: String, parts: Vec<StackPart>, stacks: Stacks) -> Result<Step, PlanError> {
    let halves = 1 + parts.iter().map(|((_, half), _)| *half).max().unwrap_or(0);
    let experts = parts.len() / halves;
    let is_whole = (parts.iter().map(|(place, _)| *place))
        .eq((0..experts).flat_map(|nth| (0..halves).map(move |half| (nth, half))));
    let steps: Vec<Step> = parts.into_iter().map(|(_, step)| step).collect();
    let first = &steps[0];
    let is_same = |step: &Step| {
        let of = |step: &Step| (step.action.clone(), step.slot.shape.clone());
        is_whole && of(step) == of(first) && stored([first, step]).is_some()
    };
    if let Some(other) = steps.iter().find(|step| !is_same(step)) {
        return Err(PlanError::Stack {
            stack,
            first: first.slot.name.clone(),
            second: other.slot.name.clone(),
        });
    }
    let is_bias = first.slot.role == Role::Bias;
    let rows = halves * first.slot.shape[0];
    let cols = first.slot.shape.get(1).copied().unwrap_or(1);
    let is_dense = matches!(first.action, Action::Dense(_));
    let woven = Woven {
        each: [rows, cols],
        interleaved: stacks.interleaved && halves == 2,
        turned: stacks.transposed && !is_bias && is_dense,
    };
    let shape = match (is_bias, woven.turned) {
        (true, _) => vec![experts, rows],
        (_, true) => vec![experts, cols, rows],
        (_, false) => vec![experts, rows, cols],
    };
    let mut slot = Slot::new(&*stack, shape, first.slot.role);
    if stacks.transposed && !is_bias && !is_dense {
        slot = slot.made_of([Origin::whole(stack).transposed()]);
    }
    let step = Step {
        slot,
        stored: stored(&steps).unwrap_or_else(|| first.stored.clone()),
        pieces: (steps.iter())
            .flat_map(|step| step.pieces.clone())
            .collect(),
        woven: (woven.interleaved || woven.turned).then_some(woven),
        ..first.clone()
    };
    match &first.action {
        Action::Pack(quant, _) => step.packed(quant),
        _ => Ok(step),
    }
}

/// The matrices of `matrix`, which has so many rows, and their rows where they are some of them.
fn halves(
    matrix: &str,
    rows: usize,
    interleaved: bool,
    apart: bool,
) -> Vec<(String, Option<Every>)> {
    if matrix != GATE_UP || !apart {
        return vec![(matrix.to_owned(), None)];
    }
    let halves = HALVES.into_iter().enumerate();
    let halves = halves.map(|(nth, matrix)| {
        let (run, step) = if interleaved {
            (1, 2)
        } else {
            (rows / 2, rows)
        };
        let every = Every {
            first: nth * run,
            run,
            step,
            of: rows,
        };
        (matrix.to_owned(), Some(every))
    });
    halves.collect()
}
