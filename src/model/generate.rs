//! Tokens after a prompt, one at a time, from any model that computes the next one.
//!
//! ```text
//! prompt ─► step ─► logits ─► sample ─► token ─► handed to the caller ┐
//!            ▲                                                       │
//!            └───────────────────────────────────────────────────────┘
//! ```

use core::{cmp::Ordering, ops::ControlFlow};

use burn::tensor::{DType, Tensor};

use super::layers::{Cache, CacheError};

/// A model that computes logits for the next token of one sequence.
pub trait NextToken {
    /// The number of tokens that it knows: ids are below it, and there is a logit for each.
    fn vocabulary(&self) -> usize;

    /// An empty cache of the model's shape.
    fn cache(&self) -> Cache;

    /// Adds `ids`, at least one, to the tokens that `cache` holds: logits `[vocabulary]` of the token
    /// after the last of them.
    ///
    /// # Errors
    ///
    /// [`CacheError`] when the cache cannot take them; it is as before.
    fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor<1>, CacheError>;
}

/// How long to go on, and how to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_new_tokens: usize,
    /// Ids that end the text. They are not part of it.
    pub stop_ids: Vec<u32>,
    /// How a token is chosen.
    pub sampling: Sampling,
}

impl Default for GenerateOptions {
    /// 256 tokens, the likeliest each, and no id that ends the text.
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            stop_ids: Vec::new(),
            sampling: Sampling::Greedy,
        }
    }
}

/// How a token is chosen from its logits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The likeliest; of equals, the one with the lowest id.
    #[default]
    Greedy,
    /// By lot.
    Draw(Draw),
}

/// A lot among the likelier tokens. The cuts apply in the order of the fields, as in transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Logits are divided by it: below 1 for safer text, above for wilder. Above 0.
    pub temperature: f32,
    /// Only so many of the likeliest take part. At least 1.
    pub top_k: Option<usize>,
    /// Only the likeliest that together reach this probability take part. Above 0, at most 1.
    pub top_p: Option<f32>,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, without the prompt and without the id that ended them.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub stop: StopReason,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model said this id, one of [`GenerateOptions::stop_ids`].
    StopId(u32),
    /// [`GenerateOptions::max_new_tokens`] are there.
    MaxNewTokens,
    /// The model has no position for another token.
    ContextFull,
    /// The caller broke off.
    Caller,
}

/// A prompt that cannot be continued.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// There is nothing to continue.
    #[error("the prompt is empty; begin with the tokenizer's first token at least")]
    EmptyPrompt,
    /// An id that the model has no row for.
    #[error(
        "token {position} of the prompt is {id}, and the vocabulary has {vocabulary}; is it the tokenizer of this model?"
    )]
    Id {
        /// Its place in the prompt.
        position: usize,
        /// The id.
        id: u32,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// A number in [`Draw`] that nothing can be drawn with.
    #[error("`{field}` is {found}, expected {expected}")]
    Draw {
        /// The field.
        field: &'static str,
        /// Its value.
        found: f64,
        /// What it should be.
        expected: &'static str,
    },
    /// The logits have no largest number. (One that is `-inf` is fine: a token that must not come.)
    #[error(
        "a logit of the token at position {position} is {found}; the weights are broken or {dtype:?} is too narrow for them"
    )]
    NotFinite {
        /// The position, counted from the first token of the prompt.
        position: usize,
        /// The logit: NaN or infinite.
        found: f32,
        /// The type of the logits.
        dtype: DType,
    },
    /// The prompt does not fit the context.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The device failed.
    #[error("logits could not be read back from the device: {message}")]
    Device {
        /// What Burn says.
        message: String,
    },
}

/// Continues `prompt`. Each new token is told to `on_token` as soon as it is chosen; breaking ends the
/// text after it.
///
/// The prompt goes through in one pass, then one token a step.
///
/// # Errors
///
/// [`GenerateError`]: before any work for what is wrong with the arguments, [`CacheError::Full`] for a
/// prompt longer than the context among them. A context that fills up later is a [`StopReason`], and
/// the tokens are kept.
pub fn generate(
    model: &impl NextToken,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    let tokens = prompt.len().saturating_add(options.max_new_tokens);
    let mut cache = model.cache().with_room(tokens);
    check(prompt, model.vocabulary())?;
    let mut sampler = Sampler::new(options.sampling)?;

    let mut ids = Vec::new();
    let mut pending = prompt;
    let stop = loop {
        if ids.len() == options.max_new_tokens {
            break StopReason::MaxNewTokens;
        }
        // The prompt has to fit; after it, there is something to keep.
        if cache.len() == cache.limit() {
            break StopReason::ContextFull;
        }
        let logits = model.step(pending, &mut cache)?;
        let id = sampler.choose(logits, cache.len())?;
        if options.stop_ids.contains(&id) {
            break StopReason::StopId(id);
        }
        ids.push(id);
        if on_token(id).is_break() {
            break StopReason::Caller;
        }
        pending = &ids[ids.len() - 1..];
    };
    Ok(Generated { ids, stop })
}

