//! Errors of what the reference libraries give back, added up here in f64.

use std::fs;

use firebox::{config::VerifyConfig, quant::kernels::compare::Stats, source::Memory};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::{
    errors::{assert_close, by_definition, floats},
    verify,
};

fn one(stored: Dtype, shape: &[usize], bytes: &[u8], quant: &str) -> Stats {
    let view = TensorView::new(stored, shape.to_vec(), bytes).expect("a tensor");
    let file = safetensors::serialize([("w", view)], None).expect("a file");
    let memory = Memory::new().with("model.safetensors", file);
    let report = verify(memory, quant, &VerifyConfig::default());
    assert_eq!(report.tensors.len(), 1);
    report.tensors[0].stats
}

/// Cases of a golden file: parameters, and its tensors.
fn golden(name: &str, mut each: impl FnMut(&Value, &SafeTensors<'_>)) {
    let folder = std::env::var("FIREBOX_GOLDEN")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").to_owned());
    let bytes = fs::read(format!("{folder}/vectors/{name}.safetensors")).expect(name);
    let (_, header) = SafeTensors::read_metadata(&bytes).expect(name);
    let cases = &header.metadata().as_ref().expect("metadata")["cases"];
    let cases: Vec<Value> = serde_json::from_str(cases).expect("JSON");
    let file = SafeTensors::deserialize(&bytes).expect(name);
    for case in &cases {
        each(case, &file);
    }
}

/// Compares the case with what the library gave back in f32, if it did and the case is a matrix.
fn compare_golden(file: &SafeTensors<'_>, case: &Value, quant: &str) -> bool {
    let name = case["name"].as_str().expect("a name");
    let tensor = |field: &str| file.tensor(&format!("{name}/{field}"));
    let shared = || {
        file.tensor(&format!("inputs/{}", case["input"].as_str()?))
            .ok()
    };
    let back = [tensor("dequant_f32"), tensor("dequant")];
    let back = back.into_iter().flatten().find(|t| t.dtype() == Dtype::F32);
    let (Some(input), Some(back)) = (tensor("input").ok().or_else(shared), back) else {
        return false;
    };
    if input.shape().len() != 2 {
        return false;
    }
    let found = one(input.dtype(), input.shape(), input.data(), quant);
    let source = floats(input.dtype(), input.data());
    let expected = by_definition(&source, &floats(Dtype::F32, back.data()));
    assert_close(found, expected, &format!("{name} as {quant}"));
    true
}

/// Would catch errors of other weights, sums that leave some out, and a ratio upside down.
#[test]
fn errors_are_those_of_what_the_libraries_give_back() {
    let mut compared = [0; 3];
    golden("bnb_4bit", |case, file| {
        // Nested scales are chosen otherwise by this version.
        if case["nested"] == false {
            let (kind, block) = (case["quant_type"].as_str(), &case["blocksize"]);
            let quant = format!("{}:block={block}", kind.expect("nf4 or fp4"));
            compared[0] += usize::from(compare_golden(file, case, &quant));
        }
    });
    golden("bnb_int8", |case, file| {
        // The others keep columns aside, or are cast first.
        if case["name"]
            .as_str()
            .is_some_and(|n| n.starts_with("rows_"))
        {
            compared[1] += usize::from(compare_golden(file, case, "int8"));
        }
    });
    golden("fp8_scaled", |case, file| {
        let quant = match case["strategy"].as_str() {
            Some("tensor") => "fp8:e4m3,scale=tensor",
            Some("channel") => "fp8:e4m3,scale=channel",
            _ => return,
        };
        compared[2] += usize::from(compare_golden(file, case, quant));
    });
    assert_eq!(compared, [22, 3, 2]);
}
