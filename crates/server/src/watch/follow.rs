//! One watcher: first the full state if it was asked for, then every change once, in order, with bookmarks while nothing happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use roadstead_core::id::Revision;
use tonic::{Code, Status};

use super::event;
use super::history::{History, Place, Refused, Taken};
use super::initial::Initial;
use super::scope::Scope;
use crate::errors::{Fault, RETRY_SOON};
use crate::handle::{Handle, READ_TIMEOUT};

/// Silence after which a bookmark is sent, so that whoever resumes later has not far to go.
pub const BOOKMARK_AFTER: Duration = Duration::from_secs(5);

/// How often a beginning is tried when the history begins anew at the same time.
const MAX_BEGINNINGS: usize = 3;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the full state.
    InitialState,
    /// With what comes from now on.
    Now,
    /// After a revision, or, if the ordinal is not 0, after so many events of it.
    After(Revision, u32),
}

/// One watcher.
#[derive(Debug)]
pub struct Follow {
    place: Place,
    scope: Scope,
    initial: Option<Initial>,
    ready: VecDeque<Bytes>,
    /// Seen up to here; with `within`, only so many events of that revision.
    position: Revision,
    within: u32,
    /// Nothing has come for a while: a bookmark is due.
    idle: bool,
}

impl Follow {
    /// Begins a watch.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` with the reason `COMPACTED` when it cannot resume; what reads and overload are refused with.
    pub async fn begin(handle: &Handle, history: &Arc<History>, scope: Scope, start: Start) -> Result<Self, Fault> {
        let (position, within) = match start {
            Start::After(revision, ordinal) if revision <= history.head() => (revision, ordinal),
            // Ahead of this replica, or of all: a linearizable read tells which.
            Start::After(revision, ordinal) => {
                let state = read(handle).await?;
                if state.revision() < revision {
                    return Err(compacted(revision, state.revision()));
                }
                let reached = tokio::time::timeout(READ_TIMEOUT, history.reached(revision)).await;
                reached.map_err(|_| Fault::unavailable("this replica is too far behind; watch another one"))?;
                (revision, ordinal)
            }
            Start::InitialState | Start::Now => return Self::from_state(handle, history, scope, start).await,
        };
        Self::at(history, scope, position, within)
    }

    async fn from_state(handle: &Handle, history: &Arc<History>, scope: Scope, start: Start) -> Result<Self, Fault> {
        let mut last = Fault::unavailable("this replica is starting; watch another one");
        for _ in 0..MAX_BEGINNINGS {
            let state = read(handle).await?;
            let position = state.revision();
            match Self::at(history, scope.clone(), position, 0) {
                Ok(mut follow) if start == Start::InitialState => {
                    follow.initial = Some(Initial::new(state, scope));
                    return Ok(follow);
                }
                Ok(mut follow) => {
                    follow.ready.push_back(event::bookmark(position));
                    return Ok(follow);
                }
                // The history began anew in between.
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    fn at(history: &Arc<History>, scope: Scope, position: Revision, within: u32) -> Result<Self, Fault> {
        match history.follow(scope.clone(), position, within > 0) {
            Ok(place) => Ok(Self { place, scope, initial: None, ready: VecDeque::new(), position, within, idle: false }),
            Err(Refused::Compacted { base }) => Err(compacted(position, base)),
            Err(Refused::Full) => Err(Fault::overloaded("this server has as many watchers as it bears; watch another replica", RETRY_SOON)),
            Err(Refused::Ended) => Err(Fault::unavailable("this replica is starting or stopping; watch another one")),
        }
    }

    /// The messages, encoded.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), async |follow| {
            let mut follow = follow?;
            match follow.next().await {
                Ok(message) => Some((Ok(message), Some(follow))),
                Err(fault) => Some((Err(fault.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Bytes, Fault> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            if let Some(initial) = &mut self.initial {
                match initial.step() {
                    Some(messages) => self.ready.extend(messages),
                    None => self.initial = None,
                }
                continue;
            }
            match self.place.take() {
                Taken::Entries(entries) => {
                    for entry in entries {
                        self.take_in(&entry);
                    }
                }
                Taken::Nothing(head) => {
                    (self.position, self.within) = (self.position.max(head), 0);
                    if std::mem::take(&mut self.idle) {
                        return Ok(event::bookmark(self.position));
                    }
                    self.idle = tokio::time::timeout(BOOKMARK_AFTER, self.place.changed()).await.is_err();
                }
                Taken::Compacted => return Err(compacted(self.position, self.position)),
                Taken::Ended => return Err(Fault::unavailable("this replica is stopping; go on at another one, after the last revision")),
            }
        }
    }

    fn take_in(&mut self, entry: &super::event::Entry) {
        let ordinal = if entry.revision == self.position { self.within } else { 0 };
        let seen = entry.revision < self.position || (entry.revision == self.position && self.within == 0);
        if seen {
            return;
        }
        self.ready.extend(entry.messages(&self.scope, ordinal).iter().cloned());
        (self.position, self.within) = (entry.revision, 0);
    }
}

async fn read(handle: &Handle) -> Result<Arc<roadstead_core::state::State>, Fault> {
    handle.read(true).await.map_err(|error| Fault::unavailable(error.to_string()))
}

/// It cannot go on from there: what came since is not kept, or a restore has begun a new incarnation.
fn compacted(wanted: Revision, base: Revision) -> Fault {
    let words = format!("the history after revision {wanted} is not kept here (or a restore came between): begin with the initial state");
    Fault::new(Code::OutOfRange, "COMPACTED", words).with("wanted_revision", wanted).with("oldest_revision", base)
}
