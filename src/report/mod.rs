//! Report
pub mod memory;
