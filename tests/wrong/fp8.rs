//! `quant_method: fp8`: tiles, and the older layout of AutoFP8.

use serde_json::json;

use crate::saving::{Case, Saving, f32s, kind, refused};

const SHAPE: [usize; 2] = [3, 40];
const FIELD: &str = "quantization_config";

/// 1, 2, -1, 448, 2^-9, 0, -1.5 and 0.5 as e4m3.
const E4M3: [u8; 8] = [0x38, 0x40, 0xb8, 0x7e, 0x01, 0x00, 0xbc, 0x30];
const VALUES: [f32; 8] = [1.0, 2.0, -1.0, 448.0, 0.001_953_125, 0.0, -1.5, 0.5];

/// Tiles of 2 x 32: those at the edges are smaller.
pub(crate) fn tiles() -> Saving {
    let quantization = json!({
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [2, 32],
        "modules_to_not_convert": ["lm_head"],
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        let weight = format!("{module}.weight");
        saving.put(&weight, "F8_E4M3", &SHAPE, E4M3.repeat(15));
        let scales = f32s(&[0.5, 1.0, 2.0, -4.0]);
        saving.put(&format!("{weight}_scale_inv"), "F32", &[2, 2], scales);
    }
    saving
}

/// One scale for the weight, one for its activations.
pub(crate) fn auto() -> Saving {
    let quantization = json!({
        "quant_method": "fp8",
        "activation_scheme": "static",
        "ignored_layers": ["lm_head"],
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        let weight = format!("{module}.weight");
        saving.put(&weight, "F8_E4M3", &SHAPE, E4M3.repeat(15));
        saving.put(&format!("{weight}_scale"), "F32", &[], f32s(&[0.5]));
        saving.put(&format!("{module}.input_scale"), "F32", &[], f32s(&[7.0]));
    }
    saving
}

/// One scale for the weight under the name that tiles have.
pub(crate) fn scalar() -> Saving {
    let mut saving = tiles();
    saving.unsay(FIELD, "weight_block_size");
    for module in ["up", "down"] {
        let scale = format!("{module}.weight_scale_inv");
        saving.put(&scale, "F32", &[1], f32s(&[0.5]));
    }
    saving
}

fn rescale(saving: &mut Saving, shape: &[usize]) {
    let scales = vec![1.0; shape.iter().product()];
    saving.put("up.weight_scale_inv", "F32", shape, f32s(&scales));
}

// --------------------------------------------------------------------------- right ones are read

/// Would catch a scale that its name says to divide by.
#[test]
fn weights_are_codes_times_scales() {
    let scale = |k: usize| [[0.5, 1.0], [2.0, -4.0]][k / 40 / 2][k % 40 / 32];
    let expected: Vec<f32> = (0..120).map(|k| VALUES[k % 8] * scale(k)).collect();
    let [up, down] = tiles().values();
    assert_eq!(up, expected);
    assert_eq!(down, expected);
    let picks = [up[0], up[33], up[83], up[119]];
    assert_eq!(picks, [0.5, 2.0, 896.0, -2.0], "by hand");

    let [up, _] = auto().values();
    let expected: Vec<f32> = (0..120).map(|k| VALUES[k % 8] * 0.5).collect();
    assert_eq!(up, expected);
}

/// Scales that are exponents: 126 is 1/2, 127 is 1. And e5m2: 1, 2, -1, 57344 are 3c, 40, bc and 7b.
#[test]
fn what_else_is_right() {
    let mut exponents = tiles();
    exponents.put(
        "up.weight_scale_inv",
        "F8_E8M0",
        &[2, 2],
        [126, 127, 128, 129],
    );
    let [up, _] = exponents.values();
    assert_eq!([up[0], up[33], up[83], up[119]], [0.5, 2.0, 896.0, 2.0]);

    let mut wide = tiles();
    wide.say("quantization_config/fmt", json!("e5m2"));
    for weight in ["up.weight", "down.weight"] {
        let codes = [0x3c, 0x40, 0xbc, 0x7b].repeat(30);
        wide.put(weight, "F8_E5M2", &SHAPE, codes);
    }
    let [up, _] = wide.values();
    assert_eq!(
        [up[0], up[33], up[83], up[119]],
        [0.5, 2.0, 114_688.0, -229_376.0]
    );
}

/// Would catch a list that is not read, and one whose names are taken for parts of names.
#[test]
fn exceptions_are_whole_names() {
    let mut saving = tiles();
    let list = "quantization_config/modules_to_not_convert";
    saving.say(list, json!(["lm_head", "u", "p", "up.weight", ""]));
    assert!(!saving.up_is_plain());
    saving.drop("up.weight_scale_inv");
    saving.plain("up.weight", &SHAPE);
    saving.say(list, json!(["lm_head", "up"]));
    assert!(saving.up_is_plain());
}

// ------------------------------------------------------------- the declaration is one that can be

#[test]
fn fields_of_the_declaration() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("tiles of three sides", |s| s.say("quantization_config/weight_block_size", json!([2, 32, 1])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "[2, 32, 1]", "rows and columns"]),
        ("tiles of one side", |s| s.say("quantization_config/weight_block_size", json!([32])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "[32]", "rows and columns"]),
        ("tiles of no side", |s| s.say("quantization_config/weight_block_size", json!([])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "[]", "rows and columns"]),
        ("a side of zero", |s| s.say("quantization_config/weight_block_size", json!([0, 32])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "[0,32]", "from 1"]),
        ("a side below zero", |s| s.say("quantization_config/weight_block_size", json!([2, -32])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "[2,-32]", "from 1"]),
        ("a side of u64", |s| s.say("quantization_config/weight_block_size", json!([2, u64::MAX])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "18446744073709551615", "2147483647"]),
        ("half a side", |s| s.say("quantization_config/weight_block_size", json!([1.5, 32])),
            "opening: config Value", &["`quantization_config.weight_block_size`", "1.5", "whole numbers"]),
        ("tiles as a number", |s| s.say("quantization_config/weight_block_size", json!(128)),
            "opening: config Value", &["`quantization_config.weight_block_size`", "128", "a list"]),
        ("another float", |s| s.say("quantization_config/fmt", json!("e3m4")),
            "opening: config Unsupported", &["`quantization_config.fmt`", "e3m4", "e4m3 or e5m2"]),
        ("a float that is a number", |s| s.say("quantization_config/fmt", json!(4.3)),
            "opening: config Value", &["`quantization_config.fmt`", "4.3", "a text"]),
        ("exceptions as a text", |s| s.say("quantization_config/modules_to_not_convert", json!("lm_head")),
            "opening: config Value", &["`quantization_config.modules_to_not_convert`", "\"lm_head\"", "a list of texts"]),
    ];
    refused(&tiles(), cases);
    let cases: &[Case] = &[(
        "exceptions in an object",
        |s| s.say("quantization_config/ignored_layers", json!({})),
        "opening: config Value",
        &[
            "`quantization_config.ignored_layers`",
            "{}",
            "a list of texts",
        ],
    )];
    refused(&auto(), cases);
}

