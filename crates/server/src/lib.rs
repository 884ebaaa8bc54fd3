//! A replica's I/O: everything around the pure crates.
//!
//! Modules in reading order: [`server`] (a replica, started and stopped), [`config`], [`lifecycle`] (its data folder), [`handle`] (what
//! services know of their replica), [`driver`] (the thread that owns it), [`log`] (entries and hard state on disk), [`snapshots`] (the state
//! on disk), [`backup`], `peers` (the other replicas), [`identity`] (who calls), [`tls`], [`issuer`] (agents' certificates), [`listener`], [`metrics`], `probes`.
//! Then the API: [`auth`] (who may call what), [`convert`] (between the wire and the core), [`errors`], [`filter`] and [`pages`]
//! (of listings), [`watch`] (what changes), [`services`] (the API itself).

pub mod server;
pub mod config;
pub mod lifecycle;
pub mod handle;
pub mod driver;
mod peers;
pub mod questions;
pub mod identity;
pub mod tls;
pub mod issuer;
pub mod listener;
pub mod metrics;
mod probes;
pub mod log;
pub mod snapshots;
pub mod backup;

pub mod auth;
pub mod errors;
pub mod convert;
pub mod filter;
pub mod pages;
pub mod watch;
pub mod services;
