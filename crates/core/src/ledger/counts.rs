//! What is counted in each cluster and each shard: plain numbers in dense arrays.

use crate::cluster::ClusterSpec;
use crate::id::{ClusterId, ShardId};
use crate::resources::RESOURCE_COUNT;

/// One cluster's sums. Wider than a quantity, so that no sum of facts overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Resources.
    pub(crate) used: [u128; RESOURCE_COUNT],
    /// Tenants.
    pub(crate) tenants: u32,
    /// Tenants that its shards may still take, those not yet opened included.
    pub(crate) shard_room: u32,
    /// Shards that hold more than they may.
    pub(crate) shards_over: u32,
    /// Where its shards begin in the common array, and how many have a place there.
    start: u32,
    len: u32,
}

/// All clusters' sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    rows: Vec<Row>,
    shards: Vec<u32>,
}

/// Places in the common array that a cluster gets at first: as many shards as the default caps need.
const FIRST_SHARDS: u32 = 10;

/// The limits that shards have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardLimits {
    /// Tenants in one.
    pub(crate) cap: u32,
    /// How many there may be.
    pub(crate) max: u16,
}

impl ShardLimits {
    /// A cluster's.
    pub(crate) fn of(spec: &ClusterSpec) -> Self {
        Self { cap: spec.shard_cap, max: spec.max_shards }
    }

    fn cap_of(self, shard: ShardId) -> u32 {
        if shard.0 < self.max { self.cap } else { 0 }
    }
}

impl Counts {
    /// A cluster's sums; all zero if nothing was ever counted in it.
    pub(crate) fn row_ref(&self, cluster: ClusterId) -> &Row {
        const NOTHING: &Row = &Row { used: [0; RESOURCE_COUNT], tenants: 0, shard_room: 0, shards_over: 0, start: 0, len: 0 };
        self.rows.get(cluster.row()).unwrap_or(NOTHING)
    }

    /// Tenants of each shard that has ever held one.
    pub(crate) fn shards(&self, cluster: ClusterId) -> &[u32] {
        self.rows.get(cluster.row()).map_or(&[], |row| &self.shards[row.start as usize..(row.start + row.len) as usize])
    }

    /// All rows, by cluster number.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (ClusterId, &Row)> {
        (0..).map(ClusterId).zip(&self.rows)
    }

    /// Makes a row for a cluster and works out its shards' room under new limits.
    pub(crate) fn relimit(&mut self, cluster: ClusterId, limits: ShardLimits) {
        self.row_mut(cluster);
        let (mut taken, mut over) = (0_u64, 0);
        for (shard, count) in self.shards(cluster).iter().enumerate() {
            let cap = limits.cap_of(ShardId(shard as u16));
            taken += u64::from((*count).min(cap));
            over += u32::from(*count > cap);
        }
        let room = u64::from(limits.cap) * u64::from(limits.max) - taken;
        let row = self.row_mut(cluster);
        row.shard_room = u32::try_from(room).unwrap_or(u32::MAX);
        row.shards_over = over;
    }

    /// A cluster's sums, to be changed.
    pub(crate) fn row_mut(&mut self, cluster: ClusterId) -> &mut Row {
        if self.rows.len() <= cluster.row() {
            self.rows.resize(cluster.row() + 1, Row::default());
        }
        &mut self.rows[cluster.row()]
    }

    /// One tenant more in a shard.
    pub(crate) fn enter(&mut self, cluster: ClusterId, shard: ShardId, limits: ShardLimits) {
        self.reserve(cluster, shard);
        let row = &mut self.rows[cluster.row()];
        let count = &mut self.shards[row.start as usize + usize::from(shard.0)];
        let cap = limits.cap_of(shard);
        if *count < cap {
            row.shard_room -= 1;
        } else if *count == cap {
            row.shards_over += 1;
        }
        *count += 1;
        row.tenants += 1;
    }

    /// One tenant less in a shard.
    pub(crate) fn leave(&mut self, cluster: ClusterId, shard: ShardId, limits: ShardLimits) {
        const COUNTED: &str = "a tenant leaves the shard that it was counted in";
        self.reserve(cluster, shard);
        let row = &mut self.rows[cluster.row()];
        let count = &mut self.shards[row.start as usize + usize::from(shard.0)];
        *count = count.checked_sub(1).expect(COUNTED);
        let cap = limits.cap_of(shard);
        if *count < cap {
            row.shard_room += 1;
        } else if *count == cap {
            row.shards_over -= 1;
        }
        row.tenants = row.tenants.checked_sub(1).expect(COUNTED);
    }

    /// Moves a cluster's shards to the end of the common array if this one has no place yet; the old places are lost, but
    /// each move at least doubles them, so that less than half of the array is ever lost.
    fn reserve(&mut self, cluster: ClusterId, shard: ShardId) {
        let needed = u32::from(shard.0) + 1;
        let row = *self.row_mut(cluster);
        if needed <= row.len {
            return;
        }
        let len = needed.max(row.len * 2).max(FIRST_SHARDS);
        let start = self.shards.len();
        self.shards.extend_from_within(row.start as usize..(row.start + row.len) as usize);
        self.shards.resize(start + len as usize, 0);
        let row = self.row_mut(cluster);
        row.start = u32::try_from(start).expect("2^32 shards are more than the clusters of a fleet can have");
        row.len = len;
    }
}
