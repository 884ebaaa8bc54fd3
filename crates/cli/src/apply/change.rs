//! What a document would change: the server's thing beside the one that is wanted.

use roadstead_api::v1;
use roadstead_core::policy::PolicySpec as CorePolicy;

use crate::client::Client;
use crate::document::class::ClassSpec;
use crate::document::fleet::{ClusterSpec, DEFAULT_SHARD_CAP, DEFAULT_TENANT_CAP, PolicySpec};
use crate::document::quantity::Span;
use crate::document::tenant::{ClassRef, TenantSpec};
use crate::document::{Document, Kind, Spec, duration_to_wire};
use crate::failure::{Exit, Failure};
use crate::output::objects::Object;
use crate::output::status;

/// How a document and the server differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The server has no such thing.
    Created,
    /// The server has it otherwise.
    Configured,
    /// Nothing is to be done.
    Unchanged,
}

impl Difference {
    /// As kubectl says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A tenant that was deleted keeps its name until its volumes are gone. It is not there, whatever its spec says.
///
/// # Errors
/// It is deleted; how it comes back, or goes.
pub fn check_not_deleted(tenant: &v1::Tenant) -> Result<(), Failure> {
    let Some(how) = status::deletion(tenant) else { return Ok(()) };
    let name = &tenant.name;
    let next = match tenant.status.as_ref().map(v1::TenantStatus::phase).unwrap_or_default() {
        v1::Phase::Purging => format!("`roadstead delete tenant {name} --purge --wait` waits until it is gone; then apply again"),
        v1::Phase::Unspecified
        | v1::Phase::Pending
        | v1::Phase::Placed
        | v1::Phase::Running
        | v1::Phase::Releasing
        | v1::Phase::Retained => format!("`roadstead undelete {name}`, or `roadstead delete tenant {name} --purge` and apply again"),
    };
    Err(Failure::failed(format!("tenant {name:?} {how}")).hint(next))
}

/// What is there and what is wanted.
#[derive(Clone, Debug)]
pub struct Change {
    /// The server's; `None` if it has none.
    pub current: Option<Object>,
    /// As it would be, with defaults filled in and what the document leaves alone taken over.
    pub desired: Object,
    /// Facts of a model cluster to report after it.
    pub report: Option<v1::Capacity>,
}

/// The UID of a model cluster, which has no `kube-system`.
#[must_use]
pub fn model_uid(cluster: &str) -> String {
    format!("model-{cluster}")
}

impl Change {
    /// Reads what the server has and lays the document over it.
    ///
    /// # Errors
    /// The calls'; a tenant that is deleted.
    pub async fn compute(client: &Client, document: &Document) -> Result<Self, Failure> {
        let name = match &document.spec {
            Spec::Class(class) => ClassRef { name: document.name.clone(), version: class.version.clone() }.to_string(),
            Spec::Policy(_) | Spec::Pool(_) | Spec::Cluster(_) | Spec::Tenant(_) => document.name.clone(),
        };
        let current = match client.object(document.spec.kind(), &name, false).await {
            Ok(object) => Some(object),
            Err(failure) if failure.exit == Exit::NotFound => None,
            Err(failure) => return Err(failure),
        };
        if let Some(Object::Tenant(tenant)) = &current {
            check_not_deleted(tenant)?;
        }
        Ok(Self::lay(document, current))
    }

    /// Lays a document over what the server has.
    #[must_use]
    pub fn lay(document: &Document, current: Option<Object>) -> Self {
        let name = document.name.clone();
        let mut report = None;
        let desired = match (&document.spec, &current) {
            (Spec::Policy(spec), _) => Object::Policy(v1::Policy { spec: Some(whole_policy(spec)), revision: None }),
            (Spec::Pool(spec), _) => Object::Pool(v1::Pool { name, spec: Some(spec.into()), revision: None }),
            (Spec::Class(spec), _) => Object::Class(Box::new(spec.to_wire(&name))),
            (Spec::Cluster(spec), current) => {
                let current = match current {
                    Some(Object::Cluster(cluster)) => Some(&**cluster),
                    _ => None,
                };
                report = new_facts(spec, current);
                let kept = current.and_then(|cluster| cluster.spec.as_ref());
                Object::Cluster(Box::new(v1::Cluster { name, spec: Some(whole_cluster(spec, kept)), ..v1::Cluster::default() }))
            }
            (Spec::Tenant(spec), _) => Object::Tenant(Box::new(v1::Tenant { name, spec: Some((&**spec).into()), ..v1::Tenant::default() })),
        };
        Self { current, desired, report }
    }

