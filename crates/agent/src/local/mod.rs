//! Folders and processes on this machine: a cluster is a folder, a tenant a folder in it, a volume a folder in that, a workload a process of
//! the class's `local` command.
//!
//! Nothing bounds a process here: no quota, no network policy, no limit of memory. Bounds and routes are written down, and that is all.
//! Modules in reading order: [`process`], [`record`] (what is written down), [`secrets`], [`tenant`] (one folder), this one (the cluster).

mod process;
mod record;
mod secrets;
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use roadstead_api::v1::ObjectDiff;
use roadstead_class::namespace_of;
use roadstead_core::cluster::{Capacity, GrowthRoom};
use roadstead_core::id::{Incarnation, Revision, TenantId};
use roadstead_core::observed::ClusterDetails;
use roadstead_core::reconcile::{Action, TenantSeen};
use roadstead_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::interpreter::{Changed, ClusterFacts, Failed, Interpreter, Job, Removals};
use record::write_whole;
use tenant::{Look, Tenant};

/// How often processes and folders are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is written down of the cluster.
const CLUSTER_FILE: &str = "cluster.json";

/// What is written down of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterRecord {
    uid: String,
    generation: (u16, u64),
    /// Removals of late: by the tenant's number in 16 hexadecimal digits, when each was begun in milliseconds since 1970.
    #[serde(default)]
    removals: BTreeMap<String, u64>,
}

impl ClusterRecord {
    fn removals(&self) -> Removals {
        let of = |(id, begun): (&String, &u64)| Some((TenantId(u64::from_str_radix(id, 16).ok()?), Timestamp(*begun)));
        self.removals.iter().filter_map(of).collect()
    }
}

/// A cluster that is a folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Local {
    folder: Arc<PathBuf>,
    capacity: Arc<Mutex<Capacity>>,
    cluster: Arc<Mutex<ClusterRecord>>,
    tenants: Arc<Mutex<BTreeMap<TenantId, Arc<Mutex<Tenant>>>>>,
    looks: Arc<Mutex<Looks>>,
}

