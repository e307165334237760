//! Prints what a load would do with every tensor, without reading a weight.
//!
//! ```console
//! $ cargo run --example print_plan -- assets/tinyrust
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use firebox::{Cpu, LoadConfig, Loader, config::Bytes, model::CausalLm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "assets/tinyrust".to_owned());
    let config = LoadConfig::new(model)
        .quant("nf4:nested".parse()?)
        // The first rule that matches wins; heads and embeddings change only by a rule.
        .rule("*.down_proj=fp8:e4m3,scale=channel".parse()?)
        .rule("role:embedding=fp8:e4m3,scale=channel".parse()?)
        .skip("model.layers.0".parse()?);

    // A plan is a value: it prints, serialises, and can be asked.
    let plan = Loader::<Cpu>::new(config)?.plan::<CausalLm>()?;
    println!("{plan}");
    let largest = plan.steps.iter().max_by_key(|step| step.bytes_finished());
    if let Some(step) = largest {
        println!(
            "largest: {} with {}",
            step.slot.name,
            Bytes(step.bytes_finished())
        );
    }
    Ok(())
}
