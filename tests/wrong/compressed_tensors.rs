//! compressed-tensors: 8-bit floats, by strategy.

use serde_json::json;

use crate::saving::{Case, Saving, bf16s, f32s, kind, refused};

const SHAPE: [usize; 2] = [3, 48];
const FIELD: &str = "quantization_config";
const WEIGHTS: &str = "quantization_config/config_groups/group_0/weights";

/// Each row: 1, 2, -1, 448, 2^-9, 0, -1.5 and 0.5, six times.
const CODES: [u8; 8] = [0x38, 0x40, 0xb8, 0x7e, 0x01, 0x00, 0xbc, 0x30];
const VALUES: [f32; 8] = [1.0, 2.0, -1.0, 448.0, 0.001_953_125, 0.0, -1.5, 0.5];

/// A scale of `shape` for `up`, and the same for `down`, in bf16.
fn saving(weights: serde_json::Value, shape: &[usize], scales: &[f32]) -> Saving {
    let quantization = json!({
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": { "group_0": {
            "targets": ["Linear"],
            "input_activations": null,
            "weights": { "num_bits": 8, "type": "float", "symmetric": true, "dynamic": false },
        } },
        "ignore": ["lm_head"],
        "sparsity_config": {},
        "transform_config": {},
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for (field, value) in weights.as_object().expect("an object") {
        saving.config[FIELD]["config_groups"]["group_0"]["weights"][field] = value.clone();
    }
    for module in ["up", "down"] {
        let weight = format!("{module}.weight");
        saving.put(&weight, "F8_E4M3", &SHAPE, CODES.repeat(18));
        saving.put(&format!("{weight}_scale"), "BF16", shape, bf16s(scales));
    }
    saving
}

pub(crate) fn tensor() -> Saving {
    saving(json!({ "strategy": "tensor" }), &[1], &[0.5])
}

pub(crate) fn channel() -> Saving {
    saving(json!({ "strategy": "channel" }), &[3, 1], &[0.5, 2.0, -4.0])
}

pub(crate) fn group() -> Saving {
    let scales = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    let weights = json!({ "strategy": "group", "group_size": 16 });
    saving(weights, &[3, 3], &scales)
}

fn block() -> Saving {
    let weights = json!({ "strategy": "block", "block_structure": [2, 32] });
    saving(weights, &[2, 2], &[0.5, 1.0, 2.0, 4.0])
}

/// A field of the weights of the only group.
fn say(saving: &mut Saving, field: &str, value: serde_json::Value) {
    saving.config[FIELD]["config_groups"]["group_0"]["weights"][field] = value;
}

fn rescale(saving: &mut Saving, shape: &[usize]) {
    let scales = vec![1.0; shape.iter().product()];
    saving.put("up.weight_scale", "BF16", shape, bf16s(&scales));
}

// --------------------------------------------------------------------------- right ones are read

/// `code * scale`; the scale of weight `[r, c]` by strategy.
#[test]
fn weights_are_codes_times_scales() {
    type Scale = fn(usize, usize) -> f32;
    let cases: [(Saving, Scale); 4] = [
        (tensor(), |_, _| 0.5),
        (channel(), |r, _| [0.5, 2.0, -4.0][r]),
        (group(), |r, c| {
            [[0.5, 1.0, 2.0], [4.0, 8.0, 16.0], [32.0, 64.0, 128.0]][r][c / 16]
        }),
        (block(), |r, c| [[0.5, 1.0], [2.0, 4.0]][r / 2][c / 32]),
    ];
    for (saving, scale) in cases {
        let [up, down] = saving.values();
        let weight = |k: usize| VALUES[k % 8] * scale(k / 48, k % 48);
        let expected: Vec<f32> = (0..144).map(weight).collect();
        assert_eq!(up, expected, "{}", saving.config);
        assert_eq!(down, expected, "{}", saving.config);
    }
    let [up, _] = group().values();
    let picks = [up[3], up[16], up[50], up[143]];
    assert_eq!(picks, [224.0, 1.0, -4.0, 64.0], "by hand");
}

