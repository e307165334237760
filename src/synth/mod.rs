//! Synthetic checkpoints: real shapes, made-up numbers, any size.
//!
//! Benchmarks need checkpoints of several gigabytes, which can neither be kept in a repository nor
//! downloaded everywhere. [`write()`] makes one like a published model: its layers in their real shapes, as
//! many as the size allows, in bf16 shards with index and configuration, as transformers writes them.
//! There is no tokenizer, and what the model says is noise.
//!
//! # What is cut
//!
//! A smaller checkpoint has fewer layers, never narrower ones. The vocabulary shrinks in the same
//! proportion, to a multiple of 64: two embeddings of Llama 3 alone are 2.1 GB, and a benchmark of those
//! would say nothing about layers.
//!
//! # What the numbers are like
//!
//! | tensor | mean | standard deviation |
//! |---|---|---|
//! | matrix `[o, i]` | 0 | `1 / sqrt(i)` |
//! | the same, in its outlier columns, one in 512 | 0 | 10 to 20 times that |
//! | embedding, head, bias | 0 | 0.02 |
//! | norm | 1 | 0.05 |
//!
//! All are normal, to 16 bits of probability: the largest is 4.3 standard deviations out. Matrices with
//! equally many inputs have their outliers in the same columns, in all layers.
//!
//! The same options give the same bytes everywhere. A value depends on the seed, the name of its tensor
//! and its place there; the number of threads and the size of shards do not change it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

mod like;
mod values;

use crate::observe::write_by_part;
use like::{Shape, SynthTensor};
use values::RandomValues;

pub use like::Like;

/// Bytes made at a time, and about all the memory that writing takes.
const TILE_BYTES: usize = 16 << 20;

/// Bytes that one thread makes at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The model whose shapes to take.
    pub like: Like,
    /// Bytes that all files together may have. More than the model needs is no reason to invent layers:
    /// the result is the full model.
    pub size_bytes: u64,
    /// Bytes that a shard may have. A tensor that is larger gets a shard of its own.
    pub shard_bytes: u64,
    /// Another seed, other numbers.
    pub seed: u64,
    /// The folder. It is made, and must be empty if it exists.
    pub out: PathBuf,
}

impl Options {
    /// What [`Options::new`] takes for `shard_bytes`: 1 GiB.
    pub const DEFAULT_SHARD_BYTES: u64 = 1 << 30;

    /// Shards of 1 GiB and seed 0.
    pub fn new(like: Like, size_bytes: u64, out: impl Into<PathBuf>) -> Self {
        Self {
            like,
            size_bytes,
            shard_bytes: Self::DEFAULT_SHARD_BYTES,
            seed: 0,
            out: out.into(),
        }
    }
}

