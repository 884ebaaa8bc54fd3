//! The shared history of a server: bounded by count and by age, with an index of who waits for what.
//!
//! Everything is under one short lock; nothing is converted or sent while it is held.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use roadstead_api::v1;
use roadstead_core::id::{Name, Owner, Revision};
use tokio::sync::{Notify, watch};

use super::ClusterNames;
use super::event::Entry;
use super::scope::Scope;

/// Changes kept for watchers that resume or are slow: some 10 s at the promised rate, below 500 MiB when all tenants are large.
pub const MAX_CHANGES: usize = 200_000;
/// How long changes are kept: a reconnect, not a night.
pub const MAX_AGE: Duration = Duration::from_secs(300);
/// Entries that a watcher takes out at a time.
const MAX_TAKE: usize = 64;
/// Watchers of one server.
pub const MAX_WATCHERS: usize = 20_000;

/// What was applied lately, and who waits for more.
#[derive(Debug)]
pub struct History {
    inner: Mutex<Inner>,
    head: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Everything after this is in `entries`.
    base: Revision,
    head: Revision,
    /// Grows whenever the history had to begin anew.
    epoch: u64,
    entries: VecDeque<(Instant, Arc<Entry>)>,
    names: ClusterNames,
    changes: usize,
    next: u64,
    slots: HashMap<u64, Slot>,
    everything: BTreeSet<u64>,
    by_cluster: HashMap<Name, BTreeSet<u64>>,
    by_owner: HashMap<Owner, BTreeSet<u64>>,
    to_wake: Vec<Arc<Notify>>,
    /// Grows whenever a class may have changed.
    classes_changed: u64,
    begun: bool,
    ended: bool,
}

#[derive(Debug)]
struct Slot {
    scope: Scope,
    notify: Arc<Notify>,
    epoch: u64,
    /// The index of the first entry that concerns this watcher and that it has not taken.
    first: Option<u64>,
}

/// What a watcher found.
#[derive(Debug)]
pub enum Taken {
    /// Entries that may concern it, in order.
    Entries(Vec<Arc<Entry>>),
    /// Nothing up to this revision.
    Nothing(Revision),
    /// The history has moved past its position.
    Compacted,
    /// The server stops.
    Ended,
}

/// Why nobody can follow from a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The history begins later.
    Compacted {
        /// Where it begins.
        base: Revision,
    },
    /// Too many watchers.
    Full,
    /// The server stops, or has not begun.
    Ended,
}

/// A watcher's place in the history; gone when dropped.
#[derive(Debug)]
pub struct Place {
    history: Arc<History>,
    number: u64,
    notify: Arc<Notify>,
}

impl Default for History {
    fn default() -> Self {
        Self { inner: Mutex::default(), head: watch::Sender::new(Revision::default()) }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins at a revision. Goes on if nothing was missed; else everybody who followed hears `compacted`.
    pub fn begin(&self, revision: Revision, names: ClusterNames) {
        let mut inner = self.lock();
        inner.names = names;
        if !inner.begun || inner.head != revision {
            inner.begin_anew(revision);
        }
        inner.begun = true;
        drop(inner);
        self.wake();
    }

    /// Ends every watch.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.wake_all();
        drop(inner);
        self.wake();
    }

    /// Takes over an entry that changed nothing.
    pub fn advance(&self, revision: Revision) {
        self.lock().reach(revision);
    }

    /// Takes over an entry; [`History::wake`] then wakes those whom it concerns.
    pub fn push(&self, entry: Arc<Entry>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.reach(entry.revision);
        inner.changes += entry.len();
        inner.entries.push_back((Instant::now(), Arc::clone(&entry)));
        inner.trim();
        let clusters = entry.by_cluster.keys().filter_map(|name| inner.by_cluster.get(name));
        let owners = entry.by_owner.keys().filter_map(|owner| inner.by_owner.get(owner));
        for number in clusters.chain(owners).chain([&inner.everything]).flatten() {
            let slot = inner.slots.get_mut(number).expect("indexed watchers have a slot");
            if slot.first.is_none() {
                slot.first = Some(entry.revision.index);
                inner.to_wake.push(Arc::clone(&slot.notify));
            }
        }
    }

    /// Tells those who wait for a revision how far it is.
    pub fn tell(&self) {
        let head = self.lock().head;
        self.head.send_replace(head);
    }

    /// A number that grows whenever a class may have changed: what was learnt of classes under another one is void.
    #[must_use]
    pub fn classes_version(&self) -> u64 {
        self.lock().classes_changed
    }

    /// The names of all clusters that ever were, as far as this server knows.
    #[must_use]
    pub fn cluster_names(&self) -> ClusterNames {
        Arc::clone(&self.lock().names)
    }

    /// Takes over the names of clusters.
    pub fn set_cluster_names(&self, names: ClusterNames) {
        self.lock().names = names;
    }

    /// Notes that a class has changed.
    pub fn class_changed(&self) {
        self.lock().classes_changed += 1;
    }

