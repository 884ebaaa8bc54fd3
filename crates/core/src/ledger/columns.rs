//! The ledger's numbers as the scan reads them: 16 bits each, side by side for 64 clusters.
//!
//! What is free is rounded down to steps of a fixed size and capped at 65,535 steps. Rounding is monotone: what fits exactly
//! also fits in steps, so that the scan never misses a cluster; what fits in steps only is found out by the exact check that
//! follows. The share is no approximation: a step is what the score compares.

use crate::cluster::ClusterState;
use crate::ledger::counts::Row;
use crate::ledger::site::Site;
use crate::ledger::{free, share_ppm};
use crate::pool::PoolPolicy;
use crate::resources::RESOURCE_COUNT;

/// Clusters in one block: a whole number of vector registers of every width, and one word of bits.
pub(crate) const BLOCK: usize = 64;

/// Columns of a block: every resource, then places for tenants.
pub(crate) const COLUMN_COUNT: usize = RESOURCE_COUNT + 1;

/// The column that counts places for tenants.
const SLOTS: usize = RESOURCE_COUNT;

/// Sizes of a step as powers of two: 16 millicores, 8 MiB of memory, one pod, 256 MiB of storage, one attachment. A tenant of an
/// ordinary size is many steps, and the cap of 65,535 steps is more than an ordinary tenant wants (1,048 cores, 512 GiB, 16 TiB).
const STEP_BITS: [u32; RESOURCE_COUNT] = [4, 23, 0, 28, 0];

/// Sixteen millionths: fine enough to tell one tenant of a thousand from none, and every share up to full fits in 16 bits.
pub(crate) const SHARE_STEP_PPM: u32 = 16;

/// Steps of a full cluster.
const FULL_STEPS: u32 = 1_000_000 / SHARE_STEP_PPM;

/// 64 clusters.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// What is free of each column, in steps; no places where the cluster takes nobody.
    pub(crate) free: [[u16; BLOCK]; COLUMN_COUNT],
    /// What the score compares last, the lower the better; exact for every cluster that is not overfull.
    pub(crate) key: [u16; BLOCK],
    /// Why it takes nobody, if so: a [`Closed`].
    pub(crate) closed: [u16; BLOCK],
    /// The most that is free of each column anywhere in the block.
    most: [u16; COLUMN_COUNT],
}

/// Why a cluster takes nobody, whoever asks. What comes before the tenant's company in the order of refusals is less than `TenantCap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Closed {
    /// It does take tenants.
    Not = 0,
    /// Its agent has yet to report since a restore.
    Fenced = 1,
    /// Cordoned.
    Cordoned = 2,
    /// Being emptied.
    Draining = 3,
    /// Its agent is silent.
    Silent = 4,
    /// Over a hard limit.
    Overfull = 5,
    /// At its tenant cap.
    TenantCap = 6,
    /// All of its shards are full.
    Shards = 7,
}

/// The first reason for which a cluster takes nobody.
fn closed(site: &Site, row: &Row) -> Closed {
    if site.fenced {
        return Closed::Fenced;
    }
    match site.state() {
        ClusterState::Cordoned => Closed::Cordoned,
        ClusterState::Draining => Closed::Draining,
        ClusterState::Silent => Closed::Silent,
        ClusterState::Overfull => Closed::Overfull,
        ClusterState::Active if is_overfull(site, row) => Closed::Overfull,
        ClusterState::Active if row.tenants >= site.spec.tenant_cap => Closed::TenantCap,
        ClusterState::Active if row.shard_room == 0 => Closed::Shards,
        ClusterState::Active => Closed::Not,
    }
}

impl Default for Block {
    fn default() -> Self {
        Self { free: [[0; BLOCK]; COLUMN_COUNT], key: [u16::MAX; BLOCK], closed: [Closed::Not as u16; BLOCK], most: [0; COLUMN_COUNT] }
    }
}

/// What a tenant wants of each column, in steps.
pub(crate) fn wanted_steps(wanted: [u64; RESOURCE_COUNT]) -> [u16; COLUMN_COUNT] {
    let mut steps = [1; COLUMN_COUNT];
    for (resource, wanted) in wanted.into_iter().enumerate() {
        steps[resource] = in_steps(resource, wanted);
    }
    steps
}

fn in_steps(resource: usize, amount: u64) -> u16 {
    u16::try_from(amount >> STEP_BITS[resource]).unwrap_or(u16::MAX)
}

/// Whether as many free steps as are wanted may yet be too little.
pub(crate) fn is_vague(resource: usize, wanted: u64) -> bool {
    let steps = in_steps(resource, wanted);
    steps == u16::MAX || u64::from(steps) << STEP_BITS[resource] != wanted
}

/// The share as the score compares it, in steps, the lower the better.
pub(crate) fn key(policy: PoolPolicy, share_ppm: u32) -> u16 {
    let steps = (share_ppm / SHARE_STEP_PPM).min(FULL_STEPS) as u16;
    match policy {
        PoolPolicy::Spread => steps,
        PoolPolicy::Pack => FULL_STEPS as u16 - steps,
    }
}

/// The share that a key stands for, in steps.
pub(crate) fn steps_of_key(policy: PoolPolicy, key: u16) -> u32 {
    match policy {
        PoolPolicy::Spread => u32::from(key),
        PoolPolicy::Pack => FULL_STEPS - u32::from(key),
    }
}

/// The greatest share of any limit that is used, in millionths.
pub(crate) fn dominant_share_ppm(site: &Site, row: &Row) -> u32 {
    let of_cap = share_ppm(u128::from(row.tenants), u64::from(site.spec.tenant_cap));
    row.used.into_iter().zip(site.limit).map(|(used, limit)| share_ppm(used, limit)).fold(of_cap, u32::max)
}

/// Whether a hard limit of the cluster or of one of its shards is crossed.
pub(crate) fn is_overfull(site: &Site, row: &Row) -> bool {
    row.tenants > site.spec.tenant_cap
        || row.shards_over > 0
        || row.used.into_iter().zip(site.limit).any(|(used, limit)| used > u128::from(limit))
}

impl Block {
    /// Takes over one cluster's numbers.
    pub(crate) fn put(&mut self, lane: usize, site: &Site, row: &Row) {
        for (resource, (used, limit)) in row.used.into_iter().zip(site.limit).enumerate() {
            self.set(resource, lane, in_steps(resource, free(used, limit)));
        }
        let closed = closed(site, row);
        let slots = if closed == Closed::Not { site.spec.tenant_cap.saturating_sub(row.tenants).min(row.shard_room) } else { 0 };
        self.closed[lane] = closed as u16;
        self.set(SLOTS, lane, u16::try_from(slots).unwrap_or(u16::MAX));
        self.key[lane] = key(site.policy, dominant_share_ppm(site, row));
    }

    /// Forgets a cluster.
    pub(crate) fn clear(&mut self, lane: usize) {
        (0..COLUMN_COUNT).for_each(|column| self.set(column, lane, 0));
    }

    fn set(&mut self, column: usize, lane: usize, steps: u16) {
        let before = std::mem::replace(&mut self.free[column][lane], steps);
        if steps >= self.most[column] {
            self.most[column] = steps;
        } else if before == self.most[column] {
            self.most[column] = self.free[column].iter().copied().fold(0, u16::max);
        }
    }

    /// Whether some cluster may have room: false if one thing is short everywhere.
    pub(crate) fn may_have(&self, wanted: &[u16; COLUMN_COUNT]) -> bool {
        wanted.iter().zip(&self.most).all(|(wanted, most)| wanted <= most)
    }
}
