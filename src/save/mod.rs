//! Saving: the weights of a plan, packed on the way, as a checkpoint that the Python libraries read.
//!
//! ```text
//! plan ─► pipeline ─► packed weight ─► Writer: its tensors ─► shards, index, config.json, tokenizer
//! ```
//!
//! Plain weights keep the type they are stored in. A weight is written as soon as it is packed, so memory is
//! what the pipeline has in flight and one weight.

mod shard;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use firebox_kernels::{float::FloatBits, format::Packed};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use self::shard::Shard;
use crate::{
    dialect::{DECLARED, DialectError, Tensor, To, Writer, dtype},
    pipeline::{Dense, Finished, Sink, SinkError},
    plan::{Action, Plan, Step, Stored},
    report::LoadReport,
    source::{
        Checkpoint,
        checkpoint::{CONFIG, GENERATION_CONFIG, INDEX, SINGLE},
    },
};

/// Small files of a model that are copied as they are.
const COPIED: [&str; 10] = [
    GENERATION_CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Where to save, and in which dialect.
#[derive(Debug, Clone)]
pub struct SaveConfig {
    folder: PathBuf,
    dialect: Option<To>,
    shard_bytes: u64,
    nested: Option<bool>,
}

impl SaveConfig {
    /// Into `folder`, which is made and has to be empty.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            dialect: None,
            shard_bytes: 5_000_000_000,
            nested: None,
        }
    }

    /// Whether the scales of 4-bit weights that the checkpoint has packed become nested or plain; as they are, if not
    /// given. Plain ones are exactly those that the nested give; nested ones are the nearest codes.
    pub fn nested(mut self, nested: bool) -> Self {
        self.nested = Some(nested);
        self
    }

    /// The dialect; that in which most of the world reads the format, if not given.
    pub fn dialect(mut self, dialect: To) -> Self {
        self.dialect = Some(dialect);
        self
    }

    pub(crate) fn named(&self) -> Option<To> {
        self.dialect
    }

    /// Bytes of a shard, 5 GB if not given. A weight that is larger gets a shard of its own.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = bytes;
        self
    }
}

/// What was saved.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// The folder.
    pub folder: PathBuf,
    /// The dialect; `None` where no weight is packed.
    pub dialect: Option<&'static str>,
    /// Files of weights.
    pub files: Vec<String>,
    /// Bytes of all tensors in them.
    pub bytes_written: u64,
    /// How the weights came about.
    pub report: LoadReport,
}

/// A checkpoint that could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Something is there already.
    #[error("{} is not empty; name a folder that is, or does not exist", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// A file could not be written.
    #[error("{}: could not be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The dialect cannot hold the weights.
    #[error(transparent)]
    Dialect(#[from] DialectError),
}

/// Finished weights become files.
pub(crate) struct FolderSink<'a> {
    folder: &'a Path,
    writer: Option<Box<dyn Writer>>,
    dialect: Option<To>,
    /// The type that most plain weights of the checkpoint are stored in.
    source: FloatBits,
    nested: Option<bool>,
    /// Weights of each shard.
    shards: Vec<usize>,
    /// Room for the header of each shard.
    rooms: Vec<u64>,
    current: Option<Shard>,
    /// Weights in the current shard, and shards before it.
    at: (usize, usize),
    weight_map: BTreeMap<String, String>,
    bytes: u64,
}

