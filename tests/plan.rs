//! A plan says what will happen to every tensor, and refuses what cannot.

#[path = "common/tiny.rs"]
mod common;

use std::sync::Arc;

use common::{IN, OUT, Tiny, checkpoint, stored, tiny, tiny_entries, values};
use firebox::{Cpu, Error, LoadConfig, LoadRequest, Loader, plan::Plan};
use safetensors::Dtype;
use serde_json::json;

fn plan(config: impl Into<LoadRequest>) -> Result<Plan, Error> {
    Loader::<Cpu>::new(config)?.plan::<Tiny>()
}

fn message(result: Result<impl core::fmt::Debug, Error>) -> String {
    result.expect_err("this cannot be").to_string()
}

/// What became of each tensor, by name.
fn quants(plan: &Plan) -> Vec<(String, String)> {
    let mut quants: Vec<_> = plan
        .steps
        .iter()
        .map(|step| (step.slot.name.clone(), step.quant().to_string()))
        .collect();
    quants.sort();
    quants
}

/// The sizes are worked out by hand: 96 x 200 weights are 300 blocks of 64, 4 bits and one f32 a
/// block. Would catch a plan whose bytes are not what the load will hold.
#[test]
fn a_plan_knows_every_byte_before_one_is_read() {
    let source = tiny();
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .source(source.clone());
    let plan = plan(config).expect("a plan");

    let step = plan
        .steps
        .iter()
        .find(|step| step.slot.name == "up.weight")
        .expect("planned");
    assert_eq!(step.bytes_source(), 96 * 200 * 4);
    assert_eq!(step.bytes_finished(), 96 * 200 / 2 + 300 * 4);
    let totals = plan.totals();
    assert_eq!((totals.tensors, totals.packed), (4, 2));
    assert_eq!(totals.bytes_finished, 2 * (9600 + 1200) + (96 + 200) * 4);

    let last_weight = plan
        .steps
        .iter()
        .map(|step| step.pieces[0].tensor.range.end)
        .max()
        .expect("steps");
    let first_weight = plan
        .steps
        .iter()
        .map(|step| step.begins().1)
        .min()
        .expect("steps");
    let weights = first_weight..last_weight;
    let touched = source
        .reads()
        .into_iter()
        .any(|(file, range)| file == "model.safetensors" && range.end > weights.start);
    assert!(!touched, "planning read weights");
}

/// 200 x 96 weights are 600 groups of 32, each with a scale and a bias. Would catch a plan that takes these
/// for `f32` although a method stores them as the file stores the weight.
#[test]
fn a_plan_knows_how_scales_are_stored() {
    let kept = |source| {
        let rule = "down=mlx:group=32".parse().expect("a rule");
        let plan = plan(LoadConfig::default().rule(rule).source(Arc::new(source))).expect("a plan");
        let mut steps = plan.steps.iter();
        let step = steps.find(|step| step.slot.name == "down.weight");
        step.expect("planned").bytes_finished()
    };
    let halves = stored(&tiny_entries(), Dtype::BF16, |value| {
        value.to_bits().to_le_bytes()[2..].to_vec()
    });
    assert_eq!(kept(checkpoint(&tiny_entries())), 200 * 96 / 2 + 600 * 8);
    assert_eq!(kept(halves), 200 * 96 / 2 + 600 * 4);
}

