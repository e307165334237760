//! DeepSeek V3: latent attention; experts chosen from the best groups, and an MLP for every token beside them.

use super::{
    common::{self, Defaults},
    experts::{self, DeepSeekDefaults, SHARED_EXPERTS},
    family::Family,
    rotary::{self, RotaryDefaults},
};
use crate::model::{
    decoder::{LLAMA, LatentSpec, MixerSpec, Names, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{NormSpec, Pairs, RopeScaling, RotarySpec},
};

pub(super) static FAMILY: Family = Family::new("deepseek_v3", read).verified(&["deepseek_v3_bf16"]);

const EXPERTS: DeepSeekDefaults = DeepSeekDefaults {
    counts: [256, 8],
    features: 2048,
    groups: [8, 4],
    scaling: 2.5,
    first: 3,
};

static NAMES: Names = Names {
    name: "deepseek_v3",
    other: SHARED_EXPERTS,
    ..LLAMA
};

/// Of the norms of small rows, whatever `rms_norm_eps` says.
const SMALL_ROW_EPS: f64 = 1e-6;

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let count = |field, default| Ok::<_, ConfigError>(fields.count(field)?.unwrap_or(default));
    let rotated = "qk_rope_head_dim";
    let rotated = common::turned(fields, rotated, count(rotated, 64)?)?;
    // `head_dim` is written there and never read.
    let defaults = Defaults {
        head_features: Some(rotated),
        ..Defaults::LLAMA
    };
    let mut spec = common::spec(family, fields, &defaults)?;
    only(fields, "scoring_func", "sigmoid")?;
    only(fields, "topk_method", "noaux_tc")?;

    let latent = latent(fields, &spec, rotated)?;
    for layer in &mut spec.layers {
        layer.mixer = MixerSpec::Latent(latent.clone());
    }
    spec.predicts_further = true;
    spec.names = &NAMES;
    experts::deepseek(fields, &mut spec, &EXPERTS)?;
    Ok(spec)
}

/// The attention of every layer, `rotated` features of a head turned.
fn latent(fields: Fields<'_>, spec: &Spec, rotated: usize) -> Result<LatentSpec, ConfigError> {
    let count = |field, default| Ok::<_, ConfigError>(fields.count(field)?.unwrap_or(default));
    let heads = common::required(fields, "num_attention_heads")?;
    let key_heads = count("num_key_value_heads", heads)?;
    if key_heads != heads {
        let supported = format!("the {heads} of `num_attention_heads`");
        return Err(fields.unsupported("num_key_value_heads", key_heads, supported));
    }
    let query_rank = match fields.names("q_lora_rank") {
        true => fields.count("q_lora_rank")?,
        false => Some(1536),
    };
    let plain_features = count("qk_nope_head_dim", 128)?;
    let pairs = match (
        fields.names("rope_interleave"),
        fields.flag("rope_interleave")?,
    ) {
        (false, _) | (_, Some(true)) => Pairs::Interleaved,
        _ => Pairs::Halves,
    };
    let defaults = RotaryDefaults {
        pairs,
        ..RotaryDefaults::LLAMA
    };
    let rotary = rotary::rotary(fields, rotated, spec.positions, &defaults)?;
    let scale = ((plain_features + rotated) as f64).sqrt().recip();
    Ok(LatentSpec {
        heads,
        query_rank,
        key_value_rank: count("kv_lora_rank", 512)?,
        plain_features,
        value_features: count("v_head_dim", 128)?,
        scale: scale * score_factor(fields, &rotary)?,
        rotary,
        norm: NormSpec::rms(SMALL_ROW_EPS),
        bias: fields.flag("attention_bias")?.unwrap_or(false),
    })
}

/// Where frequencies are stretched, `mscale_all_dim` sharpens scores with the length that texts may have.
fn score_factor(fields: Fields<'_>, rotary: &RotarySpec) -> Result<f64, ConfigError> {
    let Some(rope) = rotary::place(fields)? else {
        return Ok(1.0);
    };
    let all = rope.number("mscale_all_dim")?.unwrap_or(0.0);
    if rotary.scaling == RopeScaling::None || all == 0.0 {
        return Ok(1.0);
    }
    let factor = rope.positive("factor")?;
    let factor = factor.ok_or_else(|| rope.missing("factor"))?;
    let scale = 0.1 * all * factor.max(1.0).ln() + 1.0;
    Ok(scale * scale)
}

/// Refuses another word than the one that is computed.
fn only(fields: Fields<'_>, field: &str, word: &str) -> Result<(), ConfigError> {
    match fields.text(field)? {
        Some(other) if other != word => Err(fields.unsupported(field, other, word)),
        _ => Ok(()),
    }
}
