//! Stacks of experts in a plan that is saved, and matrices stored `[in, out]`: a model has a slot `[out, in]` for each
//! expert, and a file one tensor for all.
//!
//! | the checkpoint has | the plan of a save has |
//! |---|---|
//! | a tensor for each expert | a step for each; one step for all where mlx-lm is to read them |
//! | a stack `[experts, out, in]`, dense or packed | one step |
//! | a dense stack `[experts, in, out]` | one step: packed as `[experts, out, in]`, dense as it is stored |
//! | a dense matrix `[in, out]` | a step: packed as `[out, in]`, dense as it is stored |

use std::collections::{BTreeMap, HashMap};

use super::{Action, Piece, Plan, PlanError, Request, Step, Stored};
use crate::{
    config::To,
    dialect::{self, Adopt, DialectError, plain, stack_in},
    model::{Origin, Role, Slot},
    source::Catalog,
};

/// The end of the name of a stack of gates of mlx-lm.
const GATES: &str = "experts.gate_proj.weight";

/// The slots of a save: rows that are one expert's become all of their stack. A stack that only the dialect of the
/// checkpoint has, and no dense file of the model, stays one only where it stays packed.
pub(crate) fn whole_stacks(
    slots: Vec<Slot>,
    request: &Request<'_>,
) -> Result<Vec<Slot>, PlanError> {
    let catalog = request.catalog;
    let mut whole: Vec<Slot> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for slot in slots {
        let own = matches!(&slot.from[..], [origin] if origin.is_whole());
        let changes = request.dequantize
            || request.requantize
            || slot.quant(request.policy).method().is_some();
        let stacks = slot.role == Role::Expert && !(own && changes);
        let packed = request.dialect.filter(|_| stacks);
        let packed = match packed {
            Some(dialect) => dialect::stack_of(dialect, &slot, catalog)?,
            None => None,
        };
        let Some(stack) = packed.or_else(|| dense_stack(&slot, catalog)) else {
            whole.push(slot);
            continue;
        };
        let is_turned = |origin: &Origin| origin.transposed && stack.role == Role::Expert;
        let turned = slot.from.into_iter().filter(is_turned);
        match places.get(&stack.name) {
            Some(place) => whole[*place].from.extend(turned),
            None => {
                places.insert(stack.name.clone(), whole.len());
                let turned: Vec<Origin> = turned.collect();
                whole.push(match turned.is_empty() {
                    true => stack,
                    false => stack.made_of(turned),
                });
            }
        }
    }
    Ok(whole)
}

/// The slot of the dense tensor that has the values of `slot` as one of its matrices, or of its rows.
fn dense_stack(slot: &Slot, catalog: &Catalog) -> Option<Slot> {
    let [origin] = &slot.from[..] else {
        return None;
    };
    origin.rows.as_ref()?;
    let tensor = catalog.get(&origin.tensor)?;
    plain(tensor.dtype)?;
    let mut each = slot.shape.clone();
    let role = match (slot.role, each.len()) {
        (Role::Expert, 2) => Role::Expert,
        (Role::Bias, 1) => Role::Bias,
        _ => return None,
    };
    if origin.transposed {
        each.reverse();
    }
    let (experts, stored) = tensor.shape.split_first()?;
    let shape = [&[*experts], &slot.shape[..]].concat();
    (stored == each).then(|| Slot::new(&*tensor.name, shape, role))
}

impl Step {
    /// Whether dense files have the matrix as `[in, out]`.
    fn is_turned_matrix(&self) -> bool {
        match &self.slot.from[..] {
            [origin] => origin.transposed && origin.rows.is_none() && self.slot.shape.len() == 2,
            _ => false,
        }
    }

    /// With the shape of a dense stack, whose matrices lie the other way round than the packed ones.
    pub(super) fn turned(mut self) -> Self {
        if let Stored::Packed(adopt) = &mut self.stored
            && adopt.provenance().turned
            && !adopt.turns
            && self.slot.shape.len() == 3
        {
            adopt.turns = true;
            self.slot.shape.swap(1, 2);
        }
        self
    }

    /// With the shape that the model multiplies by, where a model has said that it turns a dense stack.
    pub(super) fn unturned(mut self) -> Self {
        let mut origins = self.slot.from.iter();
        if let Stored::Packed(adopt) = &mut self.stored
            && adopt.turns
            && origins.any(|origin| origin.transposed)
        {
            adopt.turns = false;
            self.slot.shape.swap(1, 2);
        }
        self
    }
}

impl Plan {
    /// The first matrix that is packed and that dense files have as `[in, out]`.
    pub(crate) fn packed_and_turned(&self) -> Option<&Step> {
        let packed = |step: &&Step| step.action.format().is_some();
        self.steps
            .iter()
            .filter(packed)
            .find(|step| step.is_turned_matrix())
    }

    /// Refuses stacks of gates that only mlx-lm has, where other files are written.
    ///
    /// # Errors
    ///
    /// [`DialectError::Apart`].
    pub(crate) fn check_stacks_of_others(&self) -> Result<(), DialectError> {
        let mut steps = self.steps.iter();
        let is_gate = |step: &&Step| step.slot.shape.len() == 3 && step.slot.name.ends_with(GATES);
        match steps.find(is_gate) {
            None => Ok(()),
            Some(step) => Err(DialectError::Apart {
                tensor: step.slot.name.clone(),
                dialect: To::Mlx.name(),
            }),
        }
    }

