//! A checkpoint: everything about a model that can be known before a weight is read.

use core::mem;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::catalog::{Catalog, CatalogError};
use super::gaps::{AbsentShard, Gaps};
use super::header::{self, Header, HeaderError, LENGTH_BYTES};
use super::index::{Index, IndexError};
use super::instead::{instead, is_adapter};
use super::json;
use super::name::SAFETENSORS;
use super::unindexed::{self, UnindexedFiles};
use super::{Source, SourceError, SourceExt};
use firebox_kernels::arith::float::DType;

/// Bytes of a `config.json` at most. As values, JSON takes up to sixteen times the memory.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a `generation_config.json` at most.
const GENERATION_CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Bytes of an index at most: 500,000 tensors with long names.
pub(crate) const INDEX_BYTES_MAX: u64 = 64 << 20;

pub(crate) use super::name::CONFIG;
/// The folder of chat templates beside `chat_template.jinja`.
pub(crate) const CHAT_TEMPLATES: &str = "additional_chat_templates/";

/// The list of shards, when there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The weights, when there is no index.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The weights and their list as other projects name them.
pub(crate) const ELSEWHERE: [&str; 3] = [TORCH_INDEX, TORCH_SINGLE, BURNPACK_SINGLE];
/// The list of shards, as transformers wrote it before safetensors.
pub(crate) const TORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// The weights as Burn writes them.
pub(crate) const BURNPACK_SINGLE: &str = "model.bpk";
/// The weights before safetensors.
const TORCH_SINGLE: &str = "pytorch_model.bin";
/// How the model's makers generate text with it.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// A model's configuration and the place of every tensor. Reads no weights.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use firebox::source::{Checkpoint, Local};
///
/// let source = Local::open(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tinyrust"))?;
/// let checkpoint = Checkpoint::open(Arc::new(source))?;
/// assert_eq!(checkpoint.config()["model_type"], "llama");
/// assert!(checkpoint.catalog().get("model.norm.weight").is_some());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoint {
    source: Arc<dyn Source>,
    config: Value,
    generation_config: Option<Value>,
    files: Vec<WeightFile>,
    catalog: Catalog,
    gaps: Gaps,
    notes: Vec<String>,
}

