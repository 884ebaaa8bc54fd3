//! Tenants as their users meet them: placed until acknowledged, read, listed; and a load that remembers what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use roadstead_api::v1;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::fleet::Placements;
use crate::group::Group;
use crate::process::until;

/// A client of the placement service.
pub type Placing = PlacementServiceClient<Channel>;

/// How long a placement may take to be acknowledged while replicas come and go.
const WITHIN: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Tenants of a page.
const PAGE: u32 = 5_000;
/// A worker that fails so often in a row waits this long, so that nobody spins while nobody answers.
const BACK_OFF: Duration = Duration::from_millis(10);

/// A client of each replica, by number.
///
/// # Errors
/// If the certificates cannot be used.
pub fn clients(group: &Group) -> Result<Vec<Placing>> {
    group.replicas.iter().map(|replica| Ok(Placing::new(group.channel(replica.number, "client-test")?))).collect()
}

/// The machine-readable reason of a refusal, if it has one.
#[must_use]
pub fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// One attempt to place a tenant.
///
/// # Errors
/// What the service said.
pub async fn place_once(client: &mut Placing, request: &v1::PlaceTenantRequest) -> Result<v1::Tenant, tonic::Status> {
    let mut request = tonic::Request::new(request.clone());
    request.set_timeout(ATTEMPT);
    let answer = client.place_tenant(request).await?.into_inner();
    answer.tenant.ok_or_else(|| tonic::Status::internal("an acknowledgement without its tenant"))
}

/// Places a tenant through one of the replicas, again and again with the same request id until it is acknowledged.
///
/// # Errors
/// If it is not acknowledged in time.
pub async fn place(clients: &[Placing], request: &v1::PlaceTenantRequest) -> Result<v1::Tenant> {
    let mut turn = clients.iter().cycle();
    until("a placement is acknowledged", WITHIN, || {
        let next = turn.next().cloned();
        async move { place_once(&mut next.context("there is no client")?, request).await.context("not acknowledged") }
    })
    .await
}

/// Reads a tenant, with all that was acknowledged.
///
/// # Errors
/// If it is not there or nobody answers.
pub async fn get(client: &mut Placing, name: String) -> Result<v1::Tenant> {
    let answer = client.get_tenant(v1::GetTenantRequest { name, ..Default::default() }).await.context("a read failed")?;
    answer.into_inner().tenant.context("an answer without its tenant")
}

/// All tenants by name, as one replica tells them.
///
/// # Errors
/// If it does not answer, or tells one twice.
pub async fn all(client: &mut Placing) -> Result<BTreeMap<String, v1::Tenant>> {
    let mut tenants = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListTenantsRequest { page_size: PAGE, page_token, ..Default::default() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(WITHIN);
        let answer = client.list_tenants(request).await.context("tenants cannot be listed")?.into_inner();
        for tenant in answer.tenants {
            let name = tenant.name.clone();
            ensure!(tenants.insert(name.clone(), tenant).is_none(), "{name} is listed twice");
        }
        if answer.next_page_token.is_empty() {
            return Ok(tenants);
        }
        page_token = answer.next_page_token;
    }
}

/// Tenants whose placement was acknowledged, by name: uid and cluster.
pub type Acknowledged = BTreeMap<String, (String, String)>;

/// What an acknowledgement is remembered by.
#[must_use]
pub fn remembered(tenant: &v1::Tenant) -> (String, String) {
    let binding = tenant.status.as_ref().and_then(|status| status.binding.as_ref());
    (tenant.uid.clone(), binding.map(|binding| binding.cluster.clone()).unwrap_or_default())
}

/// Checks that every acknowledged tenant is there as it was acknowledged, that there is no other, that no uid is used twice, and that the
/// clusters count each once.
///
/// # Errors
/// What is lost, or doubled.
pub async fn verify(group: &Group, number: usize, acknowledged: &Acknowledged) -> Result<()> {
    let found = all(&mut Placing::new(group.channel(number, "viewer-test")?)).await?;
    for (name, known) in acknowledged {
        let tenant = found.get(name).with_context(|| format!("{name} was acknowledged, and replica {number} does not know it"))?;
        ensure!(remembered(tenant) == *known, "{name} is {:?}, acknowledged was {known:?}", remembered(tenant));
    }
    ensure!(found.len() == acknowledged.len(), "{} tenants are there, {} were acknowledged", found.len(), acknowledged.len());
    let uids: BTreeSet<&String> = found.values().map(|tenant| &tenant.uid).collect();
    ensure!(uids.len() == found.len(), "{} tenants share {} uids", found.len(), uids.len());
    let mut fleet = FleetServiceClient::new(group.channel(number, "viewer-test")?);
    let clusters = fleet.list_clusters(v1::ListClustersRequest { page_size: 500, ..Default::default() }).await;
    let clusters = clusters.context("clusters cannot be listed")?.into_inner().clusters;
    let counted: u64 = clusters.iter().filter_map(|cluster| cluster.status.as_ref()).map(|status| u64::from(status.tenants)).sum();
    let bound = found.values().filter(|tenant| !remembered(tenant).1.is_empty()).count();
    ensure!(counted == bound as u64, "the clusters count {counted} tenants, {bound} are bound");
    Ok(())
}

/// Placements that go on in the background, each tried with the same request id until it is acknowledged.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    workers: JoinSet<Result<()>>,
}

impl Load {
    /// Starts so many workers over the clients.
    #[must_use]
    pub fn start(clients: &[Placing], placements: &Placements, workers: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (acknowledged, next) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicU64::new(0)));
        let mut load = Self { stop, done, acknowledged, workers: JoinSet::new() };
        for worker in 0..workers {
            let (stop, done, next) = (load.stop.clone(), load.done.clone(), next.clone());
            let (acknowledged, placements, clients) = (load.acknowledged.clone(), placements.clone(), clients.to_vec());
            load.workers.spawn(async move {
                let mut at = worker;
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let tenant = acknowledge(&clients, &mut at, &placements.request(number)).await?;
                    acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.name.clone(), remembered(&tenant));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        load
    }

    /// Placements acknowledged so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    ///
    /// # Errors
    /// If they are not in time.
    pub async fn goes_on(&self, more: u64) -> Result<()> {
        let from = self.count();
        until("placements go on", WITHIN, || async move {
            ensure!(self.count() >= from + more, "{} of {more} more", self.count() - from);
            Ok(())
        })
        .await
    }

    /// Lets the workers finish what they have begun; everything that was acknowledged.
    ///
    /// # Errors
    /// If something was refused for good.
    pub async fn stop(mut self) -> Result<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(worker) = self.workers.join_next().await {
            worker.context("a worker panicked")??;
        }
        Ok(std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Tries one replica after the other for as long as it takes: how long that may be, whoever waits for the load decides.
async fn acknowledge(clients: &[Placing], at: &mut usize, request: &v1::PlaceTenantRequest) -> Result<v1::Tenant> {
    loop {
        let mut client = clients[*at % clients.len()].clone();
        match place_once(&mut client, request).await {
            Ok(tenant) => return Ok(tenant),
            Err(status) => match status.code() {
                Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::ResourceExhausted => {
                    *at += 1;
                    tokio::time::sleep(BACK_OFF).await;
                }
                _ => bail!("{} was refused: {status:?}", request.name),
            },
        }
    }
}
