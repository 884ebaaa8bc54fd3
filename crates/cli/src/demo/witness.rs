//! A watcher of the whole fleet, from before the first tenant to after the last: it must see each of them come exactly once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use roadstead_api::v1;
use roadstead_api::v1::watch_event::{Object, Type};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::client::follow::{Follow, Heard};
use crate::failure::Failure;

/// What was seen of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How often it came.
    pub added: u32,
    /// How often it went.
    pub deleted: u32,
    /// Bindings in the order in which they were seen: cluster, shard, epoch.
    pub bindings: Vec<(String, u32, Option<v1::Revision>)>,
    /// How far it was when it was seen last.
    pub phase: Option<v1::Phase>,
}

/// How many tenants are how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Seen at all.
    pub seen: usize,
    /// Running.
    pub running: usize,
    /// Waiting for room.
    pub waiting: usize,
}

/// The watcher; dropping it ends it.
pub struct Witness {
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    task: JoinHandle<Failure>,
}

impl Witness {
    /// Begins to watch, and returns when the initial state is complete.
    ///
    /// # Errors
    /// The watch's.
    pub async fn begin(client: Client) -> Result<Self, Failure> {
        let request =
            v1::WatchRequest { kinds: vec![v1::WatchKind::Tenant.into()], with_initial_state: true, ..v1::WatchRequest::default() };
        let mut follow = Follow::new(client, request);
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Seen>::new()));
        loop {
            match follow.next().await? {
                Heard::Event(_, event) => note(&seen, *event),
                Heard::InitialStateBeginsAgain => seen.lock().unwrap_or_else(PoisonError::into_inner).clear(),
                Heard::InitialStateComplete(_) => break,
            }
        }
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                match follow.next().await {
                    Ok(Heard::Event(_, event)) => note(&notes, *event),
                    Ok(Heard::InitialStateComplete(_) | Heard::InitialStateBeginsAgain) => {}
                    Err(failure) => return failure,
                }
            }
        });
        Ok(Self { seen, task })
    }

    /// What was seen so far, by name.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many tenants were seen, how many of them run, and how many wait for room.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |phase| seen.values().filter(|seen| seen.phase == Some(phase)).count();
        Counts { seen: seen.len(), running: of(v1::Phase::Running), waiting: of(v1::Phase::Pending) }
    }

    /// Whether it has ended, which it must not.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(seen: &Mutex<BTreeMap<String, Seen>>, event: v1::WatchEvent) {
    let kind = event.r#type();
    let Some(Object::Tenant(tenant)) = event.object else { return };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = seen.entry(tenant.name).or_default();
    entry.added += u32::from(matches!(kind, Type::Added | Type::Initial));
    entry.deleted += u32::from(kind == Type::Deleted);
    let status = tenant.status.unwrap_or_default();
    entry.phase = Some(status.phase());
    if let Some(binding) = status.binding {
        let binding = (binding.cluster, binding.shard, binding.epoch);
        if entry.bindings.last() != Some(&binding) {
            entry.bindings.push(binding);
        }
    }
}
