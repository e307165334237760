//! A run before its weights are read: whatever can be wrong is found here, in seconds.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use firebox_kernels::linear::Compute;
use serde_json::Value;

use super::{
    checkpoint::{self, CheckpointState},
    config::FinetuneConfig,
    data::{Data, DataConfig, DataOrder, DataSummary, RowPacking},
    error::TrainError,
    facts::{DataFacts, FinetuneFacts},
    finish::finish,
    folder,
    identity::identity,
    keys::wrong,
    metrics::{self, MetricsError, MetricsFile, MetricsLine},
    ranks::RunRanks,
    report::{ADAPTER, BEST, METRICS, METRICS_MARK, MODEL, PAGE, RunReport, is_page},
    saver::is_saved,
};
use crate::{
    adapter::AdapterConfig,
    config::Parallel,
    loader::{LoadRequest, Loader},
    model::{CausalLm, decoder::Spec},
    observe::check_replace,
    place::folder::difference,
    source::checkpoint::CONFIG,
    target::{MemoryKind, Target},
};

/// Tokens of a row where nobody says, and the model has positions for them.
const LENGTH: usize = 512;

/// Bytes of data whose tokens are all made before a run, to count them and to find what is wrong with them. Of more data, all files
/// are read and all records looked at.
const COUNTED: u64 = 16 << 20;

/// A run whose settings, data and folder are in order. No weight was read.
#[derive(Debug)]
pub struct Run<T: Target> {
    pub(super) loader: Loader<T>,
    pub(super) config: FinetuneConfig,
    /// `None` where tensors of the model itself are trained.
    pub(super) adapter: Option<AdapterConfig>,
    pub(super) facts: FinetuneFacts,
    pub(super) identity: Value,
    pub(super) data: Data,
    pub(super) eval: Option<Data>,
    /// The first rank has it.
    pub(super) metrics: Option<MetricsFile>,
    /// The checkpoint that it goes on from.
    pub(super) start: Option<CheckpointState>,
    pub(super) ranks: RunRanks,
}

impl<T: Target> Run<T> {
    /// Opens a run. The request says which base and how it is loaded; quantization and adapter come from `config`. With `resume` a
    /// run goes on that an earlier process left in the folder, if there is one.
    ///
    /// Where the request has [ranks](LoadRequest::ranks), each of them has [`FinetuneConfig::batch`] rows of every batch, in order, so that
    /// the run is that of one rank with a batch as large as all of them. The folder of the run is one that all ranks see; the first
    /// one writes it.
    ///
    /// # Errors
    ///
    /// [`TrainError`] for settings, base, data and folder.
    pub fn open(
        request: impl Into<LoadRequest>,
        config: FinetuneConfig,
        resume: bool,
    ) -> Result<Self, TrainError> {
        let request = request.into();
        let ranks = RunRanks::new(request.ranks.clone());
        ranks.told(Self::open_with(request, config, resume, ranks.clone()))
    }

    fn open_with(
        request: LoadRequest,
        mut config: FinetuneConfig,
        resume: bool,
        ranks: RunRanks,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let request = request.with(|load| config.load_config(load));
        let adapter = request.config.adapters.first().cloned();
        if let Some(AdapterConfig::Folder { weight, .. }) = &adapter
            && *weight != 1.0
        {
            let found = adapter.as_ref().map(ToString::to_string);
            let reason = "a part of an adapter is not trained further; name the folder alone";
            return Err(wrong("adapter", &found.into(), reason).into());
        }
        let compute = request.config.pack.compute;
        if compute == Compute::Int8 {
            return Err(TrainError::Compute { compute });
        }
        let loader = Loader::<T>::new(request)?;
        let spec = loader.config::<CausalLm>()?;
        if let Some(said) = loader.ranks() {
            ranks.check_division(said, &config, &spec)?;
            // Weights come together layer by layer, also in the backward pass.
            config.recompute |= said.parallel == Parallel::Shard;
        }
        let tokenizer = Arc::new(loader.tokenizer()?);
        let length = length(&config, &spec)?;
        let plan = loader.plan::<CausalLm>()?;
        loader.check(&plan)?;
        let memory = config.memory(&plan, &spec, length)?;
        let memory = match T::MEMORY {
            // What is read ahead of the base may be more than all that comes after.
            MemoryKind::Host => {
                let load = loader.memory::<CausalLm>(&plan, None, None)?;
                memory.or_load(load.peak_host_bytes)
            }
            MemoryKind::Device => memory,
        };

        let rows = |path: &PathBuf, order| DataConfig {
            length,
            batch: config.batch.saturating_mul(ranks.size()),
            order,
            packing: match config.packing {
                true => RowPacking::BestFit,
                false => RowPacking::None,
            },
            ..DataConfig::new([path.clone()])
        };
        let shuffled = DataOrder::Shuffled { seed: config.seed };
        let data = Data::open(rows(&config.data, shuffled), Arc::clone(&tokenizer))?;
        let eval = config.eval.as_ref().map(|file| {
            let opened = Data::open(rows(file, DataOrder::AsWritten), Arc::clone(&tokenizer));
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
        let counts = config.steps.is_none() || data.bytes() <= COUNTED;
        let summary = counts.then(|| data.summary()).transpose()?;
        let steps = steps(&config, ranks.size(), summary.as_ref());
        let identity = identity(
            &config,
            [steps, length as u64],
            ranks.size(),
            loader.identity::<CausalLm>()?,
            data.fingerprint(),
            eval.as_ref().map(Data::fingerprint),
        );

        ranks.check(&identity)?;
        let (metrics, start) = match ranks.is_first() {
            true => {
                let (metrics, start) = folder_of(&config, resume, &identity)?;
                ranks.share(|| start.as_ref().map(|start| start.progress.step))?;
                (Some(metrics), start)
            }
            false => (None, start_of_first(&config, &ranks)?),
        };
        let facts = FinetuneFacts {
            steps,
            rows: config.batch * config.accumulation * ranks.size(),
            data: DataFacts {
                records: data.records(),
                bytes: data.bytes(),
                summary,
            },
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
            ranks,
        })
    }

    /// The report of a run that is over already, whose adapter or model is in its folder.
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
        let is_done = || self.adapter.is_some() || is_saved(&self.config.out.join(MODEL));
        if !self.ranks.share(is_done)? {
            return Ok(None);
        }
        let report = RunReport::new(progress, ended, start.trainable, &self.config);
        if self.ranks.is_first() {
            self.ranks.told(finish(&self.config, progress, &report))?;
        }
        Ok(Some(report))
    }

