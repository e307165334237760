//! What is learned through experts: gradients against differences.

use burn::{
    module::Param,
    tensor::{Device, Tensor},
};
use firebox::{
    LoadConfig, Loader,
    model::{
        CausalLm, Matrix,
        layers::{Experts, FeedForward},
    },
    target::{Cpu, DType, Target},
};

use super::common::{Golden, values};

/// The experts of the first layer that has them, on a device that records gradients.
fn experts(golden: Golden) -> Experts {
    let device = Cpu::device(0).expect("there is always a CPU").autodiff();
    let config = LoadConfig::new(golden.path("").to_string_lossy()).dtype(DType::F32);
    let loader = Loader::<Cpu>::on(config, device).expect(golden.0);
    let model = loader.load::<CausalLm>().expect(golden.0).model;
    let mut halves = model.blocks.into_iter().map(|block| block.feed_forward);
    let found = halves.find_map(|half| match half {
        FeedForward::Experts(experts) => Some(experts),
        _ => None,
    });
    found.expect("a layer of experts")
}

/// Values without a pattern, from -1 to 1.
fn some<const D: usize>(dims: [usize; D], seed: usize, device: &Device) -> Tensor<D> {
    let values = (0..dims.iter().product())
        .map(|k: usize| ((k * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0);
    let values: Vec<f32> = values.collect();
    Tensor::<1>::from_data(values.as_slice(), device).reshape(dims)
}

/// The same experts with another matrix of their router.
fn with_router(experts: &Experts, weight: Tensor<2>) -> Experts {
    let mut experts = experts.clone();
    experts.router.scores.weight = Matrix::Dense(Param::from_tensor(weight));
    experts
}

/// The weighted sum of what comes out.
fn loss(experts: &Experts, x: Tensor<3>, by: &Tensor<3>) -> Tensor<1> {
    (experts.forward(x) * by.clone()).sum()
}

fn number(loss: Tensor<1>) -> f64 {
    f64::from(values(loss)[0])
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

/// The slope along a direction is the gradient times it. Would catch scores that are taken for constants (no router would
/// learn), rows that are put back to other tokens on the way back, and a token that gets the gradient of one of its
/// experts only.
#[test]
fn gradients_go_through_experts_and_through_their_scores() {
    let models = [
        ("qwen2_moe_bf16", 1e-3),
        ("deepseek_v3_bf16", 1e-3),
        ("llama4_bf16", 1e-3),
        ("gpt_oss_bf16", 1e-4),
    ];
    for (name, step) in models {
        let experts = experts(Golden(name));
        let Matrix::Dense(router) = &experts.router.scores.weight else {
            panic!("{name}: routers are dense");
        };
        let router = router.val().detach();
        let ([e, f], device) = (router.dims(), router.device());
        let x = some([2, 7, f], 1, &device);
        let by = some([2, 7, f], 2, &device);
        let (along_x, along_router) = (some([2, 7, f], 3, &device), some([e, f], 4, &device));

        let (x_leaf, router_leaf) = (x.clone().require_grad(), router.clone().require_grad());
        let learns = with_router(&experts, router_leaf.clone());
        let gradients = loss(&learns, x_leaf.clone(), &by).backward();
        let of_x = values(x_leaf.grad(&gradients).expect("x has one"));
        let of_router = values(router_leaf.grad(&gradients).expect("the router has one"));

        // Small enough that no token goes to another expert, and large enough for f32.
        let slope = |plus: f64, minus: f64| (plus - minus) / (2.0 * step);
        let at = |by_x: f64, by_router: f64| {
            let router = router.clone() + along_router.clone() * by_router;
            let x = x.clone() + along_x.clone() * by_x;
            number(loss(&with_router(&experts, router), x, &by))
        };
        let cases = [
            (
                "x",
                dot(&of_x, &values(along_x.clone())),
                slope(at(step, 0.0), at(-step, 0.0)),
            ),
            (
                "router",
                dot(&of_router, &values(along_router.clone())),
                slope(at(0.0, step), at(0.0, -step)),
            ),
        ];
        for (of, found, expected) in cases {
            let error = (found - expected).abs() / expected.abs().max(1e-2);
            assert!(
                error < 0.02,
                "{name}, {of}: {found}, {expected} by differences"
            );
        }
    }
}