#[test]
fn what_else_is_right() {
    let expected = tensor().values();
    for shape in [&[][..], &[1, 1]] {
        let mut saving = tensor();
        saving.put("up.weight_scale", "F32", shape, f32s(&[0.5]));
        saving.put("up.input_scale", "F32", &[1], f32s(&[3.0]));
        assert_eq!(saving.values(), expected, "{shape:?}");
    }
    let mut older = tensor();
    older.config["compression_config"] = older.config[FIELD].take();
    assert_eq!(older.values(), expected);
    for (field, value) in [
        ("targets", json!(["up", "down"])),
        ("targets", json!(["re:.*(up|down)$"])),
        ("format", json!("naive-quantized")),
    ] {
        let mut saving = tensor();
        saving.config[FIELD]["config_groups"]["group_0"][field] = value;
        assert_eq!(saving.values(), expected);
    }
}

/// A pattern begins where the name does, and need not reach its end. Would catch a list that is not read, and
/// one whose names are taken for parts of names.
#[test]
fn exceptions_are_whole_names_or_patterns() {
    let mut saving = tensor();
    let list = "quantization_config/ignore";
    saving.say(list, json!(["u", "p", "up.weight", "re:p"]));
    assert!(!saving.up_is_plain());
    saving.drop("up.weight_scale");
    saving.plain("up.weight", &SHAPE);
    for excepted in [
        "up",
        "re:u",
        "re:.*p$",
        "re:^(?!down)(?!lm_head).*p",
        "re:.(?<=u)p",
        r"re:(.)p(?!\1)",
    ] {
        saving.say(list, json!(["lm_head", excepted]));
        assert!(saving.up_is_plain(), "{excepted}");
    }
}

/// As Python's `re.match`. Would catch expressions that are looked for anywhere in a name, and those that have to match all of it.
#[test]
fn expressions_may_look_ahead() {
    let mut saving = tensor();
    let targets = "quantization_config/config_groups/group_0/targets";
    let ignore = "quantization_config/ignore";
    for (packed, excepted) in [
        ("re:^(?!.*lm_head).*", "lm_head"),
        ("re:(?!lm)(?:.*(?<=w)n|u)", "re:lm_head"),
        ("re:up|down", "re:(?=lm)"),
    ] {
        saving.say(targets, json!([packed]));
        saving.say(ignore, json!([excepted]));
        assert!(!saving.up_is_plain(), "{packed}");
    }
    // None of these begins where a name does.
    saving.say(
        ignore,
        json!(["lm_head", "re:p", "re:own", "re:(?<=u)p", "re:(?!u)p"]),
    );
    assert!(!saving.up_is_plain());
}

// ------------------------------------------------------------- the declaration is one that can be

