//! Fields of `config.json` that families with experts share.

use crate::model::{
    decoder::{ExpertStorage, ExpertsSpec, FeedForwardSpec, MlpSpec, Part, SharedExpertSpec, Spec},
    error::ConfigError,
    fields::Fields,
    layers::{Activation, RouterGroups, RouterScore, RouterSpec},
};

/// The names of DeepSeek and later for the MLP beside the experts.
pub(super) const SHARED_EXPERTS: &[(Part, &str)] = &[
    (Part::SharedGate, "mlp.shared_experts.gate_proj"),
    (Part::SharedUp, "mlp.shared_experts.up_proj"),
    (Part::SharedDown, "mlp.shared_experts.down_proj"),
];

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
    let dense = fields.indices("mlp_only_layers")?.unwrap_or_default();
    put(spec, experts, |nth| {
        (nth + 1) % step == 0 && !dense.contains(&nth)
    });
    Ok(())
}

/// Puts `experts` in the layers that `has` names.
pub(super) fn put(spec: &mut Spec, experts: &ExpertsSpec, has: impl Fn(usize) -> bool) {
    let layers = spec.layers.iter_mut().enumerate();
    for (_, layer) in layers.filter(|(nth, _)| has(*nth)) {
        layer.feed_forward = FeedForwardSpec::Experts(experts.clone());
    }
}

/// The defaults of DeepSeek V3 and GLM-4.5.
pub(super) struct DeepSeekDefaults {
    /// How many experts there are, and how many a token goes through.
    pub(super) counts: [usize; 2],
    /// Features inside an expert.
    pub(super) features: usize,
    /// How many groups there are, and how many are chosen.
    pub(super) groups: [usize; 2],
    /// What scores are multiplied by.
    pub(super) scaling: f64,
    /// The first layer that has experts.
    pub(super) first: usize,
}

/// Puts experts in the layers where DeepSeek V3 and GLM-4.5 have them: a sigmoid and a correction choose the best of the
/// best groups, and beside them is an MLP for every token.
pub(super) fn deepseek(
    fields: Fields<'_>,
    spec: &mut Spec,
    defaults: &DeepSeekDefaults,
) -> Result<(), ConfigError> {
    let counts = counts(
        fields,
        &["n_routed_experts", "num_local_experts"],
        defaults.counts,
    )?;
    let router = RouterSpec {
        correction: true,
        groups: groups(fields, counts, defaults.groups)?,
        scaling: fields
            .positive("routed_scaling_factor")?
            .unwrap_or(defaults.scaling),
        ..RouterSpec::new(
            RouterScore::Sigmoid,
            fields.flag_or("norm_topk_prob", true)?,
        )
    };
    let features = fields
        .count("moe_intermediate_size")?
        .unwrap_or(defaults.features);
    let shared = fields.count("n_shared_experts")?.unwrap_or(1);
    let mut sparse = each(spec, features, counts, router);
    sparse.shared = Some(SharedExpertSpec {
        mlp: MlpSpec {
            features: shared * features,
            ..sparse.each.clone()
        },
        gated: false,
    });
    let first = fields
        .index("first_k_dense_replace")?
        .unwrap_or(defaults.first);
    put(spec, &sparse, |nth| nth >= first);
    Ok(())
}

/// The groups that experts are chosen from; one group is none.
fn groups(
    fields: Fields<'_>,
    [experts, of_token]: [usize; 2],
    [count, chosen]: [usize; 2],
) -> Result<Option<RouterGroups>, ConfigError> {
    let count = fields.count("n_group")?.unwrap_or(count);
    let chosen = fields.count("topk_group")?.unwrap_or(chosen);
    if count == 1 {
        return Ok(None);
    }
    // A group is as good as its best two.
    if experts % count != 0 || experts < 2 * count {
        let expected = format!("a divisor of {experts} experts, with two in a group at least");
        return Err(fields.value("n_group", count, expected));
    }
    if chosen > count || chosen * (experts / count) < of_token {
        let expected =
            format!("at most {count} groups, with {of_token} experts in the chosen ones");
        return Err(fields.value("topk_group", chosen, expected));
    }
    Ok(Some(RouterGroups { count, chosen }))
}
