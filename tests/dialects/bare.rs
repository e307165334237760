//! Files of weights without a configuration, and folders that cannot be written to.

use std::fs;

use firebox::{
    Cpu, Error, Loader,
    config::{Pattern, SaveConfig},
    model::CausalLm,
    place::SaveError,
};
use safetensors::Dtype;
use tempfile::TempDir;

use super::{QUANTIZED, Tensors, load, tensors, tensors_of};

/// Single tensors are packed as they are in a model; what is no linear layer, or is not named, stays to the bit.
#[test]
fn a_file_of_weights_needs_no_configuration() {
    let model = QUANTIZED[1];
    let shard = model.base().join("model-00001-of-00004.safetensors");
    let source = tensors_of(&shard);
    let [at, to, named] = [(); 3].map(|()| TempDir::new().expect("a folder"));
    let file = at.path().join("weights.safetensors");
    fs::copy(shard, &file).expect("a copy");

    let quantize = |include: &[Pattern], to: &TempDir| {
        let config = load(&file)
            .quant(model.quant.parse().expect("a spec"))
            .bare();
        let loader = Loader::<Cpu>::new(config).expect("weights");
        let saved = loader.save_tensors(include, &SaveConfig::new(to.path()));
        assert_eq!(saved.expect("saved").dialect, Some(model.to.name()));
        tensors(to.path())
    };
    let made = quantize(&[], &to);
    let listed = model.json("tensors.json");
    let is_linear = |name: &str| listed["tensors"].get(format!("{name}.absmax")).is_some();
    let parts = |made: &Tensors, name: &str| {
        let of = made.iter().filter(|(part, _)| part.starts_with(name));
        of.map(|(part, tensor)| (part.clone(), tensor.clone()))
            .collect::<Tensors>()
    };
    let mut linear = 0;
    for (name, tensor) in &source {
        if tensor.1.len() == 1 || name.ends_with("embed_tokens.weight") {
            assert_eq!(made[name], *tensor, "{name}");
        } else {
            assert_eq!(made[name].0, Dtype::U8, "{name}");
        }
        // Layers that the library has packed have its bytes.
        if is_linear(name) {
            linear += 1;
            for (part, (_, _, bytes)) in parts(&made, name) {
                let sum = super::sha256(&bytes);
                assert_eq!(listed["tensors"][&part]["sha256"], sum, "{part}");
            }
        }
    }
    assert!(linear >= 3, "{linear} linear weights in the shard");

    let name = source.keys().find(|name| is_linear(name)).expect("one");
    let only = quantize(&[name.parse().expect("a pattern")], &named);
    assert_eq!(parts(&only, name), parts(&made, name));
    for (other, tensor) in source.iter().filter(|(other, _)| *other != name) {
        assert_eq!(only[other], *tensor, "{other}");
    }
}

/// Nothing that is there is overwritten.
#[test]
fn a_folder_with_something_in_it_is_refused() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("notes.txt"), "mine").expect("written");
    let loader = Loader::<Cpu>::new(load(&QUANTIZED[0].base())).expect("a checkpoint");
    let to = SaveConfig::new(folder.path());
    let error = loader.save::<CausalLm>(&to).unwrap_err();
    let Error::Save(SaveError::NotEmpty { folder: named }) = error else {
        panic!("{error}");
    };
    assert_eq!(named, folder.path());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}
