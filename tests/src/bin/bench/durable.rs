//! `durable-place` and `durable-stream`: durable placements of three replicas against three members of etcd, with the same clients.
//!
//! Rounds alternate and only one system is alive at a time. Both speak gRPC over mutual TLS, over the same number of connections spread over
//! all three endpoints, from the same number of clients, with values of the same size; both sync, which strace counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use prost::Message;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::etcd::{Etcd, put_if_absent};
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::Group;
use roadstead_tests::load::{Measured, Shape, closed_loop};
use roadstead_tests::sync;
use serde_json::json;

use crate::report::{Check, Report, median};
use crate::stream;

/// Operations of one batched transaction of etcd: its default limit.
const BATCH: u64 = 128;
/// Requests that each stream keeps outstanding: together (256 clients) fewer than a replica lets wait before it refuses, and fewer than the
/// peer's batches hold.
const WINDOW: u64 = 48;
/// Both systems have three members.
const MEMBERS: usize = 3;
/// How long strace watches, in each system's first round, before anything is measured.
const TRACED: Duration = Duration::from_millis(1500);

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench durable-place", disable_help_subcommand = true)]
pub(crate) struct Settings {
    /// Rounds of each system.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections.
    #[arg(long, default_value_t = 24)]
    connections: usize,
    /// Clients, over all connections.
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Seconds that are not measured, in each round.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Seconds that are measured, in each round.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Only the peer.
    #[arg(long)]
    peer_only: bool,
    /// Only Roadstead.
    #[arg(long)]
    own_only: bool,
}

impl Settings {
    fn shape(&self) -> Shape {
        Shape { clients: self.clients, warm_up: Duration::from_secs(self.warm_up), measured: Duration::from_secs(self.seconds) }
    }
}

/// What is asked of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Unary,
    Streamed,
    EtcdUnary,
    EtcdBatched,
}

/// Figures of one way over all rounds.
#[derive(Debug, Default)]
struct Figures {
    rates: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    failed: u64,
    /// Syncs a second of each process, under load, in the first round.
    syncs: Vec<u64>,
}

impl Figures {
    fn add(&mut self, measured: &Measured) {
        self.rates.push(measured.rate);
        self.p50_ms.push(measured.quantile_ms(0.5));
        self.p99_ms.push(measured.quantile_ms(0.99));
        self.failed += measured.failed;
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "rates": self.rates, "median_rate": median(&self.rates), "p50_ms": median(&self.p50_ms), "p99_ms": median(&self.p99_ms),
            "failed_and_sent_again": self.failed, "syncs_per_process_while_traced": self.syncs,
        })
    }

    fn least_syncs(&self) -> f64 {
        f64::from(u32::try_from(self.syncs.iter().copied().min().unwrap_or(0)).unwrap_or(u32::MAX))
    }
}

/// `durable-place`.
pub(crate) async fn place(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("durable-place").chain(arguments.iter().map(String::as_str)));
    let [own, peer] = rounds(&settings, [Way::Unary, Way::EtcdUnary]).await?;
    let (value, base) = (median(&own.rates), median(&peer.rates));
    Ok(Report {
        bench: "durable-place",
        unit: "placements/s",
        value,
        ratio: value / base,
        checks: vec![
            Check::at_least("placements/s over etcd's transactions/s", value / base, 3.0),
            Check::below("p99 in ms, below etcd's", median(&own.p99_ms), median(&peer.p99_ms)),
            Check::at_least("syncs of the replica that synced least while traced", own.least_syncs(), 10.0),
            Check::at_least("syncs of the etcd member that synced least while traced", peer.least_syncs(), 10.0),
        ],
        details: json!({
            "rounds": settings.rounds, "connections": settings.connections, "clients": settings.clients,
            "roadstead": own.json(), "etcd": peer.json(),
        }),
    })
}

/// `durable-stream`.
pub(crate) async fn stream(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("durable-stream").chain(arguments.iter().map(String::as_str)));
    let [own, unary, batched] = rounds(&settings, [Way::Streamed, Way::EtcdUnary, Way::EtcdBatched]).await?;
    let value = median(&own.rates);
    let over = |peer: &Figures| value / median(&peer.rates);
    Ok(Report {
        bench: "durable-stream",
        unit: "placements/s",
        value,
        ratio: over(&unary),
        checks: vec![
            Check::at_least("placements/s over etcd's, one a transaction", over(&unary), 15.0),
            Check::at_least("placements/s over etcd's, 128 a transaction", over(&batched), 2.0),
            Check::at_least("syncs of the replica that synced least while traced", own.least_syncs(), 10.0),
            Check::at_least("syncs of the etcd member that synced least while traced", unary.least_syncs(), 10.0),
        ],
        details: json!({
            "rounds": settings.rounds, "connections": settings.connections, "clients": settings.clients, "batch": BATCH, "window": WINDOW,
            "roadstead": own.json(), "etcd_unary": unary.json(), "etcd_batched": batched.json(),
        }),
    })
}

