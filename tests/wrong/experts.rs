//! Experts: one matrix of a stack each, in every dialect that has stacks.

use std::sync::Arc;

use burn::module::Module;
use firebox::{
    Cpu, Error, LoadConfig, Loader,
    model::{Architecture, BuildError, ConfigError, Linear, Matrix, Origin, Role, Slot, Weights},
};
use serde_json::{Value, json};

use crate::{
    bitsandbytes::{NF4, codes},
    saving::{Case, Saving, bf16s, f32s, refused_by, u32s},
};

/// Rows and columns of each expert's matrix.
const EACH: [usize; 2] = [2, 32];

/// Two experts with one matrix each, which the checkpoint has where `config.json` says in `stored`.
#[derive(Module, Debug)]
struct Experts {
    up: Vec<Linear>,
}

impl Architecture for Experts {
    type Config = Value;

    fn config(json: &Value) -> Result<Value, ConfigError> {
        Ok(json["stored"].clone())
    }

    fn slots(stored: &Value) -> Vec<Slot> {
        let [out, cols] = EACH;
        let slot = |nth: usize| {
            let name = format!("mlp.experts.{nth}.up_proj.weight");
            let slot = Slot::new(name, EACH, Role::Expert);
            let stack = Origin::whole("mlp.experts.up_proj");
            match stored.as_str() {
                Some("stack") => slot.made_of([stack.rows(nth * out..(nth + 1) * out)]),
                Some("turned stack") => {
                    slot.made_of([stack.rows(nth * cols..(nth + 1) * cols).transposed()])
                }
                _ => slot,
            }
        };
        vec![slot(0), slot(1)]
    }

    fn build(_: &Value, weights: &mut Weights) -> Result<Self, BuildError> {
        let paths = [0, 1].map(|nth| format!("mlp.experts.{nth}.up_proj"));
        let linears = paths.iter().map(|path| weights.linear(path));
        let up = linears.collect::<Result<_, _>>()?;
        Ok(Self { up })
    }
}

fn load(saving: &Saving, dequantize: bool) -> Result<Experts, Error> {
    let config = LoadConfig::default().dequantize(dequantize);
    let loader = Loader::<Cpu>::new(config.source(Arc::new(saving.files())))?;
    Ok(loader.load::<Experts>()?.model)
}

/// The weights of both experts, which must load packed and given back.
fn values(saving: &Saving) -> Vec<Vec<f32>> {
    let packed = load(saving, false).expect("a right checkpoint");
    for linear in &packed.up {
        assert!(matches!(linear.weight, Matrix::Packed(_)), "is not packed");
    }
    let given_back = load(saving, true).expect("a right checkpoint").up;
    let dense = given_back.into_iter().map(|linear| match linear.weight {
        Matrix::Dense(weight) => weight.val().try_into_vec_as().expect("a CPU tensor"),
        other => panic!("given back as {other:?}"),
    });
    dense.collect()
}

fn refused(right: &Saving, cases: &[Case]) {
    refused_by(right, cases, |saving| load(saving, false));
}

fn saving(stored: &str, field: &str, quantization: Value) -> Saving {
    let mut saving = Saving::new(EACH, field, quantization);
    for plain in ["embed.weight", "lm_head.weight", "norm.weight"] {
        saving.drop(plain);
    }
    saving.config["stored"] = json!(stored);
    saving
}

// ------------------------------------------------------------------------------------------- mlx

/// Codes 0 to 7 of four bits; expert 0 has scale 1 and bias 0 in row 0, the others 2 and 1.
fn mlx() -> Saving {
    let quantization = json!({ "group_size": 32, "bits": 4, "mode": "affine" });
    let mut saving = saving("each", "quantization", quantization);
    let words = u32s(&[0x7654_3210; 16]);
    saving.put("mlp.switch_mlp.up_proj.weight", "U32", &[2, 2, 4], words);
    let scales = bf16s(&[1.0, 2.0, 2.0, 2.0]);
    saving.put("mlp.switch_mlp.up_proj.scales", "BF16", &[2, 2, 1], scales);
    let biases = bf16s(&[0.0, 1.0, 1.0, 1.0]);
    saving.put("mlp.switch_mlp.up_proj.biases", "BF16", &[2, 2, 1], biases);
    saving
}

/// Would catch the matrix of another expert.
#[test]
fn experts_of_mlx_are_matrices_of_a_stack() {
    let row = |scale: f32, bias: f32| (0..32).map(move |k| (k % 8) as f32 * scale + bias);
    let of_first: Vec<f32> = row(1.0, 0.0).chain(row(2.0, 1.0)).collect();
    let of_second: Vec<f32> = row(2.0, 1.0).chain(row(2.0, 1.0)).collect();
    assert_eq!(values(&mlx()), [of_first, of_second]);
}

