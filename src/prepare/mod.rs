//! Weights are looked at before they are packed: columns are balanced, methods are chosen by their measured errors.

mod balance;

mod choose;
mod measure;

pub(crate) use balance::balance;
pub(crate) use measure::{PrepareError, SizeLimit, candidates, decide};
