//! Fields of `config.json` that families with experts share.

use crate::model::{
    decoder::{ExpertStorage, ExpertsSpec, FeedForwardSpec, MlpSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, RouterScore, RouterSpec},
};

/// The number of experts in the first of `names` that is there, and how many a token goes through.
pub(super) fn counts(
    fields: Fields<'_>,
    names: &[&str],
    [count, chosen]: [usize; 2],
) -> Result<[usize; 2], ConfigError> {
    let there = names.iter().find(|name| fields.get(name).is_some());
    let name = there.or(names.first()).copied().unwrap_or_default();
    let count = fields.count(name)?.unwrap_or(count);
    let per_token = "num_experts_per_tok";
    let chosen = fields.count(per_token)?.unwrap_or(chosen);
    if chosen > count {
        let expected = format!("at most the {count} of `{name}`");
        return Err(fields.value(per_token, chosen, expected));
    }
    Ok([count, chosen])
}

/// Experts that are gated MLPs of `features`, a tensor for each matrix of each expert.
pub(super) fn each(
    spec: &Spec,
    features: usize,
    [count, chosen]: [usize; 2],
    router: RouterSpec,
) -> ExpertsSpec {
    let mlp = spec.layers.iter().find_map(|layer| layer.mlp());
    let activation = mlp.map_or(Activation::Silu, |mlp| mlp.activation);
    ExpertsSpec {
        count,
        chosen,
        each: MlpSpec::gated(features, activation),
        stored: ExpertStorage::Each,
        router,
        shared: None,
    }
}

/// The experts of Qwen: a softmax over all, whose best are divided by their sum where the file says so.
pub(super) fn qwen(
    fields: Fields<'_>,
    spec: &Spec,
    names: &[&str],
    defaults: [usize; 2],
    features: usize,
) -> Result<ExpertsSpec, ConfigError> {
    let counts = counts(fields, names, defaults)?;
    let field = "moe_intermediate_size";
    let features = fields.count(field)?.unwrap_or(features);
    let normalised = fields.flag("norm_topk_prob")?.unwrap_or(false);
    let router = RouterSpec::new(RouterScore::Softmax, normalised);
    Ok(each(spec, features, counts, router))
}

/// Puts `experts` in the layers that Qwen has them in: every `decoder_sparse_step`th, but for `mlp_only_layers`.
pub(super) fn on_sparse_layers(
    fields: Fields<'_>,
    spec: &mut Spec,
    experts: &ExpertsSpec,
) -> Result<(), ConfigError> {
    let step = fields.count("decoder_sparse_step")?.unwrap_or(1);
    let dense = fields.indexes("mlp_only_layers")?.unwrap_or_default();
    for (nth, layer) in spec.layers.iter_mut().enumerate() {
        if (nth + 1) % step == 0 && !dense.contains(&nth) {
            layer.feed_forward = FeedForwardSpec::Experts(experts.clone());
        }
    }
    Ok(())
}
