//! The role that the name and the shape of a tensor suggest, where no architecture says it.

use crate::model::Role;

/// Parts of paths that name tables of rows.
const EMBEDDINGS: [&str; 6] = [
    "embed",
    "wte",
    "wpe",
    "shared",
    "relative_attention_bias",
    "codebook",
];
/// The last modules of paths, outside of layers, that make logits or labels.
const HEADS: [&str; 8] = [
    "lm_head",
    "embed_out",
    "output",
    "classifier",
    "score",
    "qa_outputs",
    "decoder",
    "head",
];
/// The last modules of paths that choose experts.
const ROUTERS: [&str; 4] = ["gate", "router", "shared_expert_gate", "wg"];

/// The role that the name and the shape of a tensor suggest.
pub(super) fn guess(name: &str, shape: &[usize]) -> Role {
    // A tensor of no module at all is what its shape says.
    let path = name.strip_suffix(".weight");
    let path = path.or((!name.contains('.')).then_some(name));
    let segments: Vec<&str> = path.unwrap_or(name).split('.').collect();
    let has = |words: &[&str]| {
        let mut segments = segments.iter();
        segments.any(|segment| words.iter().any(|word| segment.contains(word)))
    };
    let last = segments.last().copied().unwrap_or_default();
    let mut numbers = segments.iter();
    let in_layer = numbers.any(|segment| segment.parse::<usize>().is_ok());
    match (shape.len(), path) {
        // Nothing is in it.
        _ if shape.contains(&0) => Role::Other,
        (3, _) if has(&["expert"]) => Role::Expert,
        (2, Some(_)) if !in_layer && HEADS.contains(&last) => Role::Head,
        (2, Some(_)) if EMBEDDINGS.iter().any(|word| last.contains(word)) => Role::Embedding,
        (2, Some(_)) if ROUTERS.contains(&last) || has(&["router"]) => Role::Router,
        (2, Some(_)) if has(&["norm"]) => Role::Other,
        (2, Some(_)) => Role::Linear,
        (1, _) if has(&["norm", "ln_", "layernorm"]) => Role::Norm,
        (1, _) if name.ends_with(".bias") => Role::Bias,
        _ => Role::Other,
    }
}
