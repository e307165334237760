//! The tensors of a module that are trained, by the path of each.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};

use xxhash_rust::xxh3::Xxh3Default;

use super::param_path::ParamPath;

/// The values of all trained tensors of a module.
pub(super) fn values<M: Module>(module: &M) -> BTreeMap<String, TensorData> {
    #[derive(Default)]
    struct TrainedValues(ParamPath, BTreeMap<String, TensorData>);
    impl ModuleVisitor for TrainedValues {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.leave();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val();
            if values.is_require_grad() {
                let data = values.without_autodiff().into_data();
                self.1.insert(self.0.path(), data);
            }
        }
    }
    let mut values = TrainedValues::default();
    module.visit(&mut values);
    values.1
}

/// A checksum of all of them.
pub(super) fn digest(values: &BTreeMap<String, TensorData>) -> u64 {
    let mut digest = Xxh3Default::new();
    for (path, data) in values {
        digest.update(path.as_bytes());
        digest.update(data.as_bytes());
    }
    digest.digest()
}

/// The first tensor with a value that is no number, or infinite.
pub(super) fn not_finite(values: &BTreeMap<String, TensorData>) -> Option<&str> {
    let is_finite = |data: &TensorData| data.iter::<f32>().all(f32::is_finite);
    let found = values.iter().find(|(_, data)| !is_finite(data));
    found.map(|(path, _)| path.as_str())
}

/// Gives trained tensors the values that [`values`] had of them. The path of the first that has none, or none of its shape.
pub(super) fn restore<M: Module>(
    module: M,
    values: BTreeMap<String, TensorData>,
) -> Result<M, String> {
    struct Restore(ParamPath, BTreeMap<String, TensorData>, Option<String>);
    impl ModuleMapper for Restore {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.leave();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, values, mapper) = param.consume();
            if !values.is_require_grad() {
                return Param::from_mapped_value(id, values, mapper);
            }
            let path = self.0.path();
            let data = self.1.remove(&path);
            let fits = |data: &TensorData| **data.shape() == values.dims();
            let Some(data) = data.filter(fits) else {
                self.2.get_or_insert(path);
                return Param::from_mapped_value(id, values, mapper);
            };
            let dtype: DType = data.dtype();
            let values = Tensor::from_data(data, (&values.device(), dtype)).require_grad();
            Param::from_mapped_value(id, values, mapper)
        }
    }
    let mut restore = Restore(ParamPath::default(), values, None);
    let module = module.map(&mut restore);
    let Restore(_, left, missing) = restore;
    match missing.or(left.into_keys().next()) {
        None => Ok(module),
        Some(path) => Err(path),
    }
}
