//! Makes code of the graph.

use burn_onnx::{LoadStrategy, ModelGen};

fn main() {
    ModelGen::new()
        .input("model/classifier.onnx")
        .out_dir("model/")
        // Weights come from elsewhere; those of the graph are written beside the code all the same.
        .load_strategy(LoadStrategy::None)
        .run_from_script();
}
