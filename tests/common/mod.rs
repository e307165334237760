//! Golden models: what is in `tests/golden/models`, read the plainest way there is.

#![allow(
    dead_code,
    reason = "each test file is a program of its own and uses what it needs"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType as BurnDType, Int, Tensor, TensorData};
use firebox::{
    LoadConfig, Loader,
    model::{
        Architecture, CausalLm, Linear, Origin, Weight, Weights,
        decoder::{Block, Spec},
    },
    target::{Cpu, DType, Target, ToBurn},
};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// A folder of `tests/golden/models`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Golden(pub(crate) &'static str);

/// Dense models of the Llama family.
pub(crate) const MODELS: [Golden; 6] = [
    Golden("llama_bf16_untied"),
    Golden("llama_f16_tied_bias"),
    Golden("llama_f32_tied"),
    Golden("mistral_bf16"),
    Golden("qwen2_bf16_tied"),
    Golden("qwen3_bf16"),
];

/// Every dense model of every family: the folders of `tests/golden/models`. A new one is found by itself.
pub(crate) fn models() -> Vec<Golden> {
    let folders = fs::read_dir(golden().join("models")).expect("golden models");
    let names = folders.map(|folder| folder.expect("a folder").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert!(
        names.len() >= MODELS.len(),
        "models of {}",
        golden().display()
    );
    // The names live as long as the tests.
    names.into_iter().map(|name| Golden(name.leak())).collect()
}

/// The folder of the repository: above the package whose tests these are, or that package itself.
pub(crate) fn repository() -> &'static Path {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.find(|folder| folder.join("tests/golden").is_dir());
    found.expect("tests run in a checkout of the repository")
}

/// `tests/golden`, or the folder `FIREBOX_GOLDEN`: for tests that are carried to another machine.
fn golden() -> PathBuf {
    let here = || repository().join("tests/golden");
    env::var_os("FIREBOX_GOLDEN").map_or_else(here, PathBuf::from)
}

impl Golden {
    pub(crate) fn path(self, file: &str) -> PathBuf {
        golden().join("models").join(self.0).join(file)
    }

