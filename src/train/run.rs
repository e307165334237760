//! A run: steps, evaluations and checkpoints.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use burn::tensor::TensorData;
use burn_optim::GradientsParams;
use serde_json::Value;

use super::{
    batch_loss::loss,
    checkpoint::{self, CheckpointFault, CheckpointState, Ended, RunProgress},
    config::FinetuneConfig,
    data::{Batches, Data, DataPosition},
    error::TrainError,
    event::RunEvent,
    finish::finish,
    folder::FolderError,
    metrics::{MetricsFile, MetricsLine, StepMetrics},
    optimizer::{GradientSum, Optimizer, clip},
    ranks::{PassSums, RunRanks},
    report::{BEST, METRICS, RunReport},
    saver::ModuleSaver,
    schedule::Schedule,
    subject::Subject,
    trained,
};
use crate::{observe::Flow, report::MemoryWatch};

/// A run whose base is loaded.
#[derive(Debug)]
pub struct LoadedRun {
    pub(super) config: FinetuneConfig,
    pub(super) subject: Subject,
    pub(super) optimizer: Optimizer,
    pub(super) rates: Schedule,
    pub(super) batches: Batches,
    /// Where the next batch comes from.
    pub(super) position: DataPosition,
    pub(super) eval: Option<Data>,
    /// The first rank has it.
    pub(super) metrics: Option<MetricsFile>,
    pub(super) ranks: RunRanks,
    pub(super) identity: Value,
    pub(super) progress: RunProgress,
    pub(super) trainable: u64,
    /// The last checkpoint, and its step.
    pub(super) kept: Option<PathBuf>,
    pub(super) kept_step: u64,
    pub(super) saver: ModuleSaver,
    pub(super) memory: MemoryWatch,
}

