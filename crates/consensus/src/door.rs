//! What goes in and what comes out, and the duties that come with each output.
//!
//! A driver carries out outputs in the order in which they came, and need not wait for one before it begins the next: disk work may be done on
//! another thread, several [`Output::Persist`] may be on their way at the same time, and their end is told by [`Input::Persisted`]. What may
//! leave only after something is on disk (a vote, an acknowledgement to the leader, an answer) is kept back in here until then.

use std::sync::Arc;

use roadstead_core::apply::{Applied, apply};
use roadstead_core::command::{Batch, FeatureLevel, Outcome};
use roadstead_core::id::Revision;
use roadstead_core::request::Request;
use roadstead_core::state::State;
use roadstead_core::time::Timestamp;

use crate::member::{GroupId, MemberId, MemberInfo, Membership};

/// The driver's own number for something that awaits an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The driver's monotonic time in milliseconds since the replica was made; never wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

/// What happens to a replica.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // fields are what their names say
pub enum Input {
    /// Time has passed; at least every tick interval.
    Tick,
    /// Raft messages of a peer (opaque), and the highest feature level that its build supports.
    Messages { from: MemberId, level: FeatureLevel, messages: Vec<bytes_like::Bytes> },
    /// Everything that was waiting: decided on one working copy, proposed together. Each ticket gets exactly one [`Output::Answer`].
    Requests(Vec<(Ticket, Request)>),
    /// A linearizable read: [`Output::ReadReady`], or an answer if that is not possible.
    Read(Ticket),
    /// The `Persist` of this number, and all before it, are on disk.
    Persisted { number: u64 },
    /// A snapshot that `FetchSnapshot` asked for is on disk, synced, and decoded.
    SnapshotInstalled { term: u64, index: u64, membership: Membership, state: Box<State> },
    /// A snapshot that `FetchSnapshot` asked for could not be fetched or read; the leader sends another.
    SnapshotFailed { term: u64, index: u64 },
    /// A peer has fetched a snapshot's last byte from us (`ok`), or gave up. Silence counts as giving up after a while.
    SnapshotDelivered { to: MemberId, ok: bool },
    /// A peer cannot be reached.
    Unreachable(MemberId),
    /// The snapshot that `TakeSnapshot` asked for is on disk; entries up to its index may go. Until then no other one is asked for.
    SnapshotTaken { index: u64 },
    /// Add a learner, promoted by the leader once it has caught up. Answered when it takes part as a learner.
    AddMember { ticket: Ticket, id: MemberId, info: MemberInfo },
    /// Remove a member. A leader asked to remove itself hands over first and answers `NotLeader`: ask the new one.
    RemoveMember { ticket: Ticket, id: MemberId },
    /// Hand leadership over, to the best voter if nobody is named.
    Transfer { ticket: Ticket, to: Option<MemberId> },
    /// Replace the state by a decoded backup, as a new incarnation, through the log (docs/decisions/0005-restore.md).
    /// `chunks` are the backup as `codec::snapshot` wrote it, `state` is what they decode to.
    Restore { ticket: Ticket, state: Box<State>, chunks: Vec<Vec<u8>> },
    /// The agent of this cluster was heard of (its report changed nothing that is replicated).
    Heard(roadstead_core::id::ClusterId),
}

/// Bytes without a dependency on who made them.
pub mod bytes_like {
    /// An encoded Raft message.
    pub type Bytes = Vec<u8>;
}

/// What a driver has to do.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // fields are what their names say
pub enum Output {
    /// Send messages to a peer, in this order, at once. A peer that cannot be reached is told of by [`Input::Unreachable`]; nothing is sent again.
    Send { to: MemberId, messages: Vec<bytes_like::Bytes> },
    /// Put entries and hard state on disk, together, synced; then say [`Input::Persisted`]. Numbers ascend by one.
    Persist { number: u64, write: LogWrite },
    /// An entry was applied, at this replicated time: changes for watchers, alarms for the log.
    Applied { index: u64, time: Timestamp, applied: Arc<Applied> },
    /// The state was replaced as a whole (a peer's snapshot, a restore): there are no changes from the one before to this one, so that
    /// watches that have not seen this revision cannot go on.
    Replaced { revision: Revision, time: Timestamp },
    /// A ticket's answer.
    Answer { ticket: Ticket, answer: Answer },
    /// A linearizable read may be served from the state at (or after) this revision.
    ReadReady { ticket: Ticket, revision: Revision },
    /// A peer's snapshot is needed: fetch its bytes from `from`, sync them, decode them, say [`Input::SnapshotInstalled`].
    FetchSnapshot { from: MemberId, term: u64, index: u64 },
    /// Write a snapshot of this frozen copy, synced, then say [`Input::SnapshotTaken`]. Keep the one before, too: a peer may be fetching it.
    TakeSnapshot { term: u64, index: u64, membership: Membership, state: Box<State> },
    /// Entries up to this index are not needed on disk any more.
    Compact { through: u64 },
    /// Leadership or membership has changed.
    Role(Role),
    /// This member was removed from the group: stop. It never takes part again; a new one with a new id may join.
    Removed,
    /// Something that should never be; the text says what. ERROR for the log. The replica goes on unless `fatal`: then
    /// it has stopped for good, gives no more outputs, and the process must end.
    Alarm { what: String, fatal: bool },
}

