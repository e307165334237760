//! ModelOpt's files as they are written here: the layout of its exporter, and the weights that a load packs.

use std::collections::BTreeMap;

use firebox::{
    Cpu, Loader,
    config::{SaveConfig, To},
    model::CausalLm,
    pipeline::Finished,
};
use safetensors::Dtype;
use tempfile::TempDir;

use super::{common::Golden, finished, json, load, read, save, tensors};

/// Each algorithm, the type of its codes, and the shape of the scales of a matrix `[out, in]`.
type Case = (
    &'static str,
    &'static str,
    Dtype,
    fn(usize, usize) -> Vec<usize>,
);

const CASES: [Case; 4] = [
    (
        "fp8:e4m3,scale=tensor",
        "FP8",
        Dtype::F8_E4M3,
        |_, _| vec![],
    ),
    (
        "fp8:e4m3,scale=channel",
        "FP8_PER_CHANNEL_PER_TOKEN",
        Dtype::F8_E4M3,
        |out, _| vec![out],
    ),
    (
        "fp8:e4m3,scale=block",
        "FP8_PB_WO",
        Dtype::F8_E4M3,
        |out, cols| vec![out.div_ceil(128), 1, cols.div_ceil(128), 1],
    ),
    ("nvfp4:global", "NVFP4", Dtype::U8, |out, cols| {
        vec![out, cols / 16]
    }),
];

/// Would catch scales under another name or in another shape, halves of bytes that change places, a second scale that is inverted, and
/// exceptions that are not listed.
#[test]
fn what_is_written_has_its_layout_and_is_read_again() {
    let base = Golden("llama_bf16_untied").path("");
    for (quant, algorithm, codes, shape) in CASES {
        let config = || load(&base).quant(quant.parse().expect("a spec"));
        let folder = TempDir::new().expect("a folder");
        save(
            config(),
            &SaveConfig::new(folder.path()).dialect(To::ModelOpt),
        );

        let said = json(&folder.path().join("config.json"))["quantization_config"].clone();
        assert_eq!(said["quant_method"], "modelopt", "{quant}");
        assert_eq!(said["quant_algo"], algorithm, "{quant}");
        assert_eq!(said["ignore"], serde_json::json!(["lm_head"]), "{quant}");
        let written = tensors(folder.path());
        let dense = tensors(&base);
        let mut count = 0;
        // The folder has the expected logits too.
        let weights = dense.iter().filter(|(name, _)| name.ends_with(".weight"));
        for (name, (_, sides, _)) in weights {
            if !name.contains("_proj.weight") {
                assert_eq!(written[name], dense[name], "{quant}: {name}");
                continue;
            }
            let (out, cols) = (sides[0], sides[1]);
            let scales = &written[&format!("{name}_scale")];
            assert_eq!(written[name].0, codes, "{quant}: {name}");
            assert_eq!(scales.1, shape(out, cols), "{quant}: {name}");
            if algorithm == "NVFP4" {
                assert_eq!(written[name].1, [out, cols / 2], "{name}");
                assert_eq!(scales.0, Dtype::F8_E4M3, "{name}");
                let (dtype, sides, _) = &written[&format!("{name}_scale_2")];
                assert_eq!((*dtype, sides.len()), (Dtype::F32, 0), "{name}");
            } else {
                assert_eq!(written[name].1, [out, cols], "{quant}: {name}");
                assert_eq!(scales.0, Dtype::F32, "{quant}: {name}");
            }
            count += 1;
        }
        assert_eq!(count, 28, "{quant}");

        let loader = Loader::<Cpu>::new(config()).expect("a checkpoint");
        let packed = finished(&loader, &loader.plan::<CausalLm>().expect("a plan"));
        let again: BTreeMap<String, Finished> = read(folder.path()).into_iter().collect();
        assert_eq!(packed.len(), again.len(), "{quant}");
        for (name, weight) in packed {
            match (weight, &again[&name]) {
                (Finished::Packed(first), Finished::Packed(again)) => {
                    assert!(first == *again, "{quant}: {name} is another");
                }
                (Finished::Dense(_), Finished::Dense(_)) => {}
                _ => panic!("{quant}: {name} is packed in one of both"),
            }
        }
        // And written once more, to the byte.
        let copy = TempDir::new().expect("a folder");
        save(
            load(folder.path()),
            &SaveConfig::new(copy.path()).dialect(To::ModelOpt),
        );
        assert!(tensors(copy.path()) == written, "{quant}: other bytes");
    }
}
