//! Strategies, and above all streaming: the same answers and gradients as with every weight on the device, while
//! only a few of them are.

#![cfg(feature = "cpu")]

mod common;
#[path = "common/formats.rs"]
mod formats;
#[path = "common/tiny.rs"]
mod tiny;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use burn::{module::Module, tensor::Tensor};
use common::{Golden, ids};
use firebox::{
    Cpu, Error, LoadConfig, Loader, Strategy, StreamFrom,
    config::Budget,
    model::{
        CausalLm, Linear, Matrix,
        stream::{Ring, StreamStats, StreamedWeight},
    },
    pipeline::{Finished, Sink, SinkError},
    plan::{Order, Step},
};
use formats::{bits, config};
use tempfile::TempDir;
use tiny::{IN, OUT, Tiny, tiny};

fn load(config: LoadConfig) -> CausalLm {
    formats::load(config).model
}

fn streamed(matrix: &Matrix) -> &StreamedWeight {
    match matrix {
        Matrix::Streamed(weight) => weight,
        other => panic!("not streamed: {other:?}"),
    }
}

fn ring(model: &CausalLm) -> &Ring {
    streamed(&model.blocks[0].linears()[5].weight).ring()
}

/// Would catch a weight that is kept or fetched in another order of its bytes, rows of an embedding that are looked
/// up wrongly in a part of a file, a matrix that is loaded to stay, and more on the device than was asked for.
#[test]
fn streamed_models_answer_as_full_ones_do() {
    let golden = Golden("llama_bf16_untied");
    let tokens = ids(&golden.ids("input_ids"));
    for quant in [
        "none",
        "nf4",
        "nf4:nested",
        "fp8:e4m3,scale=16x64",
        "mlx:bits=3,group=32",
        "mxfp8",
        "int8",
    ] {
        let full = load(config(golden, quant).strategy(Strategy::Full));
        let expected = bits(full.forward(tokens.clone()));
        let folder = TempDir::new().expect("a folder");
        for keep in [
            StreamFrom::Host,
            StreamFrom::Disk(folder.path().join("spill")),
        ] {
            // The ring does not look into weights: one format shows what it may hold.
            let aheads: &[usize] = if quant == "nf4" {
                &[0, 1, 2, 1000]
            } else {
                &[2]
            };
            for &ahead in aheads {
                let config = config(golden, quant)
                    .stream_from(keep.clone())
                    .prefetch(ahead);
                let model = load(config.strategy(Strategy::Streaming));
                assert!(streamed(&model.embedding.table).bytes() > 0);
                for pass in 0..2 {
                    let found = bits(model.forward(tokens.clone()));
                    assert!(
                        found == expected,
                        "{quant}, {keep:?}, {ahead} ahead, pass {pass}"
                    );
                }
                let stats = ring(&model).stats();
                assert!(stats.weights_peak <= ahead + 1, "{ahead} ahead: {stats:?}");
                assert!(stats.weights <= ahead, "left behind: {stats:?}");
            }
        }
    }
}

/// Would catch a tied head that is looked up for rows and not multiplied, and biases that stay behind.
#[test]
fn streamed_models_of_the_family_answer_as_full_ones_do() {
    for golden in [Golden("llama_f16_tied_bias"), Golden("qwen3_bf16")] {
        let tokens = ids(&golden.ids("input_ids"));
        let [full, streaming] = [Strategy::Full, Strategy::Streaming].map(|strategy| {
            let config = LoadConfig::new(golden.path("").to_string_lossy());
            let model = load(config.strategy(strategy));
            bits(model.forward(tokens.clone()))
        });
        assert!(full == streaming, "{}", golden.0);
    }
}

/// Would catch a ring that never learns the order, or only that of one pass: the third pass fetches everything
/// ahead, the second all but the weights where the first had nothing before them.
#[test]
fn the_order_is_learned_in_one_pass() {
    let golden = Golden("llama_bf16_untied");
    let tokens = ids(&golden.ids("input_ids"));
    let model = load(config(golden, "nf4").strategy(Strategy::Streaming));
    let matrices = 7 * model.blocks.len() as u64 + 1;
    let passes = [(); 3].map(|()| {
        let before = ring(&model).stats();
        model.forward(tokens.clone());
        let after = ring(&model).stats();
        let there = (after.ahead - before.ahead) + (after.waited - before.waited);
        (there, after.missed - before.missed)
    });
    assert_eq!(passes, [(0, matrices), (matrices - 2, 2), (matrices, 0)]);
}

