//! Starts a load, shows how far it is while it runs, and awaits the model.
//!
//! ```console
//! $ cargo run --example start -- assets/tinyrust
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, thread, time::Duration};

use firebox::{Cpu, LoadConfig, Loader, config::Bytes, model::CausalLm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = env::args()
        .nth(1)
        .unwrap_or_else(|| "assets/tinyrust".to_owned());
    let config = LoadConfig::new(model).quant("nf4".parse()?);

    // Dropping the handle would cancel the load; in async code it can be awaited instead.
    let loading = Loader::<Cpu>::new(config)?.start::<CausalLm>();
    while !loading.is_finished() {
        let progress = loading.progress();
        println!(
            "{:3.0} %  {:>10}  {:2} of {:2}  {}",
            100.0 * progress.fraction(),
            Bytes(progress.bytes).to_string(),
            progress.tensors,
            progress.tensors_total,
            progress.current.unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(5));
    }
    let loaded = loading.wait()?;
    println!("{}", loaded.report);
    Ok(())
}
