//! The identity of a save: its source and configuration. A save is resumed only with the same identity.
//!
//! Weights are not read whole for it. Where the source can name the state of its files
//! ([`SourceHints::version`](crate::source::SourceHints::version)) that is enough; otherwise it is their names, types, shapes and places, and
//! for each tensor a checksum of 16 KiB spread over it, or of all of a smaller one. Weights that were trained further
//! differ there; a change that spares these bytes of every tensor is not seen.

use core::ops::Range;

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::copied;
use crate::{
    config::{LoadConfig, SaveConfig},
    pipeline::PipelineError,
    plan::{Action, Plan, Step},
    source::{Checkpoint, CheckpointError, Source, SourceError, SourceExt, TensorInfo},
};

/// Bytes read at once of a tensor, and how often.
const SAMPLE: u64 = 4 << 10;
const SAMPLES: u64 = 4;

/// The source and configuration of a save.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity(Value);

/// Where two saves differ first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The field that differs: `configuration.quant`, `source.files.model.safetensors.bytes`.
    pub field: String,
    /// Its value when the save began.
    pub was: String,
    /// Its value now.
    pub now: String,
}

/// Files or weights could not be read to identify a save.
#[derive(Debug)]
pub(crate) enum IdentityError {
    /// The state of the source is not known.
    Source(SourceError),
    /// A small file could not be read.
    Checkpoint(CheckpointError),
    /// A weight could not be read.
    Pipeline(PipelineError),
}

impl From<SourceError> for IdentityError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<CheckpointError> for IdentityError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(error)
    }
}

impl From<PipelineError> for IdentityError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(error)
    }
}

