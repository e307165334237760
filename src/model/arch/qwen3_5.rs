//! Qwen 3.5: three of four layers have the gated delta rule, the fourth attention behind a gate.

use super::{
    common::{self, Defaults},
    family::Family,
    rotary::RotaryDefaults,
};
use crate::model::{
    decoder::{DeltaSpec, LLAMA, MixerSpec, Names, QueryKeyNormSpec, Spec},
    error::ConfigError,
    fields::{COUNT_MAX, Fields},
    layers::{Activation, NormOver, NormSpec},
};

pub(super) static FAMILY: Family = Family::new("qwen3_5_text", read).verified(&["qwen3_5_bf16"]);

/// Beside the model, a file has layers that predict further tokens.
static NAMES: Names = Names {
    beside: &["mtp."],
    ..LLAMA
};

/// Three numbers of a position, those of a picture's time, row and column, are one in a text, so that
/// `mrope_section` and `mrope_interleaved` change nothing.
pub(super) const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(4),
    head_features: Some(256),
    rotary: RotaryDefaults {
        part: Some(0.25),
        ..RotaryDefaults::LLAMA
    },
    ..Defaults::LLAMA
};

fn read(family: &'static str, fields: Fields<'_>) -> Result<Spec, ConfigError> {
    let mut spec = common::spec(family, fields, &DEFAULTS)?;
    mixers(fields, &mut spec, false)?;
    Ok(spec)
}

/// Norms that are stored minus one, gates and norms of attention, and the delta rule where `layer_types` or, without that
/// list, `full_attention_interval` has it. `fused`: its projections are two matrices.
pub(super) fn mixers(fields: Fields<'_>, spec: &mut Spec, fused: bool) -> Result<(), ConfigError> {
    // It is the function after the convolution too.
    if spec
        .mlps_mut()
        .any(|mlp| mlp.activation != Activation::Silu)
    {
        let found = fields.text("hidden_act")?.unwrap_or_default();
        return Err(fields.unsupported("hidden_act", found, "silu"));
    }
    let delta = delta(fields, spec.norm, fused)?;
    let norm = NormSpec {
        plus_one: true,
        rounds_first: false,
        ..spec.norm
    };
    spec.norm = norm;
    spec.names = &NAMES;
    common::attention_biases(fields, spec)?;
    for (_, attention) in spec.attentions_mut() {
        attention.gate = true;
        attention.query_key_norm = Some(QueryKeyNormSpec::new(norm, NormOver::Head));
    }
    let linear = linear_layers(fields, spec.layers.len())?;
    for (layer, linear) in spec.layers.iter_mut().zip(linear) {
        layer.norm = norm;
        if linear {
            layer.mixer = MixerSpec::Delta(delta.clone());
        }
    }
    Ok(())
}

fn delta(fields: Fields<'_>, norm: NormSpec, fused: bool) -> Result<DeltaSpec, ConfigError> {
    let count = |field, default| Ok::<_, ConfigError>(fields.count(field)?.unwrap_or(default));
    let key_heads = count("linear_num_key_heads", 16)?;
    let value_heads = count("linear_num_value_heads", 32)?;
    if value_heads % key_heads != 0 {
        let expected = format!("a multiple of the {key_heads} of `linear_num_key_heads`");
        return Err(fields.value("linear_num_value_heads", value_heads, expected));
    }
    let kernel = count("linear_conv_kernel_dim", 4)?;
    if kernel < 2 {
        return Err(fields.unsupported("linear_conv_kernel_dim", kernel, "2 at least"));
    }
    let features = |field, heads: usize| {
        let features = count(field, 128)?;
        let most = COUNT_MAX as usize / heads;
        match features <= most {
            true => Ok(features),
            false => {
                Err(fields.value(field, features, format!("at most {most} for {heads} heads")))
            }
        }
    };
    Ok(DeltaSpec {
        key_heads,
        value_heads,
        key_features: features("linear_key_head_dim", key_heads)?,
        value_features: features("linear_value_head_dim", value_heads)?,
        kernel,
        norm,
        fused,
    })
}

/// Whether each layer has the delta rule.
fn linear_layers(fields: Fields<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let Some(types) = common::layer_types(fields, layers)? else {
        let interval = fields.count("full_attention_interval")?.unwrap_or(4);
        return Ok((1..=layers).map(|nth| nth % interval != 0).collect());
    };
    let linear = types.into_iter().map(|kind| match kind {
        "linear_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let supported = "full_attention, linear_attention";
            Err(fields.unsupported("layer_types", other, supported))
        }
    });
    linear.collect()
}