#[test]
fn fields_of_the_declaration() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no groups", |s| s.unsay(FIELD, "config_groups"),
            "opening: config Missing", &["`quantization_config.config_groups`"]),
        ("groups of null", |s| s.say("quantization_config/config_groups", json!(null)),
            "opening: config Missing", &["`quantization_config.config_groups`"]),
        ("groups in a list", |s| s.say("quantization_config/config_groups", json!([{}])),
            "opening: config Value", &["config_groups", "[{}]", "an object"]),
        ("a group that is a text", |s| s.say("quantization_config/config_groups/group_0", json!("Linear")),
            "opening: config Value", &["group_0", "\"Linear\"", "an object"]),
        ("a preset's name in place of groups", |s| s.say("quantization_config/config_groups", json!("FP8")),
            "opening: config Value", &["config_groups", "\"FP8\"", "an object"]),
        ("no targets", |s| s.say("quantization_config/config_groups/group_0/targets", json!(null)),
            "opening: config Missing", &["targets"]),
        ("targets as a text", |s| s.say("quantization_config/config_groups/group_0/targets", json!("Linear")),
            "opening: config Value", &["targets", "\"Linear\"", "a list of texts"]),
        ("a broken pattern of targets", |s| s.say("quantization_config/config_groups/group_0/targets", json!(["re:(up"])),
            "opening: config Value", &["targets", "re:(up", "a regular expression"]),
        ("a broken pattern of exceptions", |s| s.say("quantization_config/ignore", json!(["lm_head", "re:*up["])),
            "opening: config Value", &["`quantization_config.ignore`", "re:*up[", "a regular expression"]),
        ("a pattern that is too large", |s| s.say("quantization_config/ignore", json!(["re:((x{999}){999}){999}"])),
            "opening: config Value", &["`quantization_config.ignore`", "re:((x{999", "a regular expression"]),
        ("an expression that goes back for ever", |s| s.say("quantization_config/ignore", json!(["lm_head", r"re:(?:(u?)\1?){60}z"])),
            "planning: Pattern", &[r"(?:(u?)\1?){60}z", "100000 times", "means up"]),
        ("an expression that repeats nothing for ever", |s| s.say("quantization_config/ignore", json!(["re:(?:(?:(?=u?)){99999}){99999}z"])),
            "opening: config Value", &["`quantization_config.ignore`", "{99999}", "a regular expression"]),
        ("exceptions in an object", |s| s.say("quantization_config/ignore", json!({ "lm_head": true })),
            "opening: config Value", &["`quantization_config.ignore`", "{\"lm_head\":true}", "a list of texts"]),
        ("exceptions of null", |s| s.say("quantization_config/ignore", json!(["lm_head", null])),
            "opening: config Value", &["`quantization_config.ignore`", "null", "a list of texts"]),
        ("no format", |s| s.unsay(FIELD, "format"),
            "opening: config Missing", &["format"]),
        ("a format that is a number", |s| s.say("quantization_config/format", json!(8)),
            "opening: config Value", &["`quantization_config.format`", "8", "a text"]),
        ("an unknown format", |s| s.say("quantization_config/format", json!("float8")),
            "opening: config Unsupported", &["format", "float8", "float-quantized"]),
        ("nvfp4", |s| s.say("quantization_config/format", json!("nvfp4-pack-quantized")),
            "opening: config Unsupported", &["weights", "float of 8 bits in nvfp4-pack-quantized", "of 4 bits"]),
        ("2 of 4 weights kept", |s| s.say("quantization_config/sparsity_config", json!({ "format": "sparse-24-bitmask" })),
            "opening: config Unsupported", &["`quantization_config.sparsity_config`", "only quantized"]),
        ("rotated weights", |s| s.say("quantization_config/transform_config", json!({ "config_groups": {} })),
            "opening: config Unsupported", &["`quantization_config.transform_config`", "only quantized"]),
        ("transforms as a text", |s| s.say("quantization_config/transform_config", json!("hadamard")),
            "opening: config Value", &["transform_config", "\"hadamard\"", "an object"]),
        ("no weights", |s| s.say(WEIGHTS, json!(null)),
            "opening: config Missing", &["weights"]),
        ("weights as a text", |s| s.say(WEIGHTS, json!("fp8")),
            "opening: config Value", &["weights", "\"fp8\"", "an object"]),
        ("four bits", |s| say(s, "num_bits", json!(4)),
            "opening: config Unsupported", &["weights", "float of 4 bits", "8 bits"]),
        ("bits not said", |s| say(s, "num_bits", json!(null)),
            "opening: config Missing", &["weights.num_bits"]),
        ("bits below zero", |s| say(s, "num_bits", json!(-8)),
            "opening: config Value", &["weights.num_bits", "-8", "a whole number"]),
        ("more bits than there are", |s| say(s, "num_bits", json!(1e30)),
            "opening: config Value", &["weights.num_bits", "1e", "a whole number"]),
        ("bits as a text", |s| say(s, "num_bits", json!("8")),
            "opening: config Value", &["weights.num_bits", "\"8\"", "a whole number"]),
        ("an unknown type", |s| say(s, "type", json!("bfloat")),
            "opening: config Unsupported", &["weights", "bfloat of 8 bits", "8 bits"]),
        ("with a zero", |s| say(s, "symmetric", json!(false)),
            "opening: config Unsupported", &["weights.symmetric", "false", "true"]),
        ("symmetry as a text", |s| say(s, "symmetric", json!("yes")),
            "opening: config Value", &["weights.symmetric", "\"yes\"", "true or false"]),
        ("no strategy", |s| say(s, "strategy", json!(null)),
            "opening: config Missing", &["weights.strategy"]),
        ("an unknown strategy", |s| say(s, "strategy", json!("token")),
            "opening: config Unsupported", &["weights.strategy", "token", "tensor, channel, group or block"]),
        ("groups of no size", |s| say(s, "strategy", json!("group")),
            "opening: config Missing", &["weights.group_size"]),
        ("groups of nothing", |s| { say(s, "strategy", json!("group")); say(s, "group_size", json!(0)) },
            "opening: config Value", &["weights.group_size", "0", "from 1"]),
        ("groups of -1", |s| { say(s, "strategy", json!("group")); say(s, "group_size", json!(-1)) },
            "opening: config Value", &["weights.group_size", "-1", "from 1"]),
        ("blocks of no size", |s| say(s, "strategy", json!("block")),
            "opening: config Missing", &["weights.block_structure"]),
        ("blocks with one side", |s| { say(s, "strategy", json!("block")); say(s, "block_structure", json!([128])) },
            "opening: config Value", &["weights.block_structure", "[128]", "rows and columns"]),
        ("blocks with a side of zero", |s| { say(s, "strategy", json!("block")); say(s, "block_structure", json!([0, 128])) },
            "opening: config Value", &["weights.block_structure", "[0,128]", "from 1"]),
        ("blocks as a text", |s| { say(s, "strategy", json!("block")); say(s, "block_structure", json!("128x128")) },
            "opening: config Value", &["weights.block_structure", "128x128", "a list"]),
    ];
    refused(&tensor(), cases);
}

