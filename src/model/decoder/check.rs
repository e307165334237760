//! What a [`Spec`] may ask for today. Everything else is refused by name, before a weight is read.

use super::spec::{AttentionSpec, LayerSpec, MixerSpec, Projections, Spec};
use crate::model::{error::ConfigError, layers::NormOver};

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

/// Refuses a model that the forward pass does not compute all of.
pub(super) fn check(spec: &Spec) -> Result<(), Unsupported> {
    none_of("", &[(spec.head.bias, "head.bias", "a bias")])?;
    for (nth, layer) in spec.layers.iter().enumerate() {
        let path = format!("layers.{nth}.");
        match &layer.mixer {
            MixerSpec::Attention(attention) => {
                check_attention(&path, attention)?;
                check_lender(&path, spec, nth, attention)?;
            }
            MixerSpec::Latent(_) | MixerSpec::Delta(_) => {}
        }
    }
    Ok(())
}

/// A layer uses keys of a layer before it that has its own, with heads of the same kind.
fn check_lender(
    path: &str,
    spec: &Spec,
    nth: usize,
    attention: &AttentionSpec,
) -> Result<(), Unsupported> {
    let Some(of) = attention.keys_of else {
        return Ok(());
    };
    let lender = spec.layers[..nth].get(of).and_then(LayerSpec::attention);
    let heads = |of: &AttentionSpec| (of.key_value_heads, of.head_features);
    let fits = |of: &AttentionSpec| of.keys_of.is_none() && heads(of) == heads(attention);
    match lender.is_some_and(fits) && attention.projections == Projections::Apart {
        true => Ok(()),
        false => Err(Unsupported {
            word: format!("{path}attention.keys_of"),
            found: format!("the keys of layer {of}"),
            supported: "an attention layer before it with its own keys and the same heads",
        }),
    }
}

fn check_attention(path: &str, attention: &AttentionSpec) -> Result<(), Unsupported> {
    let norm = attention.query_key_norm;
    let fused = attention.projections != Projections::Apart;
    let refused = [
        (
            norm.is_some_and(|norm| {
                norm.after_rotary && (norm.scaled || norm.over != NormOver::Head)
            }),
            "attention.query_key_norm.after_rotary",
            "a norm after the rotation, of more than a head or with a scale",
        ),
        (
            norm.is_some_and(|norm| !norm.scaled && !norm.after_rotary),
            "attention.query_key_norm.scaled",
            "a norm before the rotation without a scale",
        ),
        (
            attention.gate && fused,
            "attention.gate",
            "a gate in a matrix of queries, keys and values",
        ),
        (
            attention.values_are_keys && fused,
            "attention.values_are_keys",
            "keys as values in a matrix of queries, keys and values",
        ),
    ];
    none_of(path, &refused)
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
