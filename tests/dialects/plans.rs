//! Plans that are written as JSON and read back: the plan is the same, and so is the model that it loads.

use std::{collections::BTreeMap, path::Path};

use common::Golden;
use firebox::{
    Cpu, DType, Error, LoadConfig, Loader,
    model::{Architecture, BuildError, CausalLm, ConfigError, Link, Slot, Weight, Weights},
    plan::{Action, Plan, PlanError},
    quant::{QuantSpec, kernels::format::Packed},
};
use serde_json::Value;

use super::{QUANTIZED, common, load};

/// Every weight of a model, without the model.
struct Everything(BTreeMap<String, Stored>);

#[derive(Debug, PartialEq)]
enum Stored {
    Dense(Vec<f32>),
    Packed(Vec<Packed>),
}

impl Architecture for Everything {
    type Config = <CausalLm as Architecture>::Config;

    fn config(json: &Value) -> Result<Self::Config, ConfigError> {
        CausalLm::config(json)
    }

    fn slots(config: &Self::Config) -> Vec<Slot> {
        CausalLm::slots(config)
    }

    fn links(config: &Self::Config) -> Vec<Link> {
        CausalLm::links(config)
    }

    fn leaves_out(config: &Self::Config, tensor: &str) -> bool {
        CausalLm::leaves_out(config, tensor)
    }

    fn build(_: &Self::Config, weights: &mut Weights) -> Result<Self, BuildError> {
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        let stored = names.into_iter().map(|name| {
            let stored = match weights.take(&name)? {
                Weight::Dense(parts, _) => {
                    let values = parts.into_iter().flat_map(|part| {
                        let values = part.into_data().convert::<f32>();
                        values.try_into_vec::<f32>().expect("values of f32")
                    });
                    Stored::Dense(values.collect())
                }
                Weight::Packed(parts) => {
                    Stored::Packed(parts.iter().map(|part| part.to_host()).collect())
                }
                Weight::Streamed(_) => panic!("nothing streams here"),
            };
            Ok((name, stored))
        });
        Ok(Self(stored.collect::<Result<_, BuildError>>()?))
    }
}

fn written(plan: &Plan) -> Plan {
    let text = plan.to_json().expect("it has words");
    let read = Plan::from_json(&text).expect("it is a plan");
    assert_eq!(read, *plan);
    assert_eq!(read.to_json().as_deref(), Ok(&*text));
    read
}

/// Loads the checkpoint at `path` as configured, and as the written plan says: nothing else is asked for then.
fn same(path: &Path, config: LoadConfig, what: &str) {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let read = written(&loader.plan::<Everything>().expect("a plan"));
    let expected = loader.load::<Everything>().expect("loads").model.0;
    let again = Loader::<Cpu>::new(load(path)).expect("a checkpoint");
    let found = again.load_plan::<Everything>(read).expect("loads").model.0;
    assert_eq!(found.len(), expected.len(), "{what}");
    for (name, weight) in &expected {
        assert!(found[name] == *weight, "{what}: {name} is another");
    }
}

/// Would catch anything of a plan that JSON does not carry, and a load that chooses anew.
#[test]
fn a_plan_that_is_read_back_loads_the_same_weights() {
    for name in ["llama_bf16_untied", "llama_f16_tied_bias", "qwen3_bf16"] {
        let path = Golden(name).path("");
        same(&path, load(&path), name);
        for quant in [
            "nf4:nested",
            "fp8:e4m3,scale=32x64",
            "hqq:bits=3",
            "wna16:bits=4,group=16,asymmetric",
            "auto:bits=5",
        ] {
            let config = load(&path).quant(quant.parse().expect("a spec"));
            same(&path, config.clone(), &format!("{name} {quant}"));
            if quant == "nf4:nested" {
                let balanced = config.presinq(true);
                same(&path, balanced, &format!("{name} {quant} balanced"));
            }
        }
    }
    for quantized in QUANTIZED {
        let folder = quantized.checkpoint();
        same(folder.path(), load(folder.path()), quantized.name);
    }
}

fn error(config: LoadConfig, plan: Plan) -> PlanError {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    match loader.load_plan::<Everything>(plan) {
        Err(Error::Plan(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it loads"),
    }
}

/// Would catch a plan that is carried out on files that it was not made for.
#[test]
fn a_plan_of_another_checkpoint_is_refused() {
    let llama = || load(&Golden("llama_bf16_untied").path(""));
    let loader = Loader::<Cpu>::new(llama().quant("nf4".parse().expect("a spec")));
    let plan = loader.expect("a checkpoint").plan::<CausalLm>();
    let plan = plan.expect("a plan");

    let other = error(load(&Golden("mistral_bf16").path("")), plan.clone());
    assert!(matches!(other, PlanError::Stale { .. }), "{other}");

    let mut of_gpu = plan.clone();
    of_gpu.devices[0].target = "cuda".to_owned();
    let found = error(llama(), of_gpu);
    for part in ["cuda", "cpu"] {
        assert!(found.to_string().contains(part), "{found}");
    }

    let mut coarser = plan.clone();
    for step in &mut coarser.steps {
        if let Action::Pack(_, format) = &mut step.action {
            *format = "nf4:block=128"
                .parse::<QuantSpec>()
                .expect("a spec")
                .method()
                .expect("a method")
                .format([64, 64], DType::F32)
                .expect("a format");
        }
    }
    let found = error(llama(), coarser);
    assert!(matches!(found, PlanError::Stale { .. }), "{found}");
    let mut shifted = plan.clone();
    let step = shifted
        .steps
        .iter_mut()
        .find(|step| step.pieces[0].rows.len() > 1);
    step.expect("a matrix").pieces[0].rows.start += 1;
    let found = error(llama(), shifted);
    assert!(matches!(found, PlanError::Stale { .. }), "{found}");

    let none = Plan::from_json("{\"model\": 3}").expect_err("no plan");
    assert!(none.to_string().contains("line 1"), "{none}");
}
