//! Agents at work: what is done in their clusters, when it arrives, and what befalls them.

use roadstead_consensus::door::Ticket;
use roadstead_core::apply::{Applied, Change};
use roadstead_core::decide::leader;
use roadstead_core::id::{ClusterId, Incarnation, Name, Revision};
use roadstead_core::intent::ClusterIntent;
use roadstead_core::reconcile::Action;
use roadstead_core::request::{Ask, Request};
use roadstead_core::tenant::Tenant;
use roadstead_core::time::Timestamp;

use crate::agent::Agent;
use crate::caller::{Kind, What};
use crate::cluster::{Call, Failed};
use crate::net::Micros;
use crate::world::{Asked, Event, Planted, World};

/// How often an agent looks for what comes next.
const LOOK_EVERY_US: Micros = 120_000;
/// How long nothing is heard of a cluster, at least and at most.
const SILENCE_US: (Micros, Micros) = (500_000, 6_000_000);
/// The same, where it is for long: till the end of the storm, as a rule.
const LONG_SILENCE_US: (Micros, Micros) = (5_000_000, 14_000_000);
/// Percent of silences that are long.
const LONG_SILENCES: u64 = 50;

/// Percent of what is told that is about what may still be added to the cluster.
const GROWTH_PERCENT: u64 = 4;

/// Work on one tenant, as it was begun.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) caller: usize,
    pub(crate) boot: u64,
    pub(crate) call: Call,
    rest: std::collections::VecDeque<Action>,
}

impl World {
    /// The agent of a caller.
    pub(crate) fn agent(&mut self, caller: usize) -> Option<&mut Agent> {
        match &mut self.callers[caller].kind {
            Kind::Agent(agent) => Some(agent),
            Kind::Client | Kind::Operator(_) => None,
        }
    }

    /// The callers that are agents of a cluster.
    fn agents_of(&self, cluster: usize) -> Vec<usize> {
        let of = |kind: &Kind| matches!(kind, Kind::Agent(agent) if agent.cluster == cluster);
        self.callers.iter().enumerate().filter(|(_, caller)| of(&caller.kind)).map(|(number, _)| number).collect()
    }

    /// Starts an agent, which has nothing in memory.
    pub(crate) fn start_agent(&mut self, caller: usize) {
        let Kind::Agent(agent) = &mut self.callers[caller].kind else { return };
        agent.start(&self.clusters[agent.cluster], self.now, self.planted);
        let boot = agent.boot;
        self.note("agent", &[caller as u64, boot], || format!("agent {caller} starts"));
        self.callers[caller].job = None;
        self.callers[caller].serial += 1;
        let serial = self.callers[caller].serial;
        self.schedule(1_000, Event::Next { caller, serial });
        self.schedule(5_000, Event::Look { caller, boot });
    }

    /// An agent looks, decides, and begins to work.
    pub(crate) fn look(&mut self, caller: usize, boot: u64) -> Result<(), String> {
        let (now, planted) = (self.now, self.planted);
        let mut chance = self.chance.fork();
        let Kind::Agent(agent) = &mut self.callers[caller].kind else { return Ok(()) };
        if !agent.runs || agent.boot != boot {
            return Ok(());
        }
        let until = agent.paused_until;
        if until > now {
            self.schedule_at(until, Event::Look { caller, boot });
            return Ok(());
        }
        let cluster = &mut self.clusters[agent.cluster];
        cluster.advance(now);
        let mut begun = Vec::new();
        // Now and then the generation cannot be kept; now and then what is seen is from a while ago.
        if !chance.percent(self.temper.action_fails) && agent.keep_generation(cluster, planted) {
            if !agent.has_looked() || !chance.percent(25) {
                agent.look(cluster, now, planted);
            }
            let deleted;
            (begun, deleted) = agent.work(cluster, now);
            self.stats.agreed += self.carried.removes(agent.cluster, &agent.intent, &deleted, &agent.limits, Timestamp(now / 1000))?;
        }
        let generation = agent.intent.generation;
        self.stats.beside += u64::from(!begun.is_empty() && self.other_is_at_work(caller));
        for (wanted, actions) in begun {
            let mut rest: std::collections::VecDeque<Action> = actions.into();
            let Some(action) = rest.pop_front() else { continue };
            let work = Work { caller, boot, call: Call { generation, wanted, action }, rest };
            let after = chance.between(1_000, self.temper.action_us);
            self.schedule(after, Event::Act(Box::new(work)));
        }
        let after = chance.between(LOOK_EVERY_US / 2, LOOK_EVERY_US * 2);
        self.schedule(after, Event::Look { caller, boot });
        Ok(())
    }

