//! `firebox finetune`: train an adapter on a model, and save it.

use std::path::PathBuf;

use clap::Args;
use firebox::{
    LoadRequest, Target,
    config::TrainType,
    quant::QuantSpec,
    train::{Decay, FinetuneConfig, FinetuneConfigError, Run, RunReport, on_devices},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Failure, OnTarget,
    args::{LoadArgs, folder_here},
    output::{self, Usage},
    progress::Bar,
    settings, training,
};

#[derive(Debug, Args)]
pub(crate) struct FinetuneCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// Settings as TOML: the names of the flags, with the values that they take; flags come before them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    run: TrainArgs,

    /// Go on from the last checkpoint in the folder of the run, with the same settings and data; from the beginning if there is none
    #[arg(long)]
    resume: bool,

    /// Print JSON: one object at the end
    #[arg(long)]
    json: bool,
}

/// The settings of a run. Each can be in the file too.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
struct TrainArgs {
    /// What to train on: a text, JSON lines, or a folder of such files
    #[arg(long, value_name = "FILE|DIR")]
    data: Option<PathBuf>,

    /// Texts that are not trained on, to measure perplexity with
    #[arg(long, value_name = "FILE|DIR")]
    eval: Option<PathBuf>,

    /// The folder of the run: checkpoints, metrics.jsonl, report.html, and at the end the adapter
    #[arg(long, value_parser = folder_here(), value_name = "DIR")]
    out: Option<PathBuf>,

    /// What becomes of the linear weights of the base, which are not trained: nf4, hqq:bits=4,group=64 and others;
    /// none if not given
    #[arg(long, value_name = "SPEC")]
    quant: Option<QuantSpec>,

    /// What is trained and what the rest is packed as, in a word of answer.ai's script: full, lora, custom_lora, qlora,
    /// custom_qlora, hqq_lora, hqq_dora, bnb_dora, llama_pro, bnb_llama_pro or hqq_llama_pro
    #[arg(long, value_name = "TYPE")]
    train_type: Option<TrainType>,

    /// Steps of the optimizer
    #[arg(long, value_name = "N")]
    steps: Option<u64>,

    /// How often the data is seen, instead of --steps; 1 if neither is given
    #[arg(long, value_name = "X", value_parser = number)]
    epochs: Option<f64>,

    /// Rows of one forward pass; 4 if not given
    #[arg(long, value_name = "B")]
    batch: Option<usize>,

    /// Tokens of a row; the positions of the model, 512 at most, if not given
    #[arg(long, value_name = "L")]
    length: Option<usize>,

    /// Batches of a step, whose gradients are added up; 1 if not given
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,

    /// The highest learning rate; 2e-4 if not given
    #[arg(long, value_name = "X", value_parser = number)]
    learning_rate: Option<f64>,

    /// How the learning rate falls after the warm-up: constant, linear or cosine; cosine if not given
    #[arg(long, value_name = "NAME", value_parser = decay)]
    schedule: Option<Decay>,

    /// Steps of warm-up; below 1 a share of all steps; 0.03 if not given
    #[arg(long, value_name = "X", value_parser = number)]
    warmup: Option<f64>,

    /// The share of the learning rate that is left at the end; 0.1 if not given
    #[arg(long, value_name = "X", value_parser = number)]
    floor: Option<f64>,

    /// What moves the values: adamw, adamw8bit, or with settings adamw8bit:beta1=0.9,beta2=0.95,eps=1e-8,decay=0.01;
    /// adamw if not given
    #[arg(long, value_name = "SPEC")]
    optimizer: Option<String>,

    /// Decoupled weight decay; the optimizer's own if not given
    #[arg(long, value_name = "X", value_parser = number)]
    weight_decay: Option<f64>,

    /// The norm to which larger gradients are shrunk, over all of them; 1 if not given, 0 for none
    #[arg(long, value_name = "X", value_parser = number)]
    clip: Option<f64>,

    /// The order of the data, and where new factors begin; 0 if not given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Steps between two evaluations; only before the first and after the last step if not given
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,

    /// Steps between two checkpoints; a tenth of all steps if not given
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,

    /// Checkpoints that are kept, 2 at least; 2 if not given
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// End after N evaluations in a row without a lower perplexity; the adapter is the one with the lowest
    #[arg(long, value_name = "N")]
    patience: Option<u64>,

    /// Compute blocks again for their gradients, which saves the memory of their activations
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    recompute: Option<bool>,

