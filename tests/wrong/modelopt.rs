//! `quant_method: modelopt`: FP8 and NVFP4.

use serde_json::{Value, json};

use crate::saving::{Case, Saving, f32s, refused};

const SHAPE: [usize; 2] = [4, 32];
const FIELD: &str = "quantization_config";

/// 1, 2, -1, 448, 2^-9, 0, -1.5 and 0.5 as e4m3.
const E4M3: [u8; 8] = [0x38, 0x40, 0xb8, 0x7e, 0x01, 0x00, 0xbc, 0x30];
const VALUES: [f32; 8] = [1.0, 2.0, -1.0, 448.0, 0.001_953_125, 0.0, -1.5, 0.5];

/// The values of codes 0 to 15 of E2M1, by the specification of OCP.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// What `config.json` says in newer exports.
fn declared(algorithm: &str) -> Value {
    json!({ "quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"] })
}

fn saving(quantization: Value, put: impl Fn(&mut Saving, &str)) -> Saving {
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        put(&mut saving, module);
        saving.put(&format!("{module}.input_scale"), "F32", &[], f32s(&[7.0]));
    }
    saving
}

fn fp8(algorithm: &str, shape: &'static [usize], scales: &'static [f32]) -> Saving {
    saving(declared(algorithm), |saving, module| {
        saving.put(
            &format!("{module}.weight"),
            "F8_E4M3",
            &SHAPE,
            E4M3.repeat(16),
        );
        saving.put(
            &format!("{module}.weight_scale"),
            "F32",
            shape,
            f32s(scales),
        );
        saving.put(&format!("{module}.k_scale"), "F32", &[1], f32s(&[3.0]));
    })
}

/// The plainest one.
pub(crate) fn fp8_tensor() -> Saving {
    fp8("FP8", &[], &[0.5])
}

/// Scales of 1, 2, 0.5 and -1.5 as e4m3, for the groups in order.
const SCALES: [(u8, f32); 4] = [(0x38, 1.0), (0x40, 2.0), (0x30, 0.5), (0xbc, -1.5)];

pub(crate) fn nvfp4(global: f32) -> Saving {
    saving(declared("NVFP4"), |saving, module| {
        // Codes 0 to 15 in each group, the first of a pair in the low half.
        let bytes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe].repeat(8);
        let scales: Vec<u8> = (0..8).map(|k| SCALES[k % 4].0).collect();
        saving.put(&format!("{module}.weight"), "U8", &[4, 16], bytes);
        saving.put(
            &format!("{module}.weight_scale"),
            "F8_E4M3",
            &[4, 2],
            scales,
        );
        saving.put(
            &format!("{module}.weight_scale_2"),
            "F32",
            &[],
            f32s(&[global]),
        );
    })
}

fn values_fp8(scale: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..128).map(|k| VALUES[k % 8] * scale(k / 32)).collect()
}

// --------------------------------------------------------------------------- right ones are read

#[test]
fn fp8_is_codes_times_scales() {
    for (saving, scale) in [
        (fp8("FP8", &[], &[0.5]), [0.5; 4]),
        (fp8("fp8", &[1], &[-2.0]), [-2.0; 4]),
        (fp8("FP8_PB_WO", &[1, 1], &[4.0]), [4.0; 4]),
        (fp8("fp8_pb_wo", &[1, 1, 1, 1], &[4.0]), [4.0; 4]),
        (
            fp8("FP8_PER_CHANNEL_PER_TOKEN", &[4], &[1.0, 2.0, -4.0, 0.5]),
            [1.0, 2.0, -4.0, 0.5],
        ),
        (
            fp8("FP8_PER_CHANNEL_PER_TOKEN", &[4, 1], &[1.0, 2.0, -4.0, 0.5]),
            [1.0, 2.0, -4.0, 0.5],
        ),
    ] {
        let [up, down] = saving.values();
        assert_eq!(up, values_fp8(|row| scale[row]), "{}", saving.config);
        assert_eq!(down, up);
    }
}

/// The second scale is multiplied by. Would catch one that is divided by, as that of compressed-tensors is, and halves of bytes in
/// the other order.
#[test]
fn nvfp4_is_codes_times_two_scales() {
    let [up, down] = nvfp4(0.25).values();
    let expected: Vec<f32> = (0..128)
        .map(|k| E2M1[k % 16] * (SCALES[k / 16 % 4].1 * 0.25))
        .collect();
    assert_eq!(up, expected);
    assert_eq!(down, expected);
    assert_eq!(
        [up[1], up[7], up[15], up[17], up[63]],
        [0.125, 1.5, -1.5, 0.25, 2.25],
        "by hand"
    );
    // A weight of zeros alone.
    assert!(nvfp4(0.0).values()[0].iter().all(|value| *value == 0.0));
}

