//! `firebox verify`: how far a quantization is from its source. Also the limits that `quantize` shares.

use std::ffi::OsString;

use clap::Args;
use firebox::{
    LoadRequest, Loader, Target,
    config::{Expand, Limits, VerifyConfig},
    expand::new_blocks,
    model::{Architecture, CausalLm},
    quant::QuantSpec,
    report::VerifyReport,
    source::{Checkpoint, SourceExt},
};
use serde_json::Value;

use crate::{
    Failure, OnTarget,
    args::{IncludeArgs, LoadArgs, ModelArgs, QuantArgs},
    output,
    progress::Bar,
};

#[derive(Debug, Args)]
pub(crate) struct VerifyCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    quant: QuantArgs,

    /// Compare the quantized checkpoint MODEL with the plain one that it was made from: a folder, a file or a model
    /// id of the hub
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["quant", "rules", "include", "fallbacks", "requantize", "revision"])]
    against: Option<OsString>,

    #[command(flatten)]
    include: IncludeArgs,

    #[command(flatten)]
    limits: LimitArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is too far from the source, and what to do then.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// Least signal to quantization noise of a weight
    #[arg(long, value_name = "DB", group = "limit", value_parser = finite, allow_negative_numbers = true)]
    min_sqnr: Option<f64>,

    /// Most that the errors of a weight may be of it, norm by norm: 0.1 is 20 dB
    #[arg(long, value_name = "X", group = "limit", value_parser = positive)]
    max_relative: Option<f64>,

    /// Least cosine between a weight and its source
    #[arg(long, value_name = "X", group = "limit", value_parser = cosine, allow_negative_numbers = true)]
    min_cosine: Option<f64>,

    /// Largest part of a weight's numbers that may lie outside of what its scales reach, 0 to 1
    #[arg(long, value_name = "PART", group = "limit", value_parser = part)]
    max_saturated: Option<f64>,

    /// What becomes of weights that are beyond a limit: the first that is within them, in the order given. `none`
    /// leaves them plain
    #[arg(long = "fallback", value_name = "SPEC", requires = "limit")]
    fallbacks: Vec<QuantSpec>,
}

impl OnTarget for VerifyCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        self.load.refuse_compute("weights are compared")?;
        let bar = Bar::new();
        let config = self.load.config(self.quant.quant);
        let config = ModelArgs::any(config, &self.load.model.model);
        let open = |config| -> Result<Loader<T>, Failure> {
            Ok(Loader::new(
                self.load.request(config)?.observer(bar.clone()),
            )?)
        };
        let limits = &self.limits;
        let loader = open(config)?;
        let by_files = self.include.by_files(loader.checkpoint().config())?;
        let mut against_fetched = None;
        let report = match &self.against {
            Some(against) => {
                let dense = ModelArgs::any(self.load.model.another(against), against);
                let dense = self.load.model.request(dense, against)?;
                let dense = expanded_like(loader.checkpoint().config(), dense)?;
                let report = if by_files {
                    loader.verify_tensors_against(&dense, &limits.limits())
                } else {
                    loader.verify_against::<CausalLm>(&dense, &limits.limits())
                };
                against_fetched = dense.source().fetched();
                report
            }
            None if by_files => loader.verify_tensors(&self.include.patterns, &limits.config()),
            None => loader.verify::<CausalLm>(&limits.config()),
        };
        bar.clear();
        let report = report?;
        let both = [loader.checkpoint().source().fetched(), against_fetched];
        let fetched = both.into_iter().flatten().reduce(core::ops::Add::add);
        if self.json {
            let answer = &report;
            output::json(&output::WithFetched { answer, fetched })?;
        } else {
            output::line(&report)?;
            output::fetched(fetched)?;
        }
        // Printed first: what is beyond the limits is what one looks for.
        within(&report)
    }
}

/// Opens the model that a checkpoint with this `config.json` was made from, and expands it where only the checkpoint has new
/// blocks.
fn expanded_like(config: &Value, model: LoadRequest) -> Result<Checkpoint, Failure> {
    let opened = model.open()?;
    let new = new_blocks(config)?.len();
    let layers = |config| CausalLm::config(config).map(|spec| spec.layers.len());
    if new == 0 || layers(opened.config())? + new != layers(config)? {
        return Ok(opened);
    }
    let model = model.with(|config| config.expand(Expand::blocks(new)));
    Ok(model.open()?)
}

/// Refuses weights that are beyond the limits, by name.
pub(crate) fn within(report: &VerifyReport) -> Result<(), Failure> {
    let failed: Vec<&str> = report.failed().map(|tensor| &*tensor.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let (count, of) = (failed.len(), report.tensors.len());
    Err(format!(
        "{count} of {of} weights are beyond the limits: {}",
        failed.join(", ")
    )
    .into())
}

impl LimitArgs {
    /// Whether anything is asked of the weights.
    pub(crate) fn any(&self) -> bool {
        self.limits() != Limits::default()
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.min_sqnr = self.min_sqnr;
        limits.max_relative = self.max_relative;
        limits.min_cosine = self.min_cosine;
        limits.max_saturated = self.max_saturated;
        limits
    }

    pub(crate) fn config(&self) -> VerifyConfig {
        let config = VerifyConfig::new(self.limits());
        let fallbacks = self.fallbacks.iter().cloned();
        fallbacks.fold(config, VerifyConfig::fallback)
    }
}

fn number(text: &str, within: impl Fn(f64) -> bool) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (number.is_finite() && within(number)).then_some(number)
}

fn finite(text: &str) -> Result<f64, &'static str> {
    number(text, |_| true).ok_or("write a finite number of dB, such as 20")
}

fn positive(text: &str) -> Result<f64, &'static str> {
    number(text, |number| number >= 0.0).ok_or("write a finite number of 0 or more")
}

fn cosine(text: &str) -> Result<f64, &'static str> {
    number(text, |number| number.abs() <= 1.0).ok_or("write a number from -1 to 1")
}

fn part(text: &str) -> Result<f64, &'static str> {
    number(text, |number| (0.0..=1.0).contains(&number)).ok_or("write a number from 0 to 1")
}
