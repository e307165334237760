//! GPTQ and AWQ: codes, zero points and scales in words that run the other way.

use serde_json::json;

use crate::saving::{Case, Saving, bf16s, f32s, kind, refused, u32s};

const SHAPE: [usize; 2] = [8, 64];
const FIELD: &str = "quantization_config";

/// The code of weight `[r, c]` in both savings.
fn code(r: usize, c: usize) -> u32 {
    ((5 * r + c) % 16) as u32
}

/// And the zero point and the scale of output `r` in group `g`.
const ZEROS: [u32; 8] = [1, 8, 15, 2, 7, 3, 14, 9];
const SCALES: [f32; 2] = [0.5, -2.0];

fn expected() -> Vec<f32> {
    let weight = |k: usize| {
        let (r, c) = (k / 64, k % 64);
        (code(r, c) as f32 - ZEROS[r] as f32) * SCALES[c / 32]
    };
    (0..512).map(weight).collect()
}

/// Eight inputs of an output in a word, lowest first; eight outputs of a group in a word, each less 1.
pub(crate) fn gptq() -> Saving {
    let quantization = json!({
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": false,
        "sym": false,
        "checkpoint_format": "gptq",
        "dynamic": {},
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    let word = |k: usize| {
        let (row, r) = (k / 8, k % 8);
        (0..8).fold(0, |word, c| word | code(r, 8 * row + c) << (4 * c))
    };
    let words: Vec<u32> = (0..64).map(word).collect();
    let zeros = (0..8).fold(0, |word, r| word | (ZEROS[r] - 1) << (4 * r));
    let order: Vec<u32> = (0..64).map(|c| c / 32).collect();
    for module in ["up", "down"] {
        saving.put(&format!("{module}.qweight"), "I32", &[8, 8], u32s(&words));
        saving.put(
            &format!("{module}.qzeros"),
            "I32",
            &[2, 1],
            u32s(&[zeros; 2]),
        );
        saving.put(&format!("{module}.g_idx"), "I32", &[64], u32s(&order));
        scale(&mut saving, module);
    }
    saving
}

/// Eight outputs of an input in a word: 0 2 4 6 1 3 5 7, lowest first.
pub(crate) fn awq() -> Saving {
    let quantization = json!({
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "version": "gemm",
        "zero_point": true,
        "modules_to_not_convert": ["lm_head"],
    });
    let mut saving = Saving::new(SHAPE, FIELD, quantization);
    let word = |of: &dyn Fn(usize) -> u32| {
        let places = [0, 2, 4, 6, 1, 3, 5, 7].into_iter().enumerate();
        places.fold(0, |word, (place, r)| word | of(r) << (4 * place))
    };
    let words: Vec<u32> = (0..64).map(|c| word(&|r| code(r, c))).collect();
    let zeros = word(&|r| ZEROS[r]);
    for module in ["up", "down"] {
        saving.put(&format!("{module}.qweight"), "I32", &[64, 1], u32s(&words));
        saving.put(
            &format!("{module}.qzeros"),
            "I32",
            &[2, 1],
            u32s(&[zeros; 2]),
        );
        scale(&mut saving, module);
    }
    saving
}

fn scale(saving: &mut Saving, module: &str) {
    let scales = [[SCALES[0]; 8], [SCALES[1]; 8]].concat();
    saving.put(&format!("{module}.scales"), "BF16", &[2, 8], bf16s(&scales));
}

/// The same in an order of its own: even inputs are in the first group.
fn ordered() -> Saving {
    let mut saving = gptq();
    saving.say("quantization_config/desc_act", json!(true));
    for module in ["up", "down"] {
        order(&mut saving, module, |c| c % 2);
    }
    saving
}

fn order(saving: &mut Saving, module: &str, group: impl Fn(u32) -> u32) {
    let list: Vec<u32> = (0..64).map(group).collect();
    saving.put(&format!("{module}.g_idx"), "I32", &[64], u32s(&list));
}

/// Takes the packed `up` away and puts ones in its place.
fn unpack(saving: &mut Saving) {
    let mut parts = vec!["qweight", "qzeros", "scales"];
    if saving.config[FIELD]["quant_method"] == "gptq" {
        parts.push("g_idx");
    }
    for part in parts {
        saving.drop(&format!("up.{part}"));
    }
    saving.plain("up.weight", &SHAPE);
}

// --------------------------------------------------------------------------- right ones are read

#[test]
fn weights_are_codes_less_zeros_times_scales() {
    for saving in [gptq(), awq()] {
        let [up, down] = saving.values();
        assert_eq!(up, expected());
        assert_eq!(down, expected());
        let picks = [up[0], up[1], up[33], up[64], up[511]];
        assert_eq!(picks, [-0.5, 0.0, 0.0, -1.5, 14.0], "by hand");
    }
}

/// `dynamic` of GPTQModel: matched as by Python's `re.match`, plain ones first, then the first match. Would catch expressions that are looked
/// for anywhere in a name, and the fields of one module for all.
#[test]
fn modules_may_be_plain_or_packed_otherwise() {
    let rules = "quantization_config/dynamic";
    for plain in ["-:up", "-:^up$", "-:(?!down).*", "-:u"] {
        let mut saving = gptq();
        saving.say(rules, json!({ "+:up": { "bits": 8 }, plain: {} }));
        unpack(&mut saving);
        assert!(saving.up_is_plain(), "{plain}");
        assert_eq!(saving.values_of_down(), expected(), "{plain}");
    }
    // Eight bits in groups of 64 for `up`: an input of four outputs a word, lowest first.
    for rule in ["+:up", "up", "u.$", "(?=up)"] {
        let mut saving = gptq();
        let others = json!({ "bits": 2 });
        saving.say(rules, json!({ "+:p": others, "+:own": others, rule: { "bits": 8, "group_size": -1, "sym": true }, "up.*": others }));
        let word = |k: usize| {
            let (row, r) = (k / 8, k % 8);
            (0..4).fold(0, |word, c| word | ((10 * code(r, 4 * row + c)) << (8 * c)))
        };
        let words: Vec<u32> = (0..128).map(word).collect();
        saving.put("up.qweight", "I32", &[16, 8], u32s(&words));
        saving.put("up.qzeros", "I32", &[1, 2], u32s(&[0x6363_6363; 2]));
        saving.put("up.scales", "F32", &[1, 8], f32s(&[0.5; 8]));
        order(&mut saving, "up", |_| 0);
        let [up, down] = saving.values();
        let weight = |k: usize| (10.0 * code(k / 64, k % 64) as f32 - 100.0) * 0.5;
        let all: Vec<f32> = (0..512).map(weight).collect();
        assert_eq!(up, all, "{rule}");
        assert_eq!(down, expected(), "{rule}");
    }
}

/// Both versions of zero points, in both fields; no list; one group for all; a group that the last inputs do not fill,
/// which AutoGPTQ has; groups longer than a row; an order.
#[test]
fn what_else_is_right() {
    let plain = |field: &str| {
        let mut saving = gptq();
        saving.unsay(FIELD, "checkpoint_format");
        saving.say(&format!("{FIELD}/{field}"), json!("gptq_v2"));
        for module in ["up", "down"] {
            let zeros = (0..8).fold(0, |word, r| word | ZEROS[r] << (4 * r));
            saving.put(
                &format!("{module}.qzeros"),
                "I32",
                &[2, 1],
                u32s(&[zeros; 2]),
            );
        }
        saving.values()[0].clone()
    };
    assert_eq!(plain("checkpoint_format"), expected());
    assert_eq!(plain("format"), expected());

    let mut saving = gptq();
    saving.drop("up.g_idx");
    saving.unsay(FIELD, "desc_act");
    saving.unsay(FIELD, "checkpoint_format");
    assert_eq!(saving.values()[0], expected());

    let weight = |k: usize, scale: f32| (code(k / 64, k % 64) as f32 - 8.0) * scale;
    for (right, zeros, group, desc_act) in [
        (gptq as fn() -> Saving, 0x7777_7777, -1, false),
        (gptq, 0x7777_7777, -1, true),
        (gptq, 0x7777_7777, 128, false),
        (awq, 0x8888_8888_u32, -1, false),
    ] {
        let mut saving = right();
        saving.say("quantization_config/group_size", json!(group));
        saving.say("quantization_config/desc_act", json!(desc_act));
        for module in ["up", "down"] {
            saving.put(&format!("{module}.qzeros"), "I32", &[1, 1], u32s(&[zeros]));
            saving.put(
                &format!("{module}.scales"),
                "F32",
                &[1, 8],
                f32s(&[0.25; 8]),
            );
            order(&mut saving, module, |_| 0);
        }
        let all: Vec<f32> = (0..512).map(|k| weight(k, 0.25)).collect();
        assert_eq!(saving.values()[0], all, "groups of {group}, {desc_act}");
    }

    let mut saving = gptq();
    saving.say("quantization_config/group_size", json!(48));
    for module in ["up", "down"] {
        saving.put(
            &format!("{module}.qzeros"),
            "I32",
            &[2, 1],
            u32s(&[0x7777_7777; 2]),
        );
        order(&mut saving, module, |c| c / 48);
    }
    let all: Vec<f32> = (0..512).map(|k| weight(k, SCALES[k % 64 / 48])).collect();
    assert_eq!(saving.values()[0], all);

    let [up, _] = ordered().values();
    let weight = |k: usize| {
        let (r, c) = (k / 64, k % 64);
        (code(r, c) as f32 - ZEROS[r] as f32) * SCALES[c % 2]
    };
    assert_eq!(up, (0..512).map(weight).collect::<Vec<f32>>());
}

/// Would catch a list that is not read, and one whose names are taken for parts of names.
#[test]
fn exceptions_are_whole_names() {
    for mut saving in [gptq(), awq()] {
        let list = "quantization_config/modules_to_not_convert";
        saving.say(list, json!(["lm_head", "u", "p", "up.weight", ""]));
        assert!(!saving.up_is_plain());
        unpack(&mut saving);
        saving.say(list, json!(["lm_head", "up"]));
        assert!(saving.up_is_plain());
    }
}

// ------------------------------------------------------------- the declaration is one that can be

#[test]
fn bits_and_groups_of_both() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no bits", |s| s.unsay(FIELD, "bits"),
            "opening: config Missing", &["`quantization_config.bits`"]),
        ("five bits", |s| s.say("quantization_config/bits", json!(5)),
            "opening: config Unsupported", &["`quantization_config.bits`", "5", "4"]),
        ("no bit", |s| s.say("quantization_config/bits", json!(0)),
            "opening: config Value", &["`quantization_config.bits`", "0", "from 1"]),
        ("bits as a text", |s| s.say("quantization_config/bits", json!("4")),
            "opening: config Value", &["`quantization_config.bits`", "\"4\"", "a whole number"]),
        ("more bits than there are", |s| s.say("quantization_config/bits", json!(u64::MAX)),
            "opening: config Value", &["`quantization_config.bits`", "18446744073709551615", "2147483647"]),
        ("no groups", |s| s.unsay(FIELD, "group_size"),
            "opening: config Missing", &["`quantization_config.group_size`"]),
        ("groups of null", |s| s.say("quantization_config/group_size", json!(null)),
            "opening: config Missing", &["`quantization_config.group_size`"]),
        ("groups of nothing", |s| s.say("quantization_config/group_size", json!(0)),
            "opening: config Value", &["`quantization_config.group_size`", "0", "from 1", "or -1"]),
        ("groups of -2", |s| s.say("quantization_config/group_size", json!(-2)),
            "opening: config Value", &["`quantization_config.group_size`", "-2", "from 1", "or -1"]),
        ("groups as a text", |s| s.say("quantization_config/group_size", json!("32")),
            "opening: config Value", &["`quantization_config.group_size`", "\"32\"", "or -1"]),
        ("-1 as a text", |s| s.say("quantization_config/group_size", json!("-1")),
            "opening: config Value", &["`quantization_config.group_size`", "\"-1\"", "or -1"]),
        ("groups of u64", |s| s.say("quantization_config/group_size", json!(u64::MAX)),
            "opening: config Value", &["`quantization_config.group_size`", "18446744073709551615", "2147483647"]),
        ("exceptions as a text", |s| s.say("quantization_config/modules_to_not_convert", json!("lm_head")),
            "opening: config Value", &["modules_to_not_convert", "\"lm_head\"", "a list of texts"]),
    ];
    refused(&gptq(), cases);
    refused(&awq(), cases);
}