/// Whatever else is read: floats are not whole numbers.
#[test]
fn whole_numbers_where_the_format_says_floats() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("int", |s| say(s, "type", json!("int")),
            "opening: config Unsupported", &["weights", "int of 8 bits", "8 bits"]),
        ("no type, which means int", |s| say(s, "type", json!(null)),
            "opening: config Unsupported", &["weights", "int of 8 bits", "8 bits"]),
    ];
    refused(&tensor(), cases);
}

// ------------------------------------------------------- which modules are packed is what is declared

/// Would catch shards of two savings in one folder.
#[test]
fn what_is_packed_is_what_targets_say_and_ignore_leaves() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("plain, not ignored", |s| { s.drop("up.weight_scale"); s.plain("up.weight", &SHAPE) },
            "planning: Unpacked", &["up.weight", "F32", "`ignore`"]),
        ("plain, and its scale is left", |s| s.plain("up.weight", &SHAPE),
            "planning: Unpacked", &["up.weight", "F32", "`ignore`"]),
        ("packed, ignored", |s| s.say("quantization_config/ignore", json!(["up"])),
            "planning: Excepted", &["up.weight", "packed", "`ignore`"]),
        ("packed, ignored by a pattern", |s| s.say("quantization_config/ignore", json!(["re:.*p$"])),
            "planning: Excepted", &["up.weight", "packed", "`ignore`"]),
        ("packed, and no group means it", |s| s.say("quantization_config/config_groups/group_0/targets", json!(["down"])),
            "planning: Excepted", &["up.weight", "packed", "`config_groups`"]),
        ("packed, and there is no group", |s| s.say("quantization_config/config_groups", json!({})),
            "planning: Excepted", &["up.weight", "packed", "`config_groups`"]),
        ("packed, and the group is null", |s| s.say("quantization_config/config_groups/group_0", json!(null)),
            "planning: Excepted", &["up.weight", "packed", "`config_groups`"]),
        ("e5m2", |s| s.relabel("up.weight", "F8_E5M2", &SHAPE),
            "planning: Dtype", &["up.weight", "F8_E5M2", "F8_E4M3"]),
        ("bytes", |s| s.relabel("up.weight", "I8", &SHAPE),
            "planning: Dtype", &["up.weight", "I8", "F8_E4M3"]),
        ("a weight turned round", |s| s.relabel("up.weight", "F8_E4M3", &[48, 3]),
            "planning: Shape", &["up.weight", "[48, 3]", "[3, 48]"]),
    ];
    refused(&tensor(), cases);
}

// ------------------------------------------------------------ scales are there, by their strategy

