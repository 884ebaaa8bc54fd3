//! The faults: what happens to machines, disks, clocks and the network, and what an operator does meanwhile.

use std::collections::BTreeSet;

use roadstead_consensus::replica::Config;
use roadstead_core::command::SUPPORTED_LEVEL;
use roadstead_core::request::Ask;

use crate::caller::{Kind, What};
use crate::carried::orphans;
use crate::fleet;
use crate::linearizable;
use crate::net::Micros;
use crate::world::{Event, Planted, World};

impl World {
    /// Starts a machine's replica, unless it runs.
    pub(crate) fn start(&mut self, machine: usize) -> Result<(), String> {
        let it = &mut self.machines[machine];
        if it.replica.is_some() || it.removed {
            return Ok(());
        }
        if self.chance.percent(30) {
            it.level = SUPPORTED_LEVEL;
        }
        let mut chance = self.chance.fork();
        let config = Config {
            sabotage: match self.planted {
                Some(Planted::Inside(sabotage)) => Some(sabotage),
                Some(
                    Planted::SkipSync
                    | Planted::ActOnOlderIntents
                    | Planted::MakeLostVolumes
                    | Planted::CompleteTooSoon
                    | Planted::TellOnlyNews
                    | Planted::TellWhileWorking
                    | Planted::AgreeUnasked
                    | Planted::CountRemovalsAnew
                    | Planted::DeleteOrphans
                    | Planted::ReleaseSilent
                    | Planted::MoveSilent,
                )
                | None => None,
            },
            ..self.temper.config()
        };
        let started = self.machines[machine].start(self.now, config, self.temper.drift_percent, &mut chance);
        self.stats.starts += 1;
        match started {
            Ok(()) => {
                let (boot, applied) = (self.machines[machine].boot, self.machines[machine].applied);
                self.note("start", &[machine as u64, applied], || format!("machine {machine} starts with {applied} applied"));
                let after = self.chance.below(40_000);
                self.schedule(after, Event::Tick { machine, boot });
                Ok(())
            }
            Err(why) if why.contains("upgrade it") => {
                self.machines[machine].level = SUPPORTED_LEVEL;
                self.schedule(50_000, Event::Start { machine });
                Ok(())
            }
            Err(why) => Err(format!("machine {machine} does not start: {why}")),
        }
    }

    /// The power of a machine goes, and comes back after a while.
    pub(crate) fn power_off(&mut self, machine: usize, back_after: Micros) -> Result<(), String> {
        self.note("power off", &[machine as u64], || format!("machine {machine} loses its power"));
        let mut chance = self.chance.fork();
        self.machines[machine].lose_power(&mut chance);
        self.schedule(back_after, Event::Start { machine });
        Ok(())
    }