    /// A tenant as an entry left it, if that entry is still kept.
    #[must_use]
    pub fn tenant_at(&self, revision: Revision, owner: &Owner, name: &Name) -> Option<v1::Tenant> {
        let entry = {
            let inner = self.lock();
            let at = inner.entries.binary_search_by(|(_, entry)| entry.revision.cmp(&revision)).ok()?;
            Arc::clone(&inner.entries[at].1)
        };
        entry.tenant(owner, name)
    }

    /// Wakes everybody whom an entry since the last time concerns.
    pub fn wake(&self) {
        self.tell();
        let woken = std::mem::take(&mut self.lock().to_wake);
        for notify in woken {
            notify.notify_one();
        }
    }

    /// Drops what is too old.
    pub fn trim(&self) {
        self.lock().trim();
    }

    /// The newest revision that was taken in.
    #[must_use]
    pub fn head(&self) -> Revision {
        self.lock().head
    }

    /// Waits until a revision was taken in.
    pub async fn reached(&self, revision: Revision) {
        let mut head = self.head.subscribe();
        // The sender lives as long as `self`.
        let _ = head.wait_for(|head| *head >= revision).await;
    }

    /// Watchers at the moment.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.lock().slots.len()
    }

    /// Makes a place that follows from a position on: everything after `after`, and with `within` also the entry at `after` itself.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn follow(self: &Arc<Self>, scope: Scope, after: Revision, within: bool) -> Result<Place, Refused> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.ended || !inner.begun {
            return Err(Refused::Ended);
        }
        let reaches = after.incarnation == inner.base.incarnation && if within { after > inner.base } else { after >= inner.base };
        if !reaches {
            return Err(Refused::Compacted { base: inner.base });
        }
        if inner.slots.len() >= MAX_WATCHERS {
            return Err(Refused::Full);
        }
        let start = inner.entries.partition_point(|(_, entry)| if within { entry.revision < after } else { entry.revision <= after });
        let first = inner.entries.get(start).map(|(_, entry)| entry.revision.index);
        let number = inner.next;
        inner.next += 1;
        let notify = Arc::new(Notify::new());
        if first.is_some() {
            notify.notify_one();
        }
        inner.index(number, &scope, true);
        inner.slots.insert(number, Slot { scope, notify: Arc::clone(&notify), epoch: inner.epoch, first });
        drop(guard);
        Ok(Place { history: Arc::clone(self), number, notify })
    }
}

impl Inner {
    /// Nothing before `revision` can be followed any more.
    fn begin_anew(&mut self, revision: Revision) {
        self.entries.clear();
        (self.changes, self.base, self.head) = (0, revision, revision);
        self.epoch += 1;
        self.classes_changed += 1;
        self.wake_all();
    }

    fn wake_all(&mut self) {
        self.to_wake.extend(self.slots.values().map(|slot| Arc::clone(&slot.notify)));
    }

    fn reach(&mut self, revision: Revision) {
        if revision.incarnation != self.head.incarnation {
            // A restore: old watches hear `compacted`.
            self.begin_anew(Revision { index: revision.index.saturating_sub(1), ..revision });
        }
        self.head = revision;
    }

    fn trim(&mut self) {
        while let Some((at, entry)) = self.entries.front() {
            if self.changes <= MAX_CHANGES && at.elapsed() <= MAX_AGE {
                break;
            }
            self.base = entry.revision;
            self.changes -= entry.len();
            self.entries.pop_front();
        }
    }

    fn index(&mut self, number: u64, scope: &Scope, add: bool) {
        fn set(all: &mut BTreeSet<u64>, number: u64, add: bool) -> bool {
            let _ = if add { all.insert(number) } else { all.remove(&number) };
            all.is_empty()
        }
        match (scope.owners(), scope.cluster()) {
            (Some(owners), _) => {
                for owner in owners {
                    if set(self.by_owner.entry(owner.clone()).or_default(), number, add) {
                        self.by_owner.remove(owner);
                    }
                }
            }
            (None, Some(cluster)) => {
                if set(self.by_cluster.entry(cluster.clone()).or_default(), number, add) {
                    self.by_cluster.remove(cluster);
                }
            }
            (None, None) => drop(set(&mut self.everything, number, add)),
        }
    }
}

impl Place {
    /// The next entries that may concern this watcher. Each is given out once.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut inner = self.history.lock();
        let inner = &mut *inner;
        let slot = inner.slots.get_mut(&self.number).expect("a place has a slot until it is dropped");
        if inner.ended {
            return Taken::Ended;
        }
        if slot.epoch != inner.epoch {
            return Taken::Compacted;
        }
        let Some(first) = slot.first else { return Taken::Nothing(inner.head) };
        if first <= inner.base.index {
            return Taken::Compacted;
        }
        let start = inner.entries.partition_point(|(_, entry)| entry.revision.index < first);
        let entries: Vec<Arc<Entry>> = inner.entries.range(start..).take(MAX_TAKE).map(|(_, entry)| Arc::clone(entry)).collect();
        slot.first = inner.entries.get(start + entries.len()).map(|(_, entry)| entry.revision.index);
        Taken::Entries(entries)
    }

    /// Waits until there may be something to take.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.history.lock();
        if let Some(slot) = inner.slots.remove(&self.number) {
            inner.index(self.number, &slot.scope, false);
        }
    }
}
