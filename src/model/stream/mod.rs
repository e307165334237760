//! Weights that are not on the device until a product needs them.
//!
//! ```text
//!  host memory ─┐                ┌─ ring: at most `prefetch` weights ─┐
//!               ├─► own thread ──┤  [next] [the one after]            ├─► product ─► freed
//!  a file ──────┘                └────────────────────────────────────┘
//!                  what comes next is what came next the last time, backward passes too
//! ```
//!
//! Reading order: where bytes stay ([`StreamFrom`](crate::config::StreamFrom)) → the [`Ring`] of those on their way → the
//! [`StreamedWeight`] in a module.

mod shelf;

mod ring;

mod weight;

pub(crate) use ring::RingLimits;
pub use ring::{Ring, StreamStats};
pub(crate) use shelf::Shelf;
pub(crate) use weight::Kept;
pub use weight::StreamedWeight;
