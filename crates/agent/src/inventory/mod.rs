//! What a Kubernetes cluster truly holds, told from watches: what there is, what others than the tenants counted here use, and what may
//! still be added.
//!
//! In reading order: [`mod@quantity`] and [`mod@requests`] (what is asked for), [`mod@slim`] (what is read of each kind of object),
//! [`mod@growth`] (autoscaled groups), [`mod@tally`] (the sums, pure), [`mod@telling`] (when something is told), [`mod@watches`] (the API
//! server).

mod quantity;
mod requests;
mod slim;
mod growth;
mod tally;
mod telling;
mod watches;

use std::collections::BTreeMap;

pub use growth::{Group, Growth};
pub use tally::{Census, ClassStorage, Options, UNLIMITED_ATTACHMENTS, UNLIMITED_STORAGE};
pub use telling::{GAP, SETTLE};
pub use watches::Inventory;

use crate::interpreter::ClusterFacts;

/// What a cluster holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// What the placement service is told.
    pub facts: ClusterFacts,
    /// Nodes, by zone, taint and pressure.
    pub census: Census,
    /// Storage by StorageClass.
    pub storage: BTreeMap<Box<str>, ClassStorage>,
    /// What autoscaled groups may still add: not part of the capacity.
    pub growth: Growth,
}
