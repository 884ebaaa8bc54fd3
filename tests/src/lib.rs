//! What end-to-end tests and benchmarks share: real processes, certificates, clients, load.
//!
//! In reading order: [`process`] (one child process and its log), [`client`] (connections), [`raw`] (those below gRPC), [`group`] (a
//! placement service of several replicas), [`pki`] (odd certificates), [`cli`] (its operator), [`fleet`] (clusters, and requests that fill
//! them), [`agent`] (what a cluster tells), [`tenants`] (what was acknowledged), [`disk`] (one that is small), [`etcd`] (the peer of some
//! benchmarks), [`load`] (a closed loop of clients and what it measured), [`sync`] (whether a process syncs), [`http`] (probes),
//! [`folder`] (a data folder as large as wanted), [`testbed`] (real Kubernetes).

pub mod process;
pub mod client;
pub mod raw;
pub mod group;
pub mod pki;
pub mod cli;
pub mod fleet;
pub mod agent;
pub mod tenants;
pub mod disk;
pub mod etcd;
pub mod load;
pub mod sync;
pub mod folder;
pub mod http;
pub mod testbed;
