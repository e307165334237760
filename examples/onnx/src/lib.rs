//! A graph of ONNX as a module of Burn, whose weights firebox fills.
//!
//! `build.rs` makes a module of `model/classifier.onnx`: ordinary code for Burn with a `forward`. Its parameters are named after the
//! operations of the graph, and the tensors of the checkpoint after the modules in Python.

use burn::tensor::Device;
use burn_store::ModuleSnapshot;
use firebox::{Cpu, LoadConfig, Loader};

/// What the importer made.
#[allow(missing_docs, clippy::all, reason = "made by burn-onnx")]
pub mod classifier {
    include!(concat!(env!("OUT_DIR"), "/model/classifier.rs"));
}

pub use classifier::Model;

/// Weights that the importer found in the graph.
pub const IN_GRAPH: &str = concat!(env!("OUT_DIR"), "/model/classifier.bpk");

/// The modules of the Python program, and the operations that became of them.
const NAMES: [(&str, &str); 4] = [
    ("^first\\.", "linear1."),
    ("^second\\.", "linear2."),
    ("^classes\\.", "linear3."),
    ("^norm\\.", "layernormalization1."),
];

/// The module with the weights of a checkpoint: of any container, dense or packed.
///
/// # Errors
///
/// [`StoreError`](firebox::StoreError) where the checkpoint lacks a weight, or has one of another shape.
pub fn filled(config: LoadConfig) -> Result<Model, Box<dyn std::error::Error>> {
    let mut store = Loader::<Cpu>::new(config.dtype(firebox::DType::F32))?.store()?;
    for (python, graph) in NAMES {
        store = store.with_remap_pattern(python, graph)?;
    }
    let mut model = Model::new(&Device::default());
    model.load_from(&mut store.allow_unused(false))?;
    Ok(model)
}
