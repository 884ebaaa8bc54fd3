//! Callers at work: what they ask, when they lose patience, and what becomes of an answer.

use roadstead_consensus::door::{Answer, Input, Ticket};
use roadstead_core::command::{Done, Outcome};
use roadstead_core::id::Revision;
use roadstead_core::request::Request;

use crate::caller::{Job, Kind, MAX_REGISTER_OPERATIONS, ReadOf, Reply, Seen, What, token_of};
use crate::linearizable::{Effect, Operation};
use crate::net::Micros;
use crate::world::{Asked, Event, ORIGIN_MS, World};

/// How long a caller waits for an answer.
const PATIENCE_US: Micros = 700_000;
/// Pause before a caller asks again.
const PAUSE_US: Micros = 30_000;

impl World {
    /// A caller looks for something to do.
    pub(crate) fn next_job(&mut self, number: usize, serial: u64) -> Result<(), String> {
        let unix_ms = ORIGIN_MS + self.now / 1000;
        // What is heard and what is told do not wait for each other.
        let tells = self.callers[number].job.is_none() && self.callers[number].serial == serial && self.chance.percent(30);
        let told = if tells { self.told_next(number) } else { None };
        let caller = &mut self.callers[number];
        if caller.job.is_some() || caller.serial != serial || (self.calm && matches!(caller.kind, Kind::Client)) {
            return Ok(());
        }
        let mut register = None;
        let what = match &mut caller.kind {
            Kind::Operator(jobs) => match jobs.pop_front() {
                Some(what) => what,
                None => {
                    self.begin_the_rest();
                    return Ok(());
                }
            },
            Kind::Client => {
                let open = self.registers.values().all(|history| history.len() < MAX_REGISTER_OPERATIONS);
                let (what, drawn) = caller.draw(&mut self.tokens, open);
                register = drawn;
                what
            }
            Kind::Agent(agent) if !agent.runs => return Ok(()),
            Kind::Agent(agent) => told.unwrap_or_else(|| {
                let lagging = caller.chance.percent(self.temper.late_percent);
                What::Read(ReadOf::Intent { cluster: self.clusters[agent.cluster].name.clone(), lagging })
            }),
        };
        let floor = if let What::Read(ReadOf::Intent { lagging: true, .. }) = what { Revision::default() } else { self.acknowledged };
        caller.begin(what, register, self.now, floor, unix_ms);
        self.ask(number);
        Ok(())
    }

    /// The fleet is set up: clients and agents begin.
    fn begin_the_rest(&mut self) {
        for caller in 1..self.callers.len() {
            let first = match &self.callers[caller].kind {
                Kind::Agent(agent) => agent.boot == 0 && (self.first_agent..caller).count() % 2 == 0,
                Kind::Client | Kind::Operator(_) => false,
            };
            if first {
                self.start_agent(caller);
            } else if self.callers[caller].serial == 0 {
                let after = self.chance.between(1_000, 300_000);
                self.schedule(after, Event::Next { caller, serial: 0 });
            }
        }
    }

    /// Sends a caller's job to the machine that it asks.
    pub(crate) fn ask(&mut self, number: usize) {
        let machines = self.machines.len();
        let caller = &mut self.callers[number];
        let Some(job) = &mut caller.job else { return };
        job.attempt += 1;
        let (serial, attempt, machine) = (caller.serial, job.attempt, caller.asks % machines);
        let key = job.retry.map(|retry| (caller.principal.clone(), retry.id));
        let asked = Asked { caller: number, serial, key, floor: job.floor, retry: job.retry, before: None, what: job.what.clone() };
        if !self.is_silent(number) {
            for at in self.net.carry(self.now, usize::MAX, machine) {
                self.schedule_at(at, Event::Arrive { machine, asked: asked.clone() });
            }
        }
        self.schedule(PATIENCE_US, Event::Impatient { caller: number, serial, attempt });
    }

