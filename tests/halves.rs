//! Matrices that are stored as halves stay so on the CPU, and are multiplied as they are stored. What holds on every target
//! is in `tests/targets`, what memory it takes in `tests/budget.rs`.

#![cfg(feature = "cpu")]

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::{fs, sync::Arc};

use burn::tensor::{Tensor, TensorData};
use common::{Golden, ids, max_abs_difference, values};
use firebox::{
    Cpu, DType, LoadConfig, LoadRequest, Loader, Shared, Target,
    config::{Limits, Reading, VerifyConfig},
    model::{CausalLm, Matrix, Weight, Weights},
    quant::kernels::format::{Format, Half},
    source::Memory,
    target::ToBurn,
};
use half::{bf16, f16};
use safetensors::Dtype;
use tiny::{IN, OUT, Tiny, stored, tiny_entries};

fn load(request: impl Into<LoadRequest>) -> Tiny {
    let loader = Loader::<Cpu>::new(request).expect("a checkpoint");
    loader.load().expect("loads").model
}

fn halves() -> Memory {
    stored(&tiny_entries(), Dtype::BF16, |value| {
        bf16::from_f32(value).to_le_bytes().to_vec()
    })
}

fn half_of(matrix: &Matrix) -> Option<Half> {
    match matrix {
        Matrix::Packed(packed) => match packed.layout().format {
            Format::Half(half) => Some(half),
            format => panic!("packed as {format}"),
        },
        Matrix::Dense(_) => None,
        other => panic!("{other:?}"),
    }
}

/// Sums of products of small multiples of 1/64 with small whole numbers are exact in f32, in any order.
fn product(matrix: &Matrix, cols: usize) -> Vec<f32> {
    let x = TensorData::new((0..cols).map(|k| (k % 7) as f32 - 3.0).collect(), [1, cols]);
    let device = Cpu::device(0).expect("a CPU");
    values(matrix.product(Tensor::from_data(x, &device)))
}

fn expected(values: &[f32], cols: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let products = row.iter().enumerate();
        products.map(|(k, w)| w * ((k % 7) as f32 - 3.0)).sum()
    };
    values.chunks(cols).map(row).collect()
}

/// Catches a type that is asked for and not given, matrices that are widened unasked, and others that are not.
#[test]
fn f32_is_for_who_asks_for_it() {
    let entries = tiny_entries();
    for (asked, kept) in [
        (None, Some(Half::Bf16)),
        (Some(DType::F32), None),
        // Asked for, and computed in.
        (Some(DType::Bf16), None),
    ] {
        let config = LoadConfig::default();
        let config = asked.map_or(config.clone(), |dtype| config.dtype(dtype));
        let loader = Loader::<Cpu>::new(config.source(Arc::new(halves()))).expect("opens");
        let plan = loader.plan::<Tiny>().expect("a plan");
        let size = plan.dtype.size();
        let matrix = if kept.is_some() { 2 } else { size };
        let all = 2 * OUT * IN * matrix + (OUT + IN) * size;
        assert_eq!(plan.totals().bytes_finished, all as u64, "{asked:?}");
        let tiny = loader.load::<Tiny>().expect("loads").model;
        for (matrix, (_, shape, values)) in [
            (&tiny.up.weight, &entries[0]),
            (&tiny.down.weight, &entries[2]),
        ] {
            assert_eq!(half_of(matrix), kept, "{asked:?}");
            if asked != Some(DType::Bf16) {
                let found = product(matrix, shape[1]);
                assert!(found == expected(values, shape[1]), "{asked:?}");
            }
        }
        let norm = tiny.norm.val().dtype();
        assert_eq!(norm, burn::tensor::DType::from(plan.dtype.burn()));
    }
}

/// The bytes of a file begin anywhere: a header of any length moves them. Catches words that are read across their places,
/// and halves that are refused.
#[test]
fn halves_lie_anywhere_in_a_file() {
    let entries = tiny_entries();
    let source = halves();
    let file = firebox::source::SourceExt::read(&source, "model.safetensors").expect("it is there");
    let (len, rest) = file.split_first_chunk::<8>().expect("a header");
    let len = u64::from_le_bytes(*len) as usize;
    for spaces in 0..5 {
        let folder = tempfile::tempdir().expect("a folder");
        let header = [&rest[..len], &b"     "[..spaces]].concat();
        let bytes = [
            &(header.len() as u64).to_le_bytes()[..],
            &header,
            &rest[len..],
        ]
        .concat();
        fs::write(folder.path().join("model.safetensors"), bytes).expect("writable");
        fs::write(
            folder.path().join("config.json"),
            r#"{"model_type":"tiny"}"#,
        )
        .expect("writable");
        for reading in [Reading::Mapped, Reading::Buffered] {
            let config = LoadConfig::new(folder.path().to_str().expect("UTF-8"));
            let tiny = load(config.reading(reading));
            assert_eq!(half_of(&tiny.up.weight), Some(Half::Bf16));
            let found = product(&tiny.up.weight, IN);
            assert!(found == expected(&entries[0].2, IN), "{spaces} {reading:?}");
        }
    }
}

