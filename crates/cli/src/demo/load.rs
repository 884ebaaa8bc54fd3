//! Places the tenants, many at a time, while somebody kills the leader; keeps every answer with its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use roadstead_api::v1;
use tokio::task::JoinSet;

use super::mix::Wanted;
use crate::apply::put::send;
use crate::client::{Client, Services, request_id};
use crate::failure::Failure;

/// Placements on their way at a time, at most; with few tenants fewer, so that there is a middle in which the leader can die.
const MAX_CONCURRENCY: usize = 256;
/// Connections that they are spread over.
const CLIENTS: usize = 4;

/// A placement that the service has acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Which of the tenants wanted.
    pub index: usize,
    /// As the service answered.
    pub tenant: v1::Tenant,
    /// When.
    pub at: Instant,
}

/// What placing came to.
pub struct Placed {
    /// Every acknowledgement, in the order in which they came.
    pub acknowledged: Vec<Acknowledged>,
    /// From the first request to the last answer.
    pub took: Duration,
    /// When it began.
    pub begun: Instant,
}

impl Placed {
    /// The longest time without an acknowledgement after a moment. Not the time to the next one: it may have been on its way already.
    #[must_use]
    pub fn silence_after(&self, moment: Instant) -> Option<Duration> {
        let after = || self.acknowledged.iter().map(|done| done.at).filter(|at| *at > moment);
        std::iter::once(moment).chain(after()).zip(after()).map(|(one, next)| next - one).max()
    }
}

/// How far placing is, for whoever wants to disturb it.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicUsize>);

impl Progress {
    /// Acknowledged so far.
    #[must_use]
    pub fn done(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Places all tenants; returns when each has its answer.
///
/// # Errors
/// The first refusal or the first that nobody answered in time.
pub async fn place_all(clients: Vec<Client>, wanted: Arc<Vec<Wanted>>, progress: Progress) -> Result<Placed, Failure> {
    let bar = bar(wanted.len() as u64);
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..(wanted.len() / 8).clamp(1, MAX_CONCURRENCY) {
        let client = clients[worker % clients.len()].clone();
        let (wanted, next, progress, bar) = (Arc::clone(&wanted), Arc::clone(&next), progress.clone(), bar.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= wanted.len() {
                    return Ok::<_, Failure>(done);
                }
                let tenant = place_one(&client, &wanted[index]).await?;
                done.push(Acknowledged { index, tenant, at: Instant::now() });
                progress.0.fetch_add(1, Ordering::Relaxed);
                bar.inc(1);
            }
        });
    }
    let mut acknowledged = Vec::with_capacity(wanted.len());
    while let Some(worker) = workers.join_next().await {
        acknowledged.extend(worker.map_err(|error| Failure::failed(error.to_string()))??);
    }
    acknowledged.sort_by_key(|done| done.at);
    bar.finish();
    let end = acknowledged.last().map_or(begun, |last| last.at);
    Ok(Placed { acknowledged, took: end - begun, begun })
}

async fn place_one(client: &Client, wanted: &Wanted) -> Result<v1::Tenant, Failure> {
    let request = v1::PlaceTenantRequest {
        request_id: request_id(),
        name: wanted.name.clone(),
        spec: Some((&wanted.spec).into()),
        wait: Some(true),
        dry_run: false,
    };
    let answer = send!(client, &format!("place tenant/{}", wanted.name), placement, place_tenant, request)?;
    Ok(answer.tenant.unwrap_or_default())
}

/// Clients with connections of their own, each beginning at another replica.
///
/// # Errors
/// Certificates that cannot be used.
pub fn clients(context: &crate::client::config::Context, timeout: Duration) -> Result<Vec<Client>, Failure> {
    (0..CLIENTS)
        .map(|number| {
            let client = Client::new(context, timeout)?;
            (0..number).for_each(|_| client.advance());
            Ok(client)
        })
        .collect()
}

fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("  {bar:40.cyan/blue} {pos:>6}/{len} tenants  {per_sec:>10}  {msg}") {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏·"));
    }
    bar
}
