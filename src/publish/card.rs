//! The model card: README.md with a front matter that the hub reads.

use core::fmt;
use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    command::{command, text},
    error::PublishError,
    errors::MeasuredErrors,
    folder::Folder,
};
use crate::{
    Planner,
    config::{Bytes, DeviceMemories, LoadConfig, PushConfig, StatedMemory},
    model::CausalLm,
    source::without_secrets,
    target::KnownTarget,
};

/// A model card. [`Display`](fmt::Display) writes the file.
#[derive(Debug, Clone)]
pub struct Card {
    name: String,
    base: Option<String>,
    /// How the weights are written; `None` where none is packed.
    dialect: Option<String>,
    /// What was asked of linear weights, where a record says it.
    spec: Option<String>,
    /// Weights of each kind.
    kinds: BTreeMap<String, usize>,
    bytes: u64,
    values: Option<u64>,
    command: Option<String>,
    errors: Option<MeasuredErrors>,
}

impl Card {
    /// Of a folder.
    pub(super) fn of(
        folder: &Folder,
        config: &PushConfig,
        errors: Option<&MeasuredErrors>,
    ) -> Result<Self, PublishError> {
        let name = config.to.trim_end_matches('/').rsplit('/').next();
        let record = &folder.record;
        let mut kinds = BTreeMap::new();
        for kind in record["becomes"].as_array().into_iter().flatten() {
            *kinds.entry(text(kind)).or_insert(0) += 1;
        }
        let asked = &record["identity"]["configuration"];
        let base = base(folder, config);
        let card = Self {
            name: name.unwrap_or("model").to_owned(),
            base: base.clone(),
            dialect: dialect(folder),
            spec: asked["quant"].as_str().map(str::to_owned),
            kinds,
            bytes: folder.bytes_of_weights(),
            values: values(folder),
            command: command(asked, base.as_deref()),
            errors: errors.cloned(),
        };
        let shown = card.to_string();
        match secret_in(&shown, std::env::vars()) {
            Some(variable) => Err(PublishError::SecretInCard { variable }),
            None => Ok(card),
        }
    }

    /// Bits a value of the whole model.
    fn bits(&self) -> Option<f64> {
        let values = self.values.filter(|values| *values > 0)?;
        Some(self.bytes as f64 * 8.0 / values as f64)
    }

    fn packed(&self) -> Vec<&str> {
        let kinds = self.kinds.keys().map(String::as_str);
        let plain = ["f32", "f16", "bf16", "carried"];
        let packed = kinds.filter(|kind| !plain.contains(kind));
        let mut packed: Vec<&str> = packed.collect();
        if packed.is_empty() {
            packed.extend(self.spec.as_deref().filter(|spec| *spec != "none"));
        }
        packed
    }

    fn tags(&self) -> Vec<String> {
        let mut tags = vec!["firebox".to_owned(), "text-generation".to_owned()];
        tags.extend(self.dialect.clone());
        for kind in self.packed() {
            tags.push(kind.split(':').next().unwrap_or(kind).to_owned());
            tags.extend(bits_of(kind).map(|bits| format!("{bits}-bit")));
        }
        if self.dialect.is_some() {
            tags.push("quantized".to_owned());
        }
        let mut seen = Vec::new();
        tags.retain(|tag| {
            let new = !seen.contains(tag);
            seen.push(tag.clone());
            new
        });
        tags
    }

