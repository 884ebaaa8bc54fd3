//! One member of the group: the door, what it is made of, and what each input does.
//!
//! The other duties live beside it, each as a part of [`Replica`]: [`crate::ready`] (raft-rs's outputs, applying), [`crate::lead`] (deciding
//! and proposing), [`crate::change`] (members, handing over), [`crate::restore`], [`crate::digest`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState as RaftHardState, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use roadstead_core::command::{FeatureLevel, Outcome, Rejection, SUPPORTED_LEVEL};
use roadstead_core::state::State;

use crate::batch::{Arrival, RETRY_AFTER_MS, Requests};
use crate::change::Handover;
use crate::clock::Clock;
use crate::digest::Digests;
use crate::disk::Disk;
use crate::door::{Answer, HardState, Input, Monotonic, Output, Progress, Restored, Role, Ticket};
use crate::lead::Lead;
use crate::machine::Machine;
use crate::member::{GroupId, MemberId, Membership};
use crate::reads::{Reads, Waiter};
use crate::snapshots::{Described, Snapshots};
use crate::store::Store;
use crate::wire::{self, Here, SnapshotInfo, Word};

/// Bytes of entries in one append message: fills a fast link, and a lost one costs little.
const MAX_APPEND_BYTES: u64 = 1 << 20;
/// Append messages on their way to one peer.
const MAX_APPENDS_IN_FLIGHT: usize = 256;
/// Bytes of entries that a leader proposes ahead of their commit; past them it takes no more in.
pub(crate) const MAX_UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Bytes of entries applied before other duties have their turn.
const MAX_APPLY_BYTES: u64 = 16 << 20;

/// How a replica behaves. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Milliseconds of one Raft tick.
    pub tick_ms: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// The least election timeout in ticks, the same on every replica: a leader unheard of for less is not deserted. Each time-out is
    /// drawn from `[n, 2n)`, by the seed in `nonce`.
    pub election_ticks: usize,
    /// Requests that may wait or be in flight before new ones are refused.
    pub max_waiting: usize,
    /// Requests decided into one entry.
    pub max_batch: usize,
    /// Bytes of one entry, about.
    pub max_entry_bytes: usize,
    /// Entries after which a snapshot is taken.
    pub snapshot_every_entries: u64,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_every_bytes: u64,
    /// Entries that stay in the log behind a snapshot, for peers that lag by a restart or so.
    pub kept_entries: u64,
    /// Highest feature level that this build supports (lower in tests of mixed versions).
    pub supported_level: FeatureLevel,
    /// Entries between two comparisons of state digests.
    pub digest_every: u64,
    /// Drawn anew by the driver at every start: the seed of election time-outs, and what keeps an answer to a read of the run before from
    /// being taken for one of this run.
    pub nonce: u64,
    /// Planted faults, for the simulator's own proof.
    #[cfg(feature = "sabotage")]
    pub sabotage: Option<Sabotage>,
}

impl Default for Config {
    /// As shipped: heartbeats every 40 ms, elections after 200 to 400 ms without one.
    fn default() -> Self {
        Self {
            tick_ms: 20,
            heartbeat_ticks: 2,
            election_ticks: 10,
            max_waiting: 65_536,
            max_batch: 4_096,
            max_entry_bytes: 1 << 20,
            snapshot_every_entries: 50_000,
            snapshot_every_bytes: 512 << 20,
            kept_entries: 10_000,
            supported_level: SUPPORTED_LEVEL,
            digest_every: 4_096,
            nonce: 0,
            #[cfg(feature = "sabotage")]
            sabotage: None,
        }
    }
}

/// A fault that the simulator plants to show that it would find it.
#[cfg(feature = "sabotage")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Answers before the entry is committed.
    AnswerBeforeCommit,
    /// Decides as soon as elected, before the first entry of its own term is applied.
    DecideBeforeFirstEntry,
    /// Leaves proposals in flight out of the working copy, and skips the check in apply.
    CountWithoutReservations,
    /// Snapshots lose the table of request ids.
    LoseRequestIdsInSnapshot,
    /// A restore does not fence.
    ForgetFence,
}

