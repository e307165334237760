//! Modules of Burn that take their tensors from a checkpoint.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor},
};
use burn_store::{
    BurnpackStore, IdentityAdapter, ModuleSnapshot, ModuleStore, PathFilter, PyTorchToBurnAdapter,
    bridge,
};
use firebox::{
    Cpu, Error, LoadConfig, LoadRequest, Loader, SaveConfig, Store, StoreError, Target,
    model::CausalLm,
    source::{Fault, Memory, SourceError},
};
use safetensors::SafeTensors;

use super::{
    common::{Golden, floats, repository},
    conformance::is_the_model,
    torch::golden,
};

const MODEL: Golden = Golden("llama_rope_linear");

/// As that of `burn-nn`, by whose name adapters go: `[in, out]`.
#[derive(Module, Debug)]
struct Linear {
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Vectors {
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Scale {
    weight: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: Scale,
    self_attn: Attention,
    post_attention_layernorm: Scale,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Body {
    embed_tokens: Vectors,
    layers: Vec<Layer>,
    norm: Scale,
}

#[derive(Module, Debug)]
struct Llama {
    model: Body,
}

fn device() -> Device {
    Cpu::device(0).expect("there is always a CPU")
}

fn zeros<const D: usize>(shape: [usize; D]) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::zeros(shape, (&device(), DType::F32)))
}

impl Body {
    fn new() -> Self {
        let linear = |input, output| Linear {
            weight: zeros([input, output]),
        };
        let scale = || Scale {
            weight: zeros([40]),
        };
        let layer = |_| Layer {
            input_layernorm: scale(),
            self_attn: Attention {
                q_proj: linear(40, 40),
                k_proj: linear(40, 20),
                v_proj: linear(40, 20),
                o_proj: linear(40, 40),
            },
            post_attention_layernorm: scale(),
            mlp: Mlp {
                gate_proj: linear(40, 64),
                up_proj: linear(40, 64),
                down_proj: linear(64, 40),
            },
        };
        Self {
            embed_tokens: Vectors {
                weight: zeros([320, 40]),
            },
            layers: (0..2).map(layer).collect(),
            norm: scale(),
        }
    }
}

impl Llama {
    fn new() -> Self {
        Self { model: Body::new() }
    }
}

fn config(path: &Path) -> LoadConfig {
    LoadConfig::new(path.to_string_lossy())
}

fn store(request: impl Into<LoadRequest>) -> Store {
    let loader = Loader::<Cpu>::new(request).expect("opens");
    loader.store().expect("a store")
}

/// The floats of every tensor in some files, those of linear layers as Burn has them.
fn expected(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(path).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let values = floats(&view);
        let values = match (name.contains("_proj"), view.shape()) {
            (true, [rows, cols]) => (0..rows * cols)
                .map(|nth| values[nth % rows * cols + nth / rows])
                .collect(),
            _ => values,
        };
        (name, values)
    });
    tensors.collect()
}

/// The floats of every parameter.
fn found(module: &impl ModuleSnapshot) -> BTreeMap<String, Vec<f32>> {
    let tensors = module.collect(None, None, true).into_iter().map(|tensor| {
        let data = bridge::to_data(&tensor).expect("data");
        let values = data.convert::<f32>().try_into_vec::<f32>().expect("floats");
        (tensor.name, values)
    });
    tensors.collect()
}

#[test]
fn modules_take_dense_tensors_of_every_container() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("writable");
        fs::copy(from, &to).expect("copied");
        to
    };
    let shards = repository().join("tests/golden/torch/shards");
    for file in [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
    ] {
        copy(&shards.join(file), &format!("shards/{file}"));
    }
    copy(&MODEL.path("config.json"), "shards/config.json");
    let file = copy(&golden("llama_rope_linear.bin"), "model.bin");
    for request in [
        config(&MODEL.path("")),
        config(&folder.path().join("shards")),
        config(&file).bare(),
    ] {
        let mut module = Llama::new();
        let mut store = store(request);
        let applied = module.load_from(&mut store).expect("loads");
        assert!(
            applied.unused.is_empty() && applied.missing.is_empty(),
            "{applied}"
        );
        assert_eq!(found(&module), expected(&MODEL.path("model.safetensors")));
        // The type is that of the file, unless another is asked for.
        assert_eq!(module.model.norm.weight.val().dtype(), DType::BF16);
    }
    let mut module = Llama::new();
    let mut store = store(config(&MODEL.path("")).dtype(firebox::DType::F32));
    module.load_from(&mut store).expect("loads");
    assert_eq!(module.model.norm.weight.val().dtype(), DType::F32);
}

