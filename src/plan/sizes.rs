//! Which fields of `config.json` the shape of a weight comes from.

use crate::model::{Role, Slot};

/// Fields and both numbers where the shape of a tensor is another one than that of its slot, as an error goes on with them:
/// `: `vocab_size` is 500 in config.json and 512 by the tensor`.
pub(super) fn difference(slot: &Slot, found: &[usize]) -> String {
    if found.len() != slot.shape.len() {
        return String::new();
    }
    let axes = slot.shape.iter().zip(found).enumerate();
    let fields = axes.filter(|(_, (wanted, found))| wanted != found);
    let fields = fields.filter_map(|(axis, (wanted, found))| {
        let field = field(slot, axis)?;
        Some(format!(
            "{field} is {wanted} in config.json and {found} by the tensor"
        ))
    });
    let fields = fields.collect::<Vec<_>>().join("; ");
    match fields.is_empty() {
        true => fields,
        false => format!(": {fields}"),
    }
}

/// The field that says how long an axis is, or the product of several.
fn field(slot: &Slot, axis: usize) -> Option<&'static str> {
    const FEATURES: &str = "`hidden_size`";
    const QUERIES: &str = "`num_attention_heads` × `head_dim`";
    let path = slot
        .name
        .strip_suffix(".weight")
        .or_else(|| slot.name.strip_suffix(".bias"));
    let module = path
        .unwrap_or(&slot.name)
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let inner = match slot.role {
        Role::Expert => "`moe_intermediate_size` (`intermediate_size`)",
        _ => "`intermediate_size`",
    };
    // [out, in], and of vectors [out].
    let axes = match (slot.role, module) {
        (_, "wpe") => ["`max_position_embeddings` (`n_positions`)", FEATURES],
        (Role::Embedding | Role::Head, _) => ["`vocab_size`", FEATURES],
        (Role::Router, _) => ["`num_experts` (`num_local_experts`)", FEATURES],
        (_, "q_proj") => [QUERIES, FEATURES],
        (_, "k_proj" | "v_proj") => ["`num_key_value_heads` × `head_dim`", FEATURES],
        (_, "qkv_proj") => [
            "(`num_attention_heads` + 2 × `num_key_value_heads`) × `head_dim`",
            FEATURES,
        ],
        (_, "o_proj") => [FEATURES, QUERIES],
        (_, "gate_proj" | "up_proj" | "w1" | "w3" | "c_fc") => [inner, FEATURES],
        (_, "gate_up_proj") => ["2 × `intermediate_size`", FEATURES],
        (_, "down_proj" | "w2") => [FEATURES, inner],
        (_, "q_norm" | "k_norm") => ["`head_dim`", ""],
        (Role::Norm, _) => [FEATURES, ""],
        _ => return None,
    };
    axes.get(axis).copied()
}
