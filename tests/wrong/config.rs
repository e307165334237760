//! `config.json` declares one dialect, and the tensors are of it.

use serde_json::{Value, json};

use crate::{
    bitsandbytes, compressed_tensors, fp8, mlx,
    saving::{Case, Saving, f32s, refused},
};

const FIELD: &str = "quantization_config";

/// Weights that nobody packed.
fn dense(field: &str, quantization: Value) -> Saving {
    let mut saving = Saving::new([3, 64], field, quantization);
    saving.plain("up.weight", &[3, 64]);
    saving.plain("down.weight", &[3, 64]);
    saving
}

// ---------------------------------------------------------------------------- one declaration at all

/// Would catch a declaration that is skipped because it is not what was expected.
#[test]
fn a_declaration_that_is_none() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a text", |s| s.say(FIELD, json!("bitsandbytes")),
            "opening: config Value", &["quantization_config", "\"bitsandbytes\"", "an object"]),
        ("a number", |s| s.say(FIELD, json!(1e300)),
            "opening: config Value", &["quantization_config", "1e+300", "an object"]),
        ("a list", |s| s.say(FIELD, json!([{ "quant_method": "fp8" }])),
            "opening: config Value", &["quantization_config", "[{\"quant_method\":\"fp8\"}]", "an object"]),
        ("false", |s| s.say(FIELD, json!(false)),
            "opening: config Value", &["quantization_config", "false", "an object"]),
        ("nothing in it", |s| s.say(FIELD, json!({})),
            "opening: config Missing", &["`quantization_config.quant_method`"]),
        ("no method", |s| s.say(FIELD, json!({ "bits": 4 })),
            "opening: config Missing", &["`quantization_config.quant_method`"]),
        ("a method of null", |s| s.say(FIELD, json!({ "quant_method": null })),
            "opening: config Missing", &["`quantization_config.quant_method`"]),
        ("a method that is a number", |s| s.say("quantization_config/quant_method", json!(4)),
            "opening: config Value", &["`quantization_config.quant_method`", "4", "a text"]),
        ("a method below zero", |s| s.say("quantization_config/quant_method", json!(-1e308)),
            "opening: config Value", &["`quantization_config.quant_method`", "-1e", "a text"]),
        ("a method that is an object", |s| s.say("quantization_config/quant_method", json!({ "name": "fp8" })),
            "opening: config Value", &["`quantization_config.quant_method`", "{\"name\":\"fp8\"}", "a text"]),
        ("no name", |s| s.say("quantization_config/quant_method", json!("")),
            "opening: config Unsupported", &["`quantization_config.quant_method`", "bitsandbytes, compressed-tensors, fp8, mxfp4, modelopt, hqq, gptq or awq"]),
        ("capitals", |s| s.say("quantization_config/quant_method", json!("FP8")),
            "opening: config Unsupported", &["`quantization_config.quant_method`", "FP8", "bitsandbytes, compressed-tensors, fp8, mxfp4, modelopt, hqq, gptq or awq"]),
        ("an unknown method", |s| s.say("quantization_config/quant_method", json!("quark")),
            "opening: config Unsupported", &["`quantization_config.quant_method`", "quark", "bitsandbytes, compressed-tensors, fp8, mxfp4, modelopt, hqq, gptq or awq"]),
        ("torchao", |s| s.say("quantization_config/quant_method", json!("torchao")),
            "opening: Refused", &["torchao", "pickled"]),
    ];
    refused(&bitsandbytes::nf4(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("a text", |s| s.say("quantization", json!("mlx")),
            "opening: config Value", &["quantization", "\"mlx\"", "an object"]),
        ("a number of bits", |s| s.say("quantization", json!(4)),
            "opening: config Value", &["quantization", "4", "an object"]),
        ("nothing in it", |s| s.say("quantization", json!({})),
            "opening: config Missing", &["`quantization.bits`"]),
    ];
    refused(&mlx::right(), cases);
}

