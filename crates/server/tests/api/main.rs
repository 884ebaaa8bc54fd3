//! The public API over mutual TLS on loopback, as a client meets it.

#![allow(clippy::unwrap_used)] // A test that cannot go on says so by its panic.

#[allow(dead_code)] // The tests of replicas use the rest.
#[path = "../replicas/harness.rs"]
mod harness;
mod world;

mod agents;
mod authorisation;
mod every_call;
mod fleet;
mod joining;
mod listing;
mod malformed;
mod placing;
mod streaming;
mod watching;
