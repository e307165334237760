//! Gemma 4: full layers have other heads and turn a part of them; the last layers may use keys of earlier ones; small
//! embeddings for each layer, or experts beside each MLP.

use super::{
    common::{self, Defaults},
    family::Family,
    gemma2, gemma3,
    rotary::{RotaryDefaults, rotary},
};
use crate::model::{
    decoder::{
        AttentionSpec, ExpertStorage, ExpertsSpec, FeedForwardSpec, Gate, LLAMA, MlpSpec, Names,
        NormPlaces, Part, PerLayerSpec, QueryKeyNormSpec, Sees, Spec,
    },
    error::ConfigError,
    fields::Fields,
    layers::{Activation, NormOver, NormSpec, RotarySpec, RouterScore, RouterSpec},
};

pub(super) static FAMILY: Family =
    Family::new("gemma4_text", read).verified(&["gemma4_moe_bf16", "gemma4_ple_bf16"]);

const DEFAULTS: Defaults = Defaults {
    vocabulary: Some(262_144),
    rotary: NEAR,
    ..gemma3::DEFAULTS
};

/// Of layers with a window.
const NEAR: RotaryDefaults = RotaryDefaults {
    kind: Some("sliding_attention"),
    scaled: false,
    ..RotaryDefaults::LLAMA
};

/// Of the others.
const FULL: RotaryDefaults = RotaryDefaults {
    kind: Some("full_attention"),
    ..NEAR
};

static NAMES: Names = Names {
    name: "gemma4",
    other: &[
        (Part::MlpNorm, "pre_feedforward_layernorm"),
        (Part::Router, "router.proj"),
        (Part::ExpertGate, "experts.{}.gate_proj"),
        (Part::ExpertUp, "experts.{}.up_proj"),
        (Part::ExpertGateUp, "experts.{}.gate_up_proj"),
        (Part::ExpertDown, "experts.{}.down_proj"),
    ],
    switch: "experts.switch_glu",
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    if let Some("all") = fields.text("use_bidirectional_attention")? {
        let supported = "vision, null: a text is read forwards";
        return Err(fields.unsupported("use_bidirectional_attention", "all", supported));
    }
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    let norm = NormSpec {
        rounds_first: false,
        ..spec.norm
    };
    spec.names = &NAMES;
    spec.norm = norm;
    spec.embedding.multiplier = Some((spec.features as f64).sqrt());
    spec.embedding.per_layer = per_layer(fields, &spec)?;
    spec.head.soft_cap = gemma2::soft_cap(fields, "final_logit_softcapping", None)?;
    for layer in &mut spec.layers {
        layer.norm = norm;
        layer.norms = NormPlaces::Around;
        layer.scalar = true;
    }
    common::attention_biases(fields, &mut spec)?;
    for (_, attention) in spec.attentions_mut() {
        attention.scale = 1.0;
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::Head));
        attention.value_norm = Some(norm);
    }
    layers_of_kinds(fields, &mut spec)?;
    shared_keys(fields, &mut spec)?;
    if common::flag(fields, "enable_moe_block")? {
        experts_beside(fields, &mut spec)?;
    }
    Ok(spec)
}

/// The small embeddings of layers; none where they have no features.
fn per_layer(fields: Fields<'_>, spec: &Spec) -> Result<Option<PerLayerSpec>, ConfigError> {
    let features = fields.index("hidden_size_per_layer_input")?.unwrap_or(256);
    if features == 0 {
        return Ok(None);
    }
    let field = "vocab_size_per_layer_input";
    let vocabulary = fields.count(field)?.unwrap_or(262_144);
    if vocabulary < spec.vocabulary {
        let expected = format!("at least the {} of `vocab_size`", spec.vocabulary);
        return Err(fields.value(field, vocabulary, expected));
    }
    let activation = common::activation(fields, "hidden_activation", Activation::GeluTanh)?;
    Ok(Some(PerLayerSpec {
        vocabulary,
        features,
        activation,
    }))
}

/// Windows, heads and rotations of the layers with a window and of the full ones.
fn layers_of_kinds(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let (layers, positions) = (spec.layers.len(), spec.positions);
    let window = Sees::Window(fields.count("sliding_window")?.unwrap_or(512));
    common::windows(fields, spec, window, |layer| (layer + 1) % 6 != 0)?;
    let values_are_keys = common::flag(fields, "attention_k_eq_v")?;
    of_layers(fields, layers)?;
    for (nth, attention) in spec.attentions_mut() {
        // The last layer is a full one, whatever the list says.
        if nth + 1 == layers {
            attention.sees = Sees::All;
        }
        heads(fields, nth, attention)?;
        let full = attention.sees == Sees::All;
        attention.values_are_keys = full && values_are_keys;
        attention.rotary = Some(match full {
            true => full_rotary(fields, attention.head_features, positions)?,
            false => rotary(fields, attention.head_features, positions, &NEAR)?,
        });
    }
    Ok(())
}