/// A file of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightFile {
    /// Its name in the source.
    pub name: Arc<str>,
    /// Its length in bytes, header included.
    pub bytes: u64,
    /// The free text in its header, where some writers say what they are (`format: mlx`).
    pub metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads `config.json`, the index if there is one, and the header of each file of weights.
    ///
    /// The weights are the file that the user named ([`SourceHints::weights_file`](crate::source::SourceHints::weights_file)), or else the files
    /// in the index, or else `model.safetensors`. Without any of them they are the shards or the single file that the source lists, where
    /// these are of one saving.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`], by what is missing or wrong.
    pub fn open(source: Arc<dyn Source>) -> Result<Self, CheckpointError> {
        let config = match source.read_within(CONFIG, CONFIG_BYTES_MAX) {
            Err(SourceError::NotFound { .. }) => return Err(no_config(&*source)?),
            // Not in the cache while offline among them: then it is unknown whether this is a model.
            read => read?,
        };
        let config = parse_object(&*source, CONFIG, &config)?;
        Self::with_config(source, config)
    }

    /// Weights of no particular model: as [`open`](Self::open), without a configuration.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`], by what is missing or wrong.
    pub fn bare(source: Arc<dyn Source>) -> Result<Self, CheckpointError> {
        Self::with_config(source, Value::Object(serde_json::Map::new()))
    }

    fn with_config(source: Arc<dyn Source>, config: Value) -> Result<Self, CheckpointError> {
        let generation_config =
            match source.read_optional_within(GENERATION_CONFIG, GENERATION_CONFIG_BYTES_MAX)? {
                Some(bytes) => Some(parse_object(&*source, GENERATION_CONFIG, &bytes)?),
                None => None,
            };

        let index = match source.weights_file() {
            Some(_) => None,
            None => match source.read_optional_within(INDEX, INDEX_BYTES_MAX)? {
                Some(bytes) => Some(Index::parse(&label(&*source, INDEX), &bytes)?),
                None => None,
            },
        };
        let names: Vec<String> = match (&index, source.weights_file()) {
            (Some(index), _) => index.files().into_iter().map(str::to_owned).collect(),
            (None, Some(named)) => vec![named.to_owned()],
            (None, None) => unindexed(&*source)?,
        };

        let mut placed: HashMap<&str, usize> = HashMap::new();
        for shard in index.iter().flat_map(|index| index.weight_map.values()) {
            *placed.entry(shard).or_default() += 1;
        }
        let (mut files, mut headers) = (Vec::new(), Vec::new());
        let mut absent = Vec::new();
        for name in names {
            let (bytes, mut header) = match (read_header(&*source, &name), &index) {
                (Err(CheckpointError::Source(error)), Some(_)) if error.is_absent() => {
                    absent.push(AbsentShard {
                        tensors: placed.get(&*name).copied().unwrap_or_default(),
                        name,
                        error: Arc::new(error),
                    });
                    continue;
                }
                (Err(CheckpointError::Source(error)), None) if error.is_absent() => {
                    return Err(no_weights(&*source, &name, error));
                }
                (read, _) => read?,
            };
            let name: Arc<str> = name.into();
            files.push(WeightFile {
                name: Arc::clone(&name),
                bytes,
                metadata: mem::take(&mut header.metadata),
            });
            headers.push((name, header));
        }
        let catalog =
            Catalog::build(headers, index.as_ref()).map_err(|error| CheckpointError::Catalog {
                at: source.describe(),
                source: error,
            })?;
        let gaps = match &index {
            Some(index) => Gaps::between(index, &catalog, absent),
            None => Gaps::default(),
        };
        let checkpoint = Self {
            source,
            config,
            generation_config,
            files,
            catalog,
            gaps,
            notes: Vec::new(),
        };
        match checkpoint.catalog.is_empty() {
            true => checkpoint.check_gaps().map(|()| checkpoint),
            false => Ok(checkpoint),
        }
    }

    /// Refuses a checkpoint whose index promises a file or a tensor that is not there. A model that needs none of it loads all the
    /// same.
    pub(crate) fn check_gaps(&self) -> Result<(), CheckpointError> {
        if let Some(shard) = self.gaps.shards.first() {
            return Err(CheckpointError::MissingShard {
                at: self.source.describe(),
                shard: shard.name.clone(),
                tensors: shard.tensors,
                source: Arc::clone(&shard.error),
            });
        }
        match self.gaps.absent_tensor() {
            None => Ok(()),
            Some(source) => Err(CheckpointError::Catalog {
                at: self.source.describe(),
                source,
            }),
        }
    }

    /// Oddities of the files that do no harm as long as the model does not need what is missing, a sentence each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        [self.gaps.notes(), self.notes.clone()].concat()
    }

    /// The same checkpoint with its tensors under other names, and a note of that.
    pub(crate) fn with_names(&self, catalog: Option<Catalog>, note: String) -> Self {
        Self {
            catalog: catalog.unwrap_or_else(|| self.catalog.clone()),
            notes: [&self.notes[..], &[note]].concat(),
            ..self.clone()
        }
    }

    /// The same checkpoint with more notes.
    pub(crate) fn noted(mut self, notes: Vec<String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Another view of the same files: its configuration, its tensors, and the source that has both.
    pub(crate) fn viewed(&self, source: Arc<dyn Source>, config: Value, catalog: Catalog) -> Self {
        Self {
            source,
            config,
            catalog,
            ..self.clone()
        }
    }

    /// Adds the declaration of a quantization that `config.json` lacks, and a note of where it comes from.
    pub(crate) fn declare(&mut self, field: &str, quantization: Value, note: String) {
        self.config[field] = quantization;
        self.notes.push(note);
    }

    /// Where the files are.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// `config.json` as it is: an object. A number that JSON does not have (`Infinity`, `NaN`) is a text that no file has.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `config.json` for other programs: a number that JSON does not have is the text `Infinity`, `-Infinity` or `NaN`.
    #[must_use]
    pub fn config_to_show(&self) -> Value {
        json::plain(&self.config)
    }

    /// `generation_config.json` as it is, if there is one: an object.
    #[must_use]
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The files of weights, by name.
    #[must_use]
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// Every tensor.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The type that the model's weights are in, or were in before they were packed: what the configuration says, else
    /// what most bytes of plain floats are.
    pub(crate) fn float_dtype(&self) -> DType {
        let said = ["dtype", "torch_dtype"]
            .into_iter()
            .find_map(|field| self.config[field].as_str());
        match said.map(|name| name.trim_start_matches("torch.")) {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            Some("bfloat16") => DType::Bf16,
            _ => self.catalog.float_dtype(),
        }
    }

    /// Bytes of all files of weights, headers included.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// A small text file of the model: a tokenizer, a chat template.
    ///
    /// # Errors
    ///
    /// When it is missing, unreadable or not UTF-8.
    pub fn read_text(&self, file: &str) -> Result<String, CheckpointError> {
        let bytes = self.source.read(file)?;
        let len = bytes.len();
        String::from_utf8(bytes).map_err(|error| CheckpointError::NotText {
            file: label(&*self.source, file),
            at_byte: error.utf8_error().valid_up_to(),
            len,
        })
    }

    /// A JSON object of the model, `None` when there is no such file.
    pub(crate) fn read_json(&self, file: &str) -> Result<Option<Value>, CheckpointError> {
        let bytes = self.source.read_optional(file)?;
        bytes
            .map(|bytes| parse_object(&*self.source, file, &bytes))
            .transpose()
    }

    /// The names of the files in `additional_chat_templates`, where the source can list its files.
    ///
    /// # Errors
    ///
    /// When the list cannot be read.
    pub(crate) fn chat_templates(&self) -> Result<Vec<String>, CheckpointError> {
        let mut files = self.source.list()?.unwrap_or_default();
        files.retain(|file| {
            let name = file.strip_prefix(CHAT_TEMPLATES);
            let name = name.and_then(|name| name.strip_suffix(".jinja"));
            name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '\\']))
        });
        Ok(files)
    }

    /// A small file of the model, `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// When it is unreadable.
    pub fn read_optional(&self, file: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.source.read_optional(file)?)
    }
}

