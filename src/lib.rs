//! Loads language-model checkpoints into Burn.

pub mod source;
