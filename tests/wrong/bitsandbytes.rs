//! bitsandbytes: 4 bits with plain and nested scales, 8 bits.

use serde_json::json;

use crate::saving::{Case, Saving, f32s, kind, refused};

/// 123 weights: a block of 64, one of 59 that straddles rows, and half a byte too many.
const SHAPE: [usize; 2] = [3, 41];
const FIELD: &str = "quantization_config";

/// The values of NF4's codes: arXiv:2305.14314, appendix E.
#[rustfmt::skip]
pub(crate) const NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// The values of FP4's codes: bit 3 is the sign.
fn fp4() -> [f32; 16] {
    let magnitudes = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    core::array::from_fn(|code| {
        let magnitude = magnitudes[code % 8] / 12.0;
        if code < 8 { magnitude } else { -magnitude }
    })
}

/// The values of nested codes: for i of 0 to 6 the midpoints of `2^i` even parts of [0.1, 1], times `10^(i - 6)`,
/// with both signs, and 0 and 1. In ascending order.
fn dynamic() -> Vec<f32> {
    let mut map = vec![0.0, 1.0];
    for i in 0..7 {
        let parts = 2_f64.powi(i);
        for part in 0..1 << i {
            let midpoint = 0.1 + 0.9 * (f64::from(part) + 0.5) / parts;
            let value = (midpoint * 10_f64.powi(i - 6)) as f32;
            map.extend([value, -value]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

fn quantization(quant_type: &str, nested: bool) -> serde_json::Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_skip_modules": null,
    })
}

/// Weight `k` has the code `k % 16`, the even one of two in the high half of a byte.
pub(crate) fn codes(n: usize) -> Vec<u8> {
    let code = |k: usize| (k % 16) as u8;
    (0..n.div_ceil(2))
        .map(|byte| code(2 * byte) << 4 | code(2 * byte + 1))
        .collect()
}

fn state(quant_type: &str) -> String {
    format!(
        r#"{{"quant_type": "{quant_type}", "blocksize": 64, "dtype": "float32", "shape": [3, 41]}}"#
    )
}

const NESTED_STATE: &str = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [3, 41], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}"#;

const STATE: &str = "up.weight.quant_state.bitsandbytes__nf4";

/// Plain scales: `up` has 2 and 1/2, `down` 3 and 12.
fn plain(quant_type: &str, levels: [f32; 16]) -> Saving {
    let mut saving = Saving::new(SHAPE, FIELD, quantization(quant_type, false));
    for (module, absmax) in [("up", [2.0, 0.5]), ("down", [3.0, 12.0])] {
        let weight = format!("{module}.weight");
        saving.put(&weight, "U8", &[62, 1], codes(123));
        saving.put(&format!("{weight}.absmax"), "F32", &[2], f32s(&absmax));
        saving.put(&format!("{weight}.quant_map"), "F32", &[16], f32s(&levels));
        let name = format!("{weight}.quant_state.bitsandbytes__{quant_type}");
        saving.put(&name, "U8", &[state(quant_type).len()], state(quant_type));
    }
    saving
}

pub(crate) fn nf4() -> Saving {
    plain("nf4", NF4)
}

/// Nested scales: the codes 255 and 0 under the upper scale 2, offset 1/2.
fn nested() -> Saving {
    let mut saving = nf4();
    saving.say("quantization_config/bnb_4bit_use_double_quant", json!(true));
    for weight in ["up.weight", "down.weight"] {
        saving.put(&format!("{weight}.absmax"), "U8", &[2], [255, 0]);
        let name = format!("{weight}.nested_absmax");
        saving.put(&name, "F32", &[1], f32s(&[2.0]));
        let name = format!("{weight}.nested_quant_map");
        saving.put(&name, "F32", &[256], f32s(&dynamic()));
        let name = format!("{weight}.quant_state.bitsandbytes__nf4");
        saving.put(&name, "U8", &[NESTED_STATE.len()], NESTED_STATE);
    }
    saving
}

