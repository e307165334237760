//! A run before its weights are read: whatever can be wrong is found here, in seconds.

use std::{fs, path::PathBuf, sync::Arc};

use serde_json::Value;

use super::{
    checkpoint::{self, CheckpointState},
    config::{FinetuneConfig, FinetuneConfigError, wrong},
    data::{Data, DataConfig, DataSummary, Order, Packing},
    error::TrainError,
    estimate::{BatchSize, estimate},
    facts::RunFacts,
    folder,
    identity::identity,
    metrics::{MetricsError, MetricsFile},
    report::{ADAPTER, METRICS, RunReport},
};
use crate::{
    adapter::AdapterConfig,
    loader::{LoadRequest, Loader},
    model::{CausalLm, decoder::Spec},
    place::folder::difference,
    target::Target,
};

/// Tokens of a row where nobody says, and the model has positions for them.
const LENGTH: usize = 512;

/// A run whose settings, data and folder are in order. No weight was read.
#[derive(Debug)]
pub struct Run<T: Target> {
    pub(super) loader: Loader<T>,
    pub(super) config: FinetuneConfig,
    pub(super) adapter: AdapterConfig,
    pub(super) facts: RunFacts,
    pub(super) identity: Value,
    pub(super) data: Data,
    pub(super) eval: Option<Data>,
    pub(super) metrics: MetricsFile,
    /// The checkpoint that it goes on from.
    pub(super) start: Option<CheckpointState>,
}

impl<T: Target> Run<T> {
    /// Opens a run. The request says which base and how it is loaded; quantization and adapter come from `config`. With `resume` a
    /// run goes on that an earlier process left in the folder, if there is one.
    ///
    /// # Errors
    ///
    /// [`TrainError`] for settings, base, data and folder.
    pub fn open(
        request: impl Into<LoadRequest>,
        config: FinetuneConfig,
        resume: bool,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let adapter = seeded(&config)?;
        let request = request.into().with(|load| {
            let mut load = load.quant(config.quant.clone());
            load.adapters = vec![adapter.clone()];
            load
        });
        let loader = Loader::<T>::new(request)?;
        let spec = loader.config::<CausalLm>()?;
        let tokenizer = Arc::new(loader.tokenizer()?);
        let length = length(&config, &spec)?;
        let plan = loader.plan::<CausalLm>()?;
        loader.check(&plan)?;
        let batch = BatchSize {
            rows: config.batch,
            length,
            recompute: config.recompute,
        };
        let sizes = [spec.layers.len(), spec.features];
        let memory = estimate(&plan, &config.adapter, &config.optimizer(), sizes, &batch);

        let rows = |path: &PathBuf, order| DataConfig {
            length,
            batch: config.batch,
            order,
            packing: match config.packing {
                true => Packing::BestFit,
                false => Packing::None,
            },
            ..DataConfig::new([path.clone()])
        };
        let shuffled = Order::Shuffled { seed: config.seed };
        let data = Data::open(rows(&config.data, shuffled), Arc::clone(&tokenizer))?;
        let eval = config.eval.as_ref().map(|file| {
            let opened = Data::open(rows(file, Order::AsWritten), Arc::clone(&tokenizer));
            opened.map_err(|source| TrainError::Eval {
                file: file.clone(),
                source: Box::new(source),
            })
        });
        let eval = eval.transpose()?;
        if let Some((file, eval)) = config.eval.as_ref().zip(eval.as_ref()) {
            // All of its tokens are made now: it is measured before the first step.
            eval.summary().map_err(|source| TrainError::Eval {
                file: file.clone(),
                source: Box::new(source),
            })?;
        }
        let summary = data.summary()?;
        let steps = steps(&config, &summary);
        let identity = identity(
            &config,
            [steps, length as u64],
            loader.identity::<CausalLm>()?,
            data.fingerprint(),
            eval.as_ref().map(Data::fingerprint),
        );

        let (metrics, start) = folder_of(&config, resume, &identity)?;
        let facts = RunFacts {
            steps,
            rows: config.batch * config.accumulation,
            data: summary,
            example: data.example()?,
            memory,
        };
        Ok(Self {
            loader,
            config,
            adapter,
            facts,
            identity,
            data,
            eval,
            metrics,
            start,
        })
    }

