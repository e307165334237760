//! One configuration, planned.

use super::{RecommendError, Task, training::training};
use crate::{
    config::{DeviceMemories, StatedMemory, Strategy},
    error::Error,
    loader::Planner,
    model::{CausalLm, PassSize, Role, decoder::Spec},
    plan::{DeviceMemory, Home, Lacking, MemoryPlan, Plan, PlanError, Step},
    quant::QuantSpec,
    train::FinetuneConfig,
};

/// The choices of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) quant: QuantSpec,
    pub(super) strategy: Strategy,
    /// Devices that are used, from the first on.
    pub(super) devices: usize,
    pub(super) size: PassSize,
    pub(super) recompute: bool,
}

/// A trial, and what it takes.
#[derive(Debug, Clone)]
pub(super) struct Tried {
    pub(super) trial: Trial,
    pub(super) plan: Plan,
    pub(super) memory: MemoryPlan,
    pub(super) finetune: Option<FinetuneConfig>,
    /// Bits of a linear weight, scales included.
    pub(super) bits: f64,
    /// Why a load refuses it.
    pub(super) refused: Option<String>,
    pub(super) planner: Planner,
}

impl Trial {
    /// Plans it; `None` where the method cannot pack the model.
    pub(super) fn plan(
        &self,
        planner: &Planner,
        task: &Task,
        spec: &Spec,
    ) -> Result<Option<Tried>, RecommendError> {
        let finetune = task.finetune(&self.quant, self.size, self.recompute);
        let stated = self.stated(planner);
        let planner = planner.with(stated.as_ref(), |config| {
            let config = config.quant(self.quant.clone()).strategy(self.strategy);
            let config = match (stated.is_some(), self.devices) {
                (false, _) => config,
                (true, 1) => config.devices([0]),
                (true, several) => config
                    .devices(0..several)
                    .context(self.size.batch, self.size.length),
            };
            task.load_config(config, finetune.as_ref())
        });
        let plan = match planner.plan::<CausalLm>() {
            Err(Error::Plan(PlanError::Unfit { .. } | PlanError::Map(_))) => return Ok(None),
            plan => plan?,
        };
        let training = training(finetune.as_ref(), &plan, spec, self.size.length)?;
        let memory = planner.memory::<CausalLm>(&plan, Some(self.size), training)?;
        let refused = match planner.check(&plan) {
            Ok(()) => None,
            Err(error @ Error::Plan(PlanError::Missing { .. })) => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        Ok(Some(Tried {
            trial: self.clone(),
            bits: bits(&plan),
            plan,
            memory,
            finetune,
            refused,
            planner,
        }))
    }

    /// The memory of the devices that are used.
    fn stated(&self, planner: &Planner) -> Option<StatedMemory> {
        let stated = planner.stated()?;
        let bytes = stated.devices.bytes();
        let devices = bytes.iter().cycle().take(self.devices).copied().collect();
        Some(StatedMemory {
            devices: DeviceMemories::new(devices).ok()?,
            ..stated.clone()
        })
    }
}

/// The share of a memory that a recommended configuration leaves free: as much as the plan may be wrong by.
const SPARE: u64 = 32;

impl Tried {
    /// What is too small for it, with a little to spare.
    pub(super) fn lacking(&self) -> Vec<Lacking> {
        let memory = &self.memory;
        if self.spills() {
            // All of it was to be on the devices.
            let fixed = |device: &DeviceMemory| {
                device.fixed.unwrap_or(0) + device.cache + device.activations + device.training
            };
            let limits: Option<u64> = memory.devices.iter().map(|device| device.limit).sum();
            return vec![Lacking {
                place: match &memory.devices[..] {
                    [one] => one.place(),
                    several => format!("{} devices", several.len()),
                },
                needed: memory.bytes_packed + memory.devices.iter().map(fixed).sum::<u64>(),
                memory: limits.unwrap_or(0),
            }];
        }
        let with_spare = |lacking: Lacking| Lacking {
            needed: lacking.needed + lacking.needed / SPARE,
            ..lacking
        };
        let all = memory.places().into_iter().map(with_spare);
        all.filter(|place| place.needed > place.memory).collect()
    }

    pub(super) fn fits(&self) -> bool {
        self.refused.is_none() && self.lacking().is_empty()
    }

    /// Whether weights are streamed although that was not tried.
    fn spills(&self) -> bool {
        let streams = |step: &Step| matches!(step.home, Home::Host | Home::Disk);
        self.trial.strategy != Strategy::Streaming && self.plan.steps.iter().any(streams)
    }
}

/// Bits of a linear weight on average.
fn bits(plan: &Plan) -> f64 {
    let linear = plan.steps.iter();
    let linear = linear.filter(|step| matches!(step.slot.role, Role::Linear | Role::Expert));
    let (bytes, values) = linear.fold((0, 0), |(bytes, values), step| {
        let count = step.slot.shape.iter().product::<usize>();
        (bytes + step.bytes_finished(), values + count)
    });
    bytes as f64 * 8.0 / values.max(1) as f64
}
