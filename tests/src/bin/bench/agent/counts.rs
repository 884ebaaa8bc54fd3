//! Requests of a client, counted where they leave it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kube::client::Body;
use serde::Serialize;
use tonic::codegen::http::{Method, Request};

/// So far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    watches: AtomicU64,
    lists: AtomicU64,
    gets: AtomicU64,
    writes: AtomicU64,
    last_write: Mutex<Option<Instant>>,
}

/// Requests of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counted {
    /// Begun or gone on with.
    pub(super) watches: u64,
    /// Pages of lists.
    pub(super) lists: u64,
    /// Everything else that only reads, discovery included.
    pub(super) gets: u64,
    /// Everything that is no GET.
    pub(super) writes: u64,
}

impl Counts {
    /// Counts a request.
    pub(super) fn count(self: &Arc<Self>, request: Request<Body>) -> Request<Body> {
        let query = request.uri().query().unwrap_or_default();
        let counter = if request.method() != Method::GET {
            *self.last_write.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            &self.writes
        } else if query.contains("watch=true") {
            &self.watches
        } else if query.contains("limit=") {
            &self.lists
        } else {
            &self.gets
        };
        counter.fetch_add(1, Ordering::SeqCst);
        request
    }

    pub(super) fn so_far(&self) -> Counted {
        let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counted { watches: of(&self.watches), lists: of(&self.lists), gets: of(&self.gets), writes: of(&self.writes) }
    }

    /// When the last write began.
    pub(super) fn last_write(&self) -> Option<Instant> {
        *self.last_write.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// All but watches, which go on for ever, one after the other.
    pub(super) fn calls(self) -> u64 {
        self.lists + self.gets + self.writes
    }

    /// Since an earlier look.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            watches: self.watches - before.watches,
            lists: self.lists - before.lists,
            gets: self.gets - before.gets,
            writes: self.writes - before.writes,
        }
    }
}
