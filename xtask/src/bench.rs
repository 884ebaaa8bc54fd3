//! `cargo xtask bench NAME`: builds everything in release, then lets `roadstead-bench` measure.

use anyhow::{Context, Result};

use crate::run::{Step, cargo, command, target};
use crate::tools;

/// Benchmarks that need etcd beside them.
const WITH_PEER: [&str; 3] = ["durable-place", "durable-stream", "read"];
/// Benchmarks that run control planes of Kubernetes.
const WITH_KUBERNETES: [&str; 6] = ["inventory", "place-beside-kube", "sync-noop", "agent-restart", "drift", "bring-up"];

/// Builds, runs, and is true if every bar was reached. The last line on stdout is the benchmark's JSON.
pub(crate) fn run(name: &str, arguments: &[String]) -> Result<bool> {
    // Not the whole workspace: a build of all would unite features, and the simulator's planted faults must not get into what is measured.
    let mut build = cargo();
    build.args(["build", "--release", "--bins", "--package", "roadstead-cli", "--package", "roadstead-tests"]);
    anyhow::ensure!(build.status().context("failed to run cargo build")?.success(), "the benchmarks do not build in release");
    let release = target().join("release");
    let mut bench = command(release.join("roadstead-bench"));
    bench.arg(name).args(arguments).env("ROADSTEAD_BIN", release.join("roadstead"));
    if WITH_PEER.contains(&name) {
        let mut step = Step::open("bench-setup", false)?;
        let etcd = tools::etcd(&mut step)?.map_err(anyhow::Error::msg)?;
        tools::strace(&mut step)?.map_err(anyhow::Error::msg)?;
        bench.env("ROADSTEAD_ETCD", etcd);
    }
    if WITH_KUBERNETES.contains(&name) {
        let mut step = Step::open("bench-setup", false)?;
        for tool in [tools::etcd, tools::kubernetes, tools::kwok] {
            tool(&mut step)?.map_err(anyhow::Error::msg)?;
        }
    }
    Ok(bench.status().context("failed to start roadstead-bench")?.success())
}