    fn library(&self) -> &'static str {
        match self.dialect.as_deref() {
            Some("mlx") => "mlx",
            Some("gguf") => "gguf",
            _ => "transformers",
        }
    }

    fn front_matter(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text of JSON is one of YAML.
        let quoted = |text: &str| Value::from(text).to_string();
        writeln!(f, "---")?;
        if let Some(base) = &self.base {
            writeln!(f, "base_model: {}", quoted(base))?;
            if self.dialect.is_some() {
                writeln!(f, "base_model_relation: quantized")?;
            }
        }
        writeln!(f, "library_name: {}", self.library())?;
        writeln!(f, "tags:")?;
        for tag in self.tags() {
            writeln!(f, "- {}", quoted(&tag))?;
        }
        if let Some(dialect) = &self.dialect {
            writeln!(f, "quantization:")?;
            writeln!(f, "  method: {}", quoted(dialect))?;
            let packed = self.packed();
            if !packed.is_empty() {
                writeln!(f, "  format: {}", quoted(&packed.join(" + ")))?;
            }
            if let Some(bits) = self.bits() {
                writeln!(f, "  bits: {bits:.3}")?;
            }
        }
        writeln!(f, "---")
    }

    fn errors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Errors\n")?;
        let Some(errors) = &self.errors else {
            return writeln!(
                f,
                "The errors of the quantization were not measured when this was published. `firebox verify MODEL --against SOURCE` \
                 measures them, without data: MODEL is this model, SOURCE the one that it was made from."
            );
        };
        if errors.groups.is_empty() {
            return writeln!(
                f,
                "Measured weight by weight against the source: no weight is packed."
            );
        }
        writeln!(
            f,
            "Measured weight by weight against the source, without data. A relative error is the norm of the differences over the norm \
             of the source.\n"
        )?;
        writeln!(
            f,
            "| quantization | weights | relative error, mean | largest | least cosine | least signal to noise |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---|")?;
        for (quant, group) in &errors.groups {
            let worst = match &group.worst {
                Some((sqnr, name)) => format!("{sqnr:.2} dB (`{name}`)"),
                None => "no noise".to_owned(),
            };
            writeln!(
                f,
                "| `{quant}` | {} | {:.5} | {:.5} | {:.6} | {worst} |",
                group.weights,
                group.mean(),
                group.largest(),
                group.cosine
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.front_matter(f)?;
        writeln!(f, "\n# {}\n", self.name)?;
        let base = match &self.base {
            Some(base) if is_id(base) => format!("[{base}](https://huggingface.co/{base})"),
            Some(base) => format!("`{base}`"),
            None => "a model whose name was not given".to_owned(),
        };
        let program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        match self.dialect {
            Some(_) => writeln!(f, "The weights of {base}, quantized by {program}.")?,
            None => writeln!(f, "The weights of {base}, written by {program}.")?,
        }
        writeln!(f, "\n## Quantization\n\n| | |\n|---|---|")?;
        let packed: Vec<String> = self
            .packed()
            .iter()
            .map(|kind| format!("`{kind}`"))
            .collect();
        if !packed.is_empty() {
            writeln!(f, "| method | {} |", packed.join(", "))?;
        }
        let dialect = self.dialect.as_deref().unwrap_or("plain weights");
        writeln!(f, "| written for | {dialect} |")?;
        if let Some(bits) = self.bits() {
            writeln!(f, "| bits a value, all weights together | {bits:.3} |")?;
        }
        writeln!(f, "| files of weights | {} |", Bytes(self.bytes))?;
        for (kind, count) in &self.kinds {
            writeln!(f, "| weights as `{kind}` | {count} |")?;
        }
        self.errors(f)?;
        if let Some(command) = &self.command {
            writeln!(f, "\n## Command\n\n```sh\n{command}\n```")?;
        }
        Ok(())
    }
}

/// The model that a folder was made from: the one that is given, the one on the hub that was read, or the one that the configuration
/// names. Paths of a machine say nothing to others.
fn base(folder: &Folder, config: &PushConfig) -> Option<String> {
    if let Some(given) = &config.base_model {
        return Some(without_secrets(given));
    }
    let known = [&folder.record["base"], &folder.config["_name_or_path"]];
    let mut known = known.into_iter().filter_map(Value::as_str);
    known.find(|name| is_id(name)).map(str::to_owned)
}

