//! What Prometheus sees of a replica. Names follow its conventions; no label ever carries a tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use roadstead_consensus::door::Role;
use roadstead_core::cluster::ClusterState;
use roadstead_core::command::{Done, Outcome, Rejection};
use roadstead_core::state::State;

use crate::listener::ListenerCounts;

/// What became of a request, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Result {
    Placed,
    Pending,
    Changed,
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: Result,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Every state of a cluster, with its label: a state without a cluster shows as 0.
const STATES: [(ClusterState, &str); 5] = [
    (ClusterState::Active, "active"),
    (ClusterState::Cordoned, "cordoned"),
    (ClusterState::Draining, "draining"),
    (ClusterState::Silent, "silent"),
    (ClusterState::Overfull, "overfull"),
];

/// All metrics of one replica.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    term: Gauge,
    leading: Gauge,
    members: Gauge,
    applied_index: Gauge<u64, AtomicU64>,
    commands: Counter,
    outcomes: Family<ResultLabel, Counter>,
    rejections: Family<CauseLabel, Counter>,
    batch: Histogram,
    sync_seconds: Histogram,
    sync_bytes: Counter,
    waiting_requests: Gauge,
    waiting_reads: Gauge,
    snapshot_seconds: Gauge<f64, AtomicU64>,
    snapshot_bytes: Gauge<u64, AtomicU64>,
    snapshots: Counter,
    tenants: Gauge,
    pending: Gauge,
    clusters: Family<StateLabel, Gauge>,
    connections: Family<ListenerLabel, Gauge>,
    watchers: Gauge,
    client_listener: Arc<ListenerCounts>,
    peer_listener: Arc<ListenerCounts>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("roadstead");
        let (refused, closed) = (Family::<ListenerLabel, Counter>::default(), Family::<ListenerLabel, Counter>::default());
        let listener = |listener| {
            let label = ListenerLabel { listener };
            let (refused, closed) = (refused.get_or_create(&label).clone(), closed.get_or_create(&label).clone());
            Arc::new(ListenerCounts { refused, closed, ..ListenerCounts::default() })
        };
        let metrics = Self {
            registry: Registry::default(),
            term: Gauge::default(),
            leading: Gauge::default(),
            members: Gauge::default(),
            applied_index: Gauge::default(),
            commands: Counter::default(),
            outcomes: Family::default(),
            rejections: Family::default(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            // 50 us to 1.6 s: a good disk syncs in 0.1 ms, a bad one in 50 ms.
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            sync_bytes: Counter::default(),
            waiting_requests: Gauge::default(),
            waiting_reads: Gauge::default(),
            snapshot_seconds: Gauge::default(),
            snapshot_bytes: Gauge::default(),
            snapshots: Counter::default(),
            tenants: Gauge::default(),
            pending: Gauge::default(),
            clusters: Family::default(),
            connections: Family::default(),
            watchers: Gauge::default(),
            client_listener: listener("client"),
            peer_listener: listener("peer"),
        };
        registry.register("raft_term", "Raft term", metrics.term.clone());
        registry.register("raft_leading", "1 if this replica leads and decides", metrics.leading.clone());
        registry.register("raft_members", "Members, voters and learners", metrics.members.clone());
        registry.register("raft_applied_index", "Index of the last applied entry", metrics.applied_index.clone());
        registry.register("applied_commands", "Commands applied since the start", metrics.commands.clone());
        registry.register("requests", "Requests answered as the leader, by result", metrics.outcomes.clone());
        registry.register("rejections", "Requests rejected as the leader, by cause", metrics.rejections.clone());
        registry.register("batch_requests", "Requests decided together", metrics.batch.clone());
        registry.register_with_unit("log_sync", "Time of one synced write", Unit::Seconds, metrics.sync_seconds.clone());
        registry.register_with_unit("log_written", "Bytes of entries written", Unit::Bytes, metrics.sync_bytes.clone());
        registry.register("waiting_requests", "Requests without an answer yet", metrics.waiting_requests.clone());
        registry.register("waiting_reads", "Linearizable reads without an answer yet", metrics.waiting_reads.clone());
        registry.register_with_unit("snapshot_last_duration", "Time of the last snapshot", Unit::Seconds, metrics.snapshot_seconds.clone());
        registry.register_with_unit("snapshot_last_size", "Size of the last snapshot", Unit::Bytes, metrics.snapshot_bytes.clone());
        registry.register("snapshots", "Snapshots taken since the start", metrics.snapshots.clone());
        registry.register("tenants", "Tenants that are known", metrics.tenants.clone());
        registry.register("tenants_pending", "Tenants that wait for room", metrics.pending.clone());
        registry.register("clusters", "Clusters, by state", metrics.clusters.clone());
        registry.register("connections", "Connections that are open, by listener", metrics.connections.clone());
        registry.register("connections_refused", "TLS handshakes refused since the start, by listener", refused);
        registry.register("connections_closed", "Connections closed for their certificate since the start, by listener", closed);
        registry.register("watchers", "Watches that are open", metrics.watchers.clone());
        Self { registry, ..metrics }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

impl Metrics {
    /// As Prometheus reads them.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn client_listener(&self) -> &Arc<ListenerCounts> {
        &self.client_listener
    }

    pub(crate) fn peer_listener(&self) -> &Arc<ListenerCounts> {
        &self.peer_listener
    }

    /// Takes over what is counted in the state, by the listeners and by the history of watches: when somebody asks, not at every change.
    pub(crate) fn scrape(&self, state: &State, watchers: usize) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.watchers.set(whole(watchers));
        self.tenants.set(whole(state.tenant_count()));
        self.pending.set(whole(state.pending_count()));
        let mut by_state = STATES.map(|(state, name)| (state, name, 0_i64));
        for cluster in state.clusters() {
            let now = state.cluster_state(cluster.id);
            for (known, _, count) in &mut by_state {
                *count += i64::from(now.as_ref() == Some(known));
            }
        }
        for (_, name, count) in by_state {
            self.clusters.get_or_create(&StateLabel { state: name }).set(count);
        }
        for (listener, counts) in [("client", &self.client_listener), ("peer", &self.peer_listener)] {
            let label = ListenerLabel { listener };
            let read = |count: &AtomicU64| i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            self.connections.get_or_create(&label).set(read(&counts.open));
        }
    }

    pub(crate) fn role(&self, role: &Role) {
        self.term.set(i64::try_from(role.term).unwrap_or(i64::MAX));
        self.leading.set(i64::from(role.leading));
        let members = role.membership.voters.len() + role.membership.learners.len();
        self.members.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    pub(crate) fn applied(&self, index: u64, commands: usize) {
        self.applied_index.set(index);
        self.commands.inc_by(commands as u64);
    }

    pub(crate) fn batch(&self, requests: usize) {
        self.batch.observe(f64::from(u32::try_from(requests).unwrap_or(u32::MAX)));
    }

    pub(crate) fn log_synced(&self, took: Duration, bytes: usize) {
        self.sync_seconds.observe(took.as_secs_f64());
        self.sync_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn snapshot_taken(&self, took: Duration, bytes: u64) {
        self.snapshot_seconds.set(took.as_secs_f64());
        self.snapshot_bytes.set(bytes);
        self.snapshots.inc();
    }

    pub(crate) fn queues(&self, requests: usize, reads: usize) {
        self.waiting_requests.set(i64::try_from(requests).unwrap_or(i64::MAX));
        self.waiting_reads.set(i64::try_from(reads).unwrap_or(i64::MAX));
    }

    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Done(Done::Placed { .. }) => Result::Placed,
            Outcome::Done(Done::Pending { .. }) => Result::Pending,
            Outcome::Done(Done::Changed { .. }) => Result::Changed,
            Outcome::Rejected(rejection) => {
                self.rejections.get_or_create(&CauseLabel { cause: cause(rejection) }).inc();
                Result::Rejected
            }
        };
        self.outcomes.get_or_create(&ResultLabel { result }).inc();
    }
}

fn cause(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Stale => "stale",
        Rejection::NotFound { .. } => "not_found",
        Rejection::AlreadyExists { .. } => "already_exists",
        Rejection::Conflict { .. } => "conflict",
        Rejection::RequestIdReused => "request_id_reused",
        Rejection::RequestIdExpired { .. } => "request_id_expired",
        Rejection::Unplaceable { .. } => "unplaceable",
        Rejection::PendingFull { .. } => "pending_full",
        Rejection::QuotaExceeded { .. } => "quota_exceeded",
        Rejection::Invalid { .. } => "invalid",
        Rejection::InUse { .. } => "in_use",
        Rejection::Fenced { .. } => "fenced",
        Rejection::Broken { .. } => "broken",
    }
}
