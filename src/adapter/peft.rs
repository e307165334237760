//! The configuration of an adapter as peft writes it, and which modules it names.

use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::error::AdapterError;
use crate::{
    config::{LoraConfig, NEW_BLOCKS, TrainedBiases},
    source::json,
};

/// `adapter_config.json`. Fields that change no number are kept as they are, and written again.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The file as it was, or as it will be written.
    pub(crate) text: String,
    json: Value,
}

/// The settings of peft that change numbers in ways that are not computed here, with the values at which they do not.
const REFUSED: [(&str, &str); 11] = [
    (
        "alora_invocation_tokens",
        "factors that act from some token on are not computed",
    ),
    (
        "target_parameters",
        "factors of parameters that no module holds are not computed",
    ),
    (
        "layer_replication",
        "layers that are repeated are not built",
    ),
    (
        "trainable_token_indices",
        "single trained rows of an embedding are not read",
    ),
    (
        "use_qalora",
        "factors over groups of columns are not computed",
    ),
    ("lora_bias", "a bias beside the factor B is not computed"),
    (
        "arrow_config",
        "factors that are chosen for each token are not computed",
    ),
    ("use_bdlora", "factors in blocks are not computed"),
    ("velora_config", "compressed activations are not computed"),
    ("kasa_config", "singular values are not computed"),
    ("monteclora_config", "sampled factors are not computed"),
];

/// Whether the value of a field is one that peft has.
type Fits = fn(&Value) -> bool;

/// The fields that change numbers, where they are given. Of those that have no `null` in peft, `null` is an error too: it is not
/// the default.
const FIELDS: [(&str, &str, Fits); 11] = [
    ("r", "a whole number above 0", |value| {
        value.as_u64().is_some_and(|rank| rank > 0)
    }),
    ("use_rslora", "true or false", |value| {
        value.is_boolean() || value.is_null()
    }),
    ("use_dora", "true or false", |value| {
        value.is_boolean() || value.is_null()
    }),
    ("ensure_weight_tying", "true or false", |value| {
        value.is_boolean() || value.is_null()
    }),
    ("lora_alpha", "a number", Value::is_number),
    ("lora_dropout", "a number from 0 to below 1", |value| {
        value
            .as_f64()
            .is_some_and(|rate| (0.0..1.0).contains(&rate))
    }),
    ("bias", "none, all or lora_only", |value| {
        matches!(value.as_str(), Some("none" | "all" | "lora_only"))
    }),
    ("target_modules", "names or a pattern", is_names),
    ("exclude_modules", "names or a pattern", is_names),
    ("modules_to_save", "names", is_names),
    (
        "init_lora_weights",
        "a way to begin that peft has",
        |value| {
            let word = value.as_str().map(str::to_lowercase);
            match word {
                Some(word) => [&BEGINS[..], &CHANGES_BASE]
                    .concat()
                    .iter()
                    .any(|it| is_begin(&word, it)),
                None => value.is_boolean() || value.is_null(),
            }
        },
    ),
];

fn is_names(value: &Value) -> bool {
    let mut names = value.as_array().into_iter().flatten();
    (value.is_string() || value.is_array() || value.is_null()) && names.all(Value::is_string)
}