#[test]
fn what_only_gptq_declares() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("an unknown format", |s| s.say("quantization_config/checkpoint_format", json!("marlin")),
            "opening: config Unsupported", &["`quantization_config.checkpoint_format`", "marlin", "gptq or gptq_v2"]),
        ("planes of bits", |s| { s.unsay(FIELD, "checkpoint_format"); s.say("quantization_config/format", json!("gptq_p")) },
            "opening: config Unsupported", &["`quantization_config.format`", "gptq_p", "gptq or gptq_v2"]),
        ("two formats", |s| s.say("quantization_config/format", json!("gptq_v2")),
            "opening: config Value", &["`quantization_config.format`", "gptq_v2", "`checkpoint_format`"]),
        ("a format that is a number", |s| s.say("quantization_config/checkpoint_format", json!(2)),
            "opening: config Value", &["`quantization_config.checkpoint_format`", "2", "a text"]),
        ("bits that nobody has for some modules", |s| s.say("quantization_config/dynamic", json!({ "+:up": { "bits": 5 } })),
            "opening: config Unsupported", &["`quantization_config.dynamic.*.bits`", "5", "2, 3, 4 or 8"]),
        ("groups of nothing for some modules", |s| s.say("quantization_config/dynamic", json!({ "up": { "group_size": 0 } })),
            "opening: config Value", &["`quantization_config.dynamic.*.group_size`", "0", "from 1"]),
        ("words of another width for some modules", |s| s.say("quantization_config/dynamic", json!({ "up": { "pack_dtype": "int16" } })),
            "opening: config Unsupported", &["`quantization_config.dynamic.*.pack_dtype`", "int16", "int32"]),
        ("a rule that is a number", |s| s.say("quantization_config/dynamic", json!({ "+:up": 8 })),
            "opening: config Value", &["+:up", "8", "an object"]),
        ("a broken expression", |s| s.say("quantization_config/dynamic", json!({ "-:up(": {} })),
            "opening: config Value", &["`quantization_config.dynamic`", "-:up(", "a regular expression"]),
        ("an expression that is closed in the middle", |s| s.say("quantization_config/dynamic", json!({ "-:up)|(.*": {} })),
            "opening: config Value", &["`quantization_config.dynamic`", "-:up)|(.*", "a regular expression"]),
        ("a plain module that is packed", |s| s.say("quantization_config/dynamic", json!({ "-:up": {} })),
            "planning: Excepted", &["up.weight", "`dynamic`"]),
        ("rules in a list", |s| s.say("quantization_config/dynamic", json!(["-:up"])),
            "opening: config Value", &["dynamic", "[\"-:up\"]", "an object"]),
        ("an order as a text", |s| s.say("quantization_config/desc_act", json!("yes")),
            "opening: config Value", &["`quantization_config.desc_act`", "\"yes\"", "true or false"]),
    ];
    refused(&gptq(), cases);
}

