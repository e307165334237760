//! `firebox eval`: load and measure perplexity.

use std::{
    fs::File,
    io::{self, Read},
    num::NonZeroUsize,
    panic,
    path::{Path, PathBuf},
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use clap::Args;
use firebox::{
    Loaded, Target,
    config::Bytes,
    model::{CausalLm, decoder::Spec, stream::StreamStats},
    quant::QuantSpec,
    target::MemoryKind,
    text::{SpecialTokens, Tokenizer},
};
use serde::Serialize;

use crate::{
    Failure, OnTarget,
    args::{CacheArgs, LoadArgs},
    load::{Opened, check_vocabulary},
    logits::{AT_FAULT, logits},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct EvalCommand {
    #[command(flatten)]
    pub(crate) load: LoadArgs,

    #[command(flatten)]
    cache: CacheArgs,

    /// What becomes of linear weights; several for a table, each loaded in turn
    #[arg(long = "quant", value_name = "SPEC", default_value = "none")]
    quants: Vec<QuantSpec>,

    /// The text to measure on
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Tokens of a window, 2 at least, at most the model's context
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = context)]
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
    /// What products with streamed weights waited for; absent where none is streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    streamed: Option<StreamStats>,
}

impl OnTarget for EvalCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let text =
            read_text(&self.text).map_err(|error| format!("{}: {error}", self.text.display()))?;
        // Weights are read last: a text that cannot be scored should not cost a load.
        let mut opened = Vec::new();
        for quant in &self.quants {
            let config = self.cache.in_config(self.load.config(quant.clone()));
            let request = self.load.joined(self.load.request(config)?)?;
            opened.push((quant, Opened::<T>::new(request)?));
        }
        let (_, first) = &opened[0];
        let windows = self.windows(&text, &first.config()?, &first.tokenizer()?)?;
        // Nor should a quantization that the model cannot have cost those before it.
        for (quant, model) in &opened {
            let checked = model.check();
            checked.map_err(|error| format!("--quant {quant}: {error}"))?;
        }
        let mut scores = Vec::new();
        for (quant, opened) in &opened {
            scores.push(self.score(quant, opened, &windows)?);
        }
        match scores.as_slice() {
            [score] if self.json => output::json(score),
            scores if self.json => output::json(&scores),
            scores => output::line(table(scores)),
        }
    }
}

/// Bytes of a text at most: its tokens are in memory all at once, and take many times its bytes while they are found.
const TEXT_BYTES_MAX: u64 = 128 << 20;

/// Bytes of the logits of all windows that go through a model at once.
const LOGITS_BYTES_MAX: usize = 256 << 20;

/// A file or a pipe, read until its end or the limit.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    let mut file = File::open(path)?.take(TEXT_BYTES_MAX + 1);
    file.read_to_end(&mut text)?;
    if file.limit() == 0 {
        let most = Bytes(TEXT_BYTES_MAX);
        let expected = "as much as is measured at once; measure on a part of it";
        return Err(io::Error::other(format!(
            "it has more than {most}, {expected}"
        )));
    }
    String::from_utf8(text)
        .map_err(|error| io::Error::other(format!("it is no UTF-8: {}", error.utf8_error())))
}

/// A text, cut for a model.
struct Windows {
    ids: Vec<u32>,
    /// Tokens of a window; the last one may have fewer.
    context: usize,
}

impl EvalCommand {
    fn windows(
        &self,
        text: &str,
        config: &Spec,
        tokenizer: &Tokenizer,
    ) -> Result<Windows, Failure> {
        let at = self.text.display();
        let ids = tokenizer.encode(text, SpecialTokens::Omit)?;
        let context = self.context.min(config.positions);
        if ids.len() < 2 || context < 2 {
            let found = ids.len();
            return Err(format!(
                "{at}: {found} tokens in windows of {context}; a window needs 2 to score one"
            )
            .into());
        }
        check_vocabulary(config, &ids).map_err(|error| format!("{at}: {error}"))?;
        Ok(Windows { ids, context })
    }

    /// Windows that go through the model at once: products of a small model leave most of a processor idle. One where ranks or a
    /// stream of weights go through it in step, on devices, and where logits would take too much memory.
    fn windows_at_once<T: Target>(&self, model: &CausalLm, context: usize) -> usize {
        let in_step = self.load.divides() || model.stream_stats().is_some();
        if in_step || T::MEMORY != MemoryKind::Host {
            return 1;
        }
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let logits = context * model.spec.vocabulary * size_of::<f32>();
        threads.min(LOGITS_BYTES_MAX / logits.max(1)).max(1)
    }

    fn score<T: Target>(
        &self,
        quant: &QuantSpec,
        opened: &Opened<T>,
        windows: &Windows,
    ) -> Result<Score, Failure> {
        let started = Instant::now();
        let Loaded { model, report, .. } = opened.load()?;
        let context = windows.context;

        let (mut sum, mut tokens) = (0.0, 0);
        let scores = self.windows_at_once::<T>(&model, context);
        let scores = likelihoods(&model, windows, scores)?;
        for (k, (window, score)) in windows.ids.chunks(context).zip(scores).enumerate() {
            // It would come out as a perplexity of `null`.
            if !score.is_finite() {
                let (first, last) = (k * context, k * context + window.len() - 1);
                return Err(format!(
                    "{}: window {k}, tokens {first} to {last}: the negative log-likelihood is {score} \
                     with --quant {quant}; {AT_FAULT}",
                    self.text.display()
                )
                .into());
            }
            sum += score;
            tokens += window.len() - 1;
        }
        let mean = sum / tokens as f64;
        let perplexity = mean.exp();
        if !perplexity.is_finite() {
            return Err(format!(
                "{}: a mean negative log-likelihood of {mean} has no perplexity with --quant {quant}; \
                 {AT_FAULT}",
                self.text.display()
            )
            .into());
        }
        Ok(Score {
            quant: quant.clone(),
            perplexity,
            tokens,
            context,
            bytes_packed: report.bytes_packed,
            bits_per_weight: report.bits_per_weight(),
            seconds: started.elapsed().as_secs_f64(),
            streamed: report.stream_stats(),
        })
    }
}

fn context(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(tokens) if tokens >= 2 => Ok(tokens),
        _ => Err("write a whole number of 2 or more: the first token of a window is not scored"),
    }
}

/// The negative log-likelihood of each window, some at once.
fn likelihoods(model: &CausalLm, windows: &Windows, at_once: usize) -> Result<Vec<f64>, Failure> {
    let windows: Vec<&[u32]> = windows.ids.chunks(windows.context).collect();
    if at_once == 1 {
        let scores = windows.into_iter();
        return scores
            .map(|window| negative_log_likelihood(model, window))
            .collect();
    }
    let mut scores = Vec::new();
    for some in windows.chunks(at_once) {
        let found: Vec<Result<f64, String>> = thread::scope(|scope| {
            let score = |window| {
                let score = negative_log_likelihood(model, window);
                // An error of a command stays in its thread.
                score.map_err(|error| error.to_string())
            };
            let threads: Vec<_> = some
                .iter()
                .map(|window| scope.spawn(move || score(window)))
                .collect();
            let joined = threads.into_iter().map(ScopedJoinHandle::join);
            joined
                .map(|score| score.unwrap_or_else(|panic| panic::resume_unwind(panic)))
                .collect()
        });
        for score in found {
            scores.push(score?);
        }
    }
    Ok(scores)
}

/// Over every token of `window` but the first, in nats. Each window is a forward pass of its own.
fn negative_log_likelihood(model: &CausalLm, window: &[u32]) -> Result<f64, Failure> {
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