#[test]
fn scales_of_a_tensor() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("none", |s| s.drop("up.weight_scale"),
            "planning: Missing", &["up.weight", "compressed-tensors", "up.weight_scale"]),
        ("two", |s| rescale(s, &[2]),
            "planning: Shape", &["up.weight_scale", "[2]", "[3, 48]", "[] or [1] or [1, 1]"]),
        ("one for each row", |s| rescale(s, &[3, 1]),
            "planning: Shape", &["up.weight_scale", "[3, 1]", "[] or [1] or [1, 1]"]),
        ("nothing in it", |s| rescale(s, &[0]),
            "planning: Shape", &["up.weight_scale", "[0]", "[] or [1] or [1, 1]"]),
        ("F64", |s| s.put("up.weight_scale", "F64", &[1], [0; 8]),
            "planning: Dtype", &["up.weight_scale", "F64", "F32, F16 or BF16"]),
        ("F8_E8M0", |s| s.put("up.weight_scale", "F8_E8M0", &[1], [127]),
            "planning: Dtype", &["up.weight_scale", "F8_E8M0", "F32, F16 or BF16"]),
        ("a whole number", |s| s.put("up.weight_scale", "I32", &[1], [1, 0, 0, 0]),
            "planning: Dtype", &["up.weight_scale", "I32", "F32, F16 or BF16"]),
    ];
    refused(&tensor(), cases);
}

#[test]
fn scales_of_channels() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("flat", |s| s.relabel("up.weight_scale", "BF16", &[3]),
            "planning: Shape", &["up.weight_scale", "[3]", "[3, 48]", "[3, 1]"]),
        ("in a row", |s| s.relabel("up.weight_scale", "BF16", &[1, 3]),
            "planning: Shape", &["up.weight_scale", "[1, 3]", "[3, 1]"]),
        ("of columns", |s| rescale(s, &[48, 1]),
            "planning: Shape", &["up.weight_scale", "[48, 1]", "[3, 1]"]),
        ("of the whole", |s| rescale(s, &[1]),
            "planning: Shape", &["up.weight_scale", "[1]", "[3, 1]"]),
        ("one too few", |s| rescale(s, &[2, 1]),
            "planning: Shape", &["up.weight_scale", "[2, 1]", "[3, 1]"]),
    ];
    refused(&channel(), cases);
}

#[test]
fn scales_of_groups() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a column too few", |s| rescale(s, &[3, 2]),
            "planning: Shape", &["up.weight_scale", "[3, 2]", "[3, 48]", "[3, 3]"]),
        ("of channels", |s| rescale(s, &[3, 1]),
            "planning: Shape", &["up.weight_scale", "[3, 1]", "[3, 3]"]),
        ("zero points beside the scales", |s| s.put("up.weight_zero_point", "I8", &[3, 3], [1; 9]),
            "planning: Field", &["up.weight_zero_point", "zero points", "weights.symmetric", "true"]),
        ("columns in an order of their own", |s| s.put("up.weight_g_idx", "I32", &[48], [0; 192]),
            "planning: Field", &["up.weight_g_idx", "order", "weights.type", "float"]),
        ("groups of 24", |s| say(s, "group_size", json!(24)),
            "planning: Shape", &["up.weight_scale", "[3, 3]", "[3, 2]"]),
        ("groups of 20, which do not divide a row into three", |s| say(s, "group_size", json!(20)),
            "planning: Field", &["up.weight", "48", "weights.group_size", "20"]),
    ];
    refused(&group(), cases);
}

#[test]
fn scales_of_blocks() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("flat", |s| s.relabel("up.weight_scale", "BF16", &[4]),
            "planning: Shape", &["up.weight_scale", "[4]", "[3, 48]", "[2, 2]"]),
        ("a row too few", |s| rescale(s, &[1, 2]),
            "planning: Shape", &["up.weight_scale", "[1, 2]", "[2, 2]"]),
        ("other blocks", |s| say(s, "block_structure", json!([128, 128])),
            "planning: Shape", &["up.weight_scale", "[2, 2]", "[1, 1]"]),
        ("blocks turned round", |s| say(s, "block_structure", json!([32, 2])),
            "planning: Shape", &["up.weight_scale", "[2, 2]", "[1, 24]"]),
    ];
    refused(&block(), cases);
}

// ------------------------------------------------------------------- what is packed is not packed again

