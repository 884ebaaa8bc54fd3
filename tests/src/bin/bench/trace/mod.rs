//! `trace`: how small a fleet can be in which nobody waits, with a real trace of arrivals and departures.
//!
//! 100 copies of the trace run at once, each rotated in time by a seeded offset. The fleet is 16 clusters of the trace's nodes, thinned
//! evenly. A pod stands for a tenant of one pod: [`replay`] lets the real core choose its cluster (`schedule::place` over the `State`,
//! then `apply`), the model cluster's scheduler chooses its node ([`kube`]), and the cluster reports what is free on its nodes
//! afterwards, as its agent would. A pod waits if no cluster takes it, or if the cluster that took it has no node with room.
//!
//! The figure is the smallest fleet ([`search`]) in which that never happens, with model clusters that pack (`MostAllocated`); the
//! one with those that spread (`LeastAllocated`, kube-scheduler's default) is reported beside it. The peer is a bound that no scheduler
//! can beat: the smallest thinned fleet whose nodes offer the peak of the summed cpu, and that of the memory.
//!
//! Only cpu, memory and the number of pods are placed. A pod that asks for GPUs counts with its cpu and memory like any other, and
//! so do pods that failed or never ran where the trace comes from: all of them came and went.

mod data;
mod fleet;
mod kube;
mod replay;
mod search;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::data::{Load, Trace};
use self::fleet::{Grouping, Plan};
use self::kube::Strategy;
use self::replay::Outcome;
use self::search::Found;
use crate::report::{Check, Report};

const SEED: u64 = 42;
/// How often the trace runs at once.
const COPIES: usize = 100;
/// The bar: the fleet over the lower bound.
const BAR: f64 = 1.05;

/// What is asked for on the command line.
struct Options {
    traces: Option<PathBuf>,
    seed: u64,
    grouping: Grouping,
}

impl Options {
    fn of(arguments: &[String]) -> Result<Self> {
        let traces = std::env::var_os("ROADSTEAD_TRACES").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let mut options = Self { traces, seed: SEED, grouping: Grouping::Rows };
        let mut arguments = arguments.iter();
        while let Some(option) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
            match option.as_str() {
                "--traces" => options.traces = Some(value.into()),
                "--seed" => options.seed = value.parse().with_context(|| format!("{value} is no seed"))?,
                "--clusters" if value == "rows" => options.grouping = Grouping::Rows,
                "--clusters" if value == "dealt" => options.grouping = Grouping::Dealt,
                _ => bail!("trace knows --traces FOLDER, --seed N and --clusters rows|dealt"),
            }
        }
        Ok(options)
    }
}

/// Runs it.
pub(crate) fn run(arguments: &[String]) -> Result<Report> {
    let options = Options::of(arguments)?;
    let trace = Trace::read(options.traces.as_deref())?;
    let load = trace.load(COPIES, options.seed);
    let plan = Plan { nodes: trace.nodes, grouping: options.grouping };
    let bound = plan.smallest_offering(load.peak).context("all of the trace's nodes together offer less than the peak")?;
    eprintln!(
        "{} arrivals of {COPIES} copies, {} tenants at once, at most {} cores and {} GiB: {bound} nodes offer that",
        load.arrivals(),
        load.peak_tenants,
        load.peak.cpu.0 / 1000,
        load.peak.memory.0 >> 30
    );
    let start = Instant::now();
    // The two figures are independent of each other and share what they read only.
    let (packed, spread) = std::thread::scope(|scope| {
        let spread = scope.spawn(|| smallest(&load, &plan, bound, bound, Strategy::LeastAllocated));
        // Whether the bar is reached is found out exactly.
        let each = (bound as f64 * BAR) as usize;
        let packed = smallest(&load, &plan, bound, each, Strategy::MostAllocated);
        (packed, spread.join())
    });
    let spread = spread.map_err(|_| anyhow::anyhow!("the replay with LeastAllocated panicked"))??;
    let packed = packed?;
    eprintln!("took {:.0} s", start.elapsed().as_secs_f64());
    let over_bound = |nodes: usize| nodes as f64 / bound as f64;
    Ok(Report {
        bench: "trace",
        unit: "nodes",
        value: packed.nodes as f64,
        ratio: over_bound(packed.nodes),
        checks: vec![Check::at_most("fleet over the lower bound, MostAllocated", over_bound(packed.nodes), BAR)],
        details: json!({
            "peer": "lower bound: the smallest thinned fleet that offers the peak of summed cpu and memory",
            "peer_value": bound,
            "seed": options.seed,
            "copies": COPIES,
            "clusters": fleet::CLUSTERS,
            "grouping": options.grouping.word(),
            "arrivals": load.arrivals(),
            "peak": {"tenants": load.peak_tenants, "cpu_millicores": load.peak.cpu.0, "memory_bytes": load.peak.memory.0},
            "most_allocated": told(&packed, bound),
            "least_allocated": told(&spread, bound),
        }),
    })
}

fn told(found: &Found, bound: usize) -> Value {
    let tried: Vec<_> = found.tried.iter().map(|(nodes, nobody_waits)| json!({"nodes": nodes, "nobody_waits": nobody_waits})).collect();
    json!({"nodes": found.nodes, "ratio": found.nodes as f64 / bound as f64, "tried": tried})
}

/// The smallest fleet in which nobody waits; up to `each` nodes every size is tried.
fn smallest(load: &Load, plan: &Plan, bound: usize, each: usize, strategy: Strategy) -> Result<Found> {
    search::smallest(bound, each, plan.nodes.len(), |nodes| {
        let outcome = replay::replay(load, &plan.clusters(nodes), strategy)?;
        match &outcome {
            Outcome::NobodyWaits { fullest_ppm } => {
                eprintln!("{strategy:?}, {nodes} nodes: nobody waits, {:.2} % full at the fullest", f64::from(*fullest_ppm) / 10_000.0);
            }
            Outcome::Waits { second, pod, why, full_ppm } => eprintln!(
                "{strategy:?}, {nodes} nodes: at second {second} a pod of {} millicores and {} MiB waits ({why}), {:.2} % full",
                pod.cpu.0,
                pod.memory.0 >> 20,
                f64::from(*full_ppm) / 10_000.0
            ),
        }
        Ok(matches!(outcome, Outcome::NobodyWaits { .. }))
    })
}
