//! Which unit of a model goes to which device, and which of its matrices stay in host memory or on disk.
//!
//! ```text
//! units, limits ─► walk (balanced, sequential) or the caller's own map ─► the home of every step
//!                                │ what no device holds
//!                                └─► host memory ─► disk: streamed to the first device
//! ```
//!
//! A unit is charged with its weights, its cache and its activations. The vectors of a streamed unit, and its cache,
//! stay on the first device, which keeps room for the matrices that come and go.

mod error;

mod explicit;
mod walk;

pub use error::MapError;

use std::collections::HashMap;

use super::{Home, PlacedUnit, Plan, PlanError, Step};
use crate::{
    config::{Bytes, DeviceMap},
    model::{Role, Unit},
};
use walk::{DeviceLoad, UnitBytes, balance, fill};

/// What a map is made from, besides the steps.
pub(crate) struct MapRequest {
    pub(crate) units: Vec<Unit>,
    /// The tensors of the embedding and of the head, where both are one.
    pub(crate) tied: Option<[String; 2]>,
    /// Bytes of cache and of activations of each unit.
    pub(crate) pass: Vec<[u64; 2]>,
    pub(crate) map: DeviceMap,
    /// Bytes that each device may have; `None` for any number.
    pub(crate) limits: Vec<Option<u64>>,
    /// Bytes that host memory may have; the outer `None` where it has nothing.
    pub(crate) host: Option<Option<u64>>,
    /// Whether a file may have the rest.
    pub(crate) disk: bool,
    /// Weights that are fetched ahead.
    pub(crate) ahead: u64,
}

