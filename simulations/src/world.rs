//! One run: machines, network, callers and faults in virtual time. It takes one event after the other, and stops at the first thing that must not be.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hasher};

use roadstead_consensus::door::{Input, Ticket};
use roadstead_consensus::member::{GroupId, MemberId, Membership};
use roadstead_consensus::replica::{Replica, Sabotage};
use roadstead_core::command::{FIRST_LEVEL, FeatureLevel, Outcome, SUPPORTED_LEVEL};
use roadstead_core::id::{ClusterId, Name, Revision};
use roadstead_core::intent::ClusterIntent;
use roadstead_core::state::State;

use crate::agent::Agent;
use crate::caller::{Caller, Kind, REGISTERS, Reply, What, register_name};
use crate::carried::Carried;
use crate::chance::Chance;
use crate::checks::Checks;
use crate::cluster::Cluster;
use crate::disk::{Disk, SnapshotFile, SnapshotKey};
use crate::fleet;
use crate::linearizable::Operation;
use crate::machine::Machine;
use crate::net::{Micros, Net};
use crate::temper::Temper;
use crate::tend::Work;
use crate::truth::{Key, Truth};

/// Wall time at which every run begins, in milliseconds since 1970.
pub const ORIGIN_MS: u64 = 1_800_000_000_000;
/// How long the group has, once the faults are over, to answer everybody and to agree.
const RECOVERY_US: Micros = 40_000_000;
/// How long the slowest replica may stand still after that, while it catches up.
const STANDSTILL_US: Micros = 5_000_000;
/// Catching up, too, has to end by then.
const LONGEST_RECOVERY_US: Micros = 3 * RECOVERY_US;
/// Events of one run at most: more are a loop without progress.
const MAX_EVENTS: u64 = 3_000_000;

/// A fault that is planted to show that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The disk says that a write is synced before it is.
    SkipSync,
    /// Agents act on intents that are older than what was acted on, and their clusters let them.
    ActOnOlderIntents,
    /// Agents take a volume that is not there any more for one that was never made.
    MakeLostVolumes,
    /// Agents tell all that is there as of an incarnation of which they have heard no intent.
    CompleteTooSoon,
    /// Agents never tell anything twice.
    TellOnlyNews,
    /// Agents tell how a tenant was before they began to work on it.
    TellWhileWorking,
    /// Agents take every removal for one that an operator has agreed to.
    AgreeUnasked,
    /// Agents that are started again count removals from none.
    CountRemovalsAnew,
    /// Agents take what no intent names for what is to go.
    DeleteOrphans,
    /// The service deletes the tenants of a cluster that falls silent.
    ReleaseSilent,
    /// The service takes a cluster that falls silent for one that is gone, and its tenants for homeless.
    MoveSilent,
    /// One inside the replica.
    Inside(Sabotage),
}

/// What happens.
pub(crate) enum Event {
    Tick {
        machine: usize,
        boot: u64,
    },
    Deliver {
        machine: usize,
        to: MemberId,
        from: MemberId,
        level: FeatureLevel,
        message: Vec<u8>,
    },
    /// The driver takes what waits.
    Drain {
        machine: usize,
        boot: u64,
    },
    /// A write is on the disk; `tell` says so to the replica.
    Synced {
        machine: usize,
        boot: u64,
        number: u64,
        lands: bool,
        tell: bool,
    },
    SnapshotWritten {
        machine: usize,
        boot: u64,
        key: SnapshotKey,
        file: SnapshotFile,
    },
    Fetch {
        machine: usize,
        boot: u64,
        from: usize,
        key: SnapshotKey,
        left: u32,
    },
    Fetched {
        machine: usize,
        boot: u64,
        key: SnapshotKey,
    },
    Start {
        machine: usize,
    },
    Arrive {
        machine: usize,
        asked: Asked,
    },
    Hear {
        caller: usize,
        serial: u64,
        reply: Reply,
    },
    Next {
        caller: usize,
        serial: u64,
    },
    Impatient {
        caller: usize,
        serial: u64,
        attempt: u32,
    },
    /// An agent looks for what comes next.
    Look {
        caller: usize,
        boot: u64,
    },
    /// The driver tells its replica of an agent that was heard of.
    Heard {
        machine: usize,
        boot: u64,
        cluster: ClusterId,
    },
    /// Something is done in a cluster.
    Act(Box<Work>),
    /// An intent that was on its way for long.
    Intent {
        caller: usize,
        intent: Box<ClusterIntent>,
    },
    Fault,
    Heal,
    Calm,
}

