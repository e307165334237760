//! Memory: how much a load may take, where finished weights live, and how much may be read ahead.

use super::{
    allowance::{Allowance, worker_count},
    choose::{MemoryFacts, choose},
    engine::Engine,
};
use crate::{
    config::{Strategy, StreamFrom},
    error::Error,
    pipeline::tile_bytes,
    plan::{DeviceFacts, Home, Need, Plan, PlanError, Step},
    quant::scratch::UNPACKED_BYTES,
    target::{MemoryKind, memory},
};

/// Left to threads, buffers and what else a process has, where the system limits all of it.
const RESERVE: u64 = 32 << 20;

/// The smallest tiles that a budget is kept by: below, reads cost more than their bytes.
pub(super) const TILE_LEAST: u64 = 64 << 10;

/// Tiles in flight at least: one is read while another is converted.
pub(super) const TILES_LEAST: u64 = 2;

/// Rows of a weight that are unpacked at a time while many inputs are multiplied, at most.
pub(super) const UNPACKED: u64 = UNPACKED_BYTES as u64;

impl Engine {
    /// Refuses a plan that cannot be carried out: tensors are missing, or it does not fit. Returns how much may be read
    /// ahead.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`].
    pub(super) fn check(&self, plan: &Plan) -> Result<Allowance, Error> {
        plan.check_complete()?;
        let allowance = self.allowance(plan, &|_| false)?;
        plan.check(allowance.in_flight)?;
        Ok(allowance)
    }

    /// Chooses where `bytes` of finished weights live, unless the caller has.
    pub(super) fn choose_strategy(&self, plan: &mut Plan, bytes: u64) {
        let asked = self.config.place.strategy;
        let (strategy, reason) = match asked {
            Strategy::Auto => choose(&MemoryFacts {
                weights: bytes,
                host: self.host_bytes_for(asked),
                device: self.device_bytes(),
                memory: self.target.memory,
                unified: self.capabilities.unified,
                disk: matches!(self.config.place.stream_from, StreamFrom::Disk(_)),
            }),
            _ => (asked, "asked for".to_owned()),
        };
        plan.settle(strategy, &self.config.place.stream_from);
        plan.strategy_reason = reason;
    }

    /// The devices that the model computes on.
    pub(super) fn devices(&self) -> Vec<DeviceFacts> {
        let on_host = self.target.memory == MemoryKind::Host;
        let each = self.devices.each.iter().enumerate();
        let facts = each.map(|(nth, (index, capabilities))| DeviceFacts {
            target: self.target.name.to_owned(),
            index: *index,
            name: capabilities.name.clone(),
            on_host,
            memory: match self.follows_map() {
                // What cannot be is refused when the checkpoint is opened.
                true => self.mapped_limit(nth).ok().flatten(),
                false => self.device_bytes().filter(|_| !on_host),
            },
            largest_allocation: self.capabilities.largest_allocation,
            packs: !on_host,
        });
        facts.collect()
    }

    /// The allowance that was asked for, or the rest of the budget: tiles get smaller first.
    ///
    /// # Errors
    ///
    /// [`PlanError::HostBudget`] where it leaves too little.
    pub(super) fn allowance(
        &self,
        plan: &Plan,
        by_rows: &dyn Fn(&Step) -> bool,
    ) -> Result<Allowance, Error> {
        self.allowance_beside(plan, by_rows, 0)
    }

    /// The same beside so many bytes that are taken otherwise.
    pub(super) fn allowance_beside(
        &self,
        plan: &Plan,
        by_rows: &dyn Fn(&Step) -> bool,
        beside: u64,
    ) -> Result<Allowance, Error> {
        let asked = self.asked(plan.strategy);
        let workers = |tile| worker_count(self.config.read.workers, tile, plan.converts());
        let mut tile = packed_beside(plan, asked.tile);
        let Some(budget) = self.host_bytes_for(plan.strategy) else {
            let workers = workers(tile);
            return Ok(Allowance {
                workers,
                tile,
                ..asked
            });
        };
        loop {
            let Need {
                kept,
                scratch,
                lists,
                at_once,
                tensor,
            } = plan.need(by_rows, tile);
            let taken = [scratch, lists, beside].into_iter();
            let taken = taken.fold(kept, u64::saturating_add);
            let least = at_once.max(TILES_LEAST * tile);
            if taken.saturating_add(least) <= budget {
                return Ok(Allowance {
                    in_flight: asked.in_flight.min(budget - taken),
                    tile,
                    workers: workers(tile),
                });
            }
            if tile <= TILE_LEAST {
                return Err(PlanError::HostBudget {
                    budget,
                    needed: taken.saturating_add(least),
                    kept,
                    lists,
                    at_once,
                    tensor,
                }
                .into());
            }
            tile /= 2;
        }
    }

