//! How files have the matrices of all experts in one tensor.

/// How the files of a model have the matrices of all experts in one tensor.
///
/// ```text
/// P.experts.gate_up_proj              [experts, 2 · inner, features], or [experts, features, 2 · inner]   dense files
/// P.experts.{e}.gate_proj.weight      [inner, features]                                                 packed files
/// P.SWITCH.gate_proj.weight           [experts, inner, features]                                        mlx-lm
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stacks {
    /// Whether dense files have each matrix as `[in, out]`.
    pub transposed: bool,
    /// Whether the rows of gates and ups are in turn (gpt-oss); elsewhere the gates come first.
    pub interleaved: bool,
    /// The module that mlx-lm has its stacks in.
    pub switch: &'static str,
}

/// The module of most families.
pub(crate) const SWITCH: &str = "switch_mlp";
