//! Replicas in one process, with real logs, real snapshots and mutual TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod certificates;
mod harness;
mod members;
mod placing;
mod stopping;