/// Who asked, and what the answer is checked against.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) caller: usize,
    pub(crate) serial: u64,
    pub(crate) key: Option<Key>,
    pub(crate) floor: Revision,
    pub(crate) retry: Option<roadstead_core::request::Retry>,
    /// The answer that was given before, if this is a copy that the network delivers late.
    pub(crate) before: Option<Outcome>,
    pub(crate) what: What,
}

struct Scheduled {
    at: Micros,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One run.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) temper: Temper,
    pub(crate) planted: Option<Planted>,
    pub(crate) now: Micros,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(crate) chance: Chance,
    pub(crate) net: Net,
    pub(crate) machines: Vec<Machine>,
    /// Which machine a member is, or was.
    pub(crate) members: BTreeMap<MemberId, usize>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) tickets: BTreeMap<Ticket, Asked>,
    pub(crate) last_ticket: u64,
    pub(crate) tokens: u64,
    pub(crate) truth: Truth,
    pub(crate) checks: Checks,
    pub(crate) leaders: BTreeMap<u64, MemberId>,
    pub(crate) acknowledged: Revision,
    pub(crate) registers: BTreeMap<Name, Vec<Operation>>,
    /// Whether a restore was asked for: what was acknowledged before it may be undone.
    pub(crate) restored: bool,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) carried: Carried,
    /// The first caller that is an agent; each cluster has two, of which the first begins.
    pub(crate) first_agent: usize,
    pub(crate) backup: Option<Box<State>>,
    pub(crate) calm: bool,
    pub(crate) stats: Stats,
    hasher: DefaultHasher,
    told: Option<Vec<String>>,
}

/// What happened in a run, for people.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Events.
    pub events: u64,
    /// Answers that callers got.
    pub answers: u64,
    /// Starts of replicas.
    pub starts: u64,
    /// Snapshots taken over from a peer.
    pub installs: u64,
    /// Restores that took effect.
    pub restores: u64,
    /// Things done in clusters.
    pub actions: u64,
    /// Removals that an agent carried out because an operator had agreed to them.
    pub agreed: u64,
    /// Clusters that were marked as silent.
    pub silent: u64,
    /// Of those, the ones that were heard of again.
    pub returned: u64,
    /// Times at which an agent began to work while the other one of its cluster was at work.
    pub beside: u64,
    /// Intents offered to an agent that are older than one that was acted on in its cluster.
    pub older: u64,
    /// Namespaces that no intent named when the run ended.
    pub orphans: u64,
    /// Of those, the ones in which something ran: a restore has undone that they were placed.
    pub running_orphans: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// What must not be, and when it was seen; nothing if the run was sound.
    pub violation: Option<String>,
    /// A hash over everything that happened: the same for the same seed.
    pub hash: u64,
    /// What happened, if it was asked for.
    pub told: Vec<String>,
    /// Numbers.
    pub stats: Stats,
}

