//! The layout of a folder, decided before a file is written: which weights go to which file, their names, their dialect.

use std::sync::Arc;

use firebox_kernels::{arith::float::DType, format::Packed};
use serde_json::{Map, Value, json};

use super::{
    SaveError,
    written::{ShardKind, ShardPlace},
};
use crate::{
    config::{SaveConfig, To},
    container::{GgufFile, GgufOut, file_name},
    dialect::{self, Codes, DECLARED, DialectError, Tensor, Writer, torch, usual},
    pipeline::PipelineError,
    plan::{Action, Plan, Step},
    source::checkpoint::SINGLE,
};

/// Bytes that a tensor may take in a header beside the name of its weight; more than any takes.
const HEADER_ROOM: u64 = 176;

/// The layout of a folder.
#[derive(Debug)]
pub(crate) struct FolderLayout<'a> {
    pub(super) to: &'a SaveConfig,
    pub(super) dialect: Option<To>,
    writer: Option<Box<dyn Writer>>,
    /// The type that most plain weights of the checkpoint are stored in.
    source: DType,
    /// Whether a weight is packed on the way.
    packs: bool,
    /// Whether the head is another matrix than the embedding although the checkpoint's configuration takes them for one.
    untied: bool,
    /// Whether dense weights get another type than the checkpoint's.
    dense: Option<DType>,
    shares: Vec<Share>,
    /// The file, where all weights go to a GGUF file or its parts.
    gguf: Option<GgufFile>,
}

/// The weights of one file.
#[derive(Debug)]
struct Share {
    weights: usize,
    bytes: u64,
    /// Room for its header.
    room: u64,
    /// Bytes of the tensors that come last because they are not whole eights of bytes, about.
    late: u64,
    /// All bytes before the weights, where the file is GGUF.
    head: Option<Arc<[u8]>>,
}

impl<'a> FolderLayout<'a> {
    /// Refuses weights that the dialect cannot hold. All go to the file `gguf`, where there is one.
    pub(crate) fn new(
        to: &'a SaveConfig,
        plan: &Plan,
        source: DType,
        gguf: Option<GgufFile>,
    ) -> Result<Self, SaveError> {
        let (dialect, writer) = writer(to, plan, source)?.unzip();
        let shard_bytes = to.shard_bytes_max(gguf.is_some());
        let mut shares: Vec<Share> = Vec::new();
        for step in &plan.steps {
            let kept = step.bytes_finished();
            let is_full = |share: &Share| share.bytes.saturating_add(kept) > shard_bytes;
            if shares.last().is_none_or(is_full) {
                shares.push(Share {
                    weights: 0,
                    bytes: 0,
                    room: HEADER_ROOM,
                    late: 0,
                    head: None,
                });
            }
            let share = shares
                .last_mut()
                .expect("one was just made, if there was none");
            let tensors = match &writer {
                Some(writer) if step.action.format().is_some() => writer.tensors_max() as u64,
                _ => 1,
            };
            share.weights += 1;
            share.bytes += kept;
            share.late += match gguf {
                Some(_) => 0,
                None => late(step),
            };
            share.room += tensors * (step.slot.name.len() as u64 + HEADER_ROOM);
        }
        if let Some(file) = &gguf {
            let mut names = plan.steps.iter().map(|step| &*step.slot.name);
            let weights = shares.iter().map(|share| share.weights);
            let weights: Vec<Vec<&str>> = weights
                .map(|count| names.by_ref().take(count).collect())
                .collect();
            let heads = file.heads(&weights);
            let heads = heads.map_err(|error| SaveError::Container(Box::new(error)))?;
            for (share, head) in shares.iter_mut().zip(heads) {
                share.room = head.len() as u64;
                share.head = Some(head.into());
            }
        }
        Ok(Self {
            to,
            dialect,
            writer,
            source,
            packs: (plan.steps.iter()).any(|step| matches!(step.action, Action::Pack(..))),
            untied: plan.untied.is_some() || plan.own_head.is_some(),
            dense: plan.merged_in(),
            shares,
            gguf,
        })
    }

    /// Whether all weights go to a GGUF file or its parts, which have everything.
    pub(super) const fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// The tensor of a GGUF file that a weight becomes.
    pub(super) fn out(&self, step: &Step) -> Option<&GgufOut> {
        self.gguf.as_ref()?.tensor(&step.slot.name)
    }

