//! The frame of the source: which file may import which, and that a name of a type means one thing.

#![allow(
    clippy::print_stdout,
    reason = "the count of circles is what the test reports"
)]

mod imports;
mod names;
mod scan;