// ------------------------------------------------------------------ tensors are what is declared

#[test]
fn tiles_and_their_scales() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("up.weight_scale_inv"),
            "planning: Missing", &["up.weight", "fp8", "up.weight_scale_inv"]),
        ("the older scale too", |s| s.put("up.weight_scale", "F32", &[], f32s(&[1.0])),
            "planning: Value", &["up.weight_scale", "second", "weight_scale_inv"]),
        ("the older scale only", |s| { s.drop("up.weight_scale_inv"); s.put("up.weight_scale", "F32", &[], f32s(&[1.0])) },
            "planning: Missing", &["up.weight", "fp8", "up.weight_scale_inv"]),
        ("a column of tiles too few", |s| rescale(s, &[2, 1]),
            "planning: Shape", &["up.weight_scale_inv", "[2, 1]", "[3, 40]", "[2, 2]"]),
        ("tiles that are cut off at the edge", |s| rescale(s, &[1, 1]),
            "planning: Shape", &["up.weight_scale_inv", "[1, 1]", "[2, 2]"]),
        ("a flat grid", |s| s.relabel("up.weight_scale_inv", "F32", &[4]),
            "planning: Shape", &["up.weight_scale_inv", "[4]", "[2, 2]"]),
        ("one scale", |s| rescale(s, &[1]),
            "planning: Shape", &["up.weight_scale_inv", "[1]", "[2, 2]"]),
        ("scales in F64", |s| s.put("up.weight_scale_inv", "F64", &[2, 2], [0; 32]),
            "planning: Dtype", &["up.weight_scale_inv", "F64", "F32 or F16 or BF16 or F8_E8M0"]),
        ("scales as whole numbers", |s| s.put("up.weight_scale_inv", "U8", &[2, 2], [127; 4]),
            "planning: Dtype", &["up.weight_scale_inv", "U8", "F32 or F16 or BF16 or F8_E8M0"]),
        ("other tiles declared", |s| s.say("quantization_config/weight_block_size", json!([128, 128])),
            "planning: Shape", &["up.weight_scale_inv", "[2, 2]", "[1, 1]"]),
        ("tiles declared turned round", |s| s.say("quantization_config/weight_block_size", json!([32, 2])),
            "planning: Shape", &["up.weight_scale_inv", "[2, 2]", "[1, 20]"]),
        ("no tiles declared", |s| s.unsay(FIELD, "weight_block_size"),
            "planning: Shape", &["up.weight_scale_inv", "[2, 2]", "[] or [1] or [1, 1]"]),
        ("e5m2 stored, e4m3 declared", |s| s.relabel("up.weight", "F8_E5M2", &SHAPE),
            "planning: Field", &["up.weight", "F8_E5M2", "`fmt`", "F8_E4M3"]),
        ("e4m3 stored, e5m2 declared", |s| s.say("quantization_config/fmt", json!("e5m2")),
            "planning: Field", &["up.weight", "F8_E4M3", "`fmt`", "F8_E5M2"]),
        ("e4m3 without a negative zero", |s| s.relabel("up.weight", "F8_E4M3FNUZ", &SHAPE),
            "planning: Field", &["up.weight", "F8_E4M3FNUZ", "`fmt`", "F8_E4M3"]),
        ("bytes", |s| s.relabel("up.weight", "U8", &SHAPE),
            "planning: Dtype", &["up.weight", "U8", "F32, F16 or BF16"]),
        ("a weight turned round", |s| s.relabel("up.weight", "F8_E4M3", &[40, 3]),
            "planning: Shape", &["up.weight", "[40, 3]", "[3, 40]"]),
    ];
    refused(&tiles(), cases);
}

