//! Quantized checkpoints of the Python libraries: written as they write them, read as they read them.
//!
//! What the libraries wrote is kept as the SHA-256 of each tensor (`tests/golden/quantized`). So a checkpoint
//! is first made here, compared tensor by tensor, and then stands for the library's own in the other tests.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/errors.rs"]
mod errors;

mod bare;
mod calibrated;
mod golden;
mod gpt2;
mod modelopt;
mod packed;
mod plans;
mod requantize;
mod slices;
mod stacks;
mod vectors;
mod verify;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::Golden;
use firebox::{
    Cpu, LoadConfig, Loader,
    config::{SaveConfig, To},
    model::CausalLm,
    pipeline::{self, Event, Finished, Flow, Settings, Sink, SinkError},
    plan::{Plan, Step},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A checkpoint that a library has quantized, and how it is made here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantized {
    pub(crate) name: &'static str,
    pub(crate) quant: &'static str,
    rules: &'static [&'static str],
    pub(crate) to: To,
    /// Tensors that the library chooses otherwise, by the end of their names, and how many there are.
    otherwise: Option<(&'static str, usize)>,
}

pub(crate) const QUANTIZED: [Quantized; 6] = [
    Quantized {
        name: "llama_bnb_nf4_dq",
        quant: "nf4:nested",
        rules: &[],
        to: To::BitsAndBytes,
        // Codes of nested scales: bitsandbytes 0.50 looks them up in a table that is coarser than ours.
        otherwise: Some((".weight.absmax", 21)),
    },
    Quantized {
        name: "llama_bnb_fp4_plain_small",
        quant: "fp4",
        rules: &[],
        to: To::BitsAndBytes,
        otherwise: None,
    },
    Quantized {
        name: "llama_ct_fp8_dynamic",
        quant: "fp8:e4m3,scale=channel",
        rules: &[],
        to: To::CompressedTensors,
        otherwise: None,
    },
    Quantized {
        name: "llama_fp8_block128",
        quant: "fp8:e4m3,scale=block",
        rules: &[],
        to: To::Fp8,
        otherwise: None,
    },
    Quantized {
        name: "llama_hqq_4bit",
        quant: "hqq",
        rules: &[],
        to: To::Hqq,
        otherwise: None,
    },
    Quantized {
        name: "llama_mlx_4bit",
        quant: "mlx:bits=4,group=64",
        rules: &[
            "role:embedding=mlx:bits=4,group=64",
            "role:head=mlx:bits=4,group=64",
        ],
        to: To::Mlx,
        otherwise: None,
    },
];

impl Quantized {
    pub(crate) fn path(self, file: &str) -> PathBuf {
        Golden("").path(&format!("../quantized/{}/{file}", self.name))
    }

    pub(crate) fn json(self, file: &str) -> Value {
        json(&self.path(file))
    }

    /// The dense model that it was made from.
    pub(crate) fn base(self) -> PathBuf {
        let base = self.json("tensors.json")["base"].clone();
        Golden("").path(base.as_str().expect("a name"))
    }

    /// Quantizes the base into `folder`, nothing said of the dialect.
    pub(crate) fn quantize(self, folder: &Path) {
        let mut config = load(&self.base()).quant(self.quant.parse().expect("a spec"));
        for rule in self.rules {
            config = config.rule(rule.parse().expect("a rule"));
        }
        let saved = save(config, &SaveConfig::new(folder));
        assert_eq!(saved.dialect, Some(self.to.name()), "{}", self.name);
    }

    /// The library's own checkpoint, in a folder that lives as long as the result.
    pub(crate) fn checkpoint(self) -> TempDir {
        let folder = TempDir::new().expect("a folder");
        self.quantize(folder.path());
        let rest = self.path("rest.safetensors");
        if rest.exists() {
            let rest = tensors_of(&rest);
            let mut all = tensors(folder.path());
            all.extend(rest);
            write(&folder.path().join("model.safetensors"), &all);
        }
        self.compare(&tensors(folder.path()), |_| false);
        fs::copy(self.path("config.json"), folder.path().join("config.json")).expect("a copy");
        folder
    }

    /// Compares tensors with the library's, but for those that may differ; how many do.
    pub(crate) fn compare(self, found: &Tensors, may_differ: impl Fn(&str) -> bool) -> usize {
        let expected = self.json("tensors.json")["tensors"].clone();
        let expected = expected.as_object().expect("an object").clone();
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{}", self.name);
        let mut differ = 0;
        for (name, (dtype, shape, bytes)) in found {
            let expected = &expected[name];
            let what = format!("{} {name}", self.name);
            assert_eq!(dtype.to_string(), expected["dtype"], "{what}");
            assert_eq!(serde_json::json!(shape), expected["shape"], "{what}");
            let equal = sha256(bytes) == expected["sha256"];
            assert!(equal || may_differ(name), "{what} has other bytes");
            differ += usize::from(!equal);
        }
        differ
    }
}

pub(crate) fn load(path: &Path) -> LoadConfig {
    LoadConfig::new(path.to_string_lossy())
}

pub(crate) fn save(config: LoadConfig, to: &SaveConfig) -> firebox::report::Saved {
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    loader
        .save::<CausalLm>(to)
        .expect("a checkpoint can be saved")
}

/// Every finished weight of a model of the Llama family, by name.
pub(crate) fn read(path: &Path) -> Vec<(String, Finished)> {
    let loader = Loader::<Cpu>::new(load(path)).expect("a checkpoint");
    finished(&loader, &loader.plan::<CausalLm>().expect("a plan"))
}

/// Every finished weight of a plan, by name.
pub(crate) fn finished(loader: &Loader<Cpu>, plan: &Plan) -> Vec<(String, Finished)> {
    finished_of(loader, plan, 1 << 20)
}

/// The same, with so many bytes in flight.
pub(crate) fn finished_of(
    loader: &Loader<Cpu>,
    plan: &Plan,
    in_flight: u64,
) -> Vec<(String, Finished)> {
    struct Keep(Vec<(String, Finished)>);
    impl Sink for Keep {
        fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
            self.0.push((step.slot.name.clone(), weight));
            Ok(())
        }
    }
    let mut keep = Keep(Vec::new());
    let observer = |_: &Event<'_>| Flow::Continue;
    let settings = Settings::new(2, in_flight, &observer);
    let source = &**loader.checkpoint().source();
    pipeline::run(plan, source, &mut keep, &settings).expect("a load");
    keep.0
}

pub(crate) fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// In hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Type, shape and bytes of tensors, by name.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Every tensor of every file of weights in a folder, as the reference reader reads it.
pub(crate) fn tensors(folder: &Path) -> Tensors {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    let weights = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    weights.flat_map(|path| tensors_of(&path)).collect()
}

pub(crate) fn tensors_of(path: &Path) -> Tensors {
    let bytes = fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("the reference reader reads it");
    let tensors = file.iter().map(|(name, view)| {
        let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), tensor)
    });
    tensors.collect()
}

pub(crate) fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}
