//! Readers that wait for the leader to confirm that nothing newer was acknowledged: one confirmation and one frozen copy for all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roadstead_consensus::door::Ticket;
use roadstead_core::state::State;

use super::message::Reader;
use crate::handle::ReadError;

/// After so long without a confirmation it is asked for again: Raft drops one without a word while leadership changes.
const CONFIRM_AGAIN: Duration = Duration::from_millis(150);
/// How long readers wait for company when fewer are there than were answered together last: a confirmation is a round of messages to all
/// replicas, and costs more than the reads that it confirms.
const GATHER: Duration = Duration::from_millis(2);
/// Readers that may wait at one replica.
const MAX_READERS: usize = 20_000;

/// All waiting readers.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: Vec<Reader>,
    asked: Option<Asked>,
    /// How many the last confirmation was for.
    together: usize,
    /// Until when the next one waits for as many.
    gather_until: Option<Instant>,
}

#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    at: Instant,
    readers: Vec<Reader>,
}

impl Reads {
    /// Takes in a reader.
    pub(super) fn add(&mut self, reader: Reader) {
        if self.len() >= MAX_READERS {
            let _ = reader.reply.send(Err(ReadError::Unavailable));
        } else {
            self.next.push(reader);
        }
    }

    /// Readers that wait.
    pub(super) fn len(&self) -> usize {
        self.next.len() + self.asked.as_ref().map_or(0, |asked| asked.readers.len())
    }

    /// When the next confirmation should be asked for, if anybody waits for one.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        if self.asked.is_some() || self.next.is_empty() {
            return None;
        }
        Some(if self.next.len() >= self.together { now } else { self.gather_until.unwrap_or(now) })
    }

    /// A confirmation is being asked for under this ticket; it counts for everybody who waits by now.
    pub(super) fn asked(&mut self, ticket: Ticket) {
        let readers = std::mem::take(&mut self.next);
        self.asked = Some(Asked { ticket, at: Instant::now(), readers });
    }

    /// A confirmation has come.
    pub(super) fn ready(&mut self, ticket: Ticket, frozen: impl FnOnce() -> Arc<State>) {
        let Some(asked) = self.asked.take_if(|asked| asked.ticket == ticket) else { return };
        (self.together, self.gather_until) = (asked.readers.len(), Some(Instant::now() + GATHER));
        let state = frozen();
        for reader in asked.readers {
            // A reader that has gone away needs no answer.
            let _ = reader.reply.send(Ok(Arc::clone(&state)));
        }
    }

    /// A confirmation will not come (or is late): everybody waits for the next one.
    pub(super) fn failed(&mut self, ticket: Ticket) {
        if let Some(mut asked) = self.asked.take_if(|asked| asked.ticket == ticket) {
            self.next.append(&mut asked.readers);
        }
    }

    /// Asks again when it took too long, and gives up on readers past their deadline.
    pub(super) fn look_over(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take_if(|asked| now.duration_since(asked.at) >= CONFIRM_AGAIN) {
            self.next.extend(asked.readers);
        }
        let (overdue, next): (Vec<_>, Vec<_>) = self.next.drain(..).partition(|reader| reader.deadline <= now);
        self.next = next;
        for reader in overdue {
            let _ = reader.reply.send(Err(ReadError::Unavailable));
        }
    }

    /// Answers everybody: the replica stops.
    pub(super) fn stop(&mut self) {
        let asked = self.asked.take().map_or_else(Vec::new, |asked| asked.readers);
        for reader in self.next.drain(..).chain(asked) {
            let _ = reader.reply.send(Err(ReadError::Stopping));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn add(reads: &mut Reads) {
        let (reply, _) = oneshot::channel();
        reads.add(Reader::new(Duration::from_secs(60), reply));
    }

    #[test]
    fn readers_wait_for_as_many_as_came_together_last_but_not_for_long() {
        let (mut reads, now) = (Reads::default(), Instant::now());
        add(&mut reads);
        add(&mut reads);
        assert_eq!(reads.due_at(now), Some(now), "the first ask at once");
        reads.asked(Ticket(1));
        add(&mut reads);
        assert_eq!(reads.due_at(now), None, "one confirmation at a time");
        reads.ready(Ticket(1), Arc::default);
        let until = reads.due_at(now).unwrap();
        assert!(until > now && until <= Instant::now() + GATHER);
        add(&mut reads);
        assert_eq!(reads.due_at(now), Some(now), "as many have come");
    }
}
