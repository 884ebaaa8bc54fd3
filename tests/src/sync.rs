//! Whether processes really sync: their system calls, counted by strace over a short time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Counts fsync and fdatasync calls of each process for some time. Takes root (or the right to trace them).
///
/// # Errors
/// If strace is missing or may not trace.
pub async fn count(ids: &[u32], during: Duration, folder: &Path) -> Result<Vec<u64>> {
    let mut tracers = Vec::new();
    for id in ids {
        let log = folder.join(format!("strace-{id}.txt"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o"]).arg(&log).args(["-p", &id.to_string()]);
        let tracer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        tracers.push((tracer.context("failed to start strace; `apt-get install strace`")?, log));
    }
    tokio::time::sleep(during).await;
    let mut counts = Vec::new();
    for (mut tracer, log) in tracers {
        let pid = i32::try_from(tracer.id()).ok().and_then(Pid::from_raw).context("a process id is positive")?;
        // It lets its process go when it is interrupted.
        kill_process(pid, Signal::INT).context("strace has ended early: it may not trace here")?;
        tracer.wait().context("failed to wait for strace")?;
        let text = std::fs::read_to_string(&log).with_context(|| format!("failed to read {}", log.display()))?;
        counts.push(text.lines().filter(|line| line.contains("fsync(") || line.contains("fdatasync(")).count() as u64);
    }
    Ok(counts)
}