/// The group of every run.
pub(crate) const GROUP: GroupId = GroupId(0x10ad_57ea_d000);

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64, planted: Option<Planted>, tell: bool) -> Self {
        let mut chance = Chance::new(seed);
        let temper = Temper::draw(&mut chance);
        let net = Net::new(&temper, chance.fork());
        let mut world = Self {
            seed,
            planted,
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            net,
            machines: Vec::new(),
            members: BTreeMap::new(),
            callers: Vec::new(),
            tickets: BTreeMap::new(),
            last_ticket: 0,
            tokens: 0,
            truth: Truth::default(),
            checks: Checks::default(),
            leaders: BTreeMap::new(),
            acknowledged: Revision::default(),
            registers: (0..REGISTERS).map(|number| (register_name(number), vec![fleet::first_write(number)])).collect(),
            restored: false,
            clusters: Vec::new(),
            carried: Carried::default(),
            first_agent: 0,
            backup: None,
            calm: false,
            stats: Stats::default(),
            hasher: DefaultHasher::new(),
            told: tell.then(Vec::new),
            chance,
            temper,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let mut jobs: Vec<What> = Vec::new();
        for number in 0..self.temper.machines {
            let machine = self.add_machine();
            if number > 0 {
                jobs.push(What::Add(self.machines[machine].member(), self.machines[machine].info()));
            }
        }
        let info = self.machines[0].info();
        self.machines[0].disk.found_group(info, ORIGIN_MS);
        jobs.extend(fleet::set_up(self.temper.clusters, &mut self.chance, &mut self.tokens));
        let chance = self.chance.fork();
        self.callers.push(Caller::new("admin:sim", Kind::Operator(jobs.into()), chance));
        for number in 0..self.temper.clients {
            let chance = self.chance.fork();
            self.callers.push(Caller::new(&format!("client:c{number}"), Kind::Client, chance));
        }
        self.first_agent = self.callers.len();
        for number in 0..self.temper.clusters {
            let cluster = Cluster::new(number, self.chance.fork());
            let mut limits = None;
            for _ in 0..2 {
                let mut chance = self.chance.fork();
                let mut agent = Box::new(Agent::new(number, &mut chance));
                agent.limits = *limits.get_or_insert(agent.limits);
                self.callers.push(Caller::new(&format!("agent:{}", cluster.name), Kind::Agent(agent), chance));
            }
            self.clusters.push(cluster);
        }
        for machine in 0..self.machines.len() {
            self.schedule(1000, Event::Start { machine });
        }
        self.schedule(5_000, Event::Next { caller: 0, serial: 0 });
        self.schedule(self.temper.storm_us, Event::Calm);
        if self.temper.fault_every_us > 0 {
            self.schedule(3_000_000 + self.temper.fault_every_us, Event::Fault);
        }
    }

    /// A new machine with an empty disk, switched off.
    pub(crate) fn add_machine(&mut self) -> usize {
        let number = self.machines.len();
        let disk = self.empty_disk(number);
        let level = if self.temper.mixed_levels && self.chance.percent(60) { FIRST_LEVEL } else { SUPPORTED_LEVEL };
        self.machines.push(Machine::new(number, disk, level));
        number
    }

    /// An empty disk, whose member has an id that nobody had.
    pub(crate) fn empty_disk(&mut self, machine: usize) -> Disk {
        let id = MemberId((ORIGIN_MS / 1000 + self.members.len() as u64) << 24 | self.chance.below(1 << 24));
        self.members.insert(id, machine);
        Disk::new(GROUP, id)
    }

    /// Puts an event into the queue, so many microseconds from now.
    pub(crate) fn schedule(&mut self, after: Micros, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    /// Puts an event into the queue.
    pub(crate) fn schedule_at(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled { at, order: self.scheduled, event }));
    }

    /// Counts something into the run's hash, and tells it if somebody listens.
    pub(crate) fn note(&mut self, what: &str, numbers: &[u64], detail: impl FnOnce() -> String) {
        self.hasher.write_u64(self.now);
        self.hasher.write(what.as_bytes());
        for number in numbers {
            self.hasher.write_u64(*number);
        }
        if let Some(told) = &mut self.told {
            told.push(format!("{:>10.3} ms  {what:<10} {}", self.now as f64 / 1000.0, detail()));
        }
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(mut self) -> Verdict {
        let violation = self.run_on().err();
        let violation = violation.map(|what| format!("seed {} at {:.3} ms: {what}", self.seed, self.now as f64 / 1000.0));
        Verdict { seed: self.seed, violation, hash: self.hasher.finish(), told: self.told.unwrap_or_default(), stats: self.stats }
    }

    fn run_on(&mut self) -> Result<(), String> {
        let mut deadline = self.temper.storm_us + RECOVERY_US;
        let mut slowest = 0;
        while let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() {
            self.now = at;
            self.stats.events += 1;
            if self.stats.events > MAX_EVENTS {
                return Err("no end in sight: far more events than any run has".to_owned());
            }
            self.happen(event)?;
            if self.calm && self.everybody_is_done() && self.everybody_agrees() && self.unsettled().is_none() {
                return self.at_the_end();
            }
            let behind = self.machines.iter().map(|machine| machine.applied).min().unwrap_or(0);
            if self.calm && behind > slowest {
                // A follower that was away for long may be on its way for longer, entry by entry.
                deadline = deadline.max(self.now + STANDSTILL_US).min(self.temper.storm_us + LONGEST_RECOVERY_US);
                slowest = behind;
            }
            if self.now > deadline {
                return Err(self.who_waits());
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { machine, boot } => {
                if self.is_up(machine, boot) {
                    let after = self.machines[machine].clock.duration(self.temper.config().tick_ms);
                    self.schedule(after, Event::Tick { machine, boot });
                    if self.now >= self.machines[machine].paused_until {
                        return self.input(machine, Input::Tick);
                    }
                }
                Ok(())
            }
            event => match self.paused_machine(&event) {
                Some(until) => {
                    self.schedule_at(until + 1, event);
                    Ok(())
                }
                None => self.happen_now(event),
            },
        }
    }

    /// Until when the machine of an event stands still.
    fn paused_machine(&self, event: &Event) -> Option<Micros> {
        let machine = match event {
            Event::Deliver { machine, .. }
            | Event::Drain { machine, .. }
            | Event::Synced { machine, .. }
            | Event::SnapshotWritten { machine, .. }
            | Event::Fetch { machine, .. }
            | Event::Fetched { machine, .. }
            | Event::Heard { machine, .. }
            | Event::Arrive { machine, .. } => *machine,
            Event::Tick { .. }
            | Event::Start { .. }
            | Event::Hear { .. }
            | Event::Next { .. }
            | Event::Impatient { .. }
            | Event::Look { .. }
            | Event::Act(_)
            | Event::Intent { .. }
            | Event::Fault
            | Event::Heal
            | Event::Calm => return None,
        };
        let until = self.machines[machine].paused_until;
        (until > self.now).then_some(until)
    }

    fn happen_now(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { .. } => Ok(()),
            Event::Deliver { machine, to, from, level, message } => self.deliver(machine, to, from, level, message),
            Event::Drain { machine, boot } => self.drain(machine, boot),
            Event::Synced { machine, boot, number, lands, tell } => self.synced(machine, boot, number, lands, tell),
            Event::SnapshotWritten { machine, boot, key, file } => self.snapshot_written(machine, boot, key, file),
            Event::Fetch { machine, boot, from, key, left } => self.fetch(machine, boot, from, key, left),
            Event::Fetched { machine, boot, key } => self.fetched(machine, boot, key),
            Event::Start { machine } => self.start(machine),
            Event::Heard { machine, boot, cluster } => self.agent_heard(machine, boot, cluster),
            Event::Arrive { machine, asked } => self.arrive(machine, asked),
            Event::Hear { caller, serial, reply } => self.hear(caller, serial, reply),
            Event::Next { caller, serial } => self.next_job(caller, serial),
            Event::Impatient { caller, serial, attempt } => self.impatient(caller, serial, attempt),
            Event::Look { caller, boot } => self.look(caller, boot),
            Event::Act(work) => self.act(*work),
            Event::Intent { caller, intent } => {
                self.intent_heard(caller, *intent);
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Heal => {
                self.note("heal", &[], || "every link works again".to_owned());
                self.net.heal();
                Ok(())
            }
            Event::Calm => self.calm_down(),
        }
    }

    /// Whether this start of a machine is still running.
    pub(crate) fn is_up(&self, machine: usize, boot: u64) -> bool {
        let machine = &self.machines[machine];
        machine.boot == boot && machine.replica.is_some()
    }

    fn everybody_is_done(&self) -> bool {
        self.callers.iter().all(Caller::is_done)
    }

    /// The membership of the replica that has applied most.
    pub(crate) fn membership(&self) -> Membership {
        let newest = self.machines.iter().filter(|machine| !machine.removed).filter_map(|machine| machine.replica.as_ref());
        let newest = newest.max_by_key(|replica| replica.state().revision());
        newest.map(|replica| replica.membership().clone()).unwrap_or_default()
    }

    /// What clusters do not carry as the newest state says.
    pub(crate) fn unsettled(&self) -> Option<String> {
        self.carried.unsettled(self.newest()?, &self.clusters)
    }

    /// The newest state that any replica holds.
    pub(crate) fn newest(&self) -> Option<&State> {
        let replicas = self.machines.iter().filter(|machine| !machine.removed).filter_map(|machine| machine.replica.as_ref());
        replicas.map(Replica::state).max_by_key(|state| state.revision())
    }

    fn everybody_agrees(&self) -> bool {
        let membership = self.membership();
        let mut revisions = membership.ids().into_iter().map(|id| {
            let machine = self.members.get(&id).map(|machine| &self.machines[*machine])?;
            let replica = machine.replica.as_ref().filter(|replica| replica.id() == id)?;
            Some(replica.state().revision())
        });
        let first = revisions.next().flatten();
        first.is_some_and(|first| first.index >= self.truth.last)
            && revisions.all(|revision| revision == first)
            && membership.learners.is_empty()
    }
}
