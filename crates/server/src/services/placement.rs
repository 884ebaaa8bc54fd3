//! `PlacementService`: what changes tenants. What only reads is in [`super::reads`], the stream in [`super::stream`].

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use roadstead_api::v1;
use roadstead_api::v1::placement_service_server::PlacementService;
use roadstead_core::command::{Done, Kind, Outcome};
use roadstead_core::id::{Name, Revision, ShardId};
use roadstead_core::request::{Ask, Retry};
use roadstead_core::state::State;
use roadstead_core::tenant::{Tenant, TenantSpec};
use tonic::{Request, Response, Status, Streaming};

use super::context::{Context, reach, retry};
use super::raw_watch::RawStream;
use super::{dry, stream};
use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::request_id::fingerprint;
use crate::convert::{self, cluster_names, wire_revision};
use crate::errors::{self, Fault, RETRY_SOON};

/// How long an answer waits for this replica to have applied what the leader has: some round trips.
const APPLIED_WAIT: Duration = Duration::from_secs(1);

/// `PlacementService` on one replica.
#[derive(Debug)]
pub struct Placement {
    pub(super) context: Arc<Context>,
}

/// A checked `PlaceTenantRequest`.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) retry: Retry,
    pub(super) spec: Box<TenantSpec>,
    pub(super) wait: bool,
    pub(super) dry_run: bool,
}

/// Checks everything that needs no state. The fingerprint is the same for the stream, so that a retry may change over.
pub(super) fn prepare(reach: &Reach, mut message: v1::PlaceTenantRequest) -> Result<Prepared, Fault> {
    let id = std::mem::take(&mut message.request_id);
    let print = fingerprint("PlaceTenant", &message);
    let mut check = Check::default();
    let retry = retry(&mut check, &id, print);
    let spec = convert::tenant::spec(&mut check, &message.name, message.spec.as_ref());
    let (retry, spec) = check.finish(retry.zip(spec))?;
    reach.spec(&spec)?;
    Ok(Prepared { retry, spec: Box::new(spec), wait: message.wait.unwrap_or(true), dry_run: message.dry_run })
}

