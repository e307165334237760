//! Loads language-model checkpoints into Burn, quantizing them while they stream in.

pub mod tokenizer;

pub mod synth;
