//! `FleetService`: clusters, pools, classes, policy, and what agents report.

use std::sync::Arc;
use std::time::Instant;

use roadstead_api::v1;
use roadstead_api::v1::fleet_service_server::FleetService;
use roadstead_core::agreement;
use roadstead_core::cluster::Cluster;
use roadstead_core::command::Kind;
use roadstead_core::id::Name;
use roadstead_core::request::{Ask, Retry};
use roadstead_core::state::State;
use roadstead_core::tenant::Phase;
use tonic::{Request, Response, Status};
use tracing::info;

use super::context::{Context, reach, retry};
use super::dry;
use super::placement::dry_revision;
use super::reads::page_size;
use super::reports;
use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::request_id::fingerprint;
use crate::convert::{self, class, cluster, cluster_names, policy, wire_revision};
use crate::errors::{Fault, rejected};
use crate::handle::Heard;
use crate::identity::Role;

/// `FleetService` on one replica.
#[derive(Debug)]
pub struct Fleet {
    context: Arc<Context>,
}

/// A checked change: its retry identity, what is asked, whether only to try it.
struct Change {
    retry: Option<Retry>,
    ask: Ask,
    dry_run: bool,
}

impl Fleet {
    /// On this replica.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Makes a change, or tries it on a copy; answers with the state that has it.
    async fn change(&self, reach: &Reach, change: Change) -> Result<Arc<State>, Fault> {
        let Change { retry, ask, dry_run } = change;
        let principal = reach.caller().principal.clone();
        if dry_run {
            let state = self.context.state(true).await?;
            let work = move || {
                let names = cluster_names(&state);
                let (_, copy) = dry::run(&state, &principal, ask).map_err(|rejection| rejected(&rejection, &names))?;
                Ok(Arc::new(copy))
            };
            return self.context.heavy(work).await;
        }
        self.context.submit(&principal, retry, ask).await?;
        self.context.state(true).await
    }

    async fn delete(&self, reach: &Reach, change: Change) -> Result<Option<v1::Revision>, Fault> {
        let Change { retry, ask, dry_run } = change;
        let revision = if dry_run {
            let state = self.context.state(true).await?;
            dry_revision(&self.context, &state, reach, ask).await?
        } else {
            let (done, revision) = self.context.submit(&reach.caller().principal, retry, ask).await?;
            self.context.revision_of(&done, revision).await
        };
        Ok(Some(wire_revision(revision)))
    }

    /// A refusal to delete a cluster; if tenants that were deleted are among those that are bound to it, with what to do about them.
    async fn with_deleted(&self, fault: Fault, name: &Name) -> Fault {
        if fault.reason() != "IN_USE" {
            return fault;
        }
        let Ok(state) = self.context.state(false).await else { return fault };
        let Some(cluster) = state.cluster(name.as_str()) else { return fault };
        let (mut all, mut kept, mut going) = (0, 0, 0);
        for tenant in state.tenants_of_cluster(cluster.id) {
            all += 1;
            match tenant.phase {
                Phase::Retained { .. } | Phase::Releasing { purge: false, .. } => kept += 1,
                Phase::Purging { .. } | Phase::Releasing { purge: true, .. } => going += 1,
                Phase::Pending { .. } | Phase::Bound { .. } => {}
            }
        }
        let mut said = format!("cluster {:?} cannot be deleted: tenants bound to it: {all}", name.as_str());
        if kept > 0 {
            said += &format!(", deleted and kept: {kept} (roadstead delete tenant NAME --purge, or wait until their retention has passed)");
        }
        if going > 0 {
            said += &format!(", on their way out: {going} (wait for the agent; roadstead allow-removals {name} if they are held back)");
        }
        if kept + going == 0 { fault } else { fault.saying(said) }
    }

    async fn cordon(&self, reach: &Reach, id: &str, print: u64, name: &str, cordoned: bool) -> Result<v1::Cluster, Fault> {
        let mut check = Check::default();
        let retry = retry(&mut check, id, print);
        let name = check.name(At::Top("name"), name);
        let (retry, name) = check.finish(retry.zip(name))?;
        let ask = Ask::CordonCluster { name: name.clone(), cordoned };
        let state = self.change(reach, Change { retry: Some(retry), ask, dry_run: false }).await?;
        wire_cluster(&state, &name)
    }

