//! Each train type trains what its name says, and nothing else.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Int, Tensor, TensorData, activation::log_softmax},
};
use burn_optim::{AdamWConfig, GradientsParams};
use firebox::{
    Cpu, LoadConfig, Loader, Strategy, Target,
    adapter::{self, AdapterError, LoraConfig},
    config::{Expand, TrainType},
    model::CausalLm,
    quant::kernels::format::Format,
};

use crate::common::{Golden, ids, linears, repository, values};

const TEXT: &str = "fn main() {\n    let words = vec![\"one\", \"two\", \"three\"];\n    for word in &words {\n        println!(\"{word}\");\n    }\n}\n";

fn loss(model: &CausalLm, text: &[u32]) -> Tensor<1> {
    let (text, next) = (&text[..text.len() - 1], &text[1..]);
    let logits = model.forward(ids(&[text.to_vec()]));
    let next: Tensor<3, Int> = ids(&[next.to_vec()]).unsqueeze_dim(2);
    log_softmax(logits, 2).gather(2, next).mean().neg()
}

/// Every parameter: whether it is trained, and its values or words.
#[derive(Default)]
struct All {
    path: Vec<String>,
    found: BTreeMap<String, (bool, Vec<u32>)>,
}

impl ModuleVisitor for All {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let trained = value.is_require_grad();
        let value = value.without_autodiff().cast(DType::F32);
        let bits = values(value).into_iter().map(f32::to_bits).collect();
        self.found.insert(self.path.join("."), (trained, bits));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let words = param.val().into_data().iter::<u32>().collect();
        self.found.insert(self.path.join("."), (false, words));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

fn parameters(model: &CausalLm) -> BTreeMap<String, (bool, Vec<u32>)> {
    let mut all = All::default();
    model.visit(&mut all);
    all.found
}

/// All of them on the model of the repository. Would catch a type that packs what it trains, trains another part, or does not
/// learn.
#[test]
fn three_steps_of_each_train_type() {
    let folder = repository().join("assets/tinyrust");
    let device = Cpu::device(0).expect("a device").autodiff();
    for train in TrainType::ALL {
        let base = LoadConfig::new(folder.to_string_lossy());
        let base = match train.has_new_blocks() {
            true => base.expand(Expand::blocks(2)),
            false => base,
        };
        let config = train.config(base, &LoraConfig::new(8, 16.0));
        let loader = Loader::<Cpu>::new(config).expect("a configuration");
        let text = loader.tokenizer().expect("a tokenizer");
        let text = text.encode(TEXT, firebox::text::SpecialTokens::Omit);
        let text = text.expect("a text");
        let loaded = loader.load::<CausalLm>().expect("a model");
        let mut model = loaded.model;
        adapter::train(&mut model, train, &loaded.new_blocks, &device)
            .unwrap_or_else(|error| panic!("{train}: {error}"));

        let before = parameters(&model);
        let name = train.name();
        let matrices = model.blocks.iter().flat_map(linears);
        let mut formats = matrices.filter_map(|linear| linear.weight.format());
        let is_expected = |format| match format {
            Format::Nf4(blocks) => {
                blocks.nested && (name.contains("qlora") || name.contains("bnb"))
            }
            Format::Affine(_) => name.contains("hqq"),
            _ => false,
        };
        let packs = name.contains("qlora") || name.contains("hqq") || name.contains("bnb");
        assert_eq!(formats.clone().count() > 0, packs, "{train}");
        assert!(formats.all(is_expected), "{train}");
        for (path, (trained, _)) in &before {
            let is_adapter = path.contains("adapters.");
            let new = loaded.new_blocks.iter();
            let is_new = new
                .clone()
                .any(|nth| path.starts_with(&format!("blocks.{nth}.")));
            let expected = match train {
                TrainType::Full => true,
                train if train.has_new_blocks() => is_new,
                _ => is_adapter,
            };
            assert_eq!(*trained, expected, "{train}: {path}");
            let is_dora = name.ends_with("dora");
            assert!(is_dora || !path.ends_with("magnitude"), "{train}: {path}");
        }
        let magnitudes = before.keys().filter(|path| path.ends_with("magnitude"));
        assert_eq!(magnitudes.count() > 0, name.ends_with("dora"), "{train}");

        let first = loss(&model, &text).into_scalar::<f32>();
        let mut optimizer = AdamWConfig::new().init();
        for _ in 0..3 {
            let gradients = loss(&model, &text).backward();
            let gradients = GradientsParams::from_grads(gradients, &model);
            model = optimizer.step(1e-3, model, gradients);
        }
        let last = loss(&model, &text).into_scalar::<f32>();
        assert!(last < first - 0.01, "{train}: {first}, then {last}");
        let after = parameters(&model);
        let mut changed = 0;
        for (path, (trained, values)) in &before {
            let is_same = after[path].1 == *values;
            assert!(is_same || *trained, "{train}: {path} changed");
            changed += usize::from(!is_same);
        }
        assert!(changed > 0, "{train}");
    }
}

/// Would catch a part of a model whose gradient is lost, or is not that of its values: norms, biases, tables, a tied head.
#[test]
fn gradients_of_a_whole_model_are_finite_differences() {
    struct Gradients<'g>(&'g burn::tensor::Gradients, Vec<(usize, f32)>);
    impl ModuleVisitor for Gradients<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).expect("a gradient");
            let gradient = values(gradient).into_iter().enumerate();
            let largest = gradient.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
            self.1.push(largest.expect("values"));
        }
    }
    /// Adds a number to one value of one parameter.
    struct Move {
        nth: usize,
        at: usize,
        by: f32,
    }
    impl ModuleMapper for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (nth, value) = (self.nth, param.val().without_autodiff());
            self.nth = nth.wrapping_sub(1);
            if nth != 0 {
                return param;
            }
            let (shape, device) = (value.shape(), value.device());
            let mut moved = values(value);
            moved[self.at] += self.by;
            Param::from_tensor(Tensor::from_data(TensorData::new(moved, shape), &device))
        }
    }
    let text: Vec<u32> = (0..17).map(|nth| (nth * 37 + 5) % 120).collect();
    for golden in [
        "llama_f16_tied_bias",
        "gpt2_f32",
        "qwen3_bf16",
        "mixtral_bf16",
    ] {
        for strategy in [Strategy::Full, Strategy::Streaming] {
            let config = LoadConfig::new(Golden(golden).path("").to_string_lossy());
            let config = config.strategy(strategy);
            let loader = Loader::<Cpu>::new(config).expect(golden);
            let mut model: CausalLm = loader.load().expect(golden).model;
            let device = Cpu::device(0).expect("a device").autodiff();
            adapter::train_all(&mut model, &device).expect(golden);
            assert_eq!(
                adapter::trainable_params(&model),
                model.num_params() as u64,
                "{golden}"
            );
            let gradients = loss(&model, &text).backward();
            let mut found = Gradients(&gradients, Vec::new());
            model.visit(&mut found);
            assert!(found.1.len() > 10, "{golden}");
            for (nth, (at, gradient)) in found.1.into_iter().enumerate() {
                let by = 3e-3;
                let moved = |by| {
                    let moved = model.clone().map(&mut Move { nth, at, by });
                    f64::from(loss(&moved, &text).into_scalar::<f32>())
                };
                let difference = (moved(by) - moved(-by)) / f64::from(2.0 * by);
                let error = (difference - f64::from(gradient)).abs();
                assert!(
                    error < 0.03 * f64::from(gradient).abs() + 1e-3,
                    "{golden}, parameter {nth}: {gradient} and {difference}"
                );
            }
        }
    }
}

