//! `bring-up`: how fast the agent writes the objects of 1,000 tenants, against a bare client that writes the same objects as fast as the
//! server takes them. Everybody starts on a server of its own that was just started; rounds alternate.

mod bare;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

use self::bare::{Work, kubectl_apply};
use super::agent::Agent;
use super::cluster::Cluster;
use super::{Size, UP_WITHIN};
use crate::report::{Check, Report, median};
use crate::usage::cpu_seconds;

/// Objects of a tenant: its namespace, what is in it, and the agent's record, which the bare client writes, too.
const OBJECTS: u32 = super::tenants::OBJECTS as u32 + 2;
/// Requests in flight that are tried.
const SWEEP: [usize; 6] = [4, 8, 16, 32, 64, 128];

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench bring-up", disable_help_subcommand = true)]
struct Settings {
    #[command(flatten)]
    size: Size,
    /// Rounds of bare client and agent.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Tenants of each step of the sweep.
    #[arg(long, default_value_t = 100)]
    sweep: u32,
    /// Tenants that `kubectl apply` makes.
    #[arg(long, default_value_t = 50)]
    kubectl: u32,
}

/// Runs it.
pub(crate) async fn run(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("bring-up").chain(arguments.iter().map(String::as_str)));
    let size = settings.size;
    let sweep = sweep(&settings).await.context("the sweep failed")?;
    let (best, _) = sweep.iter().copied().max_by(|(_, a), (_, b)| a.total_cmp(b)).context("something was swept")?;
    eprintln!("the bare client does best with {best} requests in flight: {sweep:?}");
    let (mut bare, mut agents, mut details) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let cluster = Cluster::start(size).await?;
        let work = Work::render(0, size.tenants, size.shard)?;
        bare.push(work.write(&cluster, best).await.context("the bare client failed")?);
        drop(cluster);
        let (rate, detail) = by_the_agent(size).await.context("the agent failed")?;
        agents.push(rate);
        eprintln!("round {round}: bare {:.0}/s, agent {rate:.0}/s, {detail}", bare[bare.len() - 1]);
        details.push(detail);
    }
    let kubectl = by_kubectl(&settings).await.context("kubectl failed")?;
    let (bare_rate, rate) = (median(&bare), median(&agents));
    Ok(Report {
        bench: "bring-up",
        unit: "writes/s",
        value: rate,
        ratio: rate / bare_rate,
        checks: vec![
            Check::at_least("of a bare client's rate", rate / bare_rate, 0.8),
            Check::at_least("tenants", f64::from(size.tenants), 1_000.0),
        ],
        details: json!({
            "objects_per_tenant": OBJECTS, "agent": agents, "bare": bare, "in_flight": best,
            "sweep": sweep.iter().map(|(in_flight, rate)| (in_flight.to_string(), json!(rate))).collect::<serde_json::Map<_, _>>(),
            "kubectl_apply": kubectl, "rounds": details,
            "kube_controller_manager": {"qps": size.controllers_qps, "burst": size.controllers_qps},
            "kube_scheduler": {"qps": size.controllers_qps, "burst": size.controllers_qps},
        }),
    })
}

/// Rates of the bare client by requests in flight, one after the other on one server.
async fn sweep(settings: &Settings) -> Result<Vec<(usize, f64)>> {
    let steps = u32::try_from(SWEEP.len())?;
    let cluster = Cluster::start(Size { tenants: settings.sweep * steps, ..settings.size }).await?;
    let mut rates = Vec::new();
    for (step, in_flight) in (0..).zip(SWEEP) {
        let work = Work::render(step * settings.sweep, settings.sweep, settings.size.shard)?;
        rates.push((in_flight, work.write(&cluster, in_flight).await?));
        // What the controllers make of it must not be on the next one's bill.
        cluster.until_quiet().await?;
    }
    Ok(rates)
}

/// Objects a second until the agent has written its last, and what else there is to say.
async fn by_the_agent(size: Size) -> Result<(f64, Value)> {
    let cluster = Cluster::start(size).await?;
    let cpu = cpu_seconds("self")?;
    let mut agent = Agent::start(&cluster, size).await?;
    agent.until_all_run(UP_WITHIN).await?;
    let (all_run, cpu) = (agent.started.elapsed(), cpu_seconds("self")? - cpu);
    let wrote_until = agent.counts.last_write().context("nothing was written")?;
    let took = wrote_until.duration_since(agent.started);
    let rate = f64::from(size.tenants * OBJECTS) / took.as_secs_f64();
    let requests = agent.counts.so_far();
    drop(agent.stop().await?);
    Ok((rate, json!({"writing_s": took.as_secs_f64(), "all_run_s": all_run.as_secs_f64(), "agent_cpu_s": cpu, "requests": requests})))
}

/// What `kubectl apply` makes of it with its own settings.
async fn by_kubectl(settings: &Settings) -> Result<Value> {
    let cluster = Cluster::start(Size { tenants: settings.kubectl, ..settings.size }).await?;
    let work = Work::render(0, settings.kubectl, settings.size.shard)?;
    let began = Instant::now();
    kubectl_apply(&cluster, &work).await?;
    let took: Duration = began.elapsed();
    let rate = f64::from(settings.kubectl * OBJECTS) / took.as_secs_f64();
    eprintln!("kubectl apply: {rate:.0}/s");
    Ok(json!({"tenants": settings.kubectl, "writes_per_s": rate}))
}
