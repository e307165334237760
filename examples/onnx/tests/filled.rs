//! The imported graph answers what torch answers, with weights of any container, and nearly that with packed ones.

use std::{fs, path::Path};

use burn::tensor::{Device, Tensor, TensorData};
use firebox::{Cpu, LoadConfig, Loader, SaveConfig};
use firebox_onnx::{Model, filled};
use safetensors::SafeTensors;

fn model(file: &str) -> String {
    format!("{}/model/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Values of a tensor of the answers, and its sides.
fn answer(name: &str) -> (Vec<f32>, [usize; 2]) {
    let bytes = fs::read(model("answers.safetensors")).expect("answers");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = tensors.tensor(name).expect("an answer");
    let values = view
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
    (values.collect(), [view.shape()[0], view.shape()[1]])
}

/// The root of the mean squared difference between the module and torch, and the largest difference.
fn off(module: &Model) -> [f32; 2] {
    let (values, sides) = answer("x");
    let input = Tensor::<2>::from_data(TensorData::new(values, sides), &Device::default());
    let found = module
        .forward(input)
        .into_data()
        .try_into_vec::<f32>()
        .expect("floats");
    let (expected, _) = answer("y");
    assert_eq!(found.len(), expected.len());
    let differences = found
        .iter()
        .zip(&expected)
        .map(|(found, expected)| (found - expected).abs());
    let squares: f32 = differences
        .clone()
        .map(|difference| difference * difference)
        .sum();
    [
        (squares / found.len() as f32).sqrt(),
        differences.fold(0.0, f32::max),
    ]
}

#[test]
fn weights_of_a_file_of_pytorch_fill_the_graph() {
    let [_, largest] = off(&filled(LoadConfig::new(model("classifier.pt")).bare()).expect("fills"));
    assert!(largest <= 1e-5, "{largest}");
    // The weights in the graph itself are others.
    let graph = firebox_onnx::IN_GRAPH;
    assert!(Path::new(graph).is_file(), "{graph}");
}

#[test]
fn packed_weights_fill_the_graph() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first matrix has 16 columns, fewer than a group of MLX.
    for (spec, packed, limit) in [
        ("nf4:block=64", &["first*", "second*"][..], 0.2),
        ("mlx:bits=8,group=32", &["second*"], 0.02),
        ("fp8:e4m3,scale=channel", &["first*", "second*"], 0.1),
    ] {
        let config = LoadConfig::new(model("classifier.pt")).bare();
        let config = config.quant(spec.parse().expect("a quantization"));
        let to = folder.path().join(spec);
        let loader = Loader::<Cpu>::new(config).expect("opens");
        let packed: Vec<_> = packed
            .iter()
            .map(|pattern| pattern.parse().expect("a pattern"))
            .collect();
        let saved = loader.save_tensors(&packed, &SaveConfig::new(&to));
        saved.expect("saved");
        let [mean, _] = off(&filled(LoadConfig::new(to.display().to_string())).expect("fills"));
        assert!(mean > 0.0 && mean <= limit, "{spec}: {mean}");
    }
}

/// What the importer wrote is a checkpoint too.
#[test]
fn weights_of_the_graph_are_a_checkpoint() {
    let checkpoint = LoadConfig::new(firebox_onnx::IN_GRAPH)
        .bare()
        .open()
        .expect("opens");
    assert_eq!(checkpoint.catalog().len(), 8);
}
