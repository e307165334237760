//! The names of tensors, in files and in transformers.

use std::collections::HashMap;

use super::{ContainerError, family::GgufFamily};
use crate::model::decoder::{NormPlaces, Part, Projections, Spec};

/// The parts of a decoder and their names in most files: in `blk.N.`, or alone.
static COLUMN: [(Part, &str); 47] = [
    (Part::Embedding, "token_embd"),
    (Part::Norm, "output_norm"),
    (Part::Head, "output"),
    (Part::AttentionNorm, "attn_norm"),
    (Part::Q, "attn_q"),
    (Part::K, "attn_k"),
    (Part::V, "attn_v"),
    (Part::Qkv, "attn_qkv"),
    (Part::QNorm, "attn_q_norm"),
    (Part::KNorm, "attn_k_norm"),
    (Part::QueryA, "attn_q_a"),
    (Part::QueryANorm, "attn_q_a_norm"),
    (Part::QueryB, "attn_q_b"),
    (Part::KeyValueA, "attn_kv_a_mqa"),
    (Part::KeyValueANorm, "attn_kv_a_norm"),
    (Part::KeyValueB, "attn_kv_b"),
    (Part::Sinks, "attn_sinks"),
    (Part::O, "attn_output"),
    (Part::AttentionNormAfter, "post_attention_norm"),
    (Part::MlpNorm, "ffn_norm"),
    (Part::MlpNormAfter, "post_ffw_norm"),
    (Part::Gate, "ffn_gate"),
    (Part::Up, "ffn_up"),
    (Part::Down, "ffn_down"),
    (Part::Router, "ffn_gate_inp"),
    (Part::RouterCorrection, "exp_probs_b"),
    (Part::ExpertGate, "ffn_gate_exps"),
    (Part::ExpertUp, "ffn_up_exps"),
    (Part::ExpertDown, "ffn_down_exps"),
    (Part::SharedGate, "ffn_gate_shexp"),
    (Part::SharedUp, "ffn_up_shexp"),
    (Part::SharedDown, "ffn_down_shexp"),
    (Part::SharedMix, "ffn_gate_inp_shexp"),
    (Part::GateUp, "ffn_gate_up"),
    (Part::Positions, "position_embd"),
    (Part::MlpNormBeside, "post_ffw_norm_1"),
    (Part::ExpertsNorm, "pre_ffw_norm_2"),
    (Part::ExpertsNormAfter, "post_ffw_norm_2"),
    (Part::RouterInputScale, "ffn_gate_inp"),
    (Part::RouterScales, "ffn_down_exps"),
    (Part::LayerScalar, "layer_output_scale"),
    (Part::PerLayerTable, "per_layer_token_embd"),
    (Part::PerLayerModelProjection, "per_layer_model_proj"),
    (Part::PerLayerModelNorm, "per_layer_proj_norm"),
    (Part::PerLayerGate, "inp_gate"),
    (Part::PerLayerProjection, "proj"),
    (Part::PerLayerNorm, "post_norm"),
];

/// Parts that are in no layer.
const ALONE: [Part; 7] = [
    Part::Embedding,
    Part::Positions,
    Part::Norm,
    Part::Head,
    Part::PerLayerTable,
    Part::PerLayerModelProjection,
    Part::PerLayerModelNorm,
];

/// Tensors that transformers names without an end, or with one that is part of the name, and the end that files have.
const BARE: [(Part, &str); 8] = [
    (Part::Sinks, "weight"),
    (Part::RouterCorrection, "bias"),
    (Part::LayerScalar, "weight"),
    (Part::RouterInputScale, "scale"),
    (Part::RouterScales, "scale"),
    (Part::DeltaConvolution, "weight"),
    (Part::DeltaFadeBias, "bias"),
    (Part::DeltaFadeFactor, ""),
];

/// Ends of names in files.
const ENDS: [&str; 4] = ["weight", "bias", "scale", ""];

/// The tensor whose name has no end.
const ENDLESS: &str = ".ssm_a";

/// Whether the name of a part may have this end.
fn fits(part: Part, end: &str) -> bool {
    match BARE.iter().find(|(bare, _)| *bare == part) {
        Some((_, own)) => *own == end,
        None => ["weight", "bias"].contains(&end),
    }
}

/// The stacks of experts, and the names that mlx-lm has for them.
const STACKS: [(Part, &str); 3] = [
    (Part::ExpertGate, "gate_proj"),
    (Part::ExpertUp, "up_proj"),
    (Part::ExpertDown, "down_proj"),
];

