//! The walk through the half of a layer that looks at each token alone.
//!
//! Letters: `f` features of the model, `m` features inside an MLP, `e` experts.

use super::{
    names::{MlpPart, Part},
    spec::{ExpertStorage, ExpertsSpec, FeedForwardSpec, Gate, MlpSpec, SharedExpertSpec},
    visit::{InLayer, Stack, Visit},
};
use crate::{config::Role, model::layers::NormSpec};

/// What a visitor made of a feed-forward half.
pub(super) enum FeedForwardTree<'s, V: Visit> {
    Mlp(MlpTree<'s, V>),
    Experts(ExpertsTree<'s, V>),
    Both(BothTree<'s, V>),
}

/// What it made of an MLP and experts side by side.
pub(super) struct BothTree<'s, V: Visit> {
    pub(super) mlp: MlpTree<'s, V>,
    pub(super) mlp_norm_after: V::Norm,
    pub(super) experts_norm: V::Norm,
    pub(super) experts: ExpertsTree<'s, V>,
    pub(super) experts_norm_after: V::Norm,
}

/// What it made of an MLP.
pub(super) struct MlpTree<'s, V: Visit> {
    pub(super) spec: &'s MlpSpec,
    pub(super) matrices: MlpMatrices<V>,
}

/// What it made of the matrices of an MLP.
pub(super) enum MlpMatrices<V: Visit> {
    Gated {
        gate: V::Matrix,
        up: V::Matrix,
        down: V::Matrix,
    },
    Fused {
        gate_up: V::Matrix,
        down: V::Matrix,
    },
    Plain {
        up: V::Matrix,
        down: V::Matrix,
    },
}

/// What it made of the experts of a layer.
pub(super) struct ExpertsTree<'s, V: Visit> {
    pub(super) spec: &'s ExpertsSpec,
    pub(super) router: V::Matrix,
    /// `[e]`.
    pub(super) correction: Option<V::Values>,
    pub(super) scales: Option<ScalesTree<V>>,
    pub(super) experts: Vec<MlpTree<'s, V>>,
    pub(super) shared: Option<SharedTree<'s, V>>,
}

/// What it made of the scales of a router.
pub(super) struct ScalesTree<V: Visit> {
    /// `[f]`.
    pub(super) input: V::Values,
    /// `[e]`.
    pub(super) each: V::Values,
}

/// What it made of an MLP beside the experts.
pub(super) struct SharedTree<'s, V: Visit> {
    pub(super) mlp: MlpTree<'s, V>,
    /// `[1, f]`.
    pub(super) gate: Option<V::Matrix>,
}

/// The half of a layer that looks at each token alone.
pub(super) fn feed_forward<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    spec: &'s FeedForwardSpec,
    norm: NormSpec,
) -> Result<FeedForwardTree<'s, V>, V::Error> {
    let f = [at.spec.features];
    Ok(match spec {
        FeedForwardSpec::Mlp(spec) => FeedForwardTree::Mlp(mlp_of_layer(at, spec)?),
        FeedForwardSpec::Experts(spec) => FeedForwardTree::Experts(experts(at, spec)?),
        FeedForwardSpec::Both { mlp, experts: some } => FeedForwardTree::Both(BothTree {
            mlp: mlp_of_layer(at, mlp)?,
            mlp_norm_after: at.norm(Part::MlpNormBeside, &f, norm)?,
            experts_norm: at.norm(Part::ExpertsNorm, &f, norm)?,
            experts: experts(at, some)?,
            experts_norm_after: at.norm(Part::ExpertsNormAfter, &f, norm)?,
        }),
    })
}

/// The one MLP of the layer.
fn mlp_of_layer<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    spec: &'s MlpSpec,
) -> Result<MlpTree<'s, V>, V::Error> {
    mlp(spec, at, |at, part, shape| {
        at.linear(part.of_layer(), shape, spec.bias)
    })
}

/// The experts of the layer, and what goes with them.
fn experts<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    spec: &'s ExpertsSpec,
) -> Result<ExpertsTree<'s, V>, V::Error> {
    let (e, f) = (spec.count, at.spec.features);
    let router = at.path(Part::Router);
    let router = at
        .visitor
        .matrix(router, Role::Router, [e, f], spec.router.bias)?;
    let correction = match spec.router.correction {
        true => Some(at.values(Part::RouterCorrection, &[e])?),
        false => None,
    };
    let scales = match spec.router.scaled {
        true => Some(ScalesTree {
            input: at.values(Part::RouterInputScale, &[f])?,
            each: at.values(Part::RouterScales, &[e])?,
        }),
        false => None,
    };
    let experts = (0..e).map(|nth| expert(at, spec, nth));
    Ok(ExpertsTree {
        spec,
        router,
        correction,
        scales,
        experts: experts.collect::<Result<_, _>>()?,
        shared: match &spec.shared {
            Some(spec) => Some(shared(at, spec)?),
            None => None,
        },
    })
}

/// One expert.
fn expert<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    spec: &'s ExpertsSpec,
    nth: usize,
) -> Result<MlpTree<'s, V>, V::Error> {
    mlp(&spec.each, at, |at, part, shape| {
        let path = at.path(part.of_expert());
        let stack = match spec.stored {
            ExpertStorage::Each => None,
            ExpertStorage::Stacked | ExpertStorage::StackedTransposed => Some(Stack {
                tensor: path.replace(".{}", ""),
                nth,
                transposed: spec.stored == ExpertStorage::StackedTransposed,
            }),
        };
        let path = path.replace("{}", &nth.to_string());
        at.visitor.expert(path, stack, shape, spec.each.bias)
    })
}

/// An MLP beside the experts.
fn shared<'s, V: Visit>(
    at: &mut InLayer<'s, '_, V>,
    spec: &'s SharedExpertSpec,
) -> Result<SharedTree<'s, V>, V::Error> {
    Ok(SharedTree {
        mlp: mlp(&spec.mlp, at, |at, part, shape| {
            at.linear(part.of_shared(), shape, spec.mlp.bias)
        })?,
        gate: match spec.gated {
            true => {
                // As small as a router, and as much depends on it.
                let path = at.path(Part::SharedMix);
                let shape = [1, at.spec.features];
                Some(at.visitor.matrix(path, Role::Router, shape, false)?)
            }
            false => None,
        },
    })
}

/// The matrices of an MLP, each made by `linear`.
fn mlp<'s, 'v, V: Visit>(
    spec: &'s MlpSpec,
    at: &mut InLayer<'s, 'v, V>,
    mut linear: impl FnMut(&mut InLayer<'s, 'v, V>, MlpPart, [usize; 2]) -> Result<V::Matrix, V::Error>,
) -> Result<MlpTree<'s, V>, V::Error> {
    let (f, m) = (at.spec.features, spec.features);
    let matrices = match spec.gate {
        Gate::None => MlpMatrices::Plain {
            up: linear(at, MlpPart::Up, [m, f])?,
            down: linear(at, MlpPart::Down, [f, m])?,
        },
        Gate::Apart => MlpMatrices::Gated {
            gate: linear(at, MlpPart::Gate, [m, f])?,
            up: linear(at, MlpPart::Up, [m, f])?,
            down: linear(at, MlpPart::Down, [f, m])?,
        },
        Gate::Fused | Gate::Interleaved => MlpMatrices::Fused {
            gate_up: linear(at, MlpPart::GateUp, [2 * m, f])?,
            down: linear(at, MlpPart::Down, [f, m])?,
        },
    };
    Ok(MlpTree { spec, matrices })
}