/// An architecture may want a tensor of what is a matrix for others.
#[test]
fn a_tensor_of_halves_is_of_the_type_of_the_others() {
    let device = Cpu::device(0).expect("a CPU");
    for (half, bits) in [
        (Half::F16, f16::from_f32(1.5).to_bits()),
        (Half::Bf16, bf16::from_f32(1.5).to_bits()),
    ] {
        // Three values: the last word is half full.
        let packed = firebox::quant::kernels::format::Packed::new(
            Format::Half(half),
            [3, 1],
            vec![u32::from(bits) << 16 | u32::from(bits), bits.into()],
            Vec::new(),
        );
        let packed = packed.expect("it fits");
        let weight = firebox::quant::PackedWeight::from_host(packed, &device);
        let mut weights = Weights::new(device.clone(), DType::F32);
        weights.insert("w".to_owned(), Weight::Packed(vec![weight]));
        let tensor: Tensor<2> = weights.tensor("w").expect("it is dense");
        assert_eq!(values(tensor), [1.5; 3]);
    }
}

/// Equal halves are held once. Catches ones that are compared with others, or by a part.
#[test]
fn equal_halves_are_held_once() {
    let mut other = tiny_entries();
    *other[0].2.last_mut().expect("values") += 1.0;
    let other = stored(&other, Dtype::BF16, |value| {
        bf16::from_f32(value).to_le_bytes().to_vec()
    });
    let shared = Shared::new(1 << 20);
    for (source, saved) in [
        (halves(), 0),
        // All of `down` and the vectors.
        (other, (OUT * IN * 2 + (OUT + IN) * 4) as u64),
    ] {
        let request = LoadConfig::default().source(Arc::new(source));
        load(request.share(&shared));
        assert_eq!(shared.bytes_saved(), saved);
    }
}

/// A weight that no method packs well enough is left as it is stored, not widened.
#[test]
fn a_fallback_to_none_stays_a_half() {
    let verify = VerifyConfig::new(Limits::default().min_sqnr(200.0))
        .fallback("none".parse().expect("a spec"));
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .verify(verify);
    let tiny = load(config.source(Arc::new(halves())));
    assert_eq!(half_of(&tiny.up.weight), Some(Half::Bf16));
}

/// Catches a number of threads that changes sums, and gradients of other weights.
#[test]
fn halves_answer_and_learn_as_f32_does() {
    for name in ["llama_bf16_untied", "llama_f16_tied_bias"] {
        let golden = Golden(name);
        let config = LoadConfig::new(golden.path("").to_string_lossy());
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        let halves = loader.load::<CausalLm>().expect("loads").model;
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("threads");
            pool.install(|| values(halves.forward(ids(&golden.ids("input_ids")))))
        };
        let (one, three) = (run(1), run(3));
        assert!(one == three, "{name}: other sums");
        let wide = values(
            golden
                .load(DType::F32)
                .forward(ids(&golden.ids("input_ids"))),
        );
        let error = max_abs_difference(&one, &wide);
        assert!(error < 1e-4, "{name}: {error}");
        gradients(name, halves, golden);
    }
}

/// Of the first norm: through every layer.
fn gradients(name: &str, halves: CausalLm, golden: Golden) {
    use burn::module::{Module, Param};
    let gradient = |model: CausalLm| {
        let mut model = model.train();
        let norm = model.blocks[0].attention_norm.as_mut().expect("a norm");
        norm.scale = Param::from_tensor(norm.scale.val());
        let ids = ids(&golden.ids("input_ids"));
        let ids = Tensor::from_data(ids.into_data(), &model.norm.scale.val().device());
        let gradients = model.forward(ids).powi_scalar(2).mean().backward();
        let norm = model.blocks[0].attention_norm.as_ref().expect("a norm");
        values(
            norm.scale
                .val()
                .grad(&gradients)
                .expect("it is in the graph"),
        )
    };
    let (found, expected) = (gradient(halves), gradient(golden.load(DType::F32)));
    let size = expected
        .iter()
        .fold(0.0, |most: f32, value| most.max(value.abs()));
    let error = max_abs_difference(&found, &expected);
    assert!(error < 1e-4 * size, "{name}: {error} of {size}");
}
