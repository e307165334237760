//! The model that is trained, and the adapter on it.

use std::collections::BTreeMap;

use crate::{
    adapter::{self, AdapterError, AdapterFile, LoraConfig},
    model::{Architecture, CausalLm, layers::AdapterSwitch},
};

/// The model that is trained, and the adapter on it.
#[derive(Debug)]
pub(super) struct Subject {
    /// `None` only while it is changed.
    model: Option<CausalLm>,
    switch: AdapterSwitch,
    lora: LoraConfig,
    /// The name of the base.
    base: String,
}

impl Subject {
    pub(super) fn new(
        model: CausalLm,
        switch: AdapterSwitch,
        lora: LoraConfig,
        base: String,
    ) -> Self {
        Self {
            model: Some(model),
            switch,
            lora,
            base,
        }
    }

    pub(super) fn model(&self) -> &CausalLm {
        self.model.as_ref().expect("it is not being changed")
    }

    fn model_mut(&mut self) -> &mut CausalLm {
        self.model.as_mut().expect("it is not being changed")
    }

    pub(super) fn change(&mut self, change: impl FnOnce(CausalLm) -> CausalLm) {
        self.model = self.model.take().map(change);
    }

    /// The adapter, as peft has it.
    pub(super) fn adapter(&mut self) -> Result<AdapterFile, AdapterError> {
        let (switch, lora, base) = (self.switch.clone(), self.lora.clone(), self.base.clone());
        adapter::detach(self.model_mut(), &switch, &lora, &base)
    }

    /// How many masks each dropout has drawn, by module.
    pub(super) fn dropout_calls(&mut self) -> BTreeMap<String, u64> {
        let mut calls = BTreeMap::new();
        for mut place in self.model_mut().adaptable() {
            let path = place.path().to_owned();
            for adapter in place.adapters().iter() {
                let dropout = adapter
                    .low_rank
                    .as_ref()
                    .and_then(|low| low.dropout.as_ref());
                if let Some(dropout) = dropout {
                    calls.insert(path.clone(), dropout.calls());
                }
            }
        }
        calls
    }

    /// Goes on with masks where another process was.
    pub(super) fn set_dropout_calls(&mut self, calls: &BTreeMap<String, u64>) {
        for mut place in self.model_mut().adaptable() {
            let Some(calls) = calls.get(place.path()).copied() else {
                continue;
            };
            for adapter in place.adapters().iter() {
                let dropout = adapter
                    .low_rank
                    .as_ref()
                    .and_then(|low| low.dropout.as_ref());
                if let Some(dropout) = dropout {
                    dropout.set_calls(calls);
                }
            }
        }
    }
}
