//! The names of experts that mlx-lm stacks, and of its stacks.
//!
//! ```text
//! model.layers.0.mlp.experts.7.gate_proj.weight            [out, in]
//! model.layers.0.mlp.switch_mlp.gate_proj.weight           [experts, out, in]
//! ```

/// A matrix of an expert, and of the stack.
const MATRICES: [(&str, &str); 6] = [
    ("gate_proj", "gate_proj"),
    ("up_proj", "up_proj"),
    ("down_proj", "down_proj"),
    // Mixtral.
    ("w1", "gate_proj"),
    ("w3", "up_proj"),
    ("w2", "down_proj"),
];

/// The stack of an expert's weight, and the number of the expert.
pub(crate) fn switch_mlp(weight: &str) -> Option<(String, usize)> {
    let (path, rest) = weight.split_once(".experts.")?;
    let (nth, matrix) = rest.strip_suffix(".weight")?.split_once('.')?;
    let nth = nth.parse().ok()?;
    let (_, stacked) = MATRICES.iter().find(|(each, _)| *each == matrix)?;
    Some((format!("{path}.switch_mlp.{stacked}.weight"), nth))
}

/// The weight of a stack that has the name of an expert without the number, as mlx-lm has it for gpt-oss, and the number.
pub(crate) fn without_number(weight: &str) -> Option<(String, usize)> {
    let (path, rest) = weight.split_once(".experts.")?;
    let (nth, rest) = rest.split_once('.')?;
    Some((format!("{path}.experts.{rest}"), nth.parse().ok()?))
}
