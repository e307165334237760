//! What the CPU computes in one walk against operations of Burn, which tensors inside of a graph go through.

use burn::{
    module::{Param, ParamId},
    tensor::{DType, Tensor},
};
use firebox::{
    Cpu, Target,
    config::KvCacheDtype,
    model::layers::{
        Activation, Documents, GatedMlp, Gating, KeptRows, Linear, Matrix, Mlp, Norm, NormKind,
        NormSpec, Pairs, QueryGrowth, Rope, RotarySpec, Scores, Sees, Sight, attend,
    },
};

use crate::common::{max_abs_difference, values};

/// Numbers without a pattern.
fn some<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let numbers: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
        .collect();
    let device = Cpu::device(0).expect("there is always a CPU");
    Tensor::<1>::from_data(numbers.as_slice(), (&device, DType::F32)).reshape(shape)
}

/// The same inside of a graph.
fn tracked<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().autodiff().require_grad()
}

fn assert_near<const D: usize>(host: Tensor<D>, graph: Tensor<D>, what: &str) {
    assert!(!host.is_tracked() && graph.is_tracked(), "{what}");
    assert_eq!(host.dims(), graph.dims(), "{what}");
    let off = max_abs_difference(&values(host), &values(graph.without_autodiff()));
    assert!(off < 4e-6, "{what}: {off}");
}

#[test]
fn norms_are_the_same() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        for (plus_one, bias) in [(false, false), (true, true)] {
            let spec = NormSpec {
                kind,
                eps: 1e-5,
                plus_one,
                bias,
                rounds_first: true,
            };
            for features in [5, 64, 300] {
                let weights = |seed| Param::initialized(ParamId::new(), some([features], seed));
                let norm = Norm::new(weights(1), bias.then(|| weights(2)), spec);
                let x = some([2, 150, features], 3);
                let what = format!("{spec:?}, {features}");
                assert_near(norm.forward(x.clone()), norm.forward(tracked(&x)), &what);
                // Heads of a product, which do not lie one after another.
                let heads = some([2, 7, 3, features], 4).swap_dims(1, 2);
                let (host, graph) = (norm.forward(heads.clone()), norm.forward(tracked(&heads)));
                assert_near(host, graph, &what);
                assert_near(spec.unit(x.clone()), spec.unit(tracked(&x)), &what);
            }
        }
    }
}

#[test]
fn rotations_are_the_same() {
    let device = Cpu::device(0).expect("there is always a CPU");
    let documents = Documents::new(&[0, 0, 0, 3, 3, 0, 1, 1, 1, 1], [2, 5]).expect("documents");
    for pairs in [Pairs::Halves, Pairs::Interleaved] {
        for features in [8, 32] {
            let spec = RotarySpec {
                pairs,
                ..RotarySpec::new(features, 10000.0)
            };
            let rope = Rope::new(spec);
            for rotation in [
                rope.at(7..12, &device, DType::F32),
                rope.in_documents(&documents, &device, DType::F32),
            ] {
                for x in [
                    some([2, 6, 5, 32], 1),
                    some([2, 5, 6, 32], 2).swap_dims(1, 2),
                ] {
                    let (host, graph) = (rotation.apply(x.clone()), rotation.apply(tracked(&x)));
                    assert_near(host, graph, &format!("{pairs:?}, {features}"));
                }
            }
        }
    }
}

#[test]
fn gates_are_the_same() {
    let linear = |seed| {
        let weight = Param::initialized(ParamId::new(), some([24, 24], seed));
        Linear::new(Matrix::Dense(weight), None)
    };
    for activation in [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::ReluSquared,
    ] {
        let mlp = Mlp::Gated(GatedMlp {
            gate_proj: linear(1),
            up_proj: linear(2),
            down_proj: linear(3),
            gating: Gating::By(activation),
        });
        let x = some([2, 300, 24], 4) * 3.0;
        let (host, graph) = (mlp.forward(x.clone()), mlp.forward(tracked(&x)));
        let largest = values(host.clone())
            .into_iter()
            .fold(1.0, |a: f32, b| a.max(b.abs()));
        assert_near(host / largest, graph / largest, &format!("{activation:?}"));
    }
}

/// All masks, sinks, bent scores and growing queries, over rows of every kind that a cache keeps.
#[test]
fn attention_is_the_same() {
    let starts = |b: usize, s: usize| -> Documents {
        let row = |k: usize| {
            [0, 30, 31, 90]
                .into_iter()
                .rfind(|start| *start <= k)
                .unwrap_or(0)
        };
        let starts: Vec<u32> = (0..b).flat_map(|_| (0..s).map(|k| row(k) as u32)).collect();
        Documents::new(&starts, [b, s]).expect("documents")
    };
    let kinds = [
        None,
        Some(KvCacheDtype::F16),
        Some(KvCacheDtype::Bf16),
        Some(KvCacheDtype::Int8),
    ];
    // b, h, kv, t, s, d, e.
    for [b, h, kv, t, s, d, e] in [[2, 8, 2, 100, 130, 12, 20], [1, 6, 3, 1, 100, 16, 16]] {
        let q = some([b, t, h, d], 1).swap_dims(1, 2);
        let [k, v] = [some([b, kv, s, d], 2), some([b, kv, s, e], 3)];
        for sees in [Sees::All, Sees::Window(20), Sees::Chunk(33)] {
            for sight in [Sight::default(), Sight::new(&starts(b, s))] {
                for (soft_cap, growth, sinks) in [
                    (None, None, None),
                    (Some(2.0), None, Some(some([h], 5))),
                    (
                        None,
                        Some(QueryGrowth {
                            factor: 0.3,
                            positions: 40,
                            offset: 1,
                        }),
                        None,
                    ),
                ] {
                    let scores = Scores {
                        scale: 0.6,
                        soft_cap,
                        sees,
                        growth,
                    };
                    for kind in kinds {
                        let kept = || [&k, &v].map(|rows| KeptRows::new(rows.clone(), kind));
                        let by = |q| attend(q, kept(), scores, sinks.clone(), &sight);
                        let what = format!("{kind:?}, {scores:?}, {t} of {s}");
                        assert_near(by(q.clone()), by(tracked(&q)), &what);
                    }
                }
            }
        }
    }
}
