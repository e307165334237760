//! compressed-tensors: whole numbers, packed and by the byte.

use serde_json::{Value, json};

use crate::saving::{Case, Saving, f32s, refused, u32s};

const SHAPE: [usize; 2] = [3, 48];
const FIELD: &str = "quantization_config";
const GROUP: usize = 16;

fn config(format: &str, weights: Value) -> Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
        "ignore": ["lm_head"],
    })
}

/// Codes 0 to 15 in each group of a row, four bits each, the first one lowest; a scale of 1, 2, 3, … a group.
fn packed(symmetric: bool) -> Saving {
    let weights = json!({
        "num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP,
    });
    let mut saving = Saving::new(SHAPE, FIELD, config("pack-quantized", weights));
    for module in ["up", "down"] {
        let name = |part: &str| format!("{module}.weight_{part}");
        let words = [0x7654_3210, 0xfedc_ba98].repeat(9);
        saving.put(&name("packed"), "I32", &[3, 6], u32s(&words));
        let scales: Vec<f32> = (1..=9).map(|k| k as f32).collect();
        saving.put(&name("scale"), "F32", &[3, 3], f32s(&scales));
        saving.put(
            &name("shape"),
            "I64",
            &[2],
            [3i64, 48].map(i64::to_le_bytes).concat(),
        );
        if !symmetric {
            // Zero points of three rows in the low halves of three words, one a group: 1, 2, 3; 4, 5, 6; 7, 8, 9.
            let zeros = [0x741, 0x852, 0x963];
            saving.put(&name("zero_point"), "I32", &[1, 3], u32s(&zeros));
        }
    }
    saving
}

/// Signed bytes -24 to 23 in each row, a scale of 1, 2, 3 a row.
fn bytes() -> Saving {
    let weights = json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel" });
    let mut saving = Saving::new(SHAPE, FIELD, config("int-quantized", weights));
    for module in ["up", "down"] {
        let row: Vec<u8> = (-24i8..24).map(i8::cast_unsigned).collect();
        saving.put(&format!("{module}.weight"), "I8", &SHAPE, row.repeat(3));
        let scales = f32s(&[1.0, 2.0, 3.0]);
        saving.put(&format!("{module}.weight_scale"), "F32", &[3, 1], scales);
    }
    saving
}

/// `(code - zero) * scale`, where a symmetric code counts from 8.
#[test]
fn weights_are_codes_less_zeros_times_scales() {
    for symmetric in [true, false] {
        let weight = |k: usize| {
            let group = k / GROUP;
            let zero = if symmetric { 8 } else { group + 1 };
            ((k % GROUP) as f32 - zero as f32) * (group + 1) as f32
        };
        let expected: Vec<f32> = (0..144).map(weight).collect();
        assert_eq!(packed(symmetric).values(), [expected.clone(), expected]);
    }
    let weight = |k: usize| ((k % 48) as f32 - 24.0) * (k / 48 + 1) as f32;
    let expected: Vec<f32> = (0..144).map(weight).collect();
    assert_eq!(bytes().values(), [expected.clone(), expected]);
}

/// Groups of a row in an order of their own: column 0 belongs to the last group.
#[test]
fn columns_belong_to_the_groups_that_the_list_says() {
    let mut saving = packed(true);
    let list: Vec<u32> = (0..48).map(|c| 2 - c / 16).collect();
    for module in ["up", "down"] {
        saving.put(&format!("{module}.weight_g_idx"), "I32", &[48], u32s(&list));
    }
    let weight = |k: usize| {
        let scale = k / 48 * 3 + 3 - k % 48 / 16;
        ((k % GROUP) as f32 - 8.0) * scale as f32
    };
    let expected: Vec<f32> = (0..144).map(weight).collect();
    assert_eq!(saving.values(), [expected.clone(), expected]);
}

