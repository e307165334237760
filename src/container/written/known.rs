//! What a file is made from, and whether llama.cpp knows the model.

use std::collections::HashMap;

use serde_json::Value;

use super::vocabulary::GgufVocabulary;
use crate::{
    container::{
        ContainerError,
        family::{self, GgufFamily},
        names::in_files,
    },
    model::{
        Architecture, CausalLm,
        decoder::{Part, Spec},
    },
};

/// What a file is made from.
pub(crate) struct GgufSource<'a> {
    /// The checkpoint, for messages.
    pub(crate) label: &'a str,
    /// Its configuration; `null` or empty where it has none.
    pub(crate) config: &'a Value,
    /// Whether the checkpoint has a tensor of this name.
    pub(crate) has: &'a dyn Fn(&str) -> bool,
    /// Whether the head is another matrix than the embedding, whatever the configuration says.
    pub(crate) untied: bool,
    /// Its tokenizer, where it has one.
    pub(crate) vocabulary: Option<&'a GgufVocabulary<'a>>,
}

/// A model whose architecture llama.cpp knows.
pub(super) struct KnownModel {
    pub(super) family: &'static GgufFamily,
    pub(super) spec: Spec,
    /// The names in the file, and the parts.
    pub(super) names: HashMap<String, (String, Part)>,
}

impl KnownModel {
    pub(super) fn of(source: &GgufSource<'_>) -> Result<Option<Self>, ContainerError> {
        let text = &source.config["text_config"];
        let kind = [&source.config["model_type"], &text["model_type"]];
        let mut kinds = kind.iter().filter_map(|kind| kind.as_str());
        let found = kinds.clone().find_map(family::of_model_type);
        let spec = CausalLm::config(source.config);
        let (family, spec) = match (found, spec, kinds.next()) {
            (Some(family), spec, _) => (family, spec),
            (None, Ok(_), Some(found)) => {
                return Err(ContainerError::ModelType {
                    file: source.label.to_owned(),
                    found: found.to_owned(),
                    known: family::known(|family| family.model_type),
                });
            }
            _ => return Ok(None),
        };
        let spec = spec.map_err(|error| ContainerError::Config {
            file: source.label.to_owned(),
            source: Box::new(error),
        })?;
        let has_experts = spec.layers.iter().any(|layer| layer.experts().is_some());
        let family = family::family(family.name, has_experts).unwrap_or(family);
        let mut spec = CausalLm::named(spec, source.has);
        if source.untied {
            spec = CausalLm::untied(spec);
        }
        let names = in_files(family, &spec);
        Ok(Some(Self {
            family,
            spec,
            names,
        }))
    }
}
