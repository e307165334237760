//! `firebox bench`: load and measure a prompt and the tokens after it.

use std::time::Instant;

use burn::tensor::{DType, Tensor};
use clap::Args;
use firebox::{
    Loaded, Target,
    model::{CausalLm, NextToken, Role, decoder::Spec},
    report::LoadReport,
};
use serde::Serialize;

use crate::{
    Failure, OnTarget,
    args::RunArgs,
    load::{Opened, check_positions},
    logits::AT_FAULT,
    output,
};

#[derive(Debug, Args)]
pub(crate) struct BenchCommand {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count)]
    prompt_tokens: usize,

    /// Tokens after the prompt, a pass for each
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count)]
    new_tokens: usize,

    /// Rounds that are measured, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    rounds: usize,

    /// Print JSON, with every round
    #[arg(long)]
    json: bool,
}

/// Seconds of one round.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    prompt_seconds: f64,
    /// Seconds of all tokens after the prompt.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Measured<'a> {
    prompt_tokens: usize,
    new_tokens: usize,
    /// Medians of the rounds.
    prompt_tokens_per_second: f64,
    tokens_per_second: f64,
    /// Bytes of the matrices that each token after the prompt is multiplied with.
    bytes_per_token: u64,
    rounds: Vec<Round>,
    load: &'a LoadReport,
}

impl OnTarget for BenchCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let opened = Opened::<T>::new(self.run.joined()?)?;
        let config = opened.config()?;
        check_positions(&config, self.prompt_tokens + self.new_tokens)?;
        let Loaded { model, report, .. } = opened.load()?;

        let ids = ids(self.prompt_tokens + self.new_tokens, config.vocabulary);
        let mut expected = None;
        let mut rounds = Vec::with_capacity(self.rounds);
        // The first round compiles kernels and touches pages for the first time.
        for round in 0..=self.rounds {
            let (seconds, last) = self.round(&model, &ids)?;
            if let Some(id) = last.iter().position(|logit| !logit.is_finite()) {
                return Err(
                    format!("logit {id} of the last token is {}; {AT_FAULT}", last[id]).into(),
                );
            }
            match &expected {
                None => expected = Some(last),
                Some(first) => same(first, &last, round)?,
            }
            if round > 0 {
                rounds.push(seconds);
            }
        }
        let rate = |tokens: usize, seconds: fn(&Round) -> f64| {
            tokens as f64 / median(rounds.iter().map(seconds)).max(f64::MIN_POSITIVE)
        };
        let measured = Measured {
            prompt_tokens: self.prompt_tokens,
            new_tokens: self.new_tokens,
            prompt_tokens_per_second: rate(self.prompt_tokens, |round| round.prompt_seconds),
            tokens_per_second: rate(self.new_tokens, |round| round.seconds),
            bytes_per_token: bytes_per_token(&model, &config, &report),
            rounds: rounds.clone(),
            load: &report,
        };
        if self.json {
            return output::json(&measured);
        }
        output::line(table(&measured))
    }
}

impl BenchCommand {
    /// Passes the prompt and then one token at a time through a new cache. Gives the logits after the last token,
    /// `[vocabulary]`.
    fn round(&self, model: &CausalLm, ids: &[u32]) -> Result<(Round, Vec<f32>), Failure> {
        let (prompt, rest) = ids.split_at(self.prompt_tokens);
        let mut cache = model.cache().with_room(ids.len());
        let started = Instant::now();
        let mut last = values(model.step(prompt, &mut cache)?)?;
        let prompt_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for id in rest {
            last = values(model.step(&[*id], &mut cache)?)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok((
            Round {
                prompt_seconds,
                seconds,
            },
            last,
        ))
    }
}

/// Ids that are spread over the vocabulary: no text is needed, since a product takes as long whatever its values are.
fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|k| (k * 7919 % vocabulary) as u32).collect()
}

/// Waits for the device.
fn values(logits: Tensor<1>) -> Result<Vec<f32>, Failure> {
    Ok(logits
        .into_data()
        .convert_dtype(DType::F32)
        .try_into_vec()?)
}

/// Refuses a round whose answer differs from that of the first round: it computed something else.
fn same(first: &[f32], last: &[f32], round: usize) -> Result<(), Failure> {
    let apart = first.iter().zip(last).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0, f32::max);
    // Devices may add in another order in every run.
    if apart <= SAME {
        return Ok(());
    }
    Err(format!("round {round} gives logits that are {apart:.1e} apart from those of the first round, {SAME:.0e} allowed").into())
}

const SAME: f32 = 1e-3;

/// All matrices but an embedding that is no head, of which a token takes one row; of experts as many as a token goes
/// through.
fn bytes_per_token(model: &CausalLm, spec: &Spec, report: &LoadReport) -> u64 {
    let tied = model.head.is_none();
    let experts = spec.layers.iter().find_map(|layer| layer.experts());
    let (chosen, of) = experts.map_or((1, 1), |experts| {
        (experts.chosen as u64, experts.count as u64)
    });
    let bytes = report.per_tensor.iter().map(|tensor| match tensor.role {
        Role::Embedding if !tied => 0,
        Role::Norm | Role::Bias | Role::Other => 0,
        Role::Expert => tensor.bytes_packed * chosen / of,
        _ => tensor.bytes_packed,
    });
    bytes.sum()
}

fn median(seconds: impl Iterator<Item = f64>) -> f64 {
    let mut seconds: Vec<f64> = seconds.collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn table(measured: &Measured) -> comfy_table::Table {
    let spread = |seconds: fn(&Round) -> f64, tokens: usize| {
        let rates = measured
            .rounds
            .iter()
            .map(|round| tokens as f64 / seconds(round));
        let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| {
            (least.min(rate), most.max(rate))
        });
        format!("{least:.1} to {most:.1}")
    };
    let row = |name: &str, tokens: usize, rate: f64, seconds: fn(&Round) -> f64| {
        vec![
            name.to_owned(),
            tokens.to_string(),
            format!("{rate:.1}"),
            spread(seconds, tokens),
        ]
    };
    let rows = [
        row(
            "prompt",
            measured.prompt_tokens,
            measured.prompt_tokens_per_second,
            |round| round.prompt_seconds,
        ),
        row(
            "generation",
            measured.new_tokens,
            measured.tokens_per_second,
            |round| round.seconds,
        ),
    ];
    output::table(&["", "tokens", "a second", "rounds"], &[1, 2, 3], rows)
}

fn count(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(count) if (1..=1 << 24).contains(&count) => Ok(count),
        _ => Err("write a whole number from 1 to 16777216"),
    }
}