#[test]
fn stacks_of_mlx_fit_the_experts() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("mlp.switch_mlp.up_proj.scales"),
            "planning: Missing", &["mlp.switch_mlp.up_proj.weight", "mlp.switch_mlp.up_proj.scales is missing"]),
        ("no biases", |s| s.drop("mlp.switch_mlp.up_proj.biases"),
            "planning: Missing", &["mlp.switch_mlp.up_proj.biases is missing"]),
        ("the scales of one expert", |s| s.put("mlp.switch_mlp.up_proj.scales", "BF16", &[1, 2, 1], bf16s(&[1.0; 2])),
            "planning: NoExpert", &["mlp.experts.1.up_proj.weight is matrix 1", "mlp.switch_mlp.up_proj.scales", "[1, 2, 1]"]),
        ("one expert", |s| {
            s.put("mlp.switch_mlp.up_proj.weight", "U32", &[1, 2, 4], u32s(&[0; 8]));
            s.put("mlp.switch_mlp.up_proj.scales", "BF16", &[1, 2, 1], bf16s(&[1.0; 2]));
            s.put("mlp.switch_mlp.up_proj.biases", "BF16", &[1, 2, 1], bf16s(&[1.0; 2]));
        }, "planning: NoExpert", &["mlp.experts.1.up_proj.weight is matrix 1", "[1, 2, 4]"]),
        ("three experts", |s| {
            s.put("mlp.switch_mlp.up_proj.weight", "U32", &[3, 2, 4], u32s(&[0; 24]));
            s.put("mlp.switch_mlp.up_proj.scales", "BF16", &[3, 2, 1], bf16s(&[1.0; 6]));
            s.put("mlp.switch_mlp.up_proj.biases", "BF16", &[3, 2, 1], bf16s(&[1.0; 6]));
        }, "planning: plan Experts", &["mlp.switch_mlp.up_proj.biases", "[3, 2, 1]", "12", "8"]),
        ("the scales of three experts", |s| s.put("mlp.switch_mlp.up_proj.scales", "BF16", &[3, 2, 1], bf16s(&[1.0; 6])),
            "planning: plan Experts", &["mlp.switch_mlp.up_proj.scales", "[3, 2, 1]"]),
        ("two groups", |s| s.put("mlp.switch_mlp.up_proj.scales", "BF16", &[2, 2, 2], bf16s(&[1.0; 8])),
            "planning: Shape", &["mlp.switch_mlp.up_proj.scales", "[2, 2]", "[2, 1]"]),
        ("no stack", |s| s.put("mlp.switch_mlp.up_proj.weight", "U32", &[4, 4], u32s(&[0; 16])),
            "planning: NoExpert", &["mlp.switch_mlp.up_proj.weight", "[4, 4]"]),
        ("an excepted module", |s| s.say("quantization/mlp.switch_mlp.up_proj", json!(false)),
            "planning: Excepted", &["mlp.switch_mlp.up_proj.weight"]),
    ];
    refused(&mlx(), cases);
}

// ----------------------------------------------------------------------------------------- mxfp4

/// Bytes 0x10 are the codes 0 and 1, which are 0 and 0.5; scales are 1, 2, 4 and 8.
fn mxfp4() -> Saving {
    let quantization = json!({ "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"] });
    let mut saving = saving("turned stack", "quantization_config", quantization);
    saving.put(
        "mlp.experts.up_proj_blocks",
        "U8",
        &[2, 2, 1, 16],
        vec![0x10; 64],
    );
    saving.put(
        "mlp.experts.up_proj_scales",
        "U8",
        &[2, 2, 1],
        vec![127, 128, 129, 130],
    );
    saving
}

/// Would catch a stack that is taken for `[experts, in, out]`, and the higher half of a byte taken first.
#[test]
fn experts_of_mxfp4_are_matrices_of_a_stack() {
    let row = |scale: f32| (0..32).map(move |k| (k % 2) as f32 * 0.5 * scale);
    let of_first: Vec<f32> = row(1.0).chain(row(2.0)).collect();
    let of_second: Vec<f32> = row(4.0).chain(row(8.0)).collect();
    assert_eq!(values(&mxfp4()), [of_first, of_second]);
    // No other project has such tensors.
    let mut undeclared = mxfp4();
    let config = undeclared.config.as_object_mut().expect("an object");
    config.remove("quantization_config");
    assert_eq!(values(&undeclared), values(&mxfp4()));
}