    /// A JSON file of the folder.
    pub(crate) fn json(self, file: &str) -> Value {
        let path = self.path(file);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&bytes).expect("golden files are JSON")
    }

    /// The model, every weight as `dtype`, on the CPU, through the whole pipeline.
    pub(crate) fn load(self, dtype: DType) -> CausalLm {
        self.load_as(|config| config.dtype(dtype))
    }

    /// The same with matrices of halves as they are stored, which is what nobody has to ask for.
    pub(crate) fn load_as_stored(self) -> CausalLm {
        self.load_as(|config| config)
    }

    fn load_as(self, ask: impl FnOnce(LoadConfig) -> LoadConfig) -> CausalLm {
        let config = ask(LoadConfig::new(self.path("").to_string_lossy()));
        let loader = Loader::<Cpu>::new(config).expect(self.0);
        loader.load().expect(self.0).model
    }

    /// What the model is made of, its tensors named as the files name them.
    pub(crate) fn spec(self) -> Spec {
        let config = CausalLm::config(&self.json("config.json")).expect(self.0);
        let tensors = self.shapes();
        CausalLm::named(config, &|name| {
            tensors.iter().any(|(tensor, _)| tensor == name)
        })
    }

    /// Every weight that the model takes, as `dtype`, on the CPU.
    pub(crate) fn weights(self, dtype: DType) -> Weights {
        let device = Cpu::device(0).expect("there is always a CPU");
        let mut tensors = BTreeMap::new();
        for shard in self.shards() {
            let bytes = fs::read(self.path(&shard)).expect("a shard");
            let shard = SafeTensors::deserialize(&bytes).expect("a shard");
            for (name, view) in shard.iter() {
                tensors.insert(name.to_owned(), (floats(&view), view.shape().to_vec()));
            }
        }
        let mut weights = Weights::new(device.clone(), dtype);
        let config = self.spec();
        for slot in CausalLm::slots(&config) {
            let origins = slot.from.iter();
            let values: Vec<f32> = origins
                .flat_map(|origin| rows(&tensors[&origin.tensor], origin))
                .collect();
            let len = values.len();
            let data = TensorData::new(values, [len]).convert_dtype(dtype.burn().into());
            let options = (&device, BurnDType::from(dtype.burn()));
            let weight = Weight::Dense(vec![Tensor::from_data(data, options)], slot.shape);
            weights.insert(slot.name, weight);
        }
        weights
    }

    /// Name and shape of every tensor of every shard.
    pub(crate) fn shapes(self) -> Vec<(String, Vec<usize>)> {
        let of_shard = |shard: String| {
            let bytes = fs::read(self.path(&shard)).expect("a shard");
            let tensors = SafeTensors::deserialize(&bytes).expect("a shard");
            let shapes = tensors
                .iter()
                .map(|(name, view)| (name.to_owned(), view.shape().to_vec()));
            shapes.collect::<Vec<_>>()
        };
        self.shards().into_iter().flat_map(of_shard).collect()
    }

    /// Files of weights, by name.
    pub(crate) fn shards(self) -> Vec<String> {
        let files = fs::read_dir(self.path("")).expect("a golden folder");
        let mut shards: Vec<String> = files
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .filter(|name| name.starts_with("model") && name.ends_with(".safetensors"))
            .collect();
        shards.sort();
        shards
    }

    /// A float tensor of `logits.safetensors` and its shape.
    pub(crate) fn floats(self, name: &str) -> (Vec<f32>, Vec<usize>) {
        self.expected(name, |view| (floats(view), view.shape().to_vec()))
    }

    /// A table of ids of `logits.safetensors`, by row.
    pub(crate) fn ids(self, name: &str) -> Vec<Vec<u32>> {
        self.expected(name, |view| {
            let ids: Vec<u32> = view
                .data()
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
                .map(|id| u32::try_from(id).expect("ids are small"))
                .collect();
            ids.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
        })
    }

    /// How far logits may be from those of the reference: ten times as far as those are from what the reference computes
    /// in f64, which its file says, and at least 1e-4.
    pub(crate) fn tolerance(self) -> f32 {
        let bytes = fs::read(self.path("logits.safetensors")).expect("a golden file");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a golden file");
        let said = header.metadata().as_ref();
        let noise = said.and_then(|said| said.get("f64_vs_f32_max_abs"));
        let noise = noise.map_or(0.0f32, |noise| noise.parse().expect("a number"));
        (10.0 * noise).max(1e-4)
    }

    /// Other spellings of `config.json`: of an older library, of the hub.
    pub(crate) fn other_configs(self) -> Vec<String> {
        let files = fs::read_dir(self.path("")).expect("a golden folder");
        let names = files.map(|file| file.expect("a file").file_name());
        let names = names.map(|name| name.into_string().expect("UTF-8"));
        names
            .filter(|name| name.starts_with("config.") && name != "config.json")
            .collect()
    }

    /// The same where the file has such a table.
    pub(crate) fn ids_if_there(self, name: &str) -> Option<Vec<Vec<u32>>> {
        let bytes = fs::read(self.path("logits.safetensors")).expect("a golden file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a golden file");
        tensors.tensor(name).is_ok().then(|| self.ids(name))
    }

    fn expected<T>(self, name: &str, read: impl FnOnce(&TensorView<'_>) -> T) -> T {
        let bytes = fs::read(self.path("logits.safetensors")).expect("a golden file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a golden file");
        read(&tensors.tensor(name).expect(name))
    }
}

/// The rows of a stored tensor that `origin` takes, row after row of the slot that they fill.
fn rows((values, shape): &(Vec<f32>, Vec<usize>), origin: &Origin) -> Vec<f32> {
    let cols = match shape[..] {
        [_] => 1,
        [.., cols] => cols,
        [] => panic!("{} is no list of rows", origin.tensor),
    };
    let rows = origin.rows.clone().unwrap_or(0..values.len() / cols);
    let values = &values[rows.start * cols..rows.end * cols];
    if !origin.transposed {
        return values.to_vec();
    }
    let column = |col| values.iter().skip(col).step_by(cols);
    (0..cols).flat_map(column).copied().collect()
}

pub(crate) fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
            .collect(),
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        other => panic!("no golden model has {other:?}"),
    }
}

/// Ids `[batch, tokens]` on the CPU.
pub(crate) fn ids(rows: &[Vec<u32>]) -> Tensor<2, Int> {
    let device = Cpu::device(0).expect("there is always a CPU");
    let flat: Vec<i32> = rows.iter().flatten().map(|id| id.cast_signed()).collect();
    Tensor::from_data(
        TensorData::new(flat, [rows.len(), rows[0].len()]),
        (&device, BurnDType::I32),
    )
}

/// Every matrix of a block.
pub(crate) fn linears(block: &Block) -> Vec<&Linear> {
    block.linears()
}

/// Numbers of a tensor, row-major.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("a CPU tensor can be read")
}

/// The largest difference between two lists of equal length; NaN differs from everything.
pub(crate) fn max_abs_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest: f32, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() {
            f32::INFINITY
        } else {
            largest.max(difference)
        }
    })
}

/// The root of the mean squared difference between two lists of equal length.
pub(crate) fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}