impl Identity {
    /// Of `plan`, before anything is chosen by measuring.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] where files or weights cannot be read.
    pub(crate) fn new(
        plan: &Plan,
        asked: &LoadConfig,
        to: &SaveConfig,
        checkpoint: &Checkpoint,
    ) -> Result<Self, IdentityError> {
        let source = &**checkpoint.source();
        let version = source.version()?;
        let files = checkpoint.files().iter();
        let mut files: Map<String, Value> = files
            .map(|file| (file.name.to_string(), json!({ "bytes": file.bytes })))
            .collect();
        for file in copied(checkpoint)? {
            if let Some(bytes) = checkpoint.read_optional(&file)? {
                let said = json!({ "bytes": bytes.len(), "xxh3": hex(xxh3_128(&bytes)) });
                files.insert(file, said);
            }
        }
        // As texts: a number that is read again may be another in its last bit.
        let config = checkpoint.config().as_object().into_iter().flatten();
        let fields: Map<String, Value> = config
            .map(|(field, value)| (field.clone(), value.to_string().into()))
            .collect();
        let mut weights = Map::new();
        for step in &plan.steps {
            let sample = version.is_none().then_some(source);
            // As a text, which takes a tenth of the memory; `difference` looks into it.
            let said = weight(step, sample)?.to_string();
            weights.insert(step.slot.name.clone(), said.into());
        }
        Ok(Self(json!({
            "program": concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")),
            "configuration": configuration(asked, to),
            "source": { "version": version, "config": fields, "files": files },
            "weights": weights,
        })))
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    /// A name for it, short enough for a folder.
    pub(crate) fn key(&self) -> String {
        hex(xxh3_128(self.0.to_string().as_bytes()))
    }

    /// The first difference between this identity and an earlier one.
    pub(super) fn difference(&self, was: &Value) -> Option<Difference> {
        difference("", was, &self.0)
    }

    /// An identity with a checksum in place of its weights.
    pub(crate) fn short(identity: &Value) -> Value {
        let fields = identity.as_object().into_iter().flatten();
        let short = fields.map(|(field, value)| {
            let value = match &**field {
                "weights" => hex(xxh3_128(value.to_string().as_bytes())).into(),
                _ => value.clone(),
            };
            (field.clone(), value)
        });
        Value::Object(short.collect())
    }

    /// The first difference between this identity and the short form of an earlier one.
    pub(super) fn difference_in_short(&self, was: &Value) -> Option<Difference> {
        difference("", was, &Self::short(&self.0))
    }
}

fn configuration(config: &LoadConfig, to: &SaveConfig) -> Value {
    let texts = |texts: &mut dyn Iterator<Item = String>| Value::from_iter(texts);
    let policy = &config.pack.policy;
    json!({
        "quant": policy.linear.to_string(),
        "rules": texts(&mut policy.rules.iter().map(ToString::to_string)),
        "skip": texts(&mut policy.skip.iter().map(ToString::to_string)),
        "candidates": texts(&mut config.pack.candidates.iter().map(ToString::to_string)),
        "presinq": config.pack.presinq,
        "dequantize": config.pack.dequantize,
        "requantize": config.pack.requantize,
        "dialect": to.dialect.map(|dialect| dialect.name()),
        "nested": to.nested,
        "shard_bytes": to.shard_bytes,
    })
}

/// A weight, and bytes of it where they can be read.
fn weight(step: &Step, source: Option<&dyn Source>) -> Result<Value, PipelineError> {
    let tensor =
        |(part, (file, range)): (&TensorInfo, (&str, Range<u64>))| -> Result<_, PipelineError> {
            let sample = source
                .map(|source| sample(source, file, &range))
                .transpose();
            let sample = sample.map_err(|source| PipelineError::Read {
                tensor: step.slot.name.clone(),
                source,
            })?;
            let said = json!({
                "dtype": part.dtype.name(),
                "shape": part.shape,
                "file": file,
                "bytes": [range.start, range.end],
                "sample": sample,
            });
            Ok(said)
        };
    let mut tensors = Map::new();
    for (nth, read) in step.tensors().zip(step.reads()).enumerate() {
        let name = match step.pieces.get(nth) {
            Some(piece) if !piece.is_whole() => {
                let transposed = if piece.transposed { ", transposed" } else { "" };
                format!("{}, rows {:?}{transposed}", piece.tensor.name, piece.rows)
            }
            _ => read.0.name.to_string(),
        };
        tensors.insert(name, tensor(read)?);
    }
    let mut said =
        json!({ "shape": step.slot.shape, "becomes": becomes(step), "tensors": tensors });
    if let Some(merge) = &step.merge {
        said["merged"] = hex(merge.checksum()).into();
    }
    Ok(said)
}

/// The action of a weight: its quantization, or the type of its dense values.
pub(crate) fn becomes(step: &Step) -> String {
    match &step.action {
        Action::Dense(dtype) => dtype.to_string(),
        Action::Carry => "carried".to_owned(),
        Action::Pack(quant, _) => quant.to_string(),
        Action::Adopt(format) => format.to_string(),
    }
}

/// A checksum of bytes here and there, the first and the last among them.
fn sample(source: &dyn Source, file: &str, range: &Range<u64>) -> Result<String, SourceError> {
    let mut hash = Xxh3::new();
    let mut read = |start: u64, end: u64| {
        let mut bytes = vec![0; (end - start) as usize];
        source.peek(file, start, &mut bytes)?;
        hash.update(&bytes);
        Ok(())
    };
    let bytes = range.end - range.start;
    if bytes <= SAMPLE * SAMPLES {
        read(range.start, range.end)?;
    } else {
        for nth in 0..SAMPLES {
            let start = range.start + (bytes - SAMPLE) * nth / (SAMPLES - 1);
            read(start, start + SAMPLE)?;
        }
    }
    Ok(hex(hash.digest128()))
}

fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// The first difference between two identities. Objects are compared field by field in their order, texts of objects too, all else
/// as a whole.
pub(crate) fn difference(field: &str, was: &Value, now: &Value) -> Option<Difference> {
    if was == now {
        return None;
    }
    if let (Value::String(was), Value::String(now)) = (was, now) {
        let object = |text: &str| serde_json::from_str(text).ok().filter(Value::is_object);
        if let (Some(was), Some(now)) = (object(was), object(now)) {
            return difference(field, &was, &now);
        }
    }
    if let (Value::Object(was), Value::Object(now)) = (was, now) {
        let inner = |name: &str| match field {
            "" => name.to_owned(),
            field => format!("{field}.{name}"),
        };
        let of = |name: &String| {
            let absent = &Value::Null;
            let [was, now] = [was, now].map(|side| side.get(name).unwrap_or(absent));
            difference(&inner(name), was, now)
        };
        let added = now.keys().filter(|name| !was.contains_key(*name));
        if let Some(found) = was.keys().chain(added).find_map(of) {
            return Some(found);
        }
        let moved = was.keys().zip(now.keys()).find(|(was, now)| was != now);
        return moved.map(|(was, now)| Difference {
            field: format!("the order of {field}"),
            was: was.clone(),
            now: now.clone(),
        });
    }
    let text = |value: &Value| match value {
        Value::Null => "absent".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    Some(Difference {
        field: field.to_owned(),
        was: text(was),
        now: text(now),
    })
}