#[test]
fn what_only_awq_declares() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("eight bits", |s| s.say("quantization_config/bits", json!(8)),
            "opening: config Unsupported", &["`quantization_config.bits`", "8", "4"]),
        ("gemv", |s| s.say("quantization_config/version", json!("gemv")),
            "opening: config Unsupported", &["`quantization_config.version`", "gemv", "gemm"]),
        ("gemv in the other fields", |s| s.say("quantization_config/checkpoint_format", json!("gemv_fast")),
            "opening: config Unsupported", &["`quantization_config.checkpoint_format`", "gemv_fast", "gemm"]),
        ("llm-awq", |s| s.say("quantization_config/format", json!("llm-awq")),
            "opening: config Unsupported", &["`quantization_config.format`", "llm-awq", "gemm"]),
        ("a version that is a number", |s| s.say("quantization_config/version", json!(1)),
            "opening: config Value", &["`quantization_config.version`", "1", "a text"]),
        ("no zero points", |s| s.say("quantization_config/zero_point", json!(false)),
            "opening: config Unsupported", &["`quantization_config.zero_point`", "false", "true"]),
        ("zero points as a number", |s| s.say("quantization_config/zero_point", json!(1)),
            "opening: config Value", &["`quantization_config.zero_point`", "1", "true or false"]),
    ];
    refused(&awq(), cases);
}