/// Rows of -20 to 20; the largest magnitudes are 127, 63.5 and 254.
pub(crate) fn int8() -> Saving {
    let quantization = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": false,
        "load_in_8bit": true,
        "llm_int8_skip_modules": ["lm_head"],
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        let row: Vec<u8> = (-20_i8..=20).map(i8::cast_unsigned).collect();
        saving.put(&format!("{module}.weight"), "I8", &SHAPE, row.repeat(3));
        let largest = f32s(&[127.0, 63.5, 254.0]);
        saving.put(&format!("{module}.SCB"), "F32", &[3], largest);
        saving.put(&format!("{module}.weight_format"), "U8", &[], [0]);
    }
    saving
}

fn set_state(saving: &mut Saving, json: &str) {
    saving.put(STATE, "U8", &[json.len()], json);
}

fn edit_state(saving: &mut Saving, from: &str, to: &str) {
    let json = String::from_utf8(saving.bytes(STATE).clone()).expect("JSON");
    assert!(json.contains(from), "{from} is not in {json}");
    set_state(saving, &json.replace(from, to));
}

// --------------------------------------------------------------------------- right ones are read

#[track_caller]
fn holds(values: &[f32], expected: &[(usize, f32)]) {
    assert_eq!(values.len(), 123);
    for (k, expected) in expected {
        assert_eq!(values[*k], *expected, "weight {k}");
    }
}

/// Would catch codes of a byte that are turned round, and blocks that begin anew with each row.
#[test]
fn four_bits_are_level_times_largest() {
    let [up, down] = nf4().values();
    holds(
        &up,
        &[(0, -2.0), (1, -1.392_385_6), (7, 0.0), (8, 0.159_160_6)],
    );
    holds(&up, &[(15, 2.0), (63, 2.0), (64, -0.5), (73, 0.080_465_1)]);
    holds(&up, &[(122, 0.123_056_15)]);
    holds(&down, &[(15, 3.0), (64, -12.0), (122, 2.953_347_7)]);

    let [up, down] = plain("fp4", fp4()).values();
    holds(&down, &[(0, 0.0), (3, 3.0), (64, 0.0), (65, 0.0625)]);
    holds(&down, &[(66, 8.0), (67, 12.0), (68, 4.0), (69, 6.0)]);
    holds(&down, &[(70, 2.0), (71, 3.0), (72, 0.0), (73, -0.0625)]);
    holds(&down, &[(75, -12.0), (122, -8.0)]);
    holds(&up, &[(3, 2.0), (67, 0.5), (75, -0.5)]);
}

/// The second scale is `-0.99296874 * 2 + 0.5`. Would catch an offset that is forgotten.
#[test]
fn nested_scales_are_codes_times_upper_plus_offset() {
    let [up, down] = nested().values();
    holds(&up, &[(0, -2.5), (15, 2.5), (64, 1.485_937_5), (71, 0.0)]);
    holds(&up, &[(79, -1.485_937_5)]);
    assert_eq!(up, down);
}

/// `code * largest * fl(1 / 127)`.
#[test]
fn eight_bits_are_code_times_largest_over_127() {
    let mut right = int8();
    let [up, down] = right.values();
    holds(&up, &[(0, -20.0), (20, 0.0), (21, 1.0), (40, 20.0)]);
    holds(&up, &[(41, -10.0), (62, 0.5), (82, -40.0), (122, 40.0)]);
    assert_eq!(up, down);
    right.drop("down.weight_format");
    assert_eq!(right.values()[1], down, "old files have no weight_format");
}

/// `quant_storage`: the same bytes under another type. And what releases up to 0.49 wrote as FP4's levels.
#[test]
fn what_else_is_right() {
    let mut stored = nf4();
    stored.relabel("up.weight", "BF16", &[31, 1]);
    assert_eq!(stored.values(), nf4().values());

    let mut stray = nf4();
    stray.bytes("up.weight")[61] = 0xa0;
    assert_eq!(stray.values(), nf4().values(), "code 124 is no weight");

    let mut rounded = plain("fp4", fp4());
    let levels = fp4().map(|level| (level * 1e4).round() / 1e4);
    rounded.put("up.weight.quant_map", "F32", &[16], f32s(&levels));
    assert_eq!(rounded.values(), plain("fp4", fp4()).values());
}

