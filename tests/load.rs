//! Whole models through the loader: what is packed computes as its dequantized weights do.

#![cfg(feature = "cpu")]

mod common;

use std::{fs, ops::ControlFlow, sync::Arc};

use burn::tensor::{FloatDType, Tensor};
use common::{Golden, MODELS, ids, linears, max_abs_difference, rms_difference, values};
use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loaded, Loader, load_model_and_tokenizer,
    model::{CausalLm, Embedding, GenerateOptions, Linear, Matrix, Role, generate},
    quant::ops,
    report::LoadReport,
    source::Memory,
    target::{DType, ToBurn},
    text::{SpecialTokens, TokenizerError},
};
use firebox_kernels::{
    format::{Format, FormatError, Fp8Kind, Half, Tile},
    formats::{
        affine, bits4,
        fp8::{self, Recipe},
        int8,
    },
    packer::{Packer, pack_whole},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

// ------------------------------------------------------------------------------------ references

type MakePacker = fn([usize; 2], DType) -> Result<Box<dyn Packer>, FormatError>;

const BLOCK: Tile = Tile::Block {
    rows: 128,
    cols: 128,
};
const FINE: Recipe = Recipe::FineGrained { ue8m0: false };
const PLAIN: Recipe = Recipe::CompressedTensors;

/// What people write, and the packer they mean.
const SPECS: [(&str, MakePacker); 12] = [
    ("nf4", |o_i, bits| bits4::nf4(o_i, bits, 64, false)),
    ("nf4:nested", |o_i, bits| bits4::nf4(o_i, bits, 64, true)),
    ("fp4", |o_i, bits| bits4::fp4(o_i, bits, 64, false)),
    ("fp8:e4m3,scale=tensor", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E4m3, Tile::Tensor, PLAIN)
    }),
    ("fp8:e4m3,scale=channel", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E4m3, Tile::Row, PLAIN)
    }),
    ("fp8:e4m3,scale=block", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E4m3, BLOCK, FINE)
    }),
    ("fp8:e5m2,scale=tensor", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E5m2, Tile::Tensor, PLAIN)
    }),
    ("fp8:e5m2,scale=channel", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E5m2, Tile::Row, PLAIN)
    }),
    ("fp8:e5m2,scale=block", |o_i, bits| {
        fp8::packer(o_i, bits, Fp8Kind::E5m2, BLOCK, FINE)
    }),
    ("mlx:bits=4,group=32", |o_i, bits| {
        affine::packer(o_i, bits, 4, 32)
    }),
    ("mlx:bits=3,group=32", |o_i, bits| {
        affine::packer(o_i, bits, 3, 32)
    }),
    ("int8", int8::packer),
];

fn packer_of(spec: &str) -> MakePacker {
    let found = SPECS.iter().find(|(name, _)| *name == spec);
    found.expect("a spec of the table").1
}

/// The matrices in attention and MLP: what `--quant` packs.
fn linear(name: &str) -> bool {
    name.ends_with("_proj.weight")
}

/// What a rule has to leave out so that the spec can pack the rest: rows of 112 are no whole groups.
fn left_out(golden: Golden, spec: &str) -> Option<&'static str> {
    let narrow = golden.json("config.json")["intermediate_size"] == 112;
    (narrow && spec.starts_with("mlx")).then_some("*.down_proj")
}

