//! Where requests are while they wait: parked until there is somebody to ask, with this replica's own Raft, or with the leader's.
//!
//! A request that carries a retry id is asked again after an unknown end, until its caller's deadline; the leader's table of request ids keeps
//! that from having a second effect. A forwarded request is never forwarded again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use roadstead_consensus::door::{Answer, Ticket};
use roadstead_consensus::member::MemberId;
use roadstead_core::request::Request;

use super::message::{Asked, Reply};
use crate::handle::{SubmitError, Submitted};

/// Whom requests go to at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// This replica leads and decides.
    Here,
    /// This replica is elected, and will decide in a moment.
    HereSoon,
    /// Another one leads.
    There(MemberId),
    /// Nobody does.
    Nobody,
}

/// A request that somebody is at work on.
#[derive(Debug)]
struct Pending {
    request: Arc<Request>,
    deadline: Instant,
    reply: Reply,
    at: Option<MemberId>,
    /// It was tried before, and came back without an answer.
    maybe_done: bool,
}

/// A request on its way to the leader.
pub(super) type Forward = (u64, Arc<Request>);

/// All requests that have no answer yet.
#[derive(Debug)]
pub(super) struct Router {
    parked: VecDeque<Pending>,
    deferred: Vec<Pending>,
    pending: HashMap<u64, Pending>,
    waiting: Arc<AtomicUsize>,
    next_ticket: u64,
}

impl Router {
    pub(super) fn new(waiting: Arc<AtomicUsize>) -> Self {
        Self { parked: VecDeque::new(), deferred: Vec::new(), pending: HashMap::new(), waiting, next_ticket: 0 }
    }

    /// A ticket that was not used before.
    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Takes in a new request.
    pub(super) fn park(&mut self, asked: Asked) {
        let Asked { request, deadline, reply } = asked;
        self.parked.push_back(Pending { request: Arc::new(request), deadline, reply, at: None, maybe_done: false });
    }

    /// Whether anything waits for somebody to ask.
    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Requests that have no answer yet.
    pub(super) fn len(&self) -> usize {
        self.parked.len() + self.deferred.len() + self.pending.len()
    }

    /// What this replica's Raft is to decide now.
    pub(super) fn take_for_here(&mut self, max: usize) -> Vec<(Ticket, Request)> {
        let count = self.parked.len().min(max);
        let mut requests = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(mut pending) = self.parked.pop_front() else { break };
            pending.at = None;
            let ticket = self.ticket();
            requests.push((ticket, Request::clone(&pending.request)));
            self.pending.insert(ticket.0, pending);
        }
        requests
    }

    /// What is to be forwarded to `leader` now. What came from another replica hears that this one does not lead.
    pub(super) fn take_for_there(&mut self, leader: MemberId) -> Vec<Forward> {
        let mut forwards = Vec::with_capacity(self.parked.len());
        while let Some(mut pending) = self.parked.pop_front() {
            if let Reply::Peer { ticket, done } = &pending.reply {
                let _ = done.send((*ticket, Answer::NotLeader { leader: Some(leader) }));
                self.count_off();
                continue;
            }
            pending.at = Some(leader);
            let ticket = self.ticket();
            forwards.push((ticket.0, Arc::clone(&pending.request)));
            self.pending.insert(ticket.0, pending);
        }
        forwards
    }

    /// Nobody leads: what came from another replica is sent back, the rest stays parked.
    pub(super) fn send_back(&mut self) {
        let before = self.parked.len();
        self.parked.retain(|pending| match &pending.reply {
            Reply::Peer { ticket, done } => {
                let _ = done.send((*ticket, Answer::NotLeader { leader: None }));
                false
            }
            Reply::One(_) | Reply::Many { .. } => true,
        });
        self.waiting.fetch_sub(before - self.parked.len(), Ordering::Relaxed);
    }

    /// Takes over an answer, of this replica's Raft or of the leader's.
    pub(super) fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(mut pending) = self.pending.remove(&ticket) else { return };
        if let Reply::Peer { ticket, done } = &pending.reply {
            let _ = done.send((*ticket, answer));
            self.count_off();
            return;
        }
        match answer {
            Answer::Outcome { outcome, revision } => self.finish(pending.reply, Ok((outcome, revision))),
            // Nothing was done: ask the one that leads by then.
            Answer::NotLeader { .. } => self.deferred.push(pending),
            Answer::Unknown if pending.request.retry.is_some() => {
                pending.maybe_done = true;
                self.deferred.push(pending);
            }
            Answer::Unknown => self.finish(pending.reply, Err(SubmitError::Unknown)),
            Answer::Overloaded { retry_after_ms } => self.finish(pending.reply, Err(SubmitError::Overloaded { retry_after_ms })),
            Answer::Refused { why } => self.finish(pending.reply, Err(SubmitError::Refused { why })),
            Answer::Done { .. } => {
                let why = "a request was answered like a change of the group".to_owned();
                self.finish(pending.reply, Err(SubmitError::Refused { why }));
            }
        }
    }

    /// Peers for which `is_lost` holds will not answer any more.
    pub(super) fn lost(&mut self, is_lost: impl Fn(MemberId) -> bool) {
        let lost: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.at.is_some_and(&is_lost)).map(|(ticket, _)| *ticket).collect();
        for ticket in lost {
            self.answer(ticket, Answer::Unknown);
        }
    }

    /// Lets what was deferred be asked again, in the order of its coming.
    pub(super) fn resume(&mut self) {
        for pending in self.deferred.drain(..).rev() {
            self.parked.push_front(pending);
        }
    }

    /// Gives up on what nobody waits for any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let overdue: Vec<u64> = self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(ticket, _)| *ticket).collect();
        for ticket in overdue {
            if let Some(pending) = self.pending.remove(&ticket) {
                self.finish(pending.reply, Err(SubmitError::Unknown));
            }
        }
        let (overdue, parked): (VecDeque<_>, VecDeque<_>) = self.parked.drain(..).partition(|pending| pending.deadline <= now);
        self.parked = parked;
        for pending in overdue {
            let error = if pending.maybe_done { SubmitError::Unknown } else { SubmitError::Unavailable };
            self.finish(pending.reply, Err(error));
        }
    }

    /// Answers everything that is left: the replica stops.
    pub(super) fn stop(&mut self) {
        self.resume();
        while let Some(pending) = self.parked.pop_front() {
            self.finish(pending.reply, Err(SubmitError::Stopping));
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.finish(pending.reply, Err(SubmitError::Unknown));
        }
    }

    fn finish(&self, reply: Reply, submitted: Submitted) {
        // A caller that has gone away needs no answer.
        match reply {
            Reply::One(done) => drop(done.send(submitted)),
            Reply::Many { key, done } => drop(done.send((key, submitted))),
            Reply::Peer { ticket, done } => drop(done.send((ticket, Answer::Unknown))),
        }
        self.count_off();
    }

    fn count_off(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
