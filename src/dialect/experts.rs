//! The names of experts that mlx-lm stacks, and of its stacks.
//!
//! ```text
//! model.layers.0.mlp.experts.7.gate_proj.weight            [out, in]
//! model.layers.0.mlp.switch_mlp.gate_proj.weight           [experts, out, in]
//! model.layers.0.mlp.experts.gate_proj.weight              the same, of gpt-oss and Llama 4
//! model.layers.0.experts.switch_glu.gate_proj.weight       the same, of Gemma 4
//! ```

/// The modules of stacks.
const SWITCHES: [&str; 3] = ["switch_mlp", "experts", "experts.switch_glu"];

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

/// The stack of a weight or of biases of an expert in the module `switch`, and the number of the expert.
pub(crate) fn stack_in(switch: &str, tensor: &str) -> Option<(String, usize)> {
    let (path, rest) = tensor.split_once(".experts.")?;
    let (nth, rest) = rest.split_once('.')?;
    let (matrix, end) = rest.split_once('.')?;
    let nth = nth.parse().ok()?;
    let (_, stacked) = MATRICES.iter().find(|(each, _)| *each == matrix)?;
    Some((format!("{path}.{switch}.{stacked}.{end}"), nth))
}

/// Every stack that may have a weight or the biases of an expert, and the number of the expert.
pub(crate) fn stacks_of(tensor: &str) -> impl Iterator<Item = (String, usize)> {
    let switches = SWITCHES.into_iter();
    switches.filter_map(|switch| stack_in(switch, tensor))
}
