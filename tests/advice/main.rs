//! What a user is told of a model that is not what its files say, and of words that mean nothing here: what is there, both
//! sides of what disagrees, and what to do.

#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod draft;

mod folders;
mod heads;
mod names;
mod sizes;
mod unfit;
mod words;
