//! The watches: lists in pages and then changes, each parsed straight into what is kept of it, and one task that owns the sums.
//!
//! What is told while a kind cannot be listed depends on what it decides. Facts that were told before stand in any case.
//! - Namespaces, nodes, volumes and pods: without them there is no cluster to tell of. They are waited for, whatever the answer.
//! - StorageClasses, CSIStorageCapacities, CSINodes, VolumeAttachments: without them storage and attachments would be told as if nothing limited them, more
//!   than there is. They are done without only where they are not served, or may not be read, which somebody has decided. Any other failure is waited for:
//!   they are the API server's own, as nodes are, and no webhook of others is asked about them.
//! - Karpenter's NodePools and cluster-autoscaler's status: without them less is told than may be added, never more; and a definition that others have
//!   left behind with a webhook that is gone fails for ever. They are waited for as long as [`mod@super::telling`] says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt, future, stream};
use kube::core::DynamicResourceScope;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use roadstead_core::cluster::Capacity;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::Held;
use super::growth::{AutoscalerStatus, NodePool};
use super::slim::{Attachment, Kind, Namespace, Node, NodeDrivers, Pod, Slim, StorageClass, StorageLeft, Volume};
use super::tally::{Counted, Options, Step, Tally};
use super::telling::{Gist, Patience, Telling};
use crate::interpreter::{ClusterFacts, Failed, Others};
use crate::pauses::Pauses;
use crate::watching;

/// Objects in one page of a list: 500 pods of 6 KiB are 3 MiB, held twice while they are parsed.
const PAGE: u32 = 500;
/// Longest pause after a failure: an API server that is back is not left waiting.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Longest rest besides where nobody serves a kind, or we may not read it: that stays so mostly.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// How often the version of the cluster is asked for.
const VERSION_EVERY: Duration = Duration::from_secs(300);
/// How often it is asked for until it is known.
const VERSION_SOON: Duration = Duration::from_secs(2);
/// Where cluster-autoscaler writes what it knows.
const AUTOSCALER_STATUS: (&str, &str) = ("kube-system", "cluster-autoscaler-status");

/// Names of tenants or volumes.
type Names = BTreeSet<Box<str>>;

/// What a watch does to the sums.
type Change = Box<dyn FnOnce(&mut Tally) + Send>;

/// A running inventory. Dropping it ends its task.
#[derive(Debug)]
pub struct Inventory {
    held: watch::Receiver<Option<Arc<Held>>>,
    orphans: watch::Sender<Names>,
    detached: watch::Sender<Names>,
    pod_lists: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Inventory {
    /// Starts to watch a cluster.
    #[must_use]
    pub fn start(client: Client, options: Options) -> Self {
        let (sender, held) = watch::channel(None);
        let (orphans, told_orphans) = watch::channel(BTreeSet::new());
        let (detached, told_detached) = watch::channel(BTreeSet::new());
        let pod_lists = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(client, options, sender, (told_orphans, told_detached), pod_lists.clone()));
        Self { held, orphans, detached, pod_lists, task }
    }

    /// What the cluster holds; `None` until everything was listed once. Changes are coalesced, see [`mod@super::telling`].
    #[must_use]
    pub fn held(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.held.clone()
    }

    /// What the placement service is to be told, as it was last told here.
    ///
    /// # Errors
    /// Until everything was listed once.
    pub fn facts(&self) -> Result<ClusterFacts, Failed> {
        let held = self.held.borrow();
        let why = || Failed::Later { why: "the cluster's nodes, pods and volumes are still being listed".to_owned(), after: None };
        held.as_ref().map(|held| held.facts.clone()).ok_or_else(why)
    }

    /// What is labelled as tenants' and counted by nobody: what it uses is told as others'.
    pub fn hear(&self, others: Others<'_>) {
        let (sender, names): (_, Names) = match others {
            Others::Tenants(orphans) => (&self.orphans, orphans.iter().map(|id| id.to_string().into_boxed_str()).collect()),
            Others::Volumes(detached) => (&self.detached, detached),
        };
        sender.send_if_modified(|known| {
            let differs = *known != names;
            if differs {
                *known = names;
            }
            differs
        });
    }

