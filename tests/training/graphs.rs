//! What the tests of losses share: models with adapters that change something, and gradients by parameter.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Gradients, Tensor, TensorData},
};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy,
    adapter::AdapterConfig,
    model::{CausalLm, Documents, LossConfig},
};

use crate::common::{Golden, values};

/// A model with a new adapter, none of whose factors is zero.
pub(crate) fn adapted(base: Golden, quant: &str, strategy: Strategy, spec: &str) -> CausalLm {
    let adapter: AdapterConfig = spec.parse().expect(spec);
    let config = LoadConfig::new(base.path("").to_string_lossy())
        .dtype(firebox::target::DType::F32)
        .quant(quant.parse().expect(quant))
        .strategy(strategy)
        .adapter(adapter);
    let loader = Loader::<Cpu>::new(config).expect(base.0);
    let model: CausalLm = loader.load().expect(base.0).model;
    model.map(&mut Shake(1))
}

/// Adds small numbers to all that is trained.
pub(crate) struct Shake(pub(crate) u32);

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        if !value.is_require_grad() {
            return param;
        }
        let count = value.shape().num_elements();
        let numbers = (0..count).map(|_| {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) as f32 / 16_777_216.0 * 0.1 - 0.05
        });
        let data = TensorData::new(numbers.collect::<Vec<f32>>(), value.shape());
        let device = value.device().without_autodiff();
        let numbers = Tensor::<D>::from_data(data, &device);
        let (id, value, mapper) = param.consume();
        let value = value.without_autodiff() + numbers;
        Param::from_mapped_value(id, value.autodiff().require_grad(), mapper)
    }
}

/// The gradients of all that is trained, in the order of the module; `None` where one has none.
pub(crate) fn gradients(model: &CausalLm, gradients: &Gradients) -> Vec<Option<Vec<f32>>> {
    struct Collect<'a>(&'a Gradients, Vec<Option<Vec<f32>>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                self.1.push(value.grad(self.0).map(values));
            }
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    model.visit(&mut collect);
    collect.1
}

/// The loss and its gradients.
pub(crate) fn step(
    model: &CausalLm,
    ids: &[u32],
    labels: &[Option<u32>],
    config: &LossConfig,
) -> (f32, Vec<Option<Vec<f32>>>) {
    let loss = model.loss(ids, labels, config).expect("a loss");
    let value = loss.clone().into_scalar::<f32>();
    (value, gradients(model, &loss.backward()))
}

/// The largest difference of two gradients of one parameter, of its largest value in the second; all parameters. Values that cancel
/// to a ten-thousandth of the largest of all count as noise of that.
pub(crate) fn difference(found: &[Option<Vec<f32>>], expected: &[Option<Vec<f32>>]) -> f32 {
    let most = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let all = expected.iter().flatten().map(|values| most(values));
    let noise = all.fold(0f32, f32::max) * 1e-4;
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).map(|pair| match pair {
        (Some(found), Some(expected)) => {
            assert_eq!(found.len(), expected.len());
            let apart: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
            most(&apart) / most(expected).max(noise)
        }
        // A matrix that no token went through has no gradient in one graph, and zeros in another.
        (found, expected) => {
            let zeros = [found, expected].into_iter().flatten().flatten();
            assert!(zeros.into_iter().all(|value| *value == 0.0));
            0.0
        }
    });
    pairs.fold(0.0, f32::max)
}

/// Two rows of documents of unequal lengths, the second filled up; some tokens without a label.
pub(crate) struct Packed {
    pub(crate) ids: Vec<u32>,
    pub(crate) labels: Vec<Option<u32>>,
    pub(crate) documents: Documents,
}

impl Packed {
    pub(crate) fn new() -> Self {
        let lengths: BTreeMap<usize, Vec<usize>> = [(0, vec![9, 1, 11]), (1, vec![17, 1, 1, 1, 1])]
            .into_iter()
            .collect();
        let mut starts = Vec::new();
        let mut labels = Vec::new();
        let token = |nth: usize| ((nth * 83 + 29) % 251 + 3) as u32;
        for lengths in lengths.values() {
            let mut first = 0;
            for len in lengths {
                for nth in first..first + len {
                    starts.push(first as u32);
                    let last = nth + 1 == first + len;
                    labels.push((!last && nth % 5 != 1).then(|| token(labels.len() + 1)));
                }
                first += len;
            }
        }
        let ids: Vec<u32> = (0..starts.len()).map(token).collect();
        Self {
            documents: Documents::new(&starts, [2, ids.len() / 2]).expect("documents"),
            ids,
            labels,
        }
    }

    pub(crate) fn config(&self, recompute: bool, rows: usize) -> LossConfig {
        LossConfig {
            recompute,
            rows: rows.try_into().expect("some rows"),
            ..LossConfig::new(self.documents.clone())
        }
    }
}
