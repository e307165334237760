//! What a training run is asked to do, as data.

use core::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    keys::{FinetuneConfigError, optimizer, setting, unfit, words_or_fields, wrong},
    optimizer::OptimizerConfig,
    schedule::{Decay, Schedule, warmup_steps},
};
use crate::{
    config::{AdapterConfig, Expand, LoadConfig, LoraConfig, TrainType},
    quant::QuantSpec,
};

/// A training run. The fields have the names of the flags of `firebox finetune`, and a file for `--config` has them as keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FinetuneConfig {
    /// A file or a folder of texts: plain text, or JSON lines.
    pub data: PathBuf,
    /// Texts that are not trained on, to measure perplexity with.
    pub eval: Option<PathBuf>,
    /// The folder of the run. Checkpoints, metrics and the adapter come into it.
    pub out: PathBuf,
    /// What becomes of the linear weights of the base.
    pub quant: QuantSpec,
    /// What is trained, and what the rest is packed as. By itself it is new factors, or new blocks where there is `expand`.
    pub train_type: Option<TrainType>,
    /// New factors, or the folder of an adapter that is trained further. Factors of rank 16 for all linear layers, if not given.
    #[serde(deserialize_with = "words_or_fields")]
    pub adapter: Option<AdapterConfig>,
    /// New blocks, which are trained whole and stay dense (LLaMA-Pro).
    #[serde(deserialize_with = "words_or_fields")]
    pub expand: Option<Expand>,
    /// Steps of the optimizer. They come from `epochs` if not given.
    pub steps: Option<u64>,
    /// How often the data is seen, where `steps` is not given; once if that is not given either.
    pub epochs: Option<f64>,
    /// Rows of one forward pass.
    pub batch: usize,
    /// Tokens of a row at most. The positions of the model, at most 512, if not given.
    pub length: Option<usize>,
    /// Batches whose gradients are added up for a step.
    pub accumulation: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// How the learning rate falls after the warm-up.
    pub schedule: Decay,
    /// Steps in which the learning rate rises; below 1 a share of all steps.
    pub warmup: f64,
    /// The share of the learning rate that is left at the end.
    pub floor: f64,
    /// The optimizer.
    #[serde(deserialize_with = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// Decoupled weight decay, in the place of the optimizer's own.
    pub weight_decay: Option<f64>,
    /// Gradients whose norm, over all of them, is above it are shrunk to it; 0 to leave them.
    pub clip: f64,
    /// The order of the data, and where new factors begin.
    pub seed: u64,
    /// Steps between two evaluations; there is one before the first and one after the last step.
    pub eval_every: Option<u64>,
    /// Steps between two checkpoints; a tenth of all steps if not given. There is one after the last step too.
    pub checkpoint_every: Option<u64>,
    /// Checkpoints that are kept, 2 at least.
    pub keep: usize,
    /// The run ends after so many evaluations in a row without a lower perplexity.
    pub patience: Option<u64>,
    /// Whether blocks are computed again for their gradients, which saves the memory of their activations.
    pub recompute: bool,
    /// Whether short documents share rows.
    pub packing: bool,
}

/// Rows of a batch at most.
const BATCH_MAX: usize = 1 << 16;

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            eval: None,
            out: PathBuf::new(),
            quant: QuantSpec::None,
            train_type: None,
            adapter: None,
            expand: None,
            steps: None,
            epochs: None,
            batch: 4,
            length: None,
            accumulation: 1,
            learning_rate: 2e-4,
            schedule: Decay::Cosine,
            warmup: 0.03,
            floor: 0.1,
            optimizer: OptimizerConfig::default(),
            weight_decay: None,
            clip: 1.0,
            seed: 0,
            eval_every: None,
            checkpoint_every: None,
            keep: 2,
            patience: None,
            recompute: false,
            packing: true,
        }
    }
}

