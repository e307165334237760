//! MLX: affine codes with a scale and a bias for each group.

use serde_json::json;

use crate::saving::{Case, Saving, bf16s, f32s, kind, refused, u32s};

const SHAPE: [usize; 2] = [2, 64];
const FIELD: &str = "quantization";

/// Codes 0 to 15 again and again, four bits each, in groups of 32. The head is packed too, the table is not.
pub(crate) fn right() -> Saving {
    let quantization = json!({ "group_size": 32, "bits": 4, "mode": "affine", "embed": false });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down", "lm_head"] {
        let words = u32s(&[0x7654_3210, 0xfedc_ba98].repeat(8));
        saving.put(&format!("{module}.weight"), "U32", &[2, 8], words);
        let scales = bf16s(&[0.5, 1.0, 2.0, -4.0]);
        saving.put(&format!("{module}.scales"), "BF16", &[2, 2], scales);
        let biases = bf16s(&[-1.0, 0.0, 3.0, 10.0]);
        saving.put(&format!("{module}.biases"), "BF16", &[2, 2], biases);
    }
    saving
}

fn regroup(saving: &mut Saving, shape: &[usize]) {
    for part in ["up.scales", "up.biases"] {
        let ones = vec![1.0; shape.iter().product()];
        saving.put(part, "BF16", shape, bf16s(&ones));
    }
}

// --------------------------------------------------------------------------- right ones are read

#[test]
fn weights_are_codes_times_scale_plus_bias() {
    let group = |k: usize| [(0.5, -1.0), (1.0, 0.0), (2.0, 3.0), (-4.0, 10.0)][k / 32];
    let weight = |k: usize| (k % 16) as f32 * group(k).0 + group(k).1;
    let expected: Vec<f32> = (0..128).map(weight).collect();
    let [up, down] = right().values();
    assert_eq!(up, expected);
    assert_eq!(down, expected);
    let picks = [up[0], up[5], up[47], up[65], up[127]];
    assert_eq!(picks, [-1.0, 1.5, 15.0, 5.0, -50.0], "by hand");
}

/// A module of its own bits and groups, in f32; three bits run over the bytes: 5 is 101, and 6d db b6 are
/// eight of them. And the copy that mlx-lm makes of the declaration.
#[test]
fn what_else_is_right() {
    let mut saving = right();
    saving.say("quantization/up", json!({ "bits": 3, "group_size": 64 }));
    saving.put("up.weight", "U32", &[2, 6], [0x6d, 0xdb, 0xb6].repeat(16));
    saving.put("up.scales", "F32", &[2, 1], f32s(&[2.0, 0.5]));
    saving.put("up.biases", "F32", &[2, 1], f32s(&[1.0, -7.0]));
    saving.config["quantization_config"] = saving.config[FIELD].clone();
    let [up, down] = saving.values();
    assert_eq!(up, [[11.0; 64], [-4.5; 64]].concat());
    assert_eq!(down, right().values()[1]);
}

#[test]
fn a_module_may_be_excepted() {
    let mut saving = right();
    saving.say("quantization/u", json!(false));
    assert!(!saving.up_is_plain());
    saving.say("quantization/up", json!(false));
    saving.drop("up.scales");
    saving.drop("up.biases");
    saving.plain("up.weight", &SHAPE);
    assert!(saving.up_is_plain());
}

// ------------------------------------------------------------- the declaration is one that can be

#[test]
fn fields_of_the_declaration() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no bits", |s| s.unsay(FIELD, "bits"),
            "opening: config Missing", &["`quantization.bits`"]),
        ("no groups", |s| s.unsay(FIELD, "group_size"),
            "opening: config Missing", &["`quantization.group_size`"]),
        ("bits as a text", |s| s.say("quantization/bits", json!("4")),
            "opening: config Value", &["`quantization.bits`", "\"4\"", "a whole number"]),
        ("bits below zero", |s| s.say("quantization/bits", json!(-4)),
            "opening: config Value", &["`quantization.bits`", "-4", "a whole number"]),
        ("no bit at all", |s| s.say("quantization/bits", json!(0)),
            "opening: config Value", &["`quantization.bits`", "0", "from 1"]),
        ("groups of u64", |s| s.say("quantization/group_size", json!(u64::MAX)),
            "opening: config Value", &["`quantization.group_size`", "18446744073709551615", "2147483647"]),
        ("an object as the groups", |s| s.say("quantization/group_size", json!({})),
            "opening: config Value", &["`quantization.group_size`", "{}", "a whole number"]),
        ("mxfp4", |s| s.say("quantization/mode", json!("mxfp4")),
            "planning: Dtype", &["up.scales", "BF16", "U8"]),
        ("nvfp4 with groups of 32", |s| s.say("quantization/mode", json!("nvfp4")),
            "opening: config Value", &["`quantization.group_size`", "32", "16, which nvfp4 has"]),
        ("an unknown mode", |s| s.say("quantization/mode", json!("linear")),
            "opening: config Unsupported", &["`quantization.mode`", "linear", "affine"]),
        ("mxfp8 with four bits", |s| s.say("quantization/up", json!({ "mode": "mxfp8", "group_size": 32 })),
            "opening: config Value", &["`quantization.*.bits`", "4", "8, which mxfp8 has"]),
        ("mxfp4 for a module with biases", |s| s.say("quantization/up", json!({ "mode": "mxfp4", "group_size": 32 })),
            "planning: Dtype", &["up.scales", "U8"]),
        ("bits of one module as a list", |s| s.say("quantization/up", json!({ "bits": [4] })),
            "opening: config Value", &["`quantization.*.bits`", "[4]", "a whole number"]),
        ("seven bits", |s| s.say("quantization/bits", json!(7)),
            "planning: Format", &["up.weight", "7", "2 to 6, or 8"]),
        ("more bits than a word", |s| s.say("quantization/bits", json!(2_147_483_647)),
            "planning: Format", &["up.weight", "2147483647", "2 to 6, or 8"]),
        ("groups of 48", |s| s.say("quantization/group_size", json!(48)),
            "planning: Format", &["up.weight", "48", "32, 64 or 128"]),
        ("groups that are longer than a row", |s| s.say("quantization/group_size", json!(128)),
            "planning: Format", &["up.weight", "64", "128"]),
        ("seven bits for one module", |s| s.say("quantization/down", json!({ "bits": 7 })),
            "planning: Format", &["down.weight", "7", "2 to 6, or 8"]),
    ];
    refused(&right(), cases);
}