    async fn report(&self, reach: &Reach, message: &v1::ReportCapacityRequest) -> Result<v1::ReportCapacityResponse, Fault> {
        reach.cluster(&message.cluster)?;
        let mut check = Check::default();
        let by_agent = reach.caller().role == Role::Agent;
        let report = cluster::report(&mut check, message, by_agent);
        let report = check.finish(report)?;
        let name = report.cluster.clone();
        let ask = Ask::Report(Box::new(report));
        let reports::Taken { revision, report_within, complete_wanted } = reports::submit(&self.context, reach, &name, ask).await?;
        Ok(v1::ReportCapacityResponse { revision: Some(revision), report_within: Some(report_within), complete_wanted })
    }

    async fn allow(&self, reach: &Reach, mut message: v1::AllowRemovalsRequest) -> Result<v1::AllowRemovalsResponse, Fault> {
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("AllowRemovals", &message);
        let mut check = Check::default();
        let (retry, name) = (retry(&mut check, &id, print), check.name(At::Top("cluster"), &message.cluster));
        let count = check.within(At::Top("count"), message.count, 1, agreement::MAX_TENANTS as u32);
        let ((retry, cluster), count) = check.finish(retry.zip(name).zip(count))?;
        let ask = Ask::AllowRemovals { cluster: cluster.clone(), count };
        let principal = reach.caller().principal.clone();
        let (state, given) = if message.dry_run {
            let state = self.context.state(true).await?;
            let (_, copy) = dry::run(&state, &principal, ask).map_err(|rejection| rejected(&rejection, &cluster_names(&state)))?;
            let given = copy.revision();
            (Arc::new(copy), given)
        } else {
            let (done, revision) = self.context.submit(&principal, Some(retry), ask).await?;
            let given = self.context.revision_of(&done, revision).await;
            info!(%principal, %cluster, count, revision = %given, "removals that waited were agreed to");
            (self.context.state(true).await?, given)
        };
        let id = state.cluster(cluster.as_str()).ok_or_else(|| Fault::not_found(Kind::Cluster, cluster.as_str()))?.id;
        let agreed: Vec<_> = state.agreed(id).filter(|(_, agreement)| agreement.given == given).collect();
        Ok(v1::AllowRemovalsResponse {
            tenants: agreed.iter().map(|(tenant, _)| tenant.spec.name.to_string()).collect(),
            until: agreed.first().map(|(_, agreement)| convert::wire_timestamp(agreement.until)),
            waiting: u32::try_from(state.held_back(id).len()).unwrap_or(u32::MAX),
            revision: Some(wire_revision(given)),
        })
    }

    async fn list_clusters_page(&self, reach: &Reach, message: &v1::ListClustersRequest) -> Result<v1::ListClustersResponse, Fault> {
        let size = page_size(message.page_size)?;
        let same = v1::ListClustersRequest { page_size: 0, page_token: String::new(), ..message.clone() };
        let question = fingerprint(reach.caller().principal.as_str(), &same);
        let pins = &self.context.pins;
        let continued = match message.page_token.as_str() {
            "" => None,
            token => Some(pins.resume(token, question, Instant::now())?),
        };
        let state = match &continued {
            Some(continued) => Arc::clone(&continued.state),
            None => self.context.read(message.consistency).await?,
        };
        let heard = self.context.last_heard(message.consistency).await?;
        let after = continued.as_ref().map(|continued| continued.after.as_str());
        let seen = state.clusters().filter(|cluster| reach.cluster(cluster.spec.name.as_str()).is_ok());
        let mut later = seen.filter(|cluster| after.is_none_or(|after| cluster.spec.name.as_str() > after));
        let page: Vec<_> = later.by_ref().take(size).collect();
        let next_page_token = match (later.next(), page.last()) {
            (Some(_), Some(last)) => pins.token(&state, continued.as_ref(), question, last.spec.name.as_str(), Instant::now()),
            (Some(_) | None, _) => String::new(),
        };
        let clusters = page.into_iter().map(|cluster| wire_with_contact(&state, cluster, &heard)).collect();
        Ok(v1::ListClustersResponse { clusters, next_page_token, revision: Some(wire_revision(state.revision())) })
    }
}

fn wire_cluster(state: &State, name: &Name) -> Result<v1::Cluster, Fault> {
    let found = state.cluster(name.as_str()).ok_or_else(|| Fault::not_found(Kind::Cluster, name.as_str()))?;
    Ok(cluster::wire(state, found))
}

fn wire_with_contact(state: &State, found: &Cluster, heard: &Heard) -> v1::Cluster {
    let mut wire = cluster::wire(state, found);
    if let Some(status) = &mut wire.status {
        status.last_contact = cluster::wire_contact(heard, found.id);
    }
    wire
}

fn wire_class(state: &State, name: &str, version: &str) -> Result<v1::Class, Fault> {
    let found = state.class(name, version).ok_or_else(|| Fault::not_found(Kind::Class, &format!("{name}@{version}")))?;
    Ok(class::wire(found, state.class_use(name, version)))
}