/// A golden model as a dense `f32` checkpoint whose matrices went through a packer and back, whole and
/// one by one, without plan or pipeline. `choose` says which.
fn dequantized(golden: Golden, choose: impl Fn(&str) -> Option<MakePacker>) -> Memory {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for shard in golden.shards() {
        let bytes = fs::read(golden.path(&shard)).expect("a shard");
        let file = SafeTensors::deserialize(&bytes).expect("a shard");
        for (name, view) in file.iter() {
            let values = match (choose(name), view.shape()) {
                (Some(packer), &[o, i]) => {
                    let packer = packer([o, i], bits(&view)).expect("a sound shape");
                    pack_whole(packer, view.data()).dequantize()
                }
                _ => {
                    let mut values = vec![0.0; view.shape().iter().product()];
                    bits(&view).widen(view.data(), &mut values);
                    values
                }
            };
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            tensors.push((name.to_owned(), view.shape().to_vec(), bytes));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.expect("four bytes a value"))
    });
    let file = safetensors::serialize(views, None).expect("views are sound");
    let config = fs::read(golden.path("config.json")).expect("a golden folder");
    Memory::new()
        .with("config.json", config)
        .with("model.safetensors", file)
}

fn bits(view: &TensorView<'_>) -> DType {
    match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        other => panic!("no golden model has {other:?}"),
    }
}

fn config(golden: Golden) -> LoadConfig {
    LoadConfig::new(golden.path("").to_string_lossy())
}

fn load(config: impl Into<LoadRequest>) -> Loaded<CausalLm> {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    loader.load().expect("a model")
}

fn logits(golden: Golden, model: &CausalLm) -> Vec<f32> {
    values(model.forward(ids(&golden.ids("input_ids"))))
}

// --------------------------------------------------------------------------------- packed models

/// Every family, dtype and way of sharding with every quantization. Would catch a matrix that is packed
/// from the wrong bytes or under another scale, multiplied transposed, left dense by a name that does not
/// match, or packed where it should stay dense; and in the specs, a default that is another than
/// documented.
#[test]
fn a_packed_model_computes_as_its_dequantized_weights() {
    for golden in MODELS {
        let dense = logits(golden, &golden.load(DType::F32));
        for (spec, packer) in SPECS {
            let mut config = config(golden).quant(spec.parse().expect("a spec"));
            let left_out = left_out(golden, spec);
            if let Some(pattern) = left_out {
                config = config.skip(pattern.parse().expect("a pattern"));
            }
            let packed = logits(golden, &load(config).model);

            let packs = |name: &str| {
                linear(name) && !(left_out.is_some() && name.ends_with("down_proj.weight"))
            };
            let source = dequantized(golden, |name| packs(name).then_some(packer));
            let reference = load(LoadConfig::default().source(Arc::new(source))).model;
            let reference = logits(golden, &reference);

            // Only the order of sums differs.
            let error = max_abs_difference(&packed, &reference);
            assert!(error < 1e-4, "{} {spec}: {error}", golden.0);
            // And the reference is not the model itself.
            let lost = rms_difference(&dense, &reference);
            assert!(lost > 1e-3, "{} {spec}: {lost}", golden.0);
        }
    }
}

/// Would catch a tied table that is unpacked for one of its two uses and forgotten for the other, rows of
/// a packed table looked up off by one, and a head that `role:head` does not reach.
#[test]
fn packed_embeddings_and_heads_compute_as_their_dequantized_weights() {
    for golden in MODELS {
        let tied = golden.json("config.json")["tie_word_embeddings"] == true;
        for (embedding, head) in [
            ("nf4", "fp8:e4m3,scale=channel"),
            ("fp8:e5m2,scale=block", "nf4:nested"),
            ("mlx:bits=3,group=32", "int8"),
            ("int8", "mlx:bits=4,group=32"),
        ] {
            let mut config = config(golden).quant("fp4".parse().expect("a spec"));
            let rule = format!("role:embedding={embedding}");
            config = config.rule(rule.parse().expect("a rule"));
            if !tied {
                config = config.rule(format!("role:head={head}").parse().expect("a rule"));
            }
            let packed = load(config).model;

            let source = dequantized(golden, |name| match name {
                "model.embed_tokens.weight" => Some(packer_of(embedding)),
                "lm_head.weight" => Some(packer_of(head)),
                name => linear(name).then_some(packer_of("fp4")),
            });
            let reference = load(LoadConfig::default().source(Arc::new(source))).model;

            let table = &packed.embedding.table;
            assert!(matches!(table, Matrix::Packed(_)), "{}", golden.0);
            assert_eq!(packed.head.is_none(), tied, "{}", golden.0);
            let error = max_abs_difference(&logits(golden, &packed), &logits(golden, &reference));
            assert!(error < 1e-4, "{} {embedding}: {error}", golden.0);
        }
    }
}

