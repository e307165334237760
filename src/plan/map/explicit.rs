//! A map that says the device of every tensor.

use super::{MapError, MapRequest};
use crate::{
    config::{Destination, DeviceMap, Role},
    plan::{Home, Plan, Step},
};

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
        if let Some(idle) = used.iter().position(|used| !used) {
            return Err(MapError::Idle {
                pattern: entries[idle].0.to_string(),
                model: self.model.clone(),
            });
        }
        let count = uncovered.len();
        match uncovered.into_iter().next() {
            Some(tensor) => Err(MapError::Uncovered { tensor, count }),
            None => Ok(homes),
        }
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