    /// Whether short documents share rows; true if not given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    packing: Option<bool>,
}

/// NaN and infinity are no settings.
fn number(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or("write a number, such as 0.1 or 2e-4")
}

fn decay(text: &str) -> Result<Decay, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

impl OnTarget for FinetuneCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let config = self.config()?;
        let bar = Bar::new();
        let request = self.load.request(self.load.config(config.quant.clone()))?;
        let request = match self.load.messages("training")? {
            Some(ranks) => request.ranks(ranks),
            None => request,
        };
        let request = request.observer(bar.clone());
        let report = on_devices::<T, _>(request, &config, self.resume, |request| {
            self.train::<T>(request, config.clone(), &bar)
        })??;
        match self.json {
            true => output::json(&report),
            false => said(&report),
        }
    }
}

impl FinetuneCommand {
    fn train<T: Target>(
        &self,
        request: LoadRequest,
        config: FinetuneConfig,
        bar: &Bar,
    ) -> Result<RunReport, Failure> {
        let opened = Run::<T>::open(request, config, self.resume);
        bar.clear();
        let run = opened?;
        if let Some(report) = run.ended()? {
            return Ok(report);
        }
        output::note(run.facts());
        let loaded = run.load();
        bar.clear();
        training::train(loaded?, self.json)
    }

    /// The file, and the flags over it.
    fn config(&self) -> Result<FinetuneConfig, Failure> {
        let mut settings = match &self.config {
            Some(file) => {
                let mut settings = settings::read(file)?;
                // Those of the load were turned into flags.
                settings.retain(|key, _| !is_flag_of_load(&key.replace('_', "-")));
                as_json(settings).map_err(|error| settings::wrong(file, &error))?
            }
            None => Map::new(),
        };
        let flags = serde_json::to_value(&self.run)?;
        let flags = flags.as_object().cloned().unwrap_or_default();
        settings.extend(flags.into_iter().filter(|(_, value)| !value.is_null()));
        match self.load.adapters.as_slice() {
            [] => {}
            [adapter] => {
                settings.insert("adapter".to_owned(), serde_json::to_value(adapter)?);
            }
            more => {
                return Err(Usage(format!(
                    "--adapter was given {} times; one adapter is trained",
                    more.len()
                ))
                .into());
            }
        }
        if let Some(expand) = self.load.model.expand {
            settings.insert("expand".to_owned(), serde_json::to_value(expand)?);
        }
        FinetuneConfig::from_map(settings).map_err(|error| match &self.config {
            Some(file) => settings::wrong(file, &error),
            None => error.into(),
        })
    }
}

/// Whether a setting is one of the run, which its configuration has.
pub(crate) fn is_setting(key: &str) -> bool {
    let run = TrainArgs::augment_args(clap::Command::new("run"));
    let mut settings = run.get_arguments().filter_map(clap::Arg::get_long);
    ["adapter", "expand"].contains(&key) || settings.any(|long| long == key)
}

fn is_flag_of_load(key: &str) -> bool {
    let load = LoadArgs::augment_args(clap::Command::new("load"));
    let mut flags = load.get_arguments().filter_map(clap::Arg::get_long);
    !is_setting(key) && flags.any(|long| long == key)
}

/// Settings as JSON, which has neither dates nor infinite numbers.
fn as_json(settings: toml::Table) -> Result<Map<String, Value>, FinetuneConfigError> {
    let settings = settings.into_iter().map(|(key, value)| {
        let value = json(&value).map_err(|found| FinetuneConfig::refused(&key, found))?;
        Ok((key, value))
    });
    settings.collect()
}

/// A value as JSON, or the part of it that has no words there.
fn json(value: &toml::Value) -> Result<Value, &toml::Value> {
    match value {
        toml::Value::Datetime(_) => Err(value),
        toml::Value::Float(number) if !number.is_finite() => Err(value),
        toml::Value::Array(values) => values.iter().map(json).collect(),
        toml::Value::Table(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, value)| Ok((name.clone(), json(value)?)))
                .collect()
        }
        toml::Value::String(text) => Ok(text.as_str().into()),
        toml::Value::Integer(number) => Ok((*number).into()),
        toml::Value::Float(number) => Ok((*number).into()),
        toml::Value::Boolean(flag) => Ok((*flag).into()),
    }
}

fn said(report: &RunReport) -> Result<(), Failure> {
    if report.steps_run == 0 {
        output::line("nothing was left to do: the run had ended already")?;
    }
    output::line(report)
}