/// Gets what happens to a run, and says whether it goes on. A run that is to stop finishes its batch, leaves out the step or the
/// evaluation that the batch belongs to where that is not done with it, and writes a checkpoint.
pub type RunWatch<'w> = &'w mut dyn FnMut(&RunEvent<'_>) -> Flow;

impl LoadedRun {
    /// Steps of the run.
    pub fn steps(&self) -> u64 {
        self.rates.steps
    }

    /// Values that are trained.
    pub fn trainable(&self) -> u64 {
        self.trainable
    }

    /// Trains until the run is over, or `watch` stops it.
    ///
    /// # Errors
    ///
    /// [`TrainError`]; the checkpoints that were written stay whatever happens, and the error names the last one.
    pub fn train(self, watch: RunWatch<'_>) -> Result<RunReport, TrainError> {
        let ranks = self.ranks.clone();
        ranks.told(self.train_with(&mut |event| ranks.agreed(watch(event))))
    }

    fn train_with(mut self, watch: RunWatch<'_>) -> Result<RunReport, TrainError> {
        let begun = self.progress.step;
        let mut flow = watch(&RunEvent::Begun {
            step: begun,
            steps: self.rates.steps,
        });
        let ended = loop {
            if matches!(flow, Flow::Continue) && self.is_evaluation_due() {
                flow = self.evaluate(watch)?;
            }
            // An evaluation that was left out is made when the run goes on.
            if matches!(flow, Flow::Cancel) && self.is_evaluation_due() {
                return Err(self.stopped(watch)?);
            }
            let ends = self.progress.ended.is_none() && self.end().is_some();
            self.progress.ended = self.end();
            // A run that was stopped between the last step and its evaluation has a checkpoint that knows nothing of the end.
            let is_kept = self.kept_step == self.progress.step;
            if ends || (self.is_checkpoint_due() && !is_kept) {
                self.save(watch)?;
            }
            if let Some(ended) = self.progress.ended {
                break ended;
            }
            if matches!(flow, Flow::Cancel) {
                return Err(self.stopped(watch)?);
            }
            flow = self.step(watch)?;
        };
        let mut report = RunReport::new(&self.progress, ended, self.trainable, &self.config);
        report.steps_run = self.progress.step - begun;
        report.resumed_from = (begun > 0).then_some(begun);
        if let Some(folder) = &report.model {
            // No step follows, and the moments are as large as two copies of what was trained.
            self.optimizer = Optimizer::new(self.config.optimizer());
            self.save_model(folder)?;
        }
        let peak = self.memory.stop().since.peak();
        report.peak_host_bytes = peak.map(|(_, bytes)| bytes);
        if self.ranks.is_first() {
            finish(&self.config, &self.progress, &report)?;
        }
        self.ranks.wait()?;
        Ok(report)
    }

    /// Whether perplexity is to be measured before the next step.
    fn is_evaluation_due(&self) -> bool {
        let progress = &self.progress;
        let due =
            progress.step >= self.rates.steps || is_due(progress.step, self.config.eval_every);
        let begins = progress.eval_loss.is_none() && progress.step == 0;
        self.eval.is_some() && (begins || (due && progress.eval_step != progress.step))
    }

    fn is_checkpoint_due(&self) -> bool {
        let tenth = self.rates.steps.div_ceil(10);
        let every = self.config.checkpoint_every.unwrap_or(tenth);
        is_due(self.progress.step, Some(every))
    }

    /// Why the run is over, where it is.
    fn end(&self) -> Option<Ended> {
        let waited = self.progress.evaluations_since_best;
        match self.config.patience {
            Some(patience) if waited >= patience => Some(Ended::Patience),
            _ if self.progress.step >= self.rates.steps => Some(Ended::Steps),
            _ => None,
        }
    }

    /// The end that was asked for, with a checkpoint of the last step.
    fn stopped(&mut self, watch: RunWatch<'_>) -> Result<TrainError, TrainError> {
        let step = self.progress.step;
        let checkpoint = match &self.kept {
            Some(kept) if self.kept_step == step => kept.clone(),
            _ => self.save(watch)?,
        };
        Ok(TrainError::Stopped { step, checkpoint })
    }

    /// One step of the optimizer. A step that is left out changes nothing that a checkpoint holds.
    fn step(&mut self, watch: RunWatch<'_>) -> Result<Flow, TrainError> {
        let began = Instant::now();
        let (mut position, calls) = (self.position, self.subject.dropout_calls());
        let step = self.progress.step + 1;
        let not_finite = |batch, what, value, kept: &Option<PathBuf>| TrainError::NotFinite {
            step,
            batch,
            what,
            value,
            kept: kept.clone(),
        };
        // Both are sums over tokens: a mean of the batches' means would count tokens of short batches for more.
        let (mut sum, mut tokens, mut trained) = (0.0, 0, 0);
        let mut gradients = GradientSum::default();
        let model = self.subject.model();
        for nth in 1..=self.config.accumulation {
            let batch = self.batches.next().expect("epochs do not end");
            let (batch, after) = batch.map_err(|source| TrainError::Batch {
                step,
                source: Box::new(source),
                kept: self.kept.clone(),
            })?;
            position = after;
            let part = self.ranks.part(batch);
            let loss = loss(model, &part, self.config.recompute);
            let loss = loss.map_err(|source| TrainError::Pass {
                step,
                batch: nth,
                source: Box::new(source),
            })?;
            let value = f64::from(loss.clone().into_scalar::<f32>());
            if !value.is_finite() {
                return Err(not_finite(nth, "loss", value, &self.kept));
            }
            gradients.add(model, GradientsParams::from_grads(loss.backward(), model));
            sum += value;
            tokens += part.batch.ids().len() as u64;
            trained += part.trained() as u64;
            let event = RunEvent::Batch {
                done: nth,
                of: Some(self.config.accumulation),
            };
            if nth < self.config.accumulation && matches!(watch(&event), Flow::Cancel) {
                self.subject.set_dropout_calls(&calls);
                return Ok(Flow::Cancel);
            }
        }
        self.position = position;
        let mut gradients = gradients.take();
        let PassSums {
            loss: sum,
            tokens,
            trained,
        } = self.ranks.sums(PassSums {
            loss: sum,
            tokens,
            trained,
        })?;
        self.ranks.sum_gradients(model, &mut gradients)?;
        let most = Some(self.config.clip).filter(|most| *most > 0.0);
        let norm = clip(model, &mut gradients, 1.0 / trained as f64, most);
        let norm = norm.map_err(|source| TrainError::Gradient {
            step,
            source,
            kept: self.kept.clone(),
        })?;
        let rate = self.rates.rate(self.progress.step);
        let optimizer = &mut self.optimizer;
        self.subject
            .change(|model| optimizer.step(rate, model, gradients));

        let metrics = StepMetrics {
            step,
            loss: sum / trained as f64,
            lr: rate,
            grad_norm: norm,
            tokens: trained,
            seconds: began.elapsed().as_secs_f64(),
        };
        let progress = &mut self.progress;
        progress.step = step;
        progress.loss_first.get_or_insert(metrics.loss);
        progress.loss_last = Some(metrics.loss);
        progress.tokens += tokens;
        progress.tokens_trained += trained;
        progress.seconds += metrics.seconds;
        self.write(&MetricsLine::Step(metrics))?;
        Ok(watch(&RunEvent::Step(&metrics)))
    }

    /// Writes a checkpoint, and removes those that are too old.
    fn save(&mut self, watch: RunWatch<'_>) -> Result<PathBuf, TrainError> {
        // The last step may have made values that no loss has shown.
        let trained = trained::values(self.subject.model());
        if let Some(tensor) = trained::not_finite(&trained) {
            return Err(TrainError::Diverged {
                step: self.progress.step,
                tensor: tensor.to_owned(),
                kept: self.kept.clone(),
            });
        }
        let dropout_calls = self.ranks.gather(self.subject.dropout_calls())?;
        let digests = self.ranks.gather(trained::digest(&trained))?;
        if let Some(rank) = digests.iter().position(|digest| *digest != digests[0]) {
            return Err(TrainError::Apart {
                step: self.progress.step,
                rank,
                kept: self.kept.clone(),
            });
        }
        let out = self.config.out.clone();
        let saved = match self.metrics.is_some() {
            true => self.save_as_first(trained, dropout_calls)?,
            false => checkpoint::folder(&out, self.progress.step),
        };
        // The others go on when it is there.
        self.ranks.wait()?;
        self.kept = Some(saved.clone());
        self.kept_step = self.progress.step;
        watch(&RunEvent::Checkpoint(&saved));
        Ok(saved)
    }

    /// The folder that the first rank writes.
    fn save_as_first(
        &mut self,
        trained: BTreeMap<String, TensorData>,
        dropout_calls: Vec<BTreeMap<String, u64>>,
    ) -> Result<PathBuf, TrainError> {
        let metrics_bytes = self.metrics.as_ref().map_or(Ok(0), MetricsFile::sync);
        let metrics_bytes = metrics_bytes.map_err(|source| FolderError {
            path: self.config.out.join(METRICS),
            source,
        });
        let metrics_bytes = self.saved(metrics_bytes.map_err(CheckpointFault::from))?;
        let state = CheckpointState {
            identity: self.identity.clone(),
            progress: self.progress.clone(),
            position: self.position,
            dropout_calls,
            metrics_bytes,
            trainable: self.trainable,
            trained,
        };
        let adapter = self.subject.adapter()?;
        let out = self.config.out.clone();
        let saved = state.save(&out, &self.optimizer, adapter);
        let saved = self.saved(saved)?;
        let pruned = checkpoint::prune(&out, self.config.keep);
        self.saved(pruned.map_err(CheckpointFault::from))?;
        Ok(saved)
    }

    /// Writes the model, with the values of the lowest perplexity where the run waited for a lower one.
    fn save_model(&mut self, folder: &Path) -> Result<(), TrainError> {
        if self.config.patience.is_some() && self.progress.best_loss.is_some() {
            let values = checkpoint::read_trained(&self.config.out.join(BEST));
            let values = self.saved(values)?;
            let model = self.subject.model().clone();
            let restored =
                trained::restore(model, values).map_err(|tensor| CheckpointFault::Unfit {
                    folder: self.config.out.join(BEST),
                    tensor,
                });
            let restored = self.saved(restored)?;
            self.subject.change(|_| restored);
        }
        if self.ranks.is_first() {
            self.saver.save(self.subject.model(), folder)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, line: &MetricsLine) -> Result<(), TrainError> {
        let Some(metrics) = &mut self.metrics else {
            return Ok(());
        };
        let written = metrics.push(line).map_err(|source| FolderError {
            path: self.config.out.join(METRICS),
            source,
        });
        self.saved(written.map_err(CheckpointFault::from))
    }

    /// Names the last checkpoint where something could not be written.
    pub(super) fn saved<V>(&self, saved: Result<V, CheckpointFault>) -> Result<V, TrainError> {
        saved.map_err(|source| TrainError::Unsaved {
            step: self.progress.step,
            source: Box::new(source),
            kept: self.kept.clone(),
        })
    }
}

fn is_due(step: u64, every: Option<u64>) -> bool {
    step > 0 && every.is_some_and(|every| step.is_multiple_of(every))
}
