//! Real Kubernetes for tests and benchmarks, out of parts that `cargo xtask setup` builds: no container from anywhere, nothing of it
//! outlives the test.
//!
//! In reading order: [`parts`] (where the programs are, and that they end with us), [`identity`] (certificates and kubeconfig files),
//! [`control_plane`] (etcd, an API server, the controllers, a scheduler), [`kwok`] (nodes and pods that are only
//! played), [`machine`] (what of this machine a cluster takes and gives back), [`whole`] (a cluster with a node and real pods).

mod parts;
mod identity;
mod control_plane;
mod kwok;
mod machine;
mod whole;

pub use control_plane::{ControlPlane, Options};
pub use kwok::{Kwok, NodeShape};
pub use whole::{GUEST_IMAGE, STORAGE_CLASS, WholeCluster};
