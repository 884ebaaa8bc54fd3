//! `PlacementService`: what reads, explains and follows.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use prost::Message;
use roadstead_api::v1;
use roadstead_core::decide::WhatIf;
use roadstead_core::id::{Name, Owner};
use roadstead_core::ledger::Share;
use roadstead_core::schedule;
use roadstead_core::state::State;
use roadstead_core::tenant::{Phase, Tenant, TenantSpec};
use tonic::{Request, Status};

use super::context::reach;
use super::placement::{Placement, find, visible};
use super::raw_watch::RawStream;
use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::request_id::fingerprint;
use crate::convert::{self, cluster_names, explain, wire_revision};
use crate::errors::{Fault, rejected};
use crate::filter::Filter;
use crate::watch::follow::{Follow, Start};
use crate::watch::scope::{Kinds, Scope};

/// Tenants of a page unless the caller says otherwise.
pub const DEFAULT_PAGE: usize = 500;
/// Tenants of a page at most.
pub const MAX_PAGE: u32 = 5000;
/// Bytes of a page, about, past which it is cut short: half of what clients take by default.
const MAX_PAGE_BYTES: usize = 2 << 20;
/// Tenants of one simulation.
const MAX_SIMULATED: usize = 1000;

impl Placement {
    pub(super) async fn get(&self, reach: &Reach, message: &v1::GetTenantRequest) -> Result<v1::GetTenantResponse, Fault> {
        let name = checked_name(&message.name)?;
        let state = self.context.read(message.consistency).await?;
        let tenant = find(&state, reach, &name)?;
        let wire = convert::tenant::wire(&tenant, state.facts_of(tenant.id), &cluster_names(&state));
        Ok(v1::GetTenantResponse { tenant: Some(wire), revision: Some(wire_revision(state.revision())) })
    }

    pub(super) async fn list(&self, reach: Reach, message: v1::ListTenantsRequest) -> Result<v1::ListTenantsResponse, Fault> {
        let filter = Filter::parse(&message.filter).map_err(|error| Fault::invalid("filter", error.to_string()))?;
        filter.owner.as_ref().map_or(Ok(()), |owner| reach.owner(owner))?;
        filter.cluster.as_deref().map_or(Ok(()), |cluster| reach.cluster(cluster))?;
        let size = page_size(message.page_size)?;
        let question = fingerprint(
            reach.caller().principal.as_str(),
            &v1::ListTenantsRequest { page_size: 0, page_token: String::new(), ..message.clone() },
        );
        let continued = match message.page_token.as_str() {
            "" => None,
            token => Some(self.context.pins.resume(token, question, Instant::now())?),
        };
        let state = match &continued {
            Some(continued) => Arc::clone(&continued.state),
            None => self.context.read(message.consistency).await?,
        };
        let after = continued.as_ref().map(|continued| continued.after.clone());
        let copy = Arc::clone(&state);
        let page = self.context.heavy(move || Ok(page(&copy, &reach, &filter, after.as_deref(), size))).await?;
        let next_page_token = match page.after {
            Some(after) => self.context.pins.token(&state, continued.as_ref(), question, after.as_str(), Instant::now()),
            None => String::new(),
        };
        Ok(v1::ListTenantsResponse { tenants: page.tenants, next_page_token, revision: Some(wire_revision(state.revision())) })
    }

    pub(super) async fn explain(&self, reach: Reach, message: v1::ExplainTenantRequest) -> Result<v1::ExplainTenantResponse, Fault> {
        let name = checked_name(&message.name)?;
        let state = self.context.state(true).await?;
        let every = message.every_cluster;
        let work = move || {
            let tenant = find(&state, &reach, &name)?;
            let names = cluster_names(&state);
            let mut ledger = state.ledger().clone();
            if let Some((share, binding)) = counted(&tenant) {
                ledger.give(&tenant.spec, share, binding.cluster, binding.shard);
            }
            let now = schedule::explain(&ledger, &*state, &tenant.spec);
            Ok(v1::ExplainTenantResponse {
                tenant: Some(convert::tenant::wire(&tenant, state.facts_of(tenant.id), &names)),
                kept_reason: schedule::describe_reason(&tenant.reason, &names),
                now: Some(explain::wire(&now, every, &names)),
                revision: Some(wire_revision(state.revision())),
            })
        };
        self.context.heavy(work).await
    }

    pub(super) async fn simulate(&self, message: v1::SimulatePlacementRequest) -> Result<v1::SimulatePlacementResponse, Fault> {
        if message.tenants.len() > MAX_SIMULATED {
            let count = message.tenants.len();
            return Err(Fault::invalid("tenants", format!("has {count} items, at most {MAX_SIMULATED} are allowed")));
        }
        let specs = simulated_specs(&message.tenants)?;
        for spec in &specs {
            self.context.check_values(spec).await?;
        }
        let state = self.context.state(true).await?;
        let every = message.every_cluster;
        let work = move || {
            let explanations = simulate(&state, specs, every)?;
            Ok(v1::SimulatePlacementResponse { explanations, revision: Some(wire_revision(state.revision())) })
        };
        self.context.heavy(work).await
    }

