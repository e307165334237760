//! Which adapters a model gets.

use core::{fmt, str::FromStr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Pattern, RuleError};

/// An adapter of a model: factors to be trained, or those of a folder.
///
/// * `lora:rank=16,alpha=32,targets=linear`: new factors, see [`LoraConfig`]
/// * `DIR`: the folder that peft or [`AdapterFile::save`](crate::adapter::AdapterFile::save) wrote
/// * `DIR=0.7`: the same, with 0.7 of its change added
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterConfig {
    /// New factors, which change nothing until they are trained.
    Lora(LoraConfig),
    /// A folder with `adapter_config.json` and `adapter_model.safetensors`.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// How much of the change is added; 1 for all of it.
        weight: f64,
    },
}

/// New factors of low-rank adaptation: which matrices get them, and how large they are.
///
/// Written `lora:rank=16,alpha=32,dropout=0.05,targets=linear,rslora,dora,bias=adapted,seed=1`. Targets are `linear` (all
/// linear layers but the head), or patterns joined by `+`: `targets=*.q_proj+*.v_proj`, `targets=linear+*.embed_tokens`. An
/// option is given once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A, and columns of B.
    pub rank: usize,
    /// The change is `alpha / rank` times `B A`.
    pub alpha: f64,
    /// Probability with which an activation is dropped while the adapter is trained.
    pub dropout: f64,
    /// Whether the change is `alpha / √rank` times `B A` (rsLoRA, arXiv 2312.03732).
    pub rank_stabilized: bool,
    /// Whether the norms of rows are trained for themselves (DoRA, arXiv 2402.09353).
    pub dora: bool,
    /// The matrices that get factors. All linear layers but heads and routers, if empty.
    pub targets: Vec<Pattern>,
    /// Other ranks for some of them. The first pattern that matches wins.
    pub ranks: Vec<(Pattern, usize)>,
    /// Other values of `alpha` for some of them. The first pattern that matches wins.
    pub alphas: Vec<(Pattern, f64)>,
    /// The biases that are trained.
    pub biases: TrainedBiases,
    /// Modules whose matrix is trained whole, such as `lm_head`.
    pub whole: Vec<Pattern>,
    /// Where the factors begin, and which activations are dropped.
    pub seed: u64,
}

/// The biases that are trained beside the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedBiases {
    /// None.
    #[default]
    None,
    /// Those of the modules that get factors (`lora_only` of peft).
    Adapted,
    /// Those of all modules.
    All,
}

