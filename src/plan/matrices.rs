//! The matrices of a plan, as the writers of dialects see them.

use firebox_kernels::arith::float::DType;

use super::{Action, Plan, Step, Stored, guess::guess};
use crate::{
    config::To,
    dialect::{Matrices, PackedSlot, Provenance, holds_stack},
    model::{Role, Slot, TIED_HEAD},
};

impl Step {
    /// The weight as it will be written, where it is packed; most dense weights of the checkpoint are stored as `source`.
    pub(crate) fn packed_slot(&self, source: DType) -> Option<PackedSlot> {
        let stored = match &self.stored {
            _ if self.has_values() => self.float(),
            Stored::Packed(adopt) => adopt.float().unwrap_or(source),
            Stored::Plain(_) | Stored::Other(_) => source,
        };
        let mut provenance = match (&self.action, &self.stored) {
            (Action::Pack(quant, _), _) => Provenance::packed_by(quant),
            (_, Stored::Packed(adopt)) => adopt.provenance(),
            _ => Provenance::default(),
        };
        let mut origins = self.slot.from.iter();
        if let Stored::Packed(adopt) = &self.stored {
            provenance.turned |= adopt.provenance().turned && !adopt.turns;
        }
        provenance.turned |= self.slot.shape.len() == 3 && origins.any(|origin| origin.transposed);
        Some(PackedSlot {
            slot: self.slot.clone(),
            format: self.action.format()?,
            stored,
            provenance,
        })
    }
}

impl Plan {
    /// Whether a packed stack of experts is written as a tensor for each expert in the dialect `to`.
    pub(crate) fn takes_apart(&self, to: To, source: DType) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| {
            step.slot.shape.len() == 3
                && matches!(step.action, Action::Pack(..))
                && step
                    .packed_slot(source)
                    .is_some_and(|stack| !holds_stack(to, &stack))
        })
    }

    /// Packed and dense matrices; most dense weights of the checkpoint are stored as `source`.
    ///
    /// Tensors that no architecture knows count as what their names suggest: a project that reads the checkpoint has
    /// modules for them, and has to know that these are dense.
    pub(crate) fn matrices(&self, source: DType) -> Matrices {
        let packed = self.steps.iter();
        let packed = packed.filter_map(|step| step.packed_slot(source));
        let dense = self.steps.iter();
        let dense = dense.filter(|step| step.action.format().is_none());
        let packed: Vec<PackedSlot> = packed.collect();
        let plain = dense.filter_map(|step| {
            let slot = &step.slot;
            let role = match slot.role {
                Role::Other => guess(&slot.name, &slot.shape),
                role => role,
            };
            role.is_matrix().then(|| Slot {
                role,
                ..slot.clone()
            })
        });
        let plain: Vec<Slot> = plain.collect();
        let slots = packed.iter().map(|weight| &weight.slot).chain(&plain);
        let roles: Vec<Role> = slots.map(|slot| slot.role).collect();
        let tied = roles.contains(&Role::Embedding) && !roles.contains(&Role::Head);
        Matrices {
            packed,
            plain,
            tied_head: tied.then_some(TIED_HEAD),
        }
    }
}
