//! A data folder with as many tenants as wanted, written by the code that writes every data folder: the replica decides, applies and takes
//! snapshots; the log and the snapshots' folder keep what it says. Only time and the network are left out.

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use roadstead_consensus::door::{Answer, Input, LogWrite, Monotonic, Output, Restored, Ticket};
use roadstead_consensus::member::{GroupId, MemberInfo};
use roadstead_consensus::replica::{Config, Replica};
use roadstead_core::command::Outcome;
use roadstead_core::id::{Owner, RequestId};
use roadstead_core::request::{Ask, Request, Retry};
use roadstead_server::convert::check::Check;
use roadstead_server::convert::{class, cluster, policy, tenant};
use roadstead_server::lifecycle;
use roadstead_server::log::{self, Backend, Log};
use roadstead_server::snapshots::Snapshots;
use uuid::Uuid;

use crate::fleet::{Fleet, Placements};

/// Placements decided into one entry while the snapshot's tenants are made.
const BATCH: u64 = 1_000;
/// Entries of the tail that are written in one go: how they came to the disk does not show afterwards.
const WRITTEN_TOGETHER: usize = 1_000;
/// A lonely replica elects itself within this many ticks.
const MOST_TICKS: u64 = 10_000;

/// What goes into a folder.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// The fleet.
    pub fleet: Fleet,
    /// Tenants in the snapshot.
    pub in_snapshot: u64,
    /// Tenants in the log after it, each an entry of its own.
    pub in_tail: u64,
}

/// Writes the folder of a group's only member. Tenants are those of `placements`, from 0.
///
/// # Errors
/// What the disk or the replica refused.
pub fn write(data: &Path, info: MemberInfo, contents: Contents, placements: &Placements) -> Result<()> {
    lifecycle::init(data, info, Backend::Sled).context("failed to begin the folder")?;
    let mut maker = Maker::open(data)?;
    maker.declare(contents.fleet)?;
    let mut next = 0;
    while next < contents.in_snapshot {
        let end = (next + BATCH).min(contents.in_snapshot);
        maker.ask((next..end).map(|number| place(placements, number)).collect::<Result<Vec<_>>>()?)?;
        next = end;
    }
    maker.flush()?;
    maker.snapshot()?;
    drop(maker);
    // From the snapshot on, as after a restart.
    let mut maker = Maker::open(data)?;
    for number in contents.in_snapshot..contents.in_snapshot + contents.in_tail {
        maker.ask(vec![place(placements, number)?])?;
    }
    maker.flush()
}

/// A replica without company, and its disk.
struct Maker {
    replica: Replica,
    log: Box<dyn Log>,
    snapshots: Snapshots,
    virtual_ms: u64,
    ticks: u64,
    tickets: u64,
    leads: bool,
    unanswered: usize,
    /// Written to disk when it is long enough; its number.
    pending: LogWrite,
    /// Term and index of the last entry.
    last: (u64, u64),
}

impl Maker {
    fn open(data: &Path) -> Result<Self> {
        let identity = lifecycle::identity(data).context("the folder has no identity")?;
        let group =
            identity.group.as_deref().and_then(|text| u128::from_str_radix(text, 16).ok()).context("the folder belongs to no group")?;
        let id = identity.id().context("the identity names no member")?;
        let mut log = log::open(&data.join("log"), identity.log_backend).context("failed to open the log")?;
        let (hard_state, entries) = log.load().context("failed to read the log")?;
        let snapshots = Snapshots::open(&data.join("snapshots"), GroupId(group)).context("failed to open the snapshots")?;
        let (snapshot, _) = snapshots.load(log.base().index).context("failed to read a snapshot")?;
        let snapshot = snapshot.context("there is no snapshot")?;
        let restored = Restored {
            group: GroupId(group),
            id,
            hard_state,
            snapshot_term: snapshot.header.term,
            snapshot_index: snapshot.header.index,
            membership: snapshot.header.membership,
            state: Box::new(snapshot.state),
            entries,
        };
        let last = (restored.snapshot_term, restored.snapshot_index);
        // Snapshots are taken here when they are wanted.
        let config = Config { snapshot_every_entries: u64::MAX, snapshot_every_bytes: u64::MAX, ..Config::default() };
        let tick_ms = config.tick_ms;
        let replica = Replica::new(config, restored).map_err(anyhow::Error::msg)?;
        let pending = LogWrite::default();
        let mut maker = Self { replica, log, snapshots, virtual_ms: 0, ticks: 0, tickets: 0, leads: false, unanswered: 0, pending, last };
        while !maker.leads {
            ensure!(maker.ticks < MOST_TICKS, "the replica does not elect itself");
            maker.ticks += 1;
            maker.on(Input::Tick, tick_ms)?;
        }
        Ok(maker)
    }

    /// Lets the replica decide some requests together, and checks that none was refused.
    fn ask(&mut self, requests: Vec<Request>) -> Result<()> {
        let tickets = (self.tickets..).map(Ticket);
        self.tickets += requests.len() as u64;
        self.unanswered += requests.len();
        let requests: Vec<_> = tickets.zip(requests).collect();
        self.on(Input::Requests(requests), 0)?;
        ensure!(self.unanswered == 0, "{} requests have no answer", self.unanswered);
        Ok(())
    }