#[test]
fn stacks_of_mxfp4_fit_the_experts() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("mlp.experts.up_proj_scales"),
            "planning: Missing", &["mlp.experts.up_proj", "mlp.experts.up_proj_scales is missing"]),
        ("the scales of one expert", |s| s.put("mlp.experts.up_proj_scales", "U8", &[1, 2, 1], vec![127; 2]),
            "planning: NoExpert", &["mlp.experts.1.up_proj.weight is matrix 1", "mlp.experts.up_proj_scales", "[1, 2, 1]"]),
        ("three experts", |s| {
            s.put("mlp.experts.up_proj_blocks", "U8", &[3, 2, 1, 16], vec![0; 96]);
            s.put("mlp.experts.up_proj_scales", "U8", &[3, 2, 1], vec![127; 6]);
        }, "planning: plan Experts", &["mlp.experts.up_proj_blocks", "[3, 2, 1, 16]", "96", "64"]),
        ("blocks of eight bytes", |s| s.relabel("mlp.experts.up_proj_blocks", "U8", &[2, 2, 2, 8]),
            "planning: Shape", &["mlp.experts.up_proj_blocks", "[2, 2, 8]", "[2, 1, 16]"]),
        ("two scales a row", |s| s.put("mlp.experts.up_proj_scales", "U8", &[2, 2, 2], vec![127; 8]),
            "planning: Shape", &["mlp.experts.up_proj_scales", "[2, 2]", "[2, 1]"]),
        ("scales of another type", |s| s.put("mlp.experts.up_proj_scales", "BF16", &[2, 2, 1], bf16s(&[1.0; 4])),
            "planning: Dtype", &["mlp.experts.up_proj_scales", "BF16", "U8"]),
        ("experts the other way round", |s| s.relabel("mlp.experts.up_proj_blocks", "U8", &[2, 1, 2, 16]),
            "planning: Shape", &["mlp.experts.up_proj_blocks", "[1, 2, 16]"]),
        ("a dense stack beside", |s| s.plain("mlp.experts.up_proj", &[2, 32, 2]),
            "planning: Unpacked", &["mlp.experts.up_proj", "modules_to_not_convert"]),
        ("an exception", |s| s.say("quantization_config/modules_to_not_convert", json!(["mlp.experts"])),
            "planning: Excepted", &["mlp.experts.up_proj", "modules_to_not_convert"]),
        ("no blocks", |s| {
            s.drop("mlp.experts.up_proj_blocks");
            s.drop("mlp.experts.up_proj_scales");
            s.plain("mlp.experts.up_proj", &[2, 32, 2]);
        }, "opening: NoSigns", &["mxfp4"]),
    ];
    refused(&mxfp4(), cases);
}

// ------------------------------------------------------------------------------------------- fp8

/// Bytes 0x38 are 1 in E4M3; tiles of 2 rows and 20 columns, of which the second is cut off.
fn fp8() -> Saving {
    let quantization = json!({ "quant_method": "fp8", "weight_block_size": [2, 20] });
    let mut saving = saving("stack", "quantization_config", quantization);
    saving.put(
        "mlp.experts.up_proj",
        "F8_E4M3",
        &[2, 2, 32],
        vec![0x38; 128],
    );
    let scales = f32s(&[1.0, 2.0, 3.0, 4.0]);
    saving.put("mlp.experts.up_proj_scale_inv", "F32", &[2, 1, 2], scales);
    saving
}

/// Would catch the tile of another expert, and an edge that is read as a whole tile.
#[test]
fn experts_of_fp8_are_matrices_of_a_stack() {
    let matrix = |[first, second]: [f32; 2]| {
        let row = [vec![first; 20], vec![second; 12]].concat();
        [row.clone(), row].concat()
    };
    let expected = [matrix([1.0, 2.0]), matrix([3.0, 4.0])];
    assert_eq!(values(&fp8()), expected);
}

