//! A GGUF file that is written: its header, and what its tensors are named and how they lie.
//!
//! ```text
//! config.json ─► Spec ─► keys ──────────────────────────────┐
//! tokenizer  ─► vocabulary ─► keys                          ├─► head
//! weights of the plan ─► names, types, shapes of tensors ───┘
//! ```
//!
//! The keys are read again as those of any file, before a weight is written: a model that they do not say is refused.
//! A model of an architecture that llama.cpp does not know, and a bare file of weights, keep the names of their tensors.

mod keys;
mod known;
mod own;
mod same;
mod tensor;
mod types;
mod vocabulary;

use std::collections::HashMap;

use super::{
    ContainerError,
    config::{UNKNOWN, config},
    family,
    keys::Keys,
    order::{TiledHeads, delta},
    parts,
    rotary::Divisors,
};
use crate::{
    model::{Architecture, CausalLm, decoder::Part},
    source::{
        StoredType,
        gguf::{self, GgufKeys, GgufParsed, GgufType},
    },
};

use keys::MadeTensor;
pub(crate) use known::GgufSource;
use known::KnownModel;
pub(crate) use tensor::{GgufOut, GgufWeight, WeightKind};
pub(crate) use vocabulary::GgufVocabulary;

/// The name of the file.
pub(crate) const MODEL: &str = "model.gguf";

/// What the names of its parts begin with, where there are several.
const PART: &str = "model";

/// The most parts that a key can count.
const PARTS_MAX: usize = u16::MAX as usize;

/// The name of the file `nth` of `count` that a model is written to.
pub(crate) fn file_name(nth: usize, count: usize) -> String {
    match count {
        0 | 1 => MODEL.to_owned(),
        count => parts::name(PART, nth as u64 + 1, count as u64),
    }
}

/// A GGUF file that is going to be written, or one in parts.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// The checkpoint that it is made from, for messages.
    label: String,
    keys: GgufKeys,
    /// The tensors that no weight of the plan is.
    made: Vec<MadeTensor>,
    /// The tensors, by the names that the weights have in the plan.
    tensors: HashMap<String, GgufOut>,
    /// What the file does not say and is no error, a sentence.
    pub(crate) note: Option<String>,
}

/// Of the weights of these names, those that are not of the text model, which is what a file has: what reads pictures, what
/// predicts further tokens.
///
/// # Errors
///
/// [`ContainerError`] for a model that no file can be.
pub(crate) fn beside<'n>(
    source: &GgufSource<'_>,
    names: impl Iterator<Item = &'n str>,
) -> Result<Vec<String>, ContainerError> {
    let Some(model) = KnownModel::of(source)? else {
        return Ok(Vec::new());
    };
    let beside = names
        .filter(|name| !model.names.contains_key(*name) && CausalLm::leaves_out(&model.spec, name));
    Ok(beside.map(str::to_owned).collect())
}

/// Matrices whose columns have another order in a file, by their names in the plan, and the columns of a head: blocks change places
/// where they lie within one.
///
/// # Errors
///
/// As [`beside`].
pub(crate) fn moved_columns(
    source: &GgufSource<'_>,
) -> Result<HashMap<String, usize>, ContainerError> {
    let Some(model) = KnownModel::of(source)? else {
        return Ok(HashMap::new());
    };
    let is_tiled = model.family.is_hybrid() && model.family.name != "qwen3next";
    let delta = delta(&model.spec).filter(|delta| is_tiled && TiledHeads::of(delta).is_some());
    let Some(delta) = delta else {
        return Ok(HashMap::new());
    };
    let names = model.names.into_iter();
    let moved = names.filter(|(_, (_, part))| *part == Part::DeltaOut);
    Ok(moved
        .map(|(name, _)| (name, delta.value_features))
        .collect())
}