/// A file's name for messages. The source is part of it: a base model and its adapter both have a
/// `model.safetensors`.
fn label(source: &dyn Source, file: &str) -> String {
    format!("{}/{file}", source.describe())
}

fn parse_object(source: &dyn Source, file: &str, bytes: &[u8]) -> Result<Value, CheckpointError> {
    let value: Value = json::read(bytes).map_err(|error| CheckpointError::Json {
        file: label(source, file),
        source: error,
    })?;
    if value.is_object() {
        return Ok(value);
    }
    Err(CheckpointError::NotAnObject {
        file: label(source, file),
    })
}

/// A file's length and header, each of its header's bytes read once.
fn read_header(source: &dyn Source, file: &str) -> Result<(u64, Header), CheckpointError> {
    let label = label(source, file);
    let file_len = source.size(file)?;
    let mut first = [0; LENGTH_BYTES];
    let there = file_len.min(LENGTH_BYTES as u64) as usize;
    source.peek(file, 0, &mut first[..there])?;
    let header_len = header::header_len(&label, &first[..there], file_len)?;
    // Checked to be at most 100 MB, and at most the file.
    let mut bytes = vec![0; header_len as usize];
    source.peek(file, LENGTH_BYTES as u64, &mut bytes)?;
    Ok((file_len, header::parse(&label, &bytes, file_len)?))
}

/// The files of weights where no index says it.
fn unindexed(source: &dyn Source) -> Result<Vec<String>, CheckpointError> {
    let single = vec![SINGLE.to_owned()];
    match source.size(SINGLE) {
        Err(error) if error.is_absent() => {}
        // Whatever is wrong with it is said when it is read.
        _ => return Ok(single),
    }
    let Some(names) = source.list()? else {
        return Ok(single);
    };
    let at = || source.describe();
    match unindexed::find(&names, SAFETENSORS) {
        UnindexedFiles::Nothing => Ok(single),
        UnindexedFiles::Files(files) => Ok(files),
        UnindexedFiles::Incomplete {
            last,
            missing,
            count,
        } => Err(CheckpointError::MissingShards {
            at: at(),
            shard: last,
            missing: missing
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            count,
        }),
        UnindexedFiles::Several(files) => Err(CheckpointError::Ambiguous { at: at(), files }),
    }
}