#[test]
fn parts_of_packed_words() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a shape that lies", |s| s.put("up.weight_shape", "I64", &[2], [48i64, 3].map(i64::to_le_bytes).concat()),
            "reading: Value", &["up.weight_shape", "[48, 3]", "[3, 48]"]),
        ("a shape of three sides", |s| s.put("up.weight_shape", "I64", &[3], [0; 24]),
            "planning: Shape", &["up.weight_shape", "[3]", "[2]"]),
        ("no shape", |s| s.drop("up.weight_shape"),
            "planning: Missing", &["up.weight", "up.weight_shape"]),
        ("no scales", |s| s.drop("up.weight_scale"),
            "planning: Missing", &["up.weight", "up.weight_scale"]),
        ("no codes", |s| s.drop("up.weight_packed"),
            "planning: plan Missing", &["up.weight"]),
        ("too few words", |s| s.put("up.weight_packed", "I32", &[3, 5], [0; 60]),
            "planning: Shape", &["up.weight_packed", "[3, 5]", "[3, 6]"]),
        ("unsigned words", |s| s.relabel("up.weight_packed", "U32", &[3, 6]),
            "planning: Dtype", &["up.weight_packed", "U32", "I32"]),
        ("a scale a row", |s| s.put("up.weight_scale", "F32", &[3, 1], f32s(&[1.0; 3])),
            "planning: Shape", &["up.weight_scale", "[3, 1]", "[3, 3]"]),
        ("zero points, declared symmetric", |s| s.put("up.weight_zero_point", "I32", &[1, 3], [0; 12]),
            "planning: Field", &["up.weight_zero_point", "`weights.symmetric`"]),
        ("a group that the list has not", |s| s.put("up.weight_g_idx", "I32", &[48], u32s(&[3; 48])),
            "reading: Value", &["up.weight_g_idx", "group 3 for column 0", "below 3"]),
        ("a negative group", |s| s.put("up.weight_g_idx", "I32", &[48], [255; 192]),
            "reading: Value", &["up.weight_g_idx", "group -1 for column 0", "below 3"]),
        ("a list that is too short", |s| s.put("up.weight_g_idx", "I32", &[47], [0; 188]),
            "planning: Shape", &["up.weight_g_idx", "[47]", "[48]"]),
        ("three bits by the config", |s| s.say("quantization_config/config_groups/group_0/weights/num_bits", json!(3)),
            "planning: Shape", &["up.weight_packed", "[3, 6]", "[3, 5]"]),
        ("seven bits", |s| s.say("quantization_config/config_groups/group_0/weights/num_bits", json!(7)),
            "planning: Shape", &["up.weight_packed", "[3, 6]"]),
        ("nine bits", |s| s.say("quantization_config/config_groups/group_0/weights/num_bits", json!(9)),
            "opening: config Unsupported", &["9 bits", "2 to 8 bits"]),
        ("blocks", |s| s.say("quantization_config/config_groups/group_0/weights/strategy", json!("block")),
            "opening: config Unsupported", &["strategy", "block", "tensor, channel or group"]),
    ];
    refused(&packed(true), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no zero points", |s| s.drop("up.weight_zero_point"),
            "planning: Missing", &["up.weight", "up.weight_zero_point"]),
        ("zero points along rows", |s| s.put("up.weight_zero_point", "I32", &[3, 1], [0; 12]),
            "planning: Shape", &["up.weight_zero_point", "[3, 1]", "[1, 3]"]),
        ("zero points by the byte", |s| s.put("up.weight_zero_point", "I8", &[3, 3], [0; 9]),
            "planning: Dtype", &["up.weight_zero_point", "I8", "I32"]),
    ];
    refused(&packed(false), cases);
}

#[test]
fn parts_of_bytes() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("unsigned bytes", |s| s.relabel("up.weight", "U8", &SHAPE),
            "planning: Dtype", &["up.weight", "U8", "I8"]),
        ("floats", |s| s.relabel("up.weight", "F8_E4M3", &SHAPE),
            "planning: Dtype", &["up.weight", "F8_E4M3", "I8"]),
        ("turned round", |s| s.relabel("up.weight", "I8", &[48, 3]),
            "planning: Shape", &["up.weight", "[48, 3]", "[3, 48]"]),
        ("one scale", |s| s.put("up.weight_scale", "F32", &[1], f32s(&[1.0])),
            "planning: Shape", &["up.weight_scale", "[1]", "[3, 1]"]),
        ("groups in an order", |s| s.put("up.weight_g_idx", "I32", &[48], [0; 192]),
            "planning: Field", &["up.weight_g_idx", "`weights.strategy`"]),
        ("packed by the config", |s| s.say("quantization_config/format", json!("pack-quantized")),
            "planning: Missing", &["up.weight", "up.weight_packed"]),
    ];
    refused(&bytes(), cases);
}
