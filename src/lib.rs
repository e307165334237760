//! firebox
pub mod model;
pub mod quant;
pub mod report;
pub mod target;