// ------------------------------------------------------- config.json has to say what the tensors say

#[test]
fn config_json_and_four_bits_agree() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("fp4 declared, nf4 there", |s| s.say("quantization_config/bnb_4bit_quant_type", json!("fp4")),
            "planning: Field", &[STATE, "nf4", "bnb_4bit_quant_type", "fp4"]),
        ("no type declared, which means fp4", |s| s.unsay(FIELD, "bnb_4bit_quant_type"),
            "planning: Field", &[STATE, "nf4", "bnb_4bit_quant_type", "fp4"]),
        ("an unknown type", |s| s.say("quantization_config/bnb_4bit_quant_type", json!("af4")),
            "opening: config Unsupported", &["`quantization_config.bnb_4bit_quant_type`", "af4", "nf4 or fp4"]),
        ("a type that is a number", |s| s.say("quantization_config/bnb_4bit_quant_type", json!(4)),
            "opening: config Value", &["`quantization_config.bnb_4bit_quant_type`", "4", "a text"]),
        ("nested declared, plain there", |s| s.say("quantization_config/bnb_4bit_use_double_quant", json!(true)),
            "planning: Field", &["up.weight.absmax", "bnb_4bit_use_double_quant", "plain scales", "nested scales"]),
        ("nested said with a number", |s| s.say("quantization_config/bnb_4bit_use_double_quant", json!(1)),
            "opening: config Value", &["`quantization_config.bnb_4bit_use_double_quant`", "1", "true or false"]),
        ("4 and 8 bits", |s| s.say("quantization_config/load_in_8bit", json!(true)),
            "opening: config Value", &["load_in_4bit", "load_in_8bit", "both true", "one of them"]),
        ("neither 4 nor 8 bits", |s| s.say("quantization_config/load_in_4bit", json!(false)),
            "opening: config Value", &["load_in_4bit", "load_in_8bit", "both false", "one of them"]),
        ("neither is there", |s| s.say(FIELD, json!({ "quant_method": "bitsandbytes" })),
            "opening: config Value", &["load_in_4bit", "load_in_8bit", "both false", "one of them"]),
        ("4 bits as a text", |s| s.say("quantization_config/load_in_4bit", json!("true")),
            "opening: config Value", &["`quantization_config.load_in_4bit`", "\"true\"", "true or false"]),
        ("8 bits declared, 4 there", |s| {
            s.say("quantization_config/load_in_4bit", json!(false));
            s.say("quantization_config/load_in_8bit", json!(true));
        }, "planning: Field", &["up.weight", "4 bits", "load_in_8bit", "8 bits"]),
        ("skipped modules as a text", |s| s.say("quantization_config/llm_int8_skip_modules", json!("lm_head")),
            "opening: config Value", &["`quantization_config.llm_int8_skip_modules`", "lm_head", "a list of texts"]),
        ("skipped modules of numbers", |s| s.say("quantization_config/llm_int8_skip_modules", json!([1])),
            "opening: config Value", &["`quantization_config.llm_int8_skip_modules`", "[1]", "a list of texts"]),
    ];
    refused(&nf4(), cases);
    let cases: &[Case] = &[(
        "plain declared, nested there",
        |s| {
            s.say(
                "quantization_config/bnb_4bit_use_double_quant",
                json!(false),
            );
        },
        "planning: Field",
        &[
            "up.weight.absmax",
            "bnb_4bit_use_double_quant",
            "plain scales",
            "nested scales",
        ],
    )];
    refused(&nested(), cases);
}

