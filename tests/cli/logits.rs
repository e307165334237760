//! `firebox logits`: against transformers, token by token.

use std::{fs, path::Path};

use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::{
    common::{Golden, max_abs_difference},
    run::{Copied, program, run, succeed},
};

/// Logits that the program writes for some tokens: one row a token.
pub(crate) fn logits(model: &str, ids: &[u32]) -> (Vec<f32>, Vec<usize>) {
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("logits.safetensors");
    let tokens: Vec<String> = ids.iter().map(u32::to_string).collect();
    let (tokens, out) = (tokens.join(","), out.to_str().expect("UTF-8"));
    succeed(&["logits", model, "--tokens", &tokens, "--out", out]);

    let bytes = fs::read(out).expect("it was written");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    assert_eq!(file.names(), ["logits"]);
    let view = file.tensor("logits").expect("it is there");
    assert_eq!(view.dtype(), Dtype::F32);
    let values = view.data().as_chunks().0.iter().copied();
    (
        values.map(f32::from_le_bytes).collect(),
        view.shape().into(),
    )
}

/// Would catch logits of the last token only, of another order, or in another type.
#[test]
fn logits_are_written_as_transformers_computes_them() {
    for name in [
        "llama_bf16_untied",
        "llama_f16_tied_bias",
        "llama_f32_tied",
        "mistral_bf16",
        "qwen2_bf16_tied",
        "qwen3_bf16",
    ] {
        let golden = Golden(name);
        let model = golden.path("");
        let (expected, shape) = golden.floats("logits_f32");
        let rows = golden.ids("input_ids");
        assert_eq!(shape, [rows.len(), rows[0].len(), 512]);
        for (row, expected) in rows.iter().zip(expected.chunks(row_len(&shape))) {
            let (found, shape) = logits(model.to_str().expect("UTF-8"), row);
            assert_eq!(shape, [row.len(), 512], "{name}");
            let error = max_abs_difference(&found, expected);
            assert!(error < 1e-4, "{name}: largest error {error}");
        }
    }
}

fn row_len(shape: &[usize]) -> usize {
    shape[1] * shape[2]
}

/// Would catch a file that looks like an answer. It is written all the same: where NaN begins is what one
/// looks for.
#[test]
fn logits_that_are_no_numbers_are_written_with_a_warning() {
    let model = Copied::golden("mistral_bf16").with_nan("model.norm.weight", 3);
    let out = model.file("written.safetensors");
    let out = out.to_str().expect("UTF-8");
    let ran = succeed(&["logits", model.path(), "--tokens", "1,2", "--out", out]);
    for part in ["WARN", "logit 0 of token 0 is NaN", "weights", "--dtype"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert!(Path::new(out).exists());
}

/// The file is first written under another name. Would catch that name in the message: nobody asked for it.
#[test]
fn a_file_that_cannot_be_written_is_named_as_it_was_asked_for() {
    let model = Golden("mistral_bf16").path("");
    let model = model.to_str().expect("UTF-8");
    let folder = TempDir::new().expect("a temporary folder");
    let folder = folder.path().to_str().expect("UTF-8");
    let missing = format!("{folder}/no/logits.safetensors");
    for out in [&*missing, folder] {
        let ran = run(&mut program(&[
            "logits", model, "--tokens", "1", "--out", out,
        ]));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.stderr.starts_with(&format!("error: {out}: ")),
            "{ran:?}"
        );
        let rest = ran.stderr.replace(folder, "");
        assert!(!rest.contains("tmp"), "{ran:?}");
    }
}
