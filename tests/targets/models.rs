//! Whole models, loaded to the target through the pipeline.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use firebox::{
    Cpu, DType, LoadConfig, Loaded, Loader, Strategy, StreamFrom, Target,
    config::{Reading, SaveConfig},
    model::{CausalLm, GenerateOptions, Matrix, generate},
    quant::kernels::format::{Format, Half},
    target::{MemoryKind, ToBurn},
};

use crate::common::{Golden, MODELS, max_abs_difference, values};

fn config(golden: Golden, quant: &str) -> LoadConfig {
    LoadConfig::new(golden.path("").to_string_lossy())
        .dtype(DType::F32)
        .quant(quant.parse().expect("a spec"))
}

fn load<T: Target>(config: LoadConfig) -> CausalLm {
    let loader = Loader::<T>::new(config).unwrap_or_else(|error| panic!("{error}"));
    loader
        .load()
        .unwrap_or_else(|error| panic!("{error}"))
        .model
}

fn logits(model: &CausalLm, golden: Golden) -> Vec<f32> {
    let rows = golden.ids("input_ids");
    let shape = [rows.len(), rows[0].len()];
    let flat: Vec<i32> = rows.into_iter().flatten().map(|id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(
        TensorData::new(flat, shape),
        &model.norm.scale.val().device(),
    );
    values(model.forward(ids))
}

/// Within 1e-4 of the reference in f32, as on the CPU.
pub(crate) fn logits_are_those_of_transformers<T: Target>() {
    for golden in MODELS {
        let model = load::<T>(config(golden, "none"));
        let (expected, _) = golden.floats("logits_f32");
        let error = max_abs_difference(&logits(&model, golden), &expected);
        assert!(error < 1e-4, "{}: largest error {error}", golden.0);
    }
}

/// Families that together have every mixer, every kind of experts, and rows by position: a software driver compiles the
/// kernels of each for seconds, so that not all families are asked.
const FAMILIES: [Golden; 7] = [
    Golden("cohere_bf16"),
    Golden("deepseek_v3_bf16"),
    Golden("gemma4_ple_bf16"),
    Golden("gpt2_f32"),
    Golden("gpt_oss_bf16"),
    Golden("llama4_bf16"),
    Golden("qwen3_5_bf16"),
];

/// Catches an operation of a mixer, a router or a norm that a backend has otherwise.
pub(crate) fn logits_of_other_families_are_those_of_transformers<T: Target>() {
    for golden in FAMILIES {
        let model = load::<T>(config(golden, "none"));
        let (expected, _) = golden.floats("logits_f32");
        let error = max_abs_difference(&logits(&model, golden), &expected);
        assert!(
            error < golden.tolerance(),
            "{}: largest error {error}",
            golden.0
        );
    }
}

/// Where a device does not compute in the type of a checkpoint, matrices are multiplied as they are stored, and answer as
/// transformers does in f32: whole, in parts, mapped, and streamed from memory and from a file. Catches matrices that are
/// widened, halves that are taken for each other, and parts that begin inside a word.
pub(crate) fn halves_stay_halves<T: Target>() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = T::device(0).expect("a device");
    for (name, stored) in [
        ("llama_bf16_untied", DType::Bf16),
        ("llama_f16_tied_bias", DType::F16),
    ] {
        let golden = Golden(name);
        let asked = || LoadConfig::new(golden.path("").to_string_lossy());
        let Some(half) = Half::of(stored) else {
            panic!("{stored} is no half")
        };
        if T::capabilities(&device).dtype(None, stored).dtype == stored {
            let model = load::<T>(asked());
            assert!(matches!(model.embedding.table, Matrix::Dense(_)), "{name}");
            continue;
        }
        let (expected, _) = golden.floats("logits_f32");
        let streaming = || asked().strategy(Strategy::Streaming);
        let disk = StreamFrom::Disk(folder.path().to_owned());
        for (how, config) in [
            ("read", asked().reading(Reading::Buffered)),
            ("mapped", asked().reading(Reading::Mapped)),
            ("in parts", asked().allocation_max(60_000)),
            ("from memory", streaming()),
            ("from a file", streaming().stream_from(disk)),
        ] {
            let loader = Loader::<T>::new(config).expect("a checkpoint");
            let plan = loader.plan::<CausalLm>().expect("a plan");
            assert_eq!((plan.dtype, plan.halves()), (DType::F32, vec![stored]));
            let Loaded { model, report, .. } = loader.load::<CausalLm>().expect("loads");
            let mut matrices = model.blocks[1].linears();
            matrices.extend(&model.head);
            for linear in matrices {
                assert!(is_half(&linear.weight, half), "{name} {how}: {linear:?}");
            }
            assert!(is_half(&model.embedding.table, half), "{name} {how}");
            let norm = model.norm.scale.val().dtype();
            assert_eq!(norm, DType::F32.burn().into(), "{name} {how}");
            let of =
                format!("f32 (this device does not compute in {stored}), matrices in {stored} on");
            let of_default = format!("f32, matrices in {stored} on");
            let said = report.to_string();
            assert!(said.contains(&of) || said.contains(&of_default), "{said}");

            let error = max_abs_difference(&logits(&model, golden), &expected);
            assert!(error < 1e-4, "{name} {how}: largest error {error}");
        }
    }
}

fn is_half(matrix: &Matrix, half: Half) -> bool {
    match matrix {
        Matrix::Dense(_) => false,
        Matrix::Packed(packed) => packed.layout().format == Format::Half(half),
        Matrix::Streamed(weight) => weight.format() == Some(Format::Half(half)),
        Matrix::Split(parts) => parts.iter().all(|part| is_half(part, half)),
    }
}