    /// How they differ.
    #[must_use]
    pub fn difference(&self) -> Difference {
        match &self.current {
            None => Difference::Created,
            Some(current) if same(current, &self.desired) && self.report.is_none() => Difference::Unchanged,
            // A policy that nobody has ever set is there nevertheless.
            Some(current) if current.kind() == Kind::Policy && never_set(current) => Difference::Created,
            Some(_) => Difference::Configured,
        }
    }
}

fn never_set(object: &Object) -> bool {
    match object {
        Object::Policy(policy) => policy.revision.is_none_or(|revision| revision.index == 0),
        Object::Pool(_) | Object::Class(_) | Object::Cluster(_) | Object::Tenant(_) => false,
    }
}

/// Whether two things declare the same; compared as documents, so that defaults and the order of maps do not matter.
fn same(a: &Object, b: &Object) -> bool {
    match (a, b) {
        (Object::Policy(a), Object::Policy(b)) => a.spec.as_ref().map(PolicySpec::from) == b.spec.as_ref().map(PolicySpec::from),
        (Object::Pool(a), Object::Pool(b)) => a.spec == b.spec,
        (Object::Class(a), Object::Class(b)) => ClassSpec::from(&**a) == ClassSpec::from(&**b),
        (Object::Cluster(a), Object::Cluster(b)) => a.spec.as_ref().map(ClusterSpec::from) == b.spec.as_ref().map(ClusterSpec::from),
        (Object::Tenant(a), Object::Tenant(b)) => a.spec.as_ref().map(TenantSpec::from) == b.spec.as_ref().map(TenantSpec::from),
        _ => false,
    }
}

/// The policy with its defaults filled in.
fn whole_policy(spec: &PolicySpec) -> v1::PolicySpec {
    let defaults = CorePolicy::default();
    let mut wire = v1::PolicySpec::from(spec);
    wire.max_pending.get_or_insert(defaults.max_pending);
    wire.pending_tries_per_batch.get_or_insert(defaults.pending_tries_per_batch);
    wire.silent_after.get_or_insert(duration_to_wire(Span(defaults.silent_after.0)));
    wire.request_window.get_or_insert(duration_to_wire(Span(defaults.request_window.0)));
    wire.max_requests.get_or_insert(defaults.max_requests);
    wire
}

/// A cluster with its defaults filled in, and with what the document leaves alone as it is.
fn whole_cluster(spec: &ClusterSpec, current: Option<&v1::ClusterSpec>) -> v1::ClusterSpec {
    let mut wire = v1::ClusterSpec::from(spec);
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    wire.tenant_cap = or(wire.tenant_cap, DEFAULT_TENANT_CAP);
    wire.high_water = or(wire.high_water, (wire.tenant_cap / 10 * 9 + wire.tenant_cap % 10 * 9 / 10).max(1));
    wire.shard_cap = or(wire.shard_cap, DEFAULT_SHARD_CAP);
    wire.max_shards = or(wire.max_shards, wire.tenant_cap.div_ceil(wire.shard_cap));
    if spec.uid.is_none() {
        wire.uid = current.map(|current| current.uid.clone()).unwrap_or_default();
    }
    if spec.cordoned.is_none() {
        wire.cordoned = current.is_some_and(|current| current.cordoned);
    }
    if spec.draining.is_none() {
        wire.draining = current.is_some_and(|current| current.draining);
    }
    wire
}

/// The facts to report, if the document gives some that the server does not have.
fn new_facts(spec: &ClusterSpec, current: Option<&v1::Cluster>) -> Option<v1::Capacity> {
    let wanted: v1::Capacity = spec.capacity.as_ref()?.into();
    let reported = current.and_then(|cluster| cluster.status.as_ref()).and_then(|status| status.capacity.as_ref());
    (reported != Some(&wanted)).then_some(wanted)
}