/// What was seen last, and of whom something else than before.
#[derive(Debug)]
struct Looks {
    last: BTreeMap<TenantId, Look>,
    changed: BTreeSet<TenantId>,
    next: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Local {
    /// Opens a folder as a cluster, makes it if it is not there. Processes of an earlier agent that still run are taken over.
    ///
    /// # Errors
    /// When the folder cannot be made, or holds something that is not a cluster.
    pub fn open(folder: &Path, uid: &str, capacity: Capacity) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("tenants"))?;
        let file = folder.join(CLUSTER_FILE);
        let cluster = if file.exists() {
            serde_json::from_slice(&std::fs::read(&file)?).map_err(io::Error::other)?
        } else {
            let cluster = ClusterRecord { uid: uid.to_owned(), generation: (0, 0), removals: BTreeMap::new() };
            write_whole(&file, &serde_json::to_vec_pretty(&cluster).map_err(io::Error::other)?)?;
            cluster
        };
        let mut tenants = BTreeMap::new();
        for entry in std::fs::read_dir(folder.join("tenants"))? {
            let path = entry?.path();
            match Tenant::found(path.clone(), folder.join("templates")) {
                Ok(tenant) => {
                    if let Some(id) = tenant.record().id() {
                        tenants.insert(id, Arc::new(Mutex::new(tenant)));
                    }
                }
                Err(error) => warn!(folder = %path.display(), %error, "this is no tenant's folder; it is left as it is"),
            }
        }
        Ok(Self {
            folder: Arc::new(folder.to_owned()),
            capacity: Arc::new(Mutex::new(capacity)),
            cluster: Arc::new(Mutex::new(cluster)),
            tenants: Arc::new(Mutex::new(tenants)),
            looks: Arc::new(Mutex::new(Looks { last: BTreeMap::new(), changed: BTreeSet::new(), next: Instant::now() })),
        })
    }

    /// What stands for the UID of `kube-system`: made with the folder, never changed.
    #[must_use]
    pub fn uid(&self) -> String {
        lock(&self.cluster).uid.clone()
    }

    /// What the cluster is said to have: nothing is measured here.
    pub fn set_capacity(&self, capacity: Capacity) {
        *lock(&self.capacity) = capacity;
    }

    /// Ends all processes, whatever is wanted; with the next agent they start again.
    pub fn end(&self) {
        let tenants: Vec<_> = lock(&self.tenants).values().cloned().collect();
        for tenant in tenants {
            lock(&tenant).end();
        }
    }

    fn tenant(&self, job: &Job) -> Arc<Mutex<Tenant>> {
        let mut tenants = lock(&self.tenants);
        let tenant = tenants.entry(job.intent.id).or_insert_with(|| {
            let folder = self.folder.join("tenants").join(namespace_of(&job.intent.name, job.intent.id));
            Arc::new(Mutex::new(Tenant::new(folder, self.folder.join("templates"))))
        });
        Arc::clone(tenant)
    }

    /// What is written down of the cluster: another agent of the same folder may have written it last.
    fn kept(&self) -> Result<ClusterRecord, Failed> {
        let read = || -> io::Result<ClusterRecord> {
            serde_json::from_slice(&std::fs::read(self.folder.join(CLUSTER_FILE))?).map_err(io::Error::other)
        };
        read().map_err(|error| Failed::Later { why: format!("{CLUSTER_FILE} cannot be read: {error}"), after: None })
    }

    /// Writes something else down of the cluster: into what is kept, and into what this agent knows. Until it is written no other agent of this folder
    /// writes.
    fn keep<T>(&self, change: impl FnOnce(&mut ClusterRecord, &mut ClusterRecord) -> Result<T, Failed>) -> Result<T, Failed> {
        let failed = |error: io::Error| Failed::Later { why: format!("{CLUSTER_FILE} cannot be written: {error}"), after: None };
        let mut cluster = lock(&self.cluster);
        let alone = File::open(&*self.folder).map_err(failed)?;
        alone.lock().map_err(failed)?;
        let before = self.kept()?;
        let (mut next, mut known) = (before.clone(), cluster.clone());
        let changed = change(&mut next, &mut known)?;
        if next != before {
            let bytes = serde_json::to_vec_pretty(&next).map_err(|error| Failed::Refused(error.to_string()))?;
            write_whole(&self.folder.join(CLUSTER_FILE), &bytes).map_err(failed)?;
        }
        *cluster = known;
        Ok(changed)
    }

    /// Whether no other agent has acted on a newer intent than this one.
    fn is_newest(&self) -> Result<(), Failed> {
        let ((incarnation, index), mine) = (self.kept()?.generation, lock(&self.cluster).generation);
        if (incarnation, index) <= mine {
            return Ok(());
        }
        let why = format!(
            "another agent of this cluster has acted on generation {incarnation}.{index}, and this one has heard {}.{}",
            mine.0, mine.1
        );
        Err(Failed::Later { why, after: None })
    }

    fn carry_out(&self, job: &Job, action: &Action) -> Result<(), Failed> {
        self.is_newest()?;
        let tenant = self.tenant(job);
        let mut tenant = lock(&tenant);
        match action {
            Action::Claim => tenant.claim(&job.intent),
            Action::Put(part) => tenant.put(job, *part),
            Action::MakeVolume(name) => tenant.make_volume(&job.intent, name),
            Action::GrowVolume(name) => tenant.grow_volume(&job.intent, name),
            Action::Unroute => tenant.unroute(&job.intent),
            Action::Stop => tenant.stop(job),
            Action::Delete => {
                tenant.delete(&job.intent)?;
                lock(&self.tenants).remove(&job.intent.id);
                lock(&self.looks).last.remove(&job.intent.id);
                Ok(())
            }
        }
    }

    /// Notes those of which something is not as it was when it was looked at last.
    fn look(&self) {
        let tenants: Vec<_> = lock(&self.tenants).iter().map(|(id, tenant)| (*id, Arc::clone(tenant))).collect();
        for (id, tenant) in tenants {
            // One that is being worked on is looked at when that is done.
            let Ok(mut tenant) = tenant.try_lock() else { continue };
            let look = tenant.look();
            let mut looks = lock(&self.looks);
            if looks.last.get(&id) != Some(&look) {
                looks.last.insert(id, look);
                looks.changed.insert(id);
            }
        }
    }
}