// ------------------------------------------------------------------ tensors are what is declared

#[test]
fn zero_points_and_scales_of_both() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no zero points", |s| s.drop("up.qzeros"),
            "planning: Missing", &["up.weight", "up.qzeros"]),
        ("no scales", |s| s.drop("up.scales"),
            "planning: Missing", &["up.weight", "up.scales"]),
        ("codes without a sign", |s| s.retype("up.qweight", "U32"),
            "planning: Dtype", &["up.qweight", "U32", "I32"]),
        ("codes that are floats", |s| s.retype("up.qweight", "F32"),
            "planning: Dtype", &["up.qweight", "F32", "I32"]),
        ("zero points that are floats", |s| s.retype("up.qzeros", "F32"),
            "planning: Dtype", &["up.qzeros", "F32", "I32"]),
        ("zero points in half words", |s| s.put("up.qzeros", "I16", &[2, 2], [0; 8]),
            "planning: Dtype", &["up.qzeros", "I16", "I32"]),
        ("scales that are whole numbers", |s| s.put("up.scales", "I32", &[2, 8], [1; 64]),
            "planning: Dtype", &["up.scales", "I32", "F32, F16 or BF16"]),
        ("scales that are exponents", |s| s.put("up.scales", "F8_E8M0", &[2, 8], [127; 16]),
            "planning: Dtype", &["up.scales", "F8_E8M0", "F32, F16 or BF16"]),
        ("zero points turned round", |s| s.relabel("up.qzeros", "I32", &[1, 2]),
            "planning: Shape", &["up.qzeros", "[1, 2]", "[8, 64]", "[2, 1]"]),
        ("a zero point a word", |s| s.put("up.qzeros", "I32", &[2, 8], [0; 64]),
            "planning: Shape", &["up.qzeros", "[2, 8]", "[2, 1]"]),
        ("scales turned round", |s| s.relabel("up.scales", "BF16", &[8, 2]),
            "planning: Shape", &["up.scales", "[8, 2]", "[8, 64]", "[2, 8]"]),
        ("a group too few", |s| s.put("up.scales", "BF16", &[1, 8], [0; 16]),
            "planning: Shape", &["up.scales", "[1, 8]", "[2, 8]"]),
        ("groups of 16 declared", |s| s.say("quantization_config/group_size", json!(16)),
            "planning: Shape", &["up.qzeros", "[2, 1]", "[4, 1]"]),
        ("groups of 64 declared", |s| s.say("quantization_config/group_size", json!(64)),
            "planning: Shape", &["up.qzeros", "[2, 1]", "[1, 1]"]),
        ("one group declared", |s| s.say("quantization_config/group_size", json!(-1)),
            "planning: Shape", &["up.qzeros", "[2, 1]", "[1, 1]"]),
        ("flat codes", |s| s.relabel("up.qweight", "I32", &[64]),
            "planning: Shape", &["up.qweight", "[64]", "[8, 64]"]),
        ("codes in a third shape", |s| s.relabel("up.qweight", "I32", &[16, 4]),
            "planning: Shape", &["up.qweight", "[16, 4]", "[8, 64]"]),
        ("codes of another weight", |s| s.put("up.qweight", "I32", &[4, 8], [0; 128]),
            "planning: Shape", &["up.qweight", "[4, 8]", "[8, 64]"]),
    ];
    refused(&gptq(), cases);
    refused(&awq(), cases);
}

