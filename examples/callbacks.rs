//! Watches a load through callbacks, and cancels a second one half way.
//!
//! ```console
//! $ cargo run --example callbacks -- assets/tinyrust
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::atomic::{AtomicUsize, Ordering};

use firebox::{
    Cpu, LoadConfig, Loader,
    model::CausalLm,
    pipeline::{Event, Flow},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "assets/tinyrust".to_owned());

    let watched = LoadConfig::new(&model)
        .quant("nf4".parse()?)
        .observer(|event: &Event<'_>| {
            match event {
                Event::Planned { plan } => println!("{} tensors planned", plan.steps.len()),
                Event::Packed { step, seconds } => {
                    println!(
                        "{:6.2} ms  {} as {}",
                        seconds.as_secs_f64() * 1e3,
                        step.slot.name,
                        step.quant()
                    );
                }
                _ => {}
            }
            Flow::Continue
        });
    let loaded = Loader::<Cpu>::new(watched)?.load::<CausalLm>()?;
    println!("\n{}\n", loaded.report);

    let placed = AtomicUsize::new(0);
    let impatient = LoadConfig::new(&model).observer(move |event: &Event<'_>| match event {
        Event::Placed { .. } if placed.fetch_add(1, Ordering::Relaxed) == 9 => Flow::Cancel,
        _ => Flow::Continue,
    });
    match Loader::<Cpu>::new(impatient)?.load::<CausalLm>() {
        Ok(_) => Err("nobody cancelled".into()),
        Err(cancelled) => {
            println!("{cancelled}");
            Ok(())
        }
    }
}