/// The parts and names of an architecture: its own first. Of norms, those that a layer has: transformers has one name for the one
/// after attention and for the one before the MLP.
fn column(family: &GgufFamily, spec: &Spec) -> impl Iterator<Item = (Part, &'static str)> {
    let own = |name: &str, part: Part| {
        let mut own = family.names.iter();
        own.any(|(of, is)| *of == part || *is == name)
    };
    let others = COLUMN.iter().filter(move |(part, name)| !own(name, *part));
    let places = spec.layers.first().map(|layer| layer.norms);
    let mut attentions = spec.layers.iter().filter_map(|layer| layer.attention());
    let is_apart = attentions.all(|attention| attention.projections == Projections::Apart);
    let all = family.names.iter().chain(others).copied();
    all.filter(move |(part, _)| match part {
        Part::AttentionNorm => places != Some(NormPlaces::After),
        Part::MlpNorm => !matches!(places, Some(NormPlaces::After | NormPlaces::Parallel)),
        Part::AttentionNormAfter | Part::MlpNormAfter => {
            matches!(places, Some(NormPlaces::After | NormPlaces::Around))
        }
        Part::Qkv => !is_apart,
        _ => true,
    })
}

/// The name of a module in transformers, or of a tensor without an end; those of experts are the stacks of mlx-lm.
fn path(spec: &Spec, layer: Option<usize>, part: Part) -> String {
    let path = spec.path(layer, part);
    let stack = STACKS.iter().find(|(stack, _)| *stack == part);
    let before = path.split_once("experts.{}");
    match (stack, before) {
        (Some((_, matrix)), Some((before, _))) => {
            format!("{before}{}.{matrix}", spec.names.switch)
        }
        _ => path,
    }
}

/// The whole name of a tensor in transformers.
fn whole(spec: &Spec, layer: Option<usize>, part: Part, end: &str) -> String {
    let path = path(spec, layer, part);
    match BARE.contains(&(part, end)) {
        true => path,
        false => format!("{path}.{end}"),
    }
}

/// The name in transformers, and the part.
pub(super) fn named(
    file: &str,
    tensor: &str,
    family: &GgufFamily,
    spec: &Spec,
) -> Result<(String, Part), ContainerError> {
    let found = || {
        let (path, end) = match tensor.ends_with(ENDLESS) {
            true => (tensor, ""),
            false => tensor.rsplit_once('.')?,
        };
        let (layer, name) = match path.strip_prefix("blk.") {
            Some(rest) => {
                let (layer, name) = rest.split_once('.')?;
                (Some(layer.parse::<usize>().ok()?), name)
            }
            None => (None, path),
        };
        // Layers that predict further tokens are left out, whatever they have.
        let further = layer.filter(|layer| *layer >= spec.layers.len());
        if let (Some(layer), Some(beside)) = (further, spec.names.beside.first()) {
            return Some((format!("{beside}{layer}.{name}.{end}"), Part::Norm));
        }
        if let Some(layer) = further.filter(|_| spec.predicts_further) {
            let before = spec.path(Some(layer), Part::AttentionNorm);
            let (before, _) = before.split_once(".input_layernorm")?;
            return Some((format!("{before}.further.{name}.{end}"), Part::Norm));
        }
        // Keys stand for the matrix that they unfold to with the values.
        if family.is_latent() && name == "attn_k_b" {
            return Some((whole(spec, layer, Part::KeyValueB, end), Part::KeyValueB));
        }
        let (part, _) = column(family, spec)
            .filter(|(part, known)| *known == name && ALONE.contains(part) == layer.is_none())
            .find(|(part, _)| fits(*part, end))?;
        Some((whole(spec, layer, part, end), part))
    };
    found().ok_or_else(|| ContainerError::UnknownTensor {
        file: file.to_owned(),
        tensor: tensor.to_owned(),
        architecture: family.name,
    })
}

/// The name in a file, and the part, of every tensor that a model may have, by its name in transformers.
pub(super) fn in_files(family: &GgufFamily, spec: &Spec) -> HashMap<String, (String, Part)> {
    let mut names = HashMap::new();
    let layers = || (0..spec.layers.len()).map(Some);
    for (part, name) in column(family, spec) {
        let alone = ALONE.contains(&part);
        let places: Vec<Option<usize>> = match alone {
            true => vec![None],
            false => layers().collect(),
        };
        for layer in places {
            for end in ENDS.into_iter().filter(|end| fits(part, end)) {
                let path = match (layer, end) {
                    (Some(layer), "") => format!("blk.{layer}.{name}"),
                    (Some(layer), end) => format!("blk.{layer}.{name}.{end}"),
                    (None, end) => format!("{name}.{end}"),
                };
                // Of two parts with one name, a model has the first.
                names
                    .entry(whole(spec, layer, part, end))
                    .or_insert((path, part));
            }
        }
    }
    names
}