    /// Names of the shards.
    pub(super) fn names(&self) -> Vec<String> {
        let shards = 0..self.shares.len();
        shards.map(|nth| self.name(nth)).collect()
    }

    pub(super) fn name(&self, nth: usize) -> String {
        match self.shares.len() {
            count if self.is_gguf() => file_name(nth, count),
            0 | 1 => SINGLE.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", nth + 1),
        }
    }

    /// Bytes of the largest file of weights, about.
    pub(crate) fn largest(&self) -> u64 {
        let bytes = self.shares.iter().map(|share| share.bytes + share.room);
        bytes.max().unwrap_or(0)
    }

    /// Bytes of the tensors that come last in a file, in the one that has most of them, about.
    pub(crate) fn late(&self) -> u64 {
        let late = self.shares.iter().map(|share| share.late);
        late.max().unwrap_or(0)
    }

    /// How many weights a shard gets.
    pub(super) fn weights(&self, nth: usize) -> usize {
        self.shares[nth].weights
    }

    pub(super) fn place(&self, nth: usize) -> ShardPlace {
        let writer = self.writer.as_ref();
        let Share {
            bytes, room, head, ..
        } = &self.shares[nth];
        ShardPlace {
            name: self.name(nth),
            bytes: bytes + room,
            kind: match head {
                Some(head) => ShardKind::Gguf { head: head.clone() },
                None => ShardKind::Safetensors {
                    format: writer.map_or("pt", |writer| writer.metadata()),
                    room: room.next_multiple_of(8),
                },
            },
        }
    }

    /// Whether a weight can be written row after row: dense values, and the codes of most dialects.
    pub(crate) fn takes_rows(&self, step: &Step) -> bool {
        let empty = step.slot.shape.contains(&0);
        let codes = || self.codes(step).is_some();
        let as_planned = self.out(step).is_none_or(GgufOut::is_as_planned);
        !empty && as_planned && (step.action.format().is_none() || codes())
    }

    /// How codes are written row after row, where they can be.
    pub(super) fn codes(&self, step: &Step) -> Option<Codes> {
        let writer = self.writer.as_ref()?;
        writer.codes(&step.slot, step.action.format()?)
    }

    /// The tensors of a packed weight.
    ///
    /// # Errors
    ///
    /// [`PipelineError::Format`] where its scales would lose every value of it.
    pub(super) fn tensors(
        &self,
        step: &Step,
        packed: Packed,
    ) -> Result<Vec<Tensor>, PipelineError> {
        let packed = match (&step.action, self.to.nested) {
            (Action::Adopt(_), Some(nested)) => packed.renested(nested),
            _ => packed,
        };
        packed
            .check_scales()
            .map_err(|source| PipelineError::Format {
                tensor: step.slot.name.clone(),
                source,
            })?;
        let slot = step.packed_slot(self.source);
        let stored = slot.map_or(self.source, |slot| slot.stored);
        let writer = self.writer.as_ref();
        let writer = writer.expect("a plan with packed weights has a writer");
        Ok(writer.tensors(&step.slot, packed, stored))
    }

    /// `config.json` of a checkpoint, with the quantization that the folder has. It stays as it is where no dialect was
    /// asked for, packed weights are those of the checkpoint, and all tensors have their names, types and shapes
    /// (`is_copy`). It never ties a head that is another matrix than the embedding.
    pub(super) fn config(&self, of: &Value, is_copy: bool) -> Value {
        let mut config = of.clone();
        if self.untied {
            untie(&mut config);
        }
        for field in ["dtype", "torch_dtype"] {
            if let (Some(dtype), Some(said)) = (self.dense, config.get_mut(field)) {
                *said = torch(dtype).into();
            }
        }
        if is_copy && !self.packs && self.to.dialect.is_none() {
            return config;
        }
        if let Value::Object(config) = &mut config {
            for field in DECLARED {
                config.remove(field);
            }
            if self.dialect == Some(To::Mlx) {
                older_positions(config);
                older_experts(config);
            }
            let fields = self.writer.iter().flat_map(|writer| writer.config());
            config.extend(fields.map(|(field, value)| (field.to_owned(), value)));
        }
        config
    }
}