impl<'a> FolderSink<'a> {
    /// Refuses a folder with something in it, and weights that the dialect cannot hold.
    pub(crate) fn new(
        config: &'a SaveConfig,
        plan: &Plan,
        source: FloatBits,
    ) -> Result<Self, SaveError> {
        let mut packed = plan
            .steps
            .iter()
            .filter(|step| step.action.format().is_some());
        let dialect = match packed.next() {
            None => None,
            Some(step) => match config.dialect.or(To::usual(step)) {
                Some(dialect) => Some(dialect),
                None => {
                    let tensor = step.slot.name.clone();
                    return Err(DialectError::NoDialect { tensor }.into());
                }
            },
        };
        if let (None, Some(asked)) = (dialect, config.dialect) {
            let dialect = asked.name();
            return Err(DialectError::NothingPacked { dialect }.into());
        }
        let writer = dialect
            .map(|dialect| dialect.writer(plan, source))
            .transpose()?;

        let folder = config.folder.as_path();
        let wrong = |source| SaveError::Write {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(wrong)?;
        if fs::read_dir(folder).map_err(wrong)?.next().is_some() {
            let folder = folder.to_owned();
            return Err(SaveError::NotEmpty { folder });
        }

        let (mut shards, mut rooms) = (Vec::new(), Vec::new());
        let mut bytes = u64::MAX;
        for step in &plan.steps {
            let kept = step.bytes_kept();
            if bytes.saturating_add(kept) > config.shard_bytes {
                shards.push(0);
                rooms.push(HEADER_ROOM);
                bytes = 0;
            }
            bytes += kept;
            // Just made, if there was none.
            if let (Some(count), Some(room)) = (shards.last_mut(), rooms.last_mut()) {
                *count += 1;
                let packed = step.action.format().is_some();
                let tensors = writer.as_ref().filter(|_| packed);
                let tensors = tensors.map_or(1, |writer| writer.tensors_max() as u64);
                *room += tensors * (step.slot.name.len() as u64 + HEADER_ROOM);
            }
        }
        Ok(Self {
            folder,
            writer,
            dialect,
            source,
            nested: config.nested,
            shards,
            rooms,
            current: None,
            at: (0, 0),
            weight_map: BTreeMap::new(),
            bytes: 0,
        })
    }

    fn shard_name(&self, nth: usize) -> String {
        match self.shards.len() {
            0 | 1 => SINGLE.to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", nth + 1),
        }
    }

    fn write_error(&self, file: &str) -> impl FnOnce(io::Error) -> SaveError + use<> {
        let path = self.folder.join(file);
        move |source| SaveError::Write { path, source }
    }

    fn tensors(&self, step: &Step, weight: Finished) -> Vec<Tensor> {
        let slot = &step.slot;
        let dense = |dense: Dense| {
            let (float, bytes) = bytes_of(dense);
            vec![Tensor {
                name: slot.name.clone(),
                dtype: dtype(float),
                shape: slot.shape.clone(),
                bytes,
            }]
        };
        let packed = |packed: Packed| {
            let packed = match (&step.action, self.nested) {
                (Action::Keep(_), Some(nested)) => packed.renested(nested),
                _ => packed,
            };
            let source = match step.source {
                Stored::Plain(float) => float,
                Stored::Packed(ref adopt) => adopt.float().unwrap_or(self.source),
            };
            let writer = self.writer.as_ref();
            let writer = writer.expect("a plan with packed weights has a writer");
            writer.tensors(slot, packed, source)
        };
        match weight {
            Finished::Dense(weight) => dense(weight),
            Finished::Packed(weight) => packed(weight),
            Finished::Placed(parts) => {
                let [part] = &parts[..] else {
                    unreachable!("weights are placed whole, to be saved")
                };
                packed(part.to_host())
            }
            Finished::Pieces(_) => unreachable!("weights are saved whole"),
        }
    }

    fn write(&mut self, step: &Step, weight: Finished) -> Result<(), SaveError> {
        let (done, nth) = self.at;
        let name = self.shard_name(nth);
        let tensors = self.tensors(step, weight);
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => {
                let format = self
                    .writer
                    .as_ref()
                    .map_or("pt", |writer| writer.metadata());
                let path = self.folder.join(&name);
                Shard::create(&path, format, self.rooms[nth]).map_err(self.write_error(&name))?
            }
        };
        for tensor in tensors {
            self.weight_map.insert(tensor.name.clone(), name.clone());
            shard.push(tensor).map_err(self.write_error(&name))?;
        }
        if done + 1 < self.shards[nth] {
            self.current = Some(shard);
            self.at = (done + 1, nth);
        } else {
            self.bytes += shard.finish().map_err(self.write_error(&name))?;
            self.at = (0, nth + 1);
        }
        Ok(())
    }

