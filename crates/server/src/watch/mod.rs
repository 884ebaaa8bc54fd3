//! Watches: one hub per server takes in every applied entry, keeps a bounded history of them, and wakes those whom an entry concerns.
//!
//! A watcher holds no buffer of its own: its position in the shared history is its buffer, so a slow one costs nothing until the history
//! has moved past it, and then hears `compacted`. The hub finds watchers by cluster and by owner, and turns a change into its wire form
//! once for all of them. Modules in reading order: [`event`] (an entry's changes and their wire form), [`scope`] (what a watcher wants),
//! [`history`] (the shared, bounded history), [`follow`] (one watcher), [`initial`] (the full state that it may begin with).

pub mod event;
pub mod scope;
pub mod history;
pub mod initial;
pub mod follow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use roadstead_core::apply::Change;
use roadstead_core::id::{ClusterId, Name};
use roadstead_core::state::State;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::handle::{AppliedEntry, Handle, Subscription};
use event::Entry;
use history::History;

/// Watchers are woken at most this often: a thousand of them would otherwise be woken for every one of some hundred entries a second. Far
/// below the lag that is promised (100 ms).
pub const WAKE_PACE: Duration = Duration::from_millis(10);
/// Entries taken in before watchers are woken, at most.
const MAX_INTAKE: usize = 256;
/// How often old history is dropped although nothing happens.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// Rest before the hub subscribes again after the replica cut it off.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(20);

/// The names of clusters by number, as of an entry; shared until a cluster is made.
pub type ClusterNames = Arc<HashMap<ClusterId, Name>>;

/// Takes in applied entries until the replica stops.
#[must_use]
pub fn start(handle: Handle) -> (Arc<History>, JoinHandle<()>) {
    let history = Arc::new(History::default());
    let task = tokio::spawn(run(handle, Arc::clone(&history)));
    (history, task)
}

async fn run(handle: Handle, history: Arc<History>) {
    let stopping = handle.stopping();
    while !stopping.is_cancelled() {
        let Ok(subscription) = handle.subscribe().await else { break };
        let names = cluster_names(&subscription.state);
        history.begin(subscription.state.revision(), Arc::clone(&names));
        info!(revision = %subscription.state.revision(), "watches follow the replica");
        let intake = Intake { handle: handle.clone(), history: Arc::clone(&history), names };
        tokio::select! {
            () = intake.run(subscription) => warn!("watches were cut off from the replica and begin anew"),
            () = stopping.cancelled() => break,
        }
        tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
    }
    history.end();
}

fn cluster_names(state: &State) -> ClusterNames {
    Arc::new(state.clusters().map(|cluster| (cluster.id, cluster.spec.name.clone())).collect())
}

struct Intake {
    handle: Handle,
    history: Arc<History>,
    names: ClusterNames,
}

impl Intake {
    /// Until the subscription ends.
    async fn run(mut self, mut subscription: Subscription) {
        let mut woken = Instant::now();
        let mut trim = tokio::time::interval(TRIM_EVERY);
        let mut waiting = false;
        loop {
            tokio::select! {
                entry = subscription.entries.recv() => {
                    let Some(entry) = entry else { return };
                    self.take_in(&entry).await;
                    for _ in 1..MAX_INTAKE {
                        let Ok(entry) = subscription.entries.try_recv() else { break };
                        self.take_in(&entry).await;
                    }
                    self.history.tell();
                    waiting = true;
                }
                () = tokio::time::sleep_until(woken + WAKE_PACE), if waiting => {}
                _ = trim.tick() => self.history.trim(),
            }
            if waiting && woken.elapsed() >= WAKE_PACE {
                self.history.wake();
                (woken, waiting) = (Instant::now(), false);
            }
        }
    }

    async fn take_in(&mut self, entry: &AppliedEntry) {
        let applied = &entry.applied;
        if applied.changes.is_empty() {
            return self.history.advance(applied.revision);
        }
        for change in &applied.changes {
            if let Change::Cluster { before: None, after: Some(cluster) } = change {
                Arc::make_mut(&mut self.names).insert(cluster.id, cluster.spec.name.clone());
                self.history.set_cluster_names(Arc::clone(&self.names));
            }
        }
        if applied.changes.iter().any(|change| matches!(change, Change::Class { .. })) {
            self.history.class_changed();
        }
        // A cluster's or class's status tells counts, which are the state's; those of a moment later will do.
        let counted = applied.changes.iter().any(|change| matches!(change, Change::Cluster { .. } | Change::Class { .. }));
        let state = if counted { self.handle.read(false).await.ok() } else { None };
        self.history.push(Arc::new(Entry::new(applied.revision, Arc::clone(applied), Arc::clone(&self.names), state.as_deref())));
    }
}