fn named(name: &str) -> Result<Name, Fault> {
    let mut check = Check::default();
    let name = check.name(At::Top("name"), name);
    check.finish(name)
}

#[tonic::async_trait]
impl FleetService for Fleet {
    async fn put_cluster(&self, request: Request<v1::PutClusterRequest>) -> Result<Response<v1::PutClusterResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("PutCluster", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let expected = check.optional_revision(At::Top("expected_revision"), message.expected_revision.as_ref());
        let spec = cluster::cluster(&mut check, message.cluster.as_ref());
        let ((retry, expected), spec) = check.finish(retry.zip(expected).zip(spec))?;
        let name = spec.name.clone();
        let ask = Ask::PutCluster { spec: Box::new(spec), expected };
        let state = self.change(&reach, Change { retry: Some(retry), ask, dry_run: message.dry_run }).await?;
        Ok(Response::new(v1::PutClusterResponse { cluster: Some(wire_cluster(&state, &name)?) }))
    }

    async fn get_cluster(&self, request: Request<v1::GetClusterRequest>) -> Result<Response<v1::GetClusterResponse>, Status> {
        let reach = reach(&request)?;
        let message = request.into_inner();
        let name = named(&message.name)?;
        reach.cluster(name.as_str())?;
        let state = self.context.read(message.consistency).await?;
        let found = state.cluster(name.as_str()).ok_or_else(|| Fault::not_found(Kind::Cluster, name.as_str()))?;
        let cluster = Some(wire_with_contact(&state, found, &self.context.last_heard(message.consistency).await?));
        Ok(Response::new(v1::GetClusterResponse { cluster, revision: Some(wire_revision(state.revision())) }))
    }

