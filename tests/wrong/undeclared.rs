//! Packed tensors that `config.json` says nothing about: read from a file beside, or where they leave no choice, with a note.

use serde_json::{Value, json};

use crate::{
    bitsandbytes, calibrated, compressed_tensors, fp8, modelopt,
    saving::{Case, Saving, refused},
};

const FIELD: &str = "quantization_config";

fn undeclared(mut saving: Saving) -> Saving {
    saving
        .config
        .as_object_mut()
        .expect("an object")
        .remove(FIELD);
    saving
}

/// The same values as with a declaration, and one note that mentions `word`.
fn same(right: Saving, without: &Saving, word: &str) {
    let (expected, notes) = right.up_and_notes();
    assert_eq!(notes, Vec::<String>::new());
    let (found, notes) = without.up_and_notes();
    assert_eq!(found, expected, "{word}");
    let [note] = &notes[..] else {
        panic!("{notes:?}");
    };
    assert!(note.contains(word), "{note}");
}

#[test]
fn tensors_that_leave_no_choice_are_read_with_a_note() {
    for right in [bitsandbytes::nf4(), bitsandbytes::int8()] {
        same(right.clone(), &undeclared(right), "bitsandbytes");
    }
    same(fp8::scalar(), &undeclared(fp8::scalar()), "fp8");
    // Multiplied by in every dialect that has such tensors.
    for right in [
        fp8::auto(),
        compressed_tensors::tensor(),
        compressed_tensors::channel(),
        modelopt::fp8_tensor(),
        modelopt::nvfp4(0.25),
    ] {
        same(right.clone(), &undeclared(right), "modelopt");
    }
    let right = compressed_tensors::nvfp4(4.0);
    same(right.clone(), &undeclared(right), "compressed-tensors");
    // Tiles of 128 x 128 are what all projects have; others have to be declared.
    refused(
        &fp8::tiles(),
        &[(
            "tiles of their own",
            |saving| *saving = undeclared(saving.clone()),
            "opening: Undeclared",
            &[
                "weight_scale_inv",
                "of fp8",
                "`quantization_config` is missing",
            ],
        )],
    );
}

#[test]
fn files_beside_are_read_with_a_note() {
    let declaration = |saving: &Saving| saving.config[FIELD].clone();
    let gptq = calibrated::gptq();
    let mut beside = undeclared(gptq.clone());
    let mut file = declaration(&gptq);
    file.as_object_mut()
        .expect("an object")
        .remove("quant_method");
    beside
        .beside
        .insert("quantize_config.json", file.to_string());
    same(gptq, &beside, "quantize_config.json");

    // As AutoAWQ wrote it.
    let awq = calibrated::awq();
    let mut beside = undeclared(awq.clone());
    let file = json!({ "zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM", "modules_to_not_convert": ["lm_head"] });
    beside.beside.insert("quant_config.json", file.to_string());
    same(awq, &beside, "quant_config.json");

    // A declaration in config.json wins, and says nothing of the file.
    let mut both = calibrated::awq();
    both.beside.insert("quantize_config.json", "{}".to_owned());
    assert_eq!(both.up_and_notes().1, Vec::<String>::new());
}

/// `quant_method` is younger than these fields.
#[test]
fn old_fields_of_bitsandbytes_are_enough() {
    for mut saving in [bitsandbytes::nf4(), bitsandbytes::int8()] {
        let expected = saving.values();
        saving.unsay(FIELD, "quant_method");
        assert_eq!(saving.values(), expected);
    }
}

#[test]
fn what_may_mean_several_things_is_refused_by_what_is_missing() {
    let without: fn(&mut Saving) = |saving| *saving = undeclared(saving.clone());
    for (right, says) in [
        (
            calibrated::gptq(),
            &[
                ".qweight (I32)",
                "gptq or awq",
                "`quantization_config` is missing",
            ],
        ),
        (
            compressed_tensors::group(),
            &[
                "weight_scale",
                "compressed-tensors",
                "`quantization_config` is missing",
            ],
        ),
    ] {
        let case: Case = ("nothing said", without, "opening: Undeclared", says);
        refused(&right, &[case]);
    }
    // `null` is nothing, too.
    let mut null = calibrated::gptq();
    null.config[FIELD] = Value::Null;
    let case: Case = ("null", |_| (), "opening: Undeclared", &["gptq"]);
    refused(&null, &[case]);
}
