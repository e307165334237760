//! What lies where a model should, and the way out of it: the words with which errors go on.

use serde_json::Value;

use super::{BURNPACK, Source, SourceExt, TORCH, name::CONFIG};

/// As many names are listed.
const FEW: usize = 5;
/// The configuration of an adapter, and how its weights begin.
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.";
/// The configuration of a pipeline.
const PIPELINE: &str = "model_index.json";
/// The commit of a folder in the hub's cache.
const CACHED: &str = "refs/main";

/// Whether these files are those of an adapter.
pub(super) fn is_adapter(file: &str) -> bool {
    file == ADAPTER_CONFIG || file.starts_with(ADAPTER_WEIGHTS)
}

/// Each thing that `source` has in place of a model as a sentence's part; `None` where nobody can list its files.
pub(super) fn instead(source: &dyn Source) -> Option<String> {
    let names = source.list().ok()??;
    let at = source.describe();
    let has = |name: &str| names.iter().any(|found| found == name);
    let mut said = Vec::new();
    if names.iter().any(|name| is_adapter(name)) {
        said.push(adapter(source));
    }
    if has(PIPELINE) {
        let class = text(source, PIPELINE, "_class_name");
        let class = class.map_or(String::new(), |class| format!(" ({class})"));
        said.push(format!(
            "it is a pipeline of diffusers{class}, and only language models are read"
        ));
    }
    if has(CACHED)
        && let Ok(commit) = source.read(CACHED)
        && let Ok(commit) = String::from_utf8(commit)
    {
        let commit = commit.trim();
        said.push(format!(
            "it is a model's folder in the cache of the hub: name {at}/snapshots/{commit}"
        ));
    }
    let folders = names.iter().filter_map(|name| name.split_once('/'));
    let folders = folders.filter_map(|(folder, file)| (file == CONFIG).then_some(folder));
    let folders: Vec<&str> = folders.collect();
    if let [first, others @ ..] = &folders[..] {
        let others = match others.len() {
            0 => String::new(),
            _ => format!(" (or {})", listed(others.iter().copied())),
        };
        said.push(format!(
            "a model is in the folder {first}: name {at}/{first}{others}"
        ));
    }
    let files = || {
        names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.contains('/'))
    };
    for (is, what) in FOREIGN {
        let of_kind: Vec<&str> = files().filter(|name| is(name)).collect();
        if !of_kind.is_empty() {
            said.push(format!("{}: {what}", listed(of_kind.into_iter())));
        }
    }
    let tensors = files().filter(|name| name.ends_with(".safetensors") && !is_adapter(name));
    let tensors: Vec<&str> = tensors
        .filter(|name| !name.starts_with("consolidated"))
        .collect();
    if let [first, ..] = tensors[..] {
        let all = listed(tensors.iter().copied());
        said.push(format!("{all}: to read one file, name {at}/{first}"));
    }
    let is_tokenizer = |name: &&str| name.starts_with("tokenizer") || *name == "vocab.json";
    if said.is_empty() && names.is_empty() {
        said.push("it is empty".to_owned());
    } else if let (true, Some(tokenizer)) = (said.is_empty(), files().find(is_tokenizer)) {
        said.push(format!(
            "it has a tokenizer ({tokenizer}) and no weights: download those too (`git lfs pull` in a clone)"
        ));
    } else if said.is_empty() {
        said.push(format!(
            "it has {}",
            listed(names.iter().map(String::as_str))
        ));
    }
    Some(said.join("; "))
}

/// What a file is that is given for a model and has another ending than `.safetensors`, and what to do.
pub(super) fn file(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let foreign = FOREIGN.iter().find(|(is, _)| is(&name));
    match foreign {
        Some((_, what)) => format!(", but one of {what}"),
        None if name.ends_with(".json") || name.starts_with("tokenizer") => {
            ", but a part of a model: name its folder".to_owned()
        }
        None => String::new(),
    }
}

/// Whether the name of a file is one of a kind.
type IsNamed = fn(&str) -> bool;

/// Weights of other projects: which names they have, what they are, and what to do.
static FOREIGN: &[(IsNamed, &str)] = &[
    (
        |name| name.starts_with("consolidated.") || name == "params.json",
        "weights as Meta and Mistral publish them: take the version for transformers, with config.json and model.safetensors",
    ),
    (
        |name| name.ends_with(".gguf") || name.ends_with(".ggml"),
        "llama.cpp: to read one file, name that",
    ),
    (
        |name| TORCH.iter().any(|end| name.ends_with(end)),
        "PyTorch: to read one file, name that",
    ),
    (
        |name| name.ends_with(".pkl"),
        "pickled Python: load the model in Python and save it as safetensors (`from_pretrained`, `save_pretrained`)",
    ),
    (
        |name| name.ends_with(BURNPACK),
        "Burn: to read one file, name that",
    ),
    (
        |name| {
            [".onnx", ".onnx_data"]
                .iter()
                .any(|end| name.ends_with(end))
        },
        "ONNX: take the version in safetensors",
    ),
    (
        |name| {
            [".h5", ".tflite", ".pb"]
                .iter()
                .any(|end| name.ends_with(end))
        },
        "TensorFlow: take the version in safetensors",
    ),
    (
        |name| name.ends_with(".msgpack"),
        "Flax: take the version in safetensors",
    ),
    (
        |name| [".npz", ".npy"].iter().any(|end| name.ends_with(end)),
        "NumPy, as old versions of MLX saved: take the version in safetensors",
    ),
];

fn adapter(source: &dyn Source) -> String {
    let kind = text(source, ADAPTER_CONFIG, "peft_type");
    let kind = kind.map_or(String::new(), |kind| format!(" ({kind})"));
    match text(source, ADAPTER_CONFIG, "base_model_name_or_path") {
        Some(base) => format!(
            "it is an adapter of peft{kind} for the model {base}: load {base} and put the adapter on it (`firebox::adapter`), or merge both in Python \
             (`merge_and_unload`, then `save_pretrained`)"
        ),
        None => format!(
            "it is an adapter of peft{kind}: merge it into its base in Python (`merge_and_unload`, then `save_pretrained`)"
        ),
    }
}

/// A text in a JSON file, where there is one.
fn text(source: &dyn Source, file: &str, field: &str) -> Option<String> {
    let json: Value = serde_json::from_slice(&source.read(file).ok()?).ok()?;
    let text = json.get(field)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The first names of a list, and how many more there are.
fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    let more = names.len().saturating_sub(FEW);
    let first: Vec<&str> = names.take(FEW).collect();
    match more {
        0 => first.join(", "),
        _ => format!("{} and {more} more", first.join(", ")),
    }
}
