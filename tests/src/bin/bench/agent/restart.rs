//! `agent-restart`: how long a new agent takes until it knows that all is in step, and whether it writes anything on the way.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;

use super::{Size, carrying};
use crate::report::{Check, Report, median};

/// How long a new agent may take.
const SOON: Duration = Duration::from_secs(120);
/// How long it is looked for writes after that.
const LINGER: Duration = Duration::from_secs(5);

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench agent-restart", disable_help_subcommand = true)]
struct Settings {
    #[command(flatten)]
    size: Size,
    /// Restarts.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("agent-restart").chain(arguments.iter().map(String::as_str)));
    let (cluster, mut agent) = carrying(settings.size).await?;
    let (mut took, mut writes, mut moved, mut requests) = (Vec::new(), 0, 0, Vec::new());
    for round in 0..settings.rounds {
        let before = cluster.versions().await?;
        agent = agent.restart(&cluster).await?;
        agent.until_all_run(SOON).await.context("not everything is in step again")?;
        took.push(agent.started.elapsed().as_secs_f64());
        tokio::time::sleep(LINGER).await;
        let after = cluster.versions().await?;
        let differ = before.iter().filter(|(key, version)| after.get(*key) != Some(version)).count();
        moved += differ + after.len().abs_diff(before.len());
        writes += agent.counts.so_far().writes;
        requests.push(agent.counts.so_far());
        eprintln!("round {round}: {:.2} s, {:?}", took.last().copied().unwrap_or_default(), agent.counts.so_far());
    }
    let slowest = took.iter().copied().fold(0.0, f64::max);
    let tenants = f64::from(settings.size.tenants);
    let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    Ok(Report {
        bench: "agent-restart",
        unit: "s",
        value: median(&took),
        ratio: median(&took) / 3.0,
        checks: vec![
            Check::below("s until all is in step again, at most", slowest, 3.0),
            Check::at_most("writes", count(writes), 0.0),
            Check::at_most("objects whose resourceVersion moved", count(moved as u64), 0.0),
            Check::at_least("tenants", tenants, 1_000.0),
        ],
        details: json!({"rounds": took, "requests": requests}),
    })
}