#[test]
fn columns_of_gptq() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("no list", |s| s.drop("up.g_idx"),
            "planning: Missing", &["up.weight", "gptq", "up.g_idx"]),
        ("a list of bytes", |s| s.put("up.g_idx", "U8", &[64], [0; 64]),
            "planning: Dtype", &["up.g_idx", "U8", "I32"]),
        ("a list of long numbers", |s| s.put("up.g_idx", "I64", &[64], [0; 512]),
            "planning: Dtype", &["up.g_idx", "I64", "I32"]),
        ("a list of outputs", |s| s.put("up.g_idx", "I32", &[8], [0; 32]),
            "planning: Shape", &["up.g_idx", "[8]", "[8, 64]", "[64]"]),
        ("a list in a row", |s| s.relabel("up.g_idx", "I32", &[1, 64]),
            "planning: Shape", &["up.g_idx", "[1, 64]", "[64]"]),
        ("a group too many", |s| order(s, "up", |c| c / 31),
            "reading: Value", &["up.g_idx", "group 2 for column 62", "below 2"]),
        ("a group below zero", |s| order(s, "up", |c| if c == 5 { u32::MAX } else { 0 }),
            "reading: Value", &["up.g_idx", "group -1 for column 5", "below 2"]),
        ("a group far below zero", |s| order(s, "up", |_| 1 << 31),
            "reading: Value", &["up.g_idx", "group -2147483648 for column 0", "below 2"]),
    ];
    refused(&ordered(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("an order that is not declared", |s| order(s, "up", |c| c % 2),
            "reading: Value", &["up.g_idx", "another order", "desc_act", "false"]),
        ("zeros that nobody filled in", |s| order(s, "up", |_| 0),
            "reading: Value", &["up.g_idx", "another order", "desc_act", "false"]),
        ("the last column in the first group", |s| order(s, "up", |c| if c == 63 { 0 } else { c / 32 }),
            "reading: Value", &["up.g_idx", "another order", "desc_act", "false"]),
        ("a list of another type, though not needed", |s| s.put("up.g_idx", "I64", &[64], [0; 512]),
            "planning: Dtype", &["up.g_idx", "I64", "I32"]),
        ("a group too many", |s| order(s, "up", |c| c / 31),
            "reading: Value", &["up.g_idx", "group 2 for column 62", "below 2"]),
    ];
    refused(&gptq(), cases);
}