/// Features and number of the key heads of a layer, where they are not those of the model. transformers writes them by
/// layer, the hub has them for all full ones.
fn heads(fields: Fields<'_>, nth: usize, attention: &mut AttentionSpec) -> Result<(), ConfigError> {
    let (place, [features, key_heads]) = match fields.inside("per_layer_config")? {
        Some(layers) => match of_layer(layers, nth)? {
            Some(layer) => (layer, ["head_dim", "num_key_value_heads"]),
            None => return Ok(()),
        },
        None if attention.sees == Sees::All => {
            attention.head_features = 512;
            // Where values are not keys, the number is there and not used.
            let count = match common::flag(fields, "attention_k_eq_v")? {
                true => "num_global_key_value_heads",
                false => "num_key_value_heads",
            };
            (fields, ["global_head_dim", count])
        }
        None => return Ok(()),
    };
    if let Some(features) = place.count(features)? {
        attention.head_features = features;
    }
    common::turned(place, features, attention.head_features)?;
    if let Some(count) = place.count(key_heads)? {
        attention.key_value_heads = count;
    }
    if !attention.heads.is_multiple_of(attention.key_value_heads) {
        let expected = format!("a divisor of the {} query heads", attention.heads);
        return Err(place.value(key_heads, attention.key_value_heads, expected));
    }
    Ok(())
}

/// Refuses a `per_layer_config` that says something of more layers than there are: it is searched for each of them.
fn of_layers(fields: Fields<'_>, layers: usize) -> Result<(), ConfigError> {
    const FIELD: &str = "per_layer_config";
    let listed = fields.inside(FIELD)?;
    let listed = listed.map_or(0, |listed| listed.entries().count());
    match listed > layers {
        true => Err(fields.value(
            FIELD,
            format!("about {listed} layers"),
            format!("about at most {layers}, which `num_hidden_layers` says"),
        )),
        false => Ok(()),
    }
}

/// What `per_layer_config` says of a layer. Its numbers may have zeros before them.
fn of_layer(layers: Fields<'_>, nth: usize) -> Result<Option<Fields<'_>>, ConfigError> {
    let mut numbers = layers.entries().map(|(number, _)| number);
    let number = numbers.find(|number| number.parse() == Ok(nth));
    let Some(layer) = number
        .map(|number| layers.inside(number))
        .transpose()?
        .flatten()
    else {
        return Ok(None);
    };
    let known = ["head_dim", "num_key_value_heads"];
    match layer.entries().find(|(field, _)| !known.contains(field)) {
        Some((other, value)) => Err(layer.unsupported(other, value, known.join(", "))),
        None => Ok(Some(layer)),
    }
}

/// The rotation of full layers; a quarter of a head, if the file does not say.
fn full_rotary(
    fields: Fields<'_>,
    features: usize,
    positions: usize,
) -> Result<RotarySpec, ConfigError> {
    match fields.get("rope_parameters") {
        Some(_) => rotary(fields, features, positions, &FULL),
        None => Ok(RotarySpec {
            still: features / 2 - features / 8,
            ..RotarySpec::new(features, 1_000_000.0)
        }),
    }
}

/// The last layers use the keys of the last layer of their kind before them; their MLPs may be twice as wide.
fn shared_keys(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let field = "num_kv_shared_layers";
    let (shared, layers) = (fields.index(field)?.unwrap_or(0), spec.layers.len());
    let first = layers.checked_sub(shared);
    let first = first.ok_or_else(|| {
        fields.value(
            field,
            shared,
            format!("at most the {layers} of `num_hidden_layers`"),
        )
    })?;
    let kinds: Vec<bool> = spec
        .attentions_mut()
        .map(|(_, layer)| layer.sees == Sees::All)
        .collect();
    for (nth, attention) in spec.attentions_mut().skip(first) {
        let lender = kinds[..first].iter().rposition(|kind| *kind == kinds[nth]);
        let lender = lender.ok_or_else(|| {
            let expected = "a layer of each kind among those before, to use the keys of";
            fields.value(field, shared, expected)
        })?;
        attention.keys_of = Some(lender);
    }
    if common::flag(fields, "use_double_wide_mlp")? {
        spec.mlps_mut()
            .skip(first)
            .for_each(|mlp| mlp.features *= 2);
    }
    Ok(())
}

/// Experts beside the MLP of every layer.
fn experts_beside(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let count = common::required(fields, "num_experts")?;
    let chosen = common::required(fields, "top_k_experts")?;
    if chosen > count {
        let expected = format!("at most the {count} of `num_experts`");
        return Err(fields.value("top_k_experts", chosen, expected));
    }
    let features = common::required(fields, "moe_intermediate_size")?;
    for layer in &mut spec.layers {
        let FeedForwardSpec::Mlp(mlp) = &layer.feed_forward else {
            continue;
        };
        let experts = ExpertsSpec {
            count,
            chosen,
            each: MlpSpec {
                features,
                gate: Gate::Fused,
                ..mlp.clone()
            },
            stored: ExpertStorage::Stacked,
            router: RouterSpec {
                scaled: true,
                ..RouterSpec::new(RouterScore::Softmax, true)
            },
            shared: None,
        };
        layer.feed_forward = FeedForwardSpec::Both {
            mlp: mlp.clone(),
            experts,
        };
    }
    Ok(())
}
