//! Requests on their way: those that wait to be decided, and those in entries that are not yet applied.
//!
//! It knows who asked what and in which entry it travels; deciding and applying are done elsewhere.

use std::collections::{BTreeMap, VecDeque};

use roadstead_core::agreement;
use roadstead_core::command::{Batch, Outcome};
use roadstead_core::id::RequestId;
use roadstead_core::request::{Ask, Principal, Report, Request};

use crate::door::Ticket;

/// Entries of requests that may be in the log and not yet applied. More of them hide the disk's and the network's latency; fewer of them
/// make larger entries, which cost less for each request.
pub(crate) const MAX_ENTRIES_IN_FLIGHT: usize = 16;
/// Times that one request is decided before it is refused as overload: each time, another entry was faster.
pub(crate) const MAX_DECISIONS: u8 = 8;
/// Milliseconds after which a refused request may come again: some entries have been applied by then.
pub(crate) const RETRY_AFTER_MS: u64 = 100;
/// What one request adds to an entry beside its texts, in bytes, about.
const REQUEST_BYTES: usize = 256;

/// A request and who waits for it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ticket: Ticket,
    pub(crate) request: Request,
    pub(crate) decisions: u8,
}

/// An entry that this leader has proposed.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// Kept so that it need not be decoded again.
    pub(crate) batch: Batch,
    /// Who asked for each command; nobody for the leader's own initiative.
    pub(crate) askers: Vec<Option<Asked>>,
    /// Decided along with them, without a command of their own.
    pub(crate) settled: Vec<(Asked, Outcome)>,
}

type Key = (RequestId, Principal);

/// Others that came with the same id while the first was on its way.
#[derive(Debug)]
struct Same {
    fingerprint: u64,
    tickets: Vec<Ticket>,
}

/// All requests on their way, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    waiting: VecDeque<Asked>,
    in_flight: VecDeque<Proposal>,
    by_id: BTreeMap<Key, Same>,
    /// Tickets without an answer.
    open: usize,
}

/// What becomes of a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It waits, or shares the answer of the same request that came before.
    Taken,
    /// Too many wait.
    Full,
    /// The id is on its way with another body.
    Reused,
}

