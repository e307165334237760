//! Loaded models in training code: records, gradients, adapters.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod burns;
mod estimate;
mod graphs;
mod loss;
mod optimizer;
mod peft;
mod ranks;
mod records;
mod run;
mod saved;
mod several;
mod steps;
mod text;
mod trained;
mod types;
