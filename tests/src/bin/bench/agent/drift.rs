//! `drift`: hands damage 200 of 1,000 tenants at once, in a fixed mix. How long until each is put right, or named for what it has lost; and
//! what does a client of somebody else feel of it?

mod damage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use roadstead_tests::load::histogram;
use serde_json::json;

use self::damage::{Damaged, Hospital, Victim, victims};
use super::cluster::Cluster;
use super::{Size, carrying, ms};
use crate::report::{Check, Report};

/// How long anything may take to be put right.
const SOON: Duration = Duration::from_secs(60);
/// How long the probe writes before anything is damaged, to compare.
const CALM: Duration = Duration::from_secs(5);

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench drift", disable_help_subcommand = true)]
struct Settings {
    #[command(flatten)]
    size: Size,
    /// Tenants that are damaged.
    #[arg(long, default_value_t = 200)]
    damaged: u32,
    /// How often; each time others.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Damaging requests in flight: many would be felt by the probe by themselves.
    #[arg(long, default_value_t = 8)]
    hands: usize,
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("drift").chain(arguments.iter().map(String::as_str)));
    let apart = settings.size.tenants / settings.damaged.max(1);
    ensure!(
        (1..apart).contains(&settings.rounds),
        "--rounds {}: 1 to {} have tenants of their own",
        settings.rounds,
        apart.saturating_sub(1)
    );
    let (cluster, agent) = carrying(settings.size).await?;
    let mut hospital = Hospital::open(&cluster).await?;
    let mut seen = Seen::new();
    for round in 0..settings.rounds {
        cluster.until_quiet().await?;
        let (probe, requests) = (Probe::start(cluster.plane.client().await?).await?, agent.counts.so_far());
        tokio::time::sleep(CALM).await;
        let victims = victims(settings.damaged, settings.size.tenants, round);
        let began = Instant::now();
        let damaged = damage_all(&victims, &cluster, settings.hands).await?;
        let damaging = began.elapsed();
        let mended = hospital.until_mended(&victims, &damaged, agent.told(), SOON).await?;
        let writes = probe.stop(began, Instant::now()).await?;
        eprintln!("round {round}: damaged within {:.0} ms; {:?}", ms(damaging), agent.counts.so_far().since(requests));
        seen.note(&victims, &damaged, &mended, &writes);
    }
    drop(agent.stop().await?);
    let alone = without_the_agent(&cluster, &settings).await?;

    let p99 = quantile(&seen.times, 0.99);
    let longest_of = |quantile_of: f64| seen.by_damage.iter().map(|(damage, times)| (*damage, quantile(times, quantile_of))).collect();
    let (p50s, longest): (BTreeMap<_, _>, BTreeMap<_, _>) = (longest_of(0.5), longest_of(1.0));
    let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    Ok(Report {
        bench: "drift",
        unit: "ms",
        value: p99,
        ratio: p99 / 2_000.0,
        checks: vec![
            Check::below("p99 in ms from the damage until it is put right or named", p99, 2_000.0),
            Check::below("p99 in ms of a probe's writes meanwhile", quantile(&seen.busy, 0.99), 100.0),
            Check::at_least("damaged tenants put right or named", count(seen.times.len()), f64::from(settings.damaged * settings.rounds)),
            Check::at_least("damaged tenants at once", f64::from(settings.damaged), 200.0),
            Check::at_least("tenants", f64::from(settings.size.tenants), 1_000.0),
        ],
        details: json!({
            "p50_ms": quantile(&seen.times, 0.5), "longest_ms": quantile(&seen.times, 1.0), "p99_ms_by_round": seen.p99s,
            "by_damage_longest_ms": longest, "by_damage_p50_ms": p50s,
            "probe_without_the_agent_p50_ms": quantile(&alone, 0.5), "probe_without_the_agent_p99_ms": quantile(&alone, 0.99),
            "probe_writes": seen.busy.len(), "probe_p50_ms": quantile(&seen.busy, 0.5), "probe_longest_ms_by_round": seen.probes,
            "probe_calm_p99_ms": quantile(&seen.calm, 0.99),
        }),
    })
}

