//! The keys of an architecture.

use serde_json::Value;

use super::{
    known::GgufSource,
    own::{OwnKeys, deep_experts, special, taken},
};
use crate::{
    container::{
        ContainerError,
        family::{GgufFamily, LayerWindow},
        rotary::{DIVISORS, LONG, SHORT, YARN},
        special::TENTH,
    },
    model::{
        decoder::{MixerSpec, Spec},
        layers::{RopeScaling, RotarySpec, Sees},
    },
    source::gguf::GgufKeys,
};

/// What llama.cpp's converter divides the frequencies of Gemma 4 by that are not to turn.
const STILL: f32 = 1e30;

/// A tensor of a file that no checkpoint has: what frequencies are divided by.
#[derive(Debug)]
pub(super) struct MadeTensor {
    pub(super) name: String,
    pub(super) shape: [usize; 1],
    pub(super) values: Vec<f32>,
}

impl MadeTensor {
    fn new(name: &str, values: Vec<f32>) -> Self {
        Self {
            name: name.to_owned(),
            shape: [values.len()],
            values,
        }
    }
}

/// The keys of a model. Returns the tensors that say the rest.
pub(super) fn of_model(
    keys: &mut GgufKeys,
    source: &GgufSource<'_>,
    family: &'static GgufFamily,
    spec: &Spec,
) -> Result<Vec<MadeTensor>, ContainerError> {
    let not_said = |field: &str, model: &dyn ToString, read: &str| ContainerError::NotSaid {
        file: source.label.to_owned(),
        field: field.to_owned(),
        model: model.to_string(),
        read: read.to_owned(),
    };
    if let Some((field, model, read)) = taken(family, spec) {
        return Err(not_said(&field, &model, &read.to_string()));
    }
    keys.text("general.architecture", family.name);
    keys.text("general.type", "model");
    let config = match &source.config["text_config"] {
        text @ Value::Object(_) => text,
        _ => source.config,
    };
    let mut own = OwnKeys {
        keys,
        family: family.name,
    };
    own.number("block_count", spec.layers.len());
    own.number("context_length", spec.positions);
    own.number("embedding_length", spec.features);
    own.number("vocab_size", spec.vocabulary);
    let mut mixers = spec.layers.iter().map(|layer| &layer.mixer);
    let is_main = |mixer: &&MixerSpec| match mixer {
        MixerSpec::Attention(attention) => family.name != "gemma4" || attention.sees == Sees::All,
        MixerSpec::Latent(_) => true,
        MixerSpec::Delta(_) => !family.is_hybrid(),
    };
    match mixers.find(is_main) {
        Some(MixerSpec::Attention(attention)) => {
            let [heads, head] = [attention.heads, attention.head_features];
            if family.square && heads * head != spec.features {
                let features = format!("{head}, for {heads} heads");
                let read = format!("{} features, divided among them", spec.features);
                return Err(not_said("attention.head_features", &features, &read));
            }
            own.number("attention.head_count", attention.heads);
            let counts = spec.layers.iter().filter_map(|layer| layer.attention());
            let counts = counts.map(|attention| attention.key_value_heads);
            own.numbers("attention.head_count_kv", counts.collect());
            own.number("attention.key_length", attention.head_features);
            own.number("attention.value_length", attention.head_features);
        }
        Some(MixerSpec::Latent(latent)) => {
            own.number("attention.head_count", latent.heads);
            own.number("attention.head_count_kv", latent.heads);
            let key = latent.plain_features + latent.rotary.features;
            own.number("attention.key_length", key);
            own.number("attention.value_length", latent.value_features);
            own.number("attention.kv_lora_rank", latent.key_value_rank);
            if let Some(rank) = latent.query_rank {
                own.number("attention.q_lora_rank", rank);
            }
        }
        _ => return Err(not_said("layers.0.mixer", &"a delta rule", "attention")),
    }
    own.float(family.norm.0, spec.norm.eps);
    let mlp = spec.layers.iter().find_map(|layer| layer.mlp());
    let experts = spec.layers.iter().find_map(|layer| layer.experts());
    let said = config["intermediate_size"]
        .as_u64()
        .map(|said| said as usize);
    let inner = mlp.map(|mlp| mlp.features).or(said);
    let mlps = spec.layers.iter().filter_map(|layer| layer.mlp());
    let mlps: Vec<usize> = mlps.map(|mlp| mlp.features).collect();
    match inner.or(experts.map(|experts| experts.each.features)) {
        _ if family.name == "gemma4" => own.numbers("feed_forward_length", mlps),
        Some(inner) => own.number("feed_forward_length", inner),
        None => {}
    }
    if let (Some(experts), Some(fields)) = (experts, &family.experts) {
        own.number("expert_count", experts.count);
        own.number("expert_used_count", experts.chosen);
        if fields.features.is_some() {
            own.number("expert_feed_forward_length", experts.each.features);
        }
        match (&experts.shared, fields.shared) {
            (Some(shared), Some(_)) => {
                own.number("expert_shared_feed_forward_length", shared.mlp.features);
            }
            (Some(_), None) if family.name == "llama4" => {}
            (Some(shared), None) => {
                let count = shared.mlp.features / experts.each.features.max(1);
                own.number("expert_shared_count", count);
            }
            (None, _) => {}
        }
        if ["deepseek2", "glm4moe"].contains(&family.name) {
            deep_experts(&mut own, spec, experts);
        }
    }
    for (key, field) in family.floats {
        let value = config[*field].as_f64();
        // The others are what an absent field is.
        let value = value.or(match *key {
            "logit_scale" => spec.head.multiplier,
            _ => Some(1.0),
        });
        own.float(key, value.unwrap_or(1.0));
    }
    let attention = spec.layers.first().and_then(|layer| layer.attention());
    if ["gemma2", "gemma3"].contains(&family.name) {
        for (key, cap) in [
            (
                "attn_logit_softcapping",
                attention.and_then(|it| it.soft_cap),
            ),
            ("final_logit_softcapping", spec.head.soft_cap),
        ] {
            if let Some(cap) = cap {
                own.float(key, cap);
            }
        }
    }
    if family.name == "gptneox" {
        let parallel = config["use_parallel_residual"].as_bool().unwrap_or(true);
        let key = own.own("use_parallel_residual");
        own.keys.flag(&key, parallel);
    }
    if let Some(growth) = attention.and_then(|attention| attention.query_growth) {
        own.float("attention.temperature_scale", growth.factor);
    }
    special(&mut own, family, spec, config);
    windows(&mut own, family, spec);
    let all = ["rope_parameters", "rope_scaling"].map(|place| &config[place]["mscale_all_dim"]);
    let all = all.into_iter().find_map(Value::as_f64);
    rotary(&mut own, family, spec, all, &not_said)
}

