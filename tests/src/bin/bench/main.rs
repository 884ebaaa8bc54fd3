//! `roadstead-bench NAME`: measures one figure and compares it with its bar. `cargo xtask bench NAME` builds and runs it in release.
//!
//! The last line on stdout is JSON: `value` is the figure, `ratio` is value over the peer's (or over the bound), `checks` lists every bar;
//! any that is not reached makes it exit non-zero.

mod chance;
mod core_place;
mod report;
mod durable;
mod stream;
mod read;
mod watch;
mod failover;
mod restart;
mod trace;
mod usage;
mod inventory;
mod place_beside_kube;
mod agent;

use std::process::ExitCode;

/// As in the shipped binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every benchmark and what it measures.
const BENCHES: [(&str, &str); 15] = [
    ("core-place", "placements a second of the scheduler alone, 1,000 clusters, one core"),
    ("durable-place", "durable placements per second, one a request, against etcd"),
    ("durable-stream", "durable placements per second, streamed, against etcd"),
    ("read", "linearizable reads per second, against etcd"),
    ("watch", "lag of 1,003 watchers under 10,000 placements per second"),
    ("failover", "time to the next acknowledged placement after the leader is killed or stopped"),
    ("restart", "time until a replica with 1,000,000 tenants answers, and its memory"),
    ("join", "time until an empty replica has caught up with 1,000,000 tenants"),
    ("trace", "smallest fleet in which nobody waits, 100 copies of a real trace, against the lower bound"),
    ("inventory", "memory of telling what a cluster of 5,000 nodes and 100,000 pods holds, on a real API server"),
    ("place-beside-kube", "placements a second over 1,000 clusters, against kube-scheduler with nodes and pods in their place"),
    ("sync-noop", "a full sync of 1,000 tenants in step on a real API server, with and without comparisons known"),
    ("agent-restart", "time until a new agent knows that 1,000 tenants are in step, and its writes"),
    ("drift", "time until 200 of 1,000 tenants that were damaged at once are put right or named"),
    ("bring-up", "writes per second of 1,000 new tenants on a real API server, against a bare client"),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "list".to_owned());
    let arguments: Vec<String> = arguments.collect();
    match run(&name, &arguments).and_then(|report| report.map_or(Ok(true), |report| report.print())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a benchmark with its own arguments (such as `--rounds 5`).
fn run(name: &str, arguments: &[String]) -> anyhow::Result<Option<report::Report>> {
    let runtime = tokio::runtime::Runtime::new()?;
    match name {
        "list" => {
            for (name, what) in BENCHES {
                println!("{name:<18} {what}");
            }
            Ok(None)
        }
        "core-place" => core_place::run(arguments).map(Some),
        "durable-place" => runtime.block_on(durable::place(arguments)).map(Some),
        "durable-stream" => runtime.block_on(durable::stream(arguments)).map(Some),
        "read" => runtime.block_on(read::run(arguments)).map(Some),
        "watch" => runtime.block_on(watch::run(arguments)).map(Some),
        "failover" => runtime.block_on(failover::run(arguments)).map(Some),
        "restart" => runtime.block_on(restart::restart(arguments)).map(Some),
        "join" => runtime.block_on(restart::join(arguments)).map(Some),
        "trace" => trace::run(arguments).map(Some),
        "inventory" => runtime.block_on(inventory::run(arguments)).map(Some),
        "place-beside-kube" => runtime.block_on(place_beside_kube::run(arguments)).map(Some),
        "sync-noop" => runtime.block_on(agent::noop(arguments)).map(Some),
        "agent-restart" => runtime.block_on(agent::restart(arguments)).map(Some),
        "drift" => runtime.block_on(agent::drift(arguments)).map(Some),
        "bring-up" => runtime.block_on(agent::bring_up(arguments)).map(Some),
        inventory::WATCHER => runtime.block_on(inventory::watch(arguments)).map(|()| None),
        other => anyhow::bail!("no benchmark is called {other}; `cargo xtask bench list` names them"),
    }
}