    /// What is known of the run.
    pub fn facts(&self) -> &FinetuneFacts {
        &self.facts
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
fn steps(config: &FinetuneConfig, ranks: usize, summary: Option<&DataSummary>) -> u64 {
    config.steps.unwrap_or_else(|| {
        let rows = summary.map_or(0, |summary| summary.counts.rows);
        let rows = rows as f64 * config.epochs.unwrap_or(1.0);
        let rows_of_step = (config.batch * config.accumulation) as f64 * ranks as f64;
        (rows / rows_of_step).ceil().max(1.0) as u64
    })
}

/// The checkpoint that the first rank goes on from.
fn start_of_first(
    config: &FinetuneConfig,
    ranks: &RunRanks,
) -> Result<Option<CheckpointState>, TrainError> {
    let Some(step) = ranks.share(|| None::<u64>)? else {
        return Ok(None);
    };
    let folder = checkpoint::folder(&config.out, step);
    let start = CheckpointState::open(&folder).map_err(|source| TrainError::Damaged {
        checkpoint: folder.clone(),
        source: Box::new(source),
        earlier: None,
    })?;
    Ok(Some(start))
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
    if out.join(CONFIG).exists() {
        return Err(TrainError::Model {
            folder: out.clone(),
        });
    }
    if checkpoint::step_of(out).is_some() {
        return Err(TrainError::IsCheckpoint {
            folder: out.clone(),
        });
    }
    fs::create_dir_all(out).map_err(failed(out))?;
    let inputs = [("data", Some(&config.data)), ("eval", config.eval.as_ref())];
    let real = out.canonicalize().map_err(failed(out))?;
    let is_out = |input: &PathBuf| input.canonicalize().is_ok_and(|input| input == real);
    if let Some((key, _)) = inputs
        .into_iter()
        .find(|(_, input)| input.is_some_and(is_out))
    {
        return Err(TrainError::AmongData {
            folder: out.clone(),
            key,
        });
    }
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
        let adapters = [ADAPTER, BEST, MODEL].map(|name| out.join(name));
        if let Some(adapter) = adapters.into_iter().find(|adapter| adapter.exists()) {
            return Err(found(adapter));
        }
    }
    let page = out.join(PAGE);
    check_replace(&path, |head| head.starts_with(METRICS_MARK)).map_err(failed(&path))?;
    check_replace(&page, is_page).map_err(failed(&page))?;
    let mut metrics = MetricsFile::open(&path).map_err(|error| match error {
        MetricsError::Busy => TrainError::InUse {
            folder: out.clone(),
        },
        MetricsError::Io(source) => failed(&path)(source),
    })?;
    // After the lock: nobody else is at it.
    folder::recover(out, checkpoint::PREFIX).map_err(failed(out))?;
    let mut checkpoints = checkpoint::list(out)?;
    let Some((step, last)) = checkpoints.pop_last() else {
        without_checkpoint(config, &path)?;
        metrics.cut(0).map_err(failed(&path))?;
        return Ok((metrics, None));
    };
    let start = CheckpointState::open(&last).map_err(|source| TrainError::Damaged {
        checkpoint: last.clone(),
        source: Box::new(source),
        earlier: checkpoints.pop_last().map(|(_, earlier)| earlier),
    })?;
    if start.progress.step != step {
        return Err(TrainError::Renamed {
            folder: last,
            step: start.progress.step,
        });
    }
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

/// Refuses to begin anew where there were checkpoints, which have another name or are elsewhere now.
fn without_checkpoint(config: &FinetuneConfig, metrics: &Path) -> Result<(), TrainError> {
    if let Some((folder, step)) = checkpoint::renamed(&config.out)? {
        return Err(TrainError::Renamed { folder, step });
    }
    let lines = metrics::read(metrics).map_err(|source| TrainError::File {
        file: metrics.to_owned(),
        source,
    })?;
    let steps = lines.iter().filter_map(|line| match line {
        MetricsLine::Step(metrics) => Some(metrics.step),
        MetricsLine::Eval(_) => None,
    });
    let last = steps.max().unwrap_or(0);
    // The line of a step comes before its checkpoint.
    let expected = config.checkpoint_every.is_some_and(|every| last > every);
    match expected {
        true => Err(TrainError::NoCheckpoint {
            metrics: metrics.to_owned(),
            step: last,
        }),
        false => Ok(()),
    }
}