/// What a save with `dequantize` writes: values that other tests hold against the libraries.
#[test]
fn modules_take_packed_weights_dequantized() {
    let folder = tempfile::tempdir().expect("a folder");
    for spec in ["nf4:nested", "fp4", "fp8:e4m3,scale=channel", "int8"] {
        let [packed, dense] =
            ["packed", "dense"].map(|name| folder.path().join(format!("{spec}-{name}")));
        let config_of = config(&MODEL.path("")).quant(spec.parse().expect("a quantization"));
        let loader = Loader::<Cpu>::new(config_of).expect("opens");
        loader
            .save::<CausalLm>(&SaveConfig::new(&packed))
            .expect("saved");
        let loader = Loader::<Cpu>::new(config(&packed).dequantize(true)).expect("opens");
        loader
            .save::<CausalLm>(&SaveConfig::new(&dense))
            .expect("saved");
        let mut module = Llama::new();
        module
            .load_from(&mut store(config(&packed)))
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
        assert_eq!(
            found(&module),
            expected(&dense.join("model.safetensors")),
            "{spec}"
        );
    }
}

/// A file of Burn: Burn alone reads it into its module, and it is the checkpoint that it was made from.
#[test]
fn files_of_burn_are_read_by_burn_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("burn");
    let saved = store(config(&MODEL.path("")))
        .save_burnpack(&to)
        .expect("saved");
    assert_eq!((saved.files, saved.made), (["model.bpk"], 20));
    let mut module = Llama::new();
    let mut burn =
        BurnpackStore::from_file(to.join("model.bpk")).with_from_adapter(PyTorchToBurnAdapter);
    let applied = module.load_from(&mut burn).expect("loads");
    assert!(
        applied.unused.is_empty() && applied.missing.is_empty(),
        "{applied}"
    );
    assert_eq!(found(&module), expected(&MODEL.path("model.safetensors")));
    is_the_model("a file of Burn", MODEL, || config(&to).into());

    // Packed weights are dense in it, and the configuration says nothing of them.
    let packed = folder.path().join("packed");
    let quantized = config(&MODEL.path("")).quant("nf4".parse().expect("a quantization"));
    let loader = Loader::<Cpu>::new(quantized).expect("opens");
    loader
        .save::<CausalLm>(&SaveConfig::new(&packed))
        .expect("saved");
    let dense = folder.path().join("dense");
    store(config(&packed)).save_burnpack(&dense).expect("saved");
    let mut burn =
        BurnpackStore::from_file(dense.join("model.bpk")).with_from_adapter(PyTorchToBurnAdapter);
    module.load_from(&mut burn).expect("loads");
    let mut of_store = Llama::new();
    of_store
        .load_from(&mut store(config(&packed)))
        .expect("loads");
    assert_eq!(found(&module), found(&of_store));
    Loader::<Cpu>::new(config(&dense))
        .expect("opens")
        .load::<CausalLm>()
        .expect("a dense model");

    let error = store(config(&packed))
        .save_burnpack(&dense)
        .expect_err("has files");
    assert!(matches!(error, StoreError::Folder { .. }), "{error:?}");
    let error =
        store(config(&golden("types.pt")).bare()).save_burnpack(folder.path().join("types"));
    assert!(matches!(error, Err(StoreError::Type { .. })), "{error:?}");
}

#[test]
fn names_are_remapped_and_filtered() {
    let store = || store(config(&MODEL.path("")));
    let mut body = Body::new();
    let mut renamed = store()
        .with_remap_pattern("^model\\.", "")
        .expect("a pattern");
    body.load_from(&mut renamed).expect("loads");
    assert!(
        renamed
            .keys()
            .expect("keys")
            .contains(&"norm.weight".to_owned())
    );
    let shape = &renamed
        .get_tensor("layers.0.mlp.up_proj.weight")
        .expect("opens")
        .expect("a tensor")
        .shape;
    assert_eq!(shape.to_vec(), [64, 40]);

    let mut llama = Llama::new();
    let filter = PathFilter::new().with_regex(r"\.norm\.");
    let applied = llama
        .load_from(&mut store().with_filter(filter))
        .expect("loads");
    assert_eq!(applied.applied, ["model.norm.weight"]);
    assert!(applied.skipped.len() > 10);

    let twice = store()
        .with_remap_pattern("layers\\.[01]", "layers.0")
        .expect("a pattern")
        .keys();
    assert!(matches!(twice, Err(StoreError::Twice { .. })), "{twice:?}");
    let none = store().with_remap_pattern("(", "");
    assert!(matches!(none, Err(StoreError::Pattern { .. })), "{none:?}");
}