    async fn list_clusters(&self, request: Request<v1::ListClustersRequest>) -> Result<Response<v1::ListClustersResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.list_clusters_page(&reach, &request.into_inner()).await?))
    }

    async fn delete_cluster(&self, request: Request<v1::DeleteClusterRequest>) -> Result<Response<v1::DeleteClusterResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("DeleteCluster", &message);
        let mut check = Check::default();
        let (retry, name) = (retry(&mut check, &id, print), check.name(At::Top("name"), &message.name));
        let (retry, name) = check.finish(retry.zip(name))?;
        let ask = Ask::DeleteCluster { name: name.clone(), forget: message.forget };
        let revision = match self.delete(&reach, Change { retry: Some(retry), ask, dry_run: message.dry_run }).await {
            Ok(revision) => revision,
            Err(fault) => return Err(self.with_deleted(fault, &name).await.into()),
        };
        Ok(Response::new(v1::DeleteClusterResponse { revision }))
    }

    async fn cordon_cluster(&self, request: Request<v1::CordonClusterRequest>) -> Result<Response<v1::CordonClusterResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("CordonCluster", &message);
        let cluster = self.cordon(&reach, &id, print, &message.name, true).await?;
        Ok(Response::new(v1::CordonClusterResponse { cluster: Some(cluster) }))
    }

    async fn uncordon_cluster(
        &self,
        request: Request<v1::UncordonClusterRequest>,
    ) -> Result<Response<v1::UncordonClusterResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("UncordonCluster", &message);
        let cluster = self.cordon(&reach, &id, print, &message.name, false).await?;
        Ok(Response::new(v1::UncordonClusterResponse { cluster: Some(cluster) }))
    }

    async fn allow_removals(&self, request: Request<v1::AllowRemovalsRequest>) -> Result<Response<v1::AllowRemovalsResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.allow(&reach, request.into_inner()).await?))
    }

    async fn report_capacity(&self, request: Request<v1::ReportCapacityRequest>) -> Result<Response<v1::ReportCapacityResponse>, Status> {
        let reach = reach(&request)?;
        Ok(Response::new(self.report(&reach, &request.into_inner()).await?))
    }

    async fn put_pool(&self, request: Request<v1::PutPoolRequest>) -> Result<Response<v1::PutPoolResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("PutPool", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let expected = check.optional_revision(At::Top("expected_revision"), message.expected_revision.as_ref());
        let spec = cluster::pool(&mut check, message.pool.as_ref());
        let ((retry, expected), spec) = check.finish(retry.zip(expected).zip(spec))?;
        let name = spec.name.clone();
        let change = Change { retry: Some(retry), ask: Ask::PutPool { spec, expected }, dry_run: message.dry_run };
        let state = self.change(&reach, change).await?;
        let pool = state.pool(name.as_str()).ok_or_else(|| Fault::not_found(Kind::Pool, name.as_str()))?;
        Ok(Response::new(v1::PutPoolResponse { pool: Some(cluster::wire_pool(pool)) }))
    }

    async fn list_pools(&self, request: Request<v1::ListPoolsRequest>) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let state = self.context.read(request.into_inner().consistency).await?;
        let pools = state.pools().map(|pool| cluster::wire_pool(pool)).collect();
        Ok(Response::new(v1::ListPoolsResponse { pools, revision: Some(wire_revision(state.revision())) }))
    }

    async fn delete_pool(&self, request: Request<v1::DeletePoolRequest>) -> Result<Response<v1::DeletePoolResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("DeletePool", &message);
        let mut check = Check::default();
        let (retry, name) = (retry(&mut check, &id, print), check.name(At::Top("name"), &message.name));
        let (retry, name) = check.finish(retry.zip(name))?;
        let change = Change { retry: Some(retry), ask: Ask::DeletePool { name }, dry_run: message.dry_run };
        Ok(Response::new(v1::DeletePoolResponse { revision: self.delete(&reach, change).await? }))
    }

    async fn put_class(&self, request: Request<v1::PutClassRequest>) -> Result<Response<v1::PutClassResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("PutClass", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let class = class::class(&mut check, message.class.as_ref());
        let (retry, class) = check.finish(retry.zip(class))?;
        self.context.check_class(&class).await?;
        let (name, version) = (class.name.clone(), class.version.clone());
        let change = Change { retry: Some(retry), ask: Ask::PutClass { class: Box::new(class) }, dry_run: message.dry_run };
        let state = self.change(&reach, change).await?;
        Ok(Response::new(v1::PutClassResponse { class: Some(wire_class(&state, name.as_str(), &version)?) }))
    }

    async fn get_class(&self, request: Request<v1::GetClassRequest>) -> Result<Response<v1::GetClassResponse>, Status> {
        let message = request.into_inner();
        let mut check = Check::default();
        let name = check.name(At::Top("name"), &message.name);
        let version = class::version(&mut check, At::Top("version"), &message.version);
        let (name, version) = check.finish(name.zip(version))?;
        let state = self.context.read(message.consistency).await?;
        let class = Some(wire_class(&state, name.as_str(), &version)?);
        Ok(Response::new(v1::GetClassResponse { class, revision: Some(wire_revision(state.revision())) }))
    }

    async fn list_classes(&self, request: Request<v1::ListClassesRequest>) -> Result<Response<v1::ListClassesResponse>, Status> {
        let state = self.context.read(request.into_inner().consistency).await?;
        let wire = |found: &Arc<roadstead_core::class::ClassVersion>| {
            class::wire_without_template(found, state.class_use(found.name.as_str(), &found.version))
        };
        let classes = state.classes().map(wire).collect();
        Ok(Response::new(v1::ListClassesResponse { classes, revision: Some(wire_revision(state.revision())) }))
    }

    async fn delete_class(&self, request: Request<v1::DeleteClassRequest>) -> Result<Response<v1::DeleteClassResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("DeleteClass", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let name = check.name(At::Top("name"), &message.name);
        let version = class::version(&mut check, At::Top("version"), &message.version);
        let (retry, (name, version)) = check.finish(retry.zip(name.zip(version)))?;
        let change = Change { retry: Some(retry), ask: Ask::DeleteClass { name, version }, dry_run: message.dry_run };
        Ok(Response::new(v1::DeleteClassResponse { revision: self.delete(&reach, change).await? }))
    }

    async fn put_policy(&self, request: Request<v1::PutPolicyRequest>) -> Result<Response<v1::PutPolicyResponse>, Status> {
        let reach = reach(&request)?;
        let mut message = request.into_inner();
        let id = std::mem::take(&mut message.request_id);
        let print = fingerprint("PutPolicy", &message);
        let mut check = Check::default();
        let retry = retry(&mut check, &id, print);
        let expected = check.optional_revision(At::Top("expected_revision"), message.expected_revision.as_ref());
        let spec = policy::policy(&mut check, message.policy.as_ref());
        let ((retry, expected), spec) = check.finish(retry.zip(expected).zip(spec))?;
        let ask = Ask::PutPolicy { spec: Box::new(spec), expected };
        let state = self.change(&reach, Change { retry: Some(retry), ask, dry_run: message.dry_run }).await?;
        Ok(Response::new(v1::PutPolicyResponse { policy: Some(policy::wire(state.policy())) }))
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let state = self.context.read(request.into_inner().consistency).await?;
        let revision = Some(wire_revision(state.revision()));
        Ok(Response::new(v1::GetPolicyResponse { policy: Some(convert::policy::wire(state.policy())), revision }))
    }
}
