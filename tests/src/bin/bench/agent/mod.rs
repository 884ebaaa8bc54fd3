//! The agent on a real API server: `sync-noop`, `agent-restart`, `drift`, `bring-up`.
//!
//! The agent is the shipped one but for its process: its loop, its interpreter, its inventory, in this process, under the service account,
//! the rights, the admission policy and the priority level of `deploy/kubernetes/agent.yaml`. The placement service is played: it sends the
//! same messages and answers what is told, without a network between them ([`agent`]). Modules in reading order: [`tenants`] (what they are
//! made of), [`cluster`] (an API server, controllers, a scheduler, nodes played by kwok), [`counts`] (requests by kind), [`agent`], then one
//! for each benchmark.

mod tenants;
mod cluster;
mod counts;
#[expect(clippy::module_inception, reason = "the agent is what all of this is about")]
mod agent;
mod noop;
mod restart;
mod drift;
mod bring_up;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use agent::Agent;
use cluster::Cluster;
pub(crate) use cluster::OWN;
pub(crate) use tenants::{GENERATION, TEMPLATE};

pub(crate) use agent::{InFlight, Parts};
pub(crate) use bring_up::run as bring_up;
pub(crate) use drift::run as drift;
pub(crate) use noop::run as noop;
pub(crate) use restart::run as restart;

/// How long a thousand tenants may take to come up: the controllers' request limits decide.
const UP_WITHIN: Duration = Duration::from_secs(900);

/// How large; the defaults are what the bars are meant for.
#[derive(Clone, Copy, Debug, Args)]
struct Size {
    /// Tenants.
    #[arg(long, default_value_t = 1_000)]
    tenants: u32,
    /// Tenants of one shard.
    #[arg(long, default_value_t = 100)]
    shard: u32,
    /// Requests per second, and at once, of kube-controller-manager and of kube-scheduler.
    #[arg(long, default_value_t = 200)]
    controllers_qps: u32,
    #[command(flatten)]
    in_flight: InFlight,
}

/// A cluster that carries its tenants, all of them told to run, and the agent that made them.
async fn carrying(size: Size) -> Result<(Cluster, Agent)> {
    let cluster = Cluster::start(size).await?;
    let started = Instant::now();
    let mut agent = Agent::start(&cluster, size).await?;
    agent.until_all_run(UP_WITHIN).await.context("the tenants do not come up")?;
    eprintln!("{} tenants run after {:.1} s", size.tenants, started.elapsed().as_secs_f64());
    cluster.until_quiet().await?;
    ensure!(agent.ended().is_none(), "the agent has ended");
    Ok((cluster, agent))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
