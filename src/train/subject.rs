//! The model that is trained, and what of it.

use std::{collections::BTreeMap, path::Path};

use super::checkpoint::{self, CheckpointFault};
use crate::{
    adapter::{self, AdapterError, AdapterFile, LoraConfig},
    model::{
        Architecture, CausalLm,
        layers::{AdapterSwitch, Dropout},
    },
};

/// The model that is trained.
#[derive(Debug)]
pub(super) struct Subject {
    /// `None` only while it is changed.
    model: Option<CausalLm>,
    /// `None` where tensors of the model itself are trained.
    adapter: Option<TrainedAdapter>,
}

/// The adapter that is trained.
#[derive(Debug)]
pub(super) struct TrainedAdapter {
    pub(super) switch: AdapterSwitch,
    pub(super) lora: LoraConfig,
    /// The name of the base.
    pub(super) base: String,
    /// Layers of the base that are new.
    pub(super) new_blocks: Vec<usize>,
}

impl Subject {
    pub(super) fn new(model: CausalLm, adapter: Option<TrainedAdapter>) -> Self {
        Self {
            model: Some(model),
            adapter,
        }
    }

    pub(super) fn model(&self) -> &CausalLm {
        self.model.as_ref().expect("it is not being changed")
    }

    pub(super) fn change(&mut self, change: impl FnOnce(CausalLm) -> CausalLm) {
        self.model = self.model.take().map(change);
    }

    /// The adapter, as peft has it.
    pub(super) fn adapter(&mut self) -> Result<Option<AdapterFile>, AdapterError> {
        let model = self.model.as_mut().expect("it is not being changed");
        let adapter = self.adapter.as_ref();
        let file = adapter.map(|adapter| {
            let mut file = adapter::detach(model, &adapter.switch, &adapter.lora, &adapter.base)?;
            if !adapter.new_blocks.is_empty() {
                file.config = file.config.trained_beside(&adapter.new_blocks);
            }
            Ok(file)
        });
        file.transpose()
    }

    /// Writes all that is trained into a folder: the adapter as peft has it, or tensors of the model.
    pub(super) fn save(&mut self, folder: &Path) -> Result<(), CheckpointFault> {
        match self.adapter()? {
            Some(adapter) => Ok(adapter.save(folder)?),
            None => checkpoint::write_trained(folder, self.model()),
        }
    }

    /// How many masks each dropout has drawn, by module.
    pub(super) fn dropout_calls(&mut self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        self.dropouts(|path, dropout| {
            calls.insert(path.to_owned(), dropout.calls());
        });
        calls
    }

    /// Goes on with masks where another process was.
    pub(super) fn set_dropout_calls(&mut self, calls: &BTreeMap<String, u64>) {
        self.dropouts(|path, dropout| {
            if let Some(calls) = calls.get(path) {
                dropout.set_calls(*calls);
            }
        });
    }

    /// Draws the masks of the `part`th of several equal parts of each batch.
    pub(super) fn set_dropout_part(&mut self, part: u64) {
        self.dropouts(|_, dropout| dropout.set_part(part));
    }

    fn dropouts(&mut self, mut visit: impl FnMut(&str, &Dropout)) {
        let model = self.model.as_mut().expect("it is not being changed");
        for mut place in model.adaptable() {
            let path = place.path().to_owned();
            for adapter in place.adapters().iter() {
                let low_rank = adapter.low_rank.as_ref();
                if let Some(dropout) = low_rank.and_then(|low_rank| low_rank.dropout.as_ref()) {
                    visit(&path, dropout);
                }
            }
        }
    }
}
