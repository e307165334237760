//! Checkpoints of a run: `checkpoint-N` in its folder, from which step N + 1 continues.
//!
//! ```text
//! adapter_config.json, adapter_model.safetensors   the adapter, as peft reads it
//! trained.safetensors                              the trained tensors, by their paths in the model
//! optimizer.safetensors                            the states of the optimizer
//! state.json                                       the rest: steps, place in the data, counters, checksums of the files above
//! ```
//!
//! The base is in none of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::{
    data::DataPosition,
    exact,
    folder::{FolderError, remove_folder, write_folder},
    optimizer::{Optimizer, OptimizerError},
    trained,
};
use crate::{
    adapter::{AdapterError, AdapterFile},
    model::CausalLm,
};

/// How the names of their folders begin.
pub(super) const PREFIX: &str = "checkpoint-";

const STATE: &str = "state.json";
const TRAINED: &str = "trained.safetensors";
/// The states of the optimizer.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RunProgress {
    /// Steps that are done.
    pub(super) step: u64,
    /// Mean loss of the first and of the last step.
    #[serde(with = "exact::option")]
    pub(super) loss_first: Option<f64>,
    #[serde(with = "exact::option")]
    pub(super) loss_last: Option<f64>,
    /// Tokens of all rows, and those of them that were trained on.
    pub(super) tokens: u64,
    pub(super) tokens_trained: u64,
    /// What the steps took.
    pub(super) seconds: f64,
    /// The last evaluation: the mean loss, and the steps that were done.
    #[serde(with = "exact::option")]
    pub(super) eval_loss: Option<f64>,
    pub(super) eval_step: u64,
    /// The lowest one.
    #[serde(with = "exact::option")]
    pub(super) best_loss: Option<f64>,
    pub(super) best_step: u64,
    /// Evaluations since then.
    pub(super) evaluations_since_best: u64,
    /// Why the run is over.
    pub(super) ended: Option<Ended>,
}

/// Why a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All steps are done.
    Steps,
    /// The perplexity was no lower for as many evaluations as were to be waited.
    Patience,
}

/// All of a checkpoint but the adapter.
#[derive(Debug)]
pub(super) struct CheckpointState {
    /// What has to be the same when the run continues.
    pub(super) identity: Value,
    pub(super) progress: RunProgress,
    /// The place in the data.
    pub(super) position: DataPosition,
    /// Masks that each dropout has drawn, on each rank.
    pub(super) dropout_calls: Vec<BTreeMap<String, u64>>,
    /// The length of the file of metrics.
    pub(super) metrics_bytes: u64,
    /// How many values are trained.
    pub(super) trainable: u64,
    /// Trained tensors, by their paths in the model.
    pub(super) trained: BTreeMap<String, TensorData>,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct StateFile {
    identity: Value,
    progress: RunProgress,
    position: DataPosition,
    /// Of the first rank, and of the others.
    dropout_calls: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropout_calls_of_others: Vec<BTreeMap<String, u64>>,
    metrics_bytes: u64,
    trainable: u64,
    files: BTreeMap<String, CheckpointSum>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct CheckpointSum {
    bytes: u64,
    xxh3: String,
}

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// The system's reason.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The files of the adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The states of the optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// A trained tensor of the model is not in it with its shape, or the other way round.
    #[error("{}: `{tensor}` is not trained in both the checkpoint and the model, or has another shape", folder.display())]
    Unfit {
        /// The checkpoint.
        folder: PathBuf,
        /// The path of the tensor in the model.
        tensor: String,
    },
    /// A file is not as it was written.
    #[error("{}: is damaged: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl CheckpointState {
    /// Writes `checkpoint-N` into the folder of the run.
    pub(super) fn save(
        self,
        run: &Path,
        optimizer: &Optimizer,
        adapter: Option<AdapterFile>,
    ) -> Result<PathBuf, CheckpointFault> {
        let folder = folder(run, self.progress.step);
        write_folder(&folder, |part| {
            if let Some(adapter) = adapter {
                adapter.save(part)?;
            }
            let write = |name: &str, bytes: &[u8]| {
                let path = part.join(name);
                fs::write(&path, bytes).map_err(|source| FolderError { path, source })
            };
            write_tensors(&part.join(TRAINED), &self.trained)?;
            optimizer.save(&part.join(OPTIMIZER))?;
            let mut dropout_calls = self.dropout_calls.into_iter();
            let state = StateFile {
                identity: self.identity,
                progress: self.progress,
                position: self.position,
                dropout_calls: dropout_calls.next().unwrap_or_default(),
                dropout_calls_of_others: dropout_calls.collect(),
                metrics_bytes: self.metrics_bytes,
                trainable: self.trainable,
                files: sums(part)?,
            };
            let state = serde_json::to_vec_pretty(&state).expect("plain data is JSON");
            Ok(write(STATE, &state)?)
        })
        .map(|()| folder)
    }

    /// Reads a checkpoint, all of whose files have to be as they were written.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointFault> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| FolderError { path, source })
        };
        let damaged = |name: &str, reason: String| CheckpointFault::Damaged {
            file: folder.join(name),
            reason,
        };
        let state = serde_json::from_slice::<StateFile>(&read(STATE)?);
        let state = state.map_err(|error| damaged(STATE, error.to_string()))?;
        let found = sums(folder)?;
        for (name, sum) in &state.files {
            match found.get(name) {
                Some(found) if found == sum => {}
                Some(found) => {
                    let reason = match found.bytes == sum.bytes {
                        true => "its checksum is another one".to_owned(),
                        false => format!("it has {} bytes, and had {}", found.bytes, sum.bytes),
                    };
                    return Err(damaged(name, reason));
                }
                None => return Err(damaged(name, "it is missing".to_owned())),
            }
        }
        let trained = deserialized(&read(TRAINED)?).map_err(|reason| damaged(TRAINED, reason))?;
        Ok(Self {
            identity: state.identity,
            progress: state.progress,
            position: state.position,
            dropout_calls: [vec![state.dropout_calls], state.dropout_calls_of_others].concat(),
            metrics_bytes: state.metrics_bytes,
            trainable: state.trainable,
            trained,
        })
    }
}

