//! A machine's disk: what was synced survives a loss of power, what was not is gone, or there by luck; a write is there whole or not at all, as
//! the log's checksums see to it.

use std::collections::{BTreeMap, VecDeque};

use roadstead_consensus::door::{HardState, LogEntry, LogWrite, Restored};
use roadstead_consensus::member::{GroupId, MemberId, MemberInfo, Membership};
use roadstead_core::codec::{self, SnapshotReader};
use roadstead_core::command::FIRST_LEVEL;
use roadstead_core::state::State;
use roadstead_core::time::Timestamp;

use crate::chance::Chance;

/// Snapshots that are kept.
const KEPT: usize = 2;

/// A snapshot's file.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// Members as of it.
    pub membership: Membership,
    /// Its chunks.
    pub chunks: Vec<Vec<u8>>,
}

/// Index, term.
pub type SnapshotKey = (u64, u64);

/// What is on the platters.
#[derive(Clone, Debug, Default)]
struct Platter {
    hard_state: HardState,
    entries: VecDeque<LogEntry>,
}

impl Platter {
    fn write(&mut self, write: &LogWrite) {
        if write.begins_after.is_some() {
            self.entries.clear();
        }
        if let Some(first) = write.entries.first() {
            while self.entries.back().is_some_and(|last| last.index >= first.index) {
                self.entries.pop_back();
            }
            self.entries.extend(write.entries.iter().cloned());
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }

    fn compact(&mut self, through: u64) {
        while self.entries.front().is_some_and(|first| first.index <= through) {
            self.entries.pop_front();
        }
    }
}

/// Something that was given to the disk and is not surely on it.
#[derive(Clone, Debug)]
enum Pending {
    Write(LogWrite),
    Compact(u64),
}

/// One disk.
#[derive(Clone, Debug)]
pub struct Disk {
    group: GroupId,
    member: MemberId,
    durable: Platter,
    pending: VecDeque<(u64, Pending)>,
    snapshots: BTreeMap<SnapshotKey, SnapshotFile>,
    /// Whether the next write finds no room.
    pub full: bool,
}

impl Disk {
    /// An empty disk, prepared for a member.
    #[must_use]
    pub fn new(group: GroupId, member: MemberId) -> Self {
        let (durable, pending, snapshots) = (Platter::default(), VecDeque::new(), BTreeMap::new());
        Self { group, member, durable, pending, snapshots, full: false }
    }

    /// Makes it the disk of a new group's first member.
    pub fn found_group(&mut self, info: MemberInfo, origin_ms: u64) {
        let first = Restored::first(self.group, self.member, info, Timestamp(origin_ms), FIRST_LEVEL);
        self.durable.hard_state = first.hard_state;
        self.keep_snapshot((first.snapshot_index, first.snapshot_term), encode(first.membership, &first.state));
    }

    /// The member whose storage this is.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Takes a write; it is on the disk when [`Disk::synced`] says so.
    pub fn write(&mut self, number: u64, write: LogWrite) {
        self.pending.push_back((number, Pending::Write(write)));
    }

    /// Takes a compaction, which nobody waits for.
    pub fn compact(&mut self, through: u64) {
        let number = self.pending.back().map_or(0, |(number, _)| *number);
        self.pending.push_back((number, Pending::Compact(through)));
    }

    /// Everything up to this write is on the disk.
    pub fn synced(&mut self, number: u64) {
        while self.pending.front().is_some_and(|(pending, _)| *pending <= number) {
            self.land_one();
        }
    }

    fn land_one(&mut self) {
        match self.pending.pop_front() {
            Some((_, Pending::Write(write))) => self.durable.write(&write),
            Some((_, Pending::Compact(through))) => self.durable.compact(through),
            None => {}
        }
    }

    /// The power goes: of what was not synced, a first part may have reached the disk; the write after it may be torn, which its checksum
    /// tells, so that it is as if it were not there.
    pub fn lose_power(&mut self, chance: &mut Chance) {
        let lucky = chance.below(self.pending.len() as u64 + 1);
        for _ in 0..lucky {
            self.land_one();
        }
        self.pending.clear();
        self.full = false;
    }

    /// Keeps a snapshot, synced.
    pub fn keep_snapshot(&mut self, key: SnapshotKey, file: SnapshotFile) {
        self.snapshots.insert(key, file);
        while self.snapshots.len() > KEPT {
            self.snapshots.pop_first();
        }
    }

    /// A snapshot's file, to be sent to a peer.
    #[must_use]
    pub fn snapshot(&self, key: SnapshotKey) -> Option<&SnapshotFile> {
        self.snapshots.get(&key)
    }

    /// What a replica starts from.
    ///
    /// # Errors
    /// What is damaged.
    pub fn restored(&self) -> Result<Restored, String> {
        let mut restored = Restored::joining(self.group, self.member);
        if let Some((key, file)) = self.snapshots.last_key_value() {
            (restored.snapshot_index, restored.snapshot_term) = *key;
            restored.membership = file.membership.clone();
            restored.state = Box::new(decode(&file.chunks)?);
        }
        restored.hard_state = self.durable.hard_state;
        restored.entries = self.durable.entries.iter().cloned().collect();
        Ok(restored)
    }
}

/// Encodes a state as a snapshot file.
#[must_use]
pub fn encode(membership: Membership, state: &State) -> SnapshotFile {
    SnapshotFile { membership, chunks: codec::snapshot(state).collect() }
}

/// Decodes a snapshot's chunks.
///
/// # Errors
/// What is damaged.
pub fn decode(chunks: &[Vec<u8>]) -> Result<State, String> {
    let mut reader = SnapshotReader::default();
    for chunk in chunks {
        reader.push(chunk).map_err(|error| error.to_string())?;
    }
    reader.finish().map_err(|error| error.to_string())
}