    /// Something a caller asks for reaches a machine.
    pub(crate) fn arrive(&mut self, machine: usize, asked: Asked) -> Result<(), String> {
        if self.machines[machine].replica.is_none() {
            return Ok(());
        }
        self.last_ticket += 1;
        let (ticket, what) = (Ticket(self.last_ticket), asked.what.clone());
        let (principal, retry) = (self.callers[asked.caller].principal.clone(), asked.retry);
        self.note("asked", &[machine as u64, asked.caller as u64, asked.serial], || {
            format!("machine {machine} is asked by {principal}, job {}: {}", asked.serial, describe(&what))
        });
        self.tickets.insert(ticket, asked);
        match what {
            What::Ask(ask) => {
                let it = &mut self.machines[machine];
                it.inbox.push((ticket, Request { principal, retry, ask }));
                if it.inbox.len() == 1 {
                    let boot = it.boot;
                    let after = self.chance.below(4_000);
                    self.schedule(after, Event::Drain { machine, boot });
                }
                Ok(())
            }
            What::Read(ReadOf::Intent { lagging: true, .. }) => {
                self.read(machine, ticket);
                Ok(())
            }
            What::Read(_) => self.input(machine, Input::Read(ticket)),
            What::Add(id, info) => self.input(machine, Input::AddMember { ticket, id, info }),
            What::Remove(id) => self.input(machine, Input::RemoveMember { ticket, id }),
            What::Transfer => self.input(machine, Input::Transfer { ticket, to: None }),
            What::Restore(state) => {
                let chunks = roadstead_core::codec::snapshot(&state).collect();
                self.restored = true;
                self.input(machine, Input::Restore { ticket, state, chunks })
            }
        }
    }

    /// The driver takes everything that waits.
    pub(crate) fn drain(&mut self, machine: usize, boot: u64) -> Result<(), String> {
        if !self.is_up(machine, boot) {
            return Ok(());
        }
        let requests = std::mem::take(&mut self.machines[machine].inbox);
        self.input(machine, Input::Requests(requests))
    }

    /// Nobody has answered for long.
    pub(crate) fn impatient(&mut self, number: usize, serial: u64, attempt: u32) -> Result<(), String> {
        let caller = &mut self.callers[number];
        let waits = caller.serial == serial && caller.job.as_ref().is_some_and(|job| job.attempt == attempt);
        if !waits {
            return Ok(());
        }
        caller.asks = caller.chance.below(1 << 16) as usize;
        let gives_up = match caller.kind {
            Kind::Client => caller.chance.percent(3),
            Kind::Agent(_) => caller.chance.percent(30),
            Kind::Operator(_) => false,
        };
        if gives_up && let Kind::Agent(agent) = &mut caller.kind {
            agent.forget_said();
        }
        if gives_up && let Some(job) = caller.job.take() {
            self.remember(&job, None);
            self.schedule(PAUSE_US, Event::Next { caller: number, serial });
        } else {
            self.ask(number);
        }
        Ok(())
    }

    /// A caller hears an answer.
    pub(crate) fn hear(&mut self, number: usize, serial: u64, reply: Reply) -> Result<(), String> {
        let caller = &self.callers[number];
        let (Some(job), true) = (&caller.job, caller.serial == serial) else { return Ok(()) };
        let attempt = job.attempt;
        match reply {
            Reply::Answer(Answer::NotLeader { leader }, _) => {
                let known = leader.and_then(|leader| self.members.get(&leader).copied());
                let elsewhere = self.callers[number].chance.below(1 << 16) as usize;
                self.callers[number].asks = known.unwrap_or(elsewhere);
                self.try_again(number, serial, attempt);
            }
            Reply::Answer(Answer::Unknown | Answer::Overloaded { .. }, _) => self.try_again(number, serial, attempt),
            Reply::Answer(Answer::Refused { why }, _) => {
                let settled = matches!(job.what, What::Transfer | What::Restore(_))
                    || why.contains("takes part")
                    || why.contains("does not take part");
                if settled { self.finish(number) } else { self.try_again(number, serial, attempt) }
            }
            Reply::Answer(Answer::Done { revision }, _) => {
                self.acknowledged = self.acknowledged.max(revision);
                self.finish(number);
            }
            Reply::Answer(Answer::Outcome { outcome, revision }, complete) => {
                self.acknowledged = self.acknowledged.max(revision);
                self.stats.answers += 1;
                self.told_taken(number, complete);
                self.heard_outcome(number, &outcome);
            }
            Reply::Read(revision, seen) => {
                self.acknowledged = self.acknowledged.max(revision);
                self.stats.answers += 1;
                return self.heard_read(number, seen);
            }
        }
        Ok(())
    }

