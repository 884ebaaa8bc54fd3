//! A tenant's history: what happened, when, and who asked.
//!
//! Kept as a few encoded bytes beside each tenant: most tenants have two events, and there are a million of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::{ClusterId, Revision, ShardId};
use crate::request::Principal;
use crate::time::Timestamp;

/// Events kept per tenant.
pub const MAX_EVENTS_PER_TENANT: usize = 32;

/// Something that happened to a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantEvent {
    /// When it was committed.
    pub time: Timestamp,
    /// Position.
    pub revision: Revision,
    /// Who asked.
    pub principal: Principal,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// Bound.
    Placed {
        /// Where.
        cluster: ClusterId,
        /// Shard there.
        shard: ShardId,
    },
    /// Fits nowhere.
    Pending,
    /// Seen running.
    Running,
    /// Spec replaced.
    Updated,
    /// Deletion asked for.
    Released {
        /// Without retention of its volumes.
        purge: bool,
    },
    /// Stopped; volumes kept.
    Retained {
        /// Until then.
        until: Timestamp,
    },
    /// Brought back.
    Undeleted,
    /// Recorded where it ran already.
    Adopted {
        /// Where.
        cluster: ClusterId,
        /// Shard there.
        shard: ShardId,
    },
    /// Its cluster was declared gone for good.
    Forgotten {
        /// Which.
        cluster: ClusterId,
    },
    /// Its constraints no longer hold, or hold again. Kept from feature level 2 on.
    Misplaced {
        /// Whether they no longer hold.
        misplaced: bool,
    },
    /// An operator agreed to its removal, beyond what its cluster's agent removes by itself. From feature level 6 on.
    RemovalAllowed {
        /// Until then.
        until: Timestamp,
    },
}

/// The number that the state gave a principal; names are long and few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PrincipalNumber(pub(crate) u32);

/// One event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptEvent {
    pub(crate) time: Timestamp,
    pub(crate) revision: Revision,
    pub(crate) principal: PrincipalNumber,
    pub(crate) kind: EventKind,
}

/// The events of one tenant, oldest first: `dropped: u8, count: u8, events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History(Option<Arc<[u8]>>);

const HEADER: usize = 2;

impl History {
    /// Whether encoded bytes are a history.
    pub(crate) fn is_one(bytes: &[u8]) -> bool {
        walk(bytes, |_| ()).is_some()
    }

    /// Takes over encoded bytes; `None` when they are no history.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::is_one(bytes).then(|| Self((!bytes.is_empty()).then(|| bytes.into())))
    }

    /// The encoded bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Adds the newest event; the oldest goes when there are too many.
    pub(crate) fn push(&mut self, event: &KeptEvent) {
        let old = self.as_bytes();
        let (dropped, count, events) = match old {
            [dropped, count, events @ ..] => (*dropped, *count, events),
            _ => (0, 0, [].as_slice()),
        };
        let full = usize::from(count) >= MAX_EVENTS_PER_TENANT;
        let kept = if full { codec::read_prefix::<KeptEvent>(events).map_or(events, |(_, rest)| rest) } else { events };
        let mut bytes = Vec::with_capacity(HEADER + kept.len() + 32);
        bytes.extend([dropped | u8::from(full), if full { count } else { count + 1 }]);
        bytes.extend_from_slice(kept);
        codec::write(event, &mut bytes);
        self.0 = Some(bytes.into());
    }

    /// Oldest first, and whether older ones were dropped; `None` when the bytes are no history.
    pub(crate) fn read(&self) -> Option<(Vec<KeptEvent>, bool)> {
        let mut events = Vec::new();
        let dropped = walk(self.as_bytes(), |event| events.push(event))?;
        Some((events, dropped))
    }
}

/// Goes through encoded events, oldest first, and tells whether older ones were dropped; `None` when the bytes are no history.
fn walk(bytes: &[u8], mut each: impl FnMut(KeptEvent)) -> Option<bool> {
    let [dropped, count, events @ ..] = bytes else {
        return bytes.is_empty().then_some(false);
    };
    if *dropped > 1 || usize::from(*count) > MAX_EVENTS_PER_TENANT {
        return None;
    }
    let mut rest = events;
    for _ in 0..*count {
        let (event, after) = codec::read_prefix::<KeptEvent>(rest).ok()?;
        each(event);
        rest = after;
    }
    rest.is_empty().then_some(*dropped == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    fn event(number: u64) -> KeptEvent {
        let revision = Revision { incarnation: Incarnation(0), index: number };
        KeptEvent { time: Timestamp(number), revision, principal: PrincipalNumber(7), kind: EventKind::Running }
    }

    #[test]
    fn history_keeps_the_newest_events_in_order() {
        let mut history = History::default();
        for number in 0..100 {
            history.push(&event(number));
            let (events, dropped) = history.read().expect("whole");
            let first = (number + 1).saturating_sub(MAX_EVENTS_PER_TENANT as u64);
            assert_eq!(events, (first..=number).map(event).collect::<Vec<_>>());
            assert_eq!(dropped, number >= MAX_EVENTS_PER_TENANT as u64);
        }
    }

    #[test]
    fn damaged_history_is_refused() {
        let mut history = History::default();
        history.push(&event(1));
        let bytes = history.as_bytes().to_vec();
        assert!(History::from_bytes(&bytes).is_some());
        assert!(History::from_bytes(&bytes[..bytes.len() - 1]).is_none());
        assert!(History::from_bytes(&[bytes, vec![0]].concat()).is_none());
    }
}
