//! The keys of an architecture and of the types of a file.

use std::collections::BTreeMap;

use firebox_kernels::format::Gguf;
use serde_json::Value;

use super::{known::GgufSource, tensor::GgufWeight};
use crate::{
    container::{
        ContainerError,
        family::{GgufFamily, LayerWindow},
        rotary::{DIVISORS, LONG, SHORT, YARN},
        special::{SIGMOID, TENTH},
    },
    model::{
        decoder::{ExpertsSpec, MixerSpec, Spec},
        layers::{RopeScaling, RotarySpec, Sees},
    },
    source::{
        StoredType,
        gguf::{GgufKeys, GgufType},
    },
};

/// The version of the layouts of blocks.
const QUANTIZATION_VERSION: u32 = 2;

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

/// The keys of a family, each with its beginning.
struct OwnKeys<'k> {
    keys: &'k mut GgufKeys,
    family: &'static str,
}

impl OwnKeys<'_> {
    fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }

    fn number(&mut self, key: &str, value: usize) {
        let key = self.own(key);
        // A number of a model that was read is below 2^32.
        self.keys
            .u32(&key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn float(&mut self, key: &str, value: f64) {
        let key = self.own(key);
        self.keys.f32(&key, value as f32);
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
    match spec.layers.first().map(|layer| &layer.mixer) {
        Some(MixerSpec::Attention(attention)) => {
            let [heads, head] = [attention.heads, attention.head_features];
            if family.square && heads * head != spec.features {
                let features = format!("{head}, for {heads} heads");
                let read = format!("{} features, divided among them", spec.features);
                return Err(not_said("attention.head_features", &features, &read));
            }
            own.number("attention.head_count", attention.heads);
            own.number("attention.head_count_kv", attention.key_value_heads);
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
    if let Some(inner) = inner.or(experts.map(|experts| experts.each.features)) {
        own.number("feed_forward_length", inner);
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
    if family.name.starts_with("gemma") {
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
    windows(&mut own, family, spec);
    let all = ["rope_parameters", "rope_scaling"].map(|place| &config[place]["mscale_all_dim"]);
    let all = all.into_iter().find_map(Value::as_f64);
    rotary(&mut own, family, spec, all, &not_said)
}

/// What chooses the experts of DeepSeek V3 and GLM-4.5.
fn deep_experts(own: &mut OwnKeys<'_>, spec: &Spec, experts: &ExpertsSpec) {
    let mut layers = spec.layers.iter();
    let first = layers.position(|layer| layer.experts().is_some());
    own.number("leading_dense_block_count", first.unwrap_or(0));
    own.number("expert_gating_func", SIGMOID);
    own.float("expert_weights_scale", experts.router.scaling);
    let key = own.own("expert_weights_norm");
    own.keys.flag(&key, experts.router.normalised);
    if let Some(groups) = &experts.router.groups {
        own.number("expert_group_count", groups.count);
        own.number("expert_group_used_count", groups.chosen);
    }
}

/// The window, and the layers that have it.
fn windows(own: &mut OwnKeys<'_>, family: &GgufFamily, spec: &Spec) {
    let attentions = || spec.layers.iter().filter_map(|layer| layer.attention());
    let window = attentions().find_map(|attention| match attention.sees {
        Sees::Window(window) => Some(window),
        _ => None,
    });
    match (window, family.window) {
        (Some(window), LayerWindow::But(_)) => {
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

/// What the file consists of mostly, in the words of llama.cpp.
pub(super) fn of_types(keys: &mut GgufKeys, weights: &[GgufWeight<'_>]) {
    let mut values: BTreeMap<u32, usize> = BTreeMap::new();
    for weight in weights.iter().filter(|weight| weight.shape.len() > 1) {
        if let Some(number) = weight.kind.ok().and_then(file_type) {
            *values.entry(number).or_default() += weight.shape.iter().product::<usize>();
        }
    }
    let most = values.into_iter().max_by_key(|(_, values)| *values);
    if let Some((number, _)) = most {
        keys.u32("general.file_type", number);
    }
    keys.u32("general.quantization_version", QUANTIZATION_VERSION);
}

/// `enum llama_ftype` of llama.cpp for a file that consists of one type mostly.
const fn file_type(kind: GgufType) -> Option<u32> {
    Some(match kind {
        GgufType::Plain(StoredType::F32) => 0,
        GgufType::Plain(StoredType::F16) => 1,
        GgufType::Plain(StoredType::BF16) => 32,
        GgufType::Plain(_) => return None,
        GgufType::Blocks(kind) => match kind {
            Gguf::Q4_0 => 2,
            Gguf::Q4_1 => 3,
            Gguf::Q8_0 => 7,
            Gguf::Q5_0 => 8,
            Gguf::Q5_1 => 9,
            Gguf::Q2K => 10,
            Gguf::Q3K => 11,
            Gguf::Q4K => 14,
            Gguf::Q5K => 16,
            Gguf::Q6K => 18,
            Gguf::Iq2Xxs => 19,
            Gguf::Iq2Xs => 20,
            Gguf::Iq3Xxs => 23,
            Gguf::Iq1S => 24,
            Gguf::Iq4Nl => 25,
            Gguf::Iq3S => 26,
            Gguf::Iq2S => 28,
            Gguf::Iq4Xs => 30,
            Gguf::Iq1M => 31,
            Gguf::Tq1_0 => 36,
            Gguf::Tq2_0 => 37,
            Gguf::Mxfp4 => 38,
            Gguf::Nvfp4 | Gguf::Q1_0 | Gguf::Q2_0 => return None,
        },
    })
}