fn check(prompt: &[u32], vocabulary: usize) -> Result<(), GenerateError> {
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    for (position, &id) in prompt.iter().enumerate() {
        if !usize::try_from(id).is_ok_and(|id| id < vocabulary) {
            return Err(GenerateError::Id {
                position,
                id,
                vocabulary,
            });
        }
    }
    Ok(())
}

/// Chooses token after token.
#[derive(Debug)]
struct Sampler {
    sampling: Sampling,
    random: SplitMix,
}

impl Sampler {
    fn new(sampling: Sampling) -> Result<Self, GenerateError> {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Draw(draw) => draw.check()?.seed,
        };
        Ok(Self {
            sampling,
            random: SplitMix(seed),
        })
    }

    /// `logits` `[vocabulary]` to an id, the one at `position`.
    fn choose(&mut self, logits: Tensor<1>, position: usize) -> Result<u32, GenerateError> {
        let dtype = logits.dtype();
        let logits: Vec<f32> = logits
            .try_into_vec_as()
            .map_err(|error| GenerateError::Device {
                message: error.to_string(),
            })?;
        // A maximum that would skip over NaN is not used here: NaN has to be seen.
        let largest = logits.iter().copied().reduce(|a, b| match a.total_cmp(&b) {
            _ if a.is_nan() => a,
            _ if b.is_nan() => b,
            Ordering::Less => b,
            _ => a,
        });
        if let Some(found) = largest.filter(|largest| !largest.is_finite()) {
            return Err(GenerateError::NotFinite {
                position,
                found,
                dtype,
            });
        }
        let ranked = (0u32..).zip(logits);
        Ok(match self.sampling {
            Sampling::Greedy => likeliest(ranked),
            Sampling::Draw(draw) => draw.choose(ranked.collect(), self.random.unit()),
        })
    }
}

/// Of equals the first, so that the answer does not hang on the order of a sort.
fn likeliest(ranked: impl Iterator<Item = (u32, f32)>) -> u32 {
    let best = ranked.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(id, _)| id)
}

impl Draw {
    fn check(self) -> Result<Self, GenerateError> {
        let error = |field, found, expected| GenerateError::Draw {
            field,
            found,
            expected,
        };
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(error(
                "temperature",
                self.temperature.into(),
                "a number above 0; for 0 take Sampling::Greedy",
            ));
        }
        if self.top_k == Some(0) {
            return Err(error("top_k", 0.0, "1 at least"));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                Err(error("top_p", p.into(), "a number above 0, at most 1"))
            }
            _ => Ok(self),
        }
    }

    /// The token at `unit`, from 0 to below 1, of the tokens that take part, laid end to end by
    /// probability.
    fn choose(self, mut ranked: Vec<(u32, f32)>, unit: f64) -> u32 {
        // Likeliest first; of equals the lowest id, so that the order is the same everywhere.
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.filter(|k| *k < ranked.len()) {
            ranked.select_nth_unstable_by(k, order);
            ranked.truncate(k);
        }
        let largest = ranked.iter().map(|(_, logit)| *logit);
        let largest = largest.fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| f64::from((logit - largest) / self.temperature).exp();
        let all: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
        let enough = match self.top_p {
            Some(p) => all * f64::from(p),
            None => all * unit,
        };

        // Only those that matter are put in order: a few of a large vocabulary.
        let (mut weights, mut so_far) = (Vec::new(), 0.0);
        while so_far <= enough && weights.len() < ranked.len() {
            let (first, end) = (weights.len(), ranked.len().min(4 * weights.len() + 64));
            if end < ranked.len() {
                ranked[first..].select_nth_unstable_by(end - first, order);
            }
            ranked[first..end].sort_unstable_by(order);
            let more = ranked[first..end].iter().map(|(_, logit)| weight(*logit));
            weights.extend(more);
            so_far = weights.iter().sum();
        }
        if self.top_p.is_some() {
            weights.truncate(1 + reach(&weights, enough));
            let at = weights.iter().sum::<f64>() * unit;
            return ranked[reach(&weights, at)].0;
        }
        ranked[reach(&weights, enough)].0
    }
}

/// The first place where the sum of `weights` so far exceeds `sum`, or the last place.
fn reach(weights: &[f64], sum: f64) -> usize {
    let mut so_far = 0.0;
    weights
        .iter()
        .position(|weight| {
            so_far += weight;
            so_far > sum
        })
        .unwrap_or(weights.len().saturating_sub(1))
}

/// SplitMix64 (Steele, Lea, Flood 2014): eight lines whose sequence no dependency can change under a
/// seed.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The upper 53 bits are all that an f64 below 1 holds.
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
