//! Packed tensors whose names begin otherwise than those of the model: all of their parts, and the lists of the configuration.

use serde_json::json;

use crate::{
    bitsandbytes, calibrated, compressed_tensors, fp8, hqq, mlx, modelopt,
    saving::{Saving, f32s},
};

const PREFIXES: [&str; 4] = ["_orig_mod.", "module.", "language_model.", "a.b.c."];

/// Every dialect. Would catch a part of a weight that is looked up under the name of the model.
#[test]
fn every_part_is_found_under_a_prefix() {
    for right in [
        bitsandbytes::nf4(),
        bitsandbytes::int8(),
        compressed_tensors::tensor(),
        fp8::tiles(),
        fp8::auto(),
        hqq::right(),
        mlx::right(),
        calibrated::gptq(),
        calibrated::awq(),
        modelopt::fp8_tensor(),
    ] {
        let (expected, none) = right.up_and_notes();
        assert_eq!(none, Vec::<String>::new());
        for prefix in PREFIXES {
            let mut saving = right.clone();
            saving.rename_all(|name| format!("{prefix}{name}"));
            let (found, notes) = saving.up_and_notes();
            assert_eq!(found, expected, "{prefix} {}", right.config);
            let [note] = &notes[..] else {
                panic!("{notes:?}");
            };
            assert!(note.contains(&format!("`{prefix}`")), "{note}");
        }
    }
}

/// The lists of a configuration may have the names of the files or those of the model.
#[test]
fn lists_name_modules_with_the_prefix_or_without() {
    for module in ["up", "module.up"] {
        let mut saving = fp8::tiles();
        saving.drop("up.weight_scale_inv");
        saving.plain("up.weight", &[3, 40]);
        let head = module.replace("up", "lm_head");
        saving.say(
            "quantization_config/modules_to_not_convert",
            json!([head, module]),
        );
        saving.rename_all(|name| format!("module.{name}"));
        assert!(saving.up_is_plain(), "{module}");

        let mut saving = compressed_tensors::tensor();
        saving.drop("up.weight_scale");
        saving.plain("up.weight", &[3, 48]);
        saving.say(
            "quantization_config/ignore",
            json!([head, format!("re:{module}$")]),
        );
        saving.rename_all(|name| format!("module.{name}"));
        assert!(saving.up_is_plain(), "{module}");
    }
}

/// torch puts a name into the path of each module that it compiles or wraps.
#[test]
fn names_of_wrappers_are_left_out_wherever_they_are() {
    let right = bitsandbytes::nf4();
    let mut saving = right.clone();
    saving.rename_all(|name| match name.split_once('.') {
        Some(("up", rest)) => format!("up._orig_mod.{rest}"),
        Some((module, rest)) => format!("{module}._checkpoint_wrapped_module.{rest}"),
        None => name.to_owned(),
    });
    let (found, notes) = saving.up_and_notes();
    assert_eq!(found, right.up_and_notes().0);
    assert!(notes[0].contains("_orig_mod"), "{notes:?}");
}

/// Names that fit as they are stay, whatever lies beside; two sets of names that both fit are refused with both.
#[test]
fn nothing_is_guessed() {
    let twice = |first: &str, second: &str| {
        let mut saving = Saving::new([2, 4], "nothing", json!(null));
        for (prefix, value) in [(first, 1.0), (second, 2.0)] {
            for (name, shape) in [
                ("up.weight", &[2, 4][..]),
                ("down.weight", &[2, 4]),
                ("embed.weight", &[2, 4]),
                ("lm_head.weight", &[2, 4]),
                ("norm.weight", &[4]),
            ] {
                let values = vec![value; shape.iter().product()];
                saving.put(&format!("{prefix}{name}"), "F32", shape, f32s(&values));
            }
        }
        if !first.is_empty() {
            for name in ["embed.weight", "lm_head.weight", "norm.weight"] {
                saving.drop(name);
            }
        }
        saving
    };
    let (up, notes) = twice("", "ema.").up_and_notes();
    assert_eq!((up, notes), (vec![1.0; 8], Vec::new()));
    let error = twice("ema.", "module.").refused_as("none").to_string();
    assert!(
        error.contains("`ema.`") && error.contains("`module.`"),
        "{error}"
    );

    // A prefix that some names have and others do not is none.
    let mut some = Saving::new([2, 4], "nothing", json!(null));
    some.plain("module.up.weight", &[2, 4]);
    some.plain("other.down.weight", &[2, 4]);
    some.rename("norm.weight", "module.norm.weight");
    let error = some.refused_as("none").to_string();
    assert!(error.contains("lacks"), "{error}");
}