/// Would catch a guess that is multiplied with, a thread that waits for ever for the wrong one, guesses that pile up
/// and leave no room for better ones, and a thread that fetches nothing at all.
#[test]
fn an_order_that_is_broken_costs_time_only() {
    let golden = Golden("llama_bf16_untied");
    let [full, model] = [Strategy::Full, Strategy::Streaming]
        .map(|strategy| load(config(golden, "nf4").strategy(strategy)));
    let product = |k: usize| {
        let [expected, found] = [&full, &model].map(|model| {
            let block = &model.blocks[k / 4 % model.blocks.len()];
            // The gate, `up`, the queries, and the way out of attention.
            let linear = block.linears()[[4, 5, 0, 3][k % 4]];
            let [_, cols] = linear.weight.shape();
            bits(linear.forward(input(3, cols)))
        });
        assert!(found == expected, "product {k}");
    };
    let stats = || ring(&model).stats();
    let mut state = 1_u32;
    for _ in 0..200 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        product((state >> 16) as usize);
    }
    let lent = stats().ahead + stats().waited + stats().missed;
    assert_eq!(lent, 200);

    // An order at last, and time to fetch.
    for k in 0..8 {
        product(k % 4);
    }
    let ahead = stats().ahead;
    for k in 0..8 {
        let started = Instant::now();
        while stats().weights < 2 {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", stats());
            std::thread::sleep(Duration::from_millis(1));
        }
        product(k % 4);
    }
    assert!(stats().ahead - ahead == 8, "{ahead} then {:?}", stats());
    assert!(stats().weights_peak <= 3, "{:?}", stats());
}

fn input(rows: usize, cols: usize) -> Tensor<2> {
    let numbers = tiny::values(rows * cols, 9);
    Tensor::<1>::from_floats(&numbers[..], &burn::tensor::Device::flex()).reshape([rows, cols])
}

/// Would catch a limit in bytes that only counts what is ahead.
#[test]
fn a_device_budget_bounds_the_bytes_of_the_ring() {
    // 19,200 weights each: half a byte a weight and 4 for each of 300 blocks. Nine tenths of the budget, less 4 bytes
    // for each of the 296 numbers that do not stream, hold one of them and not two.
    const EACH: u64 = 9_600 + 1_200;
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .strategy(Strategy::Streaming)
        .device_budget(Budget::Bytes(20_000))
        .source(tiny());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let model = loader.load::<Tiny>().expect("a model").model;
    for _ in 0..20 {
        model.down.forward(model.up.forward(input(1, IN)));
    }
    let stats = streamed(&model.up.weight).ring().stats();
    assert_eq!((stats.weights_peak, stats.bytes_peak), (1, EACH));
}

mod training {
    use super::*;
    use burn::{
        module::Param,
        tensor::{Device, Gradients},
    };
    use firebox::Target;

    /// What a training step gives: the loss, and the gradients of everything that is trained.
    fn step(model: &Tiny) -> [Vec<u32>; 4] {
        // `up` with an adapter of rank 4, then `down`.
        let tracked = |tensor: Tensor<2>| tensor.autodiff().require_grad();
        let x = tracked(input(5, IN));
        let a = tracked(input(IN, 4) * 0.01);
        let b = tracked(input(4, OUT) * 0.01);
        let up = |x: Tensor<2>| model.up.forward(x.clone()) + x.matmul(a.clone()).matmul(b.clone());
        let y = model.down.forward(up(x.clone()));
        let loss = (y.clone() * y).mean();
        let gradients = loss.backward();
        let of = |tensor: &Tensor<2>, gradients: &Gradients| {
            bits(tensor.grad(gradients).expect("it is trained"))
        };
        let [x, a, b] = [x, a, b].map(|tensor| of(&tensor, &gradients));
        [bits(loss.inner()), x, a, b]
    }

    fn tiny_model(quant: &str, strategy: Strategy, ahead: usize) -> Tiny {
        let config = LoadConfig::default()
            .quant(quant.parse().expect("a spec"))
            .strategy(strategy)
            .prefetch(ahead)
            .source(tiny());
        let device = Cpu::device(0).expect("there is always a CPU").autodiff();
        let loader = Loader::<Cpu>::on(config, device).expect("a checkpoint");
        loader.load::<Tiny>().expect("a model").model
    }

    /// Would catch gradients of another weight, transposed ones, none at all, and weights that the graph keeps on
    /// the device.
    #[test]
    fn an_adapter_gets_the_gradients_of_the_full_model() {
        for quant in [
            "none",
            "nf4",
            "nf4:nested",
            "fp8:e4m3,scale=channel",
            "int8",
        ] {
            let expected = step(&tiny_model(quant, Strategy::Full, 0));
            for ahead in [0, 1, 2] {
                let model = tiny_model(quant, Strategy::Streaming, ahead);
                for k in 0..3 {
                    assert!(step(&model) == expected, "{quant}, {ahead} ahead, step {k}");
                }
                let stats = streamed(&model.up.weight).ring().stats();
                assert!(stats.weights_peak <= ahead + 1, "{ahead} ahead: {stats:?}");
                // Two products forward and two back, three times.
                let lent = stats.ahead + stats.waited + stats.missed;
                assert_eq!(lent, 12, "{stats:?}");
            }
        }
    }

