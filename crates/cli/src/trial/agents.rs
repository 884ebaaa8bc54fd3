//! Model clusters: agents as real gRPC clients with agents' certificates, in front of no Kubernetes at all. `demo` has them because its ten
//! thousand tenants would be twenty thousand processes; `dev` carries its few with the real agent, in folders.
//!
//! Each follows its own cluster, reports what it has, says that a tenant runs a short while after it was placed, and that it is gone a
//! short while after it was released. It knows nothing of the other clusters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use roadstead_api::v1;
use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::watch_event::{Object, Type};
use tokio::task::JoinSet;

use super::Trial;
use crate::apply::model_uid;
use crate::apply::put::send;
use crate::client::follow::{Follow, Heard};
use crate::client::{Client, Services};
use crate::document::Spec;
use crate::document::files::Loaded;
use crate::failure::Failure;
use crate::pki::{Role, Subject};

/// How long a model tenant takes to start or to stop: long enough to be seen, short enough to be watched.
const CHANGE_TAKES: Duration = Duration::from_millis(400);
/// How often what has changed is reported together.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How often a cluster is heard of although nothing changes: well within the policy's `silentAfter`.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Tenants in one report.
const MAX_REPORTED: usize = 1000;
/// How long a stopped tenant stays before a purge removes the rest of it.
const PURGE_AFTER: Duration = Duration::from_secs(2);

/// Facts by cluster, from documents.
pub type Facts = BTreeMap<String, v1::Capacity>;

/// What the documents say that their clusters have.
#[must_use]
pub fn facts(loaded: &[Loaded]) -> Facts {
    let capacity = |item: &Loaded| match &item.document.spec {
        Spec::Cluster(cluster) => Some((item.document.name.clone(), cluster.capacity.as_ref()?.into())),
        Spec::Policy(_) | Spec::Pool(_) | Spec::Class(_) | Spec::Tenant(_) => None,
    };
    loaded.iter().filter_map(capacity).collect()
}

/// What a model cluster has about which nobody has said anything.
pub(super) fn some_capacity() -> v1::Capacity {
    const GIB: u64 = 1 << 30;
    let node = v1::PodSize { cpu_millicores: 32_000, memory_bytes: 128 * GIB };
    let count = 10;
    v1::Capacity {
        allocatable: Some(v1::Resources {
            cpu_millicores: node.cpu_millicores * u64::from(count),
            memory_bytes: node.memory_bytes * u64::from(count),
            pods: 110 * u64::from(count),
            storage_bytes: 20 << 40,
            attachments: 60 * u64::from(count),
        }),
        used_by_others: Some(v1::Resources::default()),
        nodes: vec![v1::NodeSize { allocatable: Some(node), largest_free: Some(node), count }],
    }
}

/// The agents of a fleet, each a task; dropping it ends them.
pub struct Fleet {
    tasks: JoinSet<()>,
    known: BTreeMap<String, ()>,
}

impl Fleet {
    /// A fleet without clusters.
    #[must_use]
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), known: BTreeMap::new() }
    }

    /// Starts an agent for each cluster that has none.
    ///
    /// # Errors
    /// Certificates that cannot be written, the listing's failure.
    pub async fn follow(&mut self, trial: &mut Trial, client: &Client, facts: &Facts) -> Result<usize, Failure> {
        let mut started = 0;
        for cluster in client.clusters(true).await? {
            if self.known.insert(cluster.name.clone(), ()).is_none() {
                let agent = Client::new(&trial.context(&Subject::new(Role::Agent, &cluster.name))?, super::CALL_TIMEOUT)?;
                let model = Model::new(agent, &cluster, facts.get(&cluster.name));
                self.tasks.spawn(model.run());
                started += 1;
            }
        }
        Ok(started)
    }

    /// How many agents run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no agent runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

/// A tenant that is about to change.
struct Due {
    at: Instant,
    epoch: Option<v1::Revision>,
    observed: Observed,
}

/// One model cluster.
struct Model {
    client: Client,
    cluster: String,
    uid: String,
    /// Reported with the first report.
    capacity: Option<v1::Capacity>,
    /// By tenant's uid.
    due: BTreeMap<String, Due>,
    /// What it carries, also what the placement service has forgotten in a restore; by tenant's uid.
    carried: BTreeMap<String, Carried>,
    /// The service asked for all that is carried, at this revision.
    complete_at: Option<v1::Revision>,
}

/// A tenant that is there.
#[derive(Clone, Copy)]
struct Carried {
    epoch: Option<v1::Revision>,
    observed: Observed,
}