/// Ways to begin that say nothing about the matrix.
const BEGINS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Ways to begin that change the matrix itself: the factors alone are not the whole change.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Whether a word of a configuration names a way to begin; `pissa_niter_4` is one of `pissa`.
fn is_begin(word: &str, begin: &str) -> bool {
    let rest = word.strip_prefix(begin);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

impl PeftConfig {
    /// Reads the text of `adapter_config.json`, which is `file`.
    pub(crate) fn parse(file: &Path, text: String) -> Result<Self, AdapterError> {
        let wrong = |reason: String| AdapterError::Config {
            file: file.to_owned(),
            reason,
        };
        let json: Value =
            json::read(text.as_bytes()).map_err(|error| wrong(format!("is no JSON: {error}")))?;
        let config = Self { text, json };
        let unsupported = |field: &str, reason| AdapterError::Unsupported {
            file: file.to_owned(),
            field: field.to_owned(),
            value: config.json[field].to_string(),
            reason,
        };
        match config.json["peft_type"].as_str() {
            Some("LORA") => {}
            _ => return Err(unsupported("peft_type", "only LORA is read")),
        }
        match &config.json["task_type"] {
            Value::Null => {}
            task if task == "CAUSAL_LM" => {}
            _ => {
                let reason = "the model has another head, and adapters of models that predict tokens are read: CAUSAL_LM";
                return Err(unsupported("task_type", reason));
            }
        }
        for (field, reason) in REFUSED {
            let value = &config.json[field];
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(values) => values.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            if !is_off {
                return Err(unsupported(field, reason));
            }
        }
        for (field, expected, fits) in FIELDS {
            if let Some(value) = config.json.get(field).filter(|value| !fits(value)) {
                return Err(wrong(format!("`{field}` is {value}; expected {expected}")));
            }
        }
        let begins = config.json["init_lora_weights"]
            .as_str()
            .map(str::to_lowercase);
        if begins.is_some_and(|begins| CHANGES_BASE.iter().any(|it| is_begin(&begins, it))) {
            let reason = "it changes the matrices of the model too; save it with `path_initial_model_for_weight_conversion`";
            return Err(unsupported("init_lora_weights", reason));
        }
        Ok(config)
    }

    /// A new configuration of these fields.
    pub(crate) fn write(json: Value) -> Self {
        // peft sorts the keys and writes no newline at the end.
        let text = json::pretty(&json);
        Self { text, json }
    }

    /// The model that the adapter was trained on, as peft names it.
    pub fn base(&self) -> Option<&str> {
        self.json["base_model_name_or_path"].as_str()
    }

    /// Whether the norms of rows are trained for themselves.
    pub fn is_dora(&self) -> bool {
        self.json["use_dora"] == true
    }

    /// Whether an adapter of one of embedding and head, where both are one matrix, is one of both.
    pub(crate) fn ensures_weight_tying(&self) -> bool {
        self.json["ensure_weight_tying"] == true
    }

    /// The new blocks of the expanded model that it was trained on, where it says so.
    pub(crate) fn new_blocks(&self) -> Option<Vec<usize>> {
        let blocks = self.json[NEW_BLOCKS].as_array()?;
        let blocks = blocks
            .iter()
            .map(|block| usize::try_from(block.as_u64()?).ok());
        blocks.collect()
    }

    /// The same with the new blocks of the expanded model that it was trained on.
    pub(crate) fn trained_beside(self, new_blocks: &[usize]) -> Self {
        let mut json = self.json;
        json[NEW_BLOCKS] = new_blocks.into();
        Self::write(json)
    }

    /// The probability with which an activation is dropped in training.
    pub fn dropout(&self) -> f64 {
        self.json["lora_dropout"].as_f64().unwrap_or(0.0)
    }

    /// The settings that a configuration of new factors has too. Ranks and alphas of single modules are those of its factors.
    pub(crate) fn to_lora(&self) -> LoraConfig {
        let number = |field: &str| self.json[field].as_f64().unwrap_or(8.0);
        LoraConfig::new(number("r") as usize, number("lora_alpha"))
            .dropout(self.dropout())
            .rank_stabilized(self.json["use_rslora"] == true)
            .dora(self.is_dora())
            .biases(match self.json["bias"].as_str() {
                Some("all") => TrainedBiases::All,
                Some("lora_only") => TrainedBiases::Adapted,
                _ => TrainedBiases::None,
            })
    }

    /// The rank of a module: of the first pattern that names it, else the one of all.
    pub(crate) fn rank(&self, module: &str) -> Result<usize, String> {
        let rank = self.of_module("rank_pattern", module)?;
        let rank = rank.unwrap_or(&self.json["r"]);
        match rank {
            Value::Null => Ok(8),
            rank => rank
                .as_u64()
                .filter(|rank| *rank > 0)
                .map(|rank| rank as usize)
                .ok_or_else(|| format!("the rank {rank} is no whole number above 0")),
        }
    }

    /// How much of `B A` is added to a module: `alpha / r`, or `alpha / √r`.
    pub(crate) fn scale(&self, module: &str) -> Result<f64, String> {
        let rank = self.rank(module)? as f64;
        let alpha = self.of_module("alpha_pattern", module)?;
        let alpha = match alpha.unwrap_or(&self.json["lora_alpha"]) {
            Value::Null => 8.0,
            alpha => alpha
                .as_f64()
                .ok_or_else(|| format!("`lora_alpha` {alpha} is no number"))?,
        };
        let divisor = match self.json["use_rslora"] == true {
            true => rank.sqrt(),
            false => rank,
        };
        Ok(alpha / divisor)
    }

    /// The value of the first pattern of `field`, in the order of the file, that the name of a module ends with.
    fn of_module(&self, field: &str, module: &str) -> Result<Option<&Value>, String> {
        let Some(patterns) = self.json[field].as_object() else {
            return Ok(None);
        };
        for (pattern, value) in patterns {
            if regex(pattern, &format!(r"^(?:.*\.)?(?:{pattern})$"))?.is_match(module) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether it says which modules have factors. Where it does not, the family of the model does.
    pub(crate) fn names_targets(&self) -> bool {
        !self.json["target_modules"].is_null()
    }

    /// Whether the factors of a module are part of the adapter, where `is_linear` says whether the module is a linear layer
    /// that is no head. The rules of peft, in their order.
    pub(crate) fn targets(&self, module: &str, is_linear: bool) -> Result<bool, String> {
        let ends = |names: &[Value], module: &str| {
            let mut names = names.iter().filter_map(Value::as_str);
            names.any(|name| module == name || module.ends_with(&format!(".{name}")))
        };
        let listed = |field: &str| -> Result<bool, String> {
            match &self.json[field] {
                Value::String(pattern) => {
                    Ok(regex(pattern, &format!("^(?:{pattern})$"))?.is_match(module))
                }
                Value::Array(names) => Ok(ends(names, module)),
                _ => Ok(false),
            }
        };
        if listed("exclude_modules")? || self.is_saved_whole(module) {
            return Ok(false);
        }
        match &self.json["target_modules"] {
            Value::String(all) if all == "all-linear" => Ok(is_linear),
            Value::String(_) => listed("target_modules"),
            Value::Array(names) => {
                let named = ends(names, module);
                let exact = names.iter().any(|name| name == module);
                Ok(named && (exact || self.transforms_layer_of(module)?))
            }
            // Left out where the family of the model says which modules are meant: the file does.
            _ => Ok(false),
        }
    }

    /// Whether the module, or one above it, is stored whole.
    pub(crate) fn is_saved_whole(&self, module: &str) -> bool {
        self.saved().any(|name| is_saved_as(module, name))
    }

    /// A name in `modules_to_save` that is of no module.
    pub(crate) fn saved_without<'m, M: Iterator<Item = &'m str>>(
        &self,
        modules: impl Fn() -> M,
    ) -> Option<&str> {
        self.saved()
            .find(|name| !modules().any(|module| is_saved_as(module, name)))
    }

    /// The names in `modules_to_save`.
    fn saved(&self) -> impl Iterator<Item = &str> {
        let names = self.json["modules_to_save"].as_array();
        names.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether `layers_to_transform` has the layer of a module.
    fn transforms_layer_of(&self, module: &str) -> Result<bool, String> {
        let wanted = match &self.json["layers_to_transform"] {
            Value::Null => return Ok(true),
            Value::Array(layers) if layers.is_empty() => return Ok(true),
            Value::Array(layers) => layers.clone(),
            one => vec![one.clone()],
        };
        let patterns: Vec<&str> = match &self.json["layers_pattern"] {
            Value::String(pattern) => vec![pattern],
            Value::Array(patterns) => patterns.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let mut found = None;
        if patterns.is_empty() {
            let layer = Regex::new(r"^.*?\.[^.]*\.(\d+)\.").expect("a pattern of ours");
            found = layer.captures(module).map(|found| found[1].to_owned());
        }
        for pattern in patterns {
            let layer = regex(pattern, &format!(r"^.*\.{pattern}\.(\d+)\."))?;
            found = found.or_else(|| layer.captures(module).map(|found| found[1].to_owned()));
        }
        let layer = found.and_then(|layer| layer.parse::<u64>().ok());
        Ok(layer.is_some_and(|layer| wanted.iter().any(|wanted| wanted.as_u64() == Some(layer))))
    }
}

/// Whether a name in `modules_to_save` is that of a module, or of one above it. The end of a name is enough.
fn is_saved_as(module: &str, name: &str) -> bool {
    let mut above = module.match_indices('.').map(|(at, _)| &module[..at]);
    module.ends_with(name) || above.any(|above| above.ends_with(name))
}

/// A pattern of Python, which names itself where it has no counterpart here.
fn regex(pattern: &str, whole: &str) -> Result<Regex, String> {
    Regex::new(whole).map_err(|error| format!("the pattern `{pattern}` cannot be matched: {error}"))
}
