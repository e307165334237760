//! A save that is interrupted, anywhere and by anything, goes on: what it had finished is neither read nor packed again,
//! and the files come out as if nothing had happened.
//!
//! Expectations are the files of a save that was not interrupted, and what the journal said before.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/tiny.rs"]
mod tiny;

#[cfg(feature = "hub")]
#[path = "../common/http.rs"]
mod http;
#[cfg(feature = "hub")]
#[path = "../common/loopback.rs"]
mod loopback;

mod changed;
mod complete;
mod everywhere;
mod files;
mod interrupted;
mod kept;
mod moving;
mod refused;
mod watched;
