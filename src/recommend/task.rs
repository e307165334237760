//! What the model is to do.

use super::RecommendError;
use crate::{
    config::{AdapterConfig, LoadConfig},
    model::{PassSize, decoder::Spec},
    quant::QuantSpec,
    train::FinetuneConfig,
};

/// What the model is to do. What is not said is chosen.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Task {
    /// Sequences at once. 1 if not given; of training at most 4.
    pub batch: Option<usize>,
    /// Tokens of a sequence, prompt and answer. 4096 if not given, of training 512, or as many as the model has positions.
    pub length: Option<usize>,
    /// The adapter that is trained; `None` for inference.
    pub train: Option<AdapterConfig>,
    /// What becomes of linear weights.
    pub quant: Option<QuantSpec>,
    /// Whether layers are computed again in training.
    pub recompute: Option<bool>,
}

/// Tokens where nobody says, for inference and for training.
const LENGTHS: [usize; 2] = [4096, 512];
/// Rows of a step of training where nobody says.
const ROWS: usize = 4;

impl Task {
    /// Inference.
    pub fn new() -> Self {
        Self::default()
    }

    /// Training of an adapter, `lora:rank=16` for example.
    pub fn train(mut self, adapter: AdapterConfig) -> Self {
        self.train = Some(adapter);
        self
    }

    /// So many sequences at once.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }

    /// Sequences of so many tokens.
    pub fn length(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    /// Linear weights that are packed so.
    pub fn quant(mut self, quant: QuantSpec) -> Self {
        self.quant = Some(quant);
        self
    }

    /// Whether layers are computed again in training.
    pub fn recompute(mut self, recompute: bool) -> Self {
        self.recompute = Some(recompute);
        self
    }

    /// The size that the task is begun with.
    pub(super) fn size(&self, spec: &Spec) -> Result<PassSize, RecommendError> {
        let usual = LENGTHS[usize::from(self.train.is_some())];
        let length = self.length.unwrap_or(usual.min(spec.positions));
        let least = if self.train.is_some() { 2 } else { 1 };
        if !(least..=spec.positions).contains(&length) {
            return Err(RecommendError::Task {
                what: "the length",
                found: length,
                expected: format!("{least} to the {} positions of the model", spec.positions),
            });
        }
        let batch = self.batch.unwrap_or(match self.train {
            Some(_) => ROWS,
            None => 1,
        });
        match batch {
            0 => Err(RecommendError::Task {
                what: "the batch",
                found: 0,
                expected: "1 at least".to_owned(),
            }),
            _ => Ok(PassSize { batch, length }),
        }
    }

    /// The run that trains, with the choices of a trial.
    pub(super) fn finetune(
        &self,
        quant: &QuantSpec,
        size: PassSize,
        recompute: bool,
    ) -> Option<FinetuneConfig> {
        Some(FinetuneConfig {
            adapter: Some(self.train.clone()?),
            quant: quant.clone(),
            batch: size.batch,
            length: Some(size.length),
            accumulation: match self.batch {
                None => (ROWS / size.batch).max(1),
                Some(_) => 1,
            },
            recompute,
            ..FinetuneConfig::default()
        })
    }

    /// The configuration of the load.
    pub(super) fn load_config(
        &self,
        config: LoadConfig,
        finetune: Option<&FinetuneConfig>,
    ) -> LoadConfig {
        match finetune {
            Some(finetune) => finetune.load_config(config),
            None => config,
        }
    }
}