/// What has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SynthSummary {
    /// Layers of the model, at most those of the real one.
    pub layers: u64,
    /// Rows of the embedding.
    pub vocab: u64,
    /// Tensors, in all shards.
    pub tensors: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Files of tensors.
    pub shards: usize,
    /// Bytes of tensors alone: `metadata.total_size` of the index.
    pub tensor_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// A synthetic checkpoint that could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// No shapes are known by this name.
    #[error("no model is called {found:?}; there are {known}")]
    UnknownModel {
        /// The name asked for.
        found: String,
        /// The names there are.
        known: String,
    },

    /// Not even one layer fits.
    #[error(
        "{like}: one layer takes {least} bytes, {asked} were asked for; ask for more or for a smaller model"
    )]
    TooSmall {
        /// The model.
        like: Like,
        /// Bytes asked for.
        asked: u64,
        /// Bytes of the smallest checkpoint.
        least: u64,
    },

    /// The folder has something in it. A checkpoint that is half old and half new would load.
    #[error("{path} is not empty; name another folder, or empty it first", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },

    /// A file could not be written.
    #[error("{path} cannot be written: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl FromStr for Like {
    type Err = SynthError;

    fn from_str(name: &str) -> Result<Self, SynthError> {
        Self::ALL
            .into_iter()
            .find(|like| like.name() == name)
            .ok_or_else(|| SynthError::UnknownModel {
                found: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// Writes a synthetic checkpoint.
///
/// Tensors are made a tile at a time, so that memory stays at about 16 MiB whatever the size. Each file
/// is written under another name and renamed when it is complete, the index last: a folder with an index
/// is whole.
///
/// `on_progress` is told the bytes done and the bytes there will be, after each tile; the last call has
/// them equal.
///
/// ```
/// use firebox::synth::{self, Like, Options};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let out = folder.path().join("tiny");
/// let options = Options::new(Like::TinyRust, 4 << 20, out);
/// let summary = synth::write(&options, &mut |_done, _total| {})?;
/// assert_eq!(summary.layers, 2);
/// assert!(summary.total_bytes <= options.size_bytes);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// * [`SynthError::TooSmall`] when not one layer fits into `size_bytes`;
/// * [`SynthError::NotEmpty`] when the folder has something in it;
/// * [`SynthError::Io`] when a file cannot be written. What was written stays, without an index.
pub fn write(
    options: &Options,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthSummary, SynthError> {
    let plan = SynthPlan::new(options)?;
    make_folder(&options.out)?;

    let total = plan.total_bytes();
    let mut done = 0;
    let mut report = |bytes: usize| {
        done += bytes as u64;
        on_progress(done, total);
    };
    let mut tile = vec![0; TILE_BYTES];
    for (shard, name) in plan.shards.iter().zip(&plan.shard_names) {
        write_file(&options.out.join(name), |file| {
            file.write_all(&shard.header)?;
            report(shard.header.len());
            for &index in &shard.tensors {
                write_tensor(
                    options.seed,
                    &plan.tensors[index],
                    &mut tile,
                    file,
                    &mut report,
                )?;
            }
            Ok(())
        })?;
    }
    for (name, bytes) in &plan.texts {
        write_file(&options.out.join(name), |file| file.write_all(bytes))?;
        report(bytes.len());
    }

    Ok(SynthSummary {
        layers: plan.shape.layers,
        vocab: plan.shape.vocab,
        tensors: plan.tensors.len(),
        parameters: plan.tensors.iter().map(SynthTensor::elements).sum(),
        shards: plan.shards.len(),
        tensor_bytes: plan.tensor_bytes(),
        total_bytes: total,
    })
}

/// Everything that is decided before the first byte is written.
struct SynthPlan {
    shape: Shape,
    tensors: Vec<SynthTensor>,
    shards: Vec<SynthShard>,
    shard_names: Vec<String>,
    /// The JSON files, in the order they are written.
    texts: Vec<(&'static str, Vec<u8>)>,
}

/// One file of tensors.
struct SynthShard {
    /// Length and JSON, as they begin the file.
    header: Vec<u8>,
    /// Positions in [`SynthPlan::tensors`].
    tensors: Vec<usize>,
}

impl SynthPlan {
    /// As many layers as fit, counted with headers and JSON.
    fn new(options: &Options) -> Result<Self, SynthError> {
        let full = options.like.shape();
        let mut layers = full.layers;
        loop {
            let plan = Self::of(full.with_layers(layers), options);
            let needed = plan.total_bytes();
            if needed <= options.size_bytes {
                return Ok(plan);
            }
            if layers == 1 {
                return Err(SynthError::TooSmall {
                    like: options.like,
                    asked: options.size_bytes,
                    least: needed,
                });
            }
            layers -= 1;
        }
    }

    fn of(shape: Shape, options: &Options) -> Self {
        let tensors = shape.tensors(options.like);
        let shards = shards(&tensors, options.shard_bytes);
        let shard_names: Vec<String> = (1..=shards.len())
            .map(|nth| format!("model-{nth:05}-of-{:05}.safetensors", shards.len()))
            .collect();

        let mut weight_map: Vec<(&str, &str)> = Vec::new();
        for (shard, file) in shards.iter().zip(&shard_names) {
            let names = shard.tensors.iter().map(|&index| &tensors[index].name);
            weight_map.extend(names.map(|name| (name.as_str(), file.as_str())));
        }
        // Sorted, as transformers has it.
        weight_map.sort_unstable();
        let weight_map: Map<String, Value> = weight_map
            .into_iter()
            .map(|(name, file)| (name.to_owned(), json!(file)))
            .collect();
        let index = json!({
            "metadata": {
                "total_parameters": tensors.iter().map(SynthTensor::elements).sum::<u64>(),
                "total_size": tensors.iter().map(SynthTensor::bytes).sum::<u64>(),
            },
            "weight_map": weight_map,
        });

        // `{:#}` of a JSON value is its indented text.
        let text = |value: &Value| format!("{value:#}\n").into_bytes();
        let texts = vec![
            (
                "config.json",
                text(&shape.config(options.like, options.seed)),
            ),
            ("generation_config.json", text(&shape.generation_config())),
            ("model.safetensors.index.json", text(&index)),
        ];
        Self {
            shape,
            tensors,
            shards,
            shard_names,
            texts,
        }
    }

    fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(SynthTensor::bytes).sum()
    }

    fn total_bytes(&self) -> u64 {
        let headers = self.shards.iter().map(|shard| shard.header.len() as u64);
        let texts = self.texts.iter().map(|(_, bytes)| bytes.len() as u64);
        self.tensor_bytes() + headers.sum::<u64>() + texts.sum::<u64>()
    }
}

/// Cuts the tensors, in their order, into files of at most `shard_bytes`, headers included.
fn shards(tensors: &[SynthTensor], shard_bytes: u64) -> Vec<SynthShard> {
    // What an entry of the header can take beside the name: two offsets and two sides of at most 20
    // digits, and the words between them.
    const ENTRY_BYTES: u64 = 150;
    let bound = |tensor: &SynthTensor| tensor.bytes() + tensor.name.len() as u64 + ENTRY_BYTES;

    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (index, tensor) in tensors.iter().enumerate() {
        let needed = bound(tensor);
        match groups.last_mut() {
            Some(group) if needed <= room => {
                group.push(index);
                room -= needed;
            }
            _ => {
                groups.push(vec![index]);
                room = shard_bytes.saturating_sub(needed + ENTRY_BYTES);
            }
        }
    }
    groups
        .into_iter()
        .map(|group| SynthShard {
            header: header(group.iter().map(|&index| &tensors[index])),
            tensors: group,
        })
        .collect()
}

/// The beginning of a safetensors file: eight bytes of length, then JSON, padded with spaces so that the
/// tensors begin at a multiple of eight.
///
/// By hand, as the `safetensors` crate wants each tensor whole in memory, and one may be a gigabyte.
fn header<'a>(tensors: impl Iterator<Item = &'a SynthTensor>) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses a file that does not say which framework's it is.
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        entries.insert(
            tensor.name.clone(),
            json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

/// Makes a tensor tile by tile.
fn write_tensor(
    seed: u64,
    tensor: &SynthTensor,
    tile: &mut [u8],
    file: &mut impl Write,
    report: &mut dyn FnMut(usize),
) -> io::Result<()> {
    let values = RandomValues::new(seed, tensor);
    let bytes = tensor.bytes();
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(tile.len() as u64) as usize;
        let tile = &mut tile[..len];
        tile.par_chunks_mut(CHUNK_BYTES)
            .enumerate()
            .for_each(|(nth, chunk)| {
                let first_byte = at + (nth * CHUNK_BYTES) as u64;
                values.fill(first_byte / 2, chunk);
            });
        file.write_all(tile)?;
        report(len);
        at += len as u64;
    }
    Ok(())
}

/// Makes the folder, or finds it empty.
fn make_folder(path: &Path) -> Result<(), SynthError> {
    let io = |source| SynthError::Io {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(io)?;
    match fs::read_dir(path).map_err(io)?.next() {
        None => Ok(()),
        Some(Ok(_)) => Err(SynthError::NotEmpty {
            path: path.to_owned(),
        }),
        Some(Err(source)) => Err(io(source)),
    }
}

fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), SynthError> {
    write_by_part(path, fill).map_err(|source| SynthError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::like::SynthTensor;
    use super::{CHUNK_BYTES, TILE_BYTES, write_tensor};
    use crate::model::Role;

    /// A tile that forgot where in the tensor it begins would repeat the first one. Rows of 257, so that
    /// tiles begin in the middle of a row and outlier columns must be found from there.
    #[test]
    fn tiles_do_not_show() {
        let tensor = SynthTensor {
            name: "any".into(),
            role: Role::Linear,
            shape: vec![600, 257],
        };
        let written = |tile_bytes| {
            let (mut bytes, mut reported) = (Vec::new(), 0);
            let mut tile = vec![0; tile_bytes];
            write_tensor(7, &tensor, &mut tile, &mut bytes, &mut |len| {
                reported += len;
            })
            .unwrap();
            assert_eq!(bytes.len() as u64, tensor.bytes());
            assert_eq!(reported, bytes.len());
            bytes
        };
        let whole = written(TILE_BYTES);
        assert!(whole.len() > 4 * CHUNK_BYTES);
        assert!(written(CHUNK_BYTES) == whole);
        assert!(written(2 * CHUNK_BYTES) == whole);
        // Less than a chunk, and no power of two.
        assert!(written(8 * 1000) == whole);
    }
}