/// The folder of a checkpoint.
pub(super) fn folder(run: &Path, step: u64) -> PathBuf {
    run.join(format!("{PREFIX}{step}"))
}

/// Writes the trained tensors of a model into a folder.
pub(super) fn write_trained(folder: &Path, model: &CausalLm) -> Result<(), CheckpointFault> {
    Ok(write_tensors(
        &folder.join(TRAINED),
        &trained::values(model),
    )?)
}

/// Reads what [`write_trained`] wrote.
pub(super) fn read_trained(folder: &Path) -> Result<BTreeMap<String, TensorData>, CheckpointFault> {
    let path = folder.join(TRAINED);
    let bytes = fs::read(&path).map_err(|source| FolderError {
        path: path.clone(),
        source,
    })?;
    deserialized(&bytes).map_err(|reason| CheckpointFault::Damaged { file: path, reason })
}

/// The step of a folder that is a checkpoint, whatever its name.
pub(super) fn step_of(folder: &Path) -> Option<u64> {
    #[derive(Deserialize)]
    struct StateProgress {
        progress: RunProgress,
    }
    let state = fs::read(folder.join(STATE)).ok()?;
    let done: StateProgress = serde_json::from_slice(&state).ok()?;
    let is_whole = folder.join(TRAINED).is_file();
    is_whole.then_some(done.progress.step)
}

/// A checkpoint in the folder of a run under a name of another, and its step.
pub(super) fn renamed(run: &Path) -> Result<Option<(PathBuf, u64)>, FolderError> {
    let failed = |source| FolderError {
        path: run.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        found.extend(step_of(&path).map(|step| (step, path)));
    }
    found.sort();
    Ok(found.pop().map(|(step, path)| (path, step)))
}

/// The checkpoints in the folder of a run, by their steps.
pub(super) fn list(run: &Path) -> Result<BTreeMap<u64, PathBuf>, FolderError> {
    let failed = |source| FolderError {
        path: run.to_owned(),
        source,
    };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(run).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(step) = step.filter(|_| path.join(STATE).is_file()) {
            found.insert(step, path);
        }
    }
    Ok(found)
}

/// Removes all but the last `keep` checkpoints.
pub(super) fn prune(run: &Path, keep: usize) -> Result<(), FolderError> {
    let found = list(run)?;
    let many = found.len().saturating_sub(keep);
    for (_, path) in found.into_iter().take(many) {
        remove_folder(&path).map_err(|source| FolderError { path, source })?;
    }
    Ok(())
}

impl CheckpointSum {
    /// Of a file, which is read in parts.
    fn of(file: &Path) -> io::Result<Self> {
        let (mut file, mut hash) = (File::open(file)?, Xxh3::new());
        let (mut part, mut bytes) = (vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut part) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&part[..count]);
                    bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            bytes,
            xxh3: format!("{:032x}", hash.digest128()),
        })
    }
}

/// Lengths and checksums of the files of a folder, without the one that has them.
fn sums(folder: &Path) -> Result<BTreeMap<String, CheckpointSum>, FolderError> {
    let mut sums = BTreeMap::new();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError { path, source }
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name != STATE && path.is_file() {
            let sum = CheckpointSum::of(&path).map_err(failed(&path))?;
            sums.insert(name.into_owned(), sum);
        }
    }
    Ok(sums)
}

/// Writes a file tensor by tensor: a copy of all of them would be the most memory that a run takes.
fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<(), FolderError> {
    let views = tensors.iter().map(|(name, data)| {
        let dtype = match data.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
            other => unreachable!("parameters of {other:?} are not trained"),
        };
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
        (name, view.expect("a tensor has the bytes of its shape"))
    });
    let written = safetensors::serialize_to_file(views, None, path);
    written.map_err(|error| FolderError {
        path: path.to_owned(),
        source: match error {
            SafeTensorError::IoError(source) => source,
            error => io::Error::other(error),
        },
    })
}

fn deserialized(bytes: &[u8]) -> Result<BTreeMap<String, TensorData>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let read = tensors.iter().map(|(name, view)| {
        let dtype = match view.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            other => return Err(format!("{name} has the type {other:?}")),
        };
        let bytes = burn::tensor::Bytes::from_bytes_vec(view.data().to_vec());
        let data = TensorData::from_bytes(bytes, view.shape().to_vec(), dtype);
        Ok((name.to_owned(), data))
    });
    read.collect()
}