    fn declare(&mut self, fleet: Fleet) -> Result<()> {
        let all = fleet.declarations();
        let pool = checked(|check| cluster::pool(check, all.pool.pool.as_ref()))?;
        let policy = checked(|check| policy::policy(check, all.policy.policy.as_ref()))?;
        self.ask(vec![request(Ask::PutPool { spec: pool, expected: None })?])?;
        for put in &all.classes {
            let class = checked(|check| class::class(check, put.class.as_ref()))?;
            self.ask(vec![request(Ask::PutClass { class: Box::new(class) })?])?;
        }
        self.ask(vec![request(Ask::PutPolicy { spec: Box::new(policy), expected: None })?])?;
        let (mut puts, mut reports) = (Vec::new(), Vec::new());
        for (put, report) in &all.clusters {
            let spec = checked(|check| cluster::cluster(check, put.cluster.as_ref()))?;
            puts.push(request(Ask::PutCluster { spec: Box::new(spec), expected: None })?);
            reports.push(request(Ask::Report(Box::new(checked(|check| cluster::report(check, report, true))?)))?);
        }
        self.ask(puts)?;
        self.ask(reports)
    }

    /// Something happens, some milliseconds after what happened before; carries everything out that follows from it.
    fn on(&mut self, input: Input, ms: u64) -> Result<()> {
        self.virtual_ms += ms;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.replica.on(input, Monotonic(self.virtual_ms)) {
                self.carry_out(output, &mut inputs)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) -> Result<()> {
        match output {
            Output::Persist { number, write } => {
                if write.begins_after.is_some() {
                    // The log begins anew after the snapshot that the replica started from.
                    self.flush()?;
                    self.pending.begins_after = write.begins_after;
                }
                if let Some(last) = write.entries.last() {
                    self.last = (last.term, last.index);
                }
                self.pending.entries.extend(write.entries);
                self.pending.hard_state = write.hard_state.or(self.pending.hard_state);
                if self.pending.entries.len() >= WRITTEN_TOGETHER {
                    self.flush()?;
                }
                inputs.push_back(Input::Persisted { number });
            }
            Output::Answer { answer: Answer::Outcome { outcome: Outcome::Done(_), .. }, .. } => self.unanswered -= 1,
            Output::Answer { answer, .. } => bail!("a request was not done: {answer:?}"),
            Output::Role(role) => self.leads = role.leading,
            Output::Alarm { what, .. } => bail!("alarm: {what}"),
            Output::Send { .. } | Output::Applied { .. } | Output::Compact { .. } => {}
            other @ (Output::Replaced { .. }
            | Output::ReadReady { .. }
            | Output::FetchSnapshot { .. }
            | Output::TakeSnapshot { .. }
            | Output::Removed) => bail!("unexpected: {other:?}"),
        }
        Ok(())
    }

    /// Writes what is pending.
    fn flush(&mut self) -> Result<()> {
        let write = std::mem::take(&mut self.pending);
        self.log.write(&write).context("failed to write the log")
    }

    /// Takes a snapshot of everything so far, and drops the log behind it.
    fn snapshot(&mut self) -> Result<()> {
        let (term, index) = self.last;
        let (membership, state) = (self.replica.membership(), self.replica.state());
        self.snapshots.write(term, index, membership, state).context("failed to write a snapshot")?;
        self.log.compact(index).context("failed to compact the log")
    }
}

/// A conversion that reports what is wrong with a message.
fn checked<T>(convert: impl FnOnce(&mut Check) -> Option<T>) -> Result<T> {
    let mut check = Check::default();
    let value = convert(&mut check);
    check.finish(value).map_err(|fault| anyhow::anyhow!("a message is not valid: {fault:?}"))
}

fn request(ask: Ask) -> Result<Request> {
    request_with(ask, Uuid::now_v7())
}

fn request_with(ask: Ask, id: Uuid) -> Result<Request> {
    let principal = Owner::new("client:test").context("a principal is valid")?;
    let retry = Some(Retry { id: RequestId(id.as_u128()), fingerprint: 1 });
    Ok(Request { principal, retry, ask })
}

fn place(placements: &Placements, number: u64) -> Result<Request> {
    let wire = placements.request(number);
    let spec = checked(|check| tenant::spec(check, &wire.name, wire.spec.as_ref()))?;
    let id = Uuid::parse_str(&wire.request_id).context("a request id is one")?;
    request_with(Ask::PlaceTenant { spec: Box::new(spec), wait: false }, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_folder_can_be_opened_and_holds_its_tenants() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("r1");
        let info = MemberInfo { peer_address: "127.0.0.1:1".into(), client_address: "127.0.0.1:2".into() };
        let fleet = Fleet { clusters: 4, regions: 2, tenant_cap: 1_000 };
        write(&data, info, Contents { fleet, in_snapshot: 2_000, in_tail: 100 }, &Placements::new("t")).unwrap();
        let maker = Maker::open(&data).unwrap();
        assert_eq!(maker.replica.state().tenant_count(), 2_100);
    }
}
