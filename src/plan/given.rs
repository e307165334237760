//! A plan that was written down and is carried out later: it has to fit the checkpoint and the device as they are now.

use std::collections::HashMap;

use super::{
    Action, DeviceFacts, Home, Plan, PlanError, Request, Step, Stored, bind::Found, piece,
};
use crate::{config::StreamFrom, model::Slot};

impl Plan {
    /// Refuses a plan of another checkpoint, model or target, and takes over the facts of the devices as they are now.
    /// `slots` are those of the model, `request` is what a plan would be made from.
    pub(crate) fn take_over(
        &mut self,
        request: &Request<'_>,
        slots: &[Slot],
        stream: &StreamFrom,
    ) -> Result<(), PlanError> {
        self.check_devices(&request.devices)?;
        // A model has a slot for each expert: tens of thousands.
        let steps = self.steps.iter();
        let planned: HashMap<&str, &Slot> =
            steps.map(|step| (&*step.slot.name, &step.slot)).collect();
        let wanted: HashMap<&str, &Slot> = slots.iter().map(|slot| (&*slot.name, slot)).collect();
        for slot in slots {
            let is_planned = planned.get(&*slot.name) == Some(&slot);
            if !is_planned && !self.missing.contains(&slot.name) {
                return Err(stale(
                    &slot.name,
                    "is a slot of the model",
                    "is not planned",
                ));
            }
        }
        for step in &self.steps {
            let device = match step.home {
                Home::Device(nth) => nth.max(step.device),
                _ => step.device,
            };
            if device >= request.devices.len() {
                return Err(stale(
                    &step.slot.name,
                    "is planned on another device",
                    "there are fewer",
                ));
            }
            if wanted.get(&*step.slot.name) != Some(&&step.slot) {
                return Err(stale(
                    &step.slot.name,
                    "is planned",
                    "is no slot of the model",
                ));
            }
            check_step(step, request)?;
        }
        if !self.links.is_empty() {
            self.link(self.links.clone(), slots)?;
        }
        self.devices.clone_from(&request.devices);
        match self.mapped {
            true => self.settle_devices(self.strategy),
            false => self.settle(self.strategy, stream),
        }
        Ok(())
    }

    fn check_devices(&self, now: &[DeviceFacts]) -> Result<(), PlanError> {
        let targets = |devices: &[DeviceFacts]| {
            let targets = devices.iter().map(|device| device.target.clone());
            targets.collect::<Vec<_>>().join(", ")
        };
        let (planned, found) = (targets(&self.devices), targets(now));
        if planned == found {
            return Ok(());
        }
        Err(PlanError::OtherTarget { planned, found })
    }
}

/// Refuses a step whose tensors are not those of the checkpoint, and one whose format does not come of them.
fn check_step(step: &Step, request: &Request<'_>) -> Result<(), PlanError> {
    let name = &step.slot.name;
    let found = match request.origin(&step.slot)? {
        None => return Err(stale(name, "is planned", "is missing in the checkpoint")),
        Some(Found::Packed(adopt)) => (Vec::new(), Stored::Packed(adopt.into())),
        Some(Found::Other(_)) => return Err(stale(name, "is planned", "has other values")),
        Some(Found::Pieces(pieces)) => {
            let dtype = piece::check(&step.slot, &pieces)?;
            (pieces, Stored::Plain(dtype))
        }
    };
    let is_whole = step.every.is_none() && step.woven.is_none();
    if !is_whole || (&step.pieces, &step.stored) != (&found.0, &found.1) {
        return Err(stale(name, "is planned from other tensors", "has changed"));
    }
    let format = match (&step.action, &step.stored) {
        (Action::Dense(_), _) => return Ok(()),
        (Action::Adopt(format), Stored::Packed(adopt)) => (*format == adopt.format).then_some(()),
        (Action::Pack(quant, format), Stored::Plain(_) | Stored::Packed(_)) => {
            let method = quant.method();
            let made = method.and_then(|method| method.format(step.matrix(), step.float()).ok());
            (made == Some(*format)).then_some(())
        }
        _ => None,
    };
    format.ok_or_else(|| stale(name, "is planned to be packed", "cannot be packed so"))
}

fn stale(tensor: &str, planned: &'static str, found: &'static str) -> PlanError {
    PlanError::Stale {
        tensor: tensor.to_owned(),
        planned,
        found,
    }
}
