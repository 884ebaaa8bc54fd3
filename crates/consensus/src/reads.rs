//! Linearizable reads: who waits, which context asks for them, and when the applied state is new enough.
//!
//! Many reads share one context. raft-rs drops a context without a word when its leader has not yet committed in its term, and the network
//! may lose one; each is asked again after a while under a new context. Answers that a leader gives without an entry wait here, too: they are
//! as good as reads.

use std::collections::BTreeMap;

use roadstead_core::command::Outcome;

use crate::batch::Asked;
use crate::door::{Monotonic, Ticket};
use crate::member::MemberId;

/// Reads that may wait before new ones are refused.
pub(crate) const MAX_OPEN: usize = 1 << 17;
/// Contexts on their way: the next one takes along everything that came meanwhile.
const MAX_CONTEXTS: usize = 4;
/// Milliseconds after which a read that nobody confirms is given up: the group has no leader.
pub(crate) const GIVE_UP_MS: u64 = 10_000;

/// Who waits.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A caller's read, since then.
    Read { ticket: Ticket, since: Monotonic },
    /// Requests that a leader settled without an entry; what it looked at includes its entries up to `after`.
    Settled { answers: Vec<(Asked, Outcome)>, after: u64 },
}

#[derive(Debug)]
struct Context {
    waiters: Vec<Waiter>,
    asked: Monotonic,
}

/// All reads on their way.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Makes contexts unlike those of other members and of earlier runs.
    prefix: [u64; 2],
    last: u64,
    waiting: Vec<Waiter>,
    asked: BTreeMap<u64, Context>,
    /// By the index that must be applied.
    confirmed: BTreeMap<u64, Vec<Waiter>>,
    open: usize,
}

impl Reads {
    pub(crate) fn new(id: MemberId, nonce: u64) -> Self {
        Self { prefix: [id.0, nonce], last: 0, waiting: Vec::new(), asked: BTreeMap::new(), confirmed: BTreeMap::new(), open: 0 }
    }

    /// Takes a read in; `false` if too many wait.
    pub(crate) fn arrive(&mut self, waiter: Waiter) -> bool {
        let bounded = matches!(waiter, Waiter::Read { .. });
        if bounded && self.open >= MAX_OPEN {
            return false;
        }
        self.open += usize::from(bounded);
        self.waiting.push(waiter);
        true
    }

    /// The next context to ask for, if anything waits for one.
    pub(crate) fn ask(&mut self, now: Monotonic) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.asked.len() >= MAX_CONTEXTS {
            return None;
        }
        self.last += 1;
        self.asked.insert(self.last, Context { waiters: std::mem::take(&mut self.waiting), asked: now });
        let numbers = [self.prefix[0], self.prefix[1], self.last];
        Some(numbers.iter().flat_map(|number| number.to_be_bytes()).collect())
    }

    /// A context was confirmed at this index.
    pub(crate) fn confirm(&mut self, context: &[u8], index: u64) {
        let Some((prefix, number)) = context.split_at_checked(16) else { return };
        if prefix != self.prefix.map(u64::to_be_bytes).concat() {
            return;
        }
        let Ok(number) = number.try_into().map(u64::from_be_bytes) else { return };
        let Some(context) = self.asked.remove(&number) else { return };
        for waiter in context.waiters {
            let needs = match &waiter {
                Waiter::Read { .. } => index,
                Waiter::Settled { after, .. } => index.max(*after),
            };
            self.confirmed.entry(needs).or_default().push(waiter);
        }
    }

    /// Everybody whose index is applied.
    pub(crate) fn ready(&mut self, applied: u64) -> Vec<Waiter> {
        let mut ready = Vec::new();
        while let Some(first) = self.confirmed.first_entry()
            && *first.key() <= applied
        {
            ready.append(&mut first.remove());
        }
        self.open -= ready.iter().filter(|waiter| matches!(waiter, Waiter::Read { .. })).count();
        ready
    }

    /// Asks again for what nobody confirmed within `patience_ms`, and gives up what has waited too long.
    pub(crate) fn tick(&mut self, now: Monotonic, patience_ms: u64) -> Vec<Ticket> {
        let late: Vec<u64> =
            self.asked.iter().filter(|(_, context)| context.asked.0 + patience_ms <= now.0).map(|(number, _)| *number).collect();
        for number in late {
            let context = self.asked.remove(&number).expect("its number was just read");
            self.waiting.extend(context.waiters);
        }
        let expired = |waiter: &mut Waiter| matches!(waiter, Waiter::Read { since, .. } if since.0 + GIVE_UP_MS <= now.0);
        let given_up: Vec<Ticket> = self.waiting.extract_if(.., expired).filter_map(|waiter| waiter.ticket()).collect();
        self.open -= given_up.len();
        given_up
    }

    /// What a leader settled is void when it leads no more.
    pub(crate) fn take_settled(&mut self) -> Vec<Asked> {
        let settled = |waiter: &mut Waiter| matches!(waiter, Waiter::Settled { .. });
        let mut taken: Vec<Waiter> = self.waiting.extract_if(.., settled).collect();
        for context in self.asked.values_mut() {
            taken.extend(context.waiters.extract_if(.., settled));
        }
        for waiters in self.confirmed.values_mut() {
            taken.extend(waiters.extract_if(.., settled));
        }
        let asked = |waiter| match waiter {
            Waiter::Settled { answers, .. } => answers,
            Waiter::Read { .. } => Vec::new(),
        };
        taken.into_iter().flat_map(asked).map(|(asked, _)| asked).collect()
    }

    /// Every read, when the replica stops.
    pub(crate) fn give_up(&mut self) -> Vec<Ticket> {
        let asked = std::mem::take(&mut self.asked).into_values().flat_map(|context| context.waiters);
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        self.open = 0;
        std::mem::take(&mut self.waiting).into_iter().chain(asked).chain(confirmed).filter_map(|waiter| waiter.ticket()).collect()
    }
}

