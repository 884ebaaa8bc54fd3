//! What each kind of cluster must be able to do. There are two: a Kubernetes cluster, and folders with processes on this machine.
//!
//! An interpreter looks and carries out. It decides nothing: what comes next is decided by [`roadstead_core::reconcile`].

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use roadstead_api::v1::ObjectDiff;
use roadstead_class::Rendered;
use roadstead_core::cluster::{Capacity, GrowthRoom};
use roadstead_core::id::{Name, Revision, TenantId};
use roadstead_core::intent::TenantIntent;
use roadstead_core::observed::ClusterDetails;
use roadstead_core::reconcile::{Action, TenantSeen};
use roadstead_core::time::Timestamp;

/// A tenant with what there is to be of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is wanted.
    pub intent: TenantIntent,
    /// What there is to be; or why that cannot be said, in plain words. Then nothing is made, and it can still be stopped or removed.
    pub rendered: Result<Arc<Rendered>, String>,
}

/// Why an action was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It was refused, and will be until something changes: an admission refusal, a quota, a field of another's, an immutable one.
    #[error("{0}")]
    Refused(String),
    /// Whoever was to do it has too much to do: it was not tried. Neither is anything else of the tenant's shard, until it may come again.
    #[error("{why}")]
    TooMany {
        /// In plain words.
        why: String,
        /// When the server asked for it.
        after: Duration,
    },
    /// It may work later: an error of the server, a time-out.
    #[error("{why}")]
    Later {
        /// In plain words.
        why: String,
        /// When the server asked for it.
        after: Option<Duration>,
    },
}

/// What a cluster is, beside its tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterFacts {
    /// UID of `kube-system`, or what stands for it.
    pub uid: String,
    /// What there is and what others use.
    pub capacity: Capacity,
    /// What may still be added, and counts.
    pub growth: GrowthRoom,
    /// Version of Kubernetes, as in `v1.34.4`; `local` without one.
    pub version: String,
    /// Nodes that are ready.
    pub ready_nodes: u32,
    /// All nodes.
    pub nodes: u32,
    /// More about it.
    pub details: ClusterDetails,
}

/// Removals, and when each was begun.
pub type Removals = BTreeMap<TenantId, Timestamp>;

/// What is labelled as tenants' and counted by nobody, so that what it uses is others' use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others<'a> {
    /// All tenants that no intent names.
    Tenants(&'a [TenantId]),
    /// All volumes, by name, that tenants keep although nothing asks for them any more.
    Volumes(BTreeSet<Box<str>>),
}

/// What changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Tenants of which something changed; looked at again.
    pub tenants: Vec<TenantId>,
    /// Whether facts about the cluster may have.
    pub cluster: bool,
}

/// One kind of cluster. Cheap to clone: the workers of all shards hold one each.
pub trait Interpreter: Clone + Send + Sync + 'static {
    /// How long what was made takes to be seen: so long nothing is done again.
    const SETTLES: Duration = Duration::from_millis(300);

    /// The newest generation that was ever acted on here, by whichever agent: kept over restarts. From here on this one acts for it or newer ones.
    ///
    /// # Errors
    /// It could not be read: nothing may be acted on.
    fn generation(&self) -> impl Future<Output = Result<Revision, Failed>> + Send;

    /// Keeps the generation before anything of it is acted on. It only goes up.
    ///
    /// # Errors
    /// It could not be kept: nothing may be acted on.
    fn keep_generation(&self, generation: Revision) -> impl Future<Output = Result<(), Failed>> + Send;

    /// The removals that were begun here of late, and when, by wall time: by whichever agent, kept over restarts. From here on this one knows of them.
    ///
    /// # Errors
    /// They could not be read: nothing may be acted on.
    fn removals(&self) -> impl Future<Output = Result<Removals, Failed>> + Send;

    /// Keeps the removals of late before any of them is begun: those that are known, and new ones. What is kept now: these; or, where another agent of
    /// this cluster has begun some of which this one did not know, what was kept before.
    ///
    /// # Errors
    /// They could not be kept: no new one may be begun.
    fn keep_removals(&self, removals: &Removals) -> impl Future<Output = Result<Removals, Failed>> + Send;

    /// What is there of a tenant, compared with what there is to be. From memory: no call to anybody. `Err` while that is not known yet.
    ///
    /// # Errors
    /// What has not been looked at yet.
    fn seen(&self, job: &Job) -> Result<TenantSeen, Failed>;

    /// Whatever is labelled as a tenant but for those that are `named` by an intent, and what is known of it without one.
    ///
    /// # Errors
    /// What has not been looked at yet.
    fn labelled(&self, named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed>;

    /// Carries an action out. Done again it does no harm.
    ///
    /// # Errors
    /// Why not; also when another agent of this cluster has kept a newer generation than this one has read or kept.
    fn act(&self, job: &Job, action: &Action) -> impl Future<Output = Result<(), Failed>> + Send;

    /// What would change of a tenant's objects if it were made as rendered. Nothing is changed, and no secret's data is told.
    ///
    /// # Errors
    /// Why that cannot be said.
    fn diff(&self, job: &Job) -> impl Future<Output = Result<Vec<ObjectDiff>, Failed>> + Send;

    /// Waits until something changed.
    fn changed(&self) -> impl Future<Output = Changed> + Send;

    /// Where what is labelled as a tenant is, as people find it: its namespace, its folder.
    fn home_of(&self, id: TenantId) -> String {
        id.to_string()
    }

    /// Those that are labelled as tenants and named by no intent: nobody counts them, so that what they use is others' use.
    fn orphans(&self, orphans: &[TenantId]) {
        let _ = orphans;
    }

    /// Volumes that tenants keep although nothing asks for them any more, as after a class has dropped one: nobody counts them, either. Said anew in each
    /// round, since what they are bound to may have changed.
    fn detached(&self, volumes: &BTreeSet<(TenantId, Name)>) {
        let _ = volumes;
    }

    /// Facts about the cluster, as they are now.
    ///
    /// # Errors
    /// What has not been looked at yet.
    fn facts(&self) -> Result<ClusterFacts, Failed>;
}