impl Model {
    fn new(client: Client, cluster: &v1::Cluster, facts: Option<&v1::Capacity>) -> Self {
        let declared = cluster.spec.as_ref().map(|spec| spec.uid.clone()).filter(|uid| !uid.is_empty());
        let reported = cluster.status.as_ref().filter(|status| status.report_time.is_some()).and_then(|status| status.capacity.clone());
        // What was reported stays true over a restart.
        let capacity = match reported {
            Some(_) => None,
            None => Some(facts.cloned().unwrap_or_else(some_capacity)),
        };
        Self {
            client,
            uid: declared.unwrap_or_else(|| model_uid(&cluster.name)),
            cluster: cluster.name.clone(),
            capacity,
            due: BTreeMap::new(),
            carried: BTreeMap::new(),
            complete_at: None,
        }
    }

    async fn run(mut self) {
        let request = v1::WatchRequest {
            kinds: vec![v1::WatchKind::Tenant.into()],
            cluster: self.cluster.clone(),
            with_initial_state: true,
            ..v1::WatchRequest::default()
        };
        let mut follow = Follow::new(self.client.clone(), request.clone());
        let mut tick = tokio::time::interval(REPORT_EVERY);
        let mut heard = Instant::now();
        let mut first = true;
        loop {
            tokio::select! {
                next = follow.next() => match next {
                    Ok(Heard::Event(_, event)) => self.take(*event),
                    Ok(Heard::InitialStateBeginsAgain) => self.due.clear(),
                    Ok(Heard::InitialStateComplete(_)) => {}
                    Err(failure) => {
                        // The history no longer reaches back, or nobody answers: begin anew with the present state.
                        tracing::warn!(cluster = %self.cluster, error = %failure, "the watch begins anew");
                        follow = Follow::new(self.client.clone(), request.clone());
                        tokio::time::sleep(CHANGE_TAKES).await;
                    }
                },
                _ = tick.tick() => {
                    if first || self.complete_at.is_some() || heard.elapsed() > HEARTBEAT || self.due.values().any(|due| due.at <= Instant::now()) {
                        if let Err(failure) = self.report().await {
                            tracing::warn!(cluster = %self.cluster, error = %failure, "a report was not taken; it is repeated");
                            continue;
                        }
                        (heard, first) = (Instant::now(), false);
                    }
                }
            }
        }
    }

    fn take(&mut self, event: v1::WatchEvent) {
        let kind = event.r#type();
        let Some(Object::Tenant(tenant)) = event.object else { return };
        let status = tenant.status.unwrap_or_default();
        let observed = match status.phase() {
            v1::Phase::Placed if kind != Type::Deleted => Some(Observed::Running),
            v1::Phase::Purging if kind != Type::Deleted => Some(Observed::Absent),
            v1::Phase::Releasing if kind != Type::Deleted => Some(Observed::Stopped),
            _ => None,
        };
        match observed {
            Some(observed) => {
                let epoch = status.binding.and_then(|binding| binding.epoch);
                self.due.insert(tenant.uid, Due { at: Instant::now() + CHANGE_TAKES, epoch, observed });
            }
            None => drop(self.due.remove(&tenant.uid)),
        }
    }

    async fn report(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let ready: Vec<String> = self.due.iter().filter(|(_, due)| due.at <= now).map(|(uid, _)| uid.clone()).take(MAX_REPORTED).collect();
        let observed = |uid: &String, epoch, observed: Observed| v1::ObservedTenant { uid: uid.clone(), epoch, observed: observed.into() };
        let changed = ready.iter().filter_map(|uid| self.due.get(uid).map(|due| observed(uid, due.epoch, due.observed)));
        let complete_at = self.complete_at.take();
        let all = self.carried.iter().filter(|(uid, _)| complete_at.is_some() && !ready.contains(uid));
        let tenants = changed.chain(all.map(|(uid, carried)| observed(uid, carried.epoch, carried.observed))).collect();
        let request = v1::ReportCapacityRequest {
            cluster: self.cluster.clone(),
            uid: self.uid.clone(),
            capacity: self.capacity.clone(),
            tenants,
            complete_at,
        };
        let answer = send!(self.client, &format!("report of cluster/{}", self.cluster), fleet, report_capacity, request)?;
        self.complete_at = answer.revision.filter(|_| answer.complete_wanted);
        self.capacity = None;
        for uid in ready {
            match self.due.get(&uid) {
                Some(Due { observed: Observed::Absent, .. }) | None => drop(self.carried.remove(&uid)),
                Some(Due { epoch, observed, .. }) => {
                    self.carried.insert(uid.clone(), Carried { epoch: *epoch, observed: *observed });
                }
            }
            // A tenant that stopped and is still on its way out is one whose volumes are not kept.
            match self.due.get_mut(&uid) {
                Some(due) if due.observed == Observed::Stopped => {
                    (due.at, due.observed) = (now + PURGE_AFTER, Observed::Absent);
                }
                _ => drop(self.due.remove(&uid)),
            }
        }
        Ok(())
    }
}
