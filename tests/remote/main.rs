//! Models that are not on this machine: object stores and web servers, their faults, and what is written there.

#![cfg(all(feature = "cpu", feature = "hub", feature = "remote"))]

#[path = "../common/file_server.rs"]
mod file_server;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/loopback.rs"]
mod loopback;
#[path = "../common/proxy.rs"]
mod proxy;
#[path = "../common/s3.rs"]
mod s3;

mod servers;

mod models;

mod faults;
#[cfg(feature = "store")]
mod modules;
mod reading;
mod requests;