#[test]
fn stacks_of_fp8_fit_the_experts() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("mlp.experts.up_proj_scale_inv"),
            "opening: NoSigns", &["fp8"]),
        ("scales of another name", |s| s.rename("mlp.experts.up_proj_scale_inv", "mlp.experts.up_proj.weight_scale_inv"),
            "planning: Missing", &["mlp.experts.up_proj", "mlp.experts.up_proj_scale_inv is missing"]),
        ("a grid without the edge", |s| s.put("mlp.experts.up_proj_scale_inv", "F32", &[2, 1, 1], f32s(&[1.0; 2])),
            "planning: Shape", &["mlp.experts.up_proj_scale_inv", "[1, 1]", "[1, 2]"]),
        ("the grid of one expert", |s| s.put("mlp.experts.up_proj_scale_inv", "F32", &[1, 1, 2], f32s(&[1.0; 2])),
            "planning: NoExpert", &["mlp.experts.up_proj_scale_inv", "[1, 1, 2]"]),
        ("tiles of another size", |s| s.say("quantization_config/weight_block_size", json!([1, 20])),
            "planning: Shape", &["mlp.experts.up_proj_scale_inv", "[1, 2]", "[2, 2]"]),
    ];
    refused(&fp8(), cases);
}

// ---------------------------------------------------------------------------------- bitsandbytes

const STATE: &str = "mlp.experts.up_proj.quant_state.bitsandbytes__nf4";

/// Both experts in one weight of `[4, 32]`; each has a block of 64 with its own scale.
fn nf4() -> Saving {
    let quantization = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": null,
    });
    let mut saving = saving("stack", "quantization_config", quantization);
    let weight = "mlp.experts.up_proj";
    saving.put(weight, "U8", &[64, 1], codes(128));
    saving.put(&format!("{weight}.absmax"), "F32", &[2], f32s(&[2.0, 0.5]));
    saving.put(&format!("{weight}.quant_map"), "F32", &[16], f32s(&NF4));
    put_state(&mut saving, 64, [2, 2, 32]);
    saving
}

fn put_state(saving: &mut Saving, block: usize, shape: [usize; 3]) {
    let state =
        json!({ "quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": shape });
    let state = state.to_string();
    saving.put(STATE, "U8", &[state.len()], state);
}

fn int8() -> Saving {
    let quantization = json!({ "quant_method": "bitsandbytes", "load_in_8bit": true });
    let mut saving = saving("stack", "quantization_config", quantization);
    let bytes: Vec<u8> = (0..128).map(|k| 1 + k / 32).collect();
    saving.put("mlp.experts.up_proj", "I8", &[2, 2, 32], bytes);
    let scales = f32s(&[127.0, 254.0, 127.0, 254.0]);
    saving.put("mlp.experts.up_proj.SCB", "F32", &[4], scales);
    saving.put("mlp.experts.up_proj.weight_format", "U8", &[], [0]);
    saving
}

/// Would catch the blocks and rows of another expert.
#[test]
fn experts_of_bitsandbytes_are_parts_of_a_stack() {
    let matrix = |scale: f32| (0..64).map(|k| NF4[k % 16] * scale).collect::<Vec<_>>();
    assert_eq!(values(&nf4()), [matrix(2.0), matrix(0.5)]);
    let rows = |[first, second]: [f32; 2]| [[first; 32], [second; 32]].concat();
    assert_eq!(values(&int8()), [rows([1.0, 4.0]), rows([3.0, 8.0])]);
}

/// A block with values of two experts has no part that is one expert's.
#[test]
fn stacks_of_bitsandbytes_fit_the_experts() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a block of both experts", |s| {
            s.put("mlp.experts.up_proj.absmax", "F32", &[1], f32s(&[1.0]));
            put_state(s, 128, [2, 2, 32]);
        }, "planning: plan PackedPiece", &["mlp.experts.0.up_proj.weight", "mlp.experts.up_proj", "bitsandbytes"]),
        ("one expert", |s| {
            s.put("mlp.experts.up_proj", "U8", &[32, 1], codes(64));
            s.put("mlp.experts.up_proj.absmax", "F32", &[1], f32s(&[1.0]));
        }, "planning: NoExpert", &["mlp.experts.1.up_proj.weight is matrix 1", "mlp.experts.up_proj", "[32, 1]"]),
        ("three experts", |s| {
            s.put("mlp.experts.up_proj", "U8", &[96, 1], codes(192));
            s.put("mlp.experts.up_proj.absmax", "F32", &[3], f32s(&[1.0; 3]));
        }, "planning: plan Experts", &["mlp.experts.up_proj", "the experts that config.json implies"]),
        ("a state of three experts", |s| put_state(s, 64, [3, 2, 32]),
            "reading: Value", &["quant_state.bitsandbytes__nf4", "[3, 2, 32]"]),
        ("a state of other matrices", |s| put_state(s, 64, [2, 32, 2]),
            "reading: Value", &["quant_state.bitsandbytes__nf4", "[2, 32, 2]", "[2, 32]"]),
        ("no state", |s| s.drop(STATE),
            "opening: NoSigns", &["bitsandbytes"]),
    ];
    refused(&nf4(), cases);
}