    /// Through a whole model: the gradient of its very first norm has to pass every layer. Would catch an order of
    /// the way back that is not learned, and weights that wait for the way back on the device.
    #[test]
    fn the_way_back_through_a_model_is_learned_too() {
        let golden = Golden("llama_bf16_untied");
        let load = |strategy| {
            let device = Cpu::device(0).expect("there is always a CPU").autodiff();
            let config = config(golden, "nf4").strategy(strategy);
            let loader = Loader::<Cpu>::on(config, device).expect("a checkpoint");
            let mut model = loader.load::<CausalLm>().expect("a model").model;
            let norm = model.blocks[0].attention_norm.as_mut();
            let scale = &mut norm.expect("a norm").scale;
            *scale = Param::from_tensor(scale.val());
            model
        };
        let tokens = ids(&golden.ids("input_ids"));
        let step = |model: &CausalLm| {
            let norm = model.blocks[0].attention_norm.as_ref();
            let scale = norm.expect("a norm").scale.val();
            let logits = model.forward(tokens.clone());
            let loss = (logits.clone() * logits).mean();
            let gradients = loss.backward();
            bits(scale.grad(&gradients).expect("it is trained"))
        };
        let expected = step(&load(Strategy::Full));
        assert!(expected.iter().any(|bits| f32::from_bits(*bits) != 0.0));

        let model = load(Strategy::Streaming);
        let missed = [(); 3].map(|()| {
            let before = ring(&model).stats();
            assert!(step(&model) == expected);
            ring(&model).stats().missed - before.missed
        });
        let stats = ring(&model).stats();
        assert!(stats.weights_peak <= 3, "{stats:?}");
        // Every matrix once each way; then all but two are known; then all.
        let matrices = 7 * model.blocks.len() as u64 + 1;
        assert_eq!(missed, [2 * matrices, 2, 0]);
    }

    /// With nothing ahead there is nothing on the device between the two passes.
    #[test]
    fn nothing_waits_on_the_device_for_the_way_back() {
        let model = tiny_model("nf4", Strategy::Streaming, 0);
        let x = input(5, IN).autodiff().require_grad();
        let y = model.down.forward(model.up.forward(x.clone()));
        let stats = || streamed(&model.up.weight).ring().stats();
        assert_eq!((stats().weights, stats().bytes, stats().missed), (0, 0, 2));
        let gradients = y.sum().backward();
        assert_eq!(x.grad(&gradients).expect("x has one").dims(), [5, IN]);
        assert_eq!((stats().weights, stats().bytes, stats().missed), (0, 0, 4));
    }

    /// Would catch a module that is moved to a device with gradients and streams somewhere else.
    #[test]
    fn a_streamed_module_is_moved_as_others_are() {
        let model = tiny_model("nf4", Strategy::Streaming, 1);
        let devices = |model: &Tiny| {
            let devices = model.devices();
            assert_eq!(devices.len(), 1, "{devices:?}");
            devices[0].is_autodiff()
        };
        assert!(devices(&model));
        let valid = model.valid();
        assert!(!devices(&valid));
        assert!(devices(&valid.clone().train()));
        let moved = valid.to_device(&Device::flex());
        assert!(!devices(&moved));
        // The same ring serves all of them.
        for model in [&model, &moved] {
            model.up.forward(input(1, IN));
        }
        let stats = [&model, &moved].map(|model| streamed(&model.up.weight).ring().stats());
        assert_eq!(stats[0], stats[1]);
        // Both matrices, the bias and the norm.
        assert_eq!(model.num_params(), 2 * OUT * IN + OUT + IN);
        let text = format!("{model}");
        assert!(text.contains("nf4:block=64 [96, 200], streamed"), "{text}");
    }
}

