//! `firebox eval`: load and measure perplexity.

use std::{fs, path::PathBuf, time::Instant};

use clap::Args;
use firebox::{
    Loaded, Target,
    config::Bytes,
    model::{Decoder, llama::Llama},
    quant::QuantSpec,
    tokenizer::SpecialTokens,
};
use serde::Serialize;

use crate::{Failure, OnTarget, args::LoadArgs, load::load_with_tokenizer, logits::logits, output};

#[derive(Debug, Args)]
pub(crate) struct EvalCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    /// What becomes of linear weights; several for a table, each loaded in turn
    #[arg(long = "quant", value_name = "SPEC", default_value = "none")]
    quants: Vec<QuantSpec>,

    /// The text to measure on
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Tokens of a window, at most the model's context
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,

    /// Print JSON: an object, or a list of them for several quantizations
    #[arg(long)]
    json: bool,
}

/// Perplexity of one quantization.
#[derive(Debug, Serialize)]
struct Score {
    quant: QuantSpec,
    /// `exp` of the mean negative log-likelihood.
    perplexity: f64,
    /// Tokens that were scored.
    tokens: usize,
    context: usize,
    bytes_packed: u64,
    bits_per_weight: f64,
    seconds: f64,
}

impl OnTarget for EvalCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let text = fs::read_to_string(&self.text)
            .map_err(|error| format!("{}: {error}", self.text.display()))?;
        let mut scores = Vec::new();
        for quant in &self.quants {
            scores.push(self.score::<T>(quant, &text)?);
        }
        match scores.as_slice() {
            [score] if self.json => output::json(score),
            scores if self.json => output::json(&scores),
            scores => output::line(table(scores)),
        }
    }
}

impl EvalCommand {
    fn score<T: Target>(&self, quant: &QuantSpec, text: &str) -> Result<Score, Failure> {
        let started = Instant::now();
        let (Loaded { model, report, .. }, tokenizer) =
            load_with_tokenizer::<T>(&self.load, quant)?;
        let ids = tokenizer.encode(text, SpecialTokens::Omit)?;
        let context = self.context.min(model.cache().limit());
        if ids.len() < 2 || context < 2 {
            let found = ids.len();
            return Err(format!(
                "{}: {found} tokens in windows of {context}; a window needs 2 to score one",
                self.text.display()
            )
            .into());
        }

        let (mut sum, mut tokens) = (0.0, 0);
        for window in ids.chunks(context) {
            sum += negative_log_likelihood(&model, window)?;
            tokens += window.len() - 1;
        }
        Ok(Score {
            quant: quant.clone(),
            perplexity: (sum / tokens as f64).exp(),
            tokens,
            context,
            bytes_packed: report.bytes_packed,
            bits_per_weight: report.bits_per_weight(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Over every token of `window` but the first, in nats. Each window is a forward pass of its own.
fn negative_log_likelihood(model: &Llama, window: &[u32]) -> Result<f64, Failure> {
    let logits = logits(model, window)?;
    let vocabulary = logits.len() / window.len();
    let scored = logits.chunks_exact(vocabulary).zip(&window[1..]);
    Ok(scored
        .map(|(logits, &next)| log_sum_exp(logits) - f64::from(logits[next as usize]))
        .sum())
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    f64::from(max) + sum.ln()
}

fn table(scores: &[Score]) -> comfy_table::Table {
    let rows = scores.iter().map(|score| {
        vec![
            score.quant.to_string(),
            format!("{:.3}", score.perplexity),
            format!("{:.2}", score.bits_per_weight),
            Bytes(score.bytes_packed).to_string(),
            score.tokens.to_string(),
            format!("{:.1}", score.seconds),
        ]
    });
    let header = [
        "quant",
        "perplexity",
        "bits/weight",
        "model",
        "tokens",
        "seconds",
    ];
    output::table(&header, &[1, 2, 3, 4, 5], rows)
}