impl FinetuneConfig {
    /// A run with these settings; `_` and `-` are one letter in keys, and what is not said has its default.
    ///
    /// # Errors
    ///
    /// [`FinetuneConfigError`].
    pub fn from_map(settings: Map<String, Value>) -> Result<Self, FinetuneConfigError> {
        let mut config = Map::new();
        for (key, value) in settings {
            let name = setting(&key)?;
            // Alone first, so that an error can name the key.
            let alone = Map::from_iter([(name.to_owned(), value.clone())]);
            let read = serde_json::from_value::<Self>(alone.into());
            read.map_err(|error| unfit(name, &value, Some(&error)))?;
            config.insert(name.to_owned(), value);
        }
        let config: Self = serde_json::from_value(config.into())
            .map_err(|error| wrong("the whole", &Value::Null, &error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The error of a value of a file for which JSON has no words, such as a date or an infinite number.
    pub fn refused(key: &str, found: impl fmt::Display) -> FinetuneConfigError {
        match setting(key) {
            Ok(name) => unfit(name, &found.to_string().into(), None),
            Err(error) => error,
        }
    }

    /// Refuses values that mean nothing.
    ///
    /// # Errors
    ///
    /// [`FinetuneConfigError::Missing`] and [`FinetuneConfigError::Value`].
    pub fn check(&self) -> Result<(), FinetuneConfigError> {
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        for (key, path, reason) in [
            (
                "data",
                &self.data,
                "name a file or a folder of texts, --data FILE (or `data` in the file of --config)",
            ),
            (
                "out",
                &self.out,
                "name a folder for the run, --out DIR (or `out` in the file of --config)",
            ),
        ] {
            if path.as_os_str().is_empty() {
                return Err(FinetuneConfigError::Missing { key, reason });
            }
        }
        let checks: [(&str, &dyn fmt::Display, bool, &str); 14] = [
            (
                "steps",
                &self.steps.unwrap_or(1),
                self.steps != Some(0),
                "a run has a step at least",
            ),
            (
                "epochs",
                &self.epochs.unwrap_or(1.0),
                self.epochs
                    .is_none_or(|epochs| finite(epochs) && epochs > 0.0),
                "write a number above 0",
            ),
            (
                "batch",
                &self.batch,
                (1..=BATCH_MAX).contains(&self.batch),
                "a batch has 1 to 65536 rows; --accumulation adds up more",
            ),
            (
                "length",
                &self.length.unwrap_or(2),
                self.length.is_none_or(|length| length >= 2),
                "a row needs 2 tokens: the first one has none before it",
            ),
            (
                "accumulation",
                &self.accumulation,
                (1..=BATCH_MAX).contains(&self.accumulation),
                "a step has 1 to 65536 batches",
            ),
            (
                "learning-rate",
                &self.learning_rate,
                // It is multiplied by values in f32.
                (self.learning_rate as f32).is_normal() && self.learning_rate > 0.0,
                "write a number above 0, such as 2e-4",
            ),
            (
                "warmup",
                &self.warmup,
                finite(self.warmup),
                "write a number of steps, or a share below 1",
            ),
            (
                "floor",
                &self.floor,
                (0.0..=1.0).contains(&self.floor),
                "write a share from 0 to 1",
            ),
            (
                "weight-decay",
                &self.weight_decay.unwrap_or(0.0),
                self.weight_decay.is_none_or(finite),
                "write 0 or a number above it",
            ),
            (
                "clip",
                &self.clip,
                finite(self.clip),
                "write 0 or a number above it",
            ),
            (
                "keep",
                &self.keep,
                self.keep >= 2,
                "keep 2 at least: one may be written while the computer fails",
            ),
            (
                "patience",
                &self.patience.unwrap_or(1),
                self.patience != Some(0),
                "write a whole number above 0",
            ),
            (
                "eval-every",
                &self.eval_every.unwrap_or(1),
                self.eval_every != Some(0),
                "write a whole number above 0",
            ),
            (
                "checkpoint-every",
                &self.checkpoint_every.unwrap_or(1),
                self.checkpoint_every != Some(0),
                "write a whole number above 0",
            ),
        ];
        if let Some((key, found, _, reason)) = checks.into_iter().find(|(_, _, good, _)| !good) {
            return Err(wrong(key, &found.to_string().into(), reason));
        }
        let needs_eval = [
            ("patience", self.patience.is_some()),
            ("eval-every", self.eval_every.is_some()),
        ];
        if let Some((key, _)) = needs_eval
            .into_iter()
            .find(|(_, set)| *set && self.eval.is_none())
        {
            return Err(wrong(
                key,
                &"set".into(),
                "it needs texts to measure with (--eval FILE)",
            ));
        }
        if let Some(train) = self.train_type {
            let against = match train.has_factors() {
                true if self.expand.is_some() => Some("`expand`"),
                false if self.adapter.is_some() => Some("`adapter`"),
                false if !train.has_new_blocks() && self.expand.is_some() => Some("`expand`"),
                _ => None,
            };
            if let Some(against) = against {
                let reason = format!("{against} is set too, and this type does not train it");
                return Err(wrong("train-type", &train.name().into(), &reason));
            }
        }
        if self.adapter.is_some() && self.expand.is_some() {
            let reason =
                "`adapter` is set too; new blocks are trained whole, without factors beside them";
            return Err(wrong("expand", &"set".into(), reason));
        }
        if self.steps.is_some() && self.epochs.is_some() {
            return Err(wrong(
                "epochs",
                &"set".into(),
                "`steps` is set too; one of them says when the run ends",
            ));
        }
        Ok(())
    }

    /// Whether an adapter is trained: new factors, or those of a folder.
    pub fn trains_adapter(&self) -> bool {
        match self.train_type {
            Some(train) => train.has_factors(),
            None => self.expand.is_none(),
        }
    }

    /// How the base is loaded for the run: its quantization, its new blocks, and the adapter. The seed of the run is added to that of
    /// new factors.
    pub fn load_config(&self, base: LoadConfig) -> LoadConfig {
        let mut load = base.quant(self.quant.clone());
        load.adapters = Vec::new();
        if let Some(expand) = self.expand {
            load = load.expand(expand);
        }
        let new = LoraConfig::new(16, 32.0);
        let (mut lora, folder) = match self.adapter.clone() {
            Some(AdapterConfig::Lora(lora)) => (lora, None),
            folder => (new, folder),
        };
        lora.seed = lora.seed.wrapping_add(self.seed);
        match (self.train_type, folder) {
            (Some(train), None) => train.config(load, &lora),
            (train, Some(folder)) => {
                let mut load = match train {
                    Some(train) => train.config(load, &lora),
                    None => load,
                };
                load.adapters = vec![folder];
                load
            }
            (None, None) if self.trains_adapter() => load.adapter(lora),
            (None, None) => {
                // Packed blocks cannot be trained.
                let expand = load.expand.unwrap_or_default();
                load.expand(expand.dense())
            }
        }
    }

    /// The optimizer, with the weight decay.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            decay: self.weight_decay.unwrap_or(self.optimizer.decay),
            ..self.optimizer
        }
    }

    /// The learning rate of a run of `steps` steps.
    pub fn learning_rates(&self, steps: u64) -> Schedule {
        Schedule {
            rate: self.learning_rate,
            decay: self.schedule,
            warmup: warmup_steps(self.warmup, steps),
            floor: self.floor,
            steps,
        }
    }
}
