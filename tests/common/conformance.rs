//! A suite for sources and containers, for tests that have the golden models (`common`) beside it. One model, wherever it comes from: the same tensors, the same bytes, the same module, the same files of a save.

use std::{collections::BTreeMap, fs, path::Path};

use firebox::{Cpu, DType, LoadRequest, Loader, SaveConfig, model::CausalLm, source::Checkpoint};

use super::common::{Golden, ids, max_abs_difference, values};

/// Type, shape and bytes of every tensor.
type Catalogued = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn catalogued(checkpoint: &Checkpoint) -> Catalogued {
    let tensors = checkpoint.catalog().iter().map(|tensor| {
        let mut bytes = vec![0; tensor.bytes() as usize];
        let source = checkpoint.source();
        let read = source.read_at(&tensor.file, tensor.range.start, &mut bytes);
        read.unwrap_or_else(|error| panic!("{}: {error}", tensor.name));
        let dtype = tensor.dtype.name().to_owned();
        (
            tensor.name.to_string(),
            (dtype, tensor.shape.clone(), bytes),
        )
    });
    tensors.collect()
}

/// Opens `request` and compares it with the golden model that it has to be: from `config.json` to logits, and to the files of a
/// quantized model.
pub(crate) fn is_the_model(what: &str, golden: Golden, request: impl Fn() -> LoadRequest) {
    let reference =
        || LoadRequest::from(firebox::LoadConfig::new(golden.path("").to_string_lossy()));
    let opened = request()
        .open()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let expected = reference().open().expect("a golden model");
    assert_eq!(opened.config(), expected.config(), "{what}");
    let [found, known] = [&opened, &expected].map(catalogued);
    let names = |tensors: &Catalogued| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&known), "{what}");
    for (name, tensor) in &known {
        assert_eq!(&found[name], tensor, "{what}: {name}");
    }

    let plain = |request: LoadRequest| request.with(|config| config.dtype(DType::F32));
    let loader =
        Loader::<Cpu>::new(plain(request())).unwrap_or_else(|error| panic!("{what}: {error}"));
    let model = loader
        .load::<CausalLm>()
        .unwrap_or_else(|error| panic!("{what}: {error}"))
        .model;
    let logits = values(model.forward(ids(&golden.ids("input_ids"))));
    let (reference_logits, _) = golden.floats("logits_f32");
    let off = max_abs_difference(&logits, &reference_logits);
    assert!(off <= golden.tolerance(), "{what}: {off}");

    let folder = tempfile::tempdir().expect("a folder");
    let saved = |name: &str, request: LoadRequest| {
        let request = request.with(|config| config.quant("nf4".parse().expect("a quantization")));
        let to = folder.path().join(name);
        let loader = Loader::<Cpu>::new(request).expect("opens");
        loader
            .save::<CausalLm>(&SaveConfig::new(&to))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        files(&to)
    };
    // The order of tensors is that of the files that they were read from.
    let [found, known] = [saved("found", request()), saved("known", reference())];
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        known.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (file, tensors) in &known {
        assert!(found[file] == *tensors, "{what}: {file}");
    }
}

/// The tensors of a saved folder, and its configuration.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(folder.join("model.safetensors")).expect("one file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let about = format!("{:?} {:?}", view.dtype(), view.shape());
        (name, [about.as_bytes(), view.data()].concat())
    });
    let config = fs::read(folder.join("config.json")).expect("a configuration");
    tensors
        .chain([("config.json".to_owned(), config)])
        .collect()
}
