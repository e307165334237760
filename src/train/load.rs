//! From an opened run to one that trains: the base, its adapter, and the state of a checkpoint.

use std::time::{Duration, Instant};

use super::{
    checkpoint::{CheckpointFault, OPTIMIZER, PREFIX, RunProgress},
    data::DataPosition,
    error::TrainError,
    open::Run,
    optimizer::Optimizer,
    run::LoadedRun,
    saver::ModuleSaver,
    subject::{Subject, TrainedAdapter},
    trained,
};
use crate::{
    adapter::{self, AdapterConfig, AdapterFile},
    config::TrainType,
    loader::Loaded,
    model::CausalLm,
    report::MemoryWatch,
    target::Target,
};

/// Time between two looks at memory: short against a batch.
const LOOK: Duration = Duration::from_millis(20);

impl<T: Target + 'static> Run<T> {
    /// Loads the base and puts the adapter on it, with the values of the checkpoint that the run goes on from.
    ///
    /// # Errors
    ///
    /// [`TrainError::Load`], [`TrainError::Adapter`], and [`TrainError::Damaged`] where the checkpoint does not fit the model.
    pub fn load(self) -> Result<LoadedRun, TrainError> {
        let ranks = self.ranks.clone();
        let loaded = ranks.told(self.load_with())?;
        ranks.wait()?;
        Ok(loaded)
    }

    fn load_with(self) -> Result<LoadedRun, TrainError> {
        let memory = MemoryWatch::every(LOOK, Instant::now());
        let Loaded {
            mut model,
            mut adapters,
            new_blocks,
            ..
        } = self.loader.load::<CausalLm>()?;
        let device = self.loader.device().clone();
        // A device that records gradients already has a strategy of its own.
        let device = match device.is_autodiff() {
            true => device,
            false => device.autodiff(),
        };
        let lora = match &self.adapter {
            None => {
                match self.config.train_type {
                    Some(TrainType::Full) => adapter::train_all(&mut model, &device)?,
                    _ => adapter::train_blocks(&mut model, &new_blocks, &device)?,
                }
                None
            }
            Some(AdapterConfig::Lora(lora)) => Some(lora.clone()),
            Some(AdapterConfig::Folder { folder, .. }) => {
                adapter::trainable(&mut model, &device);
                Some(AdapterFile::open(folder)?.config.to_lora())
            }
        };
        let adapter = lora.map(|lora| TrainedAdapter {
            switch: adapters.remove(0),
            lora,
            base: self.loader.name(),
            new_blocks,
        });
        let trainable = adapter::trainable_params(&model);
        let config = self.config;
        let rates = config.learning_rates(self.facts.steps);
        let mut progress = RunProgress::default();
        let mut position = DataPosition::default();
        let mut kept = None;
        let mut subject;
        let optimizer;
        match self.start {
            None => {
                subject = Subject::new(model, adapter);
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
                optimizer = match start.progress.step {
                    // Before the first step there are no states.
                    0 => Optimizer::new(config.optimizer()),
                    _ => {
                        let states = folder.join(OPTIMIZER);
                        let states = Optimizer::load(config.optimizer(), &states, &model);
                        states.map_err(|source| damaged(source.into()))?
                    }
                };
                subject = Subject::new(model, adapter);
                // One entry a rank: a checkpoint of another number of ranks is of another run.
                if let Some(calls) = start.dropout_calls.get(self.ranks.rank()) {
                    subject.set_dropout_calls(calls);
                }
                progress = start.progress;
                position = start.position;
                kept = Some(folder);
            }
        }
        subject.set_dropout_part(self.ranks.rank() as u64);
        Ok(LoadedRun {
            batches: self.data.batches(position)?,
            config,
            subject,
            optimizer,
            rates,
            position,
            eval: self.eval,
            metrics: self.metrics,
            ranks: self.ranks,
            identity: self.identity,
            kept_step: progress.step,
            progress,
            trainable,
            kept,
            saver: ModuleSaver::new(self.loader),
            memory,
        })
    }
}
