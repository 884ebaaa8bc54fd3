//! `sync-noop`: what a full sync of a cluster that is in step costs, with and without what was found out by comparing before.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use serde_json::json;

use super::{Size, carrying, ms};
use crate::report::{Check, Report, median};

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench sync-noop", disable_help_subcommand = true)]
struct Settings {
    #[command(flatten)]
    size: Size,
    /// Syncs of each kind.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("sync-noop").chain(arguments.iter().map(String::as_str)));
    let (cluster, agent) = carrying(settings.size).await?;
    let (interpreter, counts) = (agent.interpreter.clone(), agent.counts.clone());
    // The loop at rest: what is measured is its own sync, on everything that it knows. Watches go on.
    let mut engine = agent.stop().await?;
    let before = counts.so_far();
    let (mut known, mut anew, mut in_step) = (Vec::new(), Vec::new(), usize::MAX);
    for _ in 0..settings.rounds {
        let started = Instant::now();
        in_step = in_step.min(engine.sync().await);
        known.push(started.elapsed());
        interpreter.forget_comparisons();
        let started = Instant::now();
        in_step = in_step.min(engine.sync().await);
        anew.push(started.elapsed());
    }
    // What a sync had begun would be asked by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = counts.so_far().since(before);
    drop((engine, interpreter, cluster));
    let figure = |times: &[Duration]| median(&times.iter().copied().map(ms).collect::<Vec<_>>());
    let longest = |times: &[Duration]| times.iter().copied().max().map_or(0.0, ms);
    let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let tenants = f64::from(settings.size.tenants);
    Ok(Report {
        bench: "sync-noop",
        unit: "ms",
        value: figure(&known),
        ratio: figure(&known) / 5.0,
        checks: vec![
            Check::below("ms of a full sync in step", figure(&known), 5.0),
            Check::below("ms of a full sync with nothing known of comparisons", figure(&anew), 50.0),
            Check::at_most("API calls in all of them", count(calls.calls()), 0.0),
            Check::at_least("tenants in step in each", count(in_step as u64), tenants),
            Check::at_least("tenants", tenants, 1_000.0),
        ],
        details: json!({
            "objects_per_tenant": super::tenants::OBJECTS, "rounds": settings.rounds,
            "cleared_ms": figure(&anew), "longest_ms": longest(&known), "longest_cleared_ms": longest(&anew), "requests": calls,
        }),
    })
}