/// Would catch shards of two savings in one folder.
#[test]
fn what_is_packed_is_what_the_list_of_exceptions_leaves() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("plain, not excepted", |s| {
            for part in [".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4"] {
                s.drop(&format!("up.weight{part}"));
            }
            s.plain("up.weight", &SHAPE);
        }, "planning: Unpacked", &["up.weight", "F32", "llm_int8_skip_modules"]),
        ("packed, excepted", |s| s.say("quantization_config/llm_int8_skip_modules", json!(["lm_head", "up"])),
            "planning: Excepted", &["up.weight", "packed", "llm_int8_skip_modules"]),
        ("a head that is packed although it never is", |s| {
            for part in ["", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4"] {
                s.rename(&format!("up.weight{part}"), &format!("lm_head.weight{part}"));
            }
            s.plain("up.weight", &SHAPE);
            s.say("quantization_config/llm_int8_skip_modules", json!(["up", "lm_head"]));
        }, "planning: Excepted", &["lm_head.weight", "packed", "llm_int8_skip_modules"]),
        ("plain, and its state is left", |s| s.plain("up.weight", &SHAPE),
            "planning: Shape", &["up.weight", "[3, 41]", "62 bytes"]),
    ];
    refused(&nf4(), cases);
}

// --------------------------------------------------------------------- every part is there, once, whole

#[test]
fn parts_of_four_bits() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("up.weight.absmax"),
            "planning: Missing", &["up.weight", "up.weight.absmax"]),
        ("no levels", |s| s.drop("up.weight.quant_map"),
            "planning: Missing", &["up.weight", "up.weight.quant_map"]),
        ("no state", |s| s.drop(STATE),
            "planning: Missing", &["up.weight", STATE]),
        ("codes alone", |s| { s.drop(STATE); s.drop("up.weight.absmax"); s.drop("up.weight.quant_map") },
            "planning: Dtype", &["up.weight", "U8", "F32, F16 or BF16"]),
        ("no codes", |s| s.drop("up.weight"),
            "planning: Missing", &["up.weight", "bitsandbytes"]),
        ("a state of an unknown type", |s| s.rename(STATE, "up.weight.quant_state.bitsandbytes__af4"),
            "planning: Missing", &["up.weight", STATE]),
        ("two states", |s| s.put("up.weight.quant_state.bitsandbytes__fp4", "U8", &[state("fp4").len()], state("fp4")),
            "planning: Value", &["up.weight.quant_state.bitsandbytes__fp4", "second", STATE]),
        ("a state that is not bytes", |s| s.put(STATE, "I8", &[2], "{}"),
            "planning: Dtype", &[STATE, "I8", "U8"]),
        ("a byte of codes too few", |s| s.put("up.weight", "U8", &[61, 1], codes(122)),
            "planning: Shape", &["up.weight", "[61, 1]", "[3, 41]", "[62, 1]"]),
        ("a byte of codes too many", |s| s.put("up.weight", "U8", &[63, 1], codes(126)),
            "planning: Shape", &["up.weight", "[63, 1]", "[3, 41]", "[62, 1]"]),
        ("codes of the weight's shape", |s| s.put("up.weight", "U8", &[2, 31], codes(123)),
            "planning: Shape", &["up.weight", "[2, 31]", "[62, 1]"]),
        ("codes of an unknown storage", |s| s.relabel("up.weight", "U16", &[31, 1]),
            "planning: Dtype", &["up.weight", "U16", "U8 or F32 or F16 or BF16"]),
        ("62 bytes in words of four", |s| s.put("up.weight", "F32", &[15, 1], &codes(123)[..60]),
            "planning: Shape", &["up.weight", "[15, 1]", "62 bytes"]),
        ("scales of another type", |s| s.put("up.weight.absmax", "BF16", &[2], [0; 4]),
            "planning: Dtype", &["up.weight.absmax", "BF16", "F32"]),
        ("scales as nested ones, without the upper", |s| s.put("up.weight.absmax", "U8", &[2], [255, 0]),
            "planning: Field", &["up.weight.absmax", "nested scales", "bnb_4bit_use_double_quant", "plain scales"]),
        ("a scale too many", |s| s.put("up.weight.absmax", "F32", &[3], f32s(&[1.0; 3])),
            "planning: Shape", &["up.weight.absmax", "[3]", "[3, 41]", "32, 64"]),
        ("no scale at all", |s| s.put("up.weight.absmax", "F32", &[0], []),
            "planning: Shape", &["up.weight.absmax", "[0]", "[3, 41]", "32, 64"]),
        ("scales in a column", |s| s.relabel("up.weight.absmax", "F32", &[2, 1]),
            "planning: Shape", &["up.weight.absmax", "[2, 1]", "[2]"]),
        ("fifteen levels", |s| s.put("up.weight.quant_map", "F32", &[15], f32s(&NF4[1..])),
            "planning: Shape", &["up.weight.quant_map", "[15]", "[16]"]),
        ("levels of another type", |s| s.put("up.weight.quant_map", "F16", &[16], [0; 32]),
            "planning: Dtype", &["up.weight.quant_map", "F16", "F32"]),
        ("levels in another order", |s| s.bytes("up.weight.quant_map").rotate_left(4),
            "reading: Value", &["up.weight.quant_map", "-0.69619", "code 0", "-1"]),
        ("two levels changed round", |s| { let b = s.bytes("up.weight.quant_map"); b[36..44].rotate_left(4) },
            "reading: Value", &["up.weight.quant_map", "0.2461", "code 9", "0.1609"]),
        ("the levels of FP4", |s| s.put("up.weight.quant_map", "F32", &[16], f32s(&fp4())),
            "reading: Value", &["up.weight.quant_map", "0 as the value of code 0", "-1"]),
        ("a level that is no number", |s| s.bytes("up.weight.quant_map")[60..].copy_from_slice(&f32s(&[f32::NAN])),
            "reading: Value", &["up.weight.quant_map", "NaN", "code 15", "1"]),
    ];
    refused(&nf4(), cases);
}

