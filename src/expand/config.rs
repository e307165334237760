//! `config.json` of an expanded model.
//!
//! Every field that counts or lists layers is rewritten, and the result is read again: each layer has to be what the layer
//! that it comes from was. Where a rule by number cannot say that (every fourth layer), lists say it; where nothing
//! can, the model is refused by name.

use serde_json::{Map, Value, json};

use super::{ExpandError, Expansion, declared::Renumber};
use crate::{
    config::NEW_BLOCKS,
    dialect::DECLARED,
    model::{
        Architecture, CausalLm,
        decoder::{LayerSpec, MixerSpec, NormPlaces, Sees, Spec},
        wrappers,
    },
};

/// Fields that count the layers.
const COUNTS: [&str; 2] = ["num_hidden_layers", "n_layer"];

/// Lists with an entry for each layer.
const BY_LAYER: [&str; 4] = [
    "layer_types",
    "no_rope_layers",
    "mlp_layer_types",
    "layers_block_type",
];

/// Lists of numbers of layers.
const NUMBERS: [&str; 2] = ["mlp_only_layers", "moe_layers"];

/// Numbers of the first layer of a kind.
const FIRST: [&str; 2] = ["first_k_dense_replace", "max_window_layers"];

/// Objects with an entry for some layers.
const BY_NUMBER: [&str; 1] = ["per_layer_config"];

/// How many of the last layers share the keys of others.
const SHARED_KEYS: &str = "num_kv_shared_layers";

/// The new blocks that a `config.json` lists, none where it lists none.
///
/// # Errors
///
/// [`ExpandError::NewBlocks`] for a list that cannot be.
pub fn new_blocks(config: &Value) -> Result<Vec<usize>, ExpandError> {
    let Some(listed) = config.get(NEW_BLOCKS).filter(|listed| !listed.is_null()) else {
        return Ok(Vec::new());
    };
    let layers = CausalLm::config(config)?.layers.len();
    let numbers = listed.as_array().and_then(|listed| {
        let numbers = listed.iter().map(Value::as_u64);
        numbers
            .map(|number| usize::try_from(number?).ok())
            .collect()
    });
    let rising = |numbers: &Vec<usize>| {
        let pairs = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        pairs && numbers.last().is_none_or(|last| *last < layers)
    };
    numbers
        .filter(rising)
        .ok_or_else(|| ExpandError::NewBlocks {
            field: NEW_BLOCKS,
            found: listed.to_string().chars().take(60).collect(),
            layers,
        })
}

/// `config` of the expanded model; `old` is what it says before.
pub(super) fn expanded(
    config: &Value,
    old: &Spec,
    expansion: Expansion,
) -> Result<Value, ExpandError> {
    refuse(old)?;
    let mut config = config.clone();
    let renumber = Renumber {
        expansion,
        layers: old.names.layers,
    };
    for field in DECLARED {
        if let Some(declaration) = config.get_mut(field) {
            *declaration = renumber.declaration(declaration)?;
        }
    }
    number(text(&mut config), expansion);
    let expected = layers(old, expansion);
    for fields in lists(&expected) {
        let before = distance(&config, &expected);
        if before == 0 {
            break;
        }
        let mut listed = config.clone();
        text(&mut listed).extend(fields);
        if distance(&listed, &expected) < before {
            config = listed;
        }
    }
    let spec = CausalLm::config(&config)?;
    if let Some((field, reason)) = difference(&spec, &expected) {
        return Err(ExpandError::Field { field, reason });
    }
    mark(&mut config, expansion);
    Ok(config)
}

/// Lists the new blocks.
pub(super) fn mark(config: &mut Value, expansion: Expansion) {
    config[NEW_BLOCKS] = expansion.new_blocks().into();
}

