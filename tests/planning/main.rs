//! Plans for machines that are not here, and what is recommended for them: headers alone, no weights.

#![cfg(feature = "cpu")]

mod fixtures;
mod reading;
mod recommended;
mod stated;
