//! Tools that know no format: floats and their rounding, vectors of sixteen, sums in PyTorch's order, codes in words, and
//! launching kernels.
//!
//! `halves` → `lanes` → [`float`] → [`number`] → [`pack`]; [`reduce`], `whole`, `exp`, [`checksum`]; for devices
//! `exact` and `launch`.

pub mod checksum;
#[cfg(feature = "cube")]
pub(crate) mod exact;
pub(crate) mod exp;
pub mod float;
pub(crate) mod halves;
pub(crate) mod lanes;
#[cfg(feature = "cube")]
pub mod launch;
pub mod number;
pub mod pack;
pub mod reduce;
pub(crate) mod whole;