/// Would catch a full training of a model in which only norms could be trained.
#[test]
fn a_packed_model_is_not_trained_whole() {
    let config = LoadConfig::new(Golden("llama_f32_tied").path("").to_string_lossy());
    let config = config.quant("nf4".parse().expect("a quantization"));
    let loader = Loader::<Cpu>::new(config).expect("a configuration");
    let mut model: CausalLm = loader.load().expect("a model").model;
    let device = Cpu::device(0).expect("a device").autodiff();
    let error = adapter::train(&mut model, TrainType::Full, &[], &device);
    let error = error.expect_err("packed matrices");
    assert!(matches!(error, AdapterError::PackedWhole { .. }), "{error}");
    let error = adapter::train(&mut model, TrainType::Qlora, &[], &device);
    let error = error.expect_err("no factors");
    assert!(matches!(error, AdapterError::NoFactors { .. }), "{error}");
    assert_eq!(adapter::trainable_params(&model), 0);

    let error = "qlroa".parse::<TrainType>().expect_err("a misspelling");
    assert_eq!(error.nearest, Some("qlora"));
    for train in TrainType::ALL {
        assert_eq!(train.to_string().parse(), Ok(train));
        let json = serde_json::to_string(&train).expect("JSON");
        assert_eq!(json, format!("\"{train}\""));
    }
}
