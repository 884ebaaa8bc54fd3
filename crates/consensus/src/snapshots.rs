//! Snapshots taken here, fetched by peers, and fetched from a peer: which are on their way, and when they count as lost.
//!
//! Raft's message carries a description only. It reaches raft-rs after the snapshot's bytes are on this disk, so that raft-rs never waits for
//! a snapshot that cannot be fetched.

use std::collections::BTreeMap;

use raft::eraftpb::Message;
use roadstead_core::state::State;

use crate::door::Monotonic;
use crate::member::MemberId;
use crate::wire::SnapshotInfo;

/// Milliseconds for which a peer that was told of a snapshot may give no sign of life before it is told again.
pub(crate) const SEND_PATIENCE_MS: u64 = 5_000;
/// Milliseconds between two signs of life of one that fetches or installs.
const SIGN_EVERY_MS: u64 = 1_000;
/// Bytes that the entries kept behind a snapshot may take in memory.
pub(crate) const KEPT_BYTES: u64 = 64 << 20;

/// A snapshot that a peer described and the driver fetches.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) info: SnapshotInfo,
    /// For raft-rs, once the bytes are there.
    pub(crate) message: Message,
}

/// A fetched snapshot that raft-rs has not taken over yet.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) info: SnapshotInfo,
    pub(crate) state: Box<State>,
}

/// A peer that was told of a snapshot.
#[derive(Debug)]
struct Outgoing {
    /// The last sign of life, or when it was told.
    since: Monotonic,
    /// Whether it has given a sign.
    heard: bool,
}

/// What to do with a described snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Described {
    /// Fetch it.
    Fetch,
    /// It is there: tell raft-rs.
    Here,
    /// Another one, or the same one, is being fetched.
    Busy,
}

/// All snapshots on their way.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Asked for with `TakeSnapshot`.
    pub(crate) taking: Option<SnapshotInfo>,
    /// Bytes of entries applied since the newest snapshot.
    pub(crate) bytes_since: u64,
    incoming: Option<Incoming>,
    fetched: Option<Fetched>,
    /// Peers that were told of a snapshot.
    outgoing: BTreeMap<MemberId, Outgoing>,
    /// When the last sign of life was given.
    signed: Monotonic,
}

impl Snapshots {
    /// A peer has described a snapshot.
    pub(crate) fn described(&mut self, info: SnapshotInfo, message: &Message) -> Described {
        if self.fetched.as_ref().is_some_and(|fetched| fetched.info == info) {
            return Described::Here;
        }
        if let Some(incoming) = &mut self.incoming {
            if incoming.info == info {
                incoming.message = message.clone();
            }
            return Described::Busy;
        }
        self.incoming = Some(Incoming { info, message: message.clone() });
        Described::Fetch
    }

    /// The driver has fetched a snapshot; the message that waited for it.
    ///
    /// # Errors
    /// Plain words when nobody asked for it, or it is not what was described.
    pub(crate) fn arrived(&mut self, info: SnapshotInfo, state: Box<State>) -> Result<Message, String> {
        let waited = self.incoming.take_if(|incoming| (incoming.info.term, incoming.info.index) == (info.term, info.index));
        let incoming = waited.ok_or_else(|| format!("snapshot {} of term {} was not asked for", info.index, info.term))?;
        let revision = state.revision();
        if incoming.info != info || revision.index != info.index {
            return Err(format!("snapshot {} of term {} is not what was described: it ends at {revision}", info.index, info.term));
        }
        self.fetched = Some(Fetched { info, state });
        Ok(incoming.message)
    }

    /// The driver could not fetch a snapshot; whether it was asked to.
    pub(crate) fn failed(&mut self, term: u64, index: u64) -> bool {
        self.incoming.take_if(|incoming| (incoming.info.term, incoming.info.index) == (term, index)).is_some()
    }

    /// raft-rs takes a fetched snapshot over.
    pub(crate) fn take_fetched(&mut self, term: u64, index: u64) -> Option<Fetched> {
        self.fetched.take_if(|fetched| (fetched.info.term, fetched.info.index) == (term, index))
    }

    /// Entries up to here are applied: an older fetched snapshot is of no use.
    pub(crate) fn applied(&mut self, index: u64) {
        self.fetched.take_if(|fetched| fetched.info.index <= index);
    }

    /// A peer is told of a snapshot.
    pub(crate) fn sent(&mut self, to: MemberId, now: Monotonic) {
        self.outgoing.insert(to, Outgoing { since: now, heard: false });
    }

    /// A peer fetches, or has fetched and installs.
    pub(crate) fn sign_of_life(&mut self, peer: MemberId, now: Monotonic) {
        if let Some(outgoing) = self.outgoing.get_mut(&peer) {
            *outgoing = Outgoing { since: now, heard: true };
        }
    }

    /// Whether a peer was told and has not given a sign since.
    pub(crate) fn unheard(&self, peer: MemberId) -> bool {
        self.outgoing.get(&peer).is_some_and(|outgoing| !outgoing.heard)
    }

    /// Whether this replica fetches, and should say so again.
    pub(crate) fn sign_is_due(&mut self, now: Monotonic) -> bool {
        let due = self.incoming.is_some() && self.signed.0 + SIGN_EVERY_MS <= now.0;
        if due {
            self.signed = now;
        }
        due
    }

    /// A peer's transfer is over, well or not.
    pub(crate) fn ended(&mut self, to: MemberId) {
        self.outgoing.remove(&to);
    }

    /// Peers that have been silent for too long about theirs.
    pub(crate) fn overdue(&mut self, now: Monotonic) -> Vec<MemberId> {
        self.outgoing.extract_if(.., |_, outgoing| outgoing.since.0 + SEND_PATIENCE_MS <= now.0).map(|(to, _)| to).collect()
    }

    /// Nobody is sent anything by one that does not lead.
    pub(crate) fn stop_sending(&mut self) {
        self.outgoing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(index: u64) -> SnapshotInfo {
        SnapshotInfo { term: 2, index, ..SnapshotInfo::default() }
    }

    #[test]
    fn one_snapshot_is_fetched_at_a_time() {
        let mut snapshots = Snapshots::default();
        assert_eq!(snapshots.described(info(5), &Message::default()), Described::Fetch);
        assert_eq!(snapshots.described(info(5), &Message::default()), Described::Busy);
        assert_eq!(snapshots.described(info(9), &Message::default()), Described::Busy);
        snapshots.failed(2, 5);
        assert_eq!(snapshots.described(info(9), &Message::default()), Described::Fetch);
    }

    #[test]
    fn a_peer_that_says_nothing_of_its_snapshot_is_overdue_once() {
        let mut snapshots = Snapshots::default();
        let peer = MemberId(2);
        snapshots.sent(peer, Monotonic(0));
        snapshots.sign_of_life(peer, Monotonic(1_000));
        assert!(snapshots.overdue(Monotonic(SEND_PATIENCE_MS)).is_empty());
        assert_eq!(snapshots.overdue(Monotonic(1_000 + SEND_PATIENCE_MS)), [peer]);
        assert!(snapshots.overdue(Monotonic(9_000 + SEND_PATIENCE_MS)).is_empty());
    }
}
