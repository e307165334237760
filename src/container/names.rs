//! The names of tensors.

use super::{ContainerError, family::GgufFamily};
use crate::model::decoder::{Part, Spec};

/// The parts of a decoder and their names in files: in `blk.N.`, or alone.
static COLUMN: [(Part, &str); 16] = [
    (Part::Embedding, "token_embd"),
    (Part::Norm, "output_norm"),
    (Part::Head, "output"),
    (Part::AttentionNorm, "attn_norm"),
    (Part::Q, "attn_q"),
    (Part::K, "attn_k"),
    (Part::V, "attn_v"),
    (Part::QNorm, "attn_q_norm"),
    (Part::KNorm, "attn_k_norm"),
    (Part::O, "attn_output"),
    (Part::AttentionNormAfter, "post_attention_norm"),
    (Part::MlpNorm, "ffn_norm"),
    (Part::MlpNormAfter, "post_ffw_norm"),
    (Part::Gate, "ffn_gate"),
    (Part::Up, "ffn_up"),
    (Part::Down, "ffn_down"),
];

/// The name in transformers, and the part.
pub(super) fn named(
    file: &str,
    tensor: &str,
    family: &GgufFamily,
    spec: &Spec,
) -> Result<(String, Part), ContainerError> {
    let found = || {
        let (path, end) = tensor.rsplit_once('.')?;
        let (layer, name) = match path.strip_prefix("blk.") {
            Some(rest) => {
                let (layer, name) = rest.split_once('.')?;
                (Some(layer.parse().ok()?), name)
            }
            None => (None, path),
        };
        let alone = [Part::Embedding, Part::Norm, Part::Head];
        let (part, _) = COLUMN
            .iter()
            .find(|(part, known)| *known == name && alone.contains(part) == layer.is_none())?;
        let ends = ["weight", "bias"].contains(&end);
        ends.then(|| (format!("{}.{end}", spec.path(layer, *part)), *part))
    };
    found().ok_or_else(|| ContainerError::UnknownTensor {
        file: file.to_owned(),
        tensor: tensor.to_owned(),
        architecture: family.name,
    })
}