impl Requests {
    /// Takes a request in, unless `max` are open already.
    pub(crate) fn arrive(&mut self, ticket: Ticket, request: Request, max: usize) -> Arrival {
        if self.open >= max {
            return Arrival::Full;
        }
        if let Some(retry) = request.retry {
            let key = (retry.id, request.principal.clone());
            match self.by_id.get_mut(&key) {
                Some(same) if same.fingerprint != retry.fingerprint => return Arrival::Reused,
                Some(same) => {
                    same.tickets.push(ticket);
                    self.open += 1;
                    return Arrival::Taken;
                }
                None => {
                    self.by_id.insert(key, Same { fingerprint: retry.fingerprint, tickets: Vec::new() });
                }
            }
        }
        self.open += 1;
        self.waiting.push_back(Asked { ticket, request, decisions: 0 });
        Arrival::Taken
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn entries_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether an entry of the leader's own initiative is in flight.
    pub(crate) fn initiative_in_flight(&self) -> bool {
        self.in_flight.iter().any(|proposal| proposal.askers.iter().any(Option::is_none))
    }

    /// The next requests for one entry: at most `max`, and about `max_bytes` (but always one).
    pub(crate) fn next(&mut self, max: usize, max_bytes: usize) -> Vec<Asked> {
        let mut bytes = 0;
        let fits = |asked: &&Asked| {
            let first = bytes == 0;
            bytes += approximate_bytes(&asked.request);
            first || bytes <= max_bytes
        };
        let count = self.waiting.iter().take(max).take_while(fits).count();
        self.waiting.drain(..count).collect()
    }

    /// Puts requests back in front, in their order.
    pub(crate) fn put_back(&mut self, asked: impl DoubleEndedIterator<Item = Asked>) {
        for one in asked.rev() {
            self.waiting.push_front(one);
        }
    }

    /// An entry was proposed.
    pub(crate) fn proposed(&mut self, proposal: Proposal) {
        self.in_flight.push_back(proposal);
    }

    /// The proposal that became the entry now applied, if it is ours.
    pub(crate) fn take_applied(&mut self, index: u64, term: u64) -> Option<Proposal> {
        let ours = self.in_flight.front().is_some_and(|front| front.index == index && front.term == term);
        if ours { self.in_flight.pop_front() } else { None }
    }

    /// Everybody who waits for this request's answer; it is on its way no more.
    pub(crate) fn close(&mut self, asked: &Asked) -> impl Iterator<Item = Ticket> + use<> {
        let same = asked.request.retry.and_then(|retry| self.by_id.remove(&(retry.id, asked.request.principal.clone())));
        let others = same.map(|same| same.tickets).unwrap_or_default();
        self.open -= 1 + others.len();
        std::iter::once(asked.ticket).chain(others)
    }

    /// Gives up on everything: first the proposed ones, whose fate is unknown, then those that were never proposed.
    pub(crate) fn give_up(&mut self) -> (Vec<Ticket>, Vec<Ticket>) {
        let in_flight = std::mem::take(&mut self.in_flight).into_iter();
        let proposed: Vec<Asked> =
            in_flight.flat_map(|p| p.askers.into_iter().flatten().chain(p.settled.into_iter().map(|(asked, _)| asked))).collect();
        let waiting = std::mem::take(&mut self.waiting);
        let unknown = proposed.iter().flat_map(|asked| self.close(asked)).collect();
        let untouched = waiting.iter().flat_map(|asked| self.close(asked)).collect();
        (unknown, untouched)
    }
}

/// What a request adds to an entry, in bytes, about.
fn approximate_bytes(request: &Request) -> usize {
    let texts = match &request.ask {
        Ask::PlaceTenant { spec, .. } | Ask::UpdateTenant { spec, .. } | Ask::AdoptTenant { spec, .. } => {
            spec.values.len() + spec.hostnames.iter().map(String::len).sum::<usize>()
        }
        Ask::PutClass { class } => class.template.len() + class.values_schema.len(),
        Ask::Report(report) => approximate_report_bytes(report),
        Ask::Observe(observation) => {
            let told =
                observation.tenants.iter().map(|seen| 32 + seen.volumes.len() * 32 + seen.trouble.as_ref().map_or(0, |(_, why)| why.len()));
            told.sum::<usize>() + approximate_report_bytes(&observation.report)
        }
        Ask::PutCluster { .. } | Ask::PutPool { .. } | Ask::PutPolicy { .. } => REQUEST_BYTES,
        Ask::ReleaseTenant { .. }
        | Ask::UndeleteTenant { .. }
        | Ask::CordonCluster { .. }
        | Ask::DeleteCluster { .. }
        | Ask::DeletePool { .. }
        | Ask::DeleteClass { .. }
        | Ask::WaiveFence { .. }
        | Ask::PutToken { .. }
        | Ask::SpendToken(_)
        | Ask::NoteCluster(_)
        | Ask::NoteGrowth(_) => 0,
        Ask::AllowRemovals { count, .. } => 16 * (*count as usize).min(agreement::MAX_TENANTS),
    };
    REQUEST_BYTES + texts
}

fn approximate_report_bytes(report: &Report) -> usize {
    report.tenants.len() * 32 + report.capacity.as_ref().map_or(0, |capacity| capacity.nodes.len() * 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_core::request::Retry;

    fn request(id: u128, fingerprint: u64) -> Request {
        let principal = Principal::new("client:test").unwrap();
        Request { principal, retry: Some(Retry { id: RequestId(id), fingerprint }), ask: Ask::WaiveFence { cluster: None } }
    }

    #[test]
    fn the_same_request_twice_travels_once_and_answers_both() {
        let mut requests = Requests::default();
        assert_eq!(requests.arrive(Ticket(1), request(7, 1), 10), Arrival::Taken);
        assert_eq!(requests.arrive(Ticket(2), request(7, 1), 10), Arrival::Taken);
        assert_eq!(requests.arrive(Ticket(3), request(7, 2), 10), Arrival::Reused);
        let next = requests.next(10, 1_000_000);
        assert_eq!(next.len(), 1);
        assert_eq!(requests.close(&next[0]).collect::<Vec<_>>(), [Ticket(1), Ticket(2)]);
        assert_eq!(requests.open, 0);
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_in_flight_counts() {
        let mut requests = Requests::default();
        requests.arrive(Ticket(1), request(1, 1), 2);
        requests.arrive(Ticket(2), request(2, 1), 2);
        let taken = requests.next(10, 1_000_000);
        assert_eq!(requests.arrive(Ticket(3), request(3, 1), 2), Arrival::Full);
        requests.close(&taken[0]).for_each(drop);
        assert_eq!(requests.arrive(Ticket(3), request(3, 1), 2), Arrival::Taken);
    }

    #[test]
    fn an_entry_is_bounded_by_count_and_by_bytes_but_never_empty() {
        let mut requests = Requests::default();
        for n in 1..=5 {
            requests.arrive(Ticket(n), request(u128::from(n), 1), 10);
        }
        assert_eq!(requests.next(2, 1_000_000).len(), 2);
        assert_eq!(requests.next(10, 1).len(), 1);
        assert_eq!(requests.next(10, 1_000_000).len(), 2);
    }

    #[test]
    fn giving_up_tells_the_proposed_from_the_untouched() {
        let mut requests = Requests::default();
        requests.arrive(Ticket(1), request(1, 1), 10);
        requests.arrive(Ticket(2), request(1, 1), 10);
        let askers = requests.next(10, 1_000_000).into_iter().map(Some).collect();
        let batch = Batch { level: roadstead_core::command::FIRST_LEVEL, time: roadstead_core::time::Timestamp(0), commands: Vec::new() };
        requests.proposed(Proposal { index: 5, term: 2, batch, askers, settled: Vec::new() });
        requests.arrive(Ticket(3), request(3, 1), 10);
        assert_eq!(requests.give_up(), (vec![Ticket(1), Ticket(2)], vec![Ticket(3)]));
        assert_eq!((requests.open, requests.by_id.len()), (0, 0));
    }
}