    pub(super) async fn events(&self, reach: &Reach, message: &v1::ListTenantEventsRequest) -> Result<v1::ListTenantEventsResponse, Fault> {
        let name = checked_name(&message.name)?;
        let state = self.context.state(true).await?;
        let tenant = find(&state, reach, &name)?;
        let (events, truncated) = state.events_of(tenant.id);
        let names = cluster_names(&state);
        Ok(v1::ListTenantEventsResponse { events: events.iter().map(|event| explain::wire_event(event, &names)).collect(), truncated })
    }

    /// A watch, as encoded messages.
    pub(super) async fn raw_watch(&self, request: Request<v1::WatchRequest>) -> Result<RawStream, Status> {
        let reach = reach(&request)?;
        let message = request.into_inner();
        let (scope, start) = watched(&reach, &message)?;
        let follow = Follow::begin(&self.context.handle, &self.context.history, scope, start).await?;
        Ok(follow.into_stream().boxed())
    }
}

fn checked_name(text: &str) -> Result<Name, Fault> {
    let mut check = Check::default();
    let name = check.name(At::Top("name"), text);
    check.finish(name)
}

/// How much of a tenant is counted, and where.
fn counted(tenant: &Tenant) -> Option<(Share, roadstead_core::tenant::Binding)> {
    match tenant.phase {
        Phase::Pending { .. } => None,
        Phase::Bound { binding, .. } | Phase::Releasing { binding, .. } => Some((Share::Full, binding)),
        Phase::Retained { binding, .. } | Phase::Purging { binding, .. } => Some((Share::StorageOnly, binding)),
    }
}

/// How many things a page may have.
pub(super) fn page_size(wanted: u32) -> Result<usize, Fault> {
    match wanted {
        0 => Ok(DEFAULT_PAGE),
        size if size <= MAX_PAGE => Ok(size as usize),
        size => Err(Fault::invalid("page_size", format!("is {size}; at most {MAX_PAGE} is allowed, 0 is {DEFAULT_PAGE}"))),
    }
}

struct Page {
    tenants: Vec<v1::Tenant>,
    /// The last name, if there is more.
    after: Option<Name>,
}

/// One page by name, through the narrowest index that the filter or the caller's reach allows.
fn page(state: &State, reach: &Reach, filter: &Filter, after: Option<&str>, size: usize) -> Page {
    let only_owners = reach.only_owners();
    let cluster_name = reach.only_cluster().or(filter.cluster.as_deref());
    let cluster = cluster_name.and_then(|name| state.cluster(name)).map(|cluster| cluster.id);
    let owners: Option<Vec<Owner>> = match (&filter.owner, only_owners) {
        (Some(owner), _) => Some(vec![owner.clone()]),
        (None, Some(owners)) => Some(owners.to_vec()),
        (None, None) => None,
    };
    let meant = |tenant: &Tenant| {
        filter.matches(tenant, filter.cluster.as_deref().and_then(|name| state.cluster(name)).map(|cluster| cluster.id))
            && visible(reach, state, tenant)
    };
    let later = |tenant: &Tenant| after.is_none_or(|after| tenant.spec.name.as_str() > after);
    let indexed: Vec<Tenant> = match (&owners, cluster_name) {
        (Some(owners), _) => owners.iter().flat_map(|owner| state.tenants_of_owner(owner)).collect(),
        (None, Some(_)) => cluster.into_iter().flat_map(|cluster| state.tenants_of_cluster(cluster)).collect(),
        (None, None) => {
            // A prefix begins at the name that equals it, and ends where names stop beginning so.
            let prefix = filter.prefix.as_deref().unwrap_or_default();
            let from = after.filter(|after| *after >= prefix).or((!prefix.is_empty()).then_some(prefix));
            let exact = if from == Some(prefix) && after.is_none_or(|after| after < prefix) { state.tenant(prefix) } else { None };
            let run = exact.into_iter().chain(state.tenants_after(from));
            let run = run.take_while(|tenant| tenant.spec.name.as_str().starts_with(prefix));
            return collect(state, run.filter(meant), size);
        }
    };
    let mut found: Vec<Tenant> = indexed.into_iter().filter(later).filter(meant).collect();
    found.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    collect(state, found.into_iter(), size)
}

