//! The thread that owns the replica: it gathers inputs, and carries out outputs in the order in which they came.
//!
//! Everything else talks to it through one channel. It never waits for a disk (the log and snapshot threads do) nor for a peer (links have
//! bounded queues). Modules in reading order: [`message`] (what can be said to it), `routing` (where requests are while they wait),
//! `reads` (who waits for a linearizable copy), `disk` (the threads that sync).

pub mod message;
mod routing;
mod reads;
pub mod disk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use roadstead_consensus::door::{Answer, Input, Monotonic, Output, Role, Ticket};
use roadstead_consensus::member::{GroupId, MemberId};
use roadstead_consensus::replica::Replica;
use roadstead_core::command::FeatureLevel;
use roadstead_core::id::Revision;
use roadstead_core::state::State;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use self::disk::{Disk, SnapshotJob};
use self::message::{Change, ToDriver};
use self::reads::Reads;
use self::routing::{Router, Target};
use crate::config::TICK_MS;
use crate::handle::{AppliedEntry, Heard, MAX_SUBSCRIBER_LAG, Status, SubmitError, Subscription};
use crate::metrics::Metrics;
use crate::peers::Peers;

/// Messages taken in before the replica's outputs are looked after: enough for a full batch, below a tick of work.
const MAX_DRAIN: usize = 1024;
/// Requests handed to the replica at once; what is more waits for the next round.
const MAX_PROPOSE: usize = 4096;
/// Writes on their way to the disk while which new requests are held back: one being synced and one filling up, so that what comes
/// meanwhile shares an entry and a sync.
const MAX_WRITES_IN_FLIGHT: u64 = 2;
/// How often deadlines of requests and reads are looked over.
const LOOK_OVER: Duration = Duration::from_millis(20);
/// How long a change of the group may take: it waits for a commit, or for an election.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the driver came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// The replica cannot go on; plain words.
    Failed(String),
}

/// What the driver thread is made of.
pub(crate) struct Parts {
    pub(crate) replica: Replica,
    pub(crate) group: GroupId,
    pub(crate) log_backend: &'static str,
    pub(crate) inbox: Receiver<ToDriver>,
    pub(crate) disk: DiskParts,
    pub(crate) peers: Arc<Peers>,
    pub(crate) role: watch::Sender<Role>,
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sender: Sender<ToDriver>,
}

/// What the disk threads are made of.
pub(crate) struct DiskParts {
    pub(crate) log: Box<dyn crate::log::Log>,
    pub(crate) snapshots: disk::SnapshotWriter,
}

struct Driver {
    replica: Replica,
    group: GroupId,
    log_backend: &'static str,
    inbox: Receiver<ToDriver>,
    disk: Disk,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
    role: watch::Sender<Role>,
    target: Target,
    router: Router,
    reads: Reads,
    changes: BTreeMap<Ticket, Changing>,
    subscribers: Vec<mpsc::Sender<Arc<AppliedEntry>>>,
    frozen: Option<(Revision, Arc<State>)>,
    inbound: Vec<(MemberId, FeatureLevel, Vec<Vec<u8>>)>,
    began: Instant,
    next_tick: Instant,
    next_look_over: Instant,
    ended: Option<Ended>,
}

/// A change of the group on its way.
struct Changing {
    change: Change,
    deadline: Instant,
    reply: oneshot::Sender<Result<Revision, SubmitError>>,
}

/// Starts the thread; `ended` tells how it came to its end.
pub(crate) fn spawn(parts: Parts, ended: oneshot::Sender<Ended>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let Parts { replica, group, log_backend, inbox, disk, peers, role, waiting, metrics, sender } = parts;
    let disk = Disk::start(disk.log, disk.snapshots, &sender, &metrics)?;
    let now = Instant::now();
    let driver = Driver {
        replica,
        group,
        log_backend,
        inbox,
        disk,
        peers,
        metrics,
        role,
        target: Target::Nobody,
        router: Router::new(waiting),
        reads: Reads::default(),
        changes: BTreeMap::new(),
        subscribers: Vec::new(),
        frozen: None,
        inbound: Vec::new(),
        began: now,
        next_tick: now,
        next_look_over: now,
        ended: None,
    };
    std::thread::Builder::new().name("driver".to_owned()).spawn(move || {
        // Nobody listens any more if the server was dropped.
        let _ = ended.send(driver.run());
    })
}

