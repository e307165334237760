//! A map that says the device of every tensor.

use super::{MapError, MapRequest};
use crate::{
    config::{Destination, DeviceMap, Role},
    plan::{Home, Plan, Step},
};

/// Modules of transformers without tensors, which accelerate's maps name: rotations, functions, dropouts.
const WITHOUT_TENSORS: [&str; 12] = [
    "rotary_emb",
    "rotary_emb_local",
    "rotary_pos_emb",
    "act",
    "act_fn",
    "activation",
    "activation_fn",
    "attn_dropout",
    "resid_dropout",
    "attention_dropout",
    "dropout",
    "drop",
];

impl Plan {
    /// Sends every weight where the map says.
    pub(super) fn map_explicitly(
        &mut self,
        request: &MapRequest,
        unit_of: &dyn Fn(&Step) -> Option<usize>,
    ) -> Result<(), MapError> {
        let homes = self.destinations(request)?;
        // The first resident tensor of each unit says its device.
        let mut residents: Vec<Option<(usize, usize)>> = vec![None; request.units.len()];
        for (nth, (step, home)) in self.steps.iter().zip(&homes).enumerate() {
            let (Home::Device(device), Some(unit)) = (*home, unit_of(step)) else {
                continue;
            };
            match residents[unit] {
                None => residents[unit] = Some((device, nth)),
                Some((known, _)) if known == device => {}
                Some((known, first)) => {
                    let shown = |nth: usize, device: usize| {
                        let (name, index) =
                            (&self.steps[nth].slot.name, self.devices[device].index);
                        format!("{name} to {index}")
                    };
                    return Err(MapError::Apart {
                        unit: request.units[unit].name.clone(),
                        first: shown(first, known),
                        second: shown(nth, device),
                    });
                }
            }
        }
        for (step, home) in self.steps.iter_mut().zip(homes) {
            let resident = unit_of(step).and_then(|unit| residents[unit]);
            step.go(home, resident.map_or(0, |(device, _)| device));
        }
        Ok(())
    }

    /// Where the map sends each weight.
    fn destinations(&self, request: &MapRequest) -> Result<Vec<Home>, MapError> {
        let DeviceMap::Explicit(entries) = &request.map else {
            return Ok(Vec::new());
        };
        let mut used = vec![false; entries.len()];
        let (mut homes, mut uncovered) = (Vec::new(), Vec::new());
        for step in &self.steps {
            let (name, role) = (&step.slot.name, step.slot.role);
            for ((pattern, _), used) in entries.iter().zip(&mut used) {
                *used |= pattern.is_match(name, role);
            }
            match request.map.find(name, role) {
                Some((_, to)) => homes.push(self.home(request, to)?),
                None => uncovered.push(name.clone()),
            }
        }
        self.tie(request, &homes, &mut used)?;
        let idle = entries.iter().zip(&used).filter(|(_, used)| !**used);
        for ((pattern, _), _) in idle {
            let pattern = pattern.to_string();
            if !self.is_without_tensors(&pattern) {
                return Err(MapError::Idle {
                    pattern,
                    model: self.model.clone(),
                });
            }
            tracing::warn!(
                "`{pattern}` of the device map has no tensors; its values are made on the devices that need them"
            );
        }
        let count = uncovered.len();
        match uncovered.into_iter().next() {
            Some(tensor) => Err(MapError::Uncovered { tensor, count }),
            None => Ok(homes),
        }
    }

    /// Whether a path is that of a module of transformers which has no tensors, inside of a module that the model has.
    fn is_without_tensors(&self, path: &str) -> bool {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let inside = |name: &str| {
            let rest = name.strip_prefix(parent);
            rest.is_some_and(|rest| parent.is_empty() || rest.starts_with('.'))
        };
        let mut names = self.steps.iter().map(|step| &*step.slot.name);
        WITHOUT_TENSORS.contains(&name) && names.any(inside)
    }

    /// A head that is the embedding has no tensor of its own, and a map may name it.
    fn tie(&self, request: &MapRequest, homes: &[Home], used: &mut [bool]) -> Result<(), MapError> {
        let Some([table, head]) = &request.tied else {
            return Ok(());
        };
        let Some((entry, to)) = request.map.find(head, Role::Head) else {
            return Ok(());
        };
        used[entry] = true;
        let steps = self.steps.iter().zip(homes);
        let mut table_home = steps.filter(|(step, _)| step.slot.name == *table);
        let Some((_, home)) = table_home.next() else {
            return Ok(());
        };
        let head_home = self.home(request, to)?;
        match head_home == *home {
            true => Ok(()),
            false => Err(MapError::Tied {
                table: table.clone(),
                head: head.clone(),
                to: to.to_string(),
            }),
        }
    }

    fn home(&self, request: &MapRequest, to: Destination) -> Result<Home, MapError> {
        match to {
            Destination::Host => Ok(Home::Host),
            Destination::Disk if request.disk => Ok(Home::Disk),
            Destination::Disk => Err(MapError::NoFolder),
            Destination::Device(index) => {
                let mut devices = self.devices.iter();
                let nth = devices.position(|device| device.index == index);
                nth.map(Home::Device).ok_or_else(|| MapError::Unlisted {
                    by: "the device map",
                    index,
                    indices: self.devices.iter().map(|device| device.index).collect(),
                })
            }
        }
    }
}