#[test]
fn parts_of_nested_scales() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no upper scales", |s| s.drop("up.weight.nested_absmax"),
            "planning: Missing", &["up.weight", "up.weight.nested_absmax"]),
        ("no map", |s| s.drop("up.weight.nested_quant_map"),
            "planning: Missing", &["up.weight", "up.weight.nested_quant_map"]),
        ("plain scales with upper ones", |s| s.put("up.weight.absmax", "F32", &[2], f32s(&[1.0, 2.0])),
            "planning: Dtype", &["up.weight.absmax", "F32", "U8"]),
        ("an upper scale too many", |s| s.put("up.weight.nested_absmax", "F32", &[2], f32s(&[1.0; 2])),
            "planning: Shape", &["up.weight.nested_absmax", "[2]", "[1]"]),
        ("upper scales of another type", |s| s.put("up.weight.nested_absmax", "F16", &[1], [0; 2]),
            "planning: Dtype", &["up.weight.nested_absmax", "F16", "F32"]),
        ("half a map", |s| s.put("up.weight.nested_quant_map", "F32", &[128], f32s(&dynamic()[128..])),
            "planning: Shape", &["up.weight.nested_quant_map", "[128]", "[256]"]),
        ("a map of another type", |s| s.put("up.weight.nested_quant_map", "F16", &[256], [0; 512]),
            "planning: Dtype", &["up.weight.nested_quant_map", "F16", "F32"]),
        ("an even map", |s| {
            let even: Vec<f32> = (-127_i16..=128).map(|k| f32::from(k) / 128.0).collect();
            s.put("up.weight.nested_quant_map", "F32", &[256], f32s(&even));
        }, "reading: Value", &["up.weight.nested_quant_map", "-0.9921875", "code 0", "-0.99296874"]),
        ("two small codes changed round", |s| { let b = s.bytes("up.weight.nested_quant_map"); b[512..520].rotate_left(4) },
            "reading: Value", &["up.weight.nested_quant_map", "0.00000325", "code 128", "0.00000055"]),
        ("a map in another order", |s| s.bytes("up.weight.nested_quant_map").rotate_left(512),
            "reading: Value", &["up.weight.nested_quant_map", "code 0", "-0.99"]),
        ("no offset", |s| edit_state(s, r#", "nested_offset": 0.5"#, ""),
            "reading: Value", &[STATE, "no nested_offset", "mean"]),
        ("an offset of null", |s| edit_state(s, r#""nested_offset": 0.5"#, r#""nested_offset": null"#),
            "reading: Value", &[STATE, "no nested_offset", "mean"]),
        ("an offset that is a text", |s| edit_state(s, r#""nested_offset": 0.5"#, r#""nested_offset": "0.5""#),
            "reading: Value", &[STATE, "0.5", "state"]),
        ("an offset beyond f32", |s| edit_state(s, r#""nested_offset": 0.5"#, r#""nested_offset": 1e300"#),
            "reading: Value", &[STATE, "nested_offset 1e300", "f32"]),
        ("an offset beyond f64", |s| edit_state(s, r#""nested_offset": 0.5"#, r#""nested_offset": 1e999"#),
            "reading: Value", &[STATE, "number out of range", "state"]),
        ("an offset that is no number", |s| edit_state(s, r#""nested_offset": 0.5"#, r#""nested_offset": NaN"#),
            "reading: Value", &[STATE, "\"NaN\", expected f64", "state"]),
        ("nested blocks of 128", |s| edit_state(s, r#""nested_blocksize": 256"#, r#""nested_blocksize": 128"#),
            "reading: Value", &[STATE, "nested_blocksize 128", "256"]),
        ("nested scales in bf16", |s| edit_state(s, r#""nested_dtype": "float32""#, r#""nested_dtype": "bfloat16""#),
            "reading: Value", &[STATE, "nested_dtype bfloat16", "float32"]),
        ("the state of plain scales", |s| set_state(s, &state("nf4")),
            "reading: Value", &[STATE, "no nested_offset", "mean"]),
    ];
    refused(&nested(), cases);
}

#[test]
fn the_state_says_what_the_tensors_are() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no JSON", |s| set_state(s, "nf4, 64"),
            "reading: Value", &[STATE, "cannot be read (expected ident", "a quantization state"]),
        ("nothing", |s| set_state(s, ""),
            "reading: Value", &[STATE, "EOF", "a quantization state"]),
        ("no UTF-8", |s| s.put(STATE, "U8", &[4], [b'"', 0xff, 0xfe, b'"']),
            "reading: Value", &[STATE, "a quantization state"]),
        ("JSON that is no object", |s| set_state(s, "[64]"),
            "reading: Value", &[STATE, "a quantization state"]),
        ("more after the JSON", |s| edit_state(s, "}", "} {}"),
            "reading: Value", &[STATE, "trailing", "a quantization state"]),
        ("an unknown key", |s| edit_state(s, "}", r#", "offset": 1}"#),
            "reading: Value", &[STATE, "unknown field `offset`", "a quantization state"]),
        ("a key twice", |s| edit_state(s, "}", r#", "blocksize": 128}"#),
            "reading: Value", &[STATE, "duplicate field `blocksize`", "a quantization state"]),
        ("a missing key", |s| edit_state(s, r#""blocksize": 64, "#, ""),
            "reading: Value", &[STATE, "missing field `blocksize`", "a quantization state"]),
        ("another type than its name", |s| set_state(s, &state("fp4")),
            "reading: Value", &[STATE, "fp4", "nf4"]),
        ("another shape", |s| edit_state(s, "[3, 41]", "[41, 3]"),
            "reading: Value", &[STATE, "[41, 3]", "[3, 41]"]),
        ("a flat shape", |s| edit_state(s, "[3, 41]", "[123]"),
            "reading: Value", &[STATE, "[123]", "[3, 41]"]),
        ("a shape beyond usize", |s| edit_state(s, "[3, 41]", "[3, 99999999999999999999]"),
            "reading: Value", &[STATE, "a quantization state"]),
        ("a shape below zero", |s| edit_state(s, "[3, 41]", "[-3, -41]"),
            "reading: Value", &[STATE, "-3", "a quantization state"]),
        ("blocks of 128", |s| edit_state(s, "64", "128"),
            "reading: Value", &[STATE, "blocksize 128", "64"]),
        ("blocks of 32", |s| edit_state(s, "64", "32"),
            "reading: Value", &[STATE, "blocksize 32", "64"]),
        ("blocks of 63, of which there are two as well", |s| edit_state(s, "64", "63"),
            "reading: Value", &[STATE, "blocksize 63", "64"]),
        ("blocks of nothing", |s| edit_state(s, "64", "0"),
            "reading: Value", &[STATE, "blocksize 0", "64"]),
        ("blocks below zero", |s| edit_state(s, "64", "-64"),
            "reading: Value", &[STATE, "-64", "a quantization state"]),
        ("nested scales, and they are plain", |s| set_state(s, NESTED_STATE),
            "reading: Value", &[STATE, "nested_offset", "plain scales"]),
    ];
    refused(&nf4(), cases);
}

#[test]
fn parts_of_eight_bits() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no largest magnitudes", |s| s.drop("up.SCB"),
            "planning: Missing", &["up.weight", "up.SCB"]),
        ("a magnitude too few", |s| s.put("up.SCB", "F32", &[2], f32s(&[1.0; 2])),
            "planning: Shape", &["up.SCB", "[2]", "[3, 41]", "[3]"]),
        ("magnitudes in a column", |s| s.relabel("up.SCB", "F32", &[3, 1]),
            "planning: Shape", &["up.SCB", "[3, 1]", "[3]"]),
        ("one for each column", |s| s.put("up.SCB", "F32", &[41], f32s(&[1.0; 41])),
            "planning: Shape", &["up.SCB", "[41]", "[3]"]),
        ("magnitudes of another type", |s| s.put("up.SCB", "F16", &[3], [0; 6]),
            "planning: Dtype", &["up.SCB", "F16", "F32"]),
        ("codes without a sign", |s| s.relabel("up.weight", "U8", &SHAPE),
            "planning: Dtype", &["up.weight", "U8", "I8"]),
        ("codes turned round", |s| s.relabel("up.weight", "I8", &[41, 3]),
            "planning: Shape", &["up.weight", "[41, 3]", "[3, 41]"]),
        ("no codes", |s| s.drop("up.weight"),
            "planning: Missing", &["up.weight", "bitsandbytes"]),
        ("weight format 1", |s| s.bytes("up.weight_format")[0] = 1,
            "reading: Value", &["up.weight_format", "weight format 1", "0, row by row"]),
        ("two weight formats", |s| s.put("up.weight_format", "U8", &[2], [0, 0]),
            "planning: Shape", &["up.weight_format", "[2]", "[] or [1]"]),
        ("a weight format in words", |s| s.put("up.weight_format", "I32", &[], [0; 4]),
            "planning: Dtype", &["up.weight_format", "I32", "U8"]),
        ("plain, not excepted", |s| { s.drop("up.SCB"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "llm_int8_skip_modules"]),
        ("plain, and its magnitudes are left", |s| s.plain("up.weight", &SHAPE),
            "planning: Dtype", &["up.weight", "F32", "I8"]),
        ("packed, excepted", |s| s.say("quantization_config/llm_int8_skip_modules", json!(["up"])),
            "planning: Excepted", &["up.weight", "packed", "llm_int8_skip_modules"]),
        ("4 bits declared", |s| {
            s.say("quantization_config/load_in_4bit", json!(true));
            s.say("quantization_config/load_in_8bit", json!(false));
        }, "planning: Field", &["up.SCB", "8 bits", "load_in_4bit", "4 bits"]),
    ];
    refused(&int8(), cases);
}

// ------------------------------------------------------------------- what is packed is not packed again

#[test]
fn another_quantization_of_packed_weights() {
    for (saving, format) in [
        (nf4(), "nf4:block=64"),
        (nested(), "nf4:block=64,nested"),
        (plain("fp4", fp4()), "fp4:block=64"),
        (int8(), "int8"),
    ] {
        let error = saving.refused_as("nf4");
        assert_eq!(kind(&error), "planning: plan Packed");
        let message = error.to_string();
        for part in ["down.weight", format, "nf4:block=64", "quantize the model"] {
            assert!(message.contains(part), "`{message}` lacks `{part}`");
        }
    }
}