impl GgufFile {
    /// Decides everything about a file but the bytes of its weights, which are written in this order.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] for a model, a tensor or a tokenizer that no such file can be.
    pub(crate) fn new(
        source: &GgufSource<'_>,
        weights: &[GgufWeight<'_>],
    ) -> Result<Self, ContainerError> {
        let known = KnownModel::of(source)?;
        let mut keys = GgufKeys::default();
        let mut made: Vec<MadeTensor> = Vec::new();
        match &known {
            Some(model) => made = keys::of_model(&mut keys, source, model.family, &model.spec)?,
            None => {
                let kind = source.config["model_type"].as_str().unwrap_or("unknown");
                let kind = kind.strip_suffix(UNKNOWN).unwrap_or(kind);
                keys.text("general.architecture", kind);
            }
        }
        types::of_types(&mut keys, weights);
        match (&known, source.vocabulary) {
            (Some(model), Some(vocabulary)) => {
                vocabulary.write(&mut keys, source.label, model.spec.vocabulary)?;
            }
            (Some(_), None) => keys.text("tokenizer.ggml.model", "no_vocab"),
            (None, _) => {}
        }
        let mut tensors = Vec::with_capacity(weights.len());
        for weight in weights {
            tensors.push(tensor::placed(source, known.as_ref(), weight)?);
        }
        let mut file = Self {
            label: source.label.to_owned(),
            note: None,
            keys,
            made,
            tensors: (weights.iter())
                .map(|weight| weight.name.to_owned())
                .zip(tensors)
                .collect(),
        };
        if let Some(model) = &known {
            let names = weights.iter().map(|weight| weight.name);
            let head = file.head_of(file.keys.clone(), true, names);
            file.note = file.check(&head, model)?;
        }
        Ok(file)
    }

    /// The bytes before the first weight of each part, of which each has `weights` by their names in the plan.
    ///
    /// # Errors
    ///
    /// [`ContainerError`] for more parts than a file can count.
    pub(crate) fn heads(&self, weights: &[Vec<&str>]) -> Result<Vec<Vec<u8>>, ContainerError> {
        let count = weights.len();
        if count == 1 {
            let names = weights[0].iter().copied();
            return Ok(vec![self.head_of(self.keys.clone(), true, names)]);
        }
        let Ok(counted) = u16::try_from(count) else {
            return Err(ContainerError::Parts {
                file: self.label.clone(),
                count,
                max: PARTS_MAX,
            });
        };
        let tensors = self.made.len() + weights.iter().map(Vec::len).sum::<usize>();
        let tensors = i32::try_from(tensors).unwrap_or(i32::MAX);
        let heads = (0..counted).zip(weights).map(|(nth, names)| {
            let is_first = nth == 0;
            let mut keys = match is_first {
                true => self.keys.clone(),
                false => GgufKeys::default(),
            };
            // llama.cpp reads them as numbers of these types alone.
            keys.u16(parts::NUMBER, nth);
            keys.u16(parts::COUNT, counted);
            keys.i32(parts::TENSORS, tensors);
            self.head_of(keys, is_first, names.iter().copied())
        });
        Ok(heads.collect())
    }

    /// The bytes before the first of the weights of these names; with the tensors that no weight is, or without.
    fn head_of<'n>(
        &self,
        keys: GgufKeys,
        has_made: bool,
        names: impl Iterator<Item = &'n str>,
    ) -> Vec<u8> {
        let made = if has_made { &self.made[..] } else { &[] };
        let of_made = made.iter().map(|made| {
            let kind = GgufType::Plain(StoredType::F32);
            (&*made.name, kind, &made.shape[..])
        });
        let planned = names.filter_map(|name| self.tensors.get(name));
        let planned = planned.map(|out| (&*out.name, out.kind, &out.shape[..]));
        let all: Vec<_> = of_made.chain(planned).collect();
        let mut head = gguf::head(&keys, all.into_iter());
        for made in made {
            head.extend(made.values.iter().flat_map(|value| value.to_le_bytes()));
            head.resize(gguf::aligned(head.len() as u64) as usize, 0);
        }
        head
    }

    /// The tensor that a weight of the plan is.
    pub(crate) fn tensor(&self, weight: &str) -> Option<&GgufOut> {
        self.tensors.get(weight)
    }

    /// Reads the head as that of any file, and refuses one that is another model.
    fn check(&self, head: &[u8], model: &KnownModel) -> Result<Option<String>, ContainerError> {
        let file = format!("{MODEL} of {}", self.label);
        let parsed = gguf::parse(&file, head, u64::MAX >> 1)?;
        let GgufParsed::Header(header) = parsed else {
            unreachable!("a head is whole");
        };
        let keys = Keys::new(&file, &header)?;
        let has_experts = keys.number("expert_count")?.is_some_and(|count| count > 0);
        let family = family::family(keys.architecture(), has_experts).unwrap_or(model.family);
        let divisors = Divisors::of(|name| {
            let found = self.made.iter().find(|made| made.name == name);
            found.map(|made| made.values.clone())
        });
        let json = config(&keys, family, &header, &divisors)?;
        let spec = CausalLm::config(&json).map_err(|source| ContainerError::Config {
            file: file.clone(),
            source: Box::new(source),
        })?;
        same::check(&self.label, &model.spec, &spec, &divisors)
    }
}
