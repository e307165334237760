//! What a [`Spec`] may ask for today. Everything else is refused by name, before a weight is read.

use super::spec::{AttentionSpec, FeedForwardSpec, LayerSpec, MixerSpec, Projections, Sees, Spec};
use crate::model::{
    error::ConfigError,
    layers::{Rope, RotarySpec},
};

/// Something that a [`Spec`] has a word for and the forward pass does not compute yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` asks for {found}, which is not supported; supported: {supported}")]
pub struct Unsupported {
    /// Where in the [`Spec`]: `layers.0.attention.sinks`.
    pub word: String,
    /// What it asks for.
    pub found: String,
    /// What it could ask for.
    pub supported: &'static str,
}

impl From<Unsupported> for ConfigError {
    fn from(refused: Unsupported) -> Self {
        Self::Unsupported {
            field: refused.word,
            found: refused.found,
            supported: refused.supported.to_owned(),
        }
    }
}

/// The parts of a layer that the forward pass computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked<'s> {
    pub(super) layer: &'s LayerSpec,
}

/// Every layer, if the forward pass computes all of the model.
pub(super) fn checked(spec: &Spec) -> Result<Vec<Checked<'_>>, Unsupported> {
    let embedding = &spec.embedding;
    let refused = [
        (
            embedding.per_layer.is_some(),
            "embedding.per_layer",
            "an embedding for each layer",
        ),
        (spec.head.bias, "head.bias", "a bias"),
    ];
    none_of("", &refused)?;
    let layers = spec.layers.iter().enumerate();
    layers
        .map(|(nth, layer)| checked_layer(nth, layer))
        .collect()
}

fn checked_layer(nth: usize, layer: &LayerSpec) -> Result<Checked<'_>, Unsupported> {
    let path = format!("layers.{nth}.");
    none_of(&path, &[(layer.scalar, "scalar", "a number for the layer")])?;
    match &layer.mixer {
        MixerSpec::Attention(attention) => check_attention(&path, attention)?,
        MixerSpec::Latent(latent) => rope(&path, &latent.rotary).map(|_| ())?,
        MixerSpec::Delta(_) => {}
    }
    check_feed_forward(nth, &path, &layer.feed_forward)?;
    Ok(Checked { layer })
}

/// The window of a layer.
pub(super) fn window(path: &str, sees: Sees) -> Result<Option<usize>, Unsupported> {
    match sees {
        Sees::All => Ok(None),
        Sees::Window(window) => Ok(Some(window)),
        Sees::Chunk(chunk) => Err(Unsupported {
            word: format!("{path}attention.sees"),
            found: format!("chunks of {chunk}"),
            supported: "all, window",
        }),
    }
}

fn check_attention(path: &str, attention: &AttentionSpec) -> Result<(), Unsupported> {
    let norm = attention.query_key_norm;
    let refused = [
        (
            norm.is_some_and(|norm| norm.after_rotary),
            "attention.query_key_norm.after_rotary",
            "a norm after the rotation",
        ),
        (
            norm.is_some_and(|norm| !norm.scaled),
            "attention.query_key_norm.scaled",
            "a norm without a scale",
        ),
        (
            attention.value_norm.is_some(),
            "attention.value_norm",
            "a norm of values",
        ),
        (
            attention.query_growth.is_some(),
            "attention.query_growth",
            "queries that grow",
        ),
        (
            attention.sinks,
            "attention.sinks",
            "a score more for each head",
        ),
        (
            attention.gate && attention.projections != Projections::Apart,
            "attention.gate",
            "a gate in a matrix of queries, keys and values",
        ),
        (
            attention.values_are_keys,
            "attention.values_are_keys",
            "keys as values",
        ),
        (
            attention.keys_of.is_some(),
            "attention.keys_of",
            "the keys of another layer",
        ),
    ];
    none_of(path, &refused)?;
    window(path, attention.sees)?;
    match &attention.rotary {
        Some(rotary) => rope(path, rotary).map(|_| ()),
        None => Ok(()),
    }
}

/// The frequencies of a layer.
pub(super) fn rope(path: &str, spec: &RotarySpec) -> Result<Rope, Unsupported> {
    none_of(
        path,
        &[(
            spec.proportional,
            "attention.rotary.proportional",
            "frequencies of the whole head",
        )],
    )?;
    Rope::new(spec).ok_or_else(|| Unsupported {
        word: format!("{path}attention.rotary.scaling"),
        found: spec.scaling.name().to_owned(),
        supported: Rope::SCALINGS,
    })
}

fn check_feed_forward(nth: usize, path: &str, half: &FeedForwardSpec) -> Result<(), Unsupported> {
    match half {
        FeedForwardSpec::Mlp(_) => Ok(()),
        FeedForwardSpec::Experts(experts) => none_of(
            path,
            &[(
                experts.router.scaled,
                "feed_forward.router.scaled",
                "a router that scales its input",
            )],
        ),
        FeedForwardSpec::Both { .. } => Err(both(nth)),
    }
}

/// The error of an MLP and experts side by side.
pub(super) fn both(nth: usize) -> Unsupported {
    Unsupported {
        word: format!("layers.{nth}.feed_forward"),
        found: "both".to_owned(),
        supported: "mlp, experts",
    }
}

/// Refuses the first word that is there.
fn none_of(path: &str, words: &[(bool, &str, &str)]) -> Result<(), Unsupported> {
    match words.iter().find(|(there, ..)| *there) {
        None => Ok(()),
        Some((_, word, found)) => Err(Unsupported {
            word: format!("{path}{word}"),
            found: (*found).to_owned(),
            supported: "models without it",
        }),
    }
}
