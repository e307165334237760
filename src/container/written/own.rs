//! The keys that single architectures have beside the others.

use serde_json::Value;

use crate::{
    container::{family::GgufFamily, order::delta, special::SIGMOID},
    model::{
        decoder::{ExpertsSpec, Spec},
        layers::Sees,
    },
    source::gguf::GgufKeys,
};

/// The keys of a family, each with its beginning.
pub(super) struct OwnKeys<'k> {
    pub(super) keys: &'k mut GgufKeys,
    pub(super) family: &'static str,
}

impl OwnKeys<'_> {
    pub(super) fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }

    pub(super) fn number(&mut self, key: &str, value: usize) {
        let key = self.own(key);
        // A number of a model that was read is below 2^32.
        self.keys
            .u32(&key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn float(&mut self, key: &str, value: f64) {
        let key = self.own(key);
        self.keys.f32(&key, value as f32);
    }

    /// One for each layer, or one for all where they are the same.
    pub(super) fn numbers(&mut self, key: &str, values: Vec<usize>) {
        match &values[..] {
            [first, rest @ ..] if rest.iter().any(|value| value != first) => {
                let key = self.own(key);
                let values = values.iter();
                let values = values.map(|value| i32::try_from(*value).unwrap_or(i32::MAX));
                self.keys.i32s(&key, values);
            }
            [first, ..] => self.number(key, *first),
            [] => {}
        }
    }
}

/// What chooses the experts of DeepSeek V3 and GLM-4.5.
pub(super) fn deep_experts(own: &mut OwnKeys<'_>, spec: &Spec, experts: &ExpertsSpec) {
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

/// The keys of one architecture.
pub(super) fn special(own: &mut OwnKeys<'_>, family: &GgufFamily, spec: &Spec, config: &Value) {
    match family.name {
        "gemma4" => gemma4(own, spec),
        "llama4" => {
            let mut layers = spec.layers.iter();
            let first = layers.position(|layer| layer.experts().is_some());
            own.number("interleave_moe_layer_step", first.map_or(0, |nth| nth + 1));
        }
        _ if family.is_hybrid() => hybrid(own, family, spec, config),
        _ => {}
    }
}

/// A number that llama.cpp takes for another one of the model: its field, its value, and the other.
pub(super) fn taken(family: &GgufFamily, spec: &Spec) -> Option<(String, usize, usize)> {
    if family.name == "gemma4" {
        return lender(spec);
    }
    let delta = delta(spec).filter(|_| family.is_hybrid())?;
    let [values, keys] = [delta.value_features, delta.key_features];
    (values != keys).then(|| ("delta.value_features".to_owned(), values, keys))
}

/// A layer that uses the keys of another layer than in llama.cpp: there, of those that have keys the last one lends them to full layers,
/// and the one before it to layers with a window (`llama_model::create_memory`).
fn lender(spec: &Spec) -> Option<(String, usize, usize)> {
    let attentions = || {
        let layers = spec.layers.iter().enumerate();
        layers.filter_map(|(nth, layer)| Some((nth, layer.attention()?)))
    };
    let own = attentions().filter(|(_, attention)| attention.keys_of.is_none());
    let own = own.count();
    attentions().find_map(|(nth, attention)| {
        let lender = attention.keys_of?;
        let back = if attention.sees == Sees::All { 1 } else { 2 };
        let expected = own.saturating_sub(back);
        let field = format!("layers.{nth}.mixer.attention.keys_of");
        (lender != expected).then_some((field, lender, expected))
    })
}

fn gemma4(own: &mut OwnKeys<'_>, spec: &Spec) {
    let mut attentions = spec.layers.iter().filter_map(|layer| layer.attention());
    let near = attentions
        .clone()
        .find(|attention| attention.sees != Sees::All);
    if let Some(near) = near.or_else(|| attentions.next()) {
        own.number("attention.key_length_swa", near.head_features);
        own.number("attention.value_length_swa", near.head_features);
    }
    let attentions = spec.layers.iter().filter_map(|layer| layer.attention());
    let shared = attentions.filter(|attention| attention.keys_of.is_some());
    own.number("attention.shared_kv_layers", shared.count());
    let small = spec.embedding.per_layer.as_ref();
    let small = small.map_or(0, |small| small.features);
    own.number("embedding_length_per_layer_input", small);
    if let Some(cap) = spec.head.soft_cap {
        own.float("final_logit_softcapping", cap);
    }
}

fn hybrid(own: &mut OwnKeys<'_>, family: &GgufFamily, spec: &Spec, config: &Value) {
    let Some(delta) = delta(spec) else {
        return;
    };
    own.number("ssm.conv_kernel", delta.kernel);
    own.number("ssm.state_size", delta.key_features);
    own.number("ssm.group_count", delta.key_heads);
    own.number("ssm.time_step_rank", delta.value_heads);
    own.number("ssm.inner_size", delta.value_heads * delta.value_features);
    let mut layers = spec.layers.iter();
    let first = layers.position(|layer| layer.attention().is_some());
    let interval = first.map_or(spec.layers.len() + 1, |nth| nth + 1);
    own.number("full_attention_interval", interval);
    if family.name != "qwen3next" {
        let key = own.own("rope.dimension_sections");
        own.keys.i32s(&key, sections(spec, config).into_iter());
    }
}

/// How many pairs turn by each of the three numbers of a position, which are one in a text, and by a fourth that is not there.
fn sections(spec: &Spec, config: &Value) -> [i32; 4] {
    /// The default of `mrope_section`.
    const USUAL: [i32; 4] = [11, 11, 10, 0];
    let places = ["rope_parameters", "rope_scaling"].into_iter();
    let mut places = places.filter_map(|place| config[place]["mrope_section"].as_array());
    if let Some([time, row, col]) = places.next().map(Vec::as_slice) {
        let pairs = |value: &Value| value.as_i64().and_then(|pairs| i32::try_from(pairs).ok());
        if let (Some(time), Some(row), Some(col)) = (pairs(time), pairs(row), pairs(col)) {
            return [time, row, col, 0];
        }
    }
    let mut attentions = spec.layers.iter().filter_map(|layer| layer.attention());
    let pairs = attentions.find_map(|attention| attention.rotary.as_ref());
    let pairs = pairs.map_or(0, |rotary| rotary.features / 2);
    match i32::try_from(pairs) {
        // llama.cpp refuses more pairs than a head has.
        Ok(pairs) if pairs < USUAL.iter().sum() => [pairs, 0, 0, 0],
        _ => USUAL,
    }
}
