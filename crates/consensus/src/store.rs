//! What raft-rs reads back: the entries since the newest snapshot (and some before it, for peers that lag), in memory.
//!
//! The truth on disk is the driver's; this holds what was handed to it. Entries share their bytes with everything else that holds them.

use std::cell::Cell;
use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState as RaftHardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::member::MemberId;
use crate::wire::{self, SnapshotInfo};

/// The log's tail in memory.
pub(crate) struct Store {
    /// Index and term of the entry before the first one kept.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    snapshot: SnapshotInfo,
    /// Hard state at the start; raft-rs asks for it once.
    initial: RaftHardState,
    /// A peer needs a snapshot that the newest one cannot serve.
    wanted: Cell<bool>,
}

impl Store {
    /// `entries` follow the entry `before` (index, term) without a gap.
    pub(crate) fn new(snapshot: SnapshotInfo, before: (u64, u64), entries: VecDeque<Entry>, initial: RaftHardState) -> Self {
        Self { before, entries, snapshot, initial, wanted: Cell::new(false) }
    }

    /// Index of the first entry kept.
    pub(crate) fn first(&self) -> u64 {
        self.before.0 + 1
    }

    /// Index of the last entry kept; that of the one before the first if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// The newest snapshot on disk.
    pub(crate) fn snapshot_info(&self) -> &SnapshotInfo {
        &self.snapshot
    }

    /// A newer snapshot is on disk.
    pub(crate) fn set_snapshot(&mut self, snapshot: SnapshotInfo) {
        self.snapshot = snapshot;
    }

    /// Whether a peer waits for a newer snapshot; asking forgets it.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    /// Appends, cutting off whatever was at or above the first one's index.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        debug_assert!(first.index >= self.first() && first.index <= self.last() + 1, "raft-rs appends without a gap");
        self.entries.truncate(self.position(first.index));
        self.entries.extend(entries.iter().cloned());
    }

    /// A peer's snapshot takes the place of everything.
    pub(crate) fn restart_after(&mut self, snapshot: SnapshotInfo) {
        self.before = (snapshot.index, snapshot.term);
        self.entries.clear();
        self.snapshot = snapshot;
    }

    /// Drops entries up to and including `through`.
    pub(crate) fn compact(&mut self, through: u64) {
        while self.first() <= through
            && let Some(entry) = self.entries.pop_front()
        {
            self.before = (entry.index, entry.term);
        }
    }

    /// The highest index at or below which the entries from there to `through` still take no more than `bytes`.
    pub(crate) fn reach_back(&self, through: u64, bytes: u64) -> u64 {
        let mut left = bytes;
        let upto = self.position(through + 1).min(self.entries.len());
        for entry in self.entries.range(..upto).rev() {
            let size = entry.data.len() as u64;
            if size > left {
                return entry.index;
            }
            left -= size;
        }
        self.before.0
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first())).unwrap_or(usize::MAX)
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.initial.clone(), self.snapshot.membership.conf_state()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        let mut size = 0_u64;
        for entry in self.entries.range(self.position(low)..self.position(high)) {
            size = size.saturating_add(u64::from(entry.compute_size()));
            if size > max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index == self.snapshot.index {
            return Ok(self.snapshot.term);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.entries.get(self.position(index)).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A peer ignores a snapshot whose membership does not name it, and asks again for ever.
        let serves = self.snapshot.index >= request_index
            && self.snapshot.index >= self.before.0
            && self.snapshot.membership.info(MemberId(to)).is_some();
        if !serves {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(wire::describe(&self.snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 10].into(), ..Entry::default() }
    }

    fn store(indices: std::ops::RangeInclusive<u64>) -> Store {
        let before = (indices.start() - 1, 1);
        let snapshot = SnapshotInfo { term: 1, index: before.0, ..SnapshotInfo::default() };
        Store::new(snapshot, before, indices.map(|index| entry(index, 1)).collect(), RaftHardState::default())
    }

    #[test]
    fn appending_cuts_off_what_conflicts() {
        let mut store = store(5..=9);
        store.append(&[entry(7, 2), entry(8, 2)]);
        assert_eq!(store.last(), 8);
        assert_eq!(store.term(6), Ok(1));
        assert_eq!(store.term(7), Ok(2));
        assert_eq!(store.term(9), Err(Error::Store(StorageError::Unavailable)));
    }

    #[test]
    fn the_term_before_the_first_entry_stays_known() {
        let mut store = store(5..=9);
        store.compact(7);
        assert_eq!((store.first(), store.term(7)), (8, Ok(1)));
        assert_eq!(store.term(5), Err(Error::Store(StorageError::Compacted)));
        assert!(store.entries(7, 9, None, GetEntriesContext::empty(false)).is_err());
        store.compact(100);
        assert_eq!((store.first(), store.last()), (10, 9));
    }

    #[test]
    fn a_snapshot_that_does_not_name_the_peer_is_not_offered() {
        let store = store(5..=9);
        assert_eq!(store.snapshot(0, 3), Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable)));
        assert!(store.take_wanted());
        assert!(!store.take_wanted());
    }

    #[test]
    fn at_least_one_entry_is_read_whatever_the_bound() {
        let store = store(5..=9);
        let read = |max| store.entries(5, 10, max, GetEntriesContext::empty(false)).unwrap().len();
        assert_eq!((read(Some(0)), read(None)), (1, 5));
    }

    #[test]
    fn reaching_back_is_bounded_by_bytes() {
        let store = store(5..=9);
        assert_eq!(store.reach_back(9, 25), 7, "8 and 9 take 20 bytes");
        assert_eq!(store.reach_back(9, 1_000), 4);
    }
}
