//! Loads a module of your own, which is not a Llama: a classifier over pooled embeddings.
//!
//! An [`Architecture`] says which tensors it wants (`slots`) and how they become a module (`build`).
//! Reading, rules, quantization, budget and report come with it.
//!
//! ```console
//! $ cargo run --example own_module
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData, activation::gelu},
};
use firebox::{
    Cpu, LoadConfig, Loader,
    model::{Architecture, BuildError, ConfigError, Embedding, Linear, Role, Slot, Weights},
    source::Memory,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

/// `v` vocabulary, `f` features, `c` classes.
#[derive(Module, Debug)]
struct Classifier {
    /// `[v, f]`.
    tokens: Embedding,
    /// `[f]`.
    shift: Param<Tensor<1>>,
    /// `[f, f]`, dense or packed: `forward` is the same.
    hidden: Linear,
    /// `[c, f]`.
    classes: Linear,
}

#[derive(Debug, Clone)]
struct Sizes {
    vocabulary: usize,
    features: usize,
    classes: usize,
}

impl Architecture for Classifier {
    type Config = Sizes;

    fn config(json: &Value) -> Result<Sizes, ConfigError> {
        let size = |field: &str| {
            let found = json[field]
                .as_u64()
                .and_then(|size| usize::try_from(size).ok());
            found.ok_or_else(|| ConfigError::Missing {
                field: field.to_owned(),
            })
        };
        Ok(Sizes {
            vocabulary: size("vocab_size")?,
            features: size("hidden_size")?,
            classes: size("num_labels")?,
        })
    }

    fn slots(sizes: &Sizes) -> Vec<Slot> {
        let Sizes {
            vocabulary,
            features,
            classes,
        } = *sizes;
        vec![
            Slot::new("tokens.weight", [vocabulary, features], Role::Embedding),
            Slot::new("shift", [features], Role::Other),
            Slot::linear("hidden.weight", features, features),
            Slot::bias("hidden.bias", features),
            Slot::new("classes.weight", [classes, features], Role::Head),
        ]
    }

    fn build(_sizes: &Sizes, weights: &mut Weights) -> Result<Self, BuildError> {
        Ok(Self {
            tokens: weights.embedding("tokens")?,
            shift: weights.param("shift")?,
            hidden: weights.linear("hidden")?,
            classes: weights.linear("classes")?,
        })
    }
}

impl Classifier {
    /// `ids` `[b, t]` to scores `[b, c]`.
    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let pooled = self.tokens.forward(ids).mean_dim(1).squeeze_dim(1);
        let hidden = gelu(self.hidden.forward(pooled + self.shift.val().unsqueeze()));
        self.classes.forward(hidden)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = LoadConfig::default()
        .quant("nf4".parse()?)
        .rule("role:embedding=fp8:e4m3,scale=channel".parse()?)
        .source(Arc::new(checkpoint()?));
    let loader = Loader::<Cpu>::new(config)?;
    println!("{}\n", loader.plan::<Classifier>()?);

    let loaded = loader.load::<Classifier>()?;
    let ids = TensorData::new(vec![3, 1, 4, 1, 5, 9, 2, 6], [2, 4]);
    let scores = loaded
        .model
        .forward(Tensor::from_data(ids, loader.device()));
    println!("scores {:?}\n{scores}\n{}", scores.dims(), loaded.report);
    Ok(())
}

/// A checkpoint in memory; yours would be a folder or lie on the hub.
fn checkpoint() -> Result<Memory, safetensors::SafeTensorError> {
    let (vocabulary, features, classes) = (100, 64, 5);
    let shapes: [(&str, Vec<usize>); 5] = [
        ("tokens.weight", vec![vocabulary, features]),
        ("shift", vec![features]),
        ("hidden.weight", vec![features, features]),
        ("hidden.bias", vec![features]),
        ("classes.weight", vec![classes, features]),
    ];
    let bytes: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let len = shape.iter().product::<usize>();
            (0..len)
                .flat_map(|index| (index as f32 * 0.7).sin().to_le_bytes())
                .collect()
        })
        .collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
    });
    let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
    let config = json!({
        "model_type": "classifier",
        "vocab_size": vocabulary,
        "hidden_size": features,
        "num_labels": classes,
    });
    Ok(Memory::new()
        .with("config.json", config.to_string())
        .with("model.safetensors", safetensors::serialize(views, None)?))
}