/// The window, and the layers that have it.
fn windows(own: &mut OwnKeys<'_>, family: &GgufFamily, spec: &Spec) {
    let attentions = || spec.layers.iter().filter_map(|layer| layer.attention());
    let window = attentions().find_map(|attention| match attention.sees {
        Sees::Window(window) => Some(window),
        _ => None,
    });
    match (window, family.window) {
        (Some(window), LayerWindow::But(_) | LayerWindow::Listed) => {
            own.number("attention.sliding_window", window);
            let windowed: Vec<bool> = attentions()
                .map(|attention| matches!(attention.sees, Sees::Window(_)))
                .collect();
            let key = own.own("attention.sliding_window_pattern");
            own.keys.flags(&key, windowed.into_iter());
        }
        // llama.cpp tells Phi-4 from Phi-3 by a window of 0.
        (window, LayerWindow::Never) if family.name == "phi3" => {
            own.number("attention.sliding_window", window.unwrap_or(0));
        }
        _ => {}
    }
}

/// The rotation; `all` is what sharpens scores where frequencies are stretched. Returns the tensors of what frequencies are divided by.
fn rotary(
    own: &mut OwnKeys<'_>,
    family: &GgufFamily,
    spec: &Spec,
    all: Option<f64>,
    not_said: &dyn Fn(&str, &dyn ToString, &str) -> ContainerError,
) -> Result<Vec<MadeTensor>, ContainerError> {
    let attentions = || spec.layers.iter().filter_map(|layer| layer.attention());
    let of = |far: bool| {
        let mut kind = attentions().filter(|attention| (attention.sees == Sees::All) == far);
        kind.find_map(|attention| attention.rotary.as_ref())
    };
    let latent = spec.layers.first().and_then(|layer| layer.rotary());
    let Some(rotary) = of(true).or(of(false)).or(latent) else {
        return Ok(Vec::new());
    };
    if !rotary.features.is_multiple_of(2) {
        return Err(not_said(
            "rotary.features",
            &rotary.features,
            "an even number",
        ));
    }
    own.number("rope.dimension_count", rotary.features);
    own.float("rope.freq_base", rotary.theta);
    match of(false) {
        Some(near) if family.name == "gemma4" => {
            own.number("rope.dimension_count_swa", near.features);
            own.float("rope.freq_base_swa", near.theta);
        }
        Some(near) if near.theta != rotary.theta || family.name == "gemma3" => {
            own.float("rope.freq_base_swa", near.theta);
        }
        _ => {}
    }
    let kind = |own: &mut OwnKeys<'_>, kind: &str| {
        let key = own.own("rope.scaling.type");
        own.keys.text(&key, kind);
    };
    match &rotary.scaling {
        RopeScaling::None if family.name == "gemma4" => {
            // Pairs that stay are divided by more than any position is.
            let turning = (rotary.features / 2).saturating_sub(rotary.still);
            let turning = core::iter::repeat_n(1.0, turning);
            let values = turning.chain(core::iter::repeat_n(STILL, rotary.still));
            Ok(vec![MadeTensor::new(DIVISORS, values.collect())])
        }
        RopeScaling::None => Ok(Vec::new()),
        RopeScaling::Linear { factor } => {
            kind(own, "linear");
            own.float("rope.scaling.factor", f64::from(*factor));
            Ok(Vec::new())
        }
        RopeScaling::Yarn {
            factor,
            original_positions,
            beta_fast,
            beta_slow,
            attention_factor,
            ..
        } => {
            kind(own, "yarn");
            own.float("rope.scaling.factor", f64::from(*factor));
            own.number("rope.scaling.original_context_length", *original_positions);
            let usual = 0.1 * f64::from(*factor).max(1.0).ln() + 1.0;
            if let Some(all) = all.filter(|_| ["deepseek2", "mistral3"].contains(&family.name)) {
                let part = if family.is_latent() { TENTH } else { 1.0 };
                own.float("rope.scaling.yarn_log_multiplier", part * all);
            } else if usual as f32 != *attention_factor {
                // llama.cpp multiplies by the usual factor in any case.
                let rest = f64::from(*attention_factor) / usual;
                own.float("rope.scaling.attn_factor", rest);
            }
            for (value, (key, _)) in [beta_fast, beta_slow].into_iter().zip(YARN) {
                own.float(key, f64::from(*value));
            }
            Ok(Vec::new())
        }
        RopeScaling::Llama3 { .. } => {
            let values = divisors(rotary);
            Ok(vec![MadeTensor::new(DIVISORS, values)])
        }
        RopeScaling::LongRope {
            short,
            long,
            original_positions,
            attention_factor,
        } => {
            if short == long && *attention_factor == 1.0 {
                return Ok(vec![MadeTensor::new(DIVISORS, short.to_vec())]);
            }
            kind(own, "longrope");
            own.number("rope.scaling.original_context_length", *original_positions);
            let attention = f64::from(*attention_factor);
            own.float("rope.scaling.attn_factor", attention);
            Ok(vec![
                MadeTensor::new(LONG, long.to_vec()),
                MadeTensor::new(SHORT, short.to_vec()),
            ])
        }
        other @ RopeScaling::Dynamic { .. } => Err(not_said(
            "rotary.scaling",
            &other.name(),
            "a base that is the same for texts of any length",
        )),
    }
}

/// What Llama 3 divides its frequencies by, one number a pair, as llama.cpp's converter computes it.
fn divisors(rotary: &RotarySpec) -> Vec<f32> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_positions,
    } = rotary.scaling
    else {
        return Vec::new();
    };
    let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(f64::from);
    let features = rotary.features as f64;
    let pairs = (0..rotary.features / 2).map(|pair| {
        let wave = core::f64::consts::TAU * rotary.theta.powf(2.0 * pair as f64 / features);
        let turns = original_positions as f64 / wave;
        let divisor = if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        divisor as f32
    });
    pairs.collect()
}
