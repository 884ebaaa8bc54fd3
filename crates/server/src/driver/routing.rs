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
    /// Of those pending, how many another replica is at work on.
    forwarded: usize,
    waiting: Arc<AtomicUsize>,
    next_ticket: u64,
}

impl Router {
    pub(super) fn new(waiting: Arc<AtomicUsize>) -> Self {
        Self { parked: VecDeque::new(), deferred: Vec::new(), pending: HashMap::new(), forwarded: 0, waiting, next_ticket: 0 }
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

    /// Whether as many wait as the leader is already at work on for this replica. Till then they wait for each other (at most for those
    /// answers): a message for each of them would cost more than deciding it.
    pub(super) fn worth_forwarding(&self) -> bool {
        self.parked.len() >= self.forwarded
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
            self.forwarded += 1;
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
        let Some(mut pending) = self.take_pending(ticket) else { return };
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
            if let Some(pending) = self.take_pending(ticket) {
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

    fn take_pending(&mut self, ticket: u64) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        self.forwarded -= usize::from(pending.at.is_some());
        Some(pending)
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

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_core::id::{Owner, RequestId};
    use roadstead_core::request::{Ask, Retry};
    use std::time::Duration;
    use tokio::sync::oneshot;

    const LEADER: MemberId = MemberId(7);

    fn park(router: &mut Router, id: u128) -> oneshot::Receiver<Submitted> {
        let (reply, answer) = oneshot::channel();
        let retry = Some(Retry { id: RequestId(id), fingerprint: 1 });
        let request = Request { principal: Owner::new("client:test").unwrap(), retry, ask: Ask::WaiveFence { cluster: None } };
        router.waiting.fetch_add(1, Ordering::Relaxed);
        router.park(Asked { request, deadline: Instant::now() + Duration::from_secs(60), reply: Reply::One(reply) });
        answer
    }

    #[test]
    fn requests_wait_for_each_other_while_the_leader_is_at_work_on_more() {
        let mut router = Router::new(Arc::default());
        let _answers: Vec<_> = (0..3).map(|id| park(&mut router, id)).collect();
        assert!(router.worth_forwarding(), "nothing is on its way");
        let forwarded = router.take_for_there(LEADER);
        let _fourth = park(&mut router, 3);
        assert!(!router.worth_forwarding());
        router.answer(forwarded[0].0, Answer::Overloaded { retry_after_ms: 1 });
        router.answer(forwarded[1].0, Answer::Overloaded { retry_after_ms: 1 });
        assert!(router.worth_forwarding(), "as many wait as are on their way");
    }

    #[test]
    fn what_a_lost_leader_leaves_is_asked_again_under_the_same_id() {
        let mut router = Router::new(Arc::default());
        let mut answer = park(&mut router, 1);
        let first = router.take_for_there(LEADER);
        router.lost(|at| at == LEADER);
        assert!(answer.try_recv().is_err(), "its caller still waits");
        router.resume();
        assert!(router.worth_forwarding());
        let again = router.take_for_there(MemberId(8));
        assert_eq!(again[0].1.retry, first[0].1.retry);
        assert_ne!(again[0].0, first[0].0, "a late answer of the lost one is not taken for the new one's");
    }
}
