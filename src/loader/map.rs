//! A map of devices: what each memory may have, and what that makes of a plan.

use std::collections::HashSet;

use super::{
    budget::{TILE_LEAST, TILES_LEAST},
    engine::Engine,
};
use crate::{
    config::{DeviceMap, Strategy, StreamFrom},
    error::Error,
    model::{Architecture, PassSize, Unit},
    plan::{Home, MapError, MapRequest, Plan, PlanError, Step},
    quant::scratch::UNPACKED_BYTES,
    target::MemoryKind,
};

/// Tokens of a sequence that room is left for, where nothing is said.
const TOKENS: usize = 4096;

impl Engine {
    /// Spreads the weights of a plan over the devices, as the configuration asks.
    pub(super) fn map<A: Architecture>(
        &self,
        plan: &mut Plan,
        config: &A::Config,
    ) -> Result<(), Error> {
        self.check_limits()?;
        let place = &self.config.place;
        if place.strategy == Strategy::Streaming {
            return Err(PlanError::from(MapError::Streaming).into());
        }
        let mut units = A::units(config);
        // One of several ranks may have some of them only.
        let here: HashSet<&str> = plan.steps.iter().map(|step| &*step.slot.name).collect();
        units.retain(|unit| unit.slots.iter().any(|slot| here.contains(&**slot)));
        let [batch, length] = place.context.unwrap_or([1, TOKENS]);
        let size = PassSize { batch, length };
        let pass = A::pass_bytes(config, &size, &self.pass_means());
        let of_unit = |unit: &Unit| {
            let layer = unit.layer.and_then(|nth| pass.as_ref()?.layers.get(nth));
            let through = pass.as_ref().map_or(0, |pass| pass.through);
            match (layer, &pass) {
                (Some(layer), _) => [layer.cache, layer.activations + through],
                (None, Some(pass)) => [0, through + pass.head],
                (None, None) => [0, 0],
            }
        };
        let folder = matches!(place.stream_from, StreamFrom::Disk(_));
        let disk = place
            .max_memory
            .as_ref()
            .map_or(folder, |limits| limits.disk);
        if disk && !folder {
            return Err(PlanError::from(MapError::NoFolder).into());
        }
        let request = MapRequest {
            pass: units.iter().map(of_unit).collect(),
            units,
            tied: A::tied(config),
            map: place.device_map.clone().unwrap_or_default(),
            limits: plan.devices.iter().map(|device| device.memory).collect(),
            host: self
                .host_room(least_beside(plan))
                .map_err(PlanError::from)?,
            disk: disk || (folder && matches!(place.device_map, Some(DeviceMap::Explicit(_)))),
            ahead: self.config.read.resolved_prefetch() as u64,
        };
        plan.map(&request)?;
        let (strategy, beside) = self.beside_map(plan);
        plan.settle_devices(strategy);
        plan.strategy_reason = reason(plan, beside);
        Ok(())
    }

    /// Bytes that the device `nth` of the list may have, where a map is followed.
    pub(super) fn mapped_limit(&self, nth: usize) -> Result<Option<u64>, MapError> {
        let place = &self.config.place;
        let (index, capabilities) = &self.devices.each[nth];
        let limits = place.max_memory.as_ref();
        let asked = limits.and_then(|limits| limits.of(*index));
        let Some(budget) = asked.or(place.device_budget) else {
            // Devices in host memory share what it has, which is counted elsewhere.
            let own = self.target.memory == MemoryKind::Device;
            let memory = capabilities.memory.filter(|_| own);
            let usable = |memory: u64| (memory / 10 * 9).saturating_sub(UNPACKED_BYTES as u64);
            return Ok(memory.map(usable));
        };
        let Some(limit) = budget.resolve(capabilities.memory) else {
            return Err(MapError::UnknownMemory {
                share: budget.to_string(),
                index: *index,
                target: self.target.name.to_owned(),
            });
        };
        within(limit, capabilities.memory, || format!("device {index}"))
    }

