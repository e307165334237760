//! Quantizations, dialects and declarations that do not fit the weights.

use firebox::{
    Error, SaveConfig, config::To, dialect::DialectError, model::CausalLm, place::SaveError,
    plan::PlanError, quant::QuantSpec,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::Golden,
    draft::{Draft, is_like, load, loader, says},
};

/// 64 features, and 112 in the MLP, which no group of 32 divides.
const ODD: Golden = Golden("qwen2_bf16_tied");
const PLAIN: Golden = Golden("llama_bf16_untied");

/// The words between the first two backticks of the advice: the quantization that packs all.
fn advised(error: &Error) -> QuantSpec {
    let text = error.to_string();
    let (_, advice) = text.split_once("; `").expect("advice");
    let (spec, _) = advice.split_once('`').expect("a quantization");
    spec.parse().expect("a quantization")
}

/// Catches advice for one weight that fails at the next, and an error that has to be met once for each weight.
#[test]
fn weights_that_no_group_divides_are_named_at_once_and_the_advice_works() {
    for quant in [
        "wna16:group=128",
        "mlx:group=64",
        "mlx:bits=8,group=32",
        "mxfp4",
        "nvfp4",
    ] {
        let folder = Draft::of(ODD).folder();
        let loader = loader(folder.path(), quant).expect("a model");
        let Err(error) = loader.plan::<CausalLm>() else {
            // Groups of 16 divide all.
            assert_eq!(quant, "nvfp4");
            continue;
        };
        assert!(
            matches!(error, Error::Plan(PlanError::Unfit { .. })),
            "{quant}: {error:?}"
        );
        says(&error, &["112", "--skip 'model.layers.*.mlp.down_proj'"]);
        let modules = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        if quant == "wna16:group=128" {
            says(&error, &modules);
            says(&error, &["14 of 14", "rows of 64, groups of 128"]);
        }
        let advised = advised(&error);
        load(folder.path(), &advised.to_string()).expect("the advice works");
    }
}

/// What fits some layers only, and the second half of the advice. Catches a list of weights that fit.
#[test]
fn only_weights_that_do_not_fit_are_named() {
    let folder = Draft::of(Golden("llama_f32_tied")).folder();
    let Err(error) = load(folder.path(), "wna16:group=128") else {
        panic!("192 is not divided by 128");
    };
    says(
        &error,
        &[
            "down_proj",
            "rows of 192, groups of 128",
            "`wna16:bits=4,group=64` packs all",
        ],
    );
    assert!(!error.to_string().contains("q_proj"), "{error}");
    let loader = firebox::Loader::<firebox::Cpu>::new(
        firebox::LoadConfig::new(folder.path().to_string_lossy())
            .quant("wna16:group=128".parse().expect("a spec"))
            .skip("model.layers.*.mlp.down_proj".parse().expect("a pattern")),
    );
    loader
        .expect("a model")
        .load::<CausalLm>()
        .expect("the advice works");
}

/// Without an architecture such weights stay dense. Catches that in silence.
#[test]
fn without_an_architecture_weights_that_stay_dense_are_told() {
    let folder = Draft::of(ODD).say("model_type", "unheard_of").folder();
    let loader = loader(folder.path(), "wna16:group=16").expect("a model");
    assert!(
        loader
            .plan_tensors(&[])
            .expect("a plan")
            .warnings()
            .is_empty()
    );
    let loader = crate::draft::loader(folder.path(), "mlx:group=64").expect("a model");
    let plan = loader.plan_tensors(&[]).expect("a plan");
    says(
        &plan,
        &["warning", "model.layers.*.mlp.down_proj", "stay dense"],
    );
}

/// Catches "choose another dialect" without a name.
#[test]
fn a_dialect_that_cannot_hold_a_weight_names_those_that_can() {
    for (quant, to, can) in [
        ("nf4", To::Mlx, "`--to bitsandbytes`"),
        ("mlx", To::BitsAndBytes, "`--to mlx`"),
        ("wna16:group=64", To::Fp8, "`--to compressed-tensors`"),
        ("fp8:e4m3,scale=block", To::Mlx, "`--to fp8`"),
        ("hqq", To::Fp8, "`--to hqq`"),
        ("int8", To::Mxfp4, "`--to bitsandbytes`"),
    ] {
        let folder = Draft::of(PLAIN).folder();
        let out = TempDir::new().expect("a folder");
        let loader = loader(folder.path(), quant).expect("a model");
        let saved = loader.save::<CausalLm>(&SaveConfig::new(out.path().join("saved")).dialect(to));
        let error = saved.expect_err(quant);
        assert!(
            matches!(
                error,
                Error::Save(SaveError::Dialect(DialectError::Unwritable { .. }))
            ),
            "{quant} to {to}: {error:?}"
        );
        says(&error, &[can, to.name()]);
    }
}

/// Plain weights under a declaration of another saving: merged after training on packed ones. Catches an error about the
/// declared method, and advice that does not help.
#[test]
fn a_declaration_without_packed_weights_says_what_to_remove() {
    let bitsandbytes = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" });
    let declarations: [(&str, Value, &str); 8] = [
        ("quantization_config", bitsandbytes, "bitsandbytes"),
        (
            "quantization_config",
            json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 }),
            "gptq",
        ),
        (
            "quantization_config",
            json!({ "quant_method": "awq", "bits": 4, "group_size": 128 }),
            "awq",
        ),
        (
            "quantization_config",
            json!({ "quant_method": "fp8", "weight_block_size": [128, 128] }),
            "fp8",
        ),
        (
            "quantization_config",
            json!({ "quant_method": "torchao", "quant_type": "int4_weight_only" }),
            "torchao",
        ),
        (
            "quantization_config",
            json!({ "quant_method": "quark" }),
            "quark",
        ),
        (
            "quantization_config",
            json!({ "bits": 4 }),
            "a quantization",
        ),
        (
            "quantization",
            json!({ "bits": 4, "group_size": 64 }),
            "mlx",
        ),
    ];
    for (field, declaration, method) in declarations {
        let draft = Draft::of(PLAIN).say(field, declaration);
        let error = draft.refused("none");
        assert!(
            matches!(error, Error::Dialect(DialectError::NoSigns { .. })),
            "{method}: {error:?}"
        );
        says(&error, &[method, &format!("remove `{field}`")]);
        let folder = draft.unsay(field).folder();
        assert!(is_like(
            &load(folder.path(), "none").expect("the advice works").model,
            PLAIN
        ));
    }
}
