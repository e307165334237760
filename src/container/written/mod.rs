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
mod same;
mod tensor;
mod vocabulary;

use std::{collections::HashMap, sync::Arc};

use super::{
    ContainerError,
    config::{UNKNOWN, config},
    family,
    keys::Keys,
    rotary::Divisors,
};
use crate::{
    model::{Architecture, CausalLm},
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

/// A GGUF file that is going to be written.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// The bytes before the first tensor of the plan.
    pub(crate) head: Arc<[u8]>,
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
        let mut made = Vec::new();
        match &known {
            Some(model) => made = keys::of_model(&mut keys, source, model.family, &model.spec)?,
            None => {
                let kind = source.config["model_type"].as_str().unwrap_or("unknown");
                let kind = kind.strip_suffix(UNKNOWN).unwrap_or(kind);
                keys.text("general.architecture", kind);
            }
        }
        keys::of_types(&mut keys, weights);
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
        let of_made = made.iter().map(|made: &MadeTensor| {
            let kind = GgufType::Plain(StoredType::F32);
            (&*made.name, kind, &made.shape[..])
        });
        let planned = tensors.iter();
        let planned = planned.map(|out: &GgufOut| (&*out.name, out.kind, &out.shape[..]));
        let all: Vec<_> = of_made.chain(planned).collect();
        let mut head = gguf::head(&keys, all.into_iter());
        for made in &made {
            head.extend(made.values.iter().flat_map(|value| value.to_le_bytes()));
            head.resize(gguf::aligned(head.len() as u64) as usize, 0);
        }
        let mut file = Self {
            note: None,
            head: head.into(),
            tensors: (weights.iter())
                .map(|weight| weight.name.to_owned())
                .zip(tensors)
                .collect(),
        };
        if let Some(model) = &known {
            file.note = file.check(source.label, model, &made)?;
        }
        Ok(file)
    }

    /// The tensor that a weight of the plan is.
    pub(crate) fn tensor(&self, weight: &str) -> Option<&GgufOut> {
        self.tensors.get(weight)
    }

    /// Reads the head as that of any file, and refuses one that is another model.
    fn check(
        &self,
        label: &str,
        model: &KnownModel,
        made: &[MadeTensor],
    ) -> Result<Option<String>, ContainerError> {
        let file = format!("{MODEL} of {label}");
        let parsed = gguf::parse(&file, &self.head, u64::MAX >> 1)?;
        let GgufParsed::Header(header) = parsed else {
            unreachable!("a head is whole");
        };
        let keys = Keys::new(&file, &header)?;
        let has_experts = keys.number("expert_count")?.is_some_and(|count| count > 0);
        let family = family::family(keys.architecture(), has_experts).unwrap_or(model.family);
        let divisors = Divisors::of(|name| {
            let found = made.iter().find(|made| made.name == name);
            found.map(|made| made.values.clone())
        });
        let json = config(&keys, family, &header, &divisors)?;
        let spec = CausalLm::config(&json).map_err(|source| ContainerError::Config {
            file: file.clone(),
            source: Box::new(source),
        })?;
        same::check(label, &model.spec, &spec, &divisors)
    }
}
