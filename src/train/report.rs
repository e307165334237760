//! What a run ends with: numbers, and a page with its curves.

use core::fmt;
use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    checkpoint::{Ended, RunProgress},
    config::FinetuneConfig,
    metrics::{self, MetricsLine},
};
use crate::{
    config::Bytes,
    observe::write_whole,
    report::{Curve, Picture, training_page},
};

/// The numbers of a run. Serialises to the JSON that `firebox finetune --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunReport {
    /// Steps that are done, in all processes that the run was continued in.
    pub steps: u64,
    /// Steps that this process did.
    pub steps_run: u64,
    /// The step of the checkpoint that this process began with; `None` at the beginning.
    pub resumed_from: Option<u64>,
    /// Why the run is over.
    pub ended: Ended,
    /// The mean loss of the first step, in nats a token.
    pub loss_first: Option<f64>,
    /// The mean loss of the last step.
    pub loss_last: Option<f64>,
    /// The perplexity after the last step, where there is text to measure with.
    pub eval_perplexity: Option<f64>,
    /// The lowest perplexity, and the steps that were done before it.
    pub best: Option<BestStep>,
    /// Tokens of all rows in a second of training; evaluations and checkpoints do not count.
    pub tokens_per_second: f64,
    /// Tokens of all rows.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The most anonymous memory of this process; `None` where the system does not tell.
    pub peak_host_bytes: Option<u64>,
    /// Values that are trained.
    pub trainable: u64,
    /// The folder of the adapter, as peft has them; `None` where tensors of the model itself are trained.
    pub adapter: Option<PathBuf>,
    /// The folder of the model, where tensors of the model itself are trained.
    pub model: Option<PathBuf>,
}

/// The step with the lowest perplexity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestStep {
    /// Steps that were done.
    pub step: u64,
    /// The perplexity after them.
    pub perplexity: f64,
    /// The folder of the adapter at that time, or of the trained tensors.
    pub adapter: PathBuf,
}

impl RunReport {
    /// Of a run that is over.
    pub(super) fn new(
        progress: &RunProgress,
        ended: Ended,
        trainable: u64,
        config: &FinetuneConfig,
    ) -> Self {
        let out = &config.out;
        Self {
            steps: progress.step,
            steps_run: 0,
            resumed_from: None,
            ended,
            loss_first: progress.loss_first,
            loss_last: progress.loss_last,
            eval_perplexity: progress.eval_loss.map(f64::exp),
            best: progress.best_loss.map(|loss| BestStep {
                step: progress.best_step,
                perplexity: loss.exp(),
                adapter: out.join(BEST),
            }),
            tokens_per_second: progress.tokens as f64 / progress.seconds.max(f64::MIN_POSITIVE),
            tokens: progress.tokens,
            seconds: progress.seconds,
            peak_host_bytes: None,
            trainable,
            adapter: config.trains_adapter().then(|| out.join(ADAPTER)),
            model: (!config.trains_adapter()).then(|| out.join(MODEL)),
        }
    }
}

/// Names in the folder of a run.
pub(super) const ADAPTER: &str = "adapter";
pub(super) const MODEL: &str = "model";
pub(super) const BEST: &str = "best";
pub(super) const METRICS: &str = "metrics.jsonl";
/// What the metrics of a run begin with.
pub(super) const METRICS_MARK: &[u8] = b"{\"step\":";
pub(super) const PAGE: &str = "report.html";

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("none".to_owned(), |v| format!("{v:.4}"));
        let (first, last) = (number(self.loss_first), number(self.loss_last));
        write!(f, "{} steps, loss {first} to {last}", self.steps)?;
        if let Some(perplexity) = self.eval_perplexity {
            write!(f, ", perplexity {perplexity:.3}")?;
        }
        if let Some(best) = &self.best {
            write!(
                f,
                " (lowest {:.3} after step {})",
                best.perplexity, best.step
            )?;
        }
        write!(f, "\n{:.0} tokens/s", self.tokens_per_second)?;
        if let Some(bytes) = self.peak_host_bytes {
            write!(f, ", at most {} of host memory", Bytes(bytes))?;
        }
        write!(f, ", {} values trained", self.trainable)?;
        let mut folders = self.adapter.iter().chain(&self.model);
        folders.try_for_each(|folder| write!(f, "\n{}", folder.display()))
    }
}

/// Whether a file begins as a page of this library.
pub(super) fn is_page(head: &[u8]) -> bool {
    let mark = b"firebox</title>";
    head.windows(mark.len()).any(|part| part == mark)
}

/// Writes the page of a run, from its file of metrics.
pub(super) fn write_page(out: &Path, title: &str, report: &RunReport) -> io::Result<()> {
    let lines = metrics::read(&out.join(METRICS))?;
    let (mut loss, mut eval_loss, mut perplexity) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rate, mut norm, mut speed) = (Vec::new(), Vec::new(), Vec::new());
    for line in &lines {
        match line {
            MetricsLine::Step(step) => {
                let x = step.step as f64;
                loss.push((x, step.loss));
                rate.push((x, step.lr));
                norm.push((x, step.grad_norm));
                speed.push((x, step.tokens as f64 / step.seconds));
            }
            MetricsLine::Eval(eval) => {
                let x = eval.step as f64;
                eval_loss.push((x, eval.eval_loss));
                perplexity.push((x, eval.eval_perplexity));
            }
        }
    }
    let one = |heading, note, name, points| Picture {
        heading,
        note,
        curves: vec![Curve { name, points }],
    };
    let pictures = [
        Picture {
            heading: "Loss",
            note: "Nats a token over steps.",
            curves: vec![
                Curve {
                    name: "training",
                    points: loss,
                },
                Curve {
                    name: "evaluation",
                    points: eval_loss,
                },
            ],
        },
        one(
            "Perplexity",
            "On the texts that are not trained on.",
            "perplexity",
            perplexity,
        ),
        one("Learning rate", "", "learning rate", rate),
        one(
            "Norm of the gradients",
            "Over all of them, before they are clipped.",
            "norm",
            norm,
        ),
        one("Speed", "Trained tokens a second.", "speed", speed),
    ];
    let number =
        |value: Option<f64>| value.map_or("not measured".to_owned(), |v| format!("{v:.4}"));
    let folder = report.adapter.as_ref().or(report.model.as_ref());
    let facts = [
        ("steps", report.steps.to_string()),
        ("first loss", number(report.loss_first)),
        ("last loss", number(report.loss_last)),
        ("perplexity", number(report.eval_perplexity)),
        ("values trained", report.trainable.to_string()),
        (
            "tokens a second",
            format!("{:.0}", report.tokens_per_second),
        ),
        (
            "host memory at most",
            report
                .peak_host_bytes
                .map_or("not told".to_owned(), |bytes| Bytes(bytes).to_string()),
        ),
        (
            "result",
            folder.map_or(String::new(), |folder| folder.display().to_string()),
        ),
    ];
    let page = training_page(title, &facts, &pictures);
    write_whole(&out.join(PAGE), page.as_bytes(), is_page)
}