#[test]
fn another_quantization_of_packed_weights() {
    let error = channel().refused_as("nf4");
    assert_eq!(kind(&error), "planning: plan Packed");
    let message = error.to_string();
    for part in ["down.weight", "fp8:e4m3,scale=channel", "nf4:block=64"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

// ------------------------------------------------------------------------------------------- NVFP4

/// A code of E2M1 in four bits: the table of NVIDIA and of the OCP specification.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The code of value `[r, c]`; each row has all of them.
fn code4(r: usize, c: usize) -> u8 {
    ((3 * r + 5 * c) % 16) as u8
}

/// Scales of the groups of a row: 1, 2, 448 as e4m3.
const SCALES4: [(u8, f32); 3] = [(0x38, 1.0), (0x40, 2.0), (0x7e, 448.0)];

pub(crate) fn nvfp4(global: f32) -> Saving {
    let weights = json!({
        "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": true, "dynamic": false,
    });
    let quantization = json!({
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": { "group_0": { "targets": ["Linear"], "weights": weights } },
        "ignore": ["lm_head"],
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    for module in ["up", "down"] {
        let pair = |k: usize| {
            let (r, c) = (k / 24, k % 24 * 2);
            code4(r, c) | code4(r, c + 1) << 4
        };
        let bytes: Vec<u8> = (0..72).map(pair).collect();
        let scales: Vec<u8> = (0..9).map(|k| SCALES4[k % 3].0).collect();
        saving.put(&format!("{module}.weight_packed"), "U8", &[3, 24], bytes);
        saving.put(
            &format!("{module}.weight_scale"),
            "F8_E4M3",
            &[3, 3],
            scales,
        );
        saving.put(
            &format!("{module}.weight_global_scale"),
            "F32",
            &[1],
            f32s(&[global]),
        );
        saving.put(
            &format!("{module}.input_global_scale"),
            "F32",
            &[1],
            f32s(&[7.0]),
        );
    }
    saving
}

/// The global scale is divided by. Would catch one that is multiplied by, as ModelOpt's is, and halves of bytes in the other order.
#[test]
fn nvfp4_is_codes_times_scales_over_the_global_one() {
    let expected: Vec<f32> = (0..144)
        .map(|k| {
            let (r, c) = (k / 48, k % 48);
            E2M1[usize::from(code4(r, c))] * (SCALES4[c / 16].1 / 4.0)
        })
        .collect();
    let [up, down] = nvfp4(4.0).values();
    assert_eq!(up, expected);
    assert_eq!(down, expected);
    // Codes 0 5 10 15 of the first row under a scale of 1/4.
    assert_eq!(up[..4], [0.0, 0.75, -0.25, -1.5], "by hand");
}

#[test]
fn what_can_be_wrong_with_nvfp4() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a global scale of nothing", |s| s.put("up.weight_global_scale", "F32", &[1], f32s(&[0.0])),
            "reading: Value", &["up.weight_global_scale", "0", "above 0"]),
        ("a global scale that is no number", |s| s.put("up.weight_global_scale", "F32", &[1], f32s(&[f32::NAN])),
            "reading: Value", &["up.weight_global_scale", "NaN"]),
        ("no global scale", |s| s.drop("up.weight_global_scale"),
            "planning: Missing", &["up.weight_global_scale", "compressed-tensors"]),
        ("a global scale for each row", |s| s.put("up.weight_global_scale", "F32", &[3], f32s(&[1.0; 3])),
            "planning: Shape", &["up.weight_global_scale", "[3]", "[1]"]),
        ("scales of floats", |s| s.put("up.weight_scale", "F32", &[3, 3], f32s(&[1.0; 9])),
            "planning: Dtype", &["up.weight_scale", "F32", "F8_E4M3"]),
        ("too few scales", |s| s.put("up.weight_scale", "F8_E4M3", &[3, 2], vec![0x38; 6]),
            "planning: Shape", &["up.weight_scale", "[3, 2]", "[3, 3]"]),
        ("codes in words", |s| s.put("up.weight_packed", "I32", &[3, 6], vec![0; 72]),
            "planning: Dtype", &["up.weight_packed", "I32", "U8"]),
        ("half of the codes", |s| s.put("up.weight_packed", "U8", &[3, 12], vec![0; 36]),
            "planning: Shape", &["up.weight_packed", "[3, 12]", "[3, 24]"]),
        ("groups of 32", |s| say(s, "group_size", json!(32)),
            "opening: config Unsupported", &["weights.group_size", "32", "16"]),
        ("a scale for each row", |s| say(s, "strategy", json!("channel")),
            "opening: config Unsupported", &["weights.strategy", "channel", "tensor_group"]),
    ];
    refused(&nvfp4(4.0), cases);
}