/// The same codes on every target, and so the same logits but for the order of sums.
pub(crate) fn packed_models_answer_as_their_dense_weights_do<T: Target>() {
    let golden = Golden("llama_bf16_untied");
    for quant in [
        "nf4:block=64,nested",
        "fp4:block=128",
        "fp8:e4m3,scale=tensor",
        "fp8:e5m2,scale=block",
        "mlx:bits=3,group=32",
        "int8",
    ] {
        let every = |config: LoadConfig| {
            let rule = |text: String| text.parse().expect("a rule");
            config
                .rule(rule(format!("role:embedding={quant}")))
                .rule(rule(format!("role:head={quant}")))
        };
        let expected = logits(&load::<Cpu>(every(config(golden, quant))), golden);
        let found = logits(&load::<T>(every(config(golden, quant))), golden);
        let error = max_abs_difference(&found, &expected);
        assert!(error < 2e-4, "{quant}: largest error {error}");
    }
}

/// Weights that come in many tiles, and weights that no allocation of the device holds whole.
pub(crate) fn tiles_and_parts_change_nothing<T: Target>() {
    let golden = Golden("llama_bf16_untied");
    for quant in [
        "none",
        "nf4:nested",
        "fp8:e4m3,scale=tensor",
        "fp8:e4m3,scale=16x64",
    ] {
        let expected = logits(&load::<T>(config(golden, quant)), golden);
        let small = |config: LoadConfig| config.in_flight_bytes_max(400_000).allocation_max(60_000);
        let model = load::<T>(small(config(golden, quant)));
        if T::capabilities(&T::device(0).expect("a device"))
            .largest_allocation
            .is_some()
        {
            assert!(matches!(model.embedding.table, Matrix::Split(_)), "{quant}");
        }
        let error = max_abs_difference(&logits(&model, golden), &expected);
        assert!(error < 2e-5, "{quant}: largest error {error}");
    }
}

/// Weights that stay in the file's map, or go to the device out of it, whole and in parts.
pub(crate) fn mapped_models_answer_as_read_ones_do<T: Target>() {
    let golden = Golden("llama_f32_tied");
    let asked = || config(golden, "none");
    let expected = logits(&load::<T>(asked()), golden);
    for config in [asked(), asked().allocation_max(60_000)] {
        let found = logits(&load::<T>(config.reading(Reading::Mapped)), golden);
        let error = max_abs_difference(&found, &expected);
        assert!(error < 2e-5, "largest error {error}");
    }
}

/// Streamed weights, whole and in parts, from memory and from a file: the answers equal those of weights on the device. On a host to the bit; on a device Burn fuses other operations where a weight arrives between
/// them, which rounds otherwise in the pass that waits for weights, and as before in the next.
pub(crate) fn streamed_models_answer_as_loaded_ones_do<T: Target>() {
    let golden = Golden("llama_bf16_untied");
    let folder = tempfile::tempdir().expect("a folder");
    for quant in ["none", "nf4:nested"] {
        let small = || config(golden, quant).allocation_max(60_000);
        let expected = logits(&load::<T>(small().strategy(Strategy::Full)), golden);
        for keep in [StreamFrom::Host, StreamFrom::Disk(folder.path().to_owned())] {
            let model = load::<T>(small().strategy(Strategy::Streaming).stream_from(keep));
            for pass in 0..2 {
                let found = logits(&model, golden);
                let error = max_abs_difference(&found, &expected);
                let most = match (T::MEMORY, pass) {
                    (MemoryKind::Device, 0) => 2e-5,
                    _ => 0.0,
                };
                assert!(error <= most, "{quant}, pass {pass}: largest error {error}");
            }
        }
        let unified = logits(
            &load::<T>(small().strategy(Strategy::UnifiedMemory)),
            golden,
        );
        assert!(
            max_abs_difference(&unified, &expected) == 0.0,
            "{quant}: packed on the host"
        );
    }
}

/// Two models with a cache, one of them with a window; a software driver tunes itself for every length of it.
pub(crate) fn greedy_text_is_that_of_transformers<T: Target>() {
    for golden in [MODELS[2], MODELS[3]] {
        let model = load::<T>(config(golden, "none"));
        let options = GenerateOptions {
            max_new_tokens: 16,
            ..GenerateOptions::default()
        };
        for expected in golden.ids("greedy").into_iter().take(1) {
            let (prompt, continuation) = expected.split_at(8);
            let generated = generate(&model, prompt, &options, |_| ControlFlow::Continue(()));
            let generated = generated.expect("a valid prompt");
            assert_eq!(generated.ids, continuation, "{}", golden.0);
        }
    }
}

/// A checkpoint that a device has packed is, byte for byte, that of the CPU: also what the libraries wrote, with which the
/// CPU's are compared in `tests/dialects`. Would catch words that come back from a device in another order, and parts that
/// are not joined.
pub(crate) fn saved_files_are_those_of_the_cpu<T: Target>() {
    for quant in ["nf4:nested", "fp8:scale=block", "mlx:bits=3"] {
        let [ours, cpu] = [saved::<T>(quant), saved::<Cpu>(quant)];
        assert!(ours == cpu, "{quant} on {}: other bytes", T::NAME);
    }
}

fn saved<T: Target>(quant: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(Golden("llama_f32_tied"), quant);
    let loader = Loader::<T>::new(config).expect("a checkpoint");
    let saved = loader.save::<CausalLm>(&SaveConfig::new(folder.path()));
    let saved = saved.expect("a checkpoint can be saved");
    std::fs::read(folder.path().join(&saved.files[0])).expect("a file")
}
