//! Readers that wait for the leader to confirm that nothing newer was acknowledged: one confirmation and one frozen copy for all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roadstead_consensus::door::Ticket;
use roadstead_core::state::State;

use super::message::Reader;
use crate::handle::ReadError;

/// After so long without a confirmation it is asked for again: Raft drops one without a word while leadership changes.
const CONFIRM_AGAIN: Duration = Duration::from_millis(150);
/// Readers that may wait at one replica.
const MAX_READERS: usize = 20_000;

/// All waiting readers.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: Vec<Reader>,
    asked: Option<Asked>,
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

    /// Whether a confirmation should be asked for now.
    pub(super) fn due(&self) -> bool {
        self.asked.is_none() && !self.next.is_empty()
    }

    /// A confirmation is being asked for under this ticket; it counts for everybody who waits by now.
    pub(super) fn asked(&mut self, ticket: Ticket) {
        let readers = std::mem::take(&mut self.next);
        self.asked = Some(Asked { ticket, at: Instant::now(), readers });
    }

    /// A confirmation has come.
    pub(super) fn ready(&mut self, ticket: Ticket, frozen: impl FnOnce() -> Arc<State>) {
        let Some(asked) = self.asked.take_if(|asked| asked.ticket == ticket) else { return };
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