/// One member of the group.
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) group: GroupId,
    pub(crate) id: MemberId,
    pub(crate) raw: RawNode<Store>,
    pub(crate) machine: Machine,
    pub(crate) clock: Clock,
    pub(crate) now: Monotonic,
    pub(crate) disk: Disk,
    /// Newest hard state, and the log's new beginning, for the next write.
    pub(crate) hard_state: HardState,
    pub(crate) begins_after: Option<u64>,
    pub(crate) requests: Requests,
    pub(crate) reads: Reads,
    pub(crate) snapshots: Snapshots,
    pub(crate) digests: Digests,
    /// Only while raft-rs says that it leads.
    pub(crate) lead: Option<Lead>,
    pub(crate) handover: Option<Handover>,
    /// When it last asked whether it may go.
    pub(crate) asked_to_leave: Monotonic,
    /// What each peer's build supports, as it said last, and when that was.
    peers: BTreeMap<MemberId, (FeatureLevel, Monotonic)>,
    /// Election time-outs, drawn in sequence, and what the current one was drawn for.
    timeouts: Timeouts,
    role: Role,
    pub(crate) out: Vec<Output>,
    pub(crate) stopped: bool,
}

impl Replica {
    /// Starts from what is on disk.
    ///
    /// # Errors
    /// Plain words when what was restored does not fit together; the replica must then not start.
    pub fn new(config: Config, restored: Restored) -> Result<Self, String> {
        let loaded = Loaded::check(&config, restored)?;
        let raft_config = raft::Config {
            id: loaded.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: loaded.snapshot.index,
            max_size_per_msg: MAX_APPEND_BYTES,
            max_inflight_msgs: MAX_APPENDS_IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: config.election_ticks,
            max_election_tick: 2 * config.election_ticks,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_APPLY_BYTES,
            ..raft::Config::default()
        };
        let mut initial = RaftHardState::default();
        (initial.term, initial.vote, initial.commit) = (loaded.hard_state.term, loaded.hard_state.vote, loaded.hard_state.commit);
        let membership = loaded.snapshot.membership.clone();
        let store = Store::new(loaded.snapshot, loaded.before, loaded.entries, initial);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config, store, &logger).map_err(|e| format!("raft does not accept what was restored: {e}"))?;
        let mut clock = Clock::default();
        clock.saw(loaded.state.time(), Monotonic::default());
        #[allow(unused_mut)] // only sabotage changes it
        let mut machine = Machine::new(*loaded.state, membership);
        #[cfg(feature = "sabotage")]
        {
            machine.unchecked = config.sabotage == Some(Sabotage::CountWithoutReservations);
        }
        Ok(Self {
            group: loaded.group,
            id: loaded.id,
            raw,
            machine,
            clock,
            now: Monotonic::default(),
            disk: Disk::default(),
            hard_state: loaded.hard_state,
            begins_after: loaded.begins_after,
            requests: Requests::default(),
            reads: Reads::new(loaded.id, config.nonce),
            snapshots: Snapshots::default(),
            digests: Digests::default(),
            lead: None,
            handover: None,
            asked_to_leave: Monotonic::default(),
            peers: BTreeMap::new(),
            timeouts: Timeouts { seed: config.nonce ^ loaded.id.0, ticks: config.election_ticks, drawn_for: None },
            role: Role::default(),
            out: Vec::new(),
            stopped: false,
            config,
        })
    }

    /// The one door: something happens at `now`; what has to be done, in order.
    pub fn on(&mut self, input: Input, now: Monotonic) -> Vec<Output> {
        self.now = self.now.max(now);
        if self.stopped {
            self.turn_away(input);
        } else {
            self.take(input);
            self.settle();
        }
        std::mem::take(&mut self.out)
    }

    /// This member.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// The applied state; clone it for a frozen copy.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.machine.state
    }

    /// Members as of the applied state.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.machine.membership
    }

    /// The last index that it knows to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// What it knows of each member while it leads; nothing otherwise.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        // Twice the least election timeout: the most that passes before somebody stands for election.
        let patience_ms = 2 * self.config.tick_ms * self.config.election_ticks as u64;
        let heard = |id| self.peers.get(&id).is_some_and(|(_, at)| at.0 + patience_ms >= self.now.0);
        let known = |id: MemberId| {
            let progress = self.raw.raft.prs().get(id.0)?;
            Some(Progress { id, matched: progress.matched, active: id == self.id || heard(id), supported: self.level_of(id) })
        };
        self.machine.membership.ids().into_iter().filter_map(known).collect()
    }

    /// The highest feature level that a member's build supports, if that is known.
    pub(crate) fn level_of(&self, id: MemberId) -> Option<FeatureLevel> {
        if id == self.id { Some(self.config.supported_level) } else { self.peers.get(&id).map(|(level, _)| *level) }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Messages { from, level, messages } => self.hear(from, level, messages),
            Input::Requests(requests) => self.requests_arrive(requests),
            Input::Read(ticket) => self.read_arrives(ticket),
            Input::Persisted { number } => self.persisted(number),
            Input::SnapshotInstalled { term, index, membership, state } => {
                self.snapshot_arrives(SnapshotInfo { term, index, membership }, state)
            }
            Input::SnapshotFailed { term, index } => self.snapshot_failed(term, index),
            Input::SnapshotDelivered { to, ok: true } => self.snapshots.sign_of_life(to, self.now),
            Input::SnapshotDelivered { to, ok: false } => self.snapshot_lost(to),
            Input::Unreachable(peer) => self.unreachable(peer),
            Input::SnapshotTaken { index } => self.snapshot_taken(index),
            Input::AddMember { ticket, id, info } => self.add_member(ticket, id, info),
            Input::RemoveMember { ticket, id } => self.remove_member(ticket, id),
            Input::Transfer { ticket, to } => self.transfer(ticket, to),
            Input::Restore { ticket, state, chunks } => self.begin_restore(ticket, &state, chunks),
            Input::Heard(cluster) => self.heard(cluster),
        }
    }

    /// A replica that has stopped answers so that nobody waits for it.
    fn turn_away(&mut self, input: Input) {
        let answer = Answer::NotLeader { leader: None };
        match input {
            Input::Requests(requests) => requests.into_iter().for_each(|(ticket, _)| self.answer(ticket, answer.clone())),
            Input::Read(ticket)
            | Input::AddMember { ticket, .. }
            | Input::RemoveMember { ticket, .. }
            | Input::Transfer { ticket, .. }
            | Input::Restore { ticket, .. } => self.answer(ticket, answer),
            Input::Tick
            | Input::Messages { .. }
            | Input::Persisted { .. }
            | Input::SnapshotInstalled { .. }
            | Input::SnapshotFailed { .. }
            | Input::SnapshotDelivered { .. }
            | Input::Unreachable(_)
            | Input::SnapshotTaken { .. }
            | Input::Heard(_) => {}
        }
    }

    /// Carries everything on until nothing moves.
    fn settle(&mut self) {
        loop {
            self.carry_out_readies();
            if self.stopped {
                return;
            }
            self.lead_on();
            self.ask_reads();
            if !self.raw.has_ready() {
                break;
            }
        }
        self.serve_reads();
        self.watch_handover();
        self.think_of_snapshots();
        self.report_role();
    }

    fn tick(&mut self) {
        if self.may_campaign() {
            let (elections, raft) = (&mut self.timeouts, &mut self.raw.raft);
            raft.set_randomized_election_timeout(elections.current((raft.term, raft.leader_id, raft.state as u8)));
            if self.raw.tick() && self.raw.raft.state != StateRole::Leader {
                self.timeouts.drawn_for = None;
            }
        }
        let patience_ms = self.config.tick_ms * self.config.election_ticks as u64 / 2;
        for ticket in self.reads.tick(self.now, patience_ms) {
            self.answer(ticket, Answer::Unknown);
        }
        for peer in self.snapshots.overdue(self.now) {
            self.raw.report_snapshot(peer.0, SnapshotStatus::Failure);
        }
        if self.snapshots.sign_is_due(self.now)
            && let Some(leader) = self.leader().filter(|leader| *leader != self.id)
        {
            self.say(leader, &[Word::Fetching]);
        }
        self.ask_to_leave();
        self.take_initiative();
    }

    /// raft-rs takes it that a campaign begins with a log that is on disk, and panics otherwise.
    fn may_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        let alone = self.machine.membership.voters.len() == 1;
        !self.disk.snapshot_pending() && (raft.state == StateRole::Leader || self.log_is_on_disk() || !alone)
    }

    fn log_is_on_disk(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        log.persisted == log.last_index() && !self.disk.snapshot_pending()
    }

    /// Messages of a peer.
    fn hear(&mut self, from: MemberId, level: FeatureLevel, messages: Vec<Vec<u8>>) {
        if self.machine.membership.removed.contains(&from) {
            return self.tell_removed(from);
        }
        self.peers.insert(from, (level, self.now));
        if self.peers.len() > MAX_PEERS {
            let membership = &self.machine.membership;
            self.peers.retain(|id, _| membership.info(*id).is_some());
        }
        for bytes in messages {
            if self.stopped {
                return;
            }
            match Word::decode(bytes, self.group) {
                Ok(Word::Raft(message)) => self.step(from, *message),
                Ok(Word::Digest { index, digest }) => self.hear_digest(from, index, digest),
                Ok(Word::Removed) => self.hear_removed(from),
                Ok(Word::SnapshotLost) => self.snapshot_lost(from),
                Ok(Word::Ask) => {}
                Ok(Word::Fetching) => self.snapshots.sign_of_life(from, self.now),
                Err(why) => self.alarm(format!("dropped a message of {from}: {why}")),
            }
        }
    }

    fn step(&mut self, from: MemberId, message: Message) {
        let raft = &self.raw.raft;
        let leads = (raft.state == StateRole::Leader).then_some(raft.term);
        let here = Here { id: self.id, last_index: raft.raft_log.last_index(), leads };
        if let Err(why) = wire::check(&message, from, here) {
            self.alarm(format!("dropped a message of {from}: {why}"));
            return;
        }
        match message.get_msg_type() {
            MessageType::MsgSnapshot => return self.hear_snapshot(from, message),
            // A read is the leader's to confirm, for members.
            MessageType::MsgReadIndex if self.lead.is_none() || self.machine.membership.info(from).is_none() => return,
            MessageType::MsgTimeoutNow if !self.may_campaign() => return,
            // Votes are asked for with everything on disk; one that comes earlier answers nothing, and raft-rs would panic.
            MessageType::MsgRequestVoteResponse if !self.log_is_on_disk() => return,
            _ => {}
        }
        self.pass_on(message);
    }

    /// raft-rs refuses what is out of date or from an unknown peer; that is normal.
    fn pass_on(&mut self, message: Message) {
        let _ = self.raw.step(message);
    }

    fn hear_snapshot(&mut self, from: MemberId, message: Message) {
        let Ok(info) = wire::described(message.get_snapshot()) else { return };
        if self.disk.snapshot_pending() || message.term < self.raw.raft.term {
            return;
        }
        let log = &self.raw.raft.raft_log;
        let known = info.index < log.committed || log.match_term(info.index, info.term);
        if known {
            return self.pass_on(message);
        }
        let (term, index) = (info.term, info.index);
        match self.snapshots.described(info, &message) {
            Described::Here => self.pass_on(message),
            Described::Busy => self.say(from, &[Word::Fetching]),
            Described::Fetch => {
                self.say(from, &[Word::Fetching]);
                self.out.push(Output::FetchSnapshot { from, term, index });
            }
        }
    }

    fn snapshot_arrives(&mut self, info: SnapshotInfo, state: Box<State>) {
        if state.level() > self.config.supported_level {
            let (level, supported) = (state.level().0, self.config.supported_level.0);
            return self.fatal(format!("the group is at feature level {level}, this build supports {supported}: upgrade it"));
        }
        match self.snapshots.arrived(info, state) {
            Ok(message) => self.pass_on(message),
            Err(why) => {
                self.alarm(why);
                self.tell_snapshot_lost();
            }
        }
    }

    fn snapshot_failed(&mut self, term: u64, index: u64) {
        if self.snapshots.failed(term, index) {
            self.tell_snapshot_lost();
        }
    }

    /// The leader sends nothing else till it hears of it.
    fn tell_snapshot_lost(&mut self) {
        if let Some(leader) = self.leader().filter(|leader| *leader != self.id) {
            self.say(leader, &[Word::SnapshotLost]);
        }
    }

    /// What was on its way to a peer is lost; a description of a snapshot, too, unless the peer has said that it fetches.
    fn unreachable(&mut self, peer: MemberId) {
        self.raw.report_unreachable(peer.0);
        if self.snapshots.unheard(peer) {
            self.snapshot_lost(peer);
        }
    }

    fn snapshot_lost(&mut self, to: MemberId) {
        self.snapshots.ended(to);
        self.raw.report_snapshot(to.0, SnapshotStatus::Failure);
    }

    fn hear_removed(&mut self, from: MemberId) {
        // Not alarming otherwise: a message of long ago.
        if self.machine.membership.info(from).is_some() || self.leader() == Some(from) {
            self.leave();
        }
    }

    fn requests_arrive(&mut self, requests: Vec<(Ticket, roadstead_core::request::Request)>) {
        let leader = self.leader();
        for (ticket, request) in requests {
            if self.lead.is_none() {
                self.answer(ticket, Answer::NotLeader { leader });
                continue;
            }
            match self.requests.arrive(ticket, request, self.config.max_waiting) {
                Arrival::Taken => {}
                Arrival::Full => self.answer(ticket, Answer::Overloaded { retry_after_ms: RETRY_AFTER_MS }),
                Arrival::Reused => {
                    let outcome = Outcome::Rejected(Rejection::RequestIdReused);
                    self.answer(ticket, Answer::Outcome { outcome, revision: self.state().revision() });
                }
            }
        }
    }

    fn read_arrives(&mut self, ticket: Ticket) {
        if !self.reads.arrive(Waiter::Read { ticket, since: self.now }) {
            self.answer(ticket, Answer::Overloaded { retry_after_ms: RETRY_AFTER_MS });
        }
    }

    /// Asks for what waits, once there is somebody to ask.
    fn ask_reads(&mut self) {
        let raft = &self.raw.raft;
        let can_ask = if raft.state == StateRole::Leader { raft.commit_to_current_term() } else { raft.leader_id != raft::INVALID_ID };
        if can_ask && let Some(context) = self.reads.ask(self.now) {
            self.raw.read_index(context);
        }
    }

    fn serve_reads(&mut self) {
        let revision = self.state().revision();
        for waiter in self.reads.ready(revision.index) {
            match waiter {
                Waiter::Read { ticket, .. } => self.out.push(Output::ReadReady { ticket, revision }),
                Waiter::Settled { answers, .. } => {
                    for (asked, outcome) in answers {
                        self.conclude(&asked, &Answer::Outcome { outcome, revision });
                    }
                }
            }
        }
    }

    /// The leader that this member knows.
    pub(crate) fn leader(&self) -> Option<MemberId> {
        let leader = self.raw.raft.leader_id;
        (leader != raft::INVALID_ID).then_some(MemberId(leader))
    }

    fn report_role(&mut self) {
        let (leading, leader, term) = (self.lead.as_ref().is_some_and(Lead::decides), self.leader(), self.raw.raft.term);
        let same = self.role.leading == leading
            && self.role.leader == leader
            && self.role.term == term
            && self.role.membership == self.machine.membership;
        if !same {
            self.role = Role { leading, leader, term, membership: self.machine.membership.clone() };
            self.out.push(Output::Role(self.role.clone()));
        }
    }

    /// Sends Raft messages, those to one peer together.
    pub(crate) fn send(&mut self, messages: Vec<Message>) {
        let mut by_peer: BTreeMap<MemberId, Vec<Vec<u8>>> = BTreeMap::new();
        for message in messages {
            let to = MemberId(message.to);
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.snapshots.sent(to, self.now);
            }
            by_peer.entry(to).or_default().push(Word::Raft(Box::new(message)).encode(self.group));
        }
        self.out.extend(by_peer.into_iter().map(|(to, messages)| Output::Send { to, messages }));
    }

    pub(crate) fn say(&mut self, to: MemberId, words: &[Word]) {
        let messages = words.iter().map(|word| word.encode(self.group)).collect();
        self.out.push(Output::Send { to, messages });
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.out.push(Output::Answer { ticket, answer });
    }

    pub(crate) fn alarm(&mut self, what: String) {
        self.out.push(Output::Alarm { what, fatal: false });
    }

    /// This replica must not go on.
    pub(crate) fn fatal(&mut self, what: String) {
        self.out.push(Output::Alarm { what, fatal: true });
        self.stop();
    }

    /// This member was removed.
    pub(crate) fn leave(&mut self) {
        self.report_role();
        self.out.push(Output::Removed);
        self.stop();
    }

    fn stop(&mut self) {
        self.lose_lead();
        let handover = self.handover.take().map(|handover| handover.ticket);
        for ticket in self.reads.give_up().into_iter().chain(handover) {
            self.answer(ticket, Answer::Unknown);
        }
        self.stopped = true;
    }
}

