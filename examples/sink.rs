//! A strategy of one's own: a [`Sink`] that takes finished weights, and the order it wants them in. This one keeps the
//! packed weights of a model in a map on the host, the largest first.
//!
//! ```console
//! $ cargo run --example sink -- assets/tinyrust
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::HashMap;

use firebox::{
    Cpu, LoadConfig, Loader,
    model::CausalLm,
    pipeline::{Finished, Sink, SinkError},
    plan::{Order, Step},
    quant::kernels::format::Packed,
};

#[derive(Default)]
struct Shelf(HashMap<String, Packed>);

impl Sink for Shelf {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        if let Finished::Packed(packed) = weight {
            println!("{:>8} bytes  {}", packed.bytes(), step.slot.name);
            self.0.insert(step.slot.name.clone(), packed);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    let model = model.unwrap_or_else(|| "assets/tinyrust".to_owned());
    let loader = Loader::<Cpu>::new(LoadConfig::new(model).quant("nf4".parse()?))?;
    let largest_first = Order::by(|a, b| b.bytes_finished().cmp(&a.bytes_finished()));
    let mut shelf = Shelf::default();
    let report = loader.run_with::<CausalLm>(&largest_first, &mut shelf)?;
    println!("{} of {} weights kept", shelf.0.len(), report.tensors);
    Ok(())
}
