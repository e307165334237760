//! Plans without an architecture, made from what names, types and shapes of tensors say. The module's page has the rules.

use std::collections::HashSet;

use super::{
    Action, Home, Piece, Plan, PlanError, Request, Scaling, Step, Stored, bind::Found, guess::guess,
};
use crate::{
    config::Pattern,
    dialect::{Files, plain},
    model::{Role, Slot},
    source::{StoredType, TensorInfo},
};

impl Plan {
    /// The plan for all tensors of the files, without a model. The matrices that match `include` are quantized; without any
    /// `include`, the matrices that look like linear layers.
    pub(crate) fn bind_files(
        request: &Request<'_>,
        include: &[Pattern],
        files: &Files<'_>,
    ) -> Result<Self, PlanError> {
        let (mut found, rest) = packed(request, files, &HashSet::new(), include)?;
        let mut unused = Vec::new();
        for tensor in rest {
            if request.leaves_out(&tensor.name) {
                unused.push(tensor.name.to_string());
                continue;
            }
            let is_float = plain(tensor.dtype).is_some();
            let role = role(&tensor.name, &tensor.shape, is_float, include);
            let slot = Slot::new(&*tensor.name, tensor.shape.clone(), role);
            found.push((slot, of_tensor(tensor)));
        }
        let slots: Vec<Slot> = found.iter().map(|(slot, _)| slot.clone()).collect();
        request.check_patterns(&slots)?;
        request.sort(&mut found);
        let named = |slot: &Slot| {
            let mut patterns = include.iter().chain(request.policy.patterns());
            patterns.any(|pattern| pattern.is_match(&slot.name, slot.role))
        };
        let mut unfit = Vec::new();
        let steps = found.into_iter().map(|(slot, found)| match found {
            Found::Packed(adopt) => match request.adopted(&slot, adopt.clone()) {
                Err(PlanError::Format { .. }) if !named(&slot) => {
                    unfit.push(slot.name.clone());
                    Ok(request.unpacked(&slot, adopt))
                }
                step => step,
            },
            Found::Pieces(pieces) => match request.plain(&slot, pieces.clone()) {
                Err(PlanError::Format { .. }) if !named(&slot) => {
                    unfit.push(slot.name.clone());
                    request.dense(&slot, pieces)
                }
                step => step,
            }
            .map(saved),
            Found::Other(tensor) => Ok(carried(&slot, &tensor)),
        });
        let steps = steps.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            unused,
            unfit,
            ..request.plan(steps)
        })
    }

    /// Adds the tensors that the slots of a model do not take, so that a saved model has all of its tensors: a tower of
    /// another modality, leftovers. None of them is quantized. Tensors of activations, which the dialect of the
    /// checkpoint has and another does not, are left out.
    pub(crate) fn carry_rest(
        &mut self,
        request: &Request<'_>,
        files: &Files<'_>,
    ) -> Result<(), PlanError> {
        let steps = self.steps.iter();
        let taken: HashSet<&str> = steps
            .flat_map(|step| step.tensors().map(|tensor| &*tensor.name))
            .collect();
        let (mut found, rest) = packed(request, files, &taken, &[])?;
        let rest = rest
            .into_iter()
            .filter(|tensor| !request.leaves_out(&tensor.name));
        found.extend(rest.map(|tensor| {
            let slot = Slot::new(&*tensor.name, tensor.shape.clone(), Role::Other);
            (slot, of_tensor(tensor))
        }));
        if self.links.is_empty() {
            let steps = core::mem::take(&mut self.steps).into_iter();
            self.steps = steps.map(saved).collect();
        }
        if found.is_empty() {
            return Ok(());
        }
        let carried = |(slot, found): (Slot, Found)| match found {
            Found::Packed(adopt) if request.requantize => Ok(request.unpacked(&slot, adopt)),
            Found::Packed(adopt) => request.adopted(&slot, adopt),
            Found::Pieces(pieces) => request.dense(&slot, pieces).map(saved),
            Found::Other(tensor) => Ok(carried(&slot, &tensor)),
        };
        let steps = found.into_iter().map(carried);
        let steps = steps.collect::<Result<Vec<_>, _>>()?;
        self.steps.extend(steps);
        request.sort_steps(&mut self.steps);
        self.unexpected.clear();
        self.unused.retain(|name| request.leaves_out(name));
        Ok(())
    }
}

/// Weights that were found, and the tensors that are left.
type Split<'c> = (Vec<(Slot, Found)>, Vec<&'c TensorInfo>);

/// The packed weights of a checkpoint but for those of which a tensor is taken, and the tensors that are neither.
fn packed<'c>(
    request: &Request<'c>,
    files: &Files<'_>,
    taken: &HashSet<&str>,
    include: &[Pattern],
) -> Result<Split<'c>, PlanError> {
    let (mut found, mut parts) = (Vec::new(), HashSet::new());
    if let Some(dialect) = request.dialect {
        for tensor in request.catalog.iter() {
            if taken.contains(&*tensor.name) {
                continue;
            }
            let Some((name, shape)) = dialect.weight_of(tensor, files)? else {
                continue;
            };
            // That it is packed says more than its name: only tables are something else.
            let role = match (guess(&name, &shape), shape.len()) {
                (Role::Embedding, 2) => Role::Embedding,
                (_, 3) => Role::Expert,
                _ => Role::Linear,
            };
            let mut slot = Slot::new(name, shape, role);
            if let Some(adopt) = dialect.adopt(&slot, request.catalog)? {
                if request.requantize {
                    // As a source it is what it would be if it were dense.
                    slot.role = self::role(&slot.name, &slot.shape, true, include);
                }
                parts.extend(adopt.parts.iter().map(|part| part.name.clone()));
                found.push((slot, Found::Packed(adopt)));
            }
        }
    }
    let tensors = request.catalog.iter();
    let rest =
        tensors.filter(|tensor| !taken.contains(&*tensor.name) && !parts.contains(&tensor.name));
    Ok((found, rest.collect()))
}

fn of_tensor(tensor: &TensorInfo) -> Found {
    match plain(tensor.dtype) {
        Some(_) => Found::Pieces(vec![Piece::whole(tensor)]),
        None => Found::Other(tensor.clone()),
    }
}

/// A weight of plain values as it is saved: one of F64 that is not quantized is carried over, so that no digit is lost.
fn saved(step: Step) -> Step {
    match (step.whole(), &step.action) {
        (Some(tensor), Action::Dense(_)) if tensor.dtype == StoredType::F64 => {
            carried(&step.slot, tensor)
        }
        _ => step,
    }
}

fn carried(slot: &Slot, tensor: &TensorInfo) -> Step {
    Step {
        slot: slot.clone(),
        pieces: vec![Piece::whole(tensor)],
        stored: Stored::Other(tensor.dtype),
        action: Action::Carry,
        every: None,
        merge: None,
        woven: None,
        scaling: Scaling::default(),
        home: Home::Disk,
        device: 0,
        part: None,
    }
}

/// The role of a tensor: what its name and shape say, or what `include` says if it names anything.
fn role(name: &str, shape: &[usize], is_float: bool, include: &[Pattern]) -> Role {
    if include.is_empty() {
        return if is_float {
            guess(name, shape)
        } else {
            Role::Other
        };
    }
    let mut patterns = include.iter();
    match shape.len() {
        2 if is_float && patterns.any(|it| it.is_match(name, Role::Linear)) => Role::Linear,
        3 if is_float && patterns.any(|it| it.is_match(name, Role::Expert)) => Role::Expert,
        _ => Role::Other,
    }
}