/// Bytes of the tensors of a weight that are not whole eights of bytes, about: all of it where its codes are none, since dialects
/// cut it into tensors in their own ways, else the description that some put beside codes.
fn late(step: &Step) -> u64 {
    let bytes = step.bytes_finished();
    let values: usize = step.slot.shape.iter().product();
    match step.action.format() {
        Some(_) if values.is_multiple_of(64) => HEADER_ROOM,
        Some(_) => bytes,
        None if bytes.is_multiple_of(8) => 0,
        None => bytes,
    }
}

/// The dialect that packed weights of `plan` will be written in: the one that was asked for, or the usual one of the
/// first of them. `None` where nothing is packed, unless it is a GGUF file.
pub(crate) fn dialect_of(plan: &Plan, to: &SaveConfig, source: DType) -> Option<To> {
    let mut packed = plan.steps.iter();
    match packed.find_map(|step| step.packed_slot(source)) {
        Some(first) => to.dialect.or(usual(&first)),
        // Such a file is one of llama.cpp with nothing packed too.
        None => to.dialect.filter(|to| *to == To::Gguf),
    }
}

/// A writer and its dialect.
type OfDialect = (To, Box<dyn Writer>);

/// The writer of the packed weights of `plan`, if there are any.
fn writer(to: &SaveConfig, plan: &Plan, source: DType) -> Result<Option<OfDialect>, SaveError> {
    let matrices = plan.matrices(source);
    let Some((first, others)) = matrices.packed.split_first() else {
        return match to.dialect {
            None => Ok(None),
            Some(To::Gguf) => Ok(Some((
                To::Gguf,
                dialect::writer(To::Gguf, &matrices, source)?,
            ))),
            Some(asked) => {
                let dialect = asked.name();
                Err(DialectError::NothingPacked { dialect }.into())
            }
        };
    };
    let Some(dialect) = to.dialect.or(usual(first)) else {
        let tensor = first.slot.name.clone();
        return Err(DialectError::NoDialect { tensor }.into());
    };
    if let Some(step) = plan.packed_and_turned().filter(|_| !to.cache)
        && ![To::BitsAndBytes, To::Gguf].contains(&dialect)
    {
        let (tensor, dialect) = (step.slot.name.clone(), dialect.name());
        return Err(DialectError::Transposed { tensor, dialect }.into());
    }
    let error = match dialect::writer(dialect, &matrices, source) {
        Err(error) if to.cache => error,
        writer => return Ok(Some((dialect, writer?))),
    };
    // Any dialect will do that holds them all.
    let others = others.iter().filter_map(usual);
    let mut writers =
        others.filter_map(|to| Some((to, dialect::writer(to, &matrices, source).ok()?)));
    match writers.next() {
        Some(found) => Ok(Some(found)),
        None => Err(SaveError::NotCacheable {
            dialect: dialect.name(),
            source: Box::new(error),
        }),
    }
}

/// mlx-lm 0.32 reads positions in the words of transformers 4 alone: both are written where they are not the defaults that it
/// has for a Llama.
fn older_positions(config: &mut Map<String, Value>) {
    let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() else {
        return;
    };
    if config.contains_key("rope_theta") {
        return;
    }
    let plain = rope.get("rope_type").is_none_or(|kind| kind == "default");
    let theta = rope.get("rope_theta").cloned().unwrap_or(json!(10_000.0));
    let of_llama = |family: &Value| ["llama", "mistral"].map(Value::from).contains(family);
    let has_defaults = config.get("model_type").is_some_and(of_llama);
    if plain && theta == json!(10_000.0) && has_defaults {
        return;
    }
    config.insert("rope_theta".to_owned(), theta);
    if !plain {
        let scaling = rope.into_iter().filter(|(field, _)| field != "rope_theta");
        config.insert("rope_scaling".to_owned(), scaling.collect());
    }
}

/// And the number of Qwen's experts.
fn older_experts(config: &mut Map<String, Value>) {
    let is_qwen = config.get("model_type") == Some(&json!("qwen3_moe"));
    if let Some(count) = config.get("num_local_experts").filter(|_| is_qwen).cloned() {
        config.entry("num_experts").or_insert(count);
    }
}

/// Says that the head is a matrix of its own: of the whole, and of the text model in it where that says something.
fn untie(config: &mut Value) {
    const FIELD: &str = "tie_word_embeddings";
    if let Some(said) = config
        .get_mut("text_config")
        .and_then(|text| text.get_mut(FIELD))
    {
        *said = false.into();
    }
    if let Value::Object(config) = config {
        config.insert(FIELD.to_owned(), false.into());
    }
}
