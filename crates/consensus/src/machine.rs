//! What committed entries do: batches change the state, configuration changes the group, a restore replaces the state.
//!
//! Deterministic: the same entries give the same state and the same group on every replica. It knows nothing of who leads or who asked.
//!
//! A restore travels as entries of its own kind, one chunk of the backup each. The last one makes the switch; anything else in between
//! (a new leader's first entry, above all) ends it, and nothing has happened.

use std::sync::Arc;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType};
use roadstead_core::apply::{Applied, apply};
use roadstead_core::codec::{self, SnapshotReader};
use roadstead_core::command::{Batch, FeatureLevel};
use roadstead_core::state::State;

use crate::member::{MemberChange, Membership};

/// Marks a part of a backup, an entry that is neither a batch nor a configuration change; the first byte of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mark {
    /// A backup's first chunk.
    First = 1,
    /// A further chunk.
    Next = 2,
    /// A batch to apply on top of the restored state.
    Last = 3,
}

/// What an entry holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// Decided commands; empty for a new leader's first entry.
    Batch(Batch),
    /// The group changes.
    Change(MemberChange),
    /// A part of a backup.
    Chunk { first: bool, bytes: bytes::Bytes },
    /// The backup is whole: switch, and apply this on top.
    Switch(Batch),
}

/// What applying an entry did beyond [`Applied`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The group changed.
    Changed(MemberChange),
    /// The change did not fit and was skipped.
    Skipped(String),
    /// The state was replaced by a backup.
    Switched,
    /// The backup was damaged or cut short: nothing was replaced.
    NotSwitched(String),
}

/// State and group as of the last applied entry.
pub(crate) struct Machine {
    pub(crate) state: State,
    pub(crate) membership: Membership,
    /// A restore on its way.
    restoring: Option<SnapshotReader>,
    /// Planted fault: apply takes what the leader decided for granted.
    #[cfg(feature = "sabotage")]
    pub(crate) unchecked: bool,
}

impl Machine {
    pub(crate) fn new(state: State, membership: Membership) -> Self {
        Self {
            state,
            membership,
            restoring: None,
            #[cfg(feature = "sabotage")]
            unchecked: false,
        }
    }

    /// A peer's snapshot takes the place of everything.
    pub(crate) fn replace(&mut self, state: State, membership: Membership) {
        (self.state, self.membership, self.restoring) = (state, membership, None);
    }

    /// Whether a restore is on its way: its chunks are in the log only, so that no snapshot may be taken.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Plain words when it cannot be understood: this replica must stop, since others may have understood it.
    pub(crate) fn read(&self, entry: &Entry, supported: FeatureLevel) -> Result<Content, String> {
        let broken = |what: String| format!("entry {} cannot be understood: {what}", entry.index);
        match entry.get_entry_type() {
            EntryType::EntryConfChange => {
                let change = ConfChange::parse_from_bytes(&entry.data).map_err(|e| broken(e.to_string()))?;
                return MemberChange::decode(&change).map(Content::Change).map_err(broken);
            }
            EntryType::EntryConfChangeV2 => return Err(broken("joint configuration changes are never proposed".to_owned())),
            EntryType::EntryNormal => {}
        }
        let batch = |bytes: &[u8]| {
            let batch = codec::decode_batch(bytes).map_err(|e| broken(e.to_string()))?;
            if batch.level > supported {
                return Err(broken(format!(
                    "it was written under feature level {}, this build supports {}: upgrade it",
                    batch.level.0, supported.0
                )));
            }
            Ok(batch)
        };
        match entry.context.first().copied() {
            None if entry.data.is_empty() => Ok(Content::Batch(self.nothing())),
            None => batch(&entry.data).map(Content::Batch),
            Some(mark) if mark == Mark::First as u8 => Ok(Content::Chunk { first: true, bytes: entry.data.clone() }),
            Some(mark) if mark == Mark::Next as u8 => Ok(Content::Chunk { first: false, bytes: entry.data.clone() }),
            Some(mark) if mark == Mark::Last as u8 => batch(&entry.data).map(Content::Switch),
            Some(mark) => Err(broken(format!("mark {mark} is unknown"))),
        }
    }

    /// Applies decided commands.
    pub(crate) fn apply_batch(&mut self, index: u64, batch: &Batch) -> Arc<Applied> {
        self.restoring = None;
        #[cfg(feature = "sabotage")]
        {
            self.state.unchecked = self.unchecked;
        }
        Arc::new(apply(&mut self.state, index, batch))
    }

    /// Applies anything else; the state's revision moves on in any case.
    pub(crate) fn apply_other(&mut self, index: u64, content: Content) -> (Arc<Applied>, Effect) {
        match content {
            Content::Batch(batch) => (self.apply_batch(index, &batch), Effect::None),
            Content::Change(change) => {
                let effect = match self.membership.after(&change) {
                    Ok(next) => {
                        self.membership = next;
                        Effect::Changed(change)
                    }
                    Err(why) => Effect::Skipped(why),
                };
                (self.apply_batch(index, &self.nothing()), effect)
            }
            Content::Chunk { first, bytes } => {
                let reader = if first { Some(SnapshotReader::default()) } else { self.restoring.take() };
                let applied = self.apply_batch(index, &self.nothing());
                self.restoring = reader.and_then(|mut reader| reader.push(&bytes).is_ok().then_some(reader));
                (applied, Effect::None)
            }
            Content::Switch(batch) => self.switch(index, &batch),
        }
    }

    fn switch(&mut self, index: u64, batch: &Batch) -> (Arc<Applied>, Effect) {
        let restored = match self.restoring.take() {
            Some(reader) => reader.finish().map_err(|e| format!("the backup is damaged: {e}")),
            None => Err("the backup did not arrive whole".to_owned()),
        };
        match restored {
            Ok(mut state) => {
                // The backup may come from a longer log than this one.
                state.rebase(index - 1);
                state.keep_clusters_of(&self.state);
                self.state = state;
                (self.apply_batch(index, batch), Effect::Switched)
            }
            Err(why) => (self.apply_batch(index, &self.nothing()), Effect::NotSwitched(why)),
        }
    }

    /// An entry without commands.
    pub(crate) fn nothing(&self) -> Batch {
        Batch { level: self.state.level(), time: self.state.time(), commands: Vec::new() }
    }
}