/// What to put on disk in one synced step: first `begins_after`, then `entries`; `hard_state` with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWrite {
    /// A peer's snapshot through this index was installed: drop every entry that is kept; the log begins anew after this index.
    pub begins_after: Option<u64>,
    /// Entries by ascending index without a gap; the first one cuts off whatever was at or above its index.
    pub entries: Vec<LogEntry>,
    /// Hard state, if it has changed (always present when it has).
    pub hard_state: Option<HardState>,
}

/// One Raft entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Index.
    pub index: u64,
    /// Term.
    pub term: u64,
    /// The whole Raft entry, encoded by raft-rs; not read by a log.
    pub bytes: Vec<u8>,
}

/// Raft's hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Term.
    pub term: u64,
    /// Whom this member voted for in it; 0 is nobody.
    pub vote: u64,
    /// Committed index.
    pub commit: u64,
}

/// What a replica starts from, as read from disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Of the group.
    pub group: GroupId,
    /// Of this member.
    pub id: MemberId,
    /// Hard state; default for a new one.
    pub hard_state: HardState,
    /// Newest valid snapshot: term, index, membership, state. See [`Restored::first`] and [`Restored::joining`] for a new member's.
    pub snapshot_term: u64,
    /// See `snapshot_term`.
    pub snapshot_index: u64,
    /// See `snapshot_term`.
    pub membership: Membership,
    /// See `snapshot_term`.
    pub state: Box<State>,
    /// The log's entries without a gap. Those up to the snapshot may be among them: they serve peers that lag.
    pub entries: Vec<LogEntry>,
}

impl Restored {
    /// A new group's first and only member. Its snapshot (index 1) must be written, synced, before it starts: other members get it from there.
    /// `origin` is the wall time now; replicated time begins with it.
    #[must_use]
    pub fn first(group: GroupId, id: MemberId, info: MemberInfo, origin: Timestamp, level: FeatureLevel) -> Self {
        const FIRST: u64 = 1;
        let mut state = State::default();
        apply(&mut state, FIRST, &Batch { level, time: origin, commands: Vec::new() });
        let membership = Membership { voters: [(id, info)].into(), ..Membership::default() };
        Self {
            group,
            id,
            hard_state: HardState { term: FIRST, vote: 0, commit: FIRST },
            snapshot_term: FIRST,
            snapshot_index: FIRST,
            membership,
            state: Box::new(state),
            entries: Vec::new(),
        }
    }

    /// A member that has nothing yet: it waits until a leader of the group adds it. No snapshot needs to be written.
    #[must_use]
    pub fn joining(group: GroupId, id: MemberId) -> Self {
        let (membership, state) = (Membership::default(), Box::default());
        Self { group, id, hard_state: HardState::default(), snapshot_term: 0, snapshot_index: 0, membership, state, entries: Vec::new() }
    }
}

/// The answer to a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // fields are what their names say
pub enum Answer {
    /// Committed and applied (or a retry's first answer, or a refusal that needed no entry; the revision is what it reflects).
    Outcome { outcome: Outcome, revision: Revision },
    /// Not the leader: ask it.
    NotLeader { leader: Option<MemberId> },
    /// Whether it happened is unknown (leadership was lost); ask again with the same request id.
    Unknown,
    /// Too much is waiting already; ask again after so many milliseconds.
    Overloaded { retry_after_ms: u64 },
    /// A membership change, transfer or restore is done; the revision reflects it.
    Done { revision: Revision },
    /// It cannot be done; plain words.
    Refused { why: String },
}

/// What the leader knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub id: MemberId,
    /// Last index of the log that it is known to have on its disk.
    pub matched: u64,
    /// Whether it was heard of within the longest election timeout.
    pub active: bool,
    /// Highest feature level that its build supports; unknown if it has said nothing yet.
    pub supported: Option<FeatureLevel>,
}

/// How a replica takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Whether it leads and has applied the first entry of its term (so that it decides).
    pub leading: bool,
    /// The leader it knows.
    pub leader: Option<MemberId>,
    /// Term.
    pub term: u64,
    /// Members.
    pub membership: Membership,
}
