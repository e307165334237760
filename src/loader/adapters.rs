//! Adapters of a configuration: beside the weights of a load, in the weights of a save.

use std::sync::Arc;

use super::engine::Engine;
use crate::{
    adapter::{self, AdapterConfig, AdapterError, AdapterFile, merge::merges, tied::comes_apart},
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
                let file = AdapterFile::open(folder)?;
                adapter::check_numbers(model, &file, &self.new_blocks)?;
                adapter::attach(model, &file, *weight, &device)
            }
        };
        let switches = self.config.adapters.iter().map(put);
        Ok(switches.collect::<Result<_, _>>()?)
    }

    /// What the adapters of a load keep beside the weights of a plan.
    ///
    /// # Errors
    ///
    /// [`AdapterError`] where one cannot be put on the model.
    pub(super) fn planned_adapters<A: Architecture>(
        &self,
        config: &A::Config,
        plan: &Plan,
    ) -> Result<Vec<PlannedAdapter>, Error> {
        let module_of = |path: &str| A::module_of(config, path);
        let slots: Vec<&Slot> = plan.steps.iter().map(|step| &step.slot).collect();
        let all = A::slots(config);
        let planned = self.config.adapters.iter().map(|adapter| {
            adapter::check(adapter, &all, &module_of, &self.new_blocks)?;
            let values = adapter::values(adapter, &slots, &module_of)?;
            Ok(PlannedAdapter {
                adapter: adapter.to_string(),
                values,
                bytes: values * size_of::<f32>() as u64,
            })
        });
        planned.collect()
    }

    /// The slots of a model that adapters are merged into, and the tensor of its head where they make another matrix of a head
    /// that is the embedding: it has the values of the embedding before.
    pub(super) fn merged_slots<A: Architecture>(
        &self,
        config: &A::Config,
    ) -> Result<(Vec<Slot>, Option<String>), Error> {
        let slots = A::slots(config);
        let tied = A::tied(config).filter(|_| !self.config.adapters.is_empty());
        let Some([table, head]) = tied else {
            return Ok((slots, None));
        };
        let path = table.strip_suffix(".weight").unwrap_or(&table);
        let modules = [path.to_owned(), A::module_of(config, path)];
        let files = self.adapter_files()?;
        let is_table = |module: &str| modules.iter().any(|it| it == module);
        if !files.iter().any(|(file, _)| comes_apart(file, is_table)) {
            return Ok((slots, None));
        }
        let mut of_table = slots.into_iter().filter(|slot| slot.name == table);
        let of_table = of_table.next().map_or_else(Vec::new, |slot| slot.from);
        let slots = A::slots(&A::untied(config.clone())).into_iter();
        let slots = slots.map(|slot| match slot.name == head {
            true => slot.made_of(of_table.clone()),
            false => slot,
        });
        Ok((slots.collect(), Some(head)))
    }

    /// The adapters that are merged, each with its weight.
    fn adapter_files(&self) -> Result<Vec<(AdapterFile, f64)>, AdapterError> {
        let files = self.config.adapters.iter().map(|config| match config {
            AdapterConfig::Folder { folder, weight } => Ok((AdapterFile::open(folder)?, *weight)),
            AdapterConfig::Lora(config) => Err(AdapterError::Untrained {
                adapter: config.to_string(),
            }),
        });
        files.collect()
    }

    /// Merges the adapters into the steps of a plan that is saved or compared. How many steps they change. `module_of` gives the
    /// name in transformers of the module at a path.
    pub(super) fn merge(
        &self,
        plan: &mut Plan,
        module_of: &dyn Fn(&str) -> String,
    ) -> Result<usize, Error> {
        let files = self.adapter_files()?;
        let slots: Vec<&Slot> = plan.steps.iter().map(|step| &step.slot).collect();
        let merges = merges(&files, &slots, module_of, &self.new_blocks)?;
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