    /// How often all pods were listed: once at the start, and whenever the API server could not tell any more what had changed.
    #[must_use]
    pub fn pod_lists(&self) -> u64 {
        self.pod_lists.load(Ordering::Relaxed)
    }

    /// Waits for its end, which only a panic brings about.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.task).await {
            warn!(%error, "the inventory has ended");
        }
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    client: Client,
    options: Options,
    sender: watch::Sender<Option<Arc<Held>>>,
    (mut orphans, mut detached): (watch::Receiver<Names>, watch::Receiver<Names>),
    pod_lists: Arc<AtomicU64>,
) {
    let mut tally = Tally::new(options);
    let mut changes = watches(&client, pod_lists);
    let mut versions = versions(client).boxed();
    let (start, mut telling, mut version, mut due) = (Instant::now(), Telling::default(), String::new(), None);
    let (mut patience, mut is_warned) = (Patience::default(), false);
    loop {
        tokio::select! {
            Some(change) = changes.next() => {
                change(&mut tally);
                // What is there already is taken before anybody asks whether to tell it.
                for _ in 1..PAGE {
                    let Some(Some(change)) = changes.next().now_or_never() else { break };
                    change(&mut tally);
                }
            }
            Some(told) = versions.next() => version = told,
            Ok(()) = orphans.changed() => tally.set_orphans(orphans.borrow_and_update().clone()),
            Ok(()) = detached.changed() => tally.set_detached(detached.borrow_and_update().clone()),
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => {
                due = None;
                warn_of_unlisted(&tally, &mut is_warned);
                telling.told(gist(&tally, &version), start.elapsed());
                let held = held(&tally, &version);
                sender.send_if_modified(|last| {
                    let differs = last.as_deref() != Some(&held);
                    if differs {
                        *last = Some(Arc::new(held));
                    }
                    differs
                });
                continue;
            }
        }
        let (knows_all, now) = (tally.complete() && !tally.uid().is_empty() && !version.is_empty(), start.elapsed());
        if let Some(ends) = patience.ends(knows_all, tally.unlisted().is_empty(), now) {
            due = telling.changed(&gist(&tally, &version), now).map(|due| start + due.max(ends));
        }
    }
}

/// Says once what is told of is done without.
fn warn_of_unlisted(tally: &Tally, is_warned: &mut bool) {
    let unlisted = tally.unlisted();
    if !unlisted.is_empty() && !std::mem::replace(is_warned, true) {
        warn!(kinds = unlisted.join(", "), "it is told without what autoscalers may still add: that cannot be listed");
    }
}

fn gist(tally: &Tally, version: &str) -> Gist {
    Gist { sums: tally.sums(), census: tally.census().clone(), identity: (tally.uid().to_owned(), version.to_owned()) }
}

fn held(tally: &Tally, version: &str) -> Held {
    let census = tally.census().clone();
    let capacity: Capacity = tally.capacity();
    let (ready_nodes, nodes) = (census.ready, census.nodes);
    let (growth, growth_room) = tally.growth();
    let details = census.details(&growth);
    let (uid, version) = (tally.uid().to_owned(), version.to_owned());
    let facts = ClusterFacts { uid, capacity, growth: growth_room, version, ready_nodes, nodes, details };
    Held { facts, census, storage: tally.storage(), growth }
}

/// The cluster's version, again and again.
fn versions(client: Client) -> impl Stream<Item = String> + Send {
    stream::unfold((client, Duration::ZERO), |(client, mut pause)| async move {
        loop {
            sleep(pause).await;
            match client.apiserver_version().await {
                Ok(version) => return Some((version.git_version, (client, VERSION_EVERY))),
                Err(error) => {
                    info!(%error, "the cluster does not tell its version");
                    pause = VERSION_SOON;
                }
            }
        }
    })
}

