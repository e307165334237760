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

/// Of a packed model in packed rows, with layers that are computed twice and logits by chunks. Would catch an operation that a device has
/// not, and tensors of the graph outside in the one inside.
pub(crate) fn losses_give_the_gradients_of_an_ordinary_graph<T: Target>() {
    use burn::tensor::{Int, TensorData, activation::log_softmax};
    use firebox::{
        LoadConfig, Loader,
        adapter::AdapterConfig,
        model::{CausalLm, Documents, LossConfig},
    };

    let golden = crate::common::Golden("llama_bf16_untied");
    let adapter: AdapterConfig = "lora:rank=2,alpha=4".parse().expect("an adapter");
    let config = LoadConfig::new(golden.path("").to_string_lossy())
        .dtype(firebox::DType::F32)
        .quant("nf4".parse().expect("a spec"))
        .adapter(adapter);
    let loader = Loader::<T>::new(config).expect("a checkpoint");
    let model = loader.load::<CausalLm>().expect("a model").model;
    let documents = [0..5usize, 5..12];
    let ids: Vec<u32> = (0..12).map(|nth| nth * 37 % 300).collect();
    let labels: Vec<Option<u32>> = (0..12)
        .map(|nth| (nth % 4 != 3).then_some(nth * 11))
        .collect();

    let plain = documents.clone().map(|range| {
        let len = range.len();
        let ids: Vec<i32> = ids[range.clone()].iter().map(|id| *id as i32).collect();
        let ids = TensorData::new(ids, [1, len]);
        let logits = model.forward(Tensor::<2, Int>::from_data(ids, loader.device()));
        let labels = labels[range].iter();
        let asked: Vec<f32> = labels
            .clone()
            .map(|label| f32::from(u8::from(label.is_some())))
            .collect();
        let next: Vec<i32> = labels.map(|label| label.unwrap_or(0) as i32).collect();
        let next = Tensor::<3, Int>::from_data(TensorData::new(next, [1, len, 1]), loader.device());
        let asked = Tensor::<3>::from_data(TensorData::new(asked, [1, len, 1]), loader.device());
        (log_softmax(logits, 2).gather(2, next) * asked).sum().neg()
    });
    let [first, second] = plain;
    let plain = first + second;
    let starts = documents
        .iter()
        .flat_map(|range| vec![range.start as u32; range.len()]);
    let starts: Vec<u32> = starts.collect();
    let documents = Documents::new(&starts, [1, 12]).expect("documents");
    let config = LossConfig {
        recompute: true,
        rows: 4.try_into().expect("some rows"),
        ..LossConfig::new(documents)
    };
    let loss = model.loss(&ids, &labels, &config).expect("a loss");

    let expected = plain.clone().into_scalar::<f32>();
    let found = loss.clone().into_scalar::<f32>();
    assert!(
        (found - expected).abs() / expected < 1e-5,
        "{found} for {expected}"
    );
    let of = |gradients: burn::tensor::Gradients| {
        let linears = model.blocks.iter().flat_map(|block| block.linears());
        let factors = linears.flat_map(|linear| &linear.adapters);
        let factors = factors.filter_map(|adapter| adapter.low_rank.as_ref());
        let gradient =
            factors.map(|factors| factors.b.val().grad(&gradients).expect("it is trained"));
        gradient
            .flat_map(crate::common::values)
            .collect::<Vec<f32>>()
    };
    let (expected, found) = (of(plain.backward()), of(loss.backward()));
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(most > 0.0);
    let error = crate::common::max_abs_difference(&found, &expected) / most;
    assert!(error <= 1e-4, "largest error {error}");
}
