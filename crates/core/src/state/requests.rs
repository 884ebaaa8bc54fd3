//! The table of request ids: what a retry is answered with.
//!
//! Keyed by id and principal, ordered by the time inside the id (UUIDv7), so that the oldest go first. It knows no commands.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Done, Outcome, Rejection};
use crate::digest::{self, Tag};
use crate::history::PrincipalNumber;
use crate::id::{ClusterId, Incarnation, RequestId, Revision, ShardId, TenantId};
use crate::request::Retry;
use crate::time::{Millis, Timestamp};

use super::sorted::Sorted;

/// Entries that one batch drops at most beyond one per command, so that no batch takes long.
const DROPS_PER_BATCH: usize = 64;

/// Ordered by time: the upper half of the id comes first. Two halves, for 24 bytes instead of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    upper: u64,
    lower: u64,
    principal: PrincipalNumber,
}

impl Key {
    pub(crate) fn new(id: RequestId, principal: PrincipalNumber) -> Self {
        Self { upper: (id.0 >> 64) as u64, lower: id.0 as u64, principal }
    }

    fn unix_ms(self) -> u64 {
        self.upper >> 16
    }
}

/// An outcome in 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Compact {
    Placed { id: TenantId, cluster: ClusterId, shard: ShardId, incarnation: Incarnation, index: u64 },
    Pending { id: TenantId },
    Changed { incarnation: Incarnation, index: u64 },
    Rejected(Arc<Rejection>),
}

impl Compact {
    fn new(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(Done::Placed { id, cluster, shard, epoch }) => {
                Self::Placed { id: *id, cluster: *cluster, shard: *shard, incarnation: epoch.incarnation, index: epoch.index }
            }
            Outcome::Done(Done::Pending { id }) => Self::Pending { id: *id },
            Outcome::Done(Done::Changed { revision }) => Self::Changed { incarnation: revision.incarnation, index: revision.index },
            Outcome::Rejected(rejection) => Self::Rejected(Arc::new(rejection.clone())),
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Placed { id, cluster, shard, incarnation, index } => {
                let epoch = Revision { incarnation: *incarnation, index: *index };
                Outcome::Done(Done::Placed { id: *id, cluster: *cluster, shard: *shard, epoch })
            }
            Self::Pending { id } => Outcome::Done(Done::Pending { id: *id }),
            Self::Changed { incarnation, index } => {
                Outcome::Done(Done::Changed { revision: Revision { incarnation: *incarnation, index: *index } })
            }
            Self::Rejected(rejection) => Outcome::Rejected((**rejection).clone()),
        }
    }
}

/// What is remembered of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    fingerprint: u64,
    outcome: Compact,
}

/// What the table says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Never seen, and young enough to be executed.
    New,
    /// Seen: its first answer.
    Known(Outcome),
    /// The id was used for another request.
    Reused,
    /// Too old to know.
    TooOld,
    /// So far ahead of the service's time that it would be remembered too long.
    TooNew,
}

impl Verdict {
    /// What a request that is not new is answered with.
    pub(crate) fn outcome(self, window: Millis) -> Outcome {
        let window_secs = window.0 / 1000;
        match self {
            Self::Known(outcome) => outcome,
            Self::New => Outcome::Rejected(Rejection::Broken { what: "a new request has no answer yet".to_owned() }),
            Self::Reused => Outcome::Rejected(Rejection::RequestIdReused),
            Self::TooOld => Outcome::Rejected(Rejection::RequestIdExpired { window_secs }),
            Self::TooNew => Outcome::Rejected(Rejection::Invalid {
                field: "request_id".to_owned(),
                problem: format!("the time inside is more than {window_secs} s ahead of the service's; use a UUIDv7 and check the clock"),
            }),
        }
    }
}

/// Request ids with their first answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Requests {
    entries: Sorted<Key, Kept>,
    /// Time inside the newest id that was dropped: whatever is not newer and not here is refused.
    floor_ms: u64,
    digest: u64,
}

/// Some requests of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct LoadedRequests {
    entries: Vec<(Key, Kept)>,
    digest: u64,
}

