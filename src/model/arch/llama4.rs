//! Llama 4, its text model: heads turn and see their chunk on most layers; on the others they see everything, and queries
//! grow with their position. Experts on some layers, beside an MLP for every token.

use super::{
    common::{self, Defaults},
    experts,
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{
        ExpertStorage, Gate, LLAMA, Names, Part, QueryGrowth, QueryKeyNormSpec, Sees,
        SharedExpertSpec, Spec,
    },
    error::ConfigError,
    fields::Fields,
    layers::{NormOver, Pairs, RouterScore, RouterSpec},
};

pub(super) static FAMILY: Family = Family::new("llama4_text", read).verified(&["llama4_bf16"]);

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(8),
    head_features: Some(128),
    norm_eps: 1e-5,
    rotary: RotaryDefaults {
        theta: 500_000.0,
        pairs: Pairs::Interleaved,
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

static NAMES: Names = Names {
    name: "llama4",
    other: &[
        (Part::Gate, "feed_forward.gate_proj"),
        (Part::Up, "feed_forward.up_proj"),
        (Part::Down, "feed_forward.down_proj"),
        (Part::Router, "feed_forward.router"),
        (Part::ExpertGate, "feed_forward.experts.{}.gate_proj"),
        (Part::ExpertUp, "feed_forward.experts.{}.up_proj"),
        (Part::ExpertGateUp, "feed_forward.experts.{}.gate_up_proj"),
        (Part::ExpertDown, "feed_forward.experts.{}.down_proj"),
        (Part::SharedGate, "feed_forward.shared_expert.gate_proj"),
        (Part::SharedUp, "feed_forward.shared_expert.up_proj"),
        (Part::SharedDown, "feed_forward.shared_expert.down_proj"),
    ],
    switch: "experts",
    ..LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    common::attention_biases(fields, &mut spec)?;
    attention(fields, &mut spec)?;
    let dense = fields.count("intermediate_size_mlp")?.unwrap_or(16384);
    for mlp in spec.mlps_mut() {
        mlp.features = dense;
    }

    let router = RouterSpec {
        scores_input: true,
        ..RouterSpec::new(RouterScore::Sigmoid, false)
    };
    let counts = experts::counts(fields, &["num_local_experts"], [16, 1])?;
    let features = common::required(fields, "intermediate_size")?;
    let mut sparse = experts::each(&spec, features, counts, router);
    sparse.shared = Some(SharedExpertSpec {
        mlp: sparse.each.clone(),
        gated: false,
    });
    sparse.stored = ExpertStorage::StackedTransposed;
    sparse.each.gate = Gate::Fused;
    let step = fields.count("interleave_moe_layer_step")?.unwrap_or(1);
    let listed = fields.indices("moe_layers")?;
    experts::put(&mut spec, &sparse, |nth| match &listed {
        Some(listed) => listed.contains(&nth),
        None => (nth + 1) % step == 0,
    });
    spec.names = &NAMES;
    Ok(spec)
}

/// Which layers turn, and which tokens they see.
fn attention(fields: Fields<'_>, spec: &mut Spec) -> Result<(), ConfigError> {
    let turns = common::turning_layers(fields, spec.layers.len())?;
    let types = common::layer_types(fields, spec.layers.len())?;
    let chunk = match fields.names("attention_chunk_size") {
        true => common::required(fields, "attention_chunk_size")?,
        false => 8192,
    };
    let norm = fields
        .flag_or("use_qk_norm", true)?
        .then_some(QueryKeyNormSpec {
            after_rotary: true,
            scaled: false,
            ..QueryKeyNormSpec::new(spec.norm, NormOver::Head)
        });
    let growth = growth(fields)?;
    for (layer, attention) in spec.attentions_mut() {
        let chunked = match types.as_ref().map(|types| types[layer]) {
            None => turns[layer],
            Some("chunked_attention") => true,
            Some("full_attention") => false,
            Some(other) => {
                let supported = "chunked_attention, full_attention";
                return Err(fields.unsupported("layer_types", other, supported));
            }
        };
        if chunked {
            attention.sees = Sees::Chunk(chunk);
        }
        match turns[layer] {
            true => attention.query_key_norm = norm,
            false => {
                attention.rotary = None;
                attention.query_growth = growth;
            }
        }
    }
    Ok(())
}

/// How queries grow on layers that do not turn. Files have a number or a flag in `attn_temperature_tuning`.
fn growth(fields: Fields<'_>) -> Result<Option<QueryGrowth>, ConfigError> {
    let tuning = fields.get("attn_temperature_tuning");
    let off = tuning.is_some_and(|tuning| tuning == false || tuning == 0);
    Ok((!off).then_some(QueryGrowth {
        factor: fields.positive("attn_scale")?.unwrap_or(0.1),
        positions: fields.count("floor_scale")?.unwrap_or(8192),
        offset: 1,
    }))
}
