//! A model of which Burn sees the trained parameters alone.

use std::{collections::HashSet, ops::Deref};

use burn::{
    module::{
        Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
        ModuleVisitor, Param, ParamId,
    },
    tensor::{Device, Tensor},
};

/// A model of which records, optimizers and counts see the trained parameters alone.
///
/// A record of a whole model holds its packed words too, and Burn's `Learner` writes one at every checkpoint. As a field of the
/// module that is trained, this keeps a record to the values that training changes; a record that lacks one of them, or has
/// others, is refused as always. Moves between devices take the whole model along.
#[derive(Debug, Clone)]
pub struct Trained<M> {
    model: M,
    ids: HashSet<ParamId>,
}

impl<M: Module> Trained<M> {
    /// Burn sees the parameters that want gradients at this moment, and never the others.
    pub fn new(model: M) -> Self {
        #[derive(Default)]
        struct Ids(HashSet<ParamId>);
        impl ModuleVisitor for Ids {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    self.0.insert(param.id);
                }
            }
        }
        let mut ids = Ids::default();
        model.visit(&mut ids);
        Self { model, ids: ids.0 }
    }

    /// The model, with all its parameters.
    pub fn into_inner(self) -> M {
        self.model
    }
}

impl<M> Deref for Trained<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}

impl<M: Module> Module for Trained<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.model.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self {
            model: self.model.fork(device),
            ..self
        }
    }

    fn to_device(self, device: &Device) -> Self {
        Self {
            model: self.model.to_device(device),
            ..self
        }
    }

    fn train(self) -> Self {
        Self {
            model: self.model.train(),
            ..self
        }
    }

    fn valid(&self) -> Self {
        Self {
            model: self.model.valid(),
            ids: self.ids.clone(),
        }
    }

    fn materialize(self) -> Self {
        Self {
            model: self.model.materialize(),
            ..self
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.model.visit(&mut TrainedVisit {
            ids: &self.ids,
            visitor,
        });
    }

    fn map<P: ModuleMapper>(self, mapper: &mut P) -> Self {
        let mut map = Map {
            ids: self.ids,
            mapped: HashSet::new(),
            mapper,
        };
        let model = self.model.map(&mut map);
        Self {
            model,
            ids: map.mapped,
        }
    }
}

struct TrainedVisit<'a, V> {
    ids: &'a HashSet<ParamId>,
    visitor: &'a mut V,
}

impl<V: ModuleVisitor> ModuleVisitor for TrainedVisit<'_, V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.contains(&param.id) {
            self.visitor.visit_float(param);
        }
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.visitor.visit_flag(flag);
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.visitor.enter_module(name, container_type);
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.visitor.exit_module(name, container_type);
    }
}

struct Map<'a, P> {
    ids: HashSet<ParamId>,
    /// A mapper may give a parameter another id: a record brings its own.
    mapped: HashSet<ParamId>,
    mapper: &'a mut P,
}

impl<P: ModuleMapper> ModuleMapper for Map<'_, P> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.ids.contains(&param.id) {
            return param;
        }
        let param = self.mapper.map_float(param);
        self.mapped.insert(param.id);
        param
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.mapper.map_flag(flag)
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.mapper.enter_module(name, container_type);
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.mapper.exit_module(name, container_type);
    }
}

impl<M: Module> ModuleDisplayDefault for Trained<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl<M: Module> ModuleDisplay for Trained<M> {}
