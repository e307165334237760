//! What has to be the same when a run continues, or its steps would be others.

use serde_json::{Value, json};

use super::config::FinetuneConfig;

/// Settings that change no number of a run, or are told otherwise: the base by its own identity, the data by its bytes, the length
/// and the steps by what they became.
const FREE: [&str; 9] = [
    "out",
    "keep",
    "checkpoint-every",
    "data",
    "eval",
    "quant",
    "length",
    "steps",
    "epochs",
];

/// Of a run of `steps` steps over rows of `length` tokens on so many `ranks`. `data` and `eval` are fingerprints of their bytes.
pub(super) fn identity(
    config: &FinetuneConfig,
    [steps, length]: [u64; 2],
    ranks: usize,
    base: Value,
    data: u64,
    eval: Option<u64>,
) -> Value {
    let settings = serde_json::to_value(config).expect("plain data is JSON");
    let settings = settings.as_object().into_iter().flatten();
    // As texts: a number that is read again may be another in its last bit.
    let settings: serde_json::Map<String, Value> = settings
        .filter(|(name, _)| !FREE.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.to_string().into()))
        .collect();
    let mut identity = json!({
        "settings": settings,
        "steps": steps,
        "length": length,
        "data": format!("{data:016x}"),
        "eval": eval.map(|eval| format!("{eval:016x}")),
        "base": base,
    });
    if ranks > 1 {
        identity["ranks"] = ranks.into();
    }
    identity
}