/// Runs every way once a round, in turn; every second round backwards, so that none always runs on a warmer machine.
async fn rounds<const N: usize>(settings: &Settings, ways: [Way; N]) -> Result<[Figures; N]> {
    let mut figures: [Figures; N] = std::array::from_fn(|_| Figures::default());
    for round in 0..settings.rounds {
        let mut order: Vec<usize> = (0..N).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (way, own) = (ways[at], &mut figures[at]);
            let is_peer = matches!(way, Way::EtcdUnary | Way::EtcdBatched);
            if (settings.peer_only && !is_peer) || (settings.own_only && is_peer) {
                continue;
            }
            let traced = round == 0;
            let measured = if is_peer {
                etcd(settings, way, traced, &mut own.syncs).await?
            } else {
                roadstead(settings, way, traced, &mut own.syncs).await?
            };
            eprintln!(
                "round {}: {way:?} {:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {} sent again, syncs {:?}",
                round + 1,
                measured.rate,
                measured.quantile_ms(0.5),
                measured.quantile_ms(0.99),
                measured.failed,
                own.syncs
            );
            own.add(&measured);
        }
    }
    Ok(figures)
}

/// Where etcd's binary is.
pub(crate) fn etcd_binary() -> Result<PathBuf> {
    std::env::var_os("ROADSTEAD_ETCD").map(PathBuf::from).context("ROADSTEAD_ETCD does not name etcd's binary; `cargo xtask bench` does")
}

async fn etcd(settings: &Settings, way: Way, traced: bool, syncs: &mut Vec<u64>) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("roadstead-etcd-").tempdir().context("failed to make a temporary folder")?;
    let etcd = Etcd::start(&etcd_binary()?, folder.path()).await?;
    let clients = (0..settings.connections).map(|number| etcd.client(number)).collect::<Result<Vec<_>>>()?;
    let load = async |shape: Shape, prefix: &str| {
        let placements = Placements::new(prefix);
        let per_request = if way == Way::EtcdBatched { BATCH } else { 1 };
        closed_loop(shape, &clients, move |mut client, number| {
            let pairs = (number * per_request..(number + 1) * per_request).map(|number| {
                let request = placements.request(number);
                (format!("/tenants/{}", request.name).into_bytes(), request.encode_to_vec())
            });
            let transaction = put_if_absent(pairs);
            async move {
                let answer = client.txn(transaction).await.context("a transaction failed")?;
                ensure!(answer.get_ref().succeeded, "a key was there already");
                Ok(per_request)
            }
        })
        .await
    };
    trace_first(traced, settings, &etcd.ids(), folder.path(), syncs, &load).await?;
    load(settings.shape(), "bench").await
}

async fn roadstead(settings: &Settings, way: Way, traced: bool, syncs: &mut Vec<u64>) -> Result<Measured> {
    let mut group = Group::start(MEMBERS).await?;
    Fleet { clusters: 1_000, regions: 48, tenant_cap: 1_000 }.declare(&group.channel(1, "admin-test")?).await?;
    let channels =
        (0..settings.connections).map(|number| group.channel(number % MEMBERS + 1, "client-test")).collect::<Result<Vec<_>>>()?;
    let clients: Vec<_> = channels.iter().cloned().map(PlacementServiceClient::new).collect();
    let load = async |shape: Shape, prefix: &str| {
        let placements = Placements::new(prefix);
        if way == Way::Streamed {
            return stream::closed_loop(shape, WINDOW, &clients, &placements).await;
        }
        closed_loop(shape, &clients, move |mut client, number| {
            let request = placements.request(number);
            async move {
                let answer = client.place_tenant(request).await.context("a placement failed")?.into_inner();
                let bound = answer.tenant.and_then(|tenant| tenant.status).is_some_and(|status| status.binding.is_some());
                ensure!(bound, "a tenant was not bound: the fleet is too small for this benchmark");
                Ok(1)
            }
        })
        .await
    };
    let ids = (1..=MEMBERS).map(|number| Ok(group.process(number)?.id())).collect::<Result<Vec<_>>>()?;
    trace_first(traced, settings, &ids, group.folder(), syncs, &load).await?;
    load(settings.shape(), "bench").await
}

/// Counts syncs under a short load of its own.
async fn trace_first(
    traced: bool,
    settings: &Settings,
    ids: &[u32],
    folder: &Path,
    syncs: &mut Vec<u64>,
    load: &impl AsyncFn(Shape, &str) -> Result<Measured>,
) -> Result<()> {
    if traced {
        let shape = Shape { warm_up: Duration::ZERO, measured: TRACED + TRACED, ..settings.shape() };
        let (counted, loaded) = tokio::join!(sync::count(ids, TRACED, folder), load(shape, "trace"));
        loaded?;
        *syncs = counted?;
    }
    Ok(())
}
