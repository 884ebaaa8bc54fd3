//! `restart` and `join`: a replica with 1,000,000 tenants starts from a cold cache; an empty one catches up with it.
//!
//! The data folder is written once by the code that writes every data folder (see `roadstead_tests::folder`): a snapshot, and a log tail of
//! 100,000 entries after it. Each round starts from a copy of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use roadstead_api::v1;
use roadstead_api::v1::admin_service_client::AdminServiceClient;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_consensus::member::MemberInfo;
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::folder::{self, Contents};
use roadstead_tests::group::{Group, Options};
use roadstead_tests::http;
use roadstead_tests::process::until;
use serde_json::json;

use crate::report::{Check, Report, median};

/// A replica that is not ready by then never will be.
const GIVE_UP: Duration = Duration::from_secs(120);
/// Entries that are left to the next snapshot after a start in the round that measures a snapshot's memory.
const TO_NEXT_SNAPSHOT: u64 = 200;
const KIB: f64 = 1024.0;

/// Settings; the defaults are what the bars are meant for.
#[derive(Clone, Debug, Parser)]
#[command(name = "roadstead-bench restart", disable_help_subcommand = true)]
struct Settings {
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Tenants, the log's tail included.
    #[arg(long, default_value_t = 1_000_000)]
    tenants: u64,
    /// Entries in the log's tail, one tenant each.
    #[arg(long, default_value_t = 100_000)]
    tail: u64,
}

/// A group of one, its data folder as it was written, and what to ask it for.
struct Prepared {
    group: Group,
    pristine: PathBuf,
    last: String,
}

/// `restart`.
pub(crate) async fn restart(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("restart").chain(arguments.iter().map(String::as_str)));
    let mut prepared = prepare(&settings, Options::default())?;
    let (mut seconds, mut per_tenant) = (Vec::new(), Vec::new());
    let mut cold = "";
    for round in 0..settings.rounds {
        cold = prepared.reset()?;
        seconds.push(prepared.start().await?.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "bytes and counts are far below 2^52")]
        per_tenant.push(prepared.group.process(1)?.memory("VmRSS")? as f64 / settings.tenants as f64);
        eprintln!("round {}: ready after {:.3} s, {:.0} bytes a tenant", round + 1, seconds[round], per_tenant[round]);
        prepared.group.kill(1)?;
    }
    let (peak, snapshot_seconds) = snapshot_peak(&settings, prepared).await?;
    let value = median(&seconds);
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    Ok(Report {
        bench: "restart",
        unit: "s",
        value,
        ratio: value / 2.0,
        checks: vec![
            Check::below("seconds until ready, median", value, 2.0),
            Check::below("bytes of memory per tenant", median(&per_tenant), KIB),
            Check::below("peak memory during a snapshot over the memory before it", peak, 1.5),
        ],
        details: json!({
            "tenants": settings.tenants, "tail_entries": settings.tail, "rounds": settings.rounds, "cold_cache_by": cold,
            "worst_seconds": worst, "seconds": seconds, "bytes_per_tenant": per_tenant, "snapshot_seconds": snapshot_seconds,
        }),
    })
}

/// `join`.
pub(crate) async fn join(arguments: &[String]) -> Result<Report> {
    let settings = Settings::parse_from(std::iter::once("join").chain(arguments.iter().map(String::as_str)));
    let mut prepared = prepare(&settings, Options::default())?;
    prepared.reset()?;
    prepared.start().await?;
    let mut seconds = Vec::new();
    let mut cold = "";
    for round in 0..settings.rounds {
        let number = prepared.group.prepare_replica()?;
        cold = drop_caches(prepared.group.folder())?;
        let wanted = prepared.group.status(1).await?.committed;
        let begun = Instant::now();
        prepared.group.make_folder(number)?;
        prepared.group.start_replica(number)?;
        let group = &prepared.group;
        until("the new replica has caught up", GIVE_UP, || async {
            let applied = group.status(number).await?.applied.context("a status says what was applied")?.index;
            ensure!(applied >= wanted, "applied {applied} of {wanted}");
            Ok(())
        })
        .await?;
        seconds.push(begun.elapsed().as_secs_f64());
        eprintln!("round {}: caught up after {:.3} s", round + 1, seconds[round]);
        prepared.remove(number).await?;
    }
    let value = median(&seconds);
    Ok(Report {
        bench: "join",
        unit: "s",
        value,
        ratio: value / 5.0,
        checks: vec![Check::below("seconds from `server join` until caught up, median", value, 5.0)],
        details: json!({
            "tenants": settings.tenants, "tail_entries": settings.tail, "rounds": settings.rounds, "cold_cache_by": cold,
            "worst_seconds": seconds.iter().copied().fold(0.0, f64::max), "seconds": seconds,
        }),
    })
}

