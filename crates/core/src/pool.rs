//! Pools: clusters that are interchangeable for policy, in an order, with a price.

use serde::{Deserialize, Serialize};

use crate::id::{Name, Revision};

/// Owned or billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// Owned machines.
    Home,
    /// Public cloud, billed.
    Burst,
}

/// How tenants are laid over the clusters of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolPolicy {
    /// The emptiest first (least dominant share).
    Spread,
    /// Where the largest pod leaves least over on its node (as far as nodes are reported), of equal ones the fullest (greatest dominant share).
    Pack,
}

/// What an operator declares of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Name.
    pub name: Name,
    /// Owned or billed.
    pub kind: PoolKind,
    /// Pools are tried in ascending order; equal ones are told apart by price, then name.
    pub order: u32,
    /// Price of one tenant-hour, in millionths of the fleet's currency.
    pub price_micros: u64,
    /// Spread or pack.
    pub policy: PoolPolicy,
}

/// A pool as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What was declared.
    pub spec: PoolSpec,
    /// When it was created.
    pub created: Revision,
    /// When it was last changed.
    pub changed: Revision,
}