impl Plan {
    /// Chooses the home of every weight of a module on several devices, or on one that does not hold all of it.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub(crate) fn map(&mut self, request: &MapRequest) -> Result<(), PlanError> {
        if request.units.is_empty() {
            return Err(MapError::NoUnits.into());
        }
        let of_slot = request.of_slots();
        let unit_of = |step: &Step| of_slot.get(&*step.slot.name).copied();
        let is_explicit = matches!(request.map, DeviceMap::Explicit(_));
        if is_explicit {
            self.map_explicitly(request, &unit_of)?;
        } else {
            let bytes = self.unit_bytes(request, &unit_of);
            let homes = self.homes(request, &bytes, &unit_of)?;
            for step in &mut self.steps {
                let home = unit_of(step).map_or(Home::Device(0), |unit| homes[unit]);
                step.go(home, 0);
            }
        }
        let device = |unit: usize| {
            let mut steps = self.steps.iter();
            let first = steps.find(|step| unit_of(step) == Some(unit));
            first.map_or(0, |step| step.device)
        };
        let units = request.units.iter().zip(&request.pass).enumerate();
        let units = units.map(|(nth, (unit, [cache, activations]))| PlacedUnit {
            name: unit.name.clone(),
            layer: unit.layer,
            device: device(nth),
            cache: *cache,
            activations: *activations,
        });
        self.units = units.collect();
        self.mapped = true;
        match is_explicit {
            true => Ok(self.check_limits(&request.limits)?),
            false => Ok(()),
        }
    }

    /// Refuses more on a device than it may have.
    fn check_limits(&self, limits: &[Option<u64>]) -> Result<(), MapError> {
        for (nth, (limit, device)) in limits.iter().zip(&self.devices).enumerate() {
            let [cache, activations] = self.pass_on_device(nth);
            let needed = self.bytes_on_device(nth) + cache + activations;
            if let Some(limit) = limit.filter(|limit| needed > *limit) {
                return Err(MapError::Full {
                    index: device.index,
                    needed,
                    cache,
                    activations,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn unit_bytes(
        &self,
        request: &MapRequest,
        unit_of: &dyn Fn(&Step) -> Option<usize>,
    ) -> Vec<UnitBytes> {
        let pass = request.pass.iter();
        let pass = pass.map(|[cache, activations]| UnitBytes {
            cache: *cache,
            activations: *activations,
            ..UnitBytes::default()
        });
        let mut all: Vec<UnitBytes> = pass.collect();
        for step in &self.steps {
            let Some(unit) = unit_of(step) else {
                continue;
            };
            let (unit, bytes) = (&mut all[unit], step.bytes_finished());
            match step.slot.is_matrix() {
                true => {
                    unit.matrices += bytes;
                    let largest = match step.slot.role {
                        Role::Expert => &mut unit.expert,
                        _ => &mut unit.largest,
                    };
                    *largest = bytes.max(*largest);
                }
                false => unit.others += bytes,
            }
        }
        all
    }

    /// The home of the matrices of each unit.
    fn homes(
        &self,
        request: &MapRequest,
        units: &[UnitBytes],
        unit_of: &dyn Fn(&Step) -> Option<usize>,
    ) -> Result<Vec<Home>, MapError> {
        let limits = &request.limits[..];
        let whole = match request.map {
            DeviceMap::BalancedLow0 => balance(units, limits, 1),
            DeviceMap::Sequential => None,
            _ => balance(units, limits, 0),
        };
        let none = DeviceLoad::default();
        let placed = whole.unwrap_or_else(|| fill(units, limits, none));
        if placed.iter().all(Option::is_some) {
            return Ok(placed
                .into_iter()
                .map(|nth| Home::Device(nth.unwrap_or(0)))
                .collect());
        }
        if request.host.is_none() && !request.disk {
            return Err(self.too_little(request, units, &placed));
        }
        let placed = self.beside_streamed(request, units, unit_of)?;
        let mut room = request.host;
        let homes = placed.iter().zip(units).map(|(device, unit)| {
            if let Some(nth) = device {
                return Some(Home::Device(*nth));
            }
            match &mut room {
                Some(Some(left)) if *left >= unit.matrices => {
                    *left -= unit.matrices;
                    Some(Home::Host)
                }
                Some(None) => Some(Home::Host),
                _ => request.disk.then_some(Home::Disk),
            }
        });
        let homes: Vec<Option<Home>> = homes.collect();
        let lost = homes.iter().map(Option::is_none).collect::<Vec<_>>();
        match homes.into_iter().collect::<Option<Vec<_>>>() {
            Some(homes) => Ok(homes),
            None => Err(self.no_room(request, units, &lost)),
        }
    }

    /// The device of each unit, where the first device has room for what comes and goes.
    fn beside_streamed(
        &self,
        request: &MapRequest,
        units: &[UnitBytes],
        unit_of: &dyn Fn(&Step) -> Option<usize>,
    ) -> Result<Vec<Option<usize>>, MapError> {
        let limits = &request.limits[..];
        let first = limits[0];
        let mut needed = DeviceLoad::default();
        let mut caches = 0;
        // As many ahead as there is room for; the one in use at least.
        for at_once in (1..=request.ahead + 1).rev() {
            let mut beside = DeviceLoad::default();
            loop {
                let placed = fill(units, limits, beside);
                let mut now = DeviceLoad::default();
                let (mut largest, mut expert) = (0, 0);
                caches = 0;
                for (unit, _) in units.iter().zip(&placed).filter(|(_, at)| at.is_none()) {
                    now.kept += unit.others + unit.cache;
                    now.activations = now.activations.max(unit.activations);
                    largest = largest.max(unit.largest);
                    expert = expert.max(unit.expert);
                    caches += unit.cache;
                }
                now.kept += at_once * largest + expert;
                if now.kept <= beside.kept && now.activations <= beside.activations {
                    return Ok(placed);
                }
                needed = now;
                if first.is_some_and(|limit| now.bytes() > limit) {
                    break;
                }
                // It only grows, so that this ends.
                beside = DeviceLoad {
                    kept: now.kept.max(beside.kept),
                    activations: now.activations.max(beside.activations),
                };
            }
        }
        let streamed = self.steps.iter();
        let streamed = streamed.filter(|step| step.slot.is_matrix() && unit_of(step).is_some());
        let largest = streamed.max_by_key(|step| step.bytes_finished());
        Err(MapError::Passing {
            index: self.devices[0].index,
            limit: first.unwrap_or(u64::MAX),
            needed: needed.bytes(),
            cache: caches,
            activations: needed.activations,
            tensor: largest.map_or_else(String::new, |step| step.slot.name.clone()),
        })
    }

    /// Why the devices alone do not hold all units.
    fn too_little(
        &self,
        request: &MapRequest,
        units: &[UnitBytes],
        placed: &[Option<usize>],
    ) -> MapError {
        let limits = request.limits.iter().zip(&self.devices);
        let limits = limits.filter_map(|(limit, device)| Some(((*limit)?, device.index)));
        let (limit, index) = limits.max().unwrap_or((u64::MAX, 0));
        let mut all = units.iter().enumerate();
        if let Some((nth, unit)) = all.find(|(_, unit)| unit.alone() > limit) {
            return MapError::Layer {
                unit: request.units[nth].name.clone(),
                needed: unit.alone(),
                cache: unit.cache,
                activations: unit.activations,
                index,
                limit,
            };
        }
        let lost = placed.iter().map(Option::is_none).collect::<Vec<_>>();
        self.no_room(request, units, &lost)
    }

    fn no_room(&self, request: &MapRequest, units: &[UnitBytes], lost: &[bool]) -> MapError {
        let left = units.iter().zip(lost).filter(|(_, lost)| **lost);
        let first = lost.iter().position(|lost| *lost).unwrap_or(0);
        let devices = self.devices.iter().zip(&request.limits);
        let devices = devices.map(|(device, limit)| {
            let (index, limit) = (device.index, limit.map_or(u64::MAX, |limit| limit));
            format!("device {index} may have {}", Bytes(limit))
        });
        let host = match request.host {
            Some(Some(limit)) => format!("host memory {}", Bytes(limit)),
            Some(None) => "host memory all it has".to_owned(),
            None => "host memory nothing".to_owned(),
        };
        let held: Vec<String> = devices.chain([host]).collect();
        MapError::NoRoom {
            weights: units.iter().map(|unit| unit.matrices + unit.others).sum(),
            left: left.map(|(unit, _)| unit.kept()).sum(),
            unit: request.units[first].name.clone(),
            held: held.join(", "),
            advice: match (request.host.is_some(), request.disk) {
                (false, false) => {
                    "allow more, quantize to fewer bits, or name host memory (cpu=SIZE) and disk"
                }
                _ => "allow more, quantize to fewer bits, or name a disk (disk, --spill FOLDER)",
            },
        }
    }

    /// The numbers of the layers that run on a device.
    pub fn layers_on(&self, device: usize) -> Vec<usize> {
        let units = self.units.iter().filter(|unit| unit.device == device);
        units.filter_map(|unit| unit.layer).collect()
    }

    /// Bytes of caches and of activations on a device, for the context that was asked for.
    pub fn pass_on_device(&self, device: usize) -> [u64; 2] {
        let units = || self.units.iter().filter(|unit| unit.device == device);
        let activations = units().map(|unit| unit.activations);
        [
            units().map(|unit| unit.cache).sum(),
            activations.max().unwrap_or(0),
        ]
    }

    /// Says which units there are, all of them on the first device.
    pub(crate) fn unmapped(&mut self, units: Vec<Unit>) {
        let units = units.into_iter().map(|unit| PlacedUnit {
            name: unit.name,
            layer: unit.layer,
            device: 0,
            cache: 0,
            activations: 0,
        });
        self.units = units.collect();
    }
}

impl MapRequest {
    /// The unit of each slot.
    fn of_slots(&self) -> HashMap<&str, usize> {
        let units = self.units.iter().enumerate();
        let slots = units.flat_map(|(nth, unit)| unit.slots.iter().map(move |slot| (&**slot, nth)));
        slots.collect()
    }
}

impl Step {
    /// Sends the weight home. A matrix that streams comes to `device`, where everything that is no matrix stays.
    fn go(&mut self, home: Home, device: usize) {
        (self.home, self.device) = match home {
            Home::Device(nth) => (home, nth),
            _ if self.slot.is_matrix() => (home, device),
            _ => (Home::Device(device), device),
        };
    }
}
