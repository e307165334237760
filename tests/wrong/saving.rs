//! What somebody saved: `config.json` and tensors, byte by byte, and what becomes of them.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use firebox::{
    Cpu, Error, LoadConfig, Loader,
    dialect::DialectError,
    model::{
        Architecture, BuildError, ConfigError, Embedding, Linear, Matrix, Role, Slot, Weights,
    },
    pipeline::PipelineError,
    plan::PlanError,
    source::Memory,
    target::DType,
};
use serde_json::{Value, json};

// ---------------------------------------------------------------------------------- architecture

/// Two linear layers, a head, a table and a norm: one slot of each kind that dialects treat in their own way.
/// All matrices have the shape that `config.json` says in `shape`.
#[derive(Module, Debug)]
pub(crate) struct Small {
    up: Linear,
    down: Linear,
    embed: Embedding,
    lm_head: Linear,
    norm: Param<Tensor<1>>,
}

impl Architecture for Small {
    type Config = [usize; 2];

    fn config(json: &Value) -> Result<[usize; 2], ConfigError> {
        let side = |side: usize| json["shape"][side].as_u64().expect("this test's own field");
        Ok([side(0) as usize, side(1) as usize])
    }

    fn slots([o, i]: &[usize; 2]) -> Vec<Slot> {
        vec![
            Slot::linear("up.weight", *o, *i),
            Slot::linear("down.weight", *o, *i),
            Slot::new("embed.weight", [*o, *i], Role::Embedding),
            Slot::new("lm_head.weight", [*o, *i], Role::Head),
            Slot::norm("norm.weight", *i),
        ]
    }

    fn build(_: &[usize; 2], weights: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self {
            up: weights.linear("up")?,
            down: weights.linear("down")?,
            embed: weights.embedding("embed")?,
            lm_head: weights.linear("lm_head")?,
            norm: weights.param("norm.weight")?,
        })
    }
}

// ---------------------------------------------------------------------------------------- savings

/// A checkpoint to be.
#[derive(Debug, Clone)]
pub(crate) struct Saving {
    pub(crate) config: Value,
    tensors: BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>,
    /// Other files.
    pub(crate) beside: BTreeMap<&'static str, String>,
}

impl Saving {
    /// `embed`, `lm_head` and `norm` as plain ones; `up` and `down` are left to the dialect.
    pub(crate) fn new(shape: [usize; 2], field: &str, quantization: Value) -> Self {
        let config = json!({ "shape": shape, field: quantization });
        let tensors = BTreeMap::new();
        let beside = BTreeMap::new();
        let mut saving = Self {
            config,
            tensors,
            beside,
        };
        saving.plain("embed.weight", &shape);
        saving.plain("lm_head.weight", &shape);
        saving.plain("norm.weight", &[shape[1]]);
        saving
    }

    /// A tensor of ones.
    pub(crate) fn plain(&mut self, name: &str, shape: &[usize]) {
        self.put(name, "F32", shape, f32s(&vec![1.0; shape.iter().product()]));
    }

    pub(crate) fn put(
        &mut self,
        name: &str,
        dtype: &'static str,
        shape: &[usize],
        bytes: impl Into<Vec<u8>>,
    ) {
        let tensor = (dtype, shape.to_vec(), bytes.into());
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Every name changed.
    pub(crate) fn rename_all(&mut self, name: impl Fn(&str) -> String) {
        let tensors = core::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors.map(|(old, tensor)| (name(&old), tensor)).collect();
    }

    pub(crate) fn drop(&mut self, name: &str) {
        self.tensors.remove(name).expect("a tensor to take away");
    }

    /// Another type and shape for the same bytes.
    pub(crate) fn relabel(&mut self, name: &str, dtype: &'static str, shape: &[usize]) {
        let tensor = self.tensors.get_mut(name).expect("a tensor to relabel");
        (tensor.0, tensor.1) = (dtype, shape.to_vec());
    }

    /// Another type of the same size.
    pub(crate) fn retype(&mut self, name: &str, dtype: &'static str) {
        let tensor = self.tensors.get_mut(name).expect("a tensor to retype");
        tensor.0 = dtype;
    }

    pub(crate) fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.tensors.get_mut(name).expect("a tensor to change").2
    }