/// With 1 added it would be 0 for some readers and 16 for others.
#[test]
fn zero_points_that_stand_for_none() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("the largest of four bits", |s| s.put("up.qzeros", "I32", &[2, 1], u32s(&[0x7777_7777, 0x77f7_7777])),
            "reading: Value", &["up.qzeros", "15 as the zero point of output 5 in group 1", "below 15"]),
    ];
    refused(&gptq(), cases);
    let mut saving = gptq();
    saving.say("quantization_config/checkpoint_format", json!("gptq_v2"));
    saving.put("up.qzeros", "I32", &[2, 1], u32s(&[u32::MAX; 2]));
    let [up, _] = saving.values();
    assert_eq!([up[0], up[15], up[511]], [-7.5, 0.0, 26.0], "15 is 15");
}

#[test]
fn bits_of_gptq_that_are_not_those_of_its_tensors() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("two", |s| s.say("quantization_config/bits", json!(2)),
            "planning: Shape", &["up.qweight", "[8, 8]", "[4, 8]"]),
        ("three", |s| s.say("quantization_config/bits", json!(3)),
            "planning: Shape", &["up.qweight", "[8, 8]", "[6, 8]"]),
        ("eight", |s| s.say("quantization_config/bits", json!(8)),
            "planning: Shape", &["up.qweight", "[8, 8]", "[16, 8]"]),
    ];
    refused(&gptq(), cases);
}

