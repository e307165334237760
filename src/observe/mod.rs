//! Events of a load, who gets them, and how they stop it.
//!
//! ```text
//! Planned ─► per tensor: ShardOpened? Started Read* Packed Placed Verified? ─► Finished
//! ```
//!
//! [`Download`](Event::Download) comes before `Planned` where the hub has to be asked, and so does
//! [`Measured`](Event::Measured) where formats are chosen by their errors. [`Balanced`](Event::Balanced) comes after it.
//!
//! | observer | how |
//! |---|---|
//! | a closure | [`LoadConfig::observer`](crate::LoadConfig::observer) |
//! | a file of JSON lines | [`JsonLines`] |
//! | a bar, a handle | [`Progress`], fed by an observer |
//! | `tracing` | always: debug level, tiles at trace level, target `firebox::observe` |

mod event;
mod json_lines;
mod output_file;
mod progress;
mod shards;
mod span;
mod tell;
mod trace;

pub use event::{Event, Flow, Observer, RunTotals};
pub use json_lines::JsonLines;
pub(crate) use output_file::write_by_part;
pub use output_file::{check_replace, write_whole};
pub use progress::Progress;
pub(crate) use shards::Shards;
pub(crate) use span::extend;
pub use span::{Span, Spans};
pub(crate) use tell::{Failure, Observers, Stopped, tell};