/// Peers that are remembered before those that are no members are forgotten.
const MAX_PEERS: usize = 64;

/// Election time-outs in ticks: a new one for each term, leader and campaign, so that two replicas do not collide for ever.
struct Timeouts {
    seed: u64,
    ticks: usize,
    drawn_for: Option<(u64, u64, u8, usize)>,
}

impl Timeouts {
    fn current(&mut self, (term, leader, role): (u64, u64, u8)) -> usize {
        if let Some((t, l, r, ticks)) = self.drawn_for
            && (t, l, r) == (term, leader, role)
        {
            return ticks;
        }
        let ticks = self.ticks + self.draw() as usize % self.ticks;
        self.drawn_for = Some((term, leader, role, ticks));
        ticks
    }

    /// The next number of a fixed sequence (SplitMix64, Steele, Lea and Flood 2014).
    fn draw(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// What was restored, checked and decoded.
struct Loaded {
    group: GroupId,
    id: MemberId,
    hard_state: HardState,
    snapshot: SnapshotInfo,
    state: Box<State>,
    before: (u64, u64),
    entries: VecDeque<Entry>,
    begins_after: Option<u64>,
}

impl Loaded {
    fn check(config: &Config, restored: Restored) -> Result<Self, String> {
        let Restored { group, id, mut hard_state, snapshot_term, snapshot_index, membership, state, entries } = restored;
        if id.0 == raft::INVALID_ID {
            return Err("a member's id is never 0".to_owned());
        }
        if state.revision().index != snapshot_index {
            return Err(format!("the snapshot is said to end at {snapshot_index}, but its state ends at {}", state.revision()));
        }
        if state.level() > config.supported_level {
            return Err(format!(
                "the snapshot is of feature level {}, this build supports {}: upgrade it",
                state.level().0,
                config.supported_level.0
            ));
        }
        let mut entries = decode_entries(&entries)?;
        let snapshot = SnapshotInfo { term: snapshot_term, index: snapshot_index, membership };
        let first = entries.front().map_or(snapshot_index + 1, |entry| entry.index);
        if first > snapshot_index + 1 {
            return Err(format!("entries {} to {} are missing between the snapshot and the log", snapshot_index + 1, first - 1));
        }
        // A log that does not hold the snapshot's last entry was overtaken by a peer's snapshot before it could be cut.
        let at_snapshot = snapshot_index.checked_sub(first).and_then(|n| entries.get(usize::try_from(n).unwrap_or(usize::MAX)));
        let follows = first == snapshot_index + 1 || at_snapshot.is_some_and(|entry| entry.term == snapshot_term);
        if !follows {
            entries.clear();
        }
        let begins_after = (entries.is_empty() && snapshot_index > 0).then_some(snapshot_index);
        let before = match entries.front() {
            Some(entry) if entry.index <= snapshot_index => (entry.index, entry.term),
            Some(_) | None => (snapshot_index, snapshot_term),
        };
        while entries.front().is_some_and(|entry| entry.index <= before.0) {
            entries.pop_front();
        }
        let (last_index, last_term) = entries.back().map_or((snapshot_index, snapshot_term), |entry| (entry.index, entry.term));
        if hard_state.term < last_term {
            (hard_state.term, hard_state.vote) = (last_term, 0);
        }
        hard_state.commit = hard_state.commit.max(snapshot_index);
        if hard_state.commit > last_index {
            return Err(format!("entries up to {} were committed, but the log ends at {last_index}", hard_state.commit));
        }
        Ok(Self { group, id, hard_state, snapshot, state, before, entries, begins_after })
    }
}

/// Reads a log's entries.
///
/// # Errors
/// Plain words when one is damaged or missing.
pub(crate) fn decode_entries(entries: &[crate::door::LogEntry]) -> Result<VecDeque<Entry>, String> {
    let mut decoded: VecDeque<Entry> = VecDeque::with_capacity(entries.len());
    for kept in entries {
        let bytes = Bytes::copy_from_slice(&kept.bytes);
        let entry = Entry::parse_from_carllerche_bytes(&bytes).map_err(|e| format!("entry {} of the log is damaged: {e}", kept.index))?;
        if (entry.index, entry.term) != (kept.index, kept.term) {
            return Err(format!("entry {} of term {} is kept as {} of term {}", entry.index, entry.term, kept.index, kept.term));
        }
        if decoded.back().is_some_and(|last| last.index + 1 != entry.index || last.term > entry.term) {
            return Err(format!("entry {} of term {} does not follow the one before it", entry.index, entry.term));
        }
        decoded.push_back(entry);
    }
    Ok(decoded)
}
