//! Saving a module: a plan for a checkpoint whose values are those of the module.
//!
//! ```text
//! module ─► held values ─┐
//!                        ├─► ModuleSource, catalog ─► plan ─► folder, as any save
//! checkpoint ────────────┘
//! ```
//!
//! The checkpoint gives names, types and shapes of the tensors, `config.json`, small files, and the tensors that the module has
//! not (a tower of another modality).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{
    engine::Engine,
    module_layout::{Layouter, Wanted},
    module_source::ModuleSource,
};
use crate::{
    adapter::AdapterError,
    config::{LoadConfig, PackConfig, ReadConfig, SaveConfig},
    dialect::{DECLARED, torch},
    error::Error,
    model::{Architecture, Slot, SlotValues, TIED_HEAD, held},
    place::SaveError,
    plan::{Plan, whole_stacks},
    quant::QuantSpec,
    report::Saved,
};

/// Bytes of a module's values that are read ahead: it is all in memory, so that more are copies for nothing.
const AHEAD: u64 = 32 << 20;

impl Engine {
    /// Saves a module of the checkpoint's model.
    pub(super) fn save_module<A: Architecture + Clone>(
        &self,
        model: &A,
        to: &SaveConfig,
    ) -> Result<Saved, Error> {
        let loaded = self.model_config::<A>()?;
        let mut held = held(&mut model.clone());
        let tied = A::tied(&loaded);
        let own_head = tied.as_ref().filter(|tied| has_own_head(&mut held, tied));
        let config = match own_head {
            Some(_) => A::untied(loaded.clone()),
            None => loaded.clone(),
        };
        let slots = A::slots(&config);
        let plan = self.bind::<A>(&loaded)?;
        let wanted = slots.iter().map(|slot| self.wanted(slot, &mut held));
        let layout = Layouter {
            checkpoint: self.checkpoint(),
            dtype: self.config.pack.dtype,
            plan: &plan,
            wanted: wanted.collect::<Result<_, _>>()?,
            copy: tied.as_ref().filter(|_| own_head.is_none()),
        }
        .lay_out(self.dialect.clone());

        let checkpoint = self.checkpoint();
        let source = ModuleSource::new(Arc::clone(checkpoint.source()), layout.tensors);
        let mut config_json = checkpoint.config().clone();
        if let Some(fields) = config_json.as_object_mut() {
            // What is packed is declared anew.
            fields.retain(|field, _| !DECLARED.contains(&&**field));
            let types = ["dtype", "torch_dtype"].into_iter();
            for (field, dtype) in types.zip([self.config.pack.dtype; 2]) {
                if let (Some(said), Some(dtype)) = (fields.get_mut(field), dtype) {
                    *said = torch(dtype).into();
                }
            }
        }
        let untied = match own_head {
            Some([_, head]) => Some(head.clone()),
            None => self.untied.get().cloned().flatten(),
        };
        let ahead = self.config.read.in_flight_bytes_max;
        let engine = Self {
            config: LoadConfig {
                // They are on the module.
                adapters: Vec::new(),
                pack: PackConfig {
                    // The columns of a module that was loaded so are balanced.
                    presinq: false,
                    ..self.config.pack.clone()
                },
                read: ReadConfig {
                    in_flight_bytes_max: Some(ahead.map_or(AHEAD, |asked| asked.min(AHEAD))),
                    ..self.config.read.clone()
                },
                ..self.config.clone()
            },
            shared: self.shared.clone(),
            observers: self.observers.clone(),
            opened: checkpoint.viewed(Arc::new(source), config_json, layout.catalog),
            named: OnceLock::new(),
            dialect: Some(Arc::new(layout.dialect)),
            target: self.target,
            devices: self.devices.clone(),
            capabilities: self.capabilities.clone(),
            dtype: self.dtype,
            tokenizer: OnceLock::new(),
            untied: OnceLock::from(untied),
            new_blocks: self.new_blocks.clone(),
            dense: Vec::new(),
            is_module: true,
            stated: None,
            launched: None,
            messages: None,
        };
        let slots = whole_stacks(layout.slots, &engine.request())?;
        let plan: Plan = engine.bind_to_files::<A>(&config, &slots)?;
        engine.save_plan(plan, to, engine.stacks::<A>()?, &str::to_owned)
    }

    /// The values of a slot, and what becomes of them.
    fn wanted<'s>(
        &self,
        slot: &'s Slot,
        held: &mut HashMap<String, SlotValues>,
    ) -> Result<Wanted<'s>, Error> {
        let Some(held) = held.remove(&slot.name) else {
            let slot = slot.name.clone();
            return Err(SaveError::NotInModule { slot }.into());
        };
        if held.len() != slot.shape.iter().product::<usize>() {
            return Err(SaveError::OtherModule {
                slot: slot.name.clone(),
                found: held.len(),
                expected: slot.shape.clone(),
            }
            .into());
        }
        let pack = &self.config.pack;
        let quant = slot.quant(&pack.policy);
        let gives_back = pack.dequantize || pack.requantize;
        let packs = quant.method().is_some() || matches!(quant, QuantSpec::Auto(_));
        let format = held.format();
        if let Some(format) = format.filter(|_| held.is_changed() && !gives_back && !packs) {
            return Err(AdapterError::Packed {
                module: slot.name.clone(),
                format,
            }
            .into());
        }
        Ok(Wanted {
            slot,
            keeps: format.filter(|_| !held.is_changed() && !gives_back),
            // Values that are decoded to be packed again are not rounded between.
            is_exact: format.is_some() && (pack.requantize || packs),
            held,
        })
    }
}

/// Whether the head of a model that ties it to the embedding is another matrix in the module: trained, or left as it was while
/// the rows of the embedding were changed. It has its values under the name of its slot then.
fn has_own_head(held: &mut HashMap<String, SlotValues>, [table, head]: &[String; 2]) -> bool {
    let of_module = held.remove(&format!("{TIED_HEAD}.weight"));
    let Some(embedding) = held.get(table) else {
        return false;
    };
    let own = of_module.or_else(|| embedding.is_changed().then(|| embedding.unchanged()));
    let own = own.filter(|own| own.floats() != embedding.floats());
    let differs = own.is_some();
    held.extend(own.map(|own| (head.clone(), own)));
    differs
}
