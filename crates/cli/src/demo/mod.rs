//! `demo`: a tour that checks itself. Three replicas in processes of their own, 20 model clusters, 10,000 tenants; the leader is killed
//! while they are placed. Exits with 1 if anything that it shows is untrue.
//!
//! In reading order: this module (the tour), [`mix`] (the tenants), [`load`] (placing them), [`witness`] (a watch), [`checks`].

pub mod mix;
pub mod load;
pub mod witness;
pub mod checks;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use roadstead_api::v1;

use self::checks::{Check, Evidence, judge};
use self::load::{Placed, Progress};
use self::witness::Witness;
use crate::apply::put::send;
use crate::client::{Client, Services, request_id};
use crate::document::Kind;
use crate::document::files::{Loaded, load as load_documents};
use crate::failure::{Exit, Failure};
use crate::output::{Paint, colour, out, paint};
use crate::pki::{Role, Subject};
use crate::trial::agents::{Fleet, facts};
use crate::trial::replicas::Process;
use crate::trial::{CALL_TIMEOUT, Trial, count, declare, until_reported, until_voters};
use crate::verbs::insight::{explained, fill};

/// Replicas: the fewest that survive the death of one.
const REPLICAS: usize = 3;
/// The leader is killed when so many of 100 tenants are placed.
const KILL_AT_PERCENT: usize = 40;
/// How long after its death a killed replica is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How often is looked how far placing is.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long the watch and the agents may take to catch up when all is placed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// When nothing has moved for so long, nothing will: some batches of the leader, and some reports of the agents.
const STEADY_FOR: Duration = Duration::from_secs(2);

/// See [`crate::verbs::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead demo                    # under a minute; nothing is left behind
  roadstead demo --tenants 2000
  roadstead demo --keep             # leaves the folder, for `dev --data`

Exits with 1 if anything that it shows is untrue.")]
pub struct Demo {
    /// Tenants to place.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(200..=100_000))]
    tenants: u64,
    /// Leave the folder behind.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Gives the tour. Processes and folder are gone when it ends, however it ends.
    ///
    /// # Errors
    /// What failed, or what was untrue.
    pub async fn run(self) -> Result<(), Failure> {
        let folder = tempfile::Builder::new().prefix("roadstead-demo-").tempdir()?;
        let path = folder.path().to_owned();
        let result = tokio::select! {
            result = self.tour(&path) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Interrupted, "interrupted")),
            () = crate::verbs::dev::terminated() => Err(Failure::new(Exit::Interrupted, "terminated")),
        };
        if self.keep {
            let kept = folder.keep();
            out(&format!("\nkept: {}\n  roadstead dev --data {} goes on with it\n", kept.display(), kept.display()));
        } else if result.as_ref().is_err_and(|failure| failure.exit != Exit::Interrupted) {
            // What the replicas said is gone with the folder.
            eprintln!("{}", logs(&path));
        }
        result
    }

    async fn tour(&self, folder: &Path) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut stage = Stage::start(folder).await?;
        step(&format!("{REPLICAS} replicas in processes of their own, with synced logs and mutual TLS, in {}", seconds(begun.elapsed())));
        let (mut fleet, documents) = (Fleet::new(), stage.trial.fleet_documents(usize::MAX)?);
        declare(&stage.client, &documents).await?;
        fleet.follow(&mut stage.trial, &stage.client, &facts(&documents)).await?;
        until_reported(&stage.client).await?;
        let (clusters, classes) = (count(&documents, Kind::Cluster), count(&documents, Kind::Class));
        step(&format!("{clusters} model clusters (own machines, AWS, Google Cloud, Azure) have reported; {classes} classes"));

        let wanted = Arc::new(mix::tenants(usize::try_from(self.tenants).unwrap_or(usize::MAX)));
        let witness = Witness::begin(stage.trial.client(Role::Viewer, "witness")?).await?;
        step(&format!("placing {} tenants: {}", wanted.len(), mix::described(&wanted)));
        let (placed, killed) = stage.place_and_kill(&wanted).await?;
        let gap = placed.silence_after(killed.at);
        let waiting = settle(&witness, wanted.len()).await?;
        step(&format!("{} tenants run, {waiting} wait for room", wanted.len() - waiting));
        out(&format!("\n{}", fill(&stage.client.clusters(false).await?, colour())));
        let extra = explain_two(&stage, &wanted).await?;

        let found = stage.client.tenants("", false, usize::MAX).await?;
        let seen = witness.seen();
        let acknowledged = &placed.acknowledged;
        let evidence = Evidence { wanted: &wanted, acknowledged, found: &found, extra: &extra, seen: &seen, documents: &documents };
        let mut checks = judge(&evidence);
        checks.push(disturbed(&killed, &placed, gap));
        checks.push(stage.all_back().await);
        verdict(&checks, &placed, gap, begun.elapsed())
    }
}