#[derive(Module, Debug)]
struct More {
    model: Body,
    head: Linear,
}

#[test]
fn what_does_not_fit_is_an_error_by_name() {
    let store = || store(config(&MODEL.path("")));
    let mut more = More {
        model: Body::new(),
        head: Linear {
            weight: zeros([40, 320]),
        },
    };
    let error = more.load_from(&mut store()).expect_err("lacks a head");
    assert!(
        matches!(&error, StoreError::Missing { parameters } if parameters == &["head.weight"]),
        "{error:?}"
    );
    more.load_from(&mut store().allow_partial(true))
        .expect("loads");

    let mut fewer = Body::new();
    fewer.layers.pop();
    let renamed = || {
        store()
            .with_remap_pattern("^model\\.", "")
            .expect("a pattern")
    };
    fewer.load_from(&mut renamed()).expect("loads");
    let error = fewer
        .load_from(&mut renamed().allow_unused(false))
        .expect_err("takes one layer");
    let StoreError::Unused { tensors } = &error else {
        panic!("{error:?}");
    };
    assert!(
        tensors.len() == 9 && tensors.iter().all(|name| name.starts_with("layers.1.")),
        "{error}"
    );

    let mut other = Llama::new();
    other.model.norm.weight = zeros([41]);
    let error = other.load_from(&mut store()).expect_err("another shape");
    assert!(matches!(error, StoreError::Mismatch { .. }), "{error:?}");
    assert!(error.to_string().contains("model.norm.weight"), "{error}");
    // Without the adapter, linear weights are as in the file.
    let error = Llama::new()
        .load_from(&mut store().with_from_adapter(IdentityAdapter))
        .expect_err("is turned");
    assert!(error.to_string().contains("k_proj"), "{error}");

    let error = store().collect_from(&other).expect_err("is read");
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    for (asked, config) in [
        (
            "quantization",
            config(&MODEL.path("")).quant("nf4".parse().expect("a quantization")),
        ),
        (
            "quantization",
            config(&MODEL.path("")).rule("*=nf4".parse().expect("a rule")),
        ),
    ] {
        let error = Loader::<Cpu>::new(config)
            .expect("opens")
            .store()
            .expect_err("is dense");
        assert!(
            matches!(error, StoreError::Asked { .. }) && error.to_string().contains(asked),
            "{error}"
        );
    }
}

#[derive(Module, Debug)]
struct OfTypes {
    of: TypesIn,
}

#[derive(Module, Debug)]
struct TypesIn {
    float8_e4m3fn: Param<Tensor<2>>,
    float64: Param<Tensor<2>>,
}

#[test]
fn types_that_burn_lacks_are_named() {
    let mut store = store(config(&golden("types.pt")).bare());
    let types: Vec<DType> = store
        .get_all_tensors()
        .expect("tensors")
        .values()
        .map(|tensor| tensor.dtype)
        .collect();
    assert_eq!(types.len(), 13, "{types:?}");
    let mut module = OfTypes {
        of: TypesIn {
            float8_e4m3fn: zeros([2, 3]),
            float64: zeros([2, 3]),
        },
    };
    let error = module
        .load_from(&mut store)
        .expect_err("Burn has no such type");
    assert_eq!(
        error.to_string(),
        "of.float8_e4m3fn: is F8_E4M3, which Burn does not have"
    );
}

#[test]
fn a_source_that_fails_is_the_error() {
    let read = |file: &str| fs::read(MODEL.path(file)).expect("a golden file");
    let memory = Memory::new().with("config.json", &read("config.json")[..]);
    let memory = Arc::new(memory.with("model.safetensors", &read("model.safetensors")[..]));
    let request = LoadRequest::from(LoadConfig::new("memory")).source(memory.clone());
    let mut store = store(request);
    memory.fault("model.safetensors", Fault::FailFrom(50_000));
    let error = Llama::new().load_from(&mut store).expect_err("fails");
    let StoreError::Read { tensor, source } = &error else {
        panic!("{error:?}");
    };
    assert!(
        tensor.starts_with("model.") && error.to_string().contains("model.safetensors"),
        "{error}"
    );
    let of_source = std::error::Error::source(&**source).is_some()
        || matches!(**source, Error::Source(SourceError::Io { .. }));
    assert!(of_source, "{source:?}");
    memory.heal();
    let mut module = Llama::new();
    module.load_from(&mut store).expect("loads");
    assert_eq!(found(&module), expected(&MODEL.path("model.safetensors")));
}