    /// One fault, and the time of the next.
    pub(crate) fn fault(&mut self) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        let every = self.temper.fault_every_us;
        let after = self.chance.between(every / 4, every * 2);
        self.schedule(after, Event::Fault);
        let weights = self.temper.weights;
        let kinds = [
            weights.crash,
            weights.blackout,
            weights.partition,
            weights.pause,
            weights.clock,
            weights.slow_disk,
            weights.full_disk,
            weights.wipe,
            weights.membership,
            weights.transfer,
            weights.restore,
            weights.agent,
            weights.silence,
            3,
        ];
        let mut drawn = self.chance.below(kinds.iter().sum());
        let kind = kinds.iter().position(|weight| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        });
        let machine = self.chance.below(self.machines.len() as u64) as usize;
        match kind {
            Some(0) => {
                let back = self.chance.between(20_000, 2_000_000);
                self.power_off(machine, back)?;
            }
            Some(1) => {
                for machine in 0..self.machines.len() {
                    let back = self.chance.between(20_000, 1_000_000);
                    self.power_off(machine, back)?;
                }
            }
            Some(2) => self.partition(),
            Some(3) => {
                let until = self.now + self.chance.between(50_000, 2_500_000);
                self.note("pause", &[machine as u64], || format!("machine {machine} stands still"));
                self.machines[machine].paused_until = until;
            }
            Some(4) => {
                let ms = self.chance.between(100, 20_000);
                self.note("clock", &[machine as u64, ms], || format!("the clock of machine {machine} jumps by {ms} ms"));
                self.machines[machine].clock.jump(ms);
            }
            Some(5) => self.machines[machine].slow_until = self.now + self.chance.between(100_000, 2_000_000),
            Some(6) => self.machines[machine].disk.full = true,
            Some(7) => self.wipe(machine),
            Some(8) => self.change_members(machine),
            Some(9) => self.operate(What::Transfer),
            Some(10) => self.back_up_or_restore(machine),
            Some(11) => self.trouble_agent(),
            Some(12) => self.silence(),
            Some(_) | None => self.change_fleet(),
        }
        Ok(())
    }

    fn partition(&mut self) {
        let machines = self.machines.len();
        let mut some = BTreeSet::new();
        for machine in 0..machines {
            if self.chance.percent(40) {
                some.insert(machine);
            }
        }
        let way = self.chance.below(4);
        self.note("partition", &[way], || format!("machines {some:?} are cut off: hear {}, say {}", way != 1, way != 2));
        self.net.cut_off(&some, machines, way != 1, way != 2);
        let after = self.chance.between(100_000, 2_500_000);
        self.schedule(after, Event::Heal);
    }

    /// Gives the operator something to do.
    fn operate(&mut self, what: What) {
        let operator = &mut self.callers[0];
        if let Kind::Operator(jobs) = &mut operator.kind {
            jobs.push_back(what);
        }
        let serial = operator.serial;
        self.schedule(1_000, Event::Next { caller: 0, serial });
    }

    /// Whether the group is whole: the operator has nothing left to do, and every member is a voter whose disk is as it was.
    fn is_whole(&self) -> bool {
        let membership = self.membership();
        let intact =
            |id| self.members.get(id).is_some_and(|machine| self.machines[*machine].member() == *id && !self.machines[*machine].removed);
        self.callers[0].is_done() && membership.learners.is_empty() && membership.voters.len() >= 3 && membership.voters.keys().all(intact)
    }

    fn wipe(&mut self, machine: usize) {
        let old = self.machines[machine].member();
        if !self.is_whole() || !self.membership().voters.contains_key(&old) {
            return;
        }
        self.note("wipe", &[machine as u64], || format!("machine {machine} loses its disk"));
        let mut chance = self.chance.fork();
        self.machines[machine].lose_power(&mut chance);
        self.machines[machine].disk = self.empty_disk(machine);
        self.schedule(200_000, Event::Start { machine });
        let (new, info) = (self.machines[machine].member(), self.machines[machine].info());
        self.operate(What::Remove(old));
        self.operate(What::Add(new, info));
    }

    fn change_members(&mut self, machine: usize) {
        if !self.callers[0].is_done() {
            return;
        }
        let member = self.machines[machine].member();
        if self.is_whole() && self.membership().voters.len() > 3 && self.chance.percent(70) {
            self.operate(What::Remove(member));
        } else if self.machines.len() < 6 {
            let machine = self.add_machine();
            self.schedule(10_000, Event::Start { machine });
            let (id, info) = (self.machines[machine].member(), self.machines[machine].info());
            self.note("new", &[machine as u64], || format!("machine {machine} joins as {id}"));
            self.operate(What::Add(id, info));
        }
    }

    fn back_up_or_restore(&mut self, machine: usize) {
        let backup = self.backup.take().filter(|_| self.chance.percent(60) && self.callers[0].is_done());
        if let Some(state) = backup {
            self.note("restore", &[state.revision().index], || format!("the backup of {} is restored", state.revision()));
            self.operate(What::Restore(state));
        } else if self.callers[0].is_done() {
            self.backup = self.machines[machine].replica.as_ref().map(|replica| Box::new(replica.state().clone()));
        }
    }

    fn change_fleet(&mut self) {
        if !self.callers[0].is_done() {
            return;
        }
        let number = self.chance.below(self.temper.clusters as u64) as usize;
        let ask = if self.chance.percent(50) {
            Ask::CordonCluster { name: fleet::cluster_name(number), cordoned: self.chance.percent(40) }
        } else {
            let mut spec = fleet::cluster(number, self.chance.between(4, 16) as u32);
            spec.uid = fleet::uid(number);
            Ask::PutCluster { spec: Box::new(spec), expected: None }
        };
        self.operate(What::Ask(ask));
    }

    /// The faults are over: everything works again, and everybody gets an answer.
    pub(crate) fn calm_down(&mut self) -> Result<(), String> {
        self.note("calm", &[], || "the faults are over".to_owned());
        self.calm = true;
        self.net.calm();
        self.calm_agents();
        for machine in 0..self.machines.len() {
            let it = &mut self.machines[machine];
            (it.paused_until, it.slow_until, it.disk.full) = (0, 0, false);
            self.schedule(1_000, Event::Start { machine });
        }
        Ok(())
    }

    /// Everybody is done and agrees: was anything lost?
    pub(crate) fn at_the_end(&mut self) -> Result<(), String> {
        let membership = self.membership();
        (self.stats.orphans, self.stats.running_orphans) = self.newest().map_or((0, 0), |state| orphans(state, &self.clusters));
        let mut digests = BTreeSet::new();
        for id in membership.ids() {
            let replica = self.members.get(&id).and_then(|machine| self.machines[*machine].replica.as_ref());
            let replica = replica.ok_or("a member does not run")?;
            let state = replica.state();
            if state.revision() < self.acknowledged {
                return Err(format!("{} was acknowledged, the group ends at {}", self.acknowledged, state.revision()));
            }
            digests.insert(state.digest());
        }
        if digests.len() > 1 {
            return Err("replicas differ at the end".to_owned());
        }
        if !self.restored {
            for (register, history) in &self.registers {
                if !linearizable::check(history) {
                    return Err(format!(
                        "the operations on {register} are not linearizable: {} of them, the last {:?}",
                        history.len(),
                        history.last()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Why the run does not end, in words.
    pub(crate) fn who_waits(&self) -> String {
        let waiting: Vec<String> =
            self.callers.iter().filter(|caller| !caller.is_done()).map(|caller| caller.principal.to_string()).collect();
        let replicas: Vec<String> = self
            .machines
            .iter()
            .map(|machine| {
                format!(
                    "machine {} at {} in term {}{}",
                    machine.number,
                    machine.applied,
                    machine.role.term,
                    if machine.role.leading { ", leading" } else { "" }
                )
            })
            .collect();
        let unsettled = self.unsettled().unwrap_or_default();
        format!(
            "no progress after the faults were over: {waiting:?} wait; {replicas:?}; the last entry is {}; {unsettled}",
            self.truth.last
        )
    }
}