/// A tied model has no head of its own. Would catch a rule that is silently without effect.
#[test]
fn a_rule_for_the_head_of_a_tied_model_is_refused() {
    let config = config(Golden("qwen2_bf16_tied"));
    let config = config.rule("role:head=fp8".parse().expect("a rule"));
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let error = loader.load::<CausalLm>().expect_err("there is no head");
    assert!(matches!(error, Error::Plan(_)), "{error:?}");
    assert!(error.to_string().contains("role:head"), "{error}");
}

/// The seven matrices of a block, by their names.
fn matrices(model: &CausalLm) -> impl Iterator<Item = (String, &Matrix)> {
    model.blocks.iter().enumerate().flat_map(|(layer, block)| {
        let names = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ];
        names
            .into_iter()
            .zip(linears(block))
            .map(move |(name, linear)| {
                let name = format!("model.layers.{layer}.{name}.weight");
                (name, &linear.weight)
            })
    })
}

/// What the module holds, not what the report says. Would catch a weight that is kept dense behind a
/// packed report, swapped with its neighbour, or packed with other bits than the packer's.
#[test]
fn packed_weights_are_in_the_module() {
    let golden = Golden("llama_bf16_untied");
    let quant = "nf4:block=64,nested".parse().expect("a spec");
    let model = load(config(golden).quant(quant)).model;
    // 256 x 256 weights: half a byte each, 1 byte for each of 1024 blocks, 4 for each 256 blocks, 4 once.
    let q = &linears(&model.blocks[0])[0].weight;
    let Matrix::Packed(q) = q else {
        panic!("{q:?} is dense")
    };
    assert_eq!(q.bytes(), 32_768 + 1024 + 4 * 4 + 4);
    assert_eq!(q.words.val().dims(), [32_768 / 4]);
    assert_eq!(q.scales.val().dims(), [(1024 + 4 * 4 + 4) / 4]);

    let source = dequantized(golden, |name| {
        linear(name).then_some(packer_of("nf4:nested"))
    });
    let reference = load(LoadConfig::default().source(Arc::new(source))).model;
    for ((name, packed), (_, dense)) in matrices(&model).zip(matrices(&reference)) {
        let (Matrix::Packed(packed), Matrix::Dense(dense)) = (packed, dense) else {
            panic!("{name}: {packed:?}, {dense:?}")
        };
        let unpacked = values(ops::dequantize(packed, FloatDType::F32));
        assert!(unpacked == values(dense.val()), "{name}: other values");
    }
    let others = [&model.embedding.table, &model.head.expect("untied").weight];
    for other in others {
        let Matrix::Packed(halves) = other else {
            panic!("{other:?} was widened")
        };
        assert_eq!(halves.layout().format, Format::Half(Half::Bf16));
    }
}

// ----------------------------------------------------------------------------------------- dtypes