/// Refuses models whose copies would not begin as nothing.
fn refuse(old: &Spec) -> Result<(), ExpandError> {
    let refused = |field: &str, reason: &str| {
        Err(ExpandError::Field {
            field: field.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if old.embedding.per_layer.is_some() {
        return refused(
            "hidden_size_per_layer_input",
            "gives each layer columns of one table, and a copy would need columns that are not there",
        );
    }
    let mut layers = old.layers.iter();
    let adds = |layer: &LayerSpec| {
        let after = matches!(layer.norms, NormPlaces::After | NormPlaces::Around);
        after && layer.norm.bias
    };
    match layers.any(adds) {
        true => refused(
            "norm.bias",
            "is added after each half of a layer, so that a copy would change the answers",
        ),
        false => Ok(()),
    }
}

/// The fields of the text model.
fn text(config: &mut Value) -> &mut Map<String, Value> {
    let family = config["model_type"].as_str();
    let inside = family.is_some_and(|family| wrappers().any(|known| known.model_type == family));
    let fields = match inside {
        true => &mut config["text_config"],
        false => config,
    };
    fields
        .as_object_mut()
        .expect("a configuration that was read is an object")
}

/// Gives every field that counts or lists layers its new value.
fn number(fields: &mut Map<String, Value>, expansion: Expansion) {
    let is_there = |field: &str| Some(&Value::Null) != fields.get(field);
    let shared = is_there(SHARED_KEYS).then_some(SHARED_KEYS);
    if let Some(count) = shared.and_then(|field| fields.get_mut(field))
        && let Some(old) = index(count).filter(|old| *old <= expansion.layers())
    {
        *count = (expansion.all() - expansion.place(expansion.layers() - old)).into();
    }
    for field in COUNTS {
        if let Some(count) = fields.get_mut(field).filter(|count| !count.is_null()) {
            *count = expansion.all().into();
        }
    }
    for field in FIRST {
        if let Some(first) = fields.get_mut(field)
            && let Some(old) = index(first)
        {
            *first = expansion.place(old).into();
        }
    }
    for field in BY_LAYER {
        if let Some(Value::Array(entries)) = fields.get_mut(field)
            && entries.len() >= expansion.layers()
        {
            let layers = expansion.origins().map(|old| entries[old].clone());
            let further = entries[expansion.layers()..].iter().cloned();
            *entries = layers.chain(further).collect();
        }
    }
    for field in NUMBERS {
        if let Some(Value::Array(entries)) = fields.get_mut(field) {
            let places = entries.iter().map(index);
            let places: Option<Vec<usize>> = places.collect();
            if let Some(old) = places {
                let new = old.into_iter().flat_map(|old| expansion.places(old));
                *entries = new.map(Value::from).collect();
            }
        }
    }
    for field in BY_NUMBER {
        if let Some(Value::Object(entries)) = fields.get_mut(field) {
            let old = core::mem::take(entries);
            for (number, entry) in old {
                match number.parse() {
                    Ok(old) => entries.extend(
                        expansion
                            .places(old)
                            .map(|new| (new.to_string(), entry.clone())),
                    ),
                    Err(_) => {
                        entries.insert(number, entry);
                    }
                }
            }
        }
    }
}

fn index(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|index| usize::try_from(index).ok())
}

/// The layers that the expanded model has to have.
fn layers(old: &Spec, expansion: Expansion) -> Vec<LayerSpec> {
    let layers = expansion.origins().map(|of| {
        let mut layer = old.layers[of].clone();
        if let MixerSpec::Attention(attention) = &mut layer.mixer {
            attention.keys_of = attention.keys_of.map(|lender| expansion.place(lender));
        }
        layer
    });
    layers.collect()
}

/// Fields that list for each layer what rules by number say of some models.
fn lists(layers: &[LayerSpec]) -> [Vec<(String, Value)>; 5] {
    let list = |field: &str, value: Value| (field.to_owned(), value);
    let has_experts = |layer: &LayerSpec| layer.experts().is_some();
    let numbers = |experts: bool| -> Value {
        let layers = layers.iter().enumerate();
        let of_kind = layers.filter(|(_, layer)| has_experts(layer) == experts);
        of_kind.map(|(nth, _)| nth).collect()
    };
    let turns = |layer: &LayerSpec| u8::from(layer.rotary().is_some());
    let dense = layers.iter().take_while(|layer| !has_experts(layer));
    [
        vec![list("layer_types", layers.iter().map(kind).collect())],
        vec![list("no_rope_layers", layers.iter().map(turns).collect())],
        vec![
            list("decoder_sparse_step", json!(1)),
            list("mlp_only_layers", numbers(false)),
        ],
        vec![list("moe_layers", numbers(true))],
        vec![list("first_k_dense_replace", json!(dense.count()))],
    ]
}

/// The word for a layer in `layer_types`.
fn kind(layer: &LayerSpec) -> &'static str {
    match &layer.mixer {
        MixerSpec::Delta(_) => "linear_attention",
        MixerSpec::Latent(_) => "full_attention",
        MixerSpec::Attention(attention) => match attention.sees {
            Sees::All => "full_attention",
            Sees::Window(_) => "sliding_attention",
            Sees::Chunk(_) => "chunked_attention",
        },
    }
}

/// The distance between the layers that a configuration describes and the `expected` ones.
fn distance(config: &Value, expected: &[LayerSpec]) -> usize {
    let Ok(Spec { layers, .. }) = CausalLm::config(config) else {
        return usize::MAX;
    };
    if layers.len() != expected.len() {
        return usize::MAX;
    }
    let of_layer = |(layer, expected): (&LayerSpec, &LayerSpec)| {
        let differs = [
            layer != expected,
            kind(layer) != kind(expected),
            layer.rotary() != expected.rotary(),
            layer.experts().is_some() != expected.experts().is_some(),
        ];
        differs.into_iter().filter(|differs| *differs).count()
    };
    layers.iter().zip(expected).map(of_layer).sum()
}

/// The first word in which a layer is not what it should be, and a sentence about it.
fn difference(spec: &Spec, expected: &[LayerSpec]) -> Option<(String, String)> {
    if spec.layers.len() != expected.len() {
        let (found, expected) = (spec.layers.len(), expected.len());
        let reason = format!("makes {found} layers, not {expected}");
        return Some(("num_hidden_layers".to_owned(), reason));
    }
    let mut layers = spec.layers.iter().zip(expected).enumerate();
    let (nth, (found, expected)) = layers.find(|(_, (layer, expected))| layer != expected)?;
    let (word, [found, expected]) = word(String::new(), &json!(found), &json!(expected))?;
    let reason = format!(
        "would be {found} in layer {nth} and not {expected}: config.json has no words for that"
    );
    Some((format!("layers.{nth}{word}"), reason))
}

/// The first difference between two values: the way to it, and both sides.
fn word(path: String, found: &Value, expected: &Value) -> Option<(String, [String; 2])> {
    if found == expected {
        return None;
    }
    if let (Value::Object(found), Value::Object(expected)) = (found, expected) {
        let null = &Value::Null;
        let mut fields = expected.iter().map(|(field, expected)| {
            let found = found.get(field).unwrap_or(null);
            word(format!("{path}.{field}"), found, expected)
        });
        if let Some(inner) = fields.find_map(|inner| inner) {
            return Some(inner);
        }
    }
    Some((path, [found.to_string(), expected.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layers: usize, other: Value) -> Value {
        let mut config = json!({
            "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6, "hidden_act": "silu", "sliding_window": 8,
        });
        let Value::Object(other) = other else {
            panic!("an object")
        };
        config.as_object_mut().expect("an object").extend(other);
        config
    }

    fn expand(config: &Value, blocks: usize) -> Result<Value, ExpandError> {
        let old = CausalLm::config(config)?;
        let expansion = Expansion::new(old.layers.len(), blocks)?;
        expanded(config, &old, expansion)
    }

    /// Every fourth layer of Gemma 3's six sees everything here. With copies after every second layer, layers 3 and 8 of the nine
    /// are the ones that did (4 of 6 is layer 5 of 9 …): no pattern says that, a list does.
    #[test]
    fn patterns_by_number_become_lists() {
        let gemma = config(
            6,
            json!({ "model_type": "gemma3_text", "sliding_window_pattern": 4, "query_pre_attn_scalar": 8 }),
        );
        let expanded = expand(&gemma, 3).expect("a list says it");
        let (full, near) = ("full_attention", "sliding_attention");
        // Layers 0 1 1' 2 3 3' 4 5 5', of which 3 sees everything.
        assert_eq!(
            expanded["layer_types"],
            json!([near, near, near, near, full, full, near, near, near])
        );
        assert_eq!(expanded["num_hidden_layers"], 9);
        assert_eq!(expanded[NEW_BLOCKS], json!([2, 5, 8]));
    }

    /// Experts in every second layer, and a list of layers without: a list of those without remains.
    #[test]
    fn experts_by_number_become_lists() {
        let qwen = config(
            4,
            json!({
                "model_type": "qwen3_moe", "decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts": 2,
                "num_experts_per_tok": 1, "moe_intermediate_size": 8,
            }),
        );
        let expanded = expand(&qwen, 2).expect("a list says it");
        // Layers 0 1 1' 2 3 3', of which 1 has experts.
        assert_eq!(expanded["mlp_only_layers"], json!([0, 3, 4, 5]));
        assert_eq!(expanded["decoder_sparse_step"], 1);
    }

    /// The last layers share the keys of the last one before of their kind; its copy would take its place.
    #[test]
    fn shared_keys_of_a_copied_layer_are_refused() {
        let gemma = config(
            4,
            json!({
                "model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 2,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            }),
        );
        let error = expand(&gemma, 2).expect_err("layer 1 lends its keys and is copied");
        let ExpandError::Field { field, .. } = &error else {
            panic!("{error}")
        };
        assert!(field.ends_with("keys_of"), "{error}");
    }

    #[test]
    fn lists_of_new_blocks_are_checked() {
        let mut llama = config(4, json!({ "model_type": "llama" }));
        assert_eq!(new_blocks(&llama).expect("none"), [0; 0]);
        llama[NEW_BLOCKS] = json!([1, 3]);
        assert_eq!(new_blocks(&llama).expect("two"), [1, 3]);
        for wrong in [json!([1, 4]), json!([3, 1]), json!("all"), json!([-1])] {
            llama[NEW_BLOCKS] = wrong.clone();
            let error = new_blocks(&llama).expect_err("a wrong list");
            assert!(error.to_string().contains(&wrong.to_string()), "{error}");
        }
    }
}