/// Would catch a weight that is cut, padded or left dense in silence, and an error that says neither which
/// one it is nor what to do.
#[test]
fn rows_that_are_not_whole_groups_are_refused() {
    let groups_of_64 = LoadConfig::default()
        .rule("down=mlx".parse().expect("a rule"))
        .source(tiny());
    let said = message(plan(groups_of_64));
    for part in ["down.weight", "96", "64", "group=32"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
    let config = LoadConfig::default()
        .quant("mlx:group=32".parse().expect("a spec"))
        .source(tiny());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let said = message(loader.load::<Tiny>());
    for part in ["up.weight", "200", "32", "dense"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
}

/// Would catch rules applied in another order, or defaults that reach norms and biases.
#[test]
fn the_first_rule_that_matches_wins() {
    let config = LoadConfig::default()
        .quant("nf4".parse().expect("a spec"))
        .rule("down=fp8:e5m2".parse().expect("a rule"))
        .rule("*=fp4".parse().expect("a rule"));
    let expected = [
        ("down.weight", "fp8:e5m2,scale=tensor"),
        ("norm.weight", "none"),
        ("up.bias", "none"),
        ("up.weight", "fp4:block=64"),
    ];
    let expected: Vec<_> = expected
        .map(|(name, quant)| (name.into(), quant.into()))
        .into();
    assert_eq!(
        quants(&plan(config.clone().source(tiny())).expect("a plan")),
        expected
    );

    let skipped = config.skip("down".parse().expect("a pattern"));
    let quants = quants(&plan(skipped.source(tiny())).expect("a plan"));
    assert_eq!(
        quants[0],
        ("down.weight".into(), "none".into()),
        "skip comes before rules"
    );
}

/// Would catch a mistyped pattern that silently quantizes nothing.
#[test]
fn a_pattern_without_a_tensor_is_an_error() {
    let base = LoadConfig::default;
    let rule = base().rule("dwon=nf4".parse().expect("a rule"));
    assert!(message(plan(rule.source(tiny()))).contains("`dwon`"));
    let skip = base().skip("up_proj".parse().expect("a pattern"));
    assert!(message(plan(skip.source(tiny()))).contains("`up_proj`"));
    let only_a_norm = base().rule("norm=nf4".parse().expect("a rule"));
    assert!(message(plan(only_a_norm.source(tiny()))).contains("`norm`"));
}

#[test]
fn missing_unused_and_unexpected_tensors_are_told_apart() {
    let mut entries = tiny_entries();
    entries.retain(|(name, ..)| *name != "down.weight");
    entries.push(("rotary.inv_freq", vec![4], values(4, 5)));
    entries.push(("something.else", vec![2, 2], values(4, 6)));
    let loader = Loader::<Cpu>::new(LoadConfig::default().source(Arc::new(checkpoint(&entries))))
        .expect("a checkpoint");
    let plan = loader.plan::<Tiny>().expect("a plan");
    assert_eq!(plan.missing, ["down.weight"]);
    assert_eq!(plan.unused, ["rotary.inv_freq"]);
    assert_eq!(plan.unexpected, ["something.else"]);

    let refused = message(loader.load::<Tiny>());
    for part in ["1 of 4", "down.weight"] {
        assert!(refused.contains(part), "`{refused}` lacks `{part}`");
    }
}

#[test]
fn a_shape_that_config_json_does_not_imply_is_refused() {
    let mut entries = tiny_entries();
    entries[0].1 = vec![IN, OUT];
    let said = message(plan(
        LoadConfig::default().source(Arc::new(checkpoint(&entries))),
    ));
    for part in ["up.weight", "model.safetensors", "[200, 96]", "[96, 200]"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
}

#[test]
fn a_type_that_is_no_plain_float_is_refused() {
    let source = stored(&tiny_entries(), Dtype::F8_E4M3, |_| vec![0x38]);
    let said = message(plan(LoadConfig::default().source(Arc::new(source))));
    for part in ["model.safetensors", "F8_E4M3", "BF16"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
}

#[test]
fn another_architecture_is_refused() {
    let source = checkpoint(&tiny_entries()).with("config.json", br#"{"model_type":"rwkv"}"#);
    let said = message(plan(LoadConfig::default().source(Arc::new(source))));
    assert!(said.contains("rwkv") && said.contains("tiny"), "{said}");
}

/// Would catch a plan that is let through although the device cannot hold it.
#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let mut plan = plan(LoadConfig::default().source(tiny())).expect("a plan");

    // Tiles are in the memory of a device that has its own.
    plan.devices[0].on_host = false;
    plan.devices[0].memory = Some(155_000);
    let said = plan.check(1000).expect_err("too large").to_string();
    for part in ["154784", "1000", "155000"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
    assert_eq!(plan.check(200), Ok(()));

    plan.devices[0].largest_allocation = Some(76_800);
    assert_eq!(plan.check(200), Ok(()));
    // Rows may be cut from each other, and not further.
    plan.devices[0].largest_allocation = Some(100);
    let said = plan.check(200).expect_err("too large").to_string();
    for part in ["down.weight", "384", " 100"] {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
}

/// The JSON is an interface: scripts read these names.
#[test]
fn a_plan_prints_as_a_table_and_as_json() {
    let config = LoadConfig::default()
        .quant("fp8".parse().expect("a spec"))
        .source(tiny());
    let plan = plan(config).expect("a plan");
    let value = serde_json::to_value(plan.summary()).expect("serialises");
    assert_eq!(value["target"], "cpu");
    assert_eq!(value["dtype"], "f32");
    assert_eq!(value["missing"], json!([]));
    assert_eq!(value["totals"]["packed"], 2);
    let up = value["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|t| t["name"] == "up.weight");
    let up = up.expect("up.weight is listed");
    assert_eq!(up["shape"], json!([96, 200]));
    assert_eq!(up["role"], "linear");
    assert_eq!(up["quant"], "fp8:e4m3,scale=tensor");
    assert_eq!(up["bytes_read"], 76800);
    assert_eq!(up["bytes_kept"], 19204);

    let table = plan.to_string();
    for part in [
        "up.weight",
        "96 x 200",
        "norm",
        "fp8:e4m3,scale=tensor",
        "4 tensors, 2 packed",
    ] {
        assert!(table.contains(part), "`{table}` lacks `{part}`");
    }
}
