//! What end-to-end tests and benchmarks share: real processes, certificates, clients, load.
//!
//! In reading order: [`process`] (one child process and its log), [`client`] (connections), [`group`] (a placement service of several
//! replicas), [`fleet`] (clusters, and requests that fill them), [`etcd`] (the peer of some benchmarks), [`load`]
//! (a closed loop of clients and what it measured), [`sync`] (whether a process
//! syncs), [`http`] (probes), [`folder`] (a data folder as large as wanted).

pub mod process;
pub mod client;
pub mod group;
pub mod fleet;
pub mod etcd;
pub mod load;
pub mod sync;
pub mod folder;
pub mod http;
