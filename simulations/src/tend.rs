//! Agents at work: what is done in their clusters, when it arrives, and what befalls them.

use roadstead_core::id::Incarnation;
use roadstead_core::intent::ClusterIntent;
use roadstead_core::reconcile::Action;
use roadstead_core::time::Timestamp;

use crate::agent::Agent;
use crate::caller::{Kind, What};
use crate::cluster::{Call, Failed};
use crate::net::Micros;
use crate::world::{Event, Planted, World};

/// How often an agent looks for what comes next.
const LOOK_EVERY_US: Micros = 120_000;

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
        let Some(agent) = self.agent(caller) else { return };
        if agent.runs && agent.paused_until <= now {
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

    /// Something befalls an agent, or its cluster.
    pub(crate) fn trouble_agent(&mut self) {
        let cluster = self.chance.below(self.clusters.len() as u64) as usize;
        let agents = self.agents_of(cluster);
        let Some(caller) = self.chance.pick(&agents).copied() else { return };
        let drawn = self.chance.below(100);
        match drawn {
            0..35 => self.start_agent(caller),
            35..50 => {
                let until = self.now + self.chance.between(100_000, 3_000_000);
                self.note("agent stands", &[caller as u64], || format!("agent {caller} stands still"));
                if let Some(agent) = self.agent(caller) {
                    agent.paused_until = until;
                }
            }
            50..65 => {
                self.note("agents", &[cluster as u64], || format!("both agents of cluster {cluster} work"));
                for caller in agents {
                    if !self.agent(caller).is_some_and(|agent| agent.runs) {
                        self.start_agent(caller);
                    }
                }
            }
            65..85 => {
                let until = self.now + self.chance.between(500_000, 6_000_000);
                self.note("silence", &[cluster as u64], || format!("nothing is heard of cluster {cluster}"));
                self.clusters[cluster].silent_until = until;
            }
            _ => {
                let (mut chance, all) = (self.chance.fork(), drawn >= 95);
                let now = self.now;
                self.clusters[cluster].advance(now);
                if let Some(tenant) = self.clusters[cluster].lose_something(&mut chance, all) {
                    self.carried.harmed(tenant);
                    self.note("harm", &[tenant.0], || {
                        format!("somebody deletes something of tenant {tenant} in cluster {cluster}, all {all}")
                    });
                }
            }
        }
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