    /// Refuses limits that no memory can have.
    pub(super) fn check_limits(&self) -> Result<(), PlanError> {
        let place = &self.config.place;
        let indices = || self.devices.each.iter().map(|(index, _)| *index);
        let limits = place.max_memory.iter().flat_map(|limits| &limits.devices);
        let limits = limits.map(|(index, _)| ("max_memory", *index));
        let map = place.device_map.iter().flat_map(DeviceMap::indices);
        let mut named = limits.chain(map.map(|index| ("the device map", index)));
        if let Some((by, index)) = named.find(|(_, named)| !indices().any(|index| index == *named))
        {
            let indices = indices().collect();
            return Err(MapError::Unlisted { by, index, indices }.into());
        }
        if self.follows_map() {
            for nth in 0..self.devices.each.len() {
                self.mapped_limit(nth)?;
            }
            self.host_room(0)?;
        }
        Ok(())
    }

    /// Whether weights are spread by a map, and not by the strategy alone.
    pub(super) fn follows_map(&self) -> bool {
        self.config.place.is_mapped() || self.devices.each.len() > 1
    }

    /// Bytes of host memory that weights may have which no device holds, beside so many of the load; the outer `None` where they may have
    /// none.
    fn host_room(&self, beside: u64) -> Result<Option<Option<u64>>, MapError> {
        let Some(limits) = &self.config.place.max_memory else {
            return Ok(Some(match self.target.memory {
                MemoryKind::Device => self.host_bytes(),
                // Weights take the same memory wherever they are.
                MemoryKind::Host => None,
            }));
        };
        let Some(budget) = limits.host else {
            return Ok(None);
        };
        let has = self.host_memory();
        let limit = match budget.resolve(has) {
            Some(limit) => within(limit, has, || "host memory".to_owned())?,
            None => None,
        };
        let limit = limit.map(|limit| limit.saturating_sub(beside));
        Ok(Some([limit, self.host_bytes()].into_iter().flatten().min()))
    }

    /// How far reading is ahead, and why.
    fn beside_map(&self, plan: &Plan) -> (Strategy, bool) {
        let asked = self.config.place.strategy;
        if asked != Strategy::Auto {
            return (asked, false);
        }
        let stays = plan.steps.iter().filter(|step| plan.stays_on_host(step));
        let stays: u64 = stays.map(Step::bytes_finished).sum();
        let ahead = stays.saturating_add(Strategy::Full.in_flight_bytes_max());
        match self.host_bytes().is_none_or(|host| ahead <= host / 10 * 9) {
            true => (Strategy::Full, false),
            false => (Strategy::LowMemory, true),
        }
    }
}

/// Bytes of host memory that a load takes at least beside finished weights.
fn least_beside(plan: &Plan) -> u64 {
    let need = plan.need(&|_| false, TILE_LEAST);
    let in_flight = need.at_once.max(TILES_LEAST * TILE_LEAST);
    need.scratch + need.lists + in_flight
}

/// A limit that is no more than a memory `has`.
fn within(
    limit: u64,
    has: Option<u64>,
    memory: impl FnOnce() -> String,
) -> Result<Option<u64>, MapError> {
    match has.filter(|has| limit > *has) {
        None => Ok(Some(limit)),
        Some(has) => Err(MapError::Beyond {
            memory: memory(),
            limit,
            has,
        }),
    }
}

/// Where the matrices are, in words.
fn reason(plan: &Plan, low: bool) -> String {
    let count = |is_there: &dyn Fn(Home) -> bool| {
        plan.steps.iter().filter(|step| is_there(step.home)).count()
    };
    let devices = plan.devices.iter().map(|device| device.index.to_string());
    let devices: Vec<String> = devices.collect();
    let mut reason = format!(
        "{} tensors on device {}",
        count(&|home| matches!(home, Home::Device(_))),
        devices.join(", ")
    );
    for (home, name) in [(Home::Host, "in host memory"), (Home::Disk, "on disk")] {
        match count(&|there| there == home) {
            0 => {}
            some => reason.push_str(&format!(", {some} {name}")),
        }
    }
    if low {
        reason.push_str(", and little memory to read ahead");
    }
    reason
}