fn watches(client: &Client, pod_lists: Arc<AtomicU64>) -> SelectAll<BoxStream<'static, Change>> {
    let status = Api::namespaced_with(client.clone(), AUTOSCALER_STATUS.0, &());
    let only = watcher::Config::default().fields(&format!("metadata.name={}", AUTOSCALER_STATUS.1));
    stream::select_all([
        required::<Namespace>(client),
        required::<Node>(client),
        required::<Volume>(client),
        counted::<Pod>(client, pod_lists),
        optional::<StorageClass>(Api::all(client.clone()), paged()),
        optional::<StorageLeft>(Api::all(client.clone()), paged()),
        optional::<NodeDrivers>(Api::all(client.clone()), paged()),
        optional::<Attachment>(Api::all(client.clone()), paged()),
        optional::<NodePool>(Api::all(client.clone()), paged()),
        optional::<AutoscalerStatus>(status, only),
    ])
}

fn paged() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

/// A kind without which nothing can be told.
fn required<K: Kind + Counted>(client: &Client) -> BoxStream<'static, Change> {
    steps::<K>(Api::all(client.clone()), paged(), false).filter_map(|step| future::ready(step.ok().map(change))).boxed()
}

/// Pods, whose lists are counted.
fn counted<K: Kind + Counted>(client: &Client, lists: Arc<AtomicU64>) -> BoxStream<'static, Change> {
    let steps = steps::<K>(Api::all(client.clone()), paged(), false);
    let count = move |step: Result<Step<K>, watcher::Error>| {
        if matches!(step, Ok(Step::Done)) {
            lists.fetch_add(1, Ordering::Relaxed);
        }
        future::ready(step.ok().map(change))
    };
    steps.filter_map(count).boxed()
}

/// A kind that may be missing: while it is, there is nothing of it, and it is asked for less and less often.
fn optional<K: Kind + Counted>(api: Api<Slim<K>>, config: watcher::Config) -> BoxStream<'static, Change> {
    let mut rests = Pauses::up_to(LONGEST_REST);
    let rest = move |step: &Result<Step<K>, watcher::Error>| match step {
        Err(error) if is_missing(error) => rests.next(),
        Ok(_) | Err(_) => None,
    };
    let change = |step: Result<Step<K>, watcher::Error>| match step {
        Ok(step) => Some(change(step)),
        Err(error) if is_missing(&error) => Some(Box::new(Tally::unavailable::<K>) as Change),
        Err(_) => None,
    };
    resting(steps::<K>(api, config, true), rest).filter_map(move |step| future::ready(change(step))).boxed()
}

/// Whether nobody serves a kind, or we may not read it.
fn is_missing(error: &watcher::Error) -> bool {
    watching::is(error, &[403, 404])
}

/// A stream that rests after some of what it brings.
fn resting<T: Send>(
    items: impl Stream<Item = T> + Send,
    mut rest: impl FnMut(&T) -> Option<Duration> + Send,
) -> impl Stream<Item = T> + Send {
    items.flat_map(move |item| {
        let rest = stream::iter(rest(&item)).then(sleep).filter_map(|()| future::ready(None));
        stream::once(future::ready(item)).chain(rest)
    })
}

fn change<K: Counted + Send + 'static>(step: Step<K>) -> Change {
    Box::new(move |tally| tally.take(step))
}

/// Lists and watches a kind for ever.
fn steps<K: Kind + Counted>(
    api: Api<Slim<K>>,
    config: watcher::Config,
    may_be_missing: bool,
) -> impl Stream<Item = Result<Step<K>, watcher::Error>> + Send
where
    Slim<K>: Resource<DynamicType = (), Scope = DynamicResourceScope>,
{
    let events = watching::events(api, config, LONGEST_PAUSE);
    let mut told_missing = false;
    events.map(move |event| match event {
        Ok(Event::Init) => Ok(Step::Begin),
        Ok(Event::InitApply(slim) | Event::Apply(slim)) => Ok(Step::Is(slim.object)),
        Ok(Event::Delete(slim)) => Ok(Step::Gone(slim.object)),
        Ok(Event::InitDone) => Ok(Step::Done),
        Err(error) => {
            if !may_be_missing || !watching::is(&error, &[404]) {
                info!(kind = K::NAMES[2], %error, "a watch failed and is tried again");
            } else if !std::mem::replace(&mut told_missing, true) {
                debug!(kind = K::NAMES[2], "nobody serves this kind here: there is nothing of it");
            }
            Err(error)
        }
    })
}

#[cfg(test)]
mod tests;
