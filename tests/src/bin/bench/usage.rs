//! What a process uses, as Linux tells.

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc/PID/stat`: fixed for programs on Linux.
const TICKS: f64 = 100.0;

/// `self`, or a process id.
fn file(process: &str, name: &str) -> Result<String> {
    let path = format!("/proc/{process}/{name}");
    std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
}

/// Seconds of processor time that it has used.
pub(crate) fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = file(process, "stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("stat is malformed")?;
    // The fields after the name: utime is the 12th, stime the 13th.
    let ticks: Vec<u32> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>().context("stat is malformed")?;
    Ok(f64::from(ticks.iter().sum::<u32>()) / TICKS)
}

/// The most memory that it has held, in bytes (`VmHWM`).
pub(crate) fn peak_memory(process: &str) -> Result<f64> {
    let status = file(process, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM is told")?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")?;
    Ok(f64::from(kib) * 1024.0)
}