    /// Whether the other agent of an agent's cluster is at work.
    fn other_is_at_work(&self, caller: usize) -> bool {
        let other = self.first_agent + ((caller - self.first_agent) ^ 1);
        matches!(&self.callers[other].kind, Kind::Agent(agent) if agent.is_at_work())
    }

    /// A call reaches its cluster, whatever has become of who sent it.
    pub(crate) fn act(&mut self, work: Work) -> Result<(), String> {
        let Work { caller, boot, mut call, mut rest } = work;
        let (now, planted) = (self.now, self.planted);
        let Kind::Agent(agent) = &mut self.callers[caller].kind else { return Ok(()) };
        let (number, id) = (agent.cluster, call.wanted.id);
        let mut chance = self.chance.fork();
        let fails = chance.percent(self.temper.action_fails);
        self.clusters[number].advance(now);
        let before = self.clusters[number].namespaces.get(&id).cloned();
        let mut result = Err(Failed::Later);
        // One that fails may have been carried out all the same.
        if !fails || chance.percent(50) {
            result = self.clusters[number].act(&call, now, planted != Some(Planted::ActOnOlderIntents));
            self.carried.acted(number, before.as_ref(), &call, &self.clusters)?;
            self.stats.actions += u64::from(result.is_ok());
        }
        if fails {
            result = Err(Failed::Later);
        }
        self.note("act", &[caller as u64, id.0, u64::from(result.is_ok())], || {
            format!("agent {caller} in cluster {number}, tenant {id}: {:?} of {}: {result:?}", call.action, call.generation)
        });
        let Kind::Agent(agent) = &mut self.callers[caller].kind else { return Ok(()) };
        if !agent.runs || agent.boot != boot {
            return Ok(());
        }
        match result {
            Ok(()) => match rest.pop_front() {
                Some(action) if agent.goes_on(&call.wanted) || planted == Some(Planted::ActOnOlderIntents) => {
                    (call.generation, call.action) = (agent.intent.generation, action);
                    let at = now.max(agent.paused_until) + chance.between(1_000, self.temper.action_us);
                    self.schedule_at(at, Event::Act(Box::new(Work { caller, boot, call, rest })));
                    return Ok(());
                }
                Some(_) => {}
                None => agent.memory.succeeded(id),
            },
            Err(Failed::Stale) => agent.outdated(&self.clusters[number]),
            Err(Failed::Later) => agent.memory.failed(id, Timestamp(now / 1000), None),
        }
        agent.done(id);
        Ok(())
    }

    /// An agent hears what is wanted: in answer to what it asked, or a copy that was on its way for long.
    pub(crate) fn intent_heard(&mut self, caller: usize, intent: ClusterIntent) {
        let now = self.now;
        self.note("intent", &[caller as u64, intent.generation.index, intent.tenants.len() as u64], || {
            format!("agent {caller} hears the intent of {}, which names {}", intent.generation, intent.tenants.len())
        });
        let Kind::Agent(agent) = &mut self.callers[caller].kind else { return };
        if agent.runs && agent.paused_until <= now {
            self.stats.older += u64::from(intent.generation < self.clusters[agent.cluster].generation);
            agent.hear(intent);
        }
    }

    /// What an agent has to tell now, if anything may be told.
    pub(crate) fn told_next(&mut self, caller: usize) -> Option<What> {
        let (now, planted) = (self.now, self.planted);
        let current = &mut self.callers[caller];
        let Kind::Agent(agent) = &mut current.kind else { return None };
        if !agent.runs || agent.paused_until > now {
            return None;
        }
        let cluster = &mut self.clusters[agent.cluster];
        cluster.advance(now);
        if !agent.keep_generation(cluster, planted) {
            return None;
        }
        if current.chance.percent(GROWTH_PERCENT) {
            return Some(What::Ask(agent.tell_growth(cluster, &mut current.chance)));
        }
        let (ask, complete) = agent.tell(cluster, now, planted, &mut current.chance)?;
        if let Some(incarnation) = complete {
            self.carried.told(incarnation, cluster);
        }
        Some(What::Ask(ask))
    }

    /// What an agent told was taken in.
    pub(crate) fn told_taken(&mut self, caller: usize, complete: Option<Incarnation>) {
        if let Some(agent) = self.agent(caller) {
            agent.taken(complete);
        }
    }

