//! `firebox generate`: load and continue a text.

use std::{num::NonZeroUsize, ops::ControlFlow, time::Instant};

use clap::{ArgGroup, Args};
use firebox::{
    Loaded, Target,
    model::{Draw, GenerateError, GenerateOptions, Sampling, StopReason, generate},
    text::{GenerationPrompt, Message, SpecialTokens, Tokenizer, TokenizerError},
};
use serde_json::json;

use crate::{
    Failure, OnTarget,
    args::RunArgs,
    load::{Opened, check_positions, check_vocabulary},
    output,
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("draw").args(["temperature", "top_k", "top_p"]).multiple(true))]
pub(crate) struct GenerateCommand {
    #[command(flatten)]
    pub(crate) run: RunArgs,

    /// The text to continue
    #[arg(short, long)]
    prompt: String,

    /// The prompt is what a user says: wrap it in the model's chat template
    #[arg(long)]
    chat: bool,

    /// Tokens to generate at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,

    /// Draw tokens instead of taking the likeliest: below 1 for safer text, above for wilder
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f32>,

    /// Draw among the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<NonZeroUsize>,

    /// Draw among the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f32>,

    /// The same seed draws the same tokens; with --temperature, --top-k or --top-p
    #[arg(long, default_value_t = 0, requires = "draw")]
    seed: u64,

    /// Print JSON: `text` is the continuation alone
    #[arg(long)]
    json: bool,
}

impl OnTarget for GenerateCommand {
    fn run<T: Target>(self) -> Result<(), Failure> {
        let opened = Opened::<T>::new(self.run.joined()?)?;
        let tokenizer = opened.tokenizer()?;
        let prompt = self.encode(&tokenizer)?;
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt.into());
        }
        let config = opened.config()?;
        check_vocabulary(&config, &prompt)?;
        check_positions(&config, prompt.len())?;
        let Loaded { model, report, .. } = opened.load()?;
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            stop_ids: tokenizer.eos_ids().to_vec(),
            sampling: self.sampling(),
        };

        // Shown with the first piece: of a prompt that cannot be continued nothing is printed.
        let mut ahead = self.prompt.as_str();
        let mut text = String::new();
        let mut stream = tokenizer.stream(SpecialTokens::Omit);
        let mut failed: Option<Failure> = None;
        let started = Instant::now();
        let generated = generate(&model, &prompt, &options, |id| {
            match stream.push(id) {
                Ok(Some(piece)) => {
                    text.push_str(&piece);
                    if !self.json {
                        let shown = output::text(format_args!("{ahead}{piece}"));
                        ahead = "";
                        // A closed pipe ends the text; it is no failure of ours.
                        if shown.is_err() {
                            return ControlFlow::Break(());
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    failed = Some(error.into());
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(failure) = failed {
            return Err(failure);
        }
        let rest = stream.finish()?;
        text.push_str(&rest);

        let tokens = generated.ids.len();
        let rate = tokens as f64 / seconds.max(f64::MIN_POSITIVE);
        let streamed = report.stream_stats();
        // A pass for each token: the first is that of the prompt.
        let moved = streamed.map(|stats| stats.bytes_moved as f64 / tokens.max(1) as f64);
        if self.json {
            return output::json(&json!({
                "prompt": self.prompt,
                "text": text,
                "prompt_tokens": prompt.len(),
                "tokens": generated.ids,
                "stop": stop(generated.stop),
                "seconds": seconds,
                "tokens_per_second": rate,
                "streamed": streamed,
                "bytes_moved_per_token": moved,
                "load": report,
            }));
        }
        output::line(format_args!("{ahead}{rest}"))?;
        output::note(format_args!(
            "\n{report}\n{tokens} tokens in {seconds:.2} s, {rate:.1} a second"
        ));
        Ok(())
    }
}

impl GenerateCommand {
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
        if !self.chat {
            return tokenizer.encode(&self.prompt, SpecialTokens::Include);
        }
        let text = tokenizer.apply_chat(&[Message::user(&self.prompt)], GenerationPrompt::Add)?;
        tokenizer.encode(&text, SpecialTokens::Omit)
    }

    /// Greedy unless one of the drawing options is given.
    fn sampling(&self) -> Sampling {
        if self.temperature.is_none() && self.top_k.is_none() && self.top_p.is_none() {
            return Sampling::Greedy;
        }
        Sampling::Draw(Draw {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.map(NonZeroUsize::get),
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}

fn temperature(text: &str) -> Result<f32, &'static str> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < f32::INFINITY => Ok(value),
        _ => Err("write a number above 0; leave it out for the likeliest tokens"),
    }
}

fn share(text: &str) -> Result<f32, &'static str> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("write a number above 0, at most 1"),
    }
}

fn stop(reason: StopReason) -> &'static str {
    match reason {
        StopReason::StopId(_) => "stop-token",
        StopReason::MaxNewTokens => "max-new-tokens",
        StopReason::ContextFull => "context-full",
        StopReason::Caller => "closed",
        _ => "other",
    }
}
