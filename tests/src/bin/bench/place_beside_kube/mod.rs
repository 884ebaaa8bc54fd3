//! `place-beside-kube`: the same tenants over the same clusters, by Roadstead and by kube-scheduler, for which nodes play clusters and
//! pods play tenants. Rounds alternate and only one system is alive at a time.
//!
//! What differs favours the peer: its etcd is one member that does not sync, nobody runs its pods, it is told to level the number of
//! tenants, too, and of its two rates the better one counts, one of which leaves out that pods must be created.
//!
//! In reading order: [`scenario`] (what both are given, and how it is judged), [`kube`], [`own`].

mod scenario;
mod kube;
mod own;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use serde_json::{Value, json};

use self::kube::Arrival;
use self::scenario::{Scenario, Spread};
use crate::report::{Check, Report, median};

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench place-beside-kube", disable_help_subcommand = true)]
struct Settings {
    /// Rounds of each system.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Clusters, or nodes that play them.
    #[arg(long, default_value_t = 1_000)]
    clusters: usize,
    /// Tenants, or pods that play them.
    #[arg(long, default_value_t = 20_000)]
    tenants: usize,
    /// Clients that ask for a placement or create a pod, each one at a time.
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Connections to the replicas.
    #[arg(long, default_value_t = 24)]
    connections: usize,
    /// How many of the nodes that fit kube-scheduler scores; 0 is its default, 42 of 1,000 nodes.
    #[arg(long, default_value_t = 0)]
    percentage_of_nodes_to_score: u32,
}

/// What one round of one system came to.
struct Placed {
    /// Placements a second.
    rate: f64,
    spread: Spread,
}

/// All rounds of one way to place.
#[derive(Default)]
struct Rounds(Vec<Placed>);

impl Rounds {
    fn add(&mut self, way: &str, placed: Placed) {
        eprintln!("{way}: {:.0} placements/s, {}", placed.rate, placed.spread.json());
        self.0.push(placed);
    }

    fn rate(&self) -> f64 {
        median(&self.0.iter().map(|placed| placed.rate).collect::<Vec<_>>())
    }

    fn deviation(&self) -> f64 {
        median(&self.0.iter().map(|placed| placed.spread.deviation).collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        json!({
            "median_rate": self.rate(), "rates": self.0.iter().map(|placed| placed.rate).collect::<Vec<_>>(),
            "dominant_shares_percent": self.0.iter().map(|placed| placed.spread.json()).collect::<Vec<_>>(),
        })
    }
}

/// So many in such a time, a second.
fn rate(count: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let count = count as f64;
    count / time.as_secs_f64()
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("place-beside-kube").chain(arguments.iter().map(String::as_str)));
    let scenario = Scenario::draw(settings.clusters, settings.tenants);
    eprintln!("kube-scheduler's limits: {}", kube::limits(&settings));
    let (mut unary, mut streamed, mut before, mut meanwhile) = (Rounds::default(), Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..settings.rounds {
        eprintln!("round {} of {}", round + 1, settings.rounds);
        unary.add("roadstead, one a request", own::measure(&settings, &scenario, false).await?);
        before.add("kube-scheduler, pods were there before", kube::measure(&settings, &scenario, Arrival::Before).await?);
        streamed.add("roadstead, streamed", own::measure(&settings, &scenario, true).await?);
        meanwhile.add("kube-scheduler, pods come meanwhile", kube::measure(&settings, &scenario, Arrival::Meanwhile).await?);
    }
    let peer = before.rate().max(meanwhile.rate());
    let ratio = unary.rate() / peer;
    let deviation = before.deviation().min(meanwhile.deviation());
    Ok(Report {
        bench: "place-beside-kube",
        unit: "placements/s",
        value: unary.rate(),
        ratio,
        checks: vec![
            Check::at_least("placements/s over kube-scheduler's", ratio, 20.0),
            Check::at_most("percent of standard deviation of dominant shares, against kube-scheduler's", unary.deviation(), deviation),
            Check::at_most("the same, streamed", streamed.deviation(), deviation),
        ],
        details: json!({
            "peer": {"name": "kube-scheduler v1.34", "rate": peer, "limits": kube::limits(&settings),
                "pods_there_before": before.json(), "pods_come_meanwhile": meanwhile.json()},
            "rounds": settings.rounds, "clusters": settings.clusters, "tenants": settings.tenants, "clients": settings.clients,
            "replicas": own::MEMBERS, "roadstead": unary.json(), "roadstead_streamed": streamed.json(),
            "streamed_ratio": streamed.rate() / peer,
        }),
    })
}
