//! What a driver does: hands inputs to a replica, and carries out what comes out of it. Whatever comes out is checked on the way.

use roadstead_consensus::door::{Answer, Input, LogWrite, Output, Role, Ticket};
use roadstead_consensus::member::MemberId;
use roadstead_core::command::{FeatureLevel, Outcome};
use roadstead_core::id::{ClusterId, Incarnation};
use roadstead_core::intent;

use crate::caller::{Kind, ReadOf, Reply, Seen, What};
use crate::checks;
use crate::disk::{SnapshotFile, SnapshotKey, decode, encode};
use crate::net::Micros;
use crate::truth::needs_entry;
use crate::world::{Event, Planted, World};

/// Tries to fetch a snapshot before the replica is told that it failed.
const FETCH_TRIES: u32 = 12;
/// How long a driver takes to tell of an agent that was heard of.
const CONTACT_US: Micros = 500;

impl World {
    /// Hands an input to a running replica, and carries out what comes of it.
    pub(crate) fn input(&mut self, machine: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let it = &mut self.machines[machine];
        let Some(replica) = &mut it.replica else { return Ok(()) };
        let outputs = replica.on(input, it.clock.read(now));
        for output in outputs {
            self.carry_out(machine, output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, machine: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Send { to, messages } => self.send(machine, to, messages),
            Output::Persist { number, write } => return self.persist(machine, number, write),
            Output::Applied { index, applied, .. } => {
                let it = &mut self.machines[machine];
                if index != it.applied + 1 {
                    return Err(format!("machine {machine} applied entry {index} after {}", it.applied));
                }
                it.applied = index;
                // A state may be ahead of an output that is still to be carried out: compare when it is not.
                return self.check_applied(machine, index, &applied);
            }
            Output::Replaced { revision, .. } => {
                let it = &mut self.machines[machine];
                it.applied = revision.index;
                let term = it.terms.get(&revision.index).copied().unwrap_or_default();
                self.note("replaced", &[machine as u64, revision.index], || format!("machine {machine} at {revision}"));
                self.stats.restores += u64::from(revision.incarnation > self.truth.incarnation);
                let Some(replica) = &self.machines[machine].replica else { return Ok(()) };
                self.carried.begins(replica.state());
                let state = Some(replica.state()).filter(|state| state.revision() == revision);
                return self.truth.replaced(revision, term, state);
            }
            Output::Answer { ticket, answer } => return self.answered(machine, ticket, answer),
            Output::ReadReady { ticket, revision } => {
                let Some(replica) = &self.machines[machine].replica else { return Ok(()) };
                let (state, Some(asked)) = (replica.state(), self.tickets.get(&ticket)) else { return Ok(()) };
                if revision < asked.floor {
                    return Err(format!("machine {machine} read at {revision}, although {} had been acknowledged", asked.floor));
                }
                if state.revision() < revision {
                    return Err(format!("machine {machine} reads at {revision}, and is at {}", state.revision()));
                }
                self.read(machine, ticket);
            }
            Output::FetchSnapshot { from, term, index } => {
                let boot = self.machines[machine].boot;
                let from = self.members.get(&from).copied().unwrap_or(machine);
                self.note("fetch", &[machine as u64, index], || format!("machine {machine} fetches the snapshot at {index} from {from}"));
                self.schedule(10_000, Event::Fetch { machine, boot, from, key: (index, term), left: FETCH_TRIES });
            }
            Output::TakeSnapshot { term, index, membership, state } => {
                let (boot, key, file) = (self.machines[machine].boot, (index, term), encode(membership, &state));
                let after = self.chance.between(2_000, 150_000);
                self.schedule(after, Event::SnapshotWritten { machine, boot, key, file });
            }
            Output::Compact { through } => self.machines[machine].disk.compact(through),
            Output::Role(role) => return self.role(machine, role),
            Output::Removed => {
                self.note("removed", &[machine as u64], || format!("machine {machine} was removed"));
                self.machines[machine].removed = true;
                self.machines[machine].replica = None;
            }
            Output::Alarm { what, fatal } => return self.alarmed(machine, &what, fatal),
        }
        Ok(())
    }

    fn alarmed(&mut self, machine: usize, what: &str, fatal: bool) -> Result<(), String> {
        self.note("alarm", &[machine as u64, u64::from(fatal)], || format!("machine {machine}: {what}"));
        if fatal && what.contains("upgrade it") {
            // An older build in a group that went ahead: its operator upgrades it.
            self.machines[machine].level = roadstead_core::command::SUPPORTED_LEVEL;
            return self.power_off(machine, 100_000);
        }
        Err(format!("machine {machine} raised an alarm: {what}"))
    }

    fn send(&mut self, machine: usize, to: MemberId, messages: Vec<Vec<u8>>) {
        let Some(target) = self.members.get(&to).copied() else { return };
        let (from, level) = (self.machines[machine].member(), self.machines[machine].level);
        for message in messages {
            for at in self.net.carry(self.now, machine, target) {
                self.schedule_at(at, Event::Deliver { machine: target, to, from, level, message: message.clone() });
            }
        }
    }

    pub(crate) fn deliver(
        &mut self,
        machine: usize,
        to: MemberId,
        from: MemberId,
        level: FeatureLevel,
        message: Vec<u8>,
    ) -> Result<(), String> {
        let up = self.machines[machine].replica.as_ref().is_some_and(|replica| replica.id() == to);
        if !up {
            return Ok(());
        }
        self.note("deliver", &[machine as u64, from.0, message.len() as u64], || {
            format!("machine {machine} hears {} bytes of {from}", message.len())
        });
        self.input(machine, Input::Messages { from, level, messages: vec![message] })
    }

    fn persist(&mut self, machine: usize, number: u64, write: LogWrite) -> Result<(), String> {
        let it = &mut self.machines[machine];
        let applied = it.replica.as_ref().map_or(0, |replica| replica.state().revision().index);
        if let Some(first) = write.entries.first() {
            it.terms.split_off(&first.index);
            it.terms.extend(write.entries.iter().map(|entry| (entry.index, entry.term)));
        }
        for entry in &write.entries {
            self.truth.written(entry, applied)?;
        }
        if self.machines[machine].disk.full {
            self.note("full", &[machine as u64], || format!("machine {machine} has no space left and stops"));
            return self.power_off(machine, 800_000);
        }
        let sync_us = self.temper.sync_us;
        let mut chance = self.chance.fork();
        let it = &mut self.machines[machine];
        it.disk.write(number, write);
        let (at, boot) = (it.disk_time(self.now, sync_us, &mut chance), it.boot);
        if self.planted == Some(Planted::SkipSync) {
            let (lands, later) = (true, chance.between(5_000, 800_000));
            self.schedule(50, Event::Synced { machine, boot, number, lands: false, tell: true });
            self.schedule_at(at + later, Event::Synced { machine, boot, number, lands, tell: false });
        } else {
            self.schedule_at(at, Event::Synced { machine, boot, number, lands: true, tell: true });
        }
        Ok(())
    }

    pub(crate) fn synced(&mut self, machine: usize, boot: u64, number: u64, lands: bool, tell: bool) -> Result<(), String> {
        if !self.is_up(machine, boot) {
            return Ok(());
        }
        if lands {
            self.machines[machine].disk.synced(number);
        }
        if tell { self.input(machine, Input::Persisted { number }) } else { Ok(()) }
    }

    fn check_applied(&mut self, machine: usize, index: u64, applied: &roadstead_core::apply::Applied) -> Result<(), String> {
        let it = &self.machines[machine];
        let Some(replica) = &it.replica else { return Ok(()) };
        let term = it.terms.get(&index).copied().unwrap_or_default();
        let state = replica.state();
        let current = state.revision().index == index;
        let first = self.truth.applied(index, term, current.then_some(state), applied)?;
        if first {
            self.checks.fence(index, state, applied)?;
            if let Some(batch) = self.truth.batch(index, term) {
                checks::asked_for(index, state, batch, applied)?;
            }
            self.carried.begins(state);
            self.carried.applied(state, applied)?;
        }
        if current {
            self.checks.applied(index, state, applied)?;
        }
        let digest = if current { state.digest() } else { 0 };
        if first {
            self.silence_turned(machine, applied);
        }
        self.note("applied", &[machine as u64, index, digest], || {
            format!("machine {machine} applied {index} of term {term}: {} outcomes, digest {digest:016x}", applied.outcomes.len())
        });
        Ok(())
    }

    fn role(&mut self, machine: usize, role: Role) -> Result<(), String> {
        let member = self.machines[machine].member();
        if role.leading {
            let leader = *self.leaders.entry(role.term).or_insert(member);
            if leader != member {
                return Err(format!("{leader} and {member} both lead in term {}", role.term));
            }
        }
        self.note("role", &[machine as u64, role.term, u64::from(role.leading)], || {
            format!("machine {machine} ({member}) in term {}, leading {}, {} voters", role.term, role.leading, role.membership.voters.len())
        });
        self.machines[machine].role = role;
        Ok(())
    }

    fn answered(&mut self, machine: usize, ticket: Ticket, answer: Answer) -> Result<(), String> {
        let Some(asked) = self.tickets.get(&ticket) else { return Err(format!("machine {machine} answered ticket {} twice", ticket.0)) };
        let caller = asked.caller;
        if let Answer::Outcome { outcome, revision } = &answer {
            if *revision < asked.floor {
                return Err(format!("an answer reflects {revision}, although {} had been acknowledged", asked.floor));
            }
            let in_log = asked.key.as_ref().and_then(|key| self.truth.answer(key));
            let same_incarnation = revision.incarnation == self.truth.incarnation;
            match in_log {
                Some(first) if same_incarnation && first != outcome => {
                    return Err(format!("machine {machine} answered {outcome:?}, in the log it is {first:?}"));
                }
                None if same_incarnation && needs_entry(outcome, revision.incarnation) => {
                    return Err(format!("machine {machine} answered {outcome:?}, which nobody has applied"));
                }
                Some(_) | None => {}
            }
            let before = asked.before.as_ref().filter(|before| matches!(before, Outcome::Done(_)) && !self.restored);
            if let Some(before) = before.filter(|before| *before != outcome) {
                return Err(format!("a request that came again was answered {outcome:?}, at first {before:?}"));
            }
        }
        if matches!(answer, Answer::Outcome { outcome: Outcome::Done(_), .. }) {
            self.note_contact(machine, caller);
        }
        let complete = self.complete_wanted(machine, caller);
        self.reply(machine, ticket, Reply::Answer(answer, complete));
        Ok(())
    }

    /// The leader takes an agent for heard of although what it told may be known already.
    fn note_contact(&mut self, machine: usize, caller: usize) {
        let it = &self.machines[machine];
        let (Kind::Agent(agent), Some(replica)) = (&self.callers[caller].kind, &it.replica) else { return };
        let Some(cluster) = replica.state().cluster(self.clusters[agent.cluster].name.as_str()) else { return };
        let (boot, cluster) = (it.boot, cluster.id);
        self.schedule(CONTACT_US, Event::Heard { machine, boot, cluster });
    }

    pub(crate) fn agent_heard(&mut self, machine: usize, boot: u64, cluster: ClusterId) -> Result<(), String> {
        if self.is_up(machine, boot) { self.input(machine, Input::Heard(cluster)) } else { Ok(()) }
    }

    /// The incarnation for which all that is in an agent's cluster is awaited, as a machine knows it.
    fn complete_wanted(&self, machine: usize, caller: usize) -> Option<Incarnation> {
        let Kind::Agent(agent) = &self.callers[caller].kind else { return None };
        let state = self.machines[machine].replica.as_ref()?.state();
        let cluster = state.cluster(self.clusters[agent.cluster].name.as_str())?;
        cluster.fenced.then(|| state.incarnation())
    }

    /// Answers a read with what a machine has applied.
    pub(crate) fn read(&mut self, machine: usize, ticket: Ticket) {
        let (Some(replica), Some(asked)) = (&self.machines[machine].replica, self.tickets.get(&ticket)) else { return };
        let (state, What::Read(what)) = (replica.state(), &asked.what) else { return };
        let reply = Reply::Read(state.revision(), see(state, what));
        self.reply(machine, ticket, reply);
    }

    /// Sends a reply to whoever asked.
    fn reply(&mut self, machine: usize, ticket: Ticket, reply: Reply) {
        let Some(asked) = self.tickets.remove(&ticket) else { return };
        if asked.before.is_some() {
            return;
        }
        let (caller, serial) = (asked.caller, asked.serial);
        if self.is_silent(caller) {
            return;
        }
        if let Reply::Read(_, Seen::Intent(Some(intent))) = &reply
            && self.chance.percent(self.temper.late_percent)
        {
            let after = self.chance.between(50_000, 6_000_000);
            self.schedule(after, Event::Intent { caller, intent: Box::new(intent.clone()) });
        }
        if let Some(at) = self.net.carry(self.now, machine, usize::MAX).first() {
            self.schedule_at(*at, Event::Hear { caller, serial, reply });
        }
    }

    pub(crate) fn snapshot_written(&mut self, machine: usize, boot: u64, key: SnapshotKey, file: SnapshotFile) -> Result<(), String> {
        if !self.is_up(machine, boot) {
            return Ok(());
        }
        self.machines[machine].disk.keep_snapshot(key, file);
        self.note("snapshot", &[machine as u64, key.0], || format!("machine {machine} has a snapshot at {}", key.0));
        self.input(machine, Input::SnapshotTaken { index: key.0 })
    }

    pub(crate) fn fetch(&mut self, machine: usize, boot: u64, from: usize, key: SnapshotKey, left: u32) -> Result<(), String> {
        if !self.is_up(machine, boot) {
            return Ok(());
        }
        let reached = self.machines[from].replica.is_some() && !self.net.is_cut(from, machine) && !self.net.is_cut(machine, from);
        let file = self.machines[from].disk.snapshot(key).filter(|_| reached && !self.chance.percent(20)).cloned();
        let (index, term) = key;
        match file {
            Some(file) => {
                self.machines[machine].disk.keep_snapshot(key, file);
                let after = self.chance.between(100, 60_000);
                self.schedule(after, Event::Fetched { machine, boot, key });
                let to = self.machines[machine].member();
                self.input(from, Input::SnapshotDelivered { to, ok: true })
            }
            None if left > 0 => {
                self.schedule(80_000, Event::Fetch { machine, boot, from, key, left: left - 1 });
                Ok(())
            }
            None => {
                let to = self.machines[machine].member();
                self.input(machine, Input::SnapshotFailed { term, index })?;
                self.input(from, Input::SnapshotDelivered { to, ok: false })
            }
        }
    }

    pub(crate) fn fetched(&mut self, machine: usize, boot: u64, key: SnapshotKey) -> Result<(), String> {
        if !self.is_up(machine, boot) {
            return Ok(());
        }
        let (index, term) = key;
        let Some(file) = self.machines[machine].disk.snapshot(key) else {
            return self.input(machine, Input::SnapshotFailed { term, index });
        };
        let (membership, state) = (file.membership.clone(), Box::new(decode(&file.chunks)?));
        self.stats.installs += 1;
        self.note("install", &[machine as u64, index], || format!("machine {machine} takes over the snapshot at {index}"));
        self.input(machine, Input::SnapshotInstalled { term, index, membership, state })
    }
}

fn see(state: &roadstead_core::state::State, what: &ReadOf) -> Seen {
    match what {
        ReadOf::Tenant(name) => Seen::Tenant(state.tenant(name.as_str()).map(|tenant| tenant.spec.values.to_string())),
        ReadOf::Intent { cluster, .. } => {
            Seen::Intent(state.cluster(cluster.as_str()).map(|cluster| intent::for_cluster(state, cluster.id)))
        }
    }
}
