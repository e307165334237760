//! The backward pass of packed products.

use firebox::Target;

use {
    crate::operations::{matrix, read, weights},
    crate::weights::{SHAPES, numbers},
    burn::tensor::Tensor,
    firebox::quant::ops,
};

/// `dx` of a packed product, after others and before others, against that of the same product with the
/// dense weight; nothing else has one.
pub(crate) fn the_activation_gets_the_dense_gradient<T: Target>() {
    // Every product below is another shape that a device tunes itself for, so a few have to do.
    for shape @ [o, i] in [SHAPES[3], SHAPES[5]] {
        for (of, dense, packed) in weights::<T>(shape).into_iter().step_by(3) {
            for m in [1, 20] {
                let gradient = |product: &dyn Fn(Tensor<2>) -> Tensor<2>| {
                    let x = matrix::<T>(numbers(m * i, 8), [m, i]);
                    let x = x.autodiff().require_grad();
                    let weights = matrix::<T>(numbers(m * o, 9), [m, o]);
                    let loss = (product(x.clone() * 2.0) * weights).sum();
                    let gradients = loss.backward();
                    read(x.grad(&gradients).expect("x has a gradient"))
                };
                let dense = matrix::<T>(dense.clone(), shape);
                let expected = gradient(&|x| x.matmul(dense.clone().transpose()));
                let found = gradient(&|x| ops::linear(x, &packed));
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (found - expected).abs();
                    assert!(error <= 1e-5, "{of} m {m}: {found} for {expected}");
                }
                assert!(found.iter().any(|dx| *dx != 0.0), "{of}");
            }
        }
    }
}

/// The gradient that reaches the scale of the very first norm, through every layer of a model that streams and of one
/// that does not.
pub(crate) fn streamed_weights_give_the_loaded_gradient<T: Target>() {
    use burn::{
        module::Param,
        tensor::{Int, TensorData},
    };
    use firebox::{LoadConfig, Loader, Strategy, model::CausalLm};

    let golden = crate::common::Golden("llama_bf16_untied");
    let gradient = |strategy| {
        let device = T::device(0).expect("a device").autodiff();
        let config = LoadConfig::new(golden.path("").to_string_lossy())
            .dtype(firebox::DType::F32)
            .quant("nf4".parse().expect("a spec"))
            .strategy(strategy);
        let loader = Loader::<T>::on(config, device.clone()).expect("a checkpoint");
        let mut model = loader.load::<CausalLm>().expect("a model").model;
        let norm = model.blocks[0].attention_norm.as_mut().expect("a norm");
        norm.scale = Param::from_tensor(norm.scale.val());
        let ids = TensorData::from([[1_i32, 2, 3]]);
        let logits = model.forward(Tensor::<2, Int>::from_data(ids, &device));
        let gradients = (logits.clone() * logits).mean().backward();
        let norm = model.blocks[0].attention_norm.as_ref().expect("a norm");
        let scale = norm.scale.val();
        crate::common::values(scale.grad(&gradients).expect("it is trained"))
    };
    let (expected, found) = (gradient(Strategy::Full), gradient(Strategy::Streaming));
    assert!(expected.iter().any(|number| *number != 0.0));
    let error = crate::common::max_abs_difference(&found, &expected);
    assert!(error <= 1e-5, "largest error {error}");
}