fn step(text: &str) {
    out(&format!("{} {text}\n", paint("▸", Paint::Green, colour())));
}

fn seconds(duration: Duration) -> String {
    format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100)
}

/// A replica that was killed.
struct Killed {
    name: String,
    at: Instant,
    placed_before: usize,
}

/// The replicas and a client.
struct Stage {
    trial: Trial,
    processes: Vec<Process>,
    client: Client,
}

impl Stage {
    async fn start(folder: &Path) -> Result<Self, Failure> {
        let mut trial = Trial::prepare(folder, REPLICAS)?;
        trial.write_config()?;
        let mut processes = Vec::new();
        for index in 0..REPLICAS {
            trial.make_replica(index).await?;
            processes.push(Process::start(&trial.plans[index])?);
        }
        let client = trial.client(Role::Admin, "me")?;
        until_voters(&client, REPLICAS).await?;
        Ok(Self { trial, processes, client })
    }

    /// Places all tenants; meanwhile the leader is killed and, a little later, started again.
    async fn place_and_kill(&mut self, wanted: &Arc<Vec<mix::Wanted>>) -> Result<(Placed, Killed), Failure> {
        let context = self.trial.context(&Subject::new(Role::Client, "shop-portal"))?;
        let progress = Progress::default();
        let clients = load::clients(&context, CALL_TIMEOUT)?;
        let placing = load::place_all(clients, Arc::clone(wanted), progress.clone());
        let disturbing = self.kill_the_leader(&progress, wanted.len() * KILL_AT_PERCENT / 100);
        tokio::try_join!(placing, disturbing)
    }

