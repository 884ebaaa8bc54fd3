//! Sends one change, under one request id however often it has to be tried.

use roadstead_api::v1;

use super::Mode;
use super::change::{Change, model_uid};
use crate::client::{Client, Services, request_id};
use crate::failure::{Exit, Failure};
use crate::output::objects::Object;
use crate::output::status;

/// Calls one method with the same request over all attempts.
macro_rules! send {
    ($client:expr, $what:expr, $service:ident, $method:ident, $request:expr) => {{
        let request = $request;
        $client
            .call($what, |services: Services| {
                let request = request.clone();
                async move { services.$service().$method(request).await }
            })
            .await
    }};
}
pub(crate) use send;

/// Sends a change; tells a detail worth printing.
///
/// # Errors
/// The server's refusal, or no answer.
pub async fn put(client: &Client, change: &Change, mode: Mode) -> Result<String, Failure> {
    let what = format!("apply {}", change.desired.identity());
    let (request_id, dry_run) = (request_id(), mode.dry_run);
    match &change.desired {
        Object::Policy(policy) => {
            let expected_revision = revision(change);
            let request = v1::PutPolicyRequest { request_id, policy: Some(policy.clone()), expected_revision, dry_run };
            send!(client, &what, fleet, put_policy, request)?;
            Ok(String::new())
        }
        Object::Pool(pool) => {
            let expected_revision = revision(change);
            let request = v1::PutPoolRequest { request_id, pool: Some(pool.clone()), expected_revision, dry_run };
            send!(client, &what, fleet, put_pool, request)?;
            Ok(String::new())
        }
        Object::Class(class) => {
            if change.current.is_some() {
                let message = format!("{what}: this version exists with other content, and versions are immutable");
                return Err(Failure::new(Exit::Conflict, message).hint("raise spec.version; tenants of the old version are not touched"));
            }
            let request = v1::PutClassRequest { request_id, class: Some((**class).clone()), dry_run };
            send!(client, &what, fleet, put_class, request)?;
            Ok(String::new())
        }
        Object::Cluster(cluster) => put_cluster(client, &what, change, cluster, mode).await,
        Object::Tenant(tenant) => put_tenant(client, &what, change, tenant, mode).await,
    }
}

/// The revision that the comparison was made with: what changed since is not overwritten.
fn revision(change: &Change) -> Option<v1::Revision> {
    match change.current.as_ref()? {
        Object::Policy(policy) => policy.revision.filter(|revision| revision.index > 0),
        Object::Pool(pool) => pool.revision,
        Object::Class(class) => class.revision,
        Object::Cluster(cluster) => cluster.revision,
        Object::Tenant(tenant) => tenant.revision,
    }
}

async fn put_cluster(client: &Client, what: &str, change: &Change, cluster: &v1::Cluster, mode: Mode) -> Result<String, Failure> {
    let request = v1::PutClusterRequest {
        request_id: request_id(),
        cluster: Some(cluster.clone()),
        expected_revision: revision(change),
        dry_run: mode.dry_run,
    };
    let kept = send!(client, what, fleet, put_cluster, request)?.cluster.unwrap_or_default();
    let Some(capacity) = change.report.clone().filter(|_| !mode.dry_run) else { return Ok(String::new()) };
    let known = kept.spec.map(|spec| spec.uid).filter(|uid| !uid.is_empty());
    let report = v1::ReportCapacityRequest {
        cluster: cluster.name.clone(),
        uid: known.unwrap_or_else(|| model_uid(&cluster.name)),
        capacity: Some(capacity),
        ..v1::ReportCapacityRequest::default()
    };
    let what = format!("report the capacity of cluster/{}", cluster.name);
    send!(client, &what, fleet, report_capacity, report).map_err(Failure::after_changes)?;
    Ok("capacity reported".to_owned())
}

async fn put_tenant(client: &Client, what: &str, change: &Change, tenant: &v1::Tenant, mode: Mode) -> Result<String, Failure> {
    let answered = if change.current.is_some() {
        let request = v1::UpdateTenantRequest {
            request_id: request_id(),
            name: tenant.name.clone(),
            spec: tenant.spec.clone(),
            update_mask: None,
            expected_revision: revision(change),
            dry_run: mode.dry_run,
        };
        send!(client, what, placement, update_tenant, request)?.tenant
    } else {
        let request = v1::PlaceTenantRequest {
            request_id: request_id(),
            name: tenant.name.clone(),
            spec: tenant.spec.clone(),
            wait: Some(!mode.no_wait),
            dry_run: mode.dry_run,
        };
        send!(client, what, placement, place_tenant, request)?.tenant
    };
    Ok(answered.and_then(|tenant| tenant.status).map(|status| place_of(&status)).unwrap_or_default())
}

/// Where a tenant is, or why it waits, in a few words.
#[must_use]
pub fn place_of(status: &v1::TenantStatus) -> String {
    match &status.binding {
        Some(binding) => format!("on {} shard {}", binding.cluster, binding.shard),
        None => format!("{}: {}", status::phase(status.phase()).to_lowercase(), status.reason),
    }
}