/// Would catch one of two that wins in silence.
#[test]
fn two_declarations() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("MLX and bitsandbytes", |s| s.config[FIELD] = bitsandbytes::nf4().config[FIELD].take(),
            "opening: Declared", &["`quantization`", "`quantization_config`", "two"]),
        ("MLX twice, with other bits", |s| s.config[FIELD] = json!({ "bits": 8, "group_size": 32 }),
            "opening: Declared", &["`quantization`", "`quantization_config`", "two"]),
        ("MLX and nothing known", |s| s.config[FIELD] = json!({ "quant_method": "quark" }),
            "opening: Declared", &["`quantization`", "`quantization_config`", "two"]),
        ("MLX and a compression", |s| s.config["compression_config"] = compressed_tensors::tensor().config[FIELD].take(),
            "opening: Declared", &["`quantization`", "`compression_config`", "two"]),
        ("MLX and something that is no object", |s| s.config[FIELD] = json!("fp8"),
            "opening: config Value", &["quantization_config", "\"fp8\"", "an object"]),
    ];
    refused(&mlx::right(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("another compression", |s| s.config["compression_config"] = fp8::tiles().config[FIELD].take(),
            "opening: Declared", &["`quantization_config`", "`compression_config`", "two"]),
        ("the same twice", |s| s.config["compression_config"] = s.config[FIELD].clone(),
            "opening: Declared", &["`quantization_config`", "`compression_config`", "two"]),
        ("a compression that is no object", |s| s.say("compression_config", json!(1)),
            "opening: Declared", &["`quantization_config`", "`compression_config`", "two"]),
        ("MLX beside it", |s| s.config["quantization"] = json!({ "bits": 4, "group_size": 32 }),
            "opening: Declared", &["`quantization`", "`quantization_config`", "two"]),
    ];
    refused(&compressed_tensors::tensor(), cases);
}

// -------------------------------------------------------------------- declared and there are the same

