//! Which files are the weights where no index says it: names in, names out.
//!
//! | the files | the weights |
//! |---|---|
//! | `model-00001-of-00002.safetensors` … | all shards of the set, of which none may be missing |
//! | one set of shards under another name | the same |
//! | `model.fp16.safetensors`, `model_0.safetensors`, `model_1.safetensors` | all files whose names begin with `model` |
//! | one file of any name | that file |
//! | several | not known: which of them is meant would be a guess |
//!
//! Files in folders, those of adapters, and Mistral's own (`consolidated`) are not looked at.

use std::collections::BTreeMap;

/// How the names of files of adapters begin.
const ADAPTER: &str = "adapter";
/// How the names of Mistral's own files begin, whose tensors have other names.
const FOREIGN: &str = "consolidated";
/// How the names begin that transformers writes, and wrote before safetensors.
const MODEL: [&str; 2] = ["model", "pytorch_model"];

/// The files of weights among the files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnindexedFiles {
    /// None of the names is one.
    Nothing,
    /// These, all of them.
    Files(Vec<String>),
    /// A set of shards without these numbers.
    Incomplete {
        /// The last shard that is there.
        last: String,
        missing: Vec<usize>,
        count: usize,
    },
    /// Files of two models, or of one model twice.
    Several([String; 2]),
}

/// Finds the files of weights among the names of all files: those that end in `end`.
pub(crate) fn find(names: &[String], end: &str) -> UnindexedFiles {
    let is_own = |name: &&str| !name.starts_with(ADAPTER) && !name.starts_with(FOREIGN);
    let weights = names.iter().map(String::as_str).filter(is_own);
    let weights = weights.filter(|name| name.ends_with(end) && !name.contains('/'));
    let weights: Vec<&str> = weights.collect();
    let mut sets: BTreeMap<(&str, usize), BTreeMap<usize, &str>> = BTreeMap::new();
    for name in &weights {
        if let Some((stem, nth, count)) = shard(name, end) {
            sets.entry((stem, count)).or_default().insert(nth, name);
        }
    }
    let is_model = |name: &str| MODEL.iter().any(|model| name.starts_with(model));
    if sets.keys().any(|(stem, _)| is_model(stem)) {
        sets.retain(|(stem, _), _| is_model(stem));
    }
    let mut sets = sets.into_iter();
    match (sets.next(), sets.next()) {
        (Some(((_, count), shards)), None) => return complete(&shards, count),
        (Some((_, first)), Some((_, second))) => {
            let one = |set: BTreeMap<usize, &str>| set.values().next().map(ToString::to_string);
            return UnindexedFiles::Several(
                [first, second].map(|set| one(set).unwrap_or_default()),
            );
        }
        (None, _) => {}
    }
    let of_model: Vec<&str> = weights
        .iter()
        .copied()
        .filter(|name| is_model(name))
        .collect();
    match (&of_model[..], &weights[..]) {
        ([], []) => UnindexedFiles::Nothing,
        ([], [one]) => UnindexedFiles::Files(vec![(*one).to_owned()]),
        ([], [first, second, ..]) => {
            UnindexedFiles::Several([first, second].map(ToString::to_string))
        }
        (all, _) => UnindexedFiles::Files(all.iter().map(ToString::to_string).collect()),
    }
}

/// The shards of a set, which count from 1, or from 0 as some tools have it.
fn complete(shards: &BTreeMap<usize, &str>, count: usize) -> UnindexedFiles {
    let first = usize::from(!shards.contains_key(&0));
    let missing = (first..first.saturating_add(count)).filter(|nth| !shards.contains_key(nth));
    // A name may say any number.
    let missing: Vec<usize> = missing.take(shards.len() + 1).collect();
    match (&missing[..], shards.values().next_back()) {
        ([], _) => UnindexedFiles::Files(shards.values().map(ToString::to_string).collect()),
        (_, last) => UnindexedFiles::Incomplete {
            last: last.map(ToString::to_string).unwrap_or_default(),
            missing,
            count,
        },
    }
}

/// `stem-nth-of-count`, and `end`.
fn shard<'n>(name: &'n str, end: &str) -> Option<(&'n str, usize, usize)> {
    let (rest, count) = name.strip_suffix(end)?.rsplit_once("-of-")?;
    let (stem, nth) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (nth, count) = (number(nth)?, number(count)?);
    (nth <= count).then_some((stem, nth, count))
}