/// Would catch shards of two savings in one folder.
#[test]
fn what_is_packed_is_what_the_list_of_exceptions_leaves() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("plain, not excepted", |s| { s.drop("up.weight_scale_inv"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "`modules_to_not_convert`"]),
        ("plain, and its scales are left", |s| s.plain("up.weight", &SHAPE),
            "planning: Unpacked", &["up.weight", "F32", "`modules_to_not_convert`"]),
        ("packed, excepted", |s| s.say("quantization_config/modules_to_not_convert", json!(["lm_head", "up"])),
            "planning: Excepted", &["up.weight", "packed", "`modules_to_not_convert`"]),
        ("packed, excepted in an older list", |s| {
            s.unsay(FIELD, "modules_to_not_convert");
            s.say("quantization_config/ignored_layers", json!(["up"]));
        }, "planning: Excepted", &["up.weight", "packed", "`ignored_layers`"]),
    ];
    refused(&tiles(), cases);
}

#[test]
fn one_scale_for_the_weight() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("none", |s| s.drop("up.weight_scale"),
            "planning: Missing", &["up.weight", "fp8", "up.weight_scale"]),
        ("one for each row", |s| s.put("up.weight_scale", "F32", &[3, 1], f32s(&[1.0; 3])),
            "planning: Shape", &["up.weight_scale", "[3, 1]", "[] or [1] or [1, 1]"]),
        ("nothing in it", |s| s.put("up.weight_scale", "F32", &[0], []),
            "planning: Shape", &["up.weight_scale", "[0]", "[] or [1] or [1, 1]"]),
        ("F64", |s| s.put("up.weight_scale", "F64", &[], [0; 8]),
            "planning: Dtype", &["up.weight_scale", "F64", "F32"]),
        ("both names", |s| s.put("up.weight_scale_inv", "F32", &[], f32s(&[2.0])),
            "planning: Value", &["up.weight_scale", "second", "weight_scale_inv"]),
        ("tiles declared", |s| s.say("quantization_config/weight_block_size", json!([128, 128])),
            "planning: Missing", &["up.weight", "up.weight_scale_inv"]),
        ("e5m2 stored, nothing declared, which means e4m3", |s| s.relabel("up.weight", "F8_E5M2", &SHAPE),
            "planning: Field", &["up.weight", "F8_E5M2", "`fmt`", "F8_E4M3"]),
    ];
    refused(&auto(), cases);
}

// ------------------------------------------------------------------- what is packed is not packed again

#[test]
fn another_quantization_of_packed_weights() {
    let error = tiles().refused_as("nf4");
    assert_eq!(kind(&error), "planning: plan Packed");
    let message = error.to_string();
    for part in ["down.weight", "fp8:e4m3,scale=2x32", "nf4:block=64"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}