    /// Something befalls an agent, or what is in its cluster.
    pub(crate) fn trouble_agent(&mut self) {
        let cluster = self.chance.below(self.clusters.len() as u64) as usize;
        let agents = self.agents_of(cluster);
        let Some(caller) = self.chance.pick(&agents).copied() else { return };
        let drawn = self.chance.below(100);
        match drawn {
            0..40 => self.start_agent(caller),
            40..58 => {
                let until = self.now + self.chance.between(100_000, 3_000_000);
                self.note("agent stands", &[caller as u64], || format!("agent {caller} stands still"));
                if let Some(agent) = self.agent(caller) {
                    agent.paused_until = until;
                }
            }
            58..80 => {
                self.note("agents", &[cluster as u64], || format!("both agents of cluster {cluster} work"));
                for caller in agents {
                    if !self.agent(caller).is_some_and(|agent| agent.runs) {
                        self.start_agent(caller);
                    }
                }
            }
            _ => {
                let (mut chance, all) = (self.chance.fork(), drawn >= 95);
                let now = self.now;
                self.clusters[cluster].advance(now);
                if let Some(tenant) = self.clusters[cluster].lose_something(&mut chance, all) {
                    self.carried.harmed(cluster, tenant, all);
                    self.note("harm", &[tenant.0], || {
                        format!("somebody deletes something of tenant {tenant} in cluster {cluster}, all {all}")
                    });
                }
            }
        }
    }

    /// Nobody in some clusters reaches anybody outside for a while.
    pub(crate) fn silence(&mut self) {
        for cluster in 0..self.clusters.len() {
            if !self.chance.percent(50) {
                continue;
            }
            let (shortest, longest) = if self.chance.percent(LONG_SILENCES) { LONG_SILENCE_US } else { SILENCE_US };
            let until = self.now + self.chance.between(shortest, longest);
            self.note("silence", &[cluster as u64, until], || format!("nothing is heard of cluster {cluster}"));
            self.clusters[cluster].silent_until = until;
        }
    }

    /// Clusters fall silent and are heard of again; nobody but a planted fault makes anything of it.
    pub(crate) fn silence_turned(&mut self, machine: usize, applied: &Applied) {
        for change in &applied.changes {
            let Change::Cluster { before: Some(before), after: Some(after) } = change else { continue };
            self.stats.returned += u64::from(before.silent && !after.silent);
            if before.silent || !after.silent {
                continue;
            }
            self.stats.silent += 1;
            let name = &after.spec.name;
            self.note("silent", &[u64::from(after.id.0)], || format!("cluster {name} is marked as silent"));
            for ask in self.made_of_silence(machine, after.id, name) {
                self.ask_oneself(machine, ask);
            }
        }
    }

    /// What a service would ask of itself that took silence for an answer.
    fn made_of_silence(&self, machine: usize, cluster: ClusterId, name: &Name) -> Vec<Ask> {
        let Some(replica) = &self.machines[machine].replica else { return Vec::new() };
        match self.planted {
            Some(Planted::MoveSilent) => vec![Ask::DeleteCluster { name: name.clone(), forget: true }],
            Some(Planted::ReleaseSilent) => {
                let release = |tenant: Tenant| Ask::ReleaseTenant { name: tenant.spec.name, purge: false, expected: None };
                replica.state().tenants_of_cluster(cluster).map(release).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// A replica asks itself, as when it acts by itself; nobody waits for what comes of it.
    fn ask_oneself(&mut self, machine: usize, ask: Ask) {
        self.last_ticket += 1;
        let (ticket, what) = (Ticket(self.last_ticket), What::Ask(ask.clone()));
        let asked = Asked { caller: 0, serial: u64::MAX, key: None, floor: Revision::default(), retry: None, before: None, what };
        self.tickets.insert(ticket, asked);
        let it = &mut self.machines[machine];
        it.inbox.push((ticket, Request { principal: leader(), retry: None, ask }));
        let boot = it.boot;
        self.schedule(1_000, Event::Drain { machine, boot });
    }

    /// One agent for each cluster goes on, with everything as it should be.
    pub(crate) fn calm_agents(&mut self) {
        for cluster in 0..self.clusters.len() {
            self.clusters[cluster].silent_until = 0;
            let agents = self.agents_of(cluster);
            let goes_on = agents.iter().copied().find(|caller| matches!(&self.callers[*caller].kind, Kind::Agent(agent) if agent.runs));
            for caller in agents {
                let Some(agent) = self.agent(caller) else { continue };
                (agent.runs, agent.paused_until) = (Some(caller) == goes_on, 0);
                // Nobody is there to agree any more.
                agent.limits.removals = usize::MAX;
                // Who failed may rest for longer than the group has to settle.
                agent.intent.tenants.iter().for_each(|wanted| agent.memory.try_again(wanted.id));
            }
        }
        (self.temper.action_fails, self.temper.late_percent) = (0, 0);
    }
}