/// Says why there is no configuration: because this is no model, or because it is half of one.
fn no_config(source: &dyn Source) -> Result<CheckpointError, CheckpointError> {
    let at = source.describe();
    let found = instead(source).map_or(String::new(), |found| format!("; {found}"));
    let weights = match source.weights_file() {
        Some(adapter) if is_adapter(adapter) => Vec::new(),
        Some(named) => vec![named],
        None => [INDEX, SINGLE].into_iter().chain(ELSEWHERE).collect(),
    };
    for file in weights {
        match source.size(file) {
            Ok(_) => {
                return Ok(CheckpointError::NoConfig {
                    at,
                    weights: file.to_owned(),
                });
            }
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(CheckpointError::NotAModel { at, found })
}

fn no_weights(source: &dyn Source, file: &str, error: SourceError) -> CheckpointError {
    CheckpointError::NoWeights {
        at: source.describe(),
        found: instead(source).unwrap_or_else(|| {
            "files of safetensors, PyTorch (.bin, .pt), Burn (.bpk) and llama.cpp (.gguf) are read".to_owned()
        }),
        looked_for: format!("{INDEX} and {file}"),
        source: Box::new(error),
    }
}

/// A checkpoint that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Nothing here belongs to a model.
    #[error(
        "{at}: not a model; looked for {CONFIG}, {INDEX} and {SINGLE} and found none of them{found}"
    )]
    NotAModel {
        /// The source.
        at: String,
        /// What there is instead, and what to do; empty where nobody can list the files.
        found: String,
    },

    /// Weights without a configuration.
    #[error("{at}: has {weights} and no {CONFIG}; put the model's {CONFIG} beside it")]
    NoConfig {
        /// The source.
        at: String,
        /// The file of weights, or the index, that is there.
        weights: String,
    },

    /// A configuration without weights.
    #[error("{at}: has {CONFIG} and no weights; looked for {looked_for}; {found}")]
    NoWeights {
        /// The source.
        at: String,
        /// The names that were looked for.
        looked_for: String,
        /// What there is instead, and what to do.
        found: String,
        /// What the source said of the last of them.
        source: Box<SourceError>,
    },

    /// A file that the index names is not there.
    #[error("{at}: {shard} is missing, in which {INDEX} places {tensors} tensors: {source}")]
    MissingShard {
        /// The source.
        at: String,
        /// The missing file.
        shard: String,
        /// How many tensors the index places in it.
        tensors: usize,
        /// What the source said.
        source: Arc<SourceError>,
    },

    /// Shards without an index, of which some are not there.
    #[error("{at}: has {shard} and no {INDEX}, and the shards {missing} of {count} are missing")]
    MissingShards {
        /// The source.
        at: String,
        /// A shard that is there.
        shard: String,
        /// The numbers of the missing ones.
        missing: String,
        /// How many there should be.
        count: usize,
    },

    /// Weights without an index, of more than one saving.
    #[error(
        "{at}: has no {INDEX} that says which files are the weights; {} and {} may be of different models: name the file, or take \
         the others away", .files[0], .files[1]
    )]
    Ambiguous {
        /// The source.
        at: String,
        /// Two of the files.
        files: [String; 2],
    },

    /// A file that is not JSON.
    #[error("{file}: does not parse: {source}; correct it, or fetch it again")]
    Json {
        /// The file.
        file: String,
        /// What and where.
        source: serde_json::Error,
    },

    /// JSON, but not an object.
    #[error("{file}: is JSON, but not an object; is it the file that its name says?")]
    NotAnObject {
        /// The file.
        file: String,
    },

    /// A text file that is not UTF-8.
    #[error(
        "{file}: byte {at_byte} of {len} breaks its UTF-8; save it as UTF-8, or fetch it again"
    )]
    NotText {
        /// The file.
        file: String,
        /// The first byte that does not fit.
        at_byte: usize,
        /// The file's length in bytes.
        len: usize,
    },

    /// A file could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),

    /// The index is wrong.
    #[error(transparent)]
    Index(#[from] IndexError),

    /// A header is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),

    /// Index and headers contradict each other.
    #[error("{at}: {source}")]
    Catalog {
        /// The source.
        at: String,
        /// How.
        source: CatalogError,
    },
}