impl Placement {
    /// On this replica.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn place(&self, reach: &Reach, message: v1::PlaceTenantRequest) -> Result<v1::PlaceTenantResponse, Fault> {
        let Prepared { retry, spec, wait, dry_run } = prepare(reach, message)?;
        self.context.check_values(&spec).await?;
        let name = spec.name.clone();
        let ask = Ask::PlaceTenant { spec: spec.clone(), wait };
        if dry_run {
            let (tenant, revision) = self.dry_tenant(reach, ask, name).await?;
            // The uid is given at the commit.
            let tenant = v1::Tenant { uid: String::new(), ..tenant };
            return Ok(v1::PlaceTenantResponse { tenant: Some(tenant), revision: Some(wire_revision(revision)) });
        }
        let (done, revision) = self.context.submit(&reach.caller().principal, Some(retry), ask).await?;
        let revision = self.context.revision_of(&done, revision).await;
        let tenant = match self.as_of(&spec, revision).await {
            Some(tenant) => tenant,
            // An old retry's answer: the tenant has changed since, so it is told as it was answered at first.
            None => self.as_answered(&spec, &done, revision),
        };
        Ok(v1::PlaceTenantResponse { tenant: Some(tenant), revision: Some(wire_revision(revision)) })
    }

    async fn dry_tenant(&self, reach: &Reach, ask: Ask, name: Name) -> Result<(v1::Tenant, Revision), Fault> {
        let state = self.context.state(true).await?;
        let principal = reach.caller().principal.clone();
        self.context
            .heavy(move || {
                let names = cluster_names(&state);
                let (_, copy) = dry::run(&state, &principal, ask).map_err(|rejection| crate::errors::rejected(&rejection, &names))?;
                let tenant = copy.tenant(name.as_str()).ok_or_else(|| Fault::not_found(Kind::Tenant, name.as_str()))?;
                Ok((convert::tenant::wire(&tenant, state.facts_of(tenant.id), &names), state.revision()))
            })
            .await
    }

    /// A tenant as the entry of a revision left it; `None` if that cannot be told any more.
    async fn as_of(&self, spec: &TenantSpec, revision: Revision) -> Option<v1::Tenant> {
        let history = &self.context.history;
        let reached = tokio::time::timeout(APPLIED_WAIT, history.reached(revision)).await.is_ok();
        if reached && let Some(tenant) = history.tenant_at(revision, &spec.owner, &spec.name) {
            return Some(tenant);
        }
        let state = self.context.state(true).await.ok()?;
        let tenant = state.tenant(spec.name.as_str()).filter(|tenant| tenant.changed == revision)?;
        Some(convert::tenant::wire(&tenant, state.facts_of(tenant.id), &cluster_names(&state)))
    }

    fn as_answered(&self, spec: &TenantSpec, done: &Done, revision: Revision) -> v1::Tenant {
        let names = self.context.history.cluster_names();
        let name_of = |id| names.get(&id).map_or_else(|| format!("#{}", id.0), ToString::to_string);
        let (uid, phase, binding) = match *done {
            Done::Placed { id, cluster, shard, epoch } => {
                let binding = roadstead_core::tenant::Binding { cluster, shard, epoch };
                (id.to_string(), v1::Phase::Placed, Some(convert::tenant::wire_binding(&binding, &name_of)))
            }
            Done::Pending { id } => (id.to_string(), v1::Phase::Pending, None),
            Done::Changed { .. } => (String::new(), v1::Phase::Unspecified, None),
        };
        v1::Tenant {
            name: spec.name.to_string(),
            uid,
            spec: Some(convert::tenant::wire_spec(spec)),
            status: Some(v1::TenantStatus { phase: phase.into(), binding, ..v1::TenantStatus::default() }),
            revision: Some(wire_revision(revision)),
            create_time: None,
        }
    }

    /// The tenant as it is after a change; by a linearizable read, so that it is never older than the change.
    async fn current(&self, name: &Name) -> Result<v1::Tenant, Fault> {
        let state = self.context.state(true).await?;
        let tenant = state.tenant(name.as_str()).ok_or_else(|| Fault::not_found(Kind::Tenant, name.as_str()))?;
        Ok(convert::tenant::wire(&tenant, state.facts_of(tenant.id), &cluster_names(&state)))
    }

    async fn update(&self, reach: &Reach, mut message: v1::UpdateTenantRequest) -> Result<v1::UpdateTenantResponse, Fault> {
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("UpdateTenant", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let expected = check.optional_revision(At::Top("expected_revision"), message.expected_revision.as_ref());
        let name = check.name(At::Top("name"), &message.name);
        let spec = check.required(At::Top("spec"), message.spec.as_ref());
        let paths = message.update_mask.as_ref().map(|mask| &mask.paths[..]).unwrap_or_default();
        if let (true, Some(spec), Some(name)) = (paths.is_empty(), spec, &name) {
            let _ = convert::tenant::spec_at(&mut check, At::Top("spec"), Some(name.clone()), spec);
        } else if let Some(spec) = spec {
            let _ = convert::tenant::merge(&mut check, &mut v1::TenantSpec::default(), spec, paths);
        }
        let ((retry, expected), (name, wanted)) = check.finish(retry.zip(expected).zip(name.zip(spec)))?;
        let rests_on_current = !paths.is_empty() || reach.only_owners().is_some();
        let (spec, current) = if rests_on_current {
            let (spec, changed) = self.merged(reach, &name, wanted, paths).await?;
            (spec, Some(changed))
        } else {
            (checked_spec(&name, wanted)?, None)
        };
        reach.spec(&spec)?;
        self.context.check_values(&spec).await?;
        let ask = Ask::UpdateTenant { spec: Box::new(spec.clone()), expected: expected.or(current) };
        if message.dry_run {
            let (tenant, _) = self.dry_tenant(reach, ask, name).await?;
            return Ok(v1::UpdateTenantResponse { tenant: Some(tenant) });
        }
        let submitted = self.context.submit(&reach.caller().principal, Some(retry), ask).await;
        let (done, revision) = submitted.map_err(|fault| overtaken(fault, expected))?;
        let tenant = match self.as_of(&spec, self.context.revision_of(&done, revision).await).await {
            Some(tenant) => tenant,
            None => self.current(&name).await?,
        };
        Ok(v1::UpdateTenantResponse { tenant: Some(tenant) })
    }

    /// The spec that an update with a mask comes to, and the revision of the tenant that it rests on.
    async fn merged(&self, reach: &Reach, name: &Name, wanted: &v1::TenantSpec, paths: &[String]) -> Result<(TenantSpec, Revision), Fault> {
        let state = self.context.state(true).await?;
        let tenant = find(&state, reach, name)?;
        if paths.is_empty() {
            return Ok((checked_spec(name, wanted)?, tenant.changed));
        }
        let mut merged = convert::tenant::wire_spec(&tenant.spec);
        let mut check = Check::default();
        let taken = convert::tenant::merge(&mut check, &mut merged, wanted, paths);
        check.finish(taken)?;
        Ok((checked_spec(name, &merged)?, tenant.changed))
    }

    async fn release(&self, reach: &Reach, mut message: v1::ReleaseTenantRequest) -> Result<v1::ReleaseTenantResponse, Fault> {
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("ReleaseTenant", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let expected = check.optional_revision(At::Top("expected_revision"), message.expected_revision.as_ref());
        let name = check.name(At::Top("name"), &message.name);
        let ((retry, expected), name) = check.finish(retry.zip(expected).zip(name))?;
        let mut rests_on = expected;
        if reach.only_owners().is_some() {
            let state = self.context.state(true).await?;
            match find(&state, reach, &name) {
                Ok(tenant) => rests_on = expected.or(Some(tenant.changed)),
                // Nothing is submitted that others, or the caller, could notice; a retry hears what it heard first all the same.
                Err(unseen) => {
                    let first = state.answered(&reach.caller().principal, &retry).filter(|_| !message.dry_run).ok_or(unseen)?;
                    let done = match first {
                        Outcome::Done(done) => done,
                        Outcome::Rejected(rejection) => {
                            return Err(overtaken(errors::rejected(&rejection, &cluster_names(&state)), expected));
                        }
                    };
                    let revision = self.context.revision_of(&done, state.revision()).await;
                    return Ok(v1::ReleaseTenantResponse { revision: Some(wire_revision(revision)) });
                }
            }
        }
        let refused = |fault: Fault| overtaken(fault, expected);
        let ask = Ask::ReleaseTenant { name, purge: message.purge, expected: rests_on };
        let revision = if message.dry_run {
            let state = self.context.state(true).await?;
            dry_revision(&self.context, &state, reach, ask).await.map_err(refused)?
        } else {
            let submitted = self.context.submit(&reach.caller().principal, Some(retry), ask).await;
            let (done, revision) = submitted.map_err(refused)?;
            self.context.revision_of(&done, revision).await
        };
        Ok(v1::ReleaseTenantResponse { revision: Some(wire_revision(revision)) })
    }

    async fn undelete(&self, reach: &Reach, mut message: v1::UndeleteTenantRequest) -> Result<v1::UndeleteTenantResponse, Fault> {
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("UndeleteTenant", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let name = check.name(At::Top("name"), &message.name);
        let (retry, name) = check.finish(retry.zip(name))?;
        self.context.submit(&reach.caller().principal, Some(retry), Ask::UndeleteTenant { name: name.clone() }).await?;
        Ok(v1::UndeleteTenantResponse { tenant: Some(self.current(&name).await?) })
    }

    async fn adopt(&self, reach: &Reach, mut message: v1::AdoptTenantRequest) -> Result<v1::AdoptTenantResponse, Fault> {
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("AdoptTenant", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let spec = convert::tenant::spec(&mut check, &message.name, message.spec.as_ref());
        let cluster = check.name(At::Top("cluster"), &message.cluster);
        let shard = check.optional(At::Top("shard"), message.shard, |check, at, number| {
            check.within(at, number, 0, u32::from(u16::MAX)).and_then(|number| u16::try_from(number).ok()).map(ShardId)
        });
        let ((retry, spec), (cluster, shard)) = check.finish(retry.zip(spec).zip(cluster.zip(shard)))?;
        self.context.check_values(&spec).await?;
        let name = spec.name.clone();
        let ask = Ask::AdoptTenant { spec: Box::new(spec), cluster, shard };
        self.context.submit(&reach.caller().principal, Some(retry), ask).await?;
        Ok(v1::AdoptTenantResponse { tenant: Some(self.current(&name).await?) })
    }
}

/// A change that rests on what was read lost against another one, although its caller expected no revision: it is not tried again here,
/// because the refusal is the answer to its request id from now on.
fn overtaken(fault: Fault, expected: Option<Revision>) -> Fault {
    if expected.is_none() && fault.reason() == "REVISION_CONFLICT" {
        return fault.with("hint", "ask again with a new request id").retry(RETRY_SOON);
    }
    fault
}

fn checked_spec(name: &Name, wire: &v1::TenantSpec) -> Result<TenantSpec, Fault> {
    let mut check = Check::default();
    let spec = convert::tenant::spec_at(&mut check, At::Top("spec"), Some(name.clone()), wire);
    check.finish(spec)
}

/// What a request would leave, checked on a copy; the revision is the one that was looked at.
pub(super) async fn dry_revision(context: &Context, state: &Arc<State>, reach: &Reach, ask: Ask) -> Result<Revision, Fault> {
    let (state, principal) = (Arc::clone(state), reach.caller().principal.clone());
    let work = move || {
        dry::run(&state, &principal, ask).map_err(|rejection| crate::errors::rejected(&rejection, &cluster_names(&state)))?;
        Ok(state.revision())
    };
    context.heavy(work).await
}

/// Whether a caller may see a tenant.
pub(super) fn visible(reach: &Reach, state: &State, tenant: &Tenant) -> bool {
    let cluster = tenant.phase.binding().and_then(|binding| state.cluster_by_id(binding.cluster));
    reach.sees(&tenant.spec.owner, cluster.map(|cluster| &cluster.spec.name))
}

/// A tenant by its name. One that the caller may not see is answered as one that does not exist.
///
/// # Errors
/// `NOT_FOUND`.
pub(super) fn find(state: &State, reach: &Reach, name: &Name) -> Result<Tenant, Fault> {
    let tenant = state.tenant(name.as_str()).filter(|tenant| visible(reach, state, tenant));
    tenant.ok_or_else(|| Fault::not_found(Kind::Tenant, name.as_str()))
}

#[tonic::async_trait]
impl PlacementService for Placement {
    async fn place_tenant(&self, request: Request<v1::PlaceTenantRequest>) -> Result<Response<v1::PlaceTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.place(&reach, request.into_inner()).await?))
    }

    type PlaceTenantsStream = BoxStream<'static, Result<v1::PlaceTenantsResponse, Status>>;

    async fn place_tenants(
        &self,
        request: Request<Streaming<v1::PlaceTenantsRequest>>,
    ) -> Result<Response<Self::PlaceTenantsStream>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(stream::run(Arc::clone(&self.context), reach, request.into_inner()).boxed()))
    }

    async fn get_tenant(&self, request: Request<v1::GetTenantRequest>) -> Result<Response<v1::GetTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.get(&reach, &request.into_inner()).await?))
    }

    async fn list_tenants(&self, request: Request<v1::ListTenantsRequest>) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.list(reach, request.into_inner()).await?))
    }

    async fn update_tenant(&self, request: Request<v1::UpdateTenantRequest>) -> Result<Response<v1::UpdateTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.update(&reach, request.into_inner()).await?))
    }

    async fn release_tenant(&self, request: Request<v1::ReleaseTenantRequest>) -> Result<Response<v1::ReleaseTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.release(&reach, request.into_inner()).await?))
    }

    async fn undelete_tenant(&self, request: Request<v1::UndeleteTenantRequest>) -> Result<Response<v1::UndeleteTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.undelete(&reach, request.into_inner()).await?))
    }

    async fn adopt_tenant(&self, request: Request<v1::AdoptTenantRequest>) -> Result<Response<v1::AdoptTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.adopt(&reach, request.into_inner()).await?))
    }

    async fn diff_tenant(&self, request: Request<v1::DiffTenantRequest>) -> Result<Response<v1::DiffTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.diff(&reach, request.into_inner()).await?))
    }

    async fn explain_tenant(&self, request: Request<v1::ExplainTenantRequest>) -> Result<Response<v1::ExplainTenantResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.explain(reach, request.into_inner()).await?))
    }

    async fn simulate_placement(
        &self,
        request: Request<v1::SimulatePlacementRequest>,
    ) -> Result<Response<v1::SimulatePlacementResponse>, Status> {
        Ok(Response::new(self.simulate(request.into_inner()).await?))
    }

    async fn list_tenant_events(
        &self,
        request: Request<v1::ListTenantEventsRequest>,
    ) -> Result<Response<v1::ListTenantEventsResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.events(&reach, &request.into_inner()).await?))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    /// Not reached over the wire, where [`super::raw_watch`] answers; the same, decoded.
    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let raw: RawStream = self.raw_watch(request).await?;
        let decoded = raw.map(|message| {
            let message = message?;
            v1::WatchResponse::decode(message).map_err(|error| Fault::internal(error.to_string()).into())
        });
        Ok(Response::new(decoded.boxed()))
    }
}
