//! Models in object stores and behind plain HTTP, read without a copy on disk.
//!
//! ```text
//! address + environment ─► store (object_store) ─► service ─► line (ureq) ─► the network
//!                            │                      waits        redirects
//! Remote: sizes, headers, ranges; each file pinned by its first answer
//! ```
//!
//! # What is `object_store`'s, and what is not
//!
//! `object_store` knows the stores: addresses, signatures, tokens and their renewal, lists, uploads. Requests are sent by `ureq`, which
//! the hub needs too; so there is one HTTP client and one implementation of TLS in the program, redirects are followed by rules that
//! are written down here, and what a server asks for (`Retry-After`) is done. Reads are resumed here: `object_store` gives up after
//! a time that a slow line needs for one range.
//!
//! # In this folder
//!
//! the source; addresses; the store of an address, and profiles of keys; requests and redirects; answers; failures; what is secret; waits; the cache; whole
//! objects, and uploads in parts.

mod address;

mod body;

mod cache;

mod explain;

mod failure;

mod line;

mod profile;

pub(crate) mod runtime;

mod secrets;

mod service;

pub(crate) mod store;

mod file;

mod waits;

mod object;

mod upload;

mod source;

mod builder;

pub use builder::RemoteBuilder;
pub(crate) use object::ObjectState;
pub use source::Remote;
pub(crate) use store::RemoteStore;
pub(crate) use upload::{PART, SENDING, Upload, part_bytes};
