//! HQQ: codes in halves of bytes, and the scalars beside them.

use serde_json::json;

use crate::saving::{Case, Saving, f32s, refused};

const SHAPE: [usize; 2] = [4, 32];
const FIELD: &str = "quantization_config";

/// Four bits, groups of 16 along rows: eight groups, of which the first four lie in high halves. Code `k % 16` everywhere,
/// a scale of 1, 2, … 8 and a zero of 0.5 a group.
pub(crate) fn right() -> Saving {
    let quantization = json!({
        "quant_method": "hqq",
        "skip_modules": ["lm_head"],
        "quant_config": {
            "offload_meta": false,
            "scale_quant_params": null,
            "zero_quant_params": null,
            "weight_quant_params": {
                "nbits": 4, "group_size": 16, "axis": 1, "channel_wise": true, "optimize": true,
                "round_zero": true, "view_as_float": false,
            },
        },
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        let name = |part: &str| format!("{module}.{part}");
        let row: Vec<u8> = (0..16).map(|code| code << 4 | code).collect();
        saving.put(&name("W_q"), "U8", &[4, 16], row.repeat(4));
        let scales: Vec<f32> = (1..=8).map(|k| k as f32).collect();
        saving.put(&name("scale"), "F32", &[8, 1], f32s(&scales));
        saving.put(&name("zero"), "F32", &[8, 1], f32s(&[0.5; 8]));
        for (scalar, value) in [("nbits", 4i32), ("group_size", 16), ("axis", 1)] {
            saving.put(&name(scalar), "I32", &[], value.to_le_bytes());
        }
        saving.put(
            &name("shape"),
            "I64",
            &[2],
            [4i64, 32].map(i64::to_le_bytes).concat(),
        );
        for (text, value) in [
            ("packing", "4bit_u8"),
            ("compute_dtype", "torch.float32"),
            ("unpack_view_dtype", "torch.uint8"),
        ] {
            saving.put(&name(text), "U8", &[value.len()], value.as_bytes());
        }
        for flag in ["view_as_float", "quant_scale", "quant_zero", "offload_meta"] {
            saving.put(&name(flag), "U8", &[], [0]);
        }
        for flag in ["channel_wise", "optimize", "round_zero"] {
            saving.put(&name(flag), "U8", &[], [1]);
        }
    }
    saving
}

#[test]
fn weights_are_codes_less_zeros_times_scales() {
    let weight = |k: usize| ((k % 16) as f32 - 0.5) * (k / 16 + 1) as f32;
    let expected: Vec<f32> = (0..128).map(weight).collect();
    assert_eq!(right().values(), [expected.clone(), expected]);
}

/// Groups along the first axis lie in columns: weight `k` belongs to group `k % 8`.
#[test]
fn groups_of_the_first_axis_are_columns() {
    let mut saving = right();
    saving.say(
        "quantization_config/quant_config/weight_quant_params/axis",
        json!(0),
    );
    for module in ["up", "down"] {
        let name = |part: &str| format!("{module}.{part}");
        // Sixteen rows of eight codes, 0 to 15 by row: the first eight rows in high halves.
        let codes: Vec<u8> = (0..8u8).flat_map(|row| [row << 4 | (row + 8); 8]).collect();
        saving.put(&name("W_q"), "U8", &[8, 8], codes);
        saving.put(&name("axis"), "I32", &[], 0i32.to_le_bytes());
        for part in ["scale", "zero"] {
            saving.relabel(&name(part), "F32", &[1, 8]);
        }
    }
    let weight = |k: usize| ((k / 8) as f32 - 0.5) * (k % 8 + 1) as f32;
    let expected: Vec<f32> = (0..128).map(weight).collect();
    assert_eq!(saving.values(), [expected.clone(), expected]);
}

#[test]
fn scalars_say_what_the_configuration_says() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("another width", |s| s.put("up.nbits", "I32", &[], 3i32.to_le_bytes()),
            "reading: Value", &["up.nbits", "[3, 0, 0, 0]", "[4, 0, 0, 0]"]),
        ("another group", |s| s.put("up.group_size", "I32", &[], 64i32.to_le_bytes()),
            "reading: Value", &["up.group_size", "[64, 0, 0, 0]", "[16, 0, 0, 0]"]),
        ("another axis", |s| s.put("up.axis", "I32", &[], 0i32.to_le_bytes()),
            "reading: Value", &["up.axis", "[0, 0, 0, 0]", "[1, 0, 0, 0]"]),
        ("turned round", |s| s.put("up.shape", "I64", &[2], [32i64, 4].map(i64::to_le_bytes).concat()),
            "reading: Value", &["up.shape"]),
        ("packed otherwise", |s| s.put("up.packing", "U8", &[7], *b"2bit_u8"),
            "reading: Value", &["up.packing", "`2bit_u8`", "`4bit_u8`"]),
        ("a program for a type", |s| s.put("up.compute_dtype", "U8", &[24], *b"__import__('os').abort()"),
            "reading: Value", &["up.compute_dtype", "__import__", "`torch.bfloat16` or `torch.float16` or `torch.float32`"]),
        ("a program for another type", |s| s.put("up.unpack_view_dtype", "U8", &[6], *b"exit()"),
            "reading: Value", &["up.unpack_view_dtype", "`exit()`", "`torch.uint8`"]),
        ("packed scales", |s| s.put("up.quant_scale", "U8", &[], [1]),
            "reading: Value", &["up.quant_scale", "[1]", "[0]"]),
        ("a flag that is none", |s| s.put("up.optimize", "U8", &[], [2]),
            "reading: Value", &["up.optimize", "[2]", "[0] or [1]"]),
        ("floats that are none", |s| s.put("up.view_as_float", "U8", &[], [1]),
            "reading: Value", &["up.view_as_float", "[1]", "[0]"]),
    ];
    refused(&right(), cases);
}