fn prepare(settings: &Settings, options: Options) -> Result<Prepared> {
    let mut group = Group::empty(options)?;
    group.prepare_replica()?;
    let replica = group.replica(1);
    let info = MemberInfo { peer_address: replica.peer.to_string(), client_address: replica.client.to_string() };
    let clusters = u32::try_from(settings.tenants.div_ceil(800)).context("there are fewer than 2^32 clusters")?;
    let contents = Contents {
        fleet: Fleet { clusters, regions: 48, tenant_cap: 1_000 },
        in_snapshot: settings.tenants.saturating_sub(settings.tail),
        in_tail: settings.tail,
    };
    let placements = Placements::new("bench");
    let begun = Instant::now();
    folder::write(&replica.data, info, contents, &placements)?;
    eprintln!("wrote {} tenants in {:.0} s", settings.tenants, begun.elapsed().as_secs_f64());
    let pristine = replica.data.with_extension("pristine");
    std::fs::rename(&replica.data, &pristine).context("failed to put the folder aside")?;
    Ok(Prepared { group, pristine, last: placements.name(settings.tenants.saturating_sub(1)) })
}

impl Prepared {
    /// Puts the folder back as it was written, and none of it in the cache; how that was done.
    fn reset(&mut self) -> Result<&'static str> {
        let data = &self.group.replica(1).data;
        if data.exists() {
            std::fs::remove_dir_all(data).context("failed to remove the last round's folder")?;
        }
        let copied = Command::new("cp").arg("-a").arg(&self.pristine).arg(data).status().context("failed to run cp")?;
        ensure!(copied.success(), "the folder cannot be copied");
        drop_caches(self.group.folder())
    }

    /// Starts the replica; how long until a linearizable read of the tenant that was placed last is answered.
    async fn start(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.group.start_replica(1)?;
        until("the replica is ready", GIVE_UP, || async {
            let mut client = PlacementServiceClient::new(self.group.channel(1, "client-test")?);
            let consistency = v1::Consistency::Linearizable.into();
            let mut request = tonic::Request::new(v1::GetTenantRequest { name: self.last.clone(), consistency });
            request.set_timeout(Duration::from_secs(1));
            client.get_tenant(request).await.context("not ready")
        })
        .await?;
        Ok(begun.elapsed())
    }

    /// Removes a replica from the group and stops it.
    async fn remove(&mut self, number: usize) -> Result<()> {
        let id = self.group.status(number).await?.member_id;
        let mut client = AdminServiceClient::new(self.group.channel(1, "admin-test")?);
        until("the replica can be removed", GIVE_UP, || {
            let (mut client, id) = (client.clone(), id.clone());
            async move { client.remove_member(v1::RemoveMemberRequest { id }).await.context("not removed") }
        })
        .await?;
        // It may have ended by itself when it heard of its removal.
        if self.group.process(number)?.ended()?.is_none() {
            self.group.kill(number)?;
        }
        client.get_status(v1::GetStatusRequest {}).await.context("the group does not answer any more")?;
        Ok(())
    }
}

/// The peak of memory during a snapshot over the memory before it, and how long the snapshot took in seconds.
async fn snapshot_peak(settings: &Settings, prepared: Prepared) -> Result<(f64, f64)> {
    let mut prepared = prepared;
    let every = settings.tail + TO_NEXT_SNAPSHOT;
    prepared.group.set_flags(vec!["--snapshot-every".to_owned(), every.to_string()]);
    prepared.reset()?;
    prepared.start().await?;
    let probes = prepared.group.replica(1).probes;
    ensure!(metric(probes, "roadstead_snapshots_total").await? == 0.0, "a snapshot was taken before it was due");
    let process = prepared.group.process(1)?;
    let before = process.memory("VmRSS")?;
    // Resets the peak (see proc(5)).
    std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5").context("failed to reset the peak of memory")?;
    let mut client = PlacementServiceClient::new(prepared.group.channel(1, "client-test")?);
    let more = Placements::new("more");
    for number in 0..2 * TO_NEXT_SNAPSHOT {
        client.place_tenant(more.request(number)).await.context("a placement failed")?;
    }
    until("a snapshot is taken", GIVE_UP, || async {
        ensure!(metric(probes, "roadstead_snapshots_total").await? > 0.0, "none yet");
        Ok(())
    })
    .await?;
    let peak = prepared.group.process(1)?.memory("VmHWM")?;
    eprintln!("snapshot: {} MiB before, {} MiB at the peak", before >> 20, peak >> 20);
    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
    Ok((peak as f64 / before as f64, metric(probes, "roadstead_snapshot_last_duration_seconds").await?))
}

async fn metric(probes: std::net::SocketAddr, name: &str) -> Result<f64> {
    let text = http::get(probes, "/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).with_context(|| format!("there is no metric {name}"))
}

/// Writes everything out and empties the page cache: all of it if we may, else the pages of this folder; which of the two.
fn drop_caches(folder: &Path) -> Result<&'static str> {
    rustix::fs::sync();
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        return Ok("/proc/sys/vm/drop_caches");
    }
    forget(folder)?;
    Ok("posix_fadvise of every file")
}

fn forget(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path).with_context(|| format!("failed to list {}", path.display()))? {
        let path = entry.context("failed to list a folder")?.path();
        if path.is_dir() {
            forget(&path)?;
        } else {
            let file = std::fs::File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("failed to drop a file from the cache")?;
        }
    }
    Ok(())
}