    /// Writes everything else, the configuration last: without it a folder is no model.
    pub(crate) fn finish(
        self,
        checkpoint: &Checkpoint,
        report: LoadReport,
    ) -> Result<Saved, SaveError> {
        let write = |file: &str, bytes: &[u8]| {
            fs::write(self.folder.join(file), bytes).map_err(self.write_error(file))
        };
        let files: Vec<String> = (0..self.shards.len())
            .map(|nth| self.shard_name(nth))
            .collect();
        if files.len() > 1 {
            let index = json!({
                "metadata": { "total_size": self.bytes },
                "weight_map": self.weight_map,
            });
            write(INDEX, &pretty(&index))?;
        }
        for file in COPIED {
            let read = checkpoint.read_optional(file);
            let read = read.map_err(|error| io::Error::other(error.to_string()));
            if let Some(bytes) = read.map_err(self.write_error(file))? {
                write(file, &bytes)?;
            }
        }
        let mut config = checkpoint.config().clone();
        if let Value::Object(config) = &mut config {
            for field in DECLARED {
                config.remove(field);
            }
            if self.dialect == Some(To::Mlx) {
                older_positions(config);
            }
            let fields = self.writer.iter().flat_map(|writer| writer.config());
            config.extend(fields.map(|(field, value)| (field.to_owned(), value)));
        }
        write(CONFIG, &pretty(&config))?;
        Ok(Saved {
            folder: self.folder.to_owned(),
            dialect: self.dialect.map(To::name),
            files,
            bytes_written: self.bytes,
            report,
        })
    }
}

/// Bytes that a tensor may take in a header beside the name of its weight; more than any takes.
const HEADER_ROOM: u64 = 176;

impl Sink for FolderSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        self.write(step, weight).map_err(|error| SinkError {
            tensor: step.slot.name.clone(),
            reason: error.into(),
        })
    }
}

/// What is saved of a plan: plain weights in the type they are stored in, and scales nested as asked.
pub(crate) fn adapt(plan: &mut Plan, to: &SaveConfig) {
    keep_types(plan);
    for step in &mut plan.steps {
        if let (Action::Keep(format), Some(nested)) = (&mut step.action, to.nested) {
            *format = format.renested(nested);
        }
    }
}

/// Plain weights stay in the type they are stored in.
pub(crate) fn keep_types(plan: &mut Plan) {
    for step in &mut plan.steps {
        if let (Stored::Plain(float), Action::Dense(dtype)) = (&step.source, &mut step.action) {
            *dtype = (*float).into();
        }
    }
}

/// mlx-lm 0.32 reads positions of a Llama in the words of transformers 4 alone: both are written where they are not its
/// defaults.
fn older_positions(config: &mut Map<String, Value>) {
    let Some(Value::Object(rope)) = config.get("rope_parameters").cloned() else {
        return;
    };
    if config.contains_key("rope_theta") {
        return;
    }
    let plain = rope.get("rope_type").is_none_or(|kind| kind == "default");
    let theta = rope.get("rope_theta").cloned().unwrap_or(json!(10_000.0));
    if plain && theta == json!(10_000.0) {
        return;
    }
    config.insert("rope_theta".to_owned(), theta);
    if !plain {
        let scaling = rope.into_iter().filter(|(field, _)| field != "rope_theta");
        config.insert("rope_scaling".to_owned(), scaling.collect());
    }
}

fn bytes_of(dense: Dense) -> (FloatBits, Vec<u8>) {
    fn bytes<V, const SIZE: usize>(values: Vec<V>, bytes: fn(V) -> [u8; SIZE]) -> Vec<u8> {
        values.into_iter().flat_map(bytes).collect()
    }
    match dense {
        Dense::F32(values) => (FloatBits::F32, bytes(values, f32::to_le_bytes)),
        Dense::F16(values) => (FloatBits::F16, bytes(values, f16::to_le_bytes)),
        Dense::Bf16(values) => (FloatBits::Bf16, bytes(values, bf16::to_le_bytes)),
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a value has no other keys than texts");
    text.push(b'\n');
    text
}
