//! From finished matrices to the half of a layer that looks at each token alone.

use super::{
    spec::{Gate, MlpSpec},
    take::Taker,
    walk_feed::{ExpertsTree, FeedForwardTree, MlpMatrices, MlpTree},
};
use crate::model::layers::{
    Experts, FeedForward, FusedMlp, GateRows, GatedMlp, Gating, Mlp, NormSpec, PlainMlp, Router,
    RouterScales, SharedExpert, SideBySide,
};

/// The module of a feed-forward half.
pub(super) fn feed_forward(tree: FeedForwardTree<'_, Taker<'_>>, norm: NormSpec) -> FeedForward {
    match tree {
        FeedForwardTree::Mlp(tree) => FeedForward::Mlp(mlp(tree)),
        FeedForwardTree::Experts(tree) => FeedForward::Experts(experts(tree, norm)),
        FeedForwardTree::Both(tree) => FeedForward::Both(SideBySide {
            mlp: mlp(tree.mlp),
            mlp_norm_after: tree.mlp_norm_after,
            experts_norm: tree.experts_norm,
            experts: experts(tree.experts, norm),
            experts_norm_after: tree.experts_norm_after,
        }),
    }
}

fn experts(tree: ExpertsTree<'_, Taker<'_>>, norm: NormSpec) -> Experts {
    Experts {
        router: Router {
            scores: tree.router,
            correction: tree.correction,
            scales: tree.scales.map(|scales| RouterScales {
                input: scales.input,
                each: scales.each,
                norm,
            }),
            chosen: tree.spec.chosen,
            spec: tree.spec.router,
        },
        experts: tree.experts.into_iter().map(mlp).collect(),
        shared: tree.shared.map(|shared| SharedExpert {
            mlp: mlp(shared.mlp),
            gate: shared.gate,
        }),
        part: None,
    }
}

fn mlp(tree: MlpTree<'_, Taker<'_>>) -> Mlp {
    let MlpTree { spec, matrices } = tree;
    match matrices {
        MlpMatrices::Gated { gate, up, down } => Mlp::Gated(GatedMlp {
            gate_proj: gate,
            up_proj: up,
            down_proj: down,
            gating: gating(spec),
        }),
        MlpMatrices::Fused { gate_up, down } => Mlp::Fused(FusedMlp {
            gate_up_proj: gate_up,
            down_proj: down,
            rows: match spec.gate {
                Gate::Interleaved => GateRows::Interleaved,
                Gate::Fused | Gate::Apart | Gate::None => GateRows::First,
            },
            gating: gating(spec),
        }),
        MlpMatrices::Plain { up, down } => Mlp::Plain(PlainMlp {
            up_proj: up,
            down_proj: down,
            activation: spec.activation,
        }),
    }
}

fn gating(spec: &MlpSpec) -> Gating {
    match spec.clamp {
        Some(clamp) => Gating::Clamped(clamp),
        None => Gating::By(spec.activation),
    }
}