/// Would catch f16 that went through bf16 on its way, and a type that changes between layers (an error on
/// devices that do not mix types).
///
/// bf16 keeps 8 bits, f16 11: a rounding is off by at most 2^-9 or 2^-12 of the value. Activations and the
/// dense weights are rounded at some forty places between ids and logits, whose errors add up like steps
/// in random directions: to 6 roundings or so. The limits are twice that, 2.3 % and 0.29 % of the logits.
#[test]
fn half_types_compute_nearly_the_same_packed_model() {
    for golden in MODELS {
        for spec in ["nf4", "fp8:e4m3,scale=block"] {
            let config = || {
                let rule = format!("role:embedding={spec}").parse().expect("a rule");
                config(golden)
                    .quant(spec.parse().expect("a spec"))
                    .rule(rule)
            };
            let exact = logits(golden, &load(config()).model);
            let size = rms_difference(&exact, &vec![0.0; exact.len()]);
            for (dtype, rounding) in [(DType::Bf16, 1.0 / 512.0), (DType::F16, 1.0 / 4096.0)] {
                let Loaded { model, report, .. } = load(config().dtype(dtype));
                let logits = model.forward(ids(&golden.ids("input_ids")));

                assert_eq!(report.dtype, dtype);
                assert_eq!(logits.dtype(), dtype.burn().into(), "{}", golden.0);
                let error = rms_difference(&values(logits), &exact) / size;
                let said = format!("{} {spec} {dtype}: {error}", golden.0);
                assert!(error < 12.0 * rounding, "{said}");
                assert!(error > 0.0, "{said}: nothing was rounded");
            }
        }
    }
}

// ----------------------------------------------------------------------------------------- report

fn dense_bytes<const D: usize>(tensor: &Tensor<D>) -> u64 {
    (tensor.shape().num_elements() * tensor.dtype().size()) as u64
}

fn matrix_bytes(matrix: &Matrix) -> u64 {
    match matrix {
        Matrix::Dense(weight) => dense_bytes(&weight.val()),
        Matrix::Packed(packed) => {
            let words = packed.words.val().dims()[0] + packed.scales.val().dims()[0];
            4 * words as u64
        }
        Matrix::Streamed(weight) => weight.bytes(),
        Matrix::Split(parts) => parts.iter().map(matrix_bytes).sum(),
    }
}

/// Every weight of the module, counted on its tensors.
fn bytes_held(model: &CausalLm) -> u64 {
    let Embedding { table, .. } = &model.embedding;
    let bias = |linear: &Linear| linear.bias.as_ref().map_or(0, |b| dense_bytes(&b.val()));
    let mut bytes = matrix_bytes(table) + dense_bytes(&model.norm.scale.val());
    bytes += matrices(model).map(|(_, m)| matrix_bytes(m)).sum::<u64>();
    if let Some(head) = &model.head {
        bytes += matrix_bytes(&head.weight);
    }
    for block in &model.blocks {
        bytes += linears(block).into_iter().map(bias).sum::<u64>();
        let attention = block.mixer.attention().expect("grouped attention");
        let norms = [
            &block.attention_norm,
            &block.mlp_norm,
            &attention.q_norm,
            &attention.k_norm,
        ];
        bytes += norms
            .into_iter()
            .flatten()
            .map(|n| dense_bytes(&n.scale.val()))
            .sum::<u64>();
    }
    bytes
}

/// Would catch bytes that are planned and not those that are held, tensors counted twice or not at all,
/// and a table that does not add up to its totals.
#[test]
fn the_report_counts_what_the_files_and_the_module_hold() {
    for golden in MODELS {
        for (spec, dtype) in [
            ("none", DType::F32),
            ("nf4", DType::F32),
            ("fp8", DType::Bf16),
        ] {
            let config = config(golden)
                .quant(spec.parse().expect("a spec"))
                .dtype(dtype);
            let Loaded { model, report, .. } = load(config);
            let said = format!("{} {spec} {dtype}", golden.0);

            let mut stored: Vec<(String, u64)> = Vec::new();
            for shard in golden.shards() {
                let bytes = fs::read(golden.path(&shard)).expect("a shard");
                let file = SafeTensors::deserialize(&bytes).expect("a shard");
                let sizes = file.iter().map(|(name, view)| (name, view.data().len()));
                stored.extend(sizes.map(|(name, len)| (name.to_owned(), len as u64)));
            }
            stored.sort();
            let mut told: Vec<(String, u64)> = report
                .per_tensor
                .iter()
                .map(|tensor| (tensor.name.clone(), tensor.bytes_read))
                .collect();
            told.sort();
            let source: u64 = stored.iter().map(|(_, len)| len).sum();
            assert_eq!(report.bytes_source, source, "{said}");
            // One scale for a whole tensor has to see it first.
            for (name, len) in &mut stored {
                *len *= if spec == "fp8" && name.contains("_proj.weight") {
                    2
                } else {
                    1
                };
            }
            assert_eq!(told, stored, "{said}");
            assert_eq!(report.tensors, stored.len(), "{said}");

            assert_eq!(report.bytes_packed, bytes_held(&model), "{said}");
            add_up(&report);
        }
    }
}