#[test]
fn where_else_it_is_declared() {
    let (expected, none) = (fp8("FP8", &[], &[0.5]).values(), Vec::<String>::new());
    assert_eq!(fp8("FP8", &[], &[0.5]).up_and_notes().1, none);
    let mut older = fp8("FP8", &[], &[0.5]);
    older
        .config
        .as_object_mut()
        .expect("an object")
        .remove(FIELD);
    let quantization = json!({ "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"] });
    let file = json!({ "producer": { "name": "modelopt", "version": "0.33.0" }, "quantization": quantization });
    older
        .beside
        .insert("hf_quant_config.json", file.to_string());
    assert_eq!(older.values(), expected);
    let (_, notes) = older.up_and_notes();
    assert!(
        notes
            .iter()
            .any(|note| note.contains("hf_quant_config.json")),
        "{notes:?}"
    );

    let mut copied = fp8("FP8", &[], &[0.5]);
    copied.config[FIELD] = json!({ "quant_method": "modelopt", "quantization": quantization });
    assert_eq!(copied.values(), expected);

    let mut mixed = nvfp4(0.25);
    let layers = json!({ "up": { "quant_algo": "FP8" }, "down": { "quant_algo": "NVFP4", "group_size": 16 } });
    mixed.config[FIELD] = json!({ "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers });
    mixed.drop("up.weight_scale_2");
    mixed.put("up.weight", "F8_E4M3", &SHAPE, E4M3.repeat(16));
    mixed.put("up.weight_scale", "F32", &[], f32s(&[0.5]));
    let [up, down] = mixed.values();
    assert_eq!(up, expected[0]);
    assert_eq!(down, nvfp4(0.25).values()[1]);
}

#[test]
fn exceptions_may_have_stars() {
    let mut saving = fp8("FP8", &[], &[0.5]);
    saving.drop("up.weight_scale");
    saving.drop("up.input_scale");
    saving.plain("up.weight", &SHAPE);
    for list in ["ignore", "exclude_modules"] {
        for excepted in ["up", "u*", "*p", "?p", "*up*"] {
            saving.config[FIELD] = json!({ "quant_method": "modelopt", "quant_algo": "FP8", list: ["lm_head", excepted] });
            assert!(saving.up_is_plain(), "{list} {excepted}");
        }
    }
}

// ------------------------------------------------------------------------------- what can be wrong

#[test]
fn what_can_be_wrong() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no algorithm", |s| s.unsay(FIELD, "quant_algo"),
            "opening: config Missing", &["`quantization_config.quant_algo`"]),
        ("an algorithm that is not read", |s| s.say("quantization_config/quant_algo", json!("W4A8_AWQ")),
            "opening: config Unsupported", &["quant_algo", "W4A8_AWQ", "FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, NVFP4 or MIXED_PRECISION"]),
        ("mixed without a list", |s| s.say("quantization_config/quant_algo", json!("MIXED_PRECISION")),
            "opening: config Missing", &["`quantization_config.quantized_layers`"]),
        ("exceptions as a text", |s| s.say("quantization_config/ignore", json!("lm_head")),
            "opening: config Value", &["`quantization_config.ignore`", "\"lm_head\"", "a list of texts"]),
        ("a broken exception", |s| s.say("quantization_config/ignore", json!(["lm_head", "[up"])),
            "opening: config Value", &["`quantization_config.ignore`", "[up"]),
        ("no scale", |s| s.drop("up.weight_scale"),
            "planning: Missing", &["up.weight_scale", "modelopt"]),
        ("a scale for each row", |s| s.put("up.weight_scale", "F32", &[4], f32s(&[1.0; 4])),
            "planning: Shape", &["up.weight_scale", "[4]", "[1, 1]"]),
        ("codes of another kind", |s| s.retype("up.weight", "F8_E5M2"),
            "planning: Dtype", &["up.weight", "F8_E5M2", "F8_E4M3"]),
        ("an exception that is packed", |s| s.say("quantization_config/ignore", json!(["lm_head", "up"])),
            "planning: Excepted", &["up.weight", "`ignore`"]),
        ("a weight that is not packed", |s| { s.drop("up.weight_scale"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "`ignore`"]),
        ("factors of activations", |s| s.plain("up.pre_quant_scale", &[32]),
            "planning: Field", &["up.pre_quant_scale", "`quant_algo`"]),
        ("no tensor of it", |s| for module in ["up", "down"] { s.drop(&format!("{module}.weight_scale")); s.plain(&format!("{module}.weight"), &SHAPE) },
            "opening: NoSigns", &["modelopt"]),
    ];
    refused(&fp8("FP8", &[], &[0.5]), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no second scale", |s| s.drop("up.weight_scale_2"),
            "planning: Missing", &["up.weight_scale_2", "modelopt"]),
        ("a second scale that is no number", |s| s.put("up.weight_scale_2", "F32", &[], f32s(&[f32::NAN])),
            "reading: Value", &["up.weight_scale_2", "NaN"]),
        ("groups of 32", |s| s.say("quantization_config/group_size", json!(32)),
            "opening: config Unsupported", &["group_size", "32", "16"]),
        ("scales of floats", |s| s.put("up.weight_scale", "F32", &[4, 2], f32s(&[1.0; 8])),
            "planning: Dtype", &["up.weight_scale", "F32", "F8_E4M3"]),
        ("too few scales", |s| s.put("up.weight_scale", "F8_E4M3", &[4, 1], vec![0x38; 4]),
            "planning: Shape", &["up.weight_scale", "[4, 1]", "[4, 2]"]),
    ];
    refused(&nvfp4(0.25), cases);
}
