//! From an opened run to one that trains: the base, its adapter, and the state of a checkpoint.

use std::time::Instant;

use super::{
    checkpoint::{CheckpointFault, OPTIMIZER, PREFIX, Progress},
    data::DataPosition,
    error::TrainError,
    open::Run,
    optimizer::Optimizer,
    run::LoadedRun,
    subject::Subject,
    trained,
};
use crate::{
    adapter::{self, AdapterConfig, AdapterFile},
    loader::Loaded,
    model::CausalLm,
    report::MemoryWatch,
    target::Target,
};

impl<T: Target> Run<T> {
    /// Loads the base and puts the adapter on it, with the values of the checkpoint that the run goes on from.
    ///
    /// # Errors
    ///
    /// [`TrainError::Load`], [`TrainError::Adapter`], and [`TrainError::Damaged`] where the checkpoint does not fit the model.
    pub fn load(self) -> Result<LoadedRun, TrainError> {
        let memory = MemoryWatch::start(Instant::now());
        let Loaded {
            mut model,
            mut adapters,
            ..
        } = self.loader.load::<CausalLm>()?;
        let switch = adapters.remove(0);
        let lora = match &self.adapter {
            AdapterConfig::Lora(lora) => lora.clone(),
            AdapterConfig::Folder { folder, .. } => {
                let device = self.loader.device().clone();
                // A device that records gradients already has a strategy of its own.
                let device = match device.is_autodiff() {
                    true => device,
                    false => device.autodiff(),
                };
                adapter::trainable(&mut model, &device);
                AdapterFile::open(folder)?.config.to_lora()
            }
        };
        let trainable = adapter::trainable_params(&model);
        let base = self.loader.name().to_owned();
        let config = self.config;
        let rates = config.learning_rates(self.facts.steps);
        let mut progress = Progress::default();
        let mut position = DataPosition::default();
        let mut kept = None;
        let mut subject;
        let optimizer;
        match self.start {
            None => {
                subject = Subject::new(model, switch, lora, base);
                optimizer = Optimizer::new(config.optimizer());
            }
            Some(start) => {
                let folder = config.out.join(format!("{PREFIX}{}", start.progress.step));
                let damaged = |source| TrainError::Damaged {
                    checkpoint: folder.clone(),
                    source: Box::new(source),
                    earlier: None,
                };
                let restored = trained::restore(model, start.trained);
                let model = restored.map_err(|tensor| {
                    damaged(CheckpointFault::Unfit {
                        folder: folder.clone(),
                        tensor,
                    })
                })?;
                let states = folder.join(OPTIMIZER);
                let states = Optimizer::load(config.optimizer(), &states, &model);
                optimizer = states.map_err(|source| damaged(source.into()))?;
                subject = Subject::new(model, switch, lora, base);
                subject.set_dropout_calls(&start.dropout_calls);
                progress = start.progress;
                position = start.position;
                kept = Some(folder);
            }
        }
        Ok(LoadedRun {
            batches: self.data.batches(position)?,
            config,
            subject,
            optimizer,
            rates,
            position,
            eval: self.eval,
            metrics: self.metrics,
            identity: self.identity,
            progress,
            trainable,
            kept,
            memory,
        })
    }
}
