//! Factors inside a Burn module.

use burn::{
    module::{
        Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
        Param,
    },
    tensor::{Device, Tensor},
};

use super::adapter::LowRank;

/// The type of the container that records give for the parameters.
const CONTAINER: &str = "Struct:LowRank";

/// A, B and the magnitude.
type Factors = (Param<Tensor<2>>, Param<Tensor<2>>, Option<Param<Tensor<1>>>);

impl LowRank {
    /// What the parameters mean, as paths of records name it: another kind, rank or scale is another change.
    fn meaning(&self) -> String {
        let kind = match &self.magnitude {
            Some(_) => "dora",
            None => "lora",
        };
        let rank = self.a.lazy_shape()[0];
        format!("{kind}:rank={rank},scale={}", self.scale)
    }

    /// The same with other parameters.
    fn each(self, f: impl FnOnce(Factors) -> Factors) -> Self {
        let (a, b, magnitude) = f((self.a, self.b, self.magnitude));
        Self {
            a,
            b,
            magnitude,
            ..self
        }
    }
}

impl Module for LowRank {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let devices = self.b.collect_devices(self.a.collect_devices(devices));
        self.magnitude.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|factors| factors.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|factors| factors.to_device(device))
    }

    fn train(self) -> Self {
        self.each(Module::train)
    }

    fn valid(&self) -> Self {
        self.clone().each(|factors| factors.valid())
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let meaning = self.meaning();
        visitor.enter_module(&meaning, CONTAINER);
        visit("a", &self.a, visitor);
        visit("b", &self.b, visitor);
        visit("magnitude", &self.magnitude, visitor);
        visitor.exit_module(&meaning, CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let meaning = self.meaning();
        mapper.enter_module(&meaning, CONTAINER);
        let mapped = self.each(|(a, b, magnitude)| {
            (
                map("a", a, mapper),
                map("b", b, mapper),
                map("magnitude", magnitude, mapper),
            )
        });
        mapper.exit_module(&meaning, CONTAINER);
        mapped
    }
}

fn visit<P: Module, V: ModuleVisitor>(name: &str, part: &P, visitor: &mut V) {
    visitor.enter_module(name, CONTAINER);
    part.visit(visitor);
    visitor.exit_module(name, CONTAINER);
}

fn map<P: Module, M: ModuleMapper>(name: &str, part: P, mapper: &mut M) -> P {
    mapper.enter_module(name, CONTAINER);
    let part = Module::map(part, mapper);
    mapper.exit_module(name, CONTAINER);
    part
}

impl ModuleDisplayDefault for LowRank {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .add_debug_attribute("scale", &self.scale)
            .add("a", &self.a)
            .add("b", &self.b)
            .add("magnitude", &self.magnitude)
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for LowRank {}