    /// The tensor `from` under another name.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).expect("a tensor to rename");
        self.tensors.insert(to.to_owned(), tensor);
    }

    /// A field of `config.json`, by the way to it: `quantization_config/load_in_4bit`.
    pub(crate) fn say(&mut self, field: &str, value: Value) {
        *field
            .split('/')
            .fold(&mut self.config, |object, field| &mut object[field]) = value;
    }

    /// Takes a field of an object of `config.json` away.
    pub(crate) fn unsay(&mut self, object: &str, field: &str) {
        let object = self.config[object].as_object_mut().expect("an object");
        object.remove(field).expect("a field to take away");
    }

    /// The files. safetensors: the header's length, eight bytes; the header, JSON; the bytes.
    pub(crate) fn files(&self) -> Memory {
        let (mut header, mut data) = (json!({}), Vec::new());
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let start = data.len();
            data.extend_from_slice(bytes);
            let data_offsets = [start, data.len()];
            header[name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": data_offsets });
        }
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend(data);
        let files = Memory::new()
            .with("config.json", self.config.to_string())
            .with("model.safetensors", file);
        let beside = self.beside.iter();
        beside.fold(files, |files, (name, text)| files.with(*name, text.clone()))
    }

    fn load(&self, more: impl FnOnce(LoadConfig) -> LoadConfig) -> Result<Small, Error> {
        let config = more(LoadConfig::default()).source(Arc::new(self.files()));
        let loader = Loader::<Cpu>::new(config)?;
        Ok(loader.load::<Small>()?.model)
    }

    /// The weights of `up` and `down`, which must load both packed and given back.
    pub(crate) fn values(&self) -> [Vec<f32>; 2] {
        let packed = self.load(|config| config).expect("a right checkpoint");
        for linear in [&packed.up, &packed.down] {
            assert!(matches!(linear.weight, Matrix::Packed(_)), "is not packed");
        }
        let given_back = self.load(|config| config.dequantize(true));
        let given_back = given_back.expect("a right checkpoint");
        [given_back.up, given_back.down].map(|linear| match linear.weight {
            Matrix::Dense(weight) => weight.val().try_into_vec_as().expect("a CPU tensor"),
            other => panic!("given back as {other:?}"),
        })
    }

    /// The weights of `down` of a checkpoint whose `up` is plain.
    pub(crate) fn values_of_down(&self) -> Vec<f32> {
        let loaded = self.load(|config| config.dequantize(true));
        match loaded.expect("a right checkpoint").down.weight {
            Matrix::Dense(weight) => weight.val().try_into_vec_as().expect("a CPU tensor"),
            other => panic!("given back as {other:?}"),
        }
    }

    /// The values of a dense `up`, loaded as `dtype`.
    pub(crate) fn up_as(&self, dtype: DType) -> Vec<f32> {
        match self
            .load(|config| config.dtype(dtype))
            .expect("a right checkpoint")
            .up
            .weight
        {
            Matrix::Dense(weight) => {
                let data = weight.val().into_data().convert::<f32>();
                data.try_to_vec().expect("floats")
            }
            other => panic!("loaded as {other:?}"),
        }
    }

    /// The values of `up`, however they are stored, and what the report notes.
    pub(crate) fn up_and_notes(&self) -> (Vec<f32>, Vec<String>) {
        let config = LoadConfig::default().dequantize(true);
        let loader = Loader::<Cpu>::new(config.source(Arc::new(self.files())));
        let loaded = loader.and_then(|loader| loader.load::<Small>());
        let loaded = loaded.expect("a right checkpoint");
        match loaded.model.up.weight {
            Matrix::Dense(weight) => {
                let values = weight.val().try_into_vec_as();
                (values.expect("a CPU tensor"), loaded.report.warnings)
            }
            other => panic!("given back as {other:?}"),
        }
    }

    /// Whether `up` is plain, of a checkpoint that must load.
    pub(crate) fn up_is_plain(&self) -> bool {
        let loaded = self.load(|config| config).expect("a right checkpoint");
        matches!(loaded.up.weight, Matrix::Dense(_))
    }

    /// What it is refused with when `quant` is asked for.
    pub(crate) fn refused_as(&self, quant: &str) -> Error {
        let quant = quant.parse().expect("a spec");
        self.load(|config| config.quant(quant))
            .expect_err("was loaded")
    }
}

/// Little-endian.
pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Little-endian.
pub(crate) fn u32s(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// bf16 of values that are exact in it: the upper half of the `f32`.
pub(crate) fn bf16s(values: &[f32]) -> Vec<u8> {
    let halves = values.iter().map(|value| {
        let bits = value.to_bits();
        assert_eq!(bits & 0xffff, 0, "{value} is not exact in bf16");
        ((bits >> 16) as u16).to_le_bytes()
    });
    halves.flatten().collect()
}

// --------------------------------------------------------------------------------------- refusals

/// One thing wrong: what, how to make it so, the error, and what the message has to say: the tensor or field,
/// and both sides.
pub(crate) type Case = (
    &'static str,
    fn(&mut Saving),
    &'static str,
    &'static [&'static str],
);

/// Each of `cases` makes one thing wrong in a copy of `right`, and is refused so.
pub(crate) fn refused(right: &Saving, cases: &[Case]) {
    refused_by(right, cases, |saving| saving.load(|config| config));
}

/// The same for another way to load.
pub(crate) fn refused_by<M>(
    right: &Saving,
    cases: &[Case],
    load: impl Fn(&Saving) -> Result<M, Error>,
) {
    let mut failures = Vec::new();
    for (what, change, error, says) in cases {
        let mut saving = right.clone();
        change(&mut saving);
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&saving)));
        match loaded {
            Err(_) => failures.push(format!("{what}: panicked")),
            Ok(Ok(_)) => failures.push(format!("{what}: was loaded")),
            Ok(Err(found)) => {
                let message = found.to_string();
                let lacks: Vec<_> = says
                    .iter()
                    .filter(|part| !message.contains(*part))
                    .collect();
                let kind = kind(&found);
                if kind != *error || !lacks.is_empty() {
                    failures.push(format!(
                        "{what}: is `{kind}`, expected `{error}`, lacks {lacks:?}\n    {message}"
                    ));
                }
                if message.len() > 400 {
                    failures.push(format!("{what}: {} letters: {message}", message.len()));
                }
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "\n{failures}");
}

/// When, and what: `opening`, `planning` and `reading` are stages of a load, and only the last has read weights.
pub(crate) fn kind(error: &Error) -> String {
    let (stage, error) = match error {
        Error::Dialect(error) => ("opening", error),
        Error::Plan(PlanError::Dialect(error)) => ("planning", error),
        Error::Pipeline(PipelineError::Dialect(error)) => ("reading", error),
        Error::Plan(error) => {
            return format!("planning: plan {}", variant(error));
        }
        other => return format!("{other:?}"),
    };
    match error {
        DialectError::Config(config) => format!("{stage}: config {}", variant(config)),
        error => format!("{stage}: {}", variant(error)),
    }
}

/// The name of an enum's variant, which is what `Debug` begins with.
fn variant(error: &impl core::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let name = text.split(|c: char| !c.is_alphanumeric()).next();
    name.unwrap_or_default().to_owned()
}