    fn try_again(&mut self, caller: usize, serial: u64, attempt: u32) {
        self.schedule(PAUSE_US, Event::Impatient { caller, serial, attempt });
    }

    fn finish(&mut self, number: usize) {
        let caller = &mut self.callers[number];
        caller.job = None;
        let (serial, agent) = (caller.serial, matches!(caller.kind, Kind::Agent(_)));
        let after = if agent { caller.chance.between(150_000, 600_000) } else { caller.chance.between(5_000, 120_000) };
        self.schedule(after, Event::Next { caller: number, serial });
    }

    fn heard_outcome(&mut self, number: usize, outcome: &Outcome) {
        let Some(job) = self.callers[number].job.clone() else { return };
        if let Outcome::Done(_) = outcome {
            self.remember(&job, Some(None));
            self.send_again_late(number, &job, outcome);
        }
        self.finish(number);
    }

    /// Now and then the network keeps a copy of a request, and delivers it long after it was answered.
    fn send_again_late(&mut self, number: usize, job: &Job, outcome: &Outcome) {
        let caller = &mut self.callers[number];
        let place = matches!(outcome, Outcome::Done(Done::Placed { .. } | Done::Pending { .. } | Done::Changed { .. }));
        if !place || job.retry.is_none() || !caller.chance.percent(25) {
            return;
        }
        let (serial, key) = (caller.serial, job.retry.map(|retry| (caller.principal.clone(), retry.id)));
        let asked = Asked {
            caller: number,
            serial,
            key,
            floor: job.floor,
            retry: job.retry,
            before: Some(outcome.clone()),
            what: job.what.clone(),
        };
        for machine in 0..self.machines.len() {
            let after = self.chance.between(10_000, 6_000_000);
            self.schedule(after, Event::Arrive { machine, asked: asked.clone() });
        }
    }

    fn heard_read(&mut self, number: usize, seen: Seen) -> Result<(), String> {
        let Some(job) = self.callers[number].job.clone() else { return Ok(()) };
        match seen {
            Seen::Tenant(values) => {
                let token = values.as_deref().and_then(token_of).ok_or("a register is gone");
                if !self.restored {
                    self.remember(&job, Some(Some(token?)));
                }
                self.finish(number);
                Ok(())
            }
            Seen::Intent(intent) => {
                if let Some(intent) = intent {
                    self.intent_heard(number, intent);
                }
                let (unix_ms, floor, now) = (ORIGIN_MS + self.now / 1000, self.acknowledged, self.now);
                let Some(what) = self.told_next(number) else {
                    self.finish(number);
                    return Ok(());
                };
                let caller = &mut self.callers[number];
                caller.job = None;
                caller.begin(what, None, now, floor, unix_ms);
                self.ask(number);
                Ok(())
            }
        }
    }

    /// Whether a caller is in a cluster that reaches nobody.
    pub(crate) fn is_silent(&self, number: usize) -> bool {
        matches!(&self.callers[number].kind, Kind::Agent(agent) if self.clusters[agent.cluster].silent_until > self.now)
    }

    /// Keeps an operation on a register: `read` is what was seen, if it was answered and was a read.
    fn remember(&mut self, job: &Job, read: Option<Option<u64>>) {
        let Some((register, written)) = &job.register else { return };
        let effect = match (written, read) {
            (Some(token), _) => Effect::Write(*token),
            (None, Some(Some(token))) => Effect::Read(token),
            (None, _) => return,
        };
        let answered = read.is_some().then_some(self.now);
        let operation = Operation { called: job.called, answered, effect };
        if let Some(history) = self.registers.get_mut(register) {
            history.push(operation);
        }
    }
}

fn describe(what: &What) -> String {
    match what {
        What::Ask(ask) => {
            let text = format!("{ask:?}");
            text.chars().take(100).collect()
        }
        What::Read(read) => format!("{read:?}"),
        What::Add(id, _) => format!("add {id}"),
        What::Remove(id) => format!("remove {id}"),
        What::Transfer => "hand over".to_owned(),
        What::Restore(_) => "restore".to_owned(),
    }
}