/// Would catch a detection that looks at one side only.
#[test]
fn a_declaration_of_another_dialect() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("4 bits of bitsandbytes", |s| s.config[FIELD] = bitsandbytes::nf4().config[FIELD].take(),
            "opening: Signs", &["weight_scale_inv (F32)", "of fp8", "declares bitsandbytes"]),
        ("8 bits of bitsandbytes", |s| s.config[FIELD] = bitsandbytes::int8().config[FIELD].take(),
            "opening: Signs", &["weight_scale_inv (F32)", "of fp8", "declares bitsandbytes"]),
        ("compressed-tensors", |s| s.config[FIELD] = compressed_tensors::tensor().config[FIELD].take(),
            "opening: Signs", &["weight_scale_inv (F32)", "of fp8", "declares compressed-tensors"]),
        ("mlx", |s| { s.config[FIELD] = json!(null); s.config["quantization"] = json!({ "bits": 4, "group_size": 32 }) },
            "opening: Signs", &["weight_scale_inv (F32)", "of fp8", "declares mlx"]),
        ("nothing", |s| s.say(FIELD, json!(null)),
            "opening: Undeclared", &["weight_scale_inv (F32)", "of fp8", "`quantization_config` is missing"]),
    ];
    refused(&fp8::tiles(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("compressed-tensors", |s| { s.say("quantization", json!(null)); s.config[FIELD] = compressed_tensors::tensor().config[FIELD].take() },
            "opening: Signs", &["weight (U32)", "of mlx", "declares compressed-tensors"]),
        ("fp8", |s| { s.say("quantization", json!(null)); s.config[FIELD] = json!({ "quant_method": "fp8" }) },
            "opening: Signs", &["weight (U32)", "of mlx", "declares fp8"]),
        ("nothing", |s| s.say("quantization", json!(null)),
            "opening: Undeclared", &["weight (U32)", "of mlx", "`quantization_config` is missing"]),
    ];
    refused(&mlx::right(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("fp8", |s| s.config[FIELD] = json!({ "quant_method": "fp8" }),
            "opening: Signs", &["quant_state.bitsandbytes__nf4 (U8)", "of bitsandbytes", "declares fp8"]),
    ];
    refused(&bitsandbytes::nf4(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("mlx", |s| { s.config[FIELD] = json!(null); s.config["quantization"] = json!({ "bits": 4, "group_size": 32 }) },
            "opening: Signs", &[".SCB (F32)", "of bitsandbytes", "declares mlx"]),
    ];
    refused(&bitsandbytes::int8(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("bitsandbytes", |s| s.config[FIELD] = bitsandbytes::nf4().config[FIELD].take(),
            "opening: Signs", &["weight_scale (BF16)", "of compressed-tensors or fp8", "declares bitsandbytes"]),
        ("fp8 in tiles", |s| s.config[FIELD] = fp8::tiles().config[FIELD].take(),
            "planning: Missing", &["up.weight", "fp8", "up.weight_scale_inv"]),
    ];
    refused(&compressed_tensors::tensor(), cases);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("compressed-tensors by its name alone", |s| s.say("quantization_config/quant_method", json!("compressed-tensors")),
            "opening: config Missing", &["`quantization_config.config_groups`"]),
    ];
    refused(&fp8::auto(), cases);
}

/// Tensors of two dialects, or of one that is not read.
#[test]
fn tensors_of_another_dialect() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("MLX beside it", |s| s.put("up.weight", "U32", &[3, 5], [0; 60]),
            "opening: Signs", &["up.weight (U32)", "of mlx", "declares fp8"]),
        ("bitsandbytes beside it", |s| s.put("up.SCB", "F32", &[3], f32s(&[1.0; 3])),
            "opening: Signs", &["up.SCB (F32)", "of bitsandbytes", "declares fp8"]),
        ("GPTQ beside it", |s| s.put("up.qweight", "I32", &[1], [0; 4]),
            "opening: Signs", &["up.qweight (I32)", "of gptq or awq", "declares fp8"]),
        ("HQQ beside it", |s| s.put("up.W_q", "U8", &[1], [0]),
            "opening: Signs", &["up.W_q (U8)", "of hqq", "declares fp8"]),
        ("packed words of compressed-tensors beside it", |s| s.put("up.weight_packed", "I32", &[1], [0; 4]),
            "opening: Signs", &["up.weight_packed (I32)", "of compressed-tensors", "declares fp8"]),
    ];
    refused(&fp8::tiles(), cases);
}

/// Would catch a declaration that is believed although nothing is packed, and the reverse.
#[test]
fn plain_weights_that_are_declared_packed() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("bitsandbytes", |s| s.config[FIELD] = bitsandbytes::nf4().config[FIELD].take(),
            "opening: NoSigns", &["declares bitsandbytes", "no tensor"]),
        ("compressed-tensors", |s| s.config[FIELD] = compressed_tensors::tensor().config[FIELD].take(),
            "opening: NoSigns", &["declares compressed-tensors", "no tensor"]),
        ("fp8", |s| s.config[FIELD] = fp8::tiles().config[FIELD].take(),
            "opening: NoSigns", &["declares fp8", "no tensor"]),
        ("mlx", |s| s.config["quantization"] = mlx::right().config["quantization"].take(),
            "opening: NoSigns", &["declares mlx", "no tensor"]),
        ("and every module is excepted", |s| s.config[FIELD] = json!({
            "quant_method": "fp8", "modules_to_not_convert": ["up", "down", "lm_head"],
        }), "opening: NoSigns", &["declares fp8", "no tensor"]),
        ("packed without a word about it", |s| s.put("up.weight", "F8_E4M3", &[3, 64], [0x38; 192]),
            "planning: plan Dtype", &["up.weight", "F8_E4M3", "F32, F16 or BF16"]),
    ];
    refused(&dense(FIELD, json!(null)), cases);
}