// ------------------------------------------------------------------ tensors are what is declared

#[test]
fn codes_scales_and_biases() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no scales", |s| s.drop("up.scales"),
            "planning: Missing", &["up.weight", "mlx", "up.scales"]),
        ("no biases", |s| s.drop("up.biases"),
            "planning: Missing", &["up.weight", "mlx", "up.biases"]),
        ("a group too many", |s| regroup(s, &[2, 3]),
            "planning: Shape", &["up.scales", "[2, 3]", "[2, 64]", "[2, 2]"]),
        ("groups of the flat weight", |s| regroup(s, &[4]),
            "planning: Shape", &["up.scales", "[4]", "[2, 2]"]),
        ("biases of another shape", |s| s.relabel("up.biases", "BF16", &[4, 1]),
            "planning: Shape", &["up.biases", "[4, 1]", "[2, 2]"]),
        ("scales of another type", |s| s.put("up.scales", "F64", &[2, 2], [0; 32]),
            "planning: Dtype", &["up.scales", "F64", "F32, F16 or BF16"]),
        ("scales that are exponents", |s| s.put("up.scales", "U8", &[2, 2], [127; 4]),
            "planning: Dtype", &["up.scales", "U8", "F32, F16 or BF16"]),
        ("biases of another type than scales", |s| s.put("up.biases", "F32", &[2, 2], f32s(&[0.0; 4])),
            "planning: Dtype", &["up.biases", "F32", "BF16"]),
        ("a word too few in each row", |s| s.put("up.weight", "U32", &[2, 7], [0; 56]),
            "planning: Shape", &["up.weight", "[2, 7]", "[2, 64]", "[2, 8]"]),
        ("flat words", |s| s.relabel("up.weight", "U32", &[16]),
            "planning: Shape", &["up.weight", "[16]", "[2, 8]"]),
        ("words with a sign", |s| s.relabel("up.weight", "I32", &[2, 8]),
            "planning: Dtype", &["up.weight", "I32", "F32, F16 or BF16"]),
        ("eight bits declared", |s| s.say("quantization/bits", json!(8)),
            "planning: Shape", &["up.weight", "[2, 8]", "[2, 16]"]),
        ("groups of 64 declared", |s| s.say("quantization/group_size", json!(64)),
            "planning: Shape", &["up.scales", "[2, 2]", "[2, 1]"]),
        ("eight bits declared for one module", |s| s.say("quantization/down", json!({ "bits": 8 })),
            "planning: Shape", &["down.weight", "[2, 8]", "[2, 16]"]),
        ("groups of 64 declared for one module", |s| s.say("quantization/down", json!({ "group_size": 64 })),
            "planning: Shape", &["down.scales", "[2, 2]", "[2, 1]"]),
    ];
    refused(&right(), cases);
}

/// Would catch shards of two savings in one folder, and a head that is taken for plain.
#[test]
fn what_is_packed_is_what_the_declaration_leaves() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("plain, not excepted", |s| { s.drop("up.scales"); s.drop("up.biases"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "`quantization`"]),
        ("plain, and its scales are left", |s| s.plain("up.weight", &SHAPE),
            "planning: Unpacked", &["up.weight", "F32", "`quantization`"]),
        ("packed, excepted", |s| s.say("quantization/up", json!(false)),
            "planning: Excepted", &["up.weight", "packed", "`quantization`"]),
        ("a packed head, excepted", |s| s.say("quantization/lm_head", json!(false)),
            "planning: Excepted", &["lm_head.weight", "packed", "`quantization`"]),
        ("a packed head without scales", |s| s.drop("lm_head.scales"),
            "planning: Missing", &["lm_head.weight", "lm_head.scales"]),
    ];
    refused(&right(), cases);
}

// ------------------------------------------------------------------- what is packed is not packed again

#[test]
fn another_quantization_of_packed_weights() {
    let error = right().refused_as("nf4");
    assert_eq!(kind(&error), "planning: plan Packed");
    let message = error.to_string();
    for part in ["down.weight", "affine:bits=4,group=32", "nf4:block=64"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}