impl Waiter {
    fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Read { ticket, .. } => Some(*ticket),
            Self::Settled { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ticket: u64) -> Waiter {
        Waiter::Read { ticket: Ticket(ticket), since: Monotonic(0) }
    }

    fn tickets(waiters: Vec<Waiter>) -> Vec<Ticket> {
        waiters.iter().filter_map(Waiter::ticket).collect()
    }

    #[test]
    fn reads_share_a_context_and_wait_until_it_is_applied() {
        let mut reads = Reads::new(MemberId(1), 0);
        reads.arrive(read(1));
        reads.arrive(read(2));
        let context = reads.ask(Monotonic(0)).unwrap();
        assert_eq!(reads.ask(Monotonic(0)), None);
        reads.confirm(&context, 7);
        assert!(reads.ready(6).is_empty());
        assert_eq!(tickets(reads.ready(7)), [Ticket(1), Ticket(2)]);
        assert_eq!(reads.open, 0);
    }

    #[test]
    fn a_dropped_context_is_asked_again_under_another_name() {
        let mut reads = Reads::new(MemberId(1), 0);
        reads.arrive(read(1));
        let first = reads.ask(Monotonic(0)).unwrap();
        assert!(reads.tick(Monotonic(99), 100).is_empty());
        assert_eq!(reads.ask(Monotonic(99)), None);
        reads.tick(Monotonic(100), 100);
        let second = reads.ask(Monotonic(100)).unwrap();
        assert_ne!(first, second);
        reads.confirm(&first, 3);
        assert!(reads.ready(9).is_empty(), "an answer to a forgotten context confirms nothing");
        reads.confirm(&second, 4);
        assert_eq!(tickets(reads.ready(9)), [Ticket(1)]);
    }

    #[test]
    fn a_confirmation_of_an_earlier_run_confirms_nothing() {
        let context = {
            let mut before = Reads::new(MemberId(1), 1);
            before.arrive(read(1));
            before.ask(Monotonic(0)).unwrap()
        };
        let mut reads = Reads::new(MemberId(1), 2);
        reads.arrive(read(1));
        reads.ask(Monotonic(0)).unwrap();
        reads.confirm(&context, 1);
        assert!(reads.ready(9).is_empty());
    }

    #[test]
    fn a_read_without_a_leader_is_given_up_in_the_end() {
        let mut reads = Reads::new(MemberId(1), 0);
        reads.arrive(read(1));
        assert!(reads.tick(Monotonic(GIVE_UP_MS - 1), 100).is_empty());
        assert_eq!(reads.tick(Monotonic(GIVE_UP_MS), 100), [Ticket(1)]);
    }
}
