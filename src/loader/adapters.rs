//! Adapters of a configuration: beside the weights of a load, in the weights of a save.

use std::sync::Arc;

use super::engine::Engine;
use crate::{
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, merge::merges},
    error::Error,
    model::{Architecture, Slot, layers::AdapterSwitch},
    plan::{Action, Plan, PlannedAdapter},
};

impl Engine {
    /// Puts the adapters on a model that is built.
    pub(super) fn adapt<A: Architecture>(
        &self,
        model: &mut A,
    ) -> Result<Vec<AdapterSwitch>, Error> {
        let put = |config: &AdapterConfig| match config {
            AdapterConfig::Lora(config) => {
                let device = self.devices.all[0].clone();
                // A device that records gradients already has a strategy of its own.
                let device = if device.is_autodiff() {
                    device
                } else {
                    device.autodiff()
                };
                adapter::add(model, config, &device)
            }
            AdapterConfig::Folder { folder, weight } => {
                let device = self.devices.all[0].clone().without_autodiff();
                adapter::attach(model, &AdapterFile::open(folder)?, *weight, &device)
            }
        };
        let switches = self.config.adapters.iter().map(put);
        Ok(switches.collect::<Result<_, _>>()?)
    }

    /// What the adapters of a load keep beside the weights of a plan.
    pub(super) fn planned_adapters(&self, plan: &Plan) -> Result<Vec<PlannedAdapter>, Error> {
        let slots: Vec<&Slot> = plan.steps.iter().map(|step| &step.slot).collect();
        let planned = self.config.adapters.iter().map(|config| {
            let values = adapter::values(config, &slots)?;
            Ok(PlannedAdapter {
                adapter: config.to_string(),
                values,
                bytes: values * size_of::<f32>() as u64,
            })
        });
        planned.collect()
    }

    /// Merges the adapters into the steps of a plan that is saved or compared. How many steps they change.
    pub(super) fn merge(&self, plan: &mut Plan) -> Result<usize, Error> {
        let files = self.config.adapters.iter().map(|config| match config {
            AdapterConfig::Folder { folder, weight } => Ok((AdapterFile::open(folder)?, *weight)),
            AdapterConfig::Lora(config) => Err(AdapterError::Untrained {
                adapter: config.to_string(),
            }),
        });
        let files: Vec<(AdapterFile, f64)> = files.collect::<Result<_, _>>()?;
        let slots: Vec<&Slot> = plan.steps.iter().map(|step| &step.slot).collect();
        let merges = merges(&files, &slots)?;
        let count = merges.len();
        for (nth, merge) in merges {
            let step = &mut plan.steps[nth];
            if let Action::Adopt(format) = step.action {
                return Err(AdapterError::Packed {
                    module: step.slot.name.clone(),
                    format,
                }
                .into());
            }
            if !step.has_values() {
                return Err(AdapterError::NotAdaptable {
                    module: step.slot.name.clone(),
                    reason: "its values are carried over as they are stored; give a type for dense weights (--dtype f32)",
                }
                .into());
            }
            step.merge = Some(Arc::new(merge));
        }
        Ok(count)
    }
}
