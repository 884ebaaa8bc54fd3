//! `read`: linearizable gets of random tenants against etcd's linearizable ranges of the same keys.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use prost::Message;
use roadstead_api::v1;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_tests::etcd::{Etcd, put_if_absent, wire};
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::Group;
use roadstead_tests::load::{Measured, Shape, closed_loop};
use serde_json::json;

use crate::durable::etcd_binary;
use crate::report::{Check, Report, median};
use crate::stream;

const MEMBERS: usize = 3;
/// Tenants put a transaction while etcd is filled.
const FILL_BATCH: u64 = 100;
/// Streams that fill Roadstead, and requests that each keeps outstanding.
const FILL_STREAMS: u64 = 16;
const FILL_WINDOW: u64 = 256;
/// A multiplier that visits all residues in a scattered order (Knuth's, prime).
const SCATTER: u64 = 2_654_435_761;

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench read", disable_help_subcommand = true)]
struct Settings {
    /// Rounds of each system.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections, spread over the three endpoints.
    #[arg(long, default_value_t = 24)]
    connections: usize,
    /// Clients, over all connections.
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Tenants to read from.
    #[arg(long, default_value_t = 100_000)]
    tenants: u64,
    /// Seconds that are not measured, in each round.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Seconds that are measured, in each round.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("read").chain(arguments.iter().map(String::as_str)));
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        for own_turn in if round % 2 == 0 { [true, false] } else { [false, true] } {
            let measured = if own_turn { roadstead(&settings).await? } else { etcd(&settings).await? };
            eprintln!(
                "round {}: {} {:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
                round + 1,
                if own_turn { "roadstead" } else { "etcd" },
                measured.rate,
                measured.quantile_ms(0.5),
                measured.quantile_ms(0.99)
            );
            if own_turn { &mut own } else { &mut peer }.push(measured);
        }
    }
    let rate = |all: &[Measured]| median(&all.iter().map(|measured| measured.rate).collect::<Vec<_>>());
    let p99 = |all: &[Measured]| median(&all.iter().map(|measured| measured.quantile_ms(0.99)).collect::<Vec<_>>());
    let ratio = rate(&own) / rate(&peer);
    Ok(Report {
        bench: "read",
        unit: "linearizable reads/s",
        value: rate(&own),
        ratio,
        checks: vec![Check::at_least("linearizable reads/s over etcd's", ratio, 3.0)],
        details: json!({
            "rounds": settings.rounds, "connections": settings.connections, "clients": settings.clients, "tenants": settings.tenants,
            "roadstead_p99_ms": p99(&own), "etcd_rate": rate(&peer), "etcd_p99_ms": p99(&peer),
        }),
    })
}

fn shape(settings: &Settings) -> Shape {
    Shape { clients: settings.clients, warm_up: Duration::from_secs(settings.warm_up), measured: Duration::from_secs(settings.seconds) }
}

async fn roadstead(settings: &Settings) -> Result<Measured> {
    let group = Group::start(MEMBERS).await?;
    Fleet { clusters: 200, regions: 48, tenant_cap: 1_000 }.declare(&group.channel(1, "admin-test")?).await?;
    let channels = (0..settings.connections).map(|number| group.channel(number % MEMBERS + 1, "client-test"));
    let clients: Vec<_> = channels.collect::<Result<Vec<_>>>()?.into_iter().map(PlacementServiceClient::new).collect();
    let placements = Placements::new("bench");
    let place = placements.clone();
    stream::fill(settings.tenants, FILL_STREAMS, FILL_WINDOW, &clients, move |number| place.request(number)).await?;
    let tenants = settings.tenants;
    closed_loop(shape(settings), &clients, move |mut client, number| {
        let name = placements.name(number.wrapping_mul(SCATTER) % tenants);
        async move {
            let consistency = v1::Consistency::Linearizable.into();
            let answer = client.get_tenant(v1::GetTenantRequest { name, consistency }).await.context("a read failed")?;
            ensure!(answer.get_ref().tenant.is_some(), "a tenant is not there");
            Ok(1)
        }
    })
    .await
}

async fn etcd(settings: &Settings) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("roadstead-etcd-").tempdir().context("failed to make a temporary folder")?;
    let etcd = Etcd::start(&etcd_binary()?, folder.path()).await?;
    let clients = (0..settings.connections).map(|number| etcd.client(number)).collect::<Result<Vec<_>>>()?;
    let placements = Placements::new("bench");
    let key = |placements: &Placements, number: u64| format!("/tenants/{}", placements.name(number)).into_bytes();
    let tenants = settings.tenants;
    let starts: Vec<u64> = (0..tenants).step_by(usize::try_from(FILL_BATCH).context("a batch fits in memory")?).collect();
    for (number, start) in starts.into_iter().enumerate() {
        let pairs =
            (start..(start + FILL_BATCH).min(tenants)).map(|number| (key(&placements, number), placements.request(number).encode_to_vec()));
        let mut client = clients[number % clients.len()].clone();
        client.txn(put_if_absent(pairs)).await.context("etcd could not be filled")?;
    }
    closed_loop(shape(settings), &clients, move |mut client, number| {
        let key = key(&placements, number.wrapping_mul(SCATTER) % tenants);
        async move {
            let answer = client.range(wire::RangeRequest { key, serializable: false }).await.context("a read failed")?;
            ensure!(answer.get_ref().count == 1, "a key is not there");
            Ok(1)
        }
    })
    .await
}