#[test]
fn parts_fit_the_weight() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no zeros", |s| s.drop("up.zero"),
            "planning: Missing", &["up.weight", "hqq", "up.zero"]),
        ("no scales", |s| s.drop("up.scale"),
            "planning: Missing", &["up.weight", "hqq", "up.scale"]),
        ("half the codes", |s| s.put("up.W_q", "U8", &[2, 16], [0; 32]),
            "planning: Shape", &["up.W_q", "[2, 16]", "[4, 16]"]),
        ("codes in words", |s| s.put("up.W_q", "I32", &[4, 16], [0; 256]),
            "planning: Dtype", &["up.W_q", "I32", "U8"]),
        ("a scale a row", |s| s.put("up.scale", "F32", &[4, 1], f32s(&[1.0; 4])),
            "planning: Shape", &["up.scale", "[4, 1]", "[8, 1]"]),
        ("zeros of another type", |s| s.put("up.zero", "F16", &[8, 1], [0; 16]),
            "planning: Dtype", &["up.zero", "F16", "F32"]),
        ("a plain weight beside the codes", |s| s.plain("up.weight", &SHAPE),
            "planning: Unpacked", &["up.weight", "F32", "`skip_modules`"]),
        ("a plain weight", |s| { s.drop("up.W_q"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "`skip_modules`"]),
        ("packed and excepted", |s| s.say("quantization_config/skip_modules", json!(["up"])),
            "planning: Excepted", &["up.weight", "`skip_modules`"]),
        ("a group that does not divide", |s| s.say("quantization_config/quant_config/weight_quant_params/group_size", json!(48)),
            "planning: Format", &["up.weight", "128", "48"]),
        ("seven bits", |s| s.say("quantization_config/quant_config/weight_quant_params/nbits", json!(7)),
            "opening: config Unsupported", &["nbits", "7", "1.58"]),
        ("bits as a text", |s| s.say("quantization_config/quant_config/weight_quant_params/nbits", json!("4")),
            "opening: config Value", &["nbits"]),
        ("a third axis", |s| s.say("quantization_config/quant_config/weight_quant_params/axis", json!(2)),
            "opening: config Unsupported", &["axis", "2", "0 or 1"]),
        ("packed scales", |s| s.say("quantization_config/quant_config/scale_quant_params", json!({ "nbits": 8 })),
            "opening: config Unsupported", &["scale_quant_params"]),
        ("no parameters", |s| s.say("quantization_config/quant_config", json!({})),
            "opening: config Missing", &["weight_quant_params"]),
    ];
    refused(&right(), cases);
}