    /// The allowance that was asked for, without regard to memory.
    pub(super) fn asked(&self, strategy: Strategy) -> Allowance {
        let in_flight = match &self.shared {
            Some(shared) => shared.in_flight().max(),
            None => self.config.read.resolved_in_flight_bytes_max(strategy),
        };
        let tile = match self.config.read.shard_bytes {
            Some(shard) => shard.min(in_flight),
            None => tile_bytes(in_flight),
        };
        Allowance {
            in_flight,
            tile,
            workers: worker_count(self.config.read.workers, tile, true),
        }
    }

    /// Bytes of host memory that the load may take: its budget, the limit of a map, or what the system leaves.
    pub(super) fn host_bytes(&self) -> Option<u64> {
        let all = self.host_memory();
        let left = all.map(|all| all.saturating_sub(memory::anonymous().unwrap_or(0) + RESERVE));
        let budget = self.config.place.host_budget;
        let budget = budget.and_then(|budget| budget.resolve(all));
        let limits = [budget, self.mapped_host(), left];
        limits.into_iter().flatten().min()
    }

    /// Bytes that a map lets the load have of host memory, which may be that of devices too.
    fn mapped_host(&self) -> Option<u64> {
        let limits = self.config.place.max_memory.as_ref()?;
        let limit = limits.host?.resolve(self.host_memory())?;
        match self.target.memory {
            MemoryKind::Device => Some(limit),
            // Limits of both bound it together; devices without one have no memory but the host's.
            MemoryKind::Host => Some(limit.saturating_add(self.device_bytes().unwrap_or(0))),
        }
    }

    /// [`host_bytes`](Self::host_bytes). A target without memory of its own keeps finished weights in host memory, so the budget
    /// of the device bounds them too, unless they are streamed.
    pub(super) fn host_bytes_for(&self, strategy: Strategy) -> Option<u64> {
        let device = match (self.target.memory, strategy) {
            (MemoryKind::Device, _) | (_, Strategy::Streaming) => None,
            // What a map counts by device is in host memory together.
            _ if self.follows_map() => None,
            (MemoryKind::Host, _) => self.device_bytes(),
        };
        [device, self.host_bytes()].into_iter().flatten().min()
    }

    /// Bytes of finished weights that fit where the model goes, beside what a load has in flight and a product unpacks.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoBudget`] where the size of the memory is unknown.
    pub(super) fn fitting(&self) -> Result<u64, Error> {
        let device = self.device_bytes();
        let (memory, beside) = match self.target.memory {
            MemoryKind::Device => (device, UNPACKED),
            MemoryKind::Host => {
                let memory = [device, self.host_bytes()].into_iter().flatten().min();
                let in_flight = self
                    .config
                    .read
                    .resolved_in_flight_bytes_max(Strategy::LowMemory);
                (memory, in_flight + UNPACKED)
            }
        };
        let memory = memory.ok_or(PlanError::NoBudget {
            target: self.target.name,
        })?;
        Ok(memory.saturating_sub(beside))
    }

    /// Bytes of the device's memory that may be used; of all devices together, where a map is followed.
    pub(super) fn device_bytes(&self) -> Option<u64> {
        if self.follows_map() {
            let all = 0..self.devices.each.len();
            return all.map(|nth| self.mapped_limit(nth).ok().flatten()).sum();
        }
        let all = self.capabilities.memory;
        let budget = self.config.place.device_budget;
        budget.map_or(all, |budget| budget.resolve(all))
    }
}

/// The size of the tiles that devices pack beside what they keep, `most` at most: twice a tile is there while one is packed.
fn packed_beside(plan: &Plan, most: u64) -> u64 {
    let devices = plan.devices.iter().enumerate();
    let rooms = devices
        .filter(|(_, device)| !device.on_host)
        .filter_map(|(nth, device)| {
            let here = || {
                let steps = plan.steps.iter();
                steps.filter(move |step| step.home == Home::Device(nth))
            };
            let packed = here().filter(|step| plan.packs_on_device(step));
            let packed = packed.map(Step::bytes_finished).max()?;
            let kept: u64 = here().map(Step::bytes_kept).sum();
            Some(device.memory?.saturating_sub(kept + packed) / 2)
        });
    rooms
        .min()
        .map_or(most, |room| room.max(TILE_LEAST).min(most))
}