/// Would catch a file that outlives its model, and a folder that cannot be written blamed on something else.
#[test]
fn a_file_to_stream_from_is_gone_with_its_model() {
    let folder = TempDir::new().expect("a folder");
    let on = |folder| {
        let config = LoadConfig::default()
            .strategy(Strategy::Streaming)
            .stream_from(StreamFrom::Disk(folder))
            .source(tiny());
        Loader::<Cpu>::new(config)
            .expect("a checkpoint")
            .load::<Tiny>()
    };
    let model = on(folder.path().to_owned()).expect("a model").model;
    let first = bits(model.up.forward(input(1, IN)));
    assert!(first == bits(model.up.forward(input(1, IN))));
    drop(model);
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0);

    let file = folder.path().join("file");
    std::fs::write(&file, []).expect("a file");
    match on(file.join("inside")) {
        Err(error @ Error::StreamFile { .. }) => {
            assert!(error.to_string().contains("file/inside: "), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// Would catch a product of a matrix in parts, and its rows, that are put together wrongly.
#[test]
fn matrices_in_parts_stream_part_by_part() {
    let parts = |linear: &Linear| {
        let weight = streamed(&linear.weight).clone();
        Linear::new(
            Matrix::Split(vec![
                Matrix::Streamed(weight.clone()),
                Matrix::Streamed(weight),
            ]),
            None,
        )
    };
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .strategy(Strategy::Streaming)
        .source(tiny());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let model = loader.load::<Tiny>().expect("a model").model;
    let once = bits(model.down.forward(input(1, OUT)));
    let twice = bits(parts(&model.down).forward(input(1, OUT)));
    assert!(twice == [&once[..], &once[..]].concat());
}

/// The names in the order they come.
#[derive(Default)]
struct Names(Vec<String>);

impl Sink for Names {
    fn place(&mut self, step: &Step, _weight: Finished) -> Result<(), SinkError> {
        self.0.push(step.slot.name.clone());
        Ok(())
    }
}

/// Would catch an order that is ignored, and one that changes what is loaded.
#[test]
fn a_sink_gets_weights_in_the_order_it_asks_for() {
    let loader = Loader::<Cpu>::new(LoadConfig::default().source(tiny())).expect("a checkpoint");
    let by_name = Order::by(|a, b| a.slot.name.cmp(&b.slot.name));
    for (order, expected) in [
        // As `Tiny::slots` has them.
        (
            Order::Model,
            ["up.weight", "up.bias", "down.weight", "norm.weight"],
        ),
        (
            by_name,
            ["down.weight", "norm.weight", "up.bias", "up.weight"],
        ),
    ] {
        let mut names = Names::default();
        let report = loader.run_with::<Tiny>(&order, &mut names);
        assert_eq!(report.expect("a report").tensors, 4);
        assert_eq!(names.0, expected, "{order:?}");
    }
}

/// Would catch a strategy that is asked for and not taken, or not told of.
#[test]
fn plan_and_report_say_the_strategy() {
    for (asked, expected, why) in [
        (None, Strategy::Full, "fit in memory"),
        (Some(Strategy::LowMemory), Strategy::LowMemory, "asked for"),
        (
            Some(Strategy::UnifiedMemory),
            Strategy::UnifiedMemory,
            "asked for",
        ),
        (Some(Strategy::Streaming), Strategy::Streaming, "asked for"),
    ] {
        let mut config = LoadConfig::default();
        if let Some(asked) = asked {
            config = config.strategy(asked);
        }
        let loader = Loader::<Cpu>::new(config.source(tiny())).expect("a checkpoint");
        let plan = loader.plan::<Tiny>().expect("a plan");
        let report = loader.load::<Tiny>().expect("a model").report;
        for (strategy, reason) in [
            (plan.strategy, &plan.strategy_reason),
            (report.strategy, &report.strategy_reason),
        ] {
            assert_eq!(strategy, expected);
            assert!(reason.contains(why), "{reason}");
        }
        let said = format!("strategy {expected}: ");
        assert!(plan.to_string().contains(&said), "{plan}");
    }
    // A host that is too small for the weights and what is read ahead, and no disk to stream from; then one.
    let small = |keep| {
        let config = LoadConfig::default()
            .host_budget(Budget::Bytes(1 << 20))
            .stream_from(keep)
            .source(tiny());
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        loader.plan::<Tiny>().expect("a plan").strategy
    };
    assert_eq!(small(StreamFrom::Host), Strategy::LowMemory);
    assert_eq!(small(StreamFrom::Disk("spill".into())), Strategy::Streaming);
}

/// Several threads with one model: would catch a ring that lends one weight's bytes for another's, and threads that
/// wait for each other for ever.
#[test]
fn several_threads_share_a_ring() {
    let golden = Golden("llama_bf16_untied");
    let tokens = golden.ids("input_ids");
    let model = load(config(golden, "nf4").strategy(Strategy::Streaming));
    let expected = bits(model.forward(ids(&tokens)));
    let found = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let bits = bits(model.forward(ids(&tokens)));
                    found.lock().expect("no panic").push(bits);
                }
            });
        }
    });
    let found = found.lock().expect("no panic");
    assert!(found.len() == 12 && found.iter().all(|found| *found == expected));
    let StreamStats { weights_peak, .. } = ring(&model).stats();
    assert!(weights_peak <= 2 + 4, "{weights_peak}");
}
