//! Weights that are not on the device until a product needs them.
//!
//! ```text
//!  host memory ─┐                ┌─ ring: at most `prefetch` weights ─┐
//!               ├─► own thread ──┤  [next] [the one after]            ├─► product ─► freed
//!  a file ──────┘                └────────────────────────────────────┘
//!                  the order is that of the last pass, backward passes too
//! ```
//!
//! No order foretells which experts a token goes through. Those are fetched when they are needed, and stay on the device
//! until others need their room.
//!
//! Reading order: the bytes where they stay ([`StreamFrom`](crate::config::StreamFrom)) → an entry, which makes tensors of
//! them → the [`Ring`], which brings entries to a device → the [`StreamedWeight`] in a module.

mod shelf;

mod entry;

mod recent;
mod stats;

mod ring;

mod weight;

pub(crate) use entry::StreamedBytes;
pub use ring::Ring;
pub(crate) use ring::RingLimits;
pub(crate) use shelf::{Shelf, Shelved};
pub use stats::{StreamStats, StreamTally};
pub(crate) use weight::HeldWeight;
pub use weight::StreamedWeight;
