//! `failover`: how long after the leader dies, or stops without dying, until the next placement is acknowledged; and that nothing
//! acknowledged is lost or done twice.
//!
//! Placements come at a steady rate from outside, whatever becomes of those before: a closed loop would stop asking at the very moment that
//! is measured. A placement counts only if it was sent after the leader was struck. Time-outs are the shipped ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use roadstead_api::v1;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::Group;
use roadstead_tests::load::histogram;
use roadstead_tests::process::until;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::report::{Check, Report};

const MEMBERS: usize = 3;
/// Time between two placements: 500 a second.
const PACE: Duration = Duration::from_millis(2);
/// After it a client asks another replica, with the same request id.
const PATIENCE: Duration = Duration::from_millis(250);
/// A client that no replica serves waits so long before it asks again.
const BACK_OFF: Duration = Duration::from_millis(10);
/// A placement that nobody acknowledges within this is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Load before each stroke, so that it always strikes a busy leader.
const STEADY: Duration = Duration::from_millis(300);
/// How long a stopped leader sleeps: much longer than an election takes.
const ASLEEP: Duration = Duration::from_secs(2);
/// Tenants a page when all are read back.
const PAGE: u32 = 5_000;

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench failover", disable_help_subcommand = true)]
struct Settings {
    /// How often the leader is killed (kill -9).
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// How often the leader is stopped (SIGSTOP).
    #[arg(long, default_value_t = 20)]
    stops: usize,
}

/// What was acknowledged, by number: the uid. And, for each stroke, the first acknowledgement after it.
#[derive(Default)]
struct Seen {
    acknowledged: HashMap<u64, String>,
    again: u64,
    struck: Option<Instant>,
    next: Option<Instant>,
}

type Shared = Arc<Mutex<Seen>>;

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("failover").chain(arguments.iter().map(String::as_str)));
    let mut group = Group::start(MEMBERS).await?;
    Fleet { clusters: 1_000, regions: 48, tenant_cap: 1_000 }.declare(&group.channel(1, "admin-test")?).await?;
    let seen = Shared::default();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients =
        (1..=MEMBERS).map(|number| Ok(PlacementServiceClient::new(group.channel(number, "client-test")?))).collect::<Result<Vec<_>>>()?;
    let load = tokio::spawn(steady(clients, seen.clone(), stopped));
    let (mut killed, mut paused) = (histogram(), histogram());
    for stroke in 0..settings.kills + settings.stops {
        let kill = stroke < settings.kills;
        let took = strike(&mut group, &seen, kill).await?;
        eprintln!("{} {}: {:.0} ms", if kill { "kill" } else { "stop" }, stroke + 1, took.as_secs_f64() * 1e3);
        let into = if kill { &mut killed } else { &mut paused };
        into.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
    stop.send(true).context("the load has ended early")?;
    load.await.context("the load panicked")??;
    let tenants = read_all(&group).await?;
    let seen = seen.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
    let names = Placements::new("bench");
    let lost = seen.acknowledged.iter().filter(|(number, uid)| tenants.get(&names.name(**number)) != Some(*uid)).count();
    let twice = tenants.len().saturating_sub(seen.acknowledged.len());
    let mut all = killed.clone();
    all.add(&paused).context("histograms have the same bounds")?;
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
    let value = ms(all.value_at_quantile(0.99));
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let count = |number: usize| number as f64;
    Ok(Report {
        bench: "failover",
        unit: "ms",
        value,
        ratio: value / 500.0,
        checks: vec![
            Check::below("p99 in ms to the next acknowledged placement", value, 500.0),
            Check::at_most("acknowledged placements lost", count(lost), 0.0),
            Check::at_most("placements done twice", count(twice), 0.0),
            Check::at_least("kills", count(settings.kills), 100.0),
            Check::at_least("stops", count(settings.stops), 20.0),
        ],
        details: json!({
            "kill_p50_ms": ms(killed.value_at_quantile(0.5)), "kill_p99_ms": ms(killed.value_at_quantile(0.99)), "kill_max_ms": ms(killed.max()),
            "stop_p50_ms": ms(paused.value_at_quantile(0.5)), "stop_p99_ms": ms(paused.value_at_quantile(0.99)), "stop_max_ms": ms(paused.max()),
            "placements": seen.acknowledged.len(), "sent_again": seen.again, "placements_per_second": 1.0 / PACE.as_secs_f64(),
        }),
    })
}

