//! GPT-2, whose dense matrices are `[in, out]` and whose packed ones bitsandbytes has as `[out, in]`, under the same names.

use firebox::{
    Cpu, LoadConfig, Loader,
    config::{SaveConfig, To},
    model::CausalLm,
};
use tempfile::TempDir;

use super::{Quantized, golden::logits_error, json, load, save, tensors};

const GPT2: Quantized = Quantized {
    name: "gpt2_bnb_nf4_plain",
    quant: "nf4",
    rules: &[],
    to: To::BitsAndBytes,
    otherwise: None,
};

/// Catches matrices that are packed as they are stored: the rows of blocks, and the shape in the tensor that describes
/// them, would be others.
#[test]
fn a_transposed_model_is_written_as_the_library_writes_it() {
    let folder = TempDir::new().expect("a folder");

    GPT2.quantize(folder.path());

    assert_eq!(GPT2.compare(&tensors(folder.path()), |_| false), 0);
    let config = json(&folder.path().join("config.json"));
    assert_eq!(config, GPT2.json("config.json"));
}

/// Catches a file that no library reads as this model, and a packed matrix that is given back the wrong way round.
#[test]
fn files_that_no_library_has_are_refused_by_name() {
    let tensor = "transformer.h.0.attn.c_attn.weight";
    let refused = |config: LoadConfig, to: SaveConfig| {
        let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
        loader.save::<CausalLm>(&to).unwrap_err().to_string()
    };
    let [packed, to] = [GPT2.checkpoint(), TempDir::new().expect("a folder")];
    let at = |name: &str| SaveConfig::new(to.path().join(name));

    let floats = "fp8:e4m3,scale=channel".parse().expect("a spec");
    let error = refused(load(&GPT2.base()).quant(floats), at("floats"));
    assert!(
        error.contains(tensor) && error.contains("bitsandbytes"),
        "{error}"
    );

    let error = refused(load(packed.path()).dequantize(true), at("dense"));
    assert!(
        error.contains(tensor) && error.contains("[in, out]"),
        "{error}"
    );
}

/// Catches packed matrices that are turned as dense ones are: a square one would fit.
#[test]
fn a_packed_model_is_not_turned_again() {
    let folder = GPT2.checkpoint();
    let again = TempDir::new().expect("a folder");

    save(load(folder.path()), &SaveConfig::new(again.path()));

    assert_eq!(GPT2.compare(&tensors(again.path()), |_| false), 0);
    let error = logits_error(GPT2, folder.path());
    assert!(error <= 5e-5, "{error}");
}
