//! Loads a model, quantizing it on the way, and continues a text.
//!
//! ```console
//! $ cargo run --release --example generate -- assets/tinyrust nf4 "To create a new package, run"
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, io::Write, ops::ControlFlow};

use firebox::{
    Cpu, LoadConfig, Loader,
    model::{CausalLm, GenerateOptions, generate},
    text::SpecialTokens,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "assets/tinyrust".to_owned());
    let quant = args.next().unwrap_or_else(|| "nf4".to_owned());
    let prompt = args
        .next()
        .unwrap_or_else(|| "To create a new package, run".to_owned());

    // The target is a type: with another one in this line, the same program runs elsewhere.
    let loader = Loader::<Cpu>::new(LoadConfig::new(model).quant(quant.parse()?))?;
    let tokenizer = loader.tokenizer()?;
    let loaded = loader.load::<CausalLm>()?;

    let ids = tokenizer.encode(&prompt, SpecialTokens::Include)?;
    let options = GenerateOptions {
        max_new_tokens: 64,
        stop_ids: tokenizer.eos_ids().to_vec(),
        ..GenerateOptions::default()
    };
    print!("{prompt}");
    let mut text = tokenizer.stream(SpecialTokens::Omit);
    generate(&loaded.model, &ids, &options, |id| {
        // Ids end in the middle of characters; the stream hands out whole ones.
        if let Ok(Some(characters)) = text.push(id) {
            print!("{characters}");
            let _ = std::io::stdout().flush();
        }
        ControlFlow::Continue(())
    })?;
    println!("{}\n\n{}", text.finish()?, loaded.report);
    Ok(())
}