/// Strikes the leader once all replicas are up and level, and brings it back; how long until the next acknowledgement.
async fn strike(group: &mut Group, seen: &Shared, kill: bool) -> Result<Duration> {
    let leader = level(group).await?;
    tokio::time::sleep(STEADY).await;
    let struck = {
        let mut seen = seen.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        if kill {
            group.kill(leader)?
        } else {
            group.pause(leader)?
        }
        seen.next = None;
        *seen.struck.insert(Instant::now())
    };
    let next = until("a placement is acknowledged", LOST_AFTER, || async {
        seen.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?.next.context("none yet")
    })
    .await?;
    if kill {
        group.start_replica(leader)?;
    } else {
        tokio::time::sleep(ASLEEP).await;
        group.resume(leader)?;
    }
    Ok(next.duration_since(struck))
}

/// Waits until every replica has applied nearly all that the leader has committed; the leader.
async fn level(group: &Group) -> Result<usize> {
    /// Entries that a busy follower may be behind.
    const LEVEL: u64 = 100;
    until("all replicas are level", LOST_AFTER, || async {
        let leader = group.leader().await?;
        let committed = group.status(leader).await?.committed;
        for number in 1..=MEMBERS {
            let applied = group.status(number).await?.applied.context("a status says what was applied")?.index;
            ensure!(applied + LEVEL > committed, "replica {number} has applied {applied} of {committed}");
        }
        Ok(leader)
    })
    .await
}

/// Sends a placement every [`PACE`], each from a task of its own.
async fn steady(clients: Vec<PlacementServiceClient<Channel>>, seen: Shared, stopped: tokio::sync::watch::Receiver<bool>) -> Result<()> {
    let placements = Placements::new("bench");
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks = JoinSet::new();
    let mut number = 0;
    while !*stopped.borrow() {
        tick.tick().await;
        tasks.spawn(one(clients.clone(), placements.request(number), number, seen.clone()));
        number += 1;
        while let Some(done) = tasks.try_join_next() {
            done.context("a client panicked")??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a client panicked")??;
    }
    Ok(())
}

/// One placement, until it is acknowledged: every replica in turn, always with the same request id.
async fn one(mut clients: Vec<PlacementServiceClient<Channel>>, request: v1::PlaceTenantRequest, number: u64, seen: Shared) -> Result<()> {
    let sent = Instant::now();
    let mut at = usize::try_from(number)? % clients.len();
    loop {
        let answer = tokio::time::timeout(PATIENCE, clients[at].place_tenant(request.clone())).await;
        if let Ok(Ok(answer)) = answer {
            let uid = answer.into_inner().tenant.context("an acknowledgement without its tenant")?.uid;
            let mut seen = seen.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            seen.acknowledged.insert(number, uid);
            if seen.next.is_none() && seen.struck.is_some_and(|struck| sent > struck) {
                seen.next = Some(Instant::now());
            }
            return Ok(());
        }
        if let Ok(Err(status)) = &answer {
            use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
            if !matches!(status.code(), Unavailable | DeadlineExceeded | Aborted | Cancelled | ResourceExhausted | Unknown | Internal) {
                bail!("placement {number} was refused: {status}");
            }
            tokio::time::sleep(BACK_OFF).await;
        }
        ensure!(sent.elapsed() < LOST_AFTER, "placement {number} was not acknowledged within {LOST_AFTER:?}: {answer:?}");
        seen.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?.again += 1;
        at = (at + 1) % clients.len();
    }
}

/// All tenants that are there, by name: their uids.
async fn read_all(group: &Group) -> Result<HashMap<String, String>> {
    let mut client = PlacementServiceClient::new(group.channel(group.leader().await?, "viewer-test")?).max_decoding_message_size(64 << 20);
    let (mut all, mut token) = (HashMap::new(), String::new());
    loop {
        let request = v1::ListTenantsRequest { page_size: PAGE, page_token: token, ..Default::default() };
        let page = client.list_tenants(request).await.context("the tenants cannot be listed")?.into_inner();
        for tenant in page.tenants {
            ensure!(all.insert(tenant.name.clone(), tenant.uid).is_none(), "{} is listed twice", tenant.name);
        }
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        token = page.next_page_token;
    }
}