fn quantile(times: &Histogram<u64>, quantile: f64) -> f64 {
    ms(Duration::from_micros(times.value_at_quantile(quantile)))
}

/// What was seen in all rounds.
struct Seen {
    /// From the damage until it was put right or named.
    times: Histogram<u64>,
    by_damage: BTreeMap<&'static str, Histogram<u64>>,
    p99s: Vec<f64>,
    /// The probe's writes while nothing was damaged.
    calm: Histogram<u64>,
    /// Those meanwhile.
    busy: Histogram<u64>,
    /// The slowest of each round.
    probes: Vec<f64>,
}

impl Seen {
    fn new() -> Self {
        let (times, calm, busy) = (histogram(), histogram(), histogram());
        Self { times, by_damage: BTreeMap::new(), p99s: Vec::new(), calm, busy, probes: Vec::new() }
    }

    fn note(
        &mut self,
        victims: &[Victim],
        damaged: &[Damaged],
        mended: &[Option<Instant>],
        (calm, busy): &(Histogram<u64>, Histogram<u64>),
    ) {
        let mut round = histogram();
        for ((victim, damaged), at) in victims.iter().zip(damaged).zip(mended) {
            let Some(at) = at else {
                eprintln!("neither put right nor named: {victim:?}");
                continue;
            };
            let took = micros(at.saturating_duration_since(damaged.at));
            round.saturating_record(took);
            self.by_damage.entry(victim.damage.words()).or_insert_with(histogram).saturating_record(took);
        }
        self.p99s.push(quantile(&round, 0.99));
        self.probes.push(quantile(busy, 1.0));
        self.times += round;
        self.calm += calm;
        self.busy += busy;
    }
}

async fn damage_all(victims: &[Victim], cluster: &Cluster, hands: usize) -> Result<Vec<Damaged>> {
    stream::iter(victims).map(|victim| victim.damage(cluster)).buffered(hands).try_collect().await
}

/// What the probe feels of the same damage, of as many other tenants, where nobody puts it right: of the hands themselves, and of the cluster's
/// controllers.
async fn without_the_agent(cluster: &Cluster, settings: &Settings) -> Result<Histogram<u64>> {
    cluster.until_quiet().await?;
    let probe = Probe::start(cluster.plane.client().await?).await?;
    tokio::time::sleep(CALM).await;
    let others = victims(settings.damaged, settings.size.tenants, settings.rounds);
    let began = Instant::now();
    damage_all(&others, cluster, settings.hands).await?;
    let (_, alone) = probe.stop(began, Instant::now()).await?;
    Ok(alone)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Somebody else who writes one ConfigMap, again as soon as that is answered.
struct Probe {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Vec<(Instant, Duration)>>>,
}

impl Probe {
    async fn start(client: Client) -> Result<Self> {
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        // An earlier probe may have left it.
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}});
        api.patch("probe", &PatchParams::apply("probe"), &Patch::Apply(body)).await.context("failed to make the probe")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut writes = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let patch = Patch::Merge(json!({"data": {"number": writes.len().to_string()}}));
                let began = Instant::now();
                api.patch("probe", &PatchParams::default(), &patch).await.context("a probe's write failed")?;
                writes.push((began, began.elapsed()));
            }
            Ok(writes)
        });
        Ok(Self { stop, task })
    }

    /// Latencies of the writes that began before, and of those between.
    async fn stop(self, began: Instant, ended: Instant) -> Result<(Histogram<u64>, Histogram<u64>)> {
        self.stop.store(true, Ordering::SeqCst);
        let writes = self.task.await.context("the probe has panicked")??;
        let (mut calm, mut busy) = (histogram(), histogram());
        for (at, took) in writes {
            if at + took < began {
                calm.saturating_record(micros(took));
            } else if at < ended {
                busy.saturating_record(micros(took));
            }
        }
        Ok((calm, busy))
    }
}
