//! Where each cluster's numbers lie in the columns: those of one pool side by side, so that a scan goes from pool to pool and ends in
//! the first that has what it seeks.
//!
//! Where exactly a cluster lies depends on what came and went before; nothing that is decided does.

use crate::ledger::columns::BLOCK;
use crate::ledger::site::PoolRank;

/// The row of a lane that no cluster has.
pub(crate) const NOBODY: u32 = u32::MAX;

/// A place in the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Which block.
    pub(crate) block: usize,
    /// Which of its lanes.
    pub(crate) lane: usize,
}

/// The blocks of one pool.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Whose.
    pub(crate) pool: PoolRank,
    /// Which.
    pub(crate) blocks: Vec<usize>,
}

/// All places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// By cluster number.
    slots: Vec<Option<Slot>>,
    /// By block and lane: the cluster's number.
    rows: Vec<[u32; BLOCK]>,
    /// In the order of their pools.
    groups: Vec<Group>,
    /// Blocks of pools that are gone.
    spare: Vec<usize>,
}

impl Layout {
    /// A cluster's place.
    pub(crate) fn slot(&self, row: usize) -> Option<Slot> {
        self.slots.get(row).copied().flatten()
    }

    /// The clusters of every block.
    pub(crate) fn rows(&self) -> &[[u32; BLOCK]] {
        &self.rows
    }

    /// The pools' blocks, in the order of the pools.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Gives a cluster that has none a place among those of its pool.
    pub(crate) fn put(&mut self, row: usize, pool: &PoolRank) -> Slot {
        let group = match self.groups.binary_search_by(|group| group.pool.cmp(pool)) {
            Ok(found) => found,
            Err(position) => {
                self.groups.insert(position, Group { pool: pool.clone(), blocks: Vec::new() });
                position
            }
        };
        let free = |block: &usize| self.rows[*block].iter().position(|row| *row == NOBODY).map(|lane| Slot { block: *block, lane });
        let slot = self.groups[group].blocks.iter().find_map(free).unwrap_or_else(|| {
            let block = self.spare.pop().unwrap_or_else(|| {
                self.rows.push([NOBODY; BLOCK]);
                self.rows.len() - 1
            });
            self.groups[group].blocks.push(block);
            Slot { block, lane: 0 }
        });
        self.rows[slot.block][slot.lane] = row as u32;
        if self.slots.len() <= row {
            self.slots.resize(row + 1, None);
        }
        self.slots[row] = Some(slot);
        slot
    }

    /// Takes a cluster's place away and says where it was.
    pub(crate) fn remove(&mut self, row: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(row)?.take()?;
        self.rows[slot.block][slot.lane] = NOBODY;
        let empty = |group: &Group| group.blocks.iter().all(|block| self.rows[*block].iter().all(|row| *row == NOBODY));
        if let Some(gone) = self.groups.iter().position(empty) {
            self.spare.extend(self.groups.remove(gone).blocks);
        }
        Some(slot)
    }
}