    /// The report of a run that is over already, whose adapter is in its folder.
    ///
    /// # Errors
    ///
    /// [`TrainError`] where the adapter is missing and cannot be copied from the checkpoint.
    pub fn ended(&self) -> Result<Option<RunReport>, TrainError> {
        let Some(start) = &self.start else {
            return Ok(None);
        };
        let progress = &start.progress;
        let Some(ended) = progress.ended else {
            return Ok(None);
        };
        let out = &self.config.out;
        let report = RunReport::new(progress, ended, start.trainable, out);
        super::run::finish(out, progress, self.config.patience.is_some(), &report)?;
        Ok(Some(report))
    }

    /// What is known of the run.
    pub fn facts(&self) -> &RunFacts {
        &self.facts
    }
}

/// The adapter, with the seed of the run added to the one of new factors.
fn seeded(config: &FinetuneConfig) -> Result<AdapterConfig, FinetuneConfigError> {
    match config.adapter.clone() {
        AdapterConfig::Lora(mut lora) => {
            lora.seed = lora.seed.wrapping_add(config.seed);
            Ok(lora.into())
        }
        AdapterConfig::Folder { weight, .. } if weight != 1.0 => {
            let reason = "a part of an adapter is not trained further; name the folder alone";
            Err(wrong("adapter", &config.adapter.to_string().into(), reason))
        }
        folder => Ok(folder),
    }
}

fn length(config: &FinetuneConfig, spec: &Spec) -> Result<usize, TrainError> {
    let positions = spec.positions;
    match config.length {
        Some(length) if length > positions => Err(TrainError::Length { length, positions }),
        Some(length) => Ok(length),
        None => Ok(LENGTH.min(positions)),
    }
}

/// The steps of a run that ends after so many epochs: the rows of the first one are counted.
fn steps(config: &FinetuneConfig, summary: &DataSummary) -> u64 {
    config.steps.unwrap_or_else(|| {
        let rows = summary.counts.rows as f64 * config.epochs.unwrap_or(1.0);
        let rows_of_step = (config.batch * config.accumulation) as f64;
        (rows / rows_of_step).ceil().max(1.0) as u64
    })
}

/// Opens the folder of a run: its metrics, cut to where the run goes on, and the checkpoint.
fn folder_of(
    config: &FinetuneConfig,
    resume: bool,
    identity: &Value,
) -> Result<(MetricsFile, Option<CheckpointState>), TrainError> {
    let out = &config.out;
    let failed = |file: &PathBuf| {
        let file = file.clone();
        move |source| TrainError::File { file, source }
    };
    fs::create_dir_all(out).map_err(failed(out))?;
    let path = out.join(METRICS);
    if !resume {
        let found = |found: PathBuf| TrainError::Exists {
            folder: out.clone(),
            found,
        };
        let checkpoints = checkpoint::list(out)?;
        if let Some((_, last)) = checkpoints.into_iter().next_back() {
            return Err(found(last));
        }
        let adapter = out.join(ADAPTER);
        if adapter.exists() {
            return Err(found(adapter));
        }
    }
    let mut metrics = MetricsFile::open(&path).map_err(|error| match error {
        MetricsError::Busy => TrainError::InUse {
            folder: out.clone(),
        },
        MetricsError::Io(source) => failed(&path)(source),
    })?;
    // After the lock: nobody else is at it.
    folder::recover(out, checkpoint::PREFIX).map_err(failed(out))?;
    let mut checkpoints = checkpoint::list(out)?;
    let Some((_, last)) = checkpoints.pop_last() else {
        metrics.cut(0).map_err(failed(&path))?;
        return Ok((metrics, None));
    };
    let start = CheckpointState::open(&last).map_err(|source| TrainError::Damaged {
        checkpoint: last.clone(),
        source: Box::new(source),
        earlier: checkpoints.pop_last().map(|(_, earlier)| earlier),
    })?;
    if let Some(difference) = difference("", &start.identity, identity) {
        return Err(TrainError::Changed {
            checkpoint: last,
            difference: Box::new(difference),
        });
    }
    let whole = metrics.cut(start.metrics_bytes).map_err(failed(&path))?;
    if !whole {
        tracing::warn!(
            file = %path.display(),
            "is shorter than it was at the checkpoint; it begins anew with the next step"
        );
    }
    Ok((metrics, Some(start)))
}