impl Interpreter for Local {
    const SETTLES: Duration = Duration::ZERO;

    async fn generation(&self) -> Result<Revision, Failed> {
        let (incarnation, index) = self.kept()?.generation;
        lock(&self.cluster).generation = (incarnation, index);
        Ok(Revision { incarnation: Incarnation(incarnation), index })
    }

    async fn removals(&self) -> Result<Removals, Failed> {
        let kept = self.kept()?;
        lock(&self.cluster).removals.clone_from(&kept.removals);
        Ok(kept.removals())
    }

    async fn keep_removals(&self, removals: &Removals) -> Result<Removals, Failed> {
        self.keep(|kept, known| {
            if kept.removals == known.removals {
                kept.removals = removals.iter().map(|(id, begun)| (id.to_string(), begun.0)).collect();
            }
            known.removals.clone_from(&kept.removals);
            Ok(kept.removals())
        })
    }

    async fn keep_generation(&self, generation: Revision) -> Result<(), Failed> {
        self.keep(|kept, known| {
            let (incarnation, index) = kept.generation;
            if (incarnation, index) > (generation.incarnation.0, generation.index) {
                return Err(Failed::Refused(format!(
                    "generation {incarnation}.{index} was acted on here, which is newer than {generation}"
                )));
            }
            kept.generation = (generation.incarnation.0, generation.index);
            known.generation = kept.generation;
            Ok(())
        })
    }

    fn seen(&self, job: &Job) -> Result<TenantSeen, Failed> {
        Ok(lock(&self.tenant(job)).seen(Some(job)))
    }

    fn labelled(&self, named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        let tenants: Vec<_> =
            lock(&self.tenants).iter().filter(|(id, _)| !named(**id)).map(|(id, tenant)| (*id, Arc::clone(tenant))).collect();
        let there = tenants.into_iter().filter_map(|(id, tenant)| {
            let mut tenant = tenant.try_lock().ok()?;
            tenant.record().id()?;
            Some((id, tenant.seen(None)))
        });
        Ok(there.collect())
    }

    async fn act(&self, job: &Job, action: &Action) -> Result<(), Failed> {
        let (local, job, action) = (self.clone(), job.clone(), action.clone());
        let done = tokio::task::spawn_blocking(move || local.carry_out(&job, &action)).await;
        done.unwrap_or_else(|error| Err(Failed::Later { why: error.to_string(), after: None }))
    }

    async fn diff(&self, job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        let (local, job) = (self.clone(), job.clone());
        let done = tokio::task::spawn_blocking(move || {
            // One that is not there yet is not entered among those that are.
            let known = lock(&local.tenants).get(&job.intent.id).cloned();
            match known {
                Some(tenant) => lock(&tenant).diff(&job),
                None => {
                    let folder = local.folder.join("tenants").join(namespace_of(&job.intent.name, job.intent.id));
                    Tenant::new(folder, local.folder.join("templates")).diff(&job)
                }
            }
        });
        done.await.unwrap_or_else(|error| Err(Failed::Later { why: error.to_string(), after: None }))
    }

    async fn changed(&self) -> Changed {
        loop {
            // Whoever waits here may stop waiting at any point: what was noted stays noted.
            let changed = std::mem::take(&mut lock(&self.looks).changed);
            if !changed.is_empty() {
                return Changed { tenants: changed.into_iter().collect(), cluster: false };
            }
            let next = lock(&self.looks).next;
            tokio::time::sleep_until(next.into()).await;
            lock(&self.looks).next = Instant::now() + LOOK_EVERY;
            let local = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || local.look()).await {
                warn!(%error, "folders and processes could not be looked at");
            }
        }
    }

    fn facts(&self) -> Result<ClusterFacts, Failed> {
        let capacity = lock(&self.capacity).clone();
        let nodes = capacity.nodes.iter().map(|node| node.count).sum();
        let uid = lock(&self.cluster).uid.clone();
        Ok(ClusterFacts {
            uid,
            capacity,
            growth: GrowthRoom::default(),
            version: "local".to_owned(),
            ready_nodes: nodes,
            nodes,
            details: ClusterDetails::default(),
        })
    }
}