/// An adapter that could not be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterSpecError {
    /// An unknown option, or one without a value.
    #[error(
        "adapter `{adapter}`: `{option}` is no option; write lora:rank=16,alpha=32,dropout=0.05,targets=linear,rslora,dora,bias=adapted,whole=lm_head,seed=1, or the folder of an adapter"
    )]
    Option {
        /// The text.
        adapter: String,
        /// The part that is no option.
        option: String,
    },
    /// A value that cannot be.
    #[error("adapter `{adapter}`: {option} is {found}, and has to be {expected}")]
    Value {
        /// The text.
        adapter: String,
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// The values that it may have.
        expected: &'static str,
    },
    /// An option that is given twice.
    #[error("adapter `{adapter}`: {option} is given twice; write it once")]
    Twice {
        /// The text.
        adapter: String,
        /// The option.
        option: String,
    },
    /// Not a pattern.
    #[error("adapter `{adapter}`: {source}")]
    Pattern {
        /// The text.
        adapter: String,
        /// Why not.
        source: Box<RuleError>,
    },
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rank_stabilized: false,
            dora: false,
            targets: Vec::new(),
            ranks: Vec::new(),
            alphas: Vec::new(),
            biases: TrainedBiases::None,
            whole: Vec::new(),
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// Factors of this rank for all linear layers but heads and routers. The change is `alpha / rank` times `B A`.
    pub fn new(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            ..Self::default()
        }
    }

    /// Adds a pattern of the matrices that get factors.
    pub fn target(mut self, pattern: Pattern) -> Self {
        self.targets.push(pattern);
        self
    }

    /// Another rank for some matrices.
    pub fn rank_of(mut self, pattern: Pattern, rank: usize) -> Self {
        self.ranks.push((pattern, rank));
        self
    }

    /// Another `alpha` for some matrices.
    pub fn alpha_of(mut self, pattern: Pattern, alpha: f64) -> Self {
        self.alphas.push((pattern, alpha));
        self
    }

    /// Probability with which an activation is dropped while the adapter is trained.
    pub fn dropout(mut self, rate: f64) -> Self {
        self.dropout = rate;
        self
    }

    /// Divides by the root of the rank.
    pub fn rank_stabilized(mut self, stabilized: bool) -> Self {
        self.rank_stabilized = stabilized;
        self
    }

    /// Trains the norms of rows for themselves.
    pub fn dora(mut self, dora: bool) -> Self {
        self.dora = dora;
        self
    }

    /// Trains biases.
    pub fn biases(mut self, biases: TrainedBiases) -> Self {
        self.biases = biases;
        self
    }

    /// Trains modules whole.
    pub fn whole(mut self, pattern: Pattern) -> Self {
        self.whole.push(pattern);
        self
    }

    /// Where the factors begin, and which activations are dropped.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// `alpha / rank`, or `alpha / √rank`.
    pub fn scale(&self, alpha: f64, rank: usize) -> f64 {
        let rank = rank as f64;
        alpha
            / if self.rank_stabilized {
                rank.sqrt()
            } else {
                rank
            }
    }

    fn options(text: &str, options: &str) -> Result<Self, AdapterSpecError> {
        let mut config = Self::default();
        let mut alpha = None;
        let mut given = Vec::new();
        for option in options_of(options) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let name = if name == "r" { "rank" } else { name };
            if given.contains(&name) {
                return Err(AdapterSpecError::Twice {
                    adapter: text.to_owned(),
                    option: name.to_owned(),
                });
            }
            given.push(name);
            let wrong = |option, expected| AdapterSpecError::Value {
                adapter: text.to_owned(),
                option,
                found: value.to_owned(),
                expected,
            };
            let patterns = || -> Result<Vec<Pattern>, AdapterSpecError> {
                let patterns = value.split('+').map(|pattern| match (name, pattern) {
                    // Among others too.
                    ("targets", "linear") => "role:linear".parse(),
                    (_, pattern) => pattern.parse(),
                });
                patterns
                    .collect::<Result<_, _>>()
                    .map_err(|source| AdapterSpecError::Pattern {
                        adapter: text.to_owned(),
                        source: Box::new(source),
                    })
            };
            match name {
                "rank" => {
                    let rank = value.parse().ok().filter(|rank| *rank > 0);
                    config.rank = rank.ok_or_else(|| wrong("rank", "a whole number above 0"))?;
                }
                "alpha" => {
                    let value = value.parse().ok().filter(|alpha: &f64| alpha.is_finite());
                    alpha = Some(value.ok_or_else(|| wrong("alpha", "a number"))?);
                }
                "dropout" => {
                    let rate = value.parse().ok().filter(|rate| (0.0..1.0).contains(rate));
                    config.dropout =
                        rate.ok_or_else(|| wrong("dropout", "at least 0 and below 1"))?;
                }
                "seed" => {
                    let seed = value.parse().ok();
                    config.seed = seed.ok_or_else(|| wrong("seed", "a whole number"))?;
                }
                "targets" if value == "linear" => config.targets.clear(),
                "targets" => config.targets = patterns()?,
                "whole" => config.whole = patterns()?,
                "bias" => {
                    config.biases = match value {
                        "none" => TrainedBiases::None,
                        "adapted" => TrainedBiases::Adapted,
                        "all" => TrainedBiases::All,
                        _ => return Err(wrong("bias", "none, adapted or all")),
                    };
                }
                "rslora" if value.is_empty() => config.rank_stabilized = true,
                "dora" if value.is_empty() => config.dora = true,
                _ => {
                    return Err(AdapterSpecError::Option {
                        adapter: text.to_owned(),
                        option: option.to_owned(),
                    });
                }
            }
        }
        config.alpha = alpha.unwrap_or(config.rank as f64);
        Ok(config)
    }
}

/// The parts between commas that stand outside of braces, since patterns have both.
fn options_of(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let parts = text.split(move |letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth <= 0
    });
    parts.filter(|part| !part.is_empty())
}

impl AdapterConfig {
    /// All of the change of the adapter in `folder`.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::Folder {
            folder: folder.into(),
            weight: 1.0,
        }
    }
}

impl From<LoraConfig> for AdapterConfig {
    fn from(config: LoraConfig) -> Self {
        Self::Lora(config)
    }
}

impl FromStr for AdapterConfig {
    type Err = AdapterSpecError;

    fn from_str(text: &str) -> Result<Self, AdapterSpecError> {
        if let Some(options) = text.strip_prefix("lora").filter(|rest| {
            // A folder may begin with the same letters.
            rest.is_empty() || rest.starts_with(':')
        }) {
            let options = options.trim_start_matches(':');
            return LoraConfig::options(text, options).map(Self::Lora);
        }
        let whole = || Ok(Self::folder(text));
        let Some((folder, weight)) = text.rsplit_once('=') else {
            return whole();
        };
        match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(Self::Folder {
                folder: folder.into(),
                weight,
            }),
            Ok(_) => Err(AdapterSpecError::Value {
                adapter: text.to_owned(),
                option: "the weight",
                found: weight.to_owned(),
                expected: "a finite number",
            }),
            Err(_) => whole(),
        }
    }
}

impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { folder, weight } if *weight == 1.0 => write!(f, "{}", folder.display()),
            Self::Folder { folder, weight } => write!(f, "{}={weight}", folder.display()),
            Self::Lora(config) => config.fmt(f),
        }
    }
}

impl fmt::Display for LoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lora:rank={},alpha={}", self.rank, self.alpha)?;
        if self.dropout > 0.0 {
            write!(f, ",dropout={}", self.dropout)?;
        }
        if self.rank_stabilized {
            f.write_str(",rslora")?;
        }
        if self.dora {
            f.write_str(",dora")?;
        }
        for (name, patterns) in [("targets", &self.targets), ("whole", &self.whole)] {
            if !patterns.is_empty() {
                let patterns: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
                write!(f, ",{name}={}", patterns.join("+"))?;
            }
        }
        match self.biases {
            TrainedBiases::None => Ok(()),
            TrainedBiases::Adapted => f.write_str(",bias=adapted"),
            TrainedBiases::All => f.write_str(",bias=all"),
        }
    }
}
