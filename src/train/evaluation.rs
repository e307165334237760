//! The perplexity of a run on texts that are not trained on.

use std::time::Instant;

use burn::module::Module;

use super::{
    batch_loss::loss,
    error::TrainError,
    event::RunEvent,
    folder::write_folder,
    metrics::{EvalMetrics, MetricsLine},
    ranks::PassSums,
    report::BEST,
    run::{LoadedRun, RunWatch},
};
use crate::observe::Flow;

impl LoadedRun {
    /// Measures perplexity, where there is text for it, and keeps the adapter with the lowest. An evaluation that is left out changes
    /// nothing.
    pub(super) fn evaluate(&mut self, watch: RunWatch<'_>) -> Result<Flow, TrainError> {
        let Some(eval) = &self.eval else {
            return Ok(Flow::Continue);
        };
        let began = Instant::now();
        let model = self.subject.model().valid();
        let (mut sum, mut tokens) = (0.0, 0);
        for (nth, batch) in eval.pass()?.enumerate() {
            let (batch, _) = batch?;
            let part = self.ranks.part(batch);
            let loss = loss(&model, &part, false).map_err(|source| TrainError::Pass {
                step: self.progress.step,
                batch: nth + 1,
                source: Box::new(source),
            })?;
            let value = f64::from(loss.into_scalar::<f32>());
            if !value.is_finite() {
                return Err(TrainError::NotFinite {
                    step: self.progress.step,
                    batch: nth + 1,
                    what: "loss of the evaluation",
                    value,
                    kept: self.kept.clone(),
                });
            }
            sum += value;
            tokens += part.trained() as u64;
            let event = RunEvent::Batch {
                done: nth + 1,
                of: None,
            };
            if matches!(watch(&event), Flow::Cancel) {
                return Ok(Flow::Cancel);
            }
        }
        let sums = self.ranks.sums(PassSums {
            loss: sum,
            tokens,
            trained: tokens,
        })?;
        let (mean, tokens) = (sums.loss / sums.trained as f64, sums.trained);
        let metrics = EvalMetrics {
            step: self.progress.step,
            eval_loss: mean,
            eval_perplexity: mean.exp(),
            eval_tokens: tokens,
            seconds: began.elapsed().as_secs_f64(),
        };
        let progress = &mut self.progress;
        progress.eval_loss = Some(mean);
        progress.eval_step = progress.step;
        if progress.best_loss.is_none_or(|best| mean < best) {
            progress.best_loss = Some(mean);
            progress.best_step = progress.step;
            progress.evaluations_since_best = 0;
            if self.ranks.is_first() {
                let best = self.config.out.join(BEST);
                let saved = write_folder(&best, |part| self.subject.save(part));
                self.saved(saved)?;
            }
        } else {
            progress.evaluations_since_best += 1;
        }
        self.write(&MetricsLine::Eval(metrics))?;
        Ok(watch(&RunEvent::Eval(&metrics)))
    }
}
