//! Whether what the keys of a file say is the model that was meant.

use serde_json::Value;

use crate::{
    container::{ContainerError, rotary::Divisors},
    model::{
        decoder::{LayerSpec, MixerSpec, Spec},
        layers::{RopeScaling, Sees},
    },
};

/// Refuses a model that the keys of its file do not say. Returns a sentence about windows, which may be missing.
pub(super) fn check(
    label: &str,
    model: &Spec,
    read: &Spec,
    divisors: &Divisors,
) -> Result<Option<String>, ContainerError> {
    let (mut model, mut read) = (model.clone(), read.clone());
    // Names are those of the file; the rest of what follows is about numbers.
    read.family = model.family;
    read.names = model.names;
    read.prefixes = model.prefixes;
    read.predicts_further = model.predicts_further;
    read.transposed = model.transposed;
    read.embedding.under_head = model.embedding.under_head;
    for (model, read) in model.layers.iter().zip(&mut read.layers) {
        as_stored(model, read);
    }
    if let Some(always) = &divisors.always {
        as_divisors(&mut model, always);
        as_divisors(&mut read, always);
    }
    let windows = forgotten(&mut model, &read);
    let note = (windows > 0).then(|| {
        format!(
            "{windows} layers see a window of tokens, which GGUF files of this architecture do not say: llama.cpp reads longer texts \
             without it"
        )
    });
    let [model, read] = [&model, &read].map(|spec| {
        serde_json::to_value(spec).unwrap_or_else(|error| Value::String(error.to_string()))
    });
    match difference("", &model, &read) {
        None => Ok(note),
        Some((field, model, read)) => Err(ContainerError::NotSaid {
            file: label.to_owned(),
            field,
            model,
            read,
        }),
    }
}

/// How files have the matrices of a layer is no number of a model.
fn as_stored(model: &LayerSpec, read: &mut LayerSpec) {
    if let (MixerSpec::Delta(model), MixerSpec::Delta(read)) = (&model.mixer, &mut read.mixer) {
        read.fused = model.fused;
    }
    if let (Some(model), Some(read)) = (model.experts(), read.experts_mut()) {
        read.stored = model.stored;
        read.each.gate = model.each.gate;
    }
}

/// Stretched frequencies as what they are divided by.
fn as_divisors(spec: &mut Spec, divisors: &[f32]) {
    for (_, attention) in spec.attentions_mut() {
        if let Some(rotary) = &mut attention.rotary
            && let RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. } = rotary.scaling
        {
            rotary.scaling = RopeScaling::LongRope {
                short: divisors.into(),
                long: divisors.into(),
                original_positions: 1,
                attention_factor: 1.0,
            };
        }
    }
}

/// Takes away windows that the file does not say, and counts the layers.
fn forgotten(model: &mut Spec, read: &Spec) -> usize {
    let mut count = 0;
    for (layer, attention) in model.attentions_mut() {
        let MixerSpec::Attention(of_file) = &read.layers[layer.min(read.layers.len() - 1)].mixer
        else {
            continue;
        };
        if let (Sees::Window(_), Sees::All) = (attention.sees, of_file.sees) {
            attention.sees = Sees::All;
            count += 1;
        }
    }
    count
}

/// The first field that differs, and both values.
fn difference(field: &str, model: &Value, read: &Value) -> Option<(String, String, String)> {
    let inner = |name: &str| match field {
        "" => name.to_owned(),
        field => format!("{field}.{name}"),
    };
    match (model, read) {
        (Value::Object(model), Value::Object(read)) => {
            let absent = &Value::Null;
            let mut fields = model.keys().chain(read.keys());
            fields.find_map(|name| {
                let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned();
                let [model, read] =
                    [model, read].map(|object| of(object).unwrap_or(absent.clone()));
                difference(&inner(name), &model, &read)
            })
        }
        (Value::Array(model), Value::Array(read)) if model.len() == read.len() => {
            let mut pairs = model.iter().zip(read).enumerate();
            pairs.find_map(|(nth, (model, read))| difference(&inner(&nth.to_string()), model, read))
        }
        // What a file holds in 32 bits.
        (Value::Number(model), Value::Number(read))
            if model.as_f64().map(|float| float as f32)
                == read.as_f64().map(|float| float as f32) =>
        {
            None
        }
        _ if model == read => None,
        _ => Some((field.to_owned(), model.to_string(), read.to_string())),
    }
}