fn collect(state: &State, mut tenants: impl Iterator<Item = Tenant>, size: usize) -> Page {
    let names = cluster_names(state);
    let mut page = Page { tenants: Vec::new(), after: None };
    let (mut bytes, mut last) = (0, None);
    while page.tenants.len() < size && bytes < MAX_PAGE_BYTES {
        let Some(tenant) = tenants.next() else { return page };
        let wire = convert::tenant::wire(&tenant, state.facts_of(tenant.id), &names);
        bytes += wire.encoded_len();
        page.tenants.push(wire);
        last = Some(tenant.spec.name);
    }
    page.after = tenants.next().and(last);
    page
}

fn simulated_specs(tenants: &[v1::PlaceTenantRequest]) -> Result<Vec<TenantSpec>, Fault> {
    let mut check = Check::default();
    let mut specs = Vec::with_capacity(tenants.len());
    let list = At::Top("tenants");
    for (index, tenant) in tenants.iter().enumerate() {
        let at = list.item(index);
        let name = check.name(at.field("name"), &tenant.name);
        let at_spec = at.field("spec");
        if let Some(wire) = check.required(at_spec, tenant.spec.as_ref()) {
            specs.extend(convert::tenant::spec_at(&mut check, at_spec, name, wire));
        }
    }
    let whole = (specs.len() == tenants.len()).then_some(specs);
    check.finish(whole)
}

/// Each decision counts for the next; nothing else changes.
fn simulate(state: &State, specs: Vec<TenantSpec>, every: bool) -> Result<Vec<v1::Explanation>, Fault> {
    let names = cluster_names(state);
    let mut what_if = WhatIf::new(state);
    let mut explanations = Vec::with_capacity(specs.len());
    for spec in specs {
        let (explanation, quota) = what_if.place(spec).map_err(|rejection| rejected(&rejection, &names))?;
        let mut wire = explain::wire(&explanation, every, &names);
        if let Some(rejection) = quota {
            wire.summary = rejected(&rejection, &names).message().to_owned();
            wire.would_bind = None;
        }
        explanations.push(wire);
    }
    Ok(explanations)
}

/// What a watch request asks for, within what its caller may see.
fn watched(reach: &Reach, message: &v1::WatchRequest) -> Result<(Scope, Start), Fault> {
    let mut check = Check::default();
    let kinds = kinds(&mut check, &message.kinds);
    let cluster = check.optional_name(At::Top("cluster"), &message.cluster);
    let owner = if message.owner.is_empty() { Some(None) } else { check.owner(At::Top("owner"), &message.owner).map(Some) };
    let after = check.optional_revision(At::Top("after"), message.after.as_ref());
    let start = match after {
        Some(Some(_)) if message.with_initial_state => check.refuse(At::Top("after"), "must be absent when the initial state is asked for"),
        Some(Some(after)) => Some(Start::After(after, message.after_ordinal)),
        Some(None) if message.after_ordinal > 0 => check.refuse(At::Top("after_ordinal"), "needs `after`"),
        Some(None) if message.with_initial_state => Some(Start::InitialState),
        Some(None) => Some(Start::Now),
        None => None,
    };
    let ((kinds, start), (cluster, owner)) = check.finish(kinds.zip(start).zip(cluster.zip(owner)))?;
    if let Some(owner) = &owner {
        reach.owner(owner)?;
    }
    if let Some(cluster) = &cluster {
        reach.cluster(cluster.as_str())?;
    }
    let cluster = match (cluster, reach.only_cluster()) {
        (None, Some(own)) => Some(Name::new(own).map_err(|error| Fault::internal(format!("the certificate's cluster {own:?}: {error}")))?),
        (cluster, _) => cluster,
    };
    let owners: Option<Vec<Owner>> = owner.map(|owner| vec![owner]).or_else(|| reach.only_owners().map(<[Owner]>::to_vec));
    Ok((Scope::new(kinds, cluster, owners.map(Into::into)), start))
}

fn kinds(check: &mut Check, wire: &[i32]) -> Option<Kinds> {
    if wire.is_empty() {
        return Some(Kinds::ALL);
    }
    let (mut kinds, mut whole) = (Kinds::NONE, true);
    let at = At::Top("kinds");
    for (index, number) in wire.iter().enumerate() {
        match check.known::<v1::WatchKind>(at.item(index), *number) {
            Some(v1::WatchKind::Tenant) => kinds.tenants = true,
            Some(v1::WatchKind::Cluster) => kinds.clusters = true,
            Some(v1::WatchKind::Pool) => kinds.pools = true,
            Some(v1::WatchKind::Class) => kinds.classes = true,
            Some(v1::WatchKind::Policy) => kinds.policy = true,
            Some(v1::WatchKind::Unspecified) => {
                whole = false;
                let _: Option<()> = check.refuse(at.item(index), "must be TENANT, CLUSTER, POOL, CLASS or POLICY");
            }
            None => whole = false,
        }
    }
    whole.then_some(kinds)
}