    /// Dense matrices that were turned on the way become what a dense file has: `[experts, in, out]`, `[in, out]`.
    ///
    /// # Errors
    ///
    /// [`PlanError::Turned`] where a link scales the rows or columns of such a matrix, [`PlanError::Unturned`] for one that the
    /// checkpoint has packed.
    pub(crate) fn turn_back(&mut self) -> Result<(), PlanError> {
        let linked = |name: &String| {
            let mut links = self.links.iter();
            links.any(|link| link.from.contains(name) || link.to.contains(name))
        };
        for step in &mut self.steps {
            let is_dense = matches!(step.action, Action::Dense(_));
            if is_dense && step.is_turned_matrix() && matches!(step.stored, Stored::Packed(_)) {
                let tensor = step.slot.name.clone();
                return Err(PlanError::Unturned { tensor });
            }
            let is_turned = match (&step.pieces[..], step.slot.shape.len()) {
                ([first, ..], 3) => {
                    let mut pieces = step.pieces.iter();
                    pieces.all(|piece| piece.transposed).then_some(first)
                }
                ([piece], 2) => Some(piece).filter(|piece| piece.is_turned()),
                _ => None,
            };
            let Some(piece) = is_turned.filter(|_| is_dense) else {
                continue;
            };
            if linked(&step.slot.name) {
                let tensor = step.slot.name.clone();
                return Err(PlanError::Turned { tensor });
            }
            if let Some(merge) = &step.merge {
                let [rows, _] = step.matrix();
                step.merge = Some(merge.turned(rows).into());
            }
            let whole = Piece::whole(&piece.tensor);
            let shape = whole.tensor.shape.clone();
            step.slot = Slot::new(&*step.slot.name, shape, step.slot.role);
            step.pieces = vec![whole];
        }
        Ok(())
    }

    /// Experts that have a tensor each become the stacks that mlx-lm has in their place, in the module `switch`.
    ///
    /// # Errors
    ///
    /// [`PlanError::Stack`] where two experts of a stack are treated differently.
    pub(crate) fn stack_experts(
        &mut self,
        switch: &str,
        request: &Request<'_>,
    ) -> Result<(), PlanError> {
        let mut stacks: BTreeMap<String, BTreeMap<usize, Step>> = BTreeMap::new();
        let mut steps = Vec::new();
        for step in core::mem::take(&mut self.steps) {
            let place = step.has_values().then(|| stack_in(switch, &step.slot.name));
            match place.flatten() {
                Some((stack, nth)) => {
                    let experts = stacks.entry(stack).or_default();
                    steps.extend(experts.insert(nth, step));
                }
                None => steps.push(step),
            }
        }
        for (name, experts) in stacks {
            let is_whole = experts.keys().copied().eq(0..experts.len());
            let experts: Vec<Step> = experts.into_values().collect();
            match is_whole {
                true => steps.push(self.stacked(name, &experts)?),
                false => steps.extend(experts),
            }
        }
        request.sort_steps(&mut steps);
        self.steps = steps;
        Ok(())
    }

    /// One step for the same matrices of all experts.
    fn stacked(&self, name: String, experts: &[Step]) -> Result<Step, PlanError> {
        let first = &experts[0];
        let is_linked = |step: &Step| {
            let mut links = self.links.iter();
            links.any(|link| {
                link.from
                    .iter()
                    .chain(&link.to)
                    .any(|it| *it == step.slot.name)
            })
        };
        let is_same = |step: &Step| {
            (&step.action, &step.slot.shape, &step.home)
                == (&first.action, &first.slot.shape, &first.home)
                && stored([first, step]).is_some()
                && !is_linked(step)
        };
        if let Some(other) = experts.iter().find(|step| !is_same(step)) {
            return Err(PlanError::Stack {
                stack: name,
                first: first.slot.name.clone(),
                second: other.slot.name.clone(),
            });
        }
        let stored = stored(experts).unwrap_or_else(|| first.stored.clone());
        let shape = [&[experts.len()], &first.slot.shape[..]].concat();
        let from = experts.iter().flat_map(|step| step.slot.from.clone());
        let step = Step {
            slot: Slot::new(name, shape, first.slot.role).made_of(from),
            pieces: experts
                .iter()
                .flat_map(|step| step.pieces.clone())
                .collect(),
            stored,
            ..first.clone()
        };
        match &first.action {
            Action::Pack(quant, _) => step.packed(quant),
            _ => Ok(step),
        }
    }
}

/// How the rows of all these steps are stored, one after another; `None` where they are stored in different ways.
pub(super) fn stored<'s>(steps: impl IntoIterator<Item = &'s Step> + Clone) -> Option<Stored> {
    let mut all = steps.clone().into_iter().map(|step| &step.stored);
    let first = all.next()?;
    if let Stored::Packed(_) = first {
        let packed = steps.into_iter().map(|step| match &step.stored {
            Stored::Packed(adopt) => Some(&**adopt),
            Stored::Plain(_) | Stored::Other(_) => None,
        });
        let packed: Vec<&Adopt> = packed.collect::<Option<_>>()?;
        return Adopt::stack(packed).map(|all| Stored::Packed(all.into()));
    }
    all.all(|stored| stored == first).then(|| first.clone())
}