fn add_up(report: &LoadReport) {
    let tensors = || report.per_tensor.iter();
    let packed: u64 = tensors().map(|tensor| tensor.bytes_packed).sum();
    assert_eq!(report.bytes_packed, packed);
    // What stays as it is stored is read to its place, and nothing is left to convert.
    let converts = report.quant != "none";
    let parts: [(f64, f64, bool); 3] = [
        (
            report.seconds_read,
            tensors().map(|t| t.seconds_read).sum(),
            true,
        ),
        (
            report.seconds_convert,
            tensors().map(|t| t.seconds_convert).sum(),
            converts,
        ),
        (
            report.seconds_place,
            tensors().map(|t| t.seconds_place).sum(),
            true,
        ),
    ];
    for (total, sum, timed) in parts {
        assert!(total > 0.0 || !timed, "nothing was timed");
        assert!((total - sum).abs() < 1e-9 * (1.0 + total), "{total} {sum}");
    }

    let of_linears = || tensors().filter(|tensor| tensor.role == Role::Linear);
    let weights: usize = of_linears().map(|tensor| tensor.weights).sum();
    let bits: u64 = of_linears().map(|tensor| 8 * tensor.bytes_packed).sum();
    assert_eq!(report.bits_per_weight(), bits as f64 / weights as f64);
}

// ------------------------------------------------------------------------------- model and tokenizer

/// The two lines that most programs need. Would catch a tokenizer of other files, or of none.
#[test]
fn model_and_tokenizer_come_in_one_call() {
    let golden = Golden("qwen3_bf16");
    let (model, tokenizer) =
        load_model_and_tokenizer::<Cpu, CausalLm>(config(golden)).expect("both are there");

    let prompt = tokenizer
        .encode("Once upon a time", SpecialTokens::Include)
        .expect("text");
    let reference = tokenizers::Tokenizer::from_file(golden.path("tokenizer.json"));
    let reference = reference
        .expect("a tokenizer")
        .encode("Once upon a time", true);
    assert_eq!(prompt, reference.expect("text").get_ids());

    let options = GenerateOptions {
        max_new_tokens: 16,
        ..GenerateOptions::default()
    };
    let whole = &golden.ids("greedy")[0];
    let generated = generate(&model, &whole[..8], &options, |_| ControlFlow::Continue(()));
    assert_eq!(generated.expect("a valid prompt").ids, whole[8..]);
}

/// Would catch a load of many gigabytes that ends in a missing tokenizer.
#[test]
fn a_missing_tokenizer_costs_no_weights() {
    let golden = Golden("mistral_bf16");
    let weights = fs::read(golden.path("model.safetensors")).expect("a golden folder");
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().expect("eight bytes"));
    let config = fs::read(golden.path("config.json")).expect("a golden folder");
    let source = Arc::new(
        Memory::new()
            .with("config.json", config)
            .with("model.safetensors", weights),
    );

    let error =
        load_model_and_tokenizer::<Cpu, CausalLm>(LoadConfig::default().source(source.clone()))
            .expect_err("there is no tokenizer");

    assert!(
        matches!(error, Error::Tokenizer(TokenizerError::Missing { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    for (file, range) in source.reads() {
        assert!(
            file != "model.safetensors" || range.end <= header,
            "read {range:?} of the weights"
        );
    }
}
