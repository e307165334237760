//! Fills a graph of ONNX with the weights of a file of PyTorch.
//!
//! ```console
//! $ cargo run --manifest-path examples/onnx/Cargo.toml
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use burn::tensor::{Device, Tensor};
use firebox::LoadConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1);
    let file = file
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/model/classifier.pt").to_owned());
    let model = firebox_onnx::filled(LoadConfig::new(file).bare())?;
    println!("{model}");
    let input = Tensor::<2>::ones([1, 16], &Device::default());
    println!("{}", model.forward(input));
    Ok(())
}