impl LoadedRequests {
    pub(crate) fn new(entries: Vec<(Key, Kept)>) -> Self {
        let digest = digest_of(entries.iter());
        Self { entries, digest }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn append(&mut self, more: Self) {
        self.entries.extend(more.entries);
        self.digest = self.digest.wrapping_add(more.digest);
    }
}

impl Requests {
    /// Takes over those of a snapshot.
    ///
    /// # Errors
    /// When they do not ascend.
    pub(super) fn fill(&mut self, loaded: LoadedRequests) -> Result<(), String> {
        self.entries = Sorted::build(loaded.entries).map_err(|_| "request ids come twice or out of order".to_owned())?;
        self.digest = loaded.digest;
        Ok(())
    }

    /// Looks a request up. `principal` is `None` for one that was never heard of.
    pub(crate) fn check(&self, retry: &Retry, principal: Option<PrincipalNumber>, now: Timestamp, window: Millis) -> Verdict {
        let known = principal.and_then(|principal| self.entries.get(&Key::new(retry.id, principal)));
        if let Some(kept) = known {
            return if kept.fingerprint == retry.fingerprint { Verdict::Known(kept.outcome.outcome()) } else { Verdict::Reused };
        }
        let made = retry.id.unix_ms();
        if (self.floor_ms > 0 && made <= self.floor_ms) || made.saturating_add(window.0) < now.0 {
            Verdict::TooOld
        } else if made > now.after(window).0 {
            Verdict::TooNew
        } else {
            Verdict::New
        }
    }

    /// Remembers the first answer.
    pub(crate) fn remember(&mut self, retry: &Retry, principal: PrincipalNumber, outcome: &Outcome) {
        let key = Key::new(retry.id, principal);
        self.put(key, Kept { fingerprint: retry.fingerprint, outcome: Compact::new(outcome) });
    }

    fn put(&mut self, key: Key, kept: Kept) {
        self.digest = self.digest.wrapping_add(entry_digest(key, &kept));
        if let Some(before) = self.entries.insert(key, kept) {
            self.digest = self.digest.wrapping_sub(entry_digest(key, &before));
        }
    }

    /// Drops what is older than the window or too many, a bounded number at a time.
    pub(crate) fn trim(&mut self, added: usize, now: Timestamp, window: Millis, max: u32) {
        for _ in 0..added + DROPS_PER_BATCH {
            let Some(&(oldest, _)) = self.entries.first() else { return };
            if self.entries.len() <= max as usize && oldest.unix_ms().saturating_add(window.0) >= now.0 {
                return;
            }
            if let Some(kept) = self.entries.remove(&oldest) {
                self.digest = self.digest.wrapping_sub(entry_digest(oldest, &kept));
            }
            self.floor_ms = self.floor_ms.max(oldest.unix_ms());
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Key, Kept)> {
        self.entries.iter()
    }

    pub(crate) fn floor_ms(&self) -> u64 {
        self.floor_ms
    }

    pub(crate) fn set_floor_ms(&mut self, floor_ms: u64) {
        self.floor_ms = floor_ms;
    }

    /// Over all entries.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// The same, from the beginning.
    pub(crate) fn recomputed_digest(&self) -> u64 {
        digest_of(self.iter())
    }
}

fn digest_of<'a>(entries: impl Iterator<Item = &'a (Key, Kept)>) -> u64 {
    entries.fold(0, |sum, (key, kept)| sum.wrapping_add(entry_digest(*key, kept)))
}

fn entry_digest(key: Key, kept: &Kept) -> u64 {
    let mut words = [key.upper, key.lower, u64::from(key.principal.0), kept.fingerprint, 0, 0, 0, 0];
    match &kept.outcome {
        Compact::Placed { id, cluster, shard, incarnation, index } => {
            let place = u64::from(cluster.0) << 32 | u64::from(shard.0) << 16 | u64::from(incarnation.0);
            words[4..].copy_from_slice(&[1, id.0, place, *index]);
        }
        Compact::Pending { id } => words[4..].copy_from_slice(&[2, id.0, 0, 0]),
        Compact::Changed { incarnation, index } => words[4..].copy_from_slice(&[3, u64::from(incarnation.0), *index, 0]),
        Compact::Rejected(rejection) => words[4..].copy_from_slice(&[4, digest::of(Tag::Request, &**rejection), 0, 0]),
    }
    digest::of_words(Tag::Request, &words)
}