/// How the weights of a folder are written.
fn dialect(folder: &Folder) -> Option<String> {
    let said = &folder.config["quantization_config"]["quant_method"];
    let found = [said, &folder.record["dialect"]]
        .into_iter()
        .find_map(Value::as_str);
    if let Some(found) = found {
        return Some(found.to_owned());
    }
    if folder.files.iter().any(|file| file.name.ends_with(".gguf")) {
        return Some("gguf".to_owned());
    }
    folder.config.get("quantization").map(|_| "mlx".to_owned())
}

/// Values of all weights, where the architecture is known.
fn values(folder: &Folder) -> Option<u64> {
    // Only names and shapes are asked for, for which any memory will do.
    let memory = DeviceMemories::new(vec![1 << 50]).ok()?;
    let memory = StatedMemory::new(memory).host(1 << 50);
    let config = LoadConfig::new(folder.path().to_str()?);
    let planner = Planner::new(config, KnownTarget::Cpu, &memory).ok()?;
    let plan = planner.plan::<CausalLm>().ok()?;
    let shapes = plan.steps.iter().map(|step| &step.slot.shape);
    Some(
        shapes
            .map(|shape| shape.iter().product::<usize>() as u64)
            .sum(),
    )
}

/// Bits of a value that a quantization names.
fn bits_of(spec: &str) -> Option<u32> {
    let (name, options) = spec.split_once(':').unwrap_or((spec, ""));
    let said = options
        .split(',')
        .find_map(|option| option.strip_prefix("bits="));
    if let Some(bits) = said {
        return bits.parse().ok();
    }
    match name {
        "nf4" | "fp4" | "mxfp4" | "nvfp4" => Some(4),
        "fp8" | "mxfp8" | "int8" => Some(8),
        name => {
            let digits = name.strip_prefix("iq").or(name.strip_prefix('q'))?;
            digits.chars().next()?.to_digit(10)
        }
    }
}

/// Whether a name is one of the hub: `org/name`.
fn is_id(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.chars().all(plain))
}

/// Parts of names of variables whose values are secret.
const SECRET: [&str; 6] = ["KEY", "SECRET", "TOKEN", "PASSWORD", "SAS", "CREDENTIAL"];
/// Shorter values are words such as `true`, of which no text can be kept free.
const LEAST: usize = 6;

/// The variable whose secret value a text has.
fn secret_in(text: &str, variables: impl Iterator<Item = (String, String)>) -> Option<String> {
    let mut variables = variables.filter(|(name, value)| {
        let secret = SECRET
            .iter()
            .any(|part| name.to_ascii_uppercase().contains(part));
        secret && value.trim().len() >= LEAST
    });
    let found = variables.find(|(_, value)| text.contains(value.trim()));
    found.map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a secret that a base model's address brings into the card.
    #[test]
    fn secrets_of_the_environment_are_found() {
        let variables = || {
            [
                ("AWS_SECRET_ACCESS_KEY", "MARKED-KEY"),
                ("HOME", "/home/me"),
                ("HF_TOKEN", "hf"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
        };
        let found = |text: &str| secret_in(text, variables());
        assert_eq!(found("made from /home/me by hf"), None);
        assert_eq!(
            found("?sig=MARKED-KEY"),
            Some("AWS_SECRET_ACCESS_KEY".to_owned())
        );
    }

    /// By the words of `firebox quantize --quant`.
    #[test]
    fn bits_are_those_that_a_quantization_names() {
        for (spec, bits) in [
            ("nf4:block=64,nested", Some(4)),
            ("mlx:bits=3,group=64", Some(3)),
            ("wna16:group=128,bits=8", Some(8)),
            ("fp8:e4m3,scale=tensor", Some(8)),
            ("q6_k", Some(6)),
            ("iq4_nl", Some(4)),
            ("bf16", None),
        ] {
            assert_eq!(bits_of(spec), bits, "{spec}");
        }
    }
}