    async fn kill_the_leader(&mut self, progress: &Progress, at: usize) -> Result<Killed, Failure> {
        let mut leader = self.leader().await?;
        while progress.done() < at {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // It may have changed since.
        leader = self.leader().await.unwrap_or(leader);
        let process = &mut self.processes[leader];
        let killed = Killed { name: process.name.clone(), at: Instant::now(), placed_before: progress.done() };
        let id = process.id();
        process.kill();
        step(&format!("kill -9 {id}: that was {}, the leader, after {} placements", killed.name, killed.placed_before));
        tokio::time::sleep(RESTART_AFTER).await;
        self.processes[leader] = Process::start(&self.trial.plans[leader])?;
        Ok(killed)
    }

    /// Which replica leads.
    async fn leader(&self) -> Result<usize, Failure> {
        let status = self.client.status().await?;
        let leader = status.members.iter().find(|member| member.leader);
        leader
            .and_then(|leader| self.trial.plans.iter().position(|plan| plan.info.client_address == leader.client_address))
            .ok_or_else(|| Failure::failed("no replica leads"))
    }

    /// Whether all replicas are at it again, the killed one included, and hold the same.
    async fn all_back(&mut self) -> Check {
        let begun = Instant::now();
        loop {
            let broken = self.differences().await;
            if broken.is_empty() || begun.elapsed() > SETTLE_TIMEOUT {
                return Check { claim: "the killed replica is back, and all three hold the same".to_owned(), broken };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn differences(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        for process in &mut self.processes {
            if let Some(how) = process.ended() {
                broken.push(format!("{} ended: {how}", process.name));
            }
        }
        let mut first: Option<v1::GetStatusResponse> = None;
        for (index, plan) in self.trial.plans.iter().enumerate() {
            let asked = self.client.services_at(index).admin().get_status(v1::GetStatusRequest {}).await;
            match asked.map(tonic::Response::into_inner) {
                Err(status) => broken.push(format!("{} does not answer: {}", plan.name, status.message())),
                Ok(status) => match &first {
                    Some(first) if (first.applied, first.tenants) != (status.applied, status.tenants) => {
                        let (has, all) = (status.applied.unwrap_or_default().index, first.applied.unwrap_or_default().index);
                        broken.push(format!(
                            "{} is at {has} with {} tenants, not at {all} with {}",
                            plan.name, status.tenants, first.tenants
                        ));
                    }
                    Some(_) => {}
                    None => first = Some(status),
                },
            }
        }
        broken
    }
}

/// Waits until the watch has seen every tenant, and the agents have said that those with a place run.
async fn settle(witness: &Witness, wanted: usize) -> Result<usize, Failure> {
    let begun = Instant::now();
    let mut steady = Instant::now();
    let mut last = witness.counts();
    loop {
        let now = witness.counts();
        if now != last {
            (last, steady) = (now, Instant::now());
        }
        let all = now.seen == wanted && now.running + now.waiting == wanted;
        // Who waits may get a place yet; when nothing moves any more, nobody does.
        if all && (now.waiting == 0 || steady.elapsed() > STEADY_FOR) {
            return Ok(now.waiting);
        }
        if witness.ended() {
            return Err(Failure::failed("the watch ended"));
        }
        if begun.elapsed() > SETTLE_TIMEOUT {
            let message =
                format!("of {wanted} tenants the watch saw {}, {} running and {} waiting for room", now.seen, now.running, now.waiting);
            return Err(Failure::failed(message));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Explains a placement of long ago and one that is refused; names the tenants that this made.
async fn explain_two(stage: &Stage, wanted: &[mix::Wanted]) -> Result<BTreeSet<String>, Failure> {
    let explain = |name: String| async move {
        let request = v1::ExplainTenantRequest { name: name.clone(), every_cluster: false };
        let answer = send!(stage.client, &format!("explain tenant/{name}"), placement, explain_tenant, request)?;
        Ok::<String, Failure>(explained(&name, &answer, colour()))
    };
    let placed = wanted.iter().find(|tenant| tenant.spec.constraints.residency.as_deref() == Some("ch")).unwrap_or(&wanted[0]);
    step(&format!("why is {} where it is?", placed.name));
    out(&explain(placed.name.clone()).await?);

    let documents: Vec<Loaded> = load_documents(&[stage.trial.folder.join("examples/what-if")])?;
    let Some(refused) = documents.first() else { return Ok(BTreeSet::new()) };
    let crate::document::Spec::Tenant(spec) = &refused.document.spec else { return Ok(BTreeSet::new()) };
    let name = refused.document.name.clone();
    let request = v1::PlaceTenantRequest {
        request_id: request_id(),
        name: name.clone(),
        spec: Some((&**spec).into()),
        wait: Some(true),
        dry_run: false,
    };
    send!(stage.client, &format!("place tenant/{name}"), placement, place_tenant, request)?;
    step(&format!("why is {name} nowhere?"));
    out(&explain(name.clone()).await?);
    Ok(BTreeSet::from([name]))
}

fn disturbed(killed: &Killed, placed: &Placed, gap: Option<Duration>) -> Check {
    let after = placed.acknowledged.iter().filter(|done| done.at > killed.at).count();
    let claim =
        format!("{} died in the middle of it: {} were placed before, {after} after", killed.name, placed.acknowledged.len() - after);
    let broken = if gap.is_none() { vec!["nothing was placed after its death".to_owned()] } else { Vec::new() };
    Check { claim, broken }
}

fn verdict(checks: &[Check], placed: &Placed, gap: Option<Duration>, took: Duration) -> Result<(), Failure> {
    step("checked from the outside:");
    out(&checks.iter().map(Check::line).collect::<String>());
    let queued =
        placed.acknowledged.iter().filter(|done| done.tenant.status.as_ref().is_none_or(|status| status.binding.is_none())).count();
    let rate = placed.acknowledged.len() as u128 * 1000 / placed.took.as_millis().max(1);
    out(&format!(
        "\n{} placements in {}: {rate}/s, the death of the leader included; {queued} were queued first\n",
        placed.acknowledged.len(),
        seconds(placed.took)
    ));
    if let Some(gap) = gap {
        out(&format!("{} ms at most without an acknowledgement after kill -9 of the leader\n", gap.as_millis()));
    }
    out(&format!("the whole tour took {}\n", seconds(took)));
    match checks.iter().filter(|check| !check.broken.is_empty()).count() {
        0 => {
            out("\nAll of it is true. Next: `roadstead dev` starts the same for you to try.\n");
            Ok(())
        }
        untrue => Err(Failure::failed(format!("{untrue} of {} claims are untrue", checks.len()))),
    }
}

/// The last lines of the replicas' logs.
fn logs(folder: &Path) -> String {
    let mut text = String::new();
    for number in 1..=REPLICAS {
        let log = std::fs::read_to_string(folder.join(format!("r{number}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        text.push_str(&format!("--- r{number}\n{tail}\n"));
    }
    text
}