#[test]
fn groups_of_awq_that_rows_do_not_fill() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("48", |s| s.say("quantization_config/group_size", json!(48)),
            "planning: Field", &["up.qweight", "64", "group_size", "48"]),
        ("more than a row", |s| {
            s.say("quantization_config/group_size", json!(128));
            for module in ["up", "down"] {
                s.put(&format!("{module}.qzeros"), "I32", &[1, 1], [0; 4]);
                s.put(&format!("{module}.scales"), "BF16", &[1, 8], [0; 16]);
            }
        }, "planning: Field", &["up.qweight", "64", "group_size", "128"]),
    ];
    refused(&awq(), cases);
}

/// Would catch one that is read as the other: all else is alike.
#[test]
fn tensors_of_the_other_of_the_two() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("awq", |s| s.config[FIELD] = gptq().config[FIELD].take(),
            "planning: Field", &["up.qweight", "[64, 1]", "awq", "gptq", "[8, 8]", "`quant_method`"]),
        ("awq, and eight bits are declared", |s| { s.config[FIELD] = gptq().config[FIELD].take(); s.say("quantization_config/bits", json!(8)) },
            "planning: Field", &["up.qweight", "[64, 1]", "awq", "gptq", "[16, 8]"]),
    ];
    refused(&awq(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("gptq", |s| s.config[FIELD] = awq().config[FIELD].take(),
            "planning: Field", &["up.qweight", "[8, 8]", "gptq", "awq", "[64, 1]", "`quant_method`"]),
        ("gptq, in compressed-tensors", |s| s.config[FIELD] = crate::compressed_tensors::tensor().config[FIELD].take(),
            "opening: Signs", &[".qweight (I32)", "of gptq or awq", "declares compressed-tensors"]),
        ("gptq without a word", |s| s.say(FIELD, json!(null)),
            "opening: Undeclared", &[".qweight (I32)", "of gptq or awq", "`quantization_config` is missing"]),
    ];
    refused(&gptq(), cases);
}

/// Would catch shards of two savings in one folder.
#[test]
fn what_is_packed_is_what_the_list_leaves() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("plain, not excepted", unpack,
            "planning: Unpacked", &["up.weight", "F32", "`modules_to_not_convert`"]),
        ("plain words", |s| { unpack(s); s.put("up.weight", "I32", &SHAPE, [0; 2048]) },
            "planning: Dtype", &["up.weight", "I32", "F32, F16 or BF16"]),
        ("packed, excepted", |s| s.say("quantization_config/modules_to_not_convert", json!(["up"])),
            "planning: Excepted", &["up.weight", "packed", "`modules_to_not_convert`"]),
        ("packed, and plain beside it", |s| s.plain("up.weight", &SHAPE),
            "planning: Unpacked", &["up.weight", "F32", "`modules_to_not_convert`"]),
        ("a packed head, and plain beside it", |s| {
            s.say("quantization_config/modules_to_not_convert", json!(["up"])); s.plain("up.weight", &SHAPE);
            for part in ["qweight", "qzeros", "scales"] { s.rename(&format!("up.{part}"), &format!("lm_head.{part}")); }
        }, "planning: Unpacked", &["lm_head.weight", "F32", "`modules_to_not_convert`"]),
        ("nothing packed", |s| {
            unpack(s);
            for part in ["qweight", "qzeros", "scales"] { s.drop(&format!("down.{part}")); }
            s.plain("down.weight", &SHAPE);
        }, "opening: NoSigns", &["no tensor is of it"]),
    ];
    refused(&gptq(), cases);
    refused(&awq(), cases);
}

// ------------------------------------------------------------------- what is packed is not packed again

#[test]
fn another_quantization_of_packed_weights() {
    for saving in [gptq(), awq()] {
        let error = saving.refused_as("nf4");
        assert_eq!(kind(&error), "planning: plan Packed");
        let message = error.to_string();
        for part in ["down.weight", "affine:bits=4,group=32", "nf4:block=64"] {
            assert!(message.contains(part), "`{message}` lacks `{part}`");
        }
    }
}