impl Driver {
    fn run(mut self) -> Ended {
        loop {
            self.gather();
            self.deliver_messages();
            self.ask_the_leader();
            self.confirm_reads();
            self.tick();
            if let Some(ended) = self.ended.take() {
                self.stop(&ended);
                return ended;
            }
        }
    }

    /// Waits for something to do, and takes in everything that is there.
    fn gather(&mut self) {
        let now = Instant::now();
        let next = self.reads.due_at(now).filter(|_| self.may_ask()).map_or(self.next_tick, |due| due.min(self.next_tick));
        let wait = next.saturating_duration_since(now);
        match self.inbox.recv_timeout(wait) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = Some(Ended::Stopped);
                return;
            }
        }
        for _ in 0..MAX_DRAIN {
            match self.inbox.try_recv() {
                Ok(message) => self.take(message),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, message: ToDriver) {
        match message {
            ToDriver::Request(asked) => self.router.park(asked),
            ToDriver::Requests(many) => many.into_iter().for_each(|asked| self.router.park(asked)),
            ToDriver::ReadFresh(reader) => self.reads.add(reader),
            ToDriver::ReadNewest(reader) => {
                let _ = reader.reply.send(Ok(self.frozen()));
            }
            ToDriver::Subscribe(reply) => self.subscribe(reply),
            ToDriver::Status(reply) => drop(reply.send(self.status())),
            ToDriver::Change(change, reply) => self.change(change, Instant::now() + CHANGE_TIMEOUT, reply),
            ToDriver::Heard(clusters) => self.heard(clusters),
            ToDriver::LastHeard { ask_leader, reply } => self.last_heard(ask_leader, reply),
            ToDriver::AskAgent { cluster, question, reply } => self.peers.ask_agent(cluster, &question, reply),
            ToDriver::Messages { from, level, messages } => self.take_messages(from, level, messages),
            ToDriver::PeerAddress { id, address } => self.peers.learn_address(id, address),
            ToDriver::Answers { from: _, answers } => {
                for (ticket, answer) in answers {
                    self.router.answer(ticket, answer);
                }
            }
            ToDriver::LinkLost(peer) => {
                self.router.lost(|at| at == peer);
                self.on(Input::Unreachable(peer));
            }
            ToDriver::LinkFull(peer) => self.on(Input::Unreachable(peer)),
            ToDriver::Persisted(number) => {
                self.disk.persisted(number);
                self.on(Input::Persisted { number });
            }
            ToDriver::SnapshotTaken { index, took, bytes } => {
                info!(index, took_ms = took.as_millis(), bytes, "snapshot taken");
                self.metrics.snapshot_taken(took, bytes);
                self.on(Input::SnapshotTaken { index });
            }
            ToDriver::SnapshotInstalled { term, index, membership, state } => {
                info!(term, index, "snapshot of a peer received");
                self.on(Input::SnapshotInstalled { term, index, membership, state });
            }
            ToDriver::SnapshotFailed { term, index } => self.on(Input::SnapshotFailed { term, index }),
            ToDriver::SnapshotDelivered { to, ok } => self.on(Input::SnapshotDelivered { to, ok }),
            ToDriver::Failed(why) => self.ended = Some(Ended::Failed(why)),
            ToDriver::Stop => self.ended = Some(Ended::Stopped),
        }
    }

    /// Gathers messages by peer, so that one input carries all that have come.
    fn take_messages(&mut self, from: MemberId, level: FeatureLevel, messages: Vec<Vec<u8>>) {
        self.peers.taken(messages.len());
        match self.inbound.iter_mut().find(|(peer, known, _)| *peer == from && *known == level) {
            Some((_, _, waiting)) => waiting.extend(messages),
            None => self.inbound.push((from, level, messages)),
        }
    }

    fn deliver_messages(&mut self) {
        for (from, level, messages) in std::mem::take(&mut self.inbound) {
            self.on(Input::Messages { from, level, messages });
        }
    }

    /// Hands what is parked to whoever leads.
    fn ask_the_leader(&mut self) {
        if !self.router.has_parked() {
            return;
        }
        match self.target {
            Target::Here if self.disk.in_flight() < MAX_WRITES_IN_FLIGHT => {
                let requests = self.router.take_for_here(MAX_PROPOSE);
                self.metrics.batch(requests.len());
                self.on(Input::Requests(requests));
            }
            Target::There(leader) if self.router.worth_forwarding() => {
                let forwards = self.router.take_for_there(leader);
                self.peers.forward(leader, forwards);
            }
            Target::Here | Target::HereSoon | Target::There(_) => {}
            Target::Nobody => self.router.send_back(),
        }
    }

    /// Whether there is a leader who confirms reads.
    fn may_ask(&self) -> bool {
        !matches!(self.target, Target::Nobody | Target::HereSoon)
    }

    fn confirm_reads(&mut self) {
        let now = Instant::now();
        if self.may_ask() && self.reads.due_at(now).is_some_and(|due| due <= now) {
            let ticket = self.router.ticket();
            self.reads.asked(ticket);
            self.on(Input::Read(ticket));
        }
    }

    /// Lets time pass. After a long delay of this thread only one tick passes: messages that waited meanwhile count first.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + Duration::from_millis(TICK_MS);
            self.on(Input::Tick);
            self.router.resume();
        }
        if now >= self.next_look_over {
            self.next_look_over = now + LOOK_OVER;
            self.look_over(now);
        }
    }

    fn look_over(&mut self, now: Instant) {
        self.router.expire(now);
        self.reads.look_over(now);
        let overdue: Vec<Ticket> = self.changes.iter().filter(|(_, change)| change.deadline <= now).map(|(ticket, _)| *ticket).collect();
        for ticket in overdue {
            if let Some(changing) = self.changes.remove(&ticket) {
                let _ = changing.reply.send(Err(SubmitError::Unknown));
            }
        }
        self.subscribers.retain(|subscriber| !subscriber.is_closed());
        self.metrics.queues(self.router.len(), self.reads.len());
    }

    /// The one door, and everything that comes out of it.
    fn on(&mut self, input: Input) {
        let now = Monotonic(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        for output in self.replica.on(input, now) {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { to, messages } => self.peers.send(to, messages),
            Output::Persist { number, write } => self.disk.persist(number, write),
            Output::Applied { index, time, applied } => {
                for alarm in &applied.alarms {
                    error!(index, alarm, "an invariant would have been broken; the command was rejected");
                }
                self.metrics.applied(index, applied.outcomes.len());
                self.publish(AppliedEntry { index, time, applied });
            }
            Output::Replaced { revision, time: _ } => {
                info!(%revision, "the state was replaced as a whole");
                self.subscribers.clear();
            }
            Output::Answer { ticket, answer } => self.answer(ticket, answer),
            Output::ReadReady { ticket, revision: _ } => {
                let state = self.frozen();
                self.reads.ready(ticket, || state);
            }
            Output::FetchSnapshot { from, term, index } => {
                info!(%from, term, index, "fetching a peer's snapshot");
                self.peers.fetch_snapshot(from, term, index);
            }
            Output::TakeSnapshot { term, index, membership, state } => {
                self.disk.take_snapshot(SnapshotJob { term, index, membership, state });
            }
            Output::Compact { through } => self.disk.compact(through),
            Output::Role(role) => self.take_role(role),
            Output::Removed => {
                let why = "this member was removed from the group; remove its folder, and join again as a new member if it is wanted back";
                self.ended = Some(Ended::Failed(why.to_owned()));
            }
            Output::Alarm { what, fatal } => {
                error!(what, fatal, "alarm");
                if fatal {
                    self.ended = Some(Ended::Failed(what));
                }
            }
        }
    }

    fn take_role(&mut self, role: Role) {
        let me = self.replica.id();
        let before = self.target;
        self.target = match role.leader {
            _ if role.leading => Target::Here,
            Some(leader) if leader == me => Target::HereSoon,
            Some(leader) => Target::There(leader),
            None => Target::Nobody,
        };
        if before != self.target {
            info!(term = role.term, leading = role.leading, leader = ?role.leader.map(|id| id.to_string()), "role");
        }
        self.peers.set_members(&role.membership);
        self.metrics.role(&role);
        match self.target {
            // Nobody learns of an answer from one who leads no more.
            Target::There(leader) => self.router.lost(|at| at != leader),
            Target::Here | Target::HereSoon => self.router.lost(|_| true),
            Target::Nobody => {}
        }
        self.router.resume();
        self.role.send_replace(role);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if let Some(Changing { change, deadline, reply }) = self.changes.remove(&ticket) {
            match answer {
                Answer::Done { revision } | Answer::Outcome { revision, .. } => drop(reply.send(Ok(revision))),
                Answer::NotLeader { .. } => self.change(change, deadline, reply),
                Answer::Unknown => drop(reply.send(Err(SubmitError::Unknown))),
                Answer::Overloaded { retry_after_ms } => drop(reply.send(Err(SubmitError::Overloaded { retry_after_ms }))),
                Answer::Refused { why } => drop(reply.send(Err(SubmitError::Refused { why }))),
            }
            return;
        }
        match answer {
            Answer::NotLeader { .. } | Answer::Unknown | Answer::Refused { .. } | Answer::Overloaded { .. } => self.reads.failed(ticket),
            Answer::Outcome { .. } | Answer::Done { .. } => {}
        }
        if let Answer::Outcome { outcome, .. } = &answer {
            self.metrics.outcome(outcome);
        }
        self.router.answer(ticket.0, answer);
    }

    fn change(&mut self, change: Change, deadline: Instant, reply: oneshot::Sender<Result<Revision, SubmitError>>) {
        let leader = match self.target {
            Target::Here => None,
            Target::There(leader) => Some(leader),
            Target::HereSoon | Target::Nobody => {
                let _ = reply.send(Err(SubmitError::Unavailable));
                return;
            }
        };
        if let Some(leader) = leader {
            if matches!(change, Change::Restore { .. }) {
                let role = self.role.borrow();
                let address = role.membership.info(leader).map_or("unknown", |info| &info.client_address);
                let why = format!("only the leader restores: ask it at {address}");
                let _ = reply.send(Err(SubmitError::Refused { why }));
                return;
            }
            self.peers.change(leader, change, reply);
            return;
        }
        let ticket = self.router.ticket();
        let input = match change.clone() {
            Change::Add { id, info } => Input::AddMember { ticket, id, info },
            Change::Remove { id } => Input::RemoveMember { ticket, id },
            Change::Transfer { to } => Input::Transfer { ticket, to },
            Change::Restore { state, chunks } => Input::Restore { ticket, state, chunks },
        };
        self.changes.insert(ticket, Changing { change, deadline, reply });
        self.on(input);
    }

    fn heard(&mut self, clusters: Vec<roadstead_core::id::ClusterId>) {
        match self.target {
            Target::Here | Target::HereSoon => clusters.into_iter().for_each(|cluster| self.on(Input::Heard(cluster))),
            Target::There(leader) => self.peers.heard(leader, clusters),
            // Agents report again and again.
            Target::Nobody => {}
        }
    }

    fn last_heard(&self, ask_leader: bool, reply: oneshot::Sender<Option<Heard>>) {
        match self.target {
            Target::There(leader) if ask_leader => self.peers.last_heard(leader, reply),
            Target::Here | Target::HereSoon | Target::There(_) | Target::Nobody => {
                let known = self.replica.contacts().map(|(contacts, now)| Heard { now, last: contacts.last_heard.clone() });
                // Whoever asked may have gone away.
                let _ = reply.send(known);
            }
        }
    }

    /// The applied state as a frozen copy, the same one for everybody until something more is applied.
    fn frozen(&mut self) -> Arc<State> {
        let revision = self.replica.state().revision();
        match &self.frozen {
            Some((at, state)) if *at == revision => Arc::clone(state),
            _ => {
                let state = Arc::new(self.replica.state().clone());
                self.frozen = Some((revision, Arc::clone(&state)));
                state
            }
        }
    }

    fn subscribe(&mut self, reply: oneshot::Sender<Subscription>) {
        let (sender, entries) = mpsc::channel(MAX_SUBSCRIBER_LAG);
        if reply.send(Subscription { state: self.frozen(), entries }).is_ok() {
            self.subscribers.push(sender);
        }
    }

    fn publish(&mut self, entry: AppliedEntry) {
        // A copy that nobody asks for again is not kept alive by us.
        self.frozen = None;
        let entry = Arc::new(entry);
        self.subscribers.retain(|subscriber| match subscriber.try_send(Arc::clone(&entry)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                warn!(index = entry.index, "a subscriber of applied entries is too far behind and was cut off");
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn status(&self) -> Status {
        let applied = self.replica.state().revision();
        Status {
            group: self.group,
            id: self.replica.id(),
            role: self.role.borrow().clone(),
            applied,
            committed: self.replica.committed(),
            log_backend: self.log_backend,
            progress: self.replica.progress(),
        }
    }

    fn stop(&mut self, ended: &Ended) {
        match ended {
            Ended::Stopped => info!("replica stopped"),
            Ended::Failed(why) => error!(why, "replica stopped: it cannot go on"),
        }
        self.disk.stop();
        self.router.stop();
        self.reads.stop();
        self.changes.clear();
        self.subscribers.clear();
    }
}
