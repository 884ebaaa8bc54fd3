//! Roadstead's side: three replicas with synced folders, gRPC over mutual TLS.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use roadstead_api::v1;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::fleet::{Declarations, Fleet, Placements, VERSION, request_id};
use roadstead_tests::group::Group;
use roadstead_tests::load::each_once;

use super::scenario::{Amounts, REGIONS, SIZES, Scenario, TAINT, region_name};
use super::{Placed, Settings};
use crate::stream;

/// Replicas.
pub(super) const MEMBERS: usize = 3;
/// Requests that a stream keeps outstanding, as in `durable-stream`.
const WINDOW: u64 = 48;
/// Tenants read at a time afterwards.
const PAGE: u32 = 5_000;
/// Tenants' names begin so.
const PREFIX: &str = "tenant";

/// From the first request until the last answer, each of which says that the placement is on disk.
pub(super) async fn measure(settings: &Settings, scenario: &Scenario, streamed: bool) -> Result<Placed> {
    let group = Group::start(MEMBERS).await?;
    declarations(scenario)?.declare(&group.channel(1, "admin-test")?).await?;
    let channels = (0..settings.connections).map(|number| group.channel(number % MEMBERS + 1, "client-test"));
    let clients: Vec<_> = channels.collect::<Result<Vec<_>>>()?.into_iter().map(PlacementServiceClient::new).collect();
    // Connections are made beforehand, as the peer's are.
    for client in &clients {
        let any = v1::ListTenantsRequest { page_size: 1, ..Default::default() };
        client.clone().list_tenants(any).await.context("a connection does not work")?;
    }
    let placements = Placements::new(PREFIX);
    let requests: Vec<_> = (0_u64..).zip(&scenario.tenants).map(|(number, tenant)| request(&placements, number, tenant)).collect();
    let requests: std::sync::Arc<[v1::PlaceTenantRequest]> = requests.into();
    let total = requests.len() as u64;
    let place = move |number: u64| requests[usize::try_from(number).unwrap_or(usize::MAX)].clone();
    let started = Instant::now();
    if streamed {
        stream::fill(total, settings.connections as u64, WINDOW, &clients, place).await?;
    } else {
        let call = move |mut client: PlacementServiceClient<_>, number| {
            let request = place(number);
            async move {
                client.place_tenant(request).await.context("a placement failed")?;
                Ok(1)
            }
        };
        let (_, failed) = each_once(total, settings.clients, &clients, call).await?;
        ensure!(failed == 0, "{failed} placements failed and were sent again");
    }
    let took = started.elapsed();
    let places = places(clients[0].clone(), scenario).await?;
    Ok(Placed { rate: super::rate(scenario.tenants.len(), took), spread: scenario.judge(&places)? })
}

fn declarations(scenario: &Scenario) -> Result<Declarations> {
    let fleet = Fleet { clusters: u32::try_from(scenario.clusters.len())?, regions: u32::try_from(REGIONS)?, tenant_cap: 1 };
    let mut all = fleet.declarations();
    all.classes = SIZES.iter().map(|(name, _, amounts)| class(name, *amounts)).collect();
    for ((put, report), cluster) in all.clusters.iter_mut().zip(&scenario.clusters) {
        let spec = put.cluster.as_mut().and_then(|cluster| cluster.spec.as_mut()).context("a cluster has a spec")?;
        spec.region = region_name(cluster.region);
        spec.tenant_cap = u32::try_from(cluster.limits.tenants)?;
        if cluster.tainted {
            let effect = v1::TaintEffect::NoSchedule.into();
            spec.taints.push(v1::Taint { key: TAINT.0.to_owned(), value: TAINT.1.to_owned(), effect });
        }
        let there = report.capacity.as_mut().and_then(|capacity| capacity.allocatable.as_mut()).context("a cluster has a capacity")?;
        *there = resources(cluster.limits);
    }
    Ok(all)
}

fn resources(amounts: Amounts) -> v1::Resources {
    v1::Resources {
        cpu_millicores: amounts.cpu_millicores,
        memory_bytes: amounts.memory,
        pods: amounts.tenants,
        ..v1::Resources::default()
    }
}

fn class(name: &str, amounts: Amounts) -> v1::PutClassRequest {
    let largest_pod = v1::PodSize { cpu_millicores: amounts.cpu_millicores, memory_bytes: amounts.memory };
    let class = v1::Class {
        name: name.to_owned(),
        version: VERSION.to_owned(),
        requests: Some(v1::Requests { total: Some(resources(amounts)), largest_pod: Some(largest_pod) }),
        ..v1::Class::default()
    };
    v1::PutClassRequest { request_id: request_id(), class: Some(class), dry_run: false }
}

fn request(placements: &Placements, number: u64, tenant: &super::scenario::Tenant) -> v1::PlaceTenantRequest {
    let mut request = placements.request(number);
    if let Some(spec) = &mut request.spec {
        SIZES[tenant.size].0.clone_into(&mut spec.class);
        spec.values_json.clear();
        let toleration =
            v1::Toleration { key: Some(TAINT.0.to_owned()), value: Some(TAINT.1.to_owned()), effect: v1::TaintEffect::NoSchedule.into() };
        spec.constraints = Some(v1::Constraints {
            regions: tenant.regions.iter().map(|region| region_name(*region)).collect(),
            tolerations: tenant.tolerates.then_some(toleration).into_iter().collect(),
            ..v1::Constraints::default()
        });
    }
    request
}

/// Where each tenant is, as the service tells afterwards.
async fn places(mut client: PlacementServiceClient<tonic::transport::Channel>, scenario: &Scenario) -> Result<Vec<usize>> {
    let mut places = vec![None; scenario.tenants.len()];
    let mut page_token = String::new();
    loop {
        let request = v1::ListTenantsRequest { page_size: PAGE, page_token, ..Default::default() };
        let page = client.list_tenants(request).await.context("tenants cannot be listed")?.into_inner();
        for tenant in page.tenants {
            let number: usize = tenant.name.rsplit_once('-').context("a name has a number")?.1.parse()?;
            let cluster = tenant.status.and_then(|status| status.binding).context("a tenant waits: the fleet is too small")?.cluster;
            places[number] = Some(cluster.trim_start_matches('c').parse()?);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return places.into_iter().collect::<Option<_>>().context("a tenant is not there");
        }
    }
}
