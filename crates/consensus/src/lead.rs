//! Leading: deciding requests on the working copy, proposing them as entries, and answering when they are applied.
//!
//! A leader decides only after it has applied the first entry of its own term: till then its state may lack what its predecessor acknowledged.

use std::collections::VecDeque;

use raft::StateRole;
use roadstead_core::apply::Applied;
use roadstead_core::codec;
use roadstead_core::command::{Batch, Command, Envelope, Outcome, Rejection};
use roadstead_core::decide::{Contacts, Decision, Working};
use roadstead_core::id::{ClusterId, Revision};
use roadstead_core::request::Principal;
use roadstead_core::state::State;
use roadstead_core::time::Timestamp;

use crate::batch::{Asked, MAX_DECISIONS, MAX_ENTRIES_IN_FLIGHT, Proposal, RETRY_AFTER_MS};
use crate::change::{Farewell, Queued, Underway};
use crate::door::{Answer, Ticket};
use crate::reads::Waiter;
use crate::replica::{MAX_UNCOMMITTED_BYTES, Replica};
use crate::restore::Restoring;

/// What only a leader has.
pub(crate) struct Lead {
    term: u64,
    /// From the moment on at which it decides.
    working: Option<Working>,
    /// Proposals were dropped: the working copy counts what will never be applied, and is made anew once nothing is in flight.
    spoiled: bool,
    contacts: Contacts,
    /// Changes of members that wait, and the one that is in the log.
    pub(crate) changes: VecDeque<Queued>,
    pub(crate) change: Option<Underway>,
    pub(crate) restoring: Option<Restoring>,
    pub(crate) farewell: Farewell,
}

impl Lead {
    fn new(term: u64) -> Self {
        Self {
            term,
            working: None,
            spoiled: false,
            contacts: Contacts::default(),
            changes: VecDeque::new(),
            change: None,
            restoring: None,
            farewell: Farewell::default(),
        }
    }

    /// Whether it has applied the first entry of its term.
    pub(crate) fn decides(&self) -> bool {
        self.working.is_some()
    }

    pub(crate) fn change_in_flight(&self) -> bool {
        self.change.is_some()
    }

    /// The state is new, or newly its own.
    pub(crate) fn start_over(&mut self, state: &State) {
        self.working = Some(Working::new(state));
        self.spoiled = false;
        self.contacts = Contacts { since: state.time(), ..Contacts::default() };
    }

    /// An entry was applied.
    pub(crate) fn applied(&mut self, state: &State, batch: &Batch, applied: &Applied, mine: bool, time: Timestamp) {
        let Some(working) = &mut self.working else { return };
        working.applied(state, batch, applied, mine);
        for envelope in &batch.commands {
            if let Some(report) = envelope.command.report()
                && report.by_agent
                && let Some(cluster) = state.cluster(report.cluster.as_str())
            {
                self.contacts.last_heard.insert(cluster.id, time);
            }
        }
    }
}

impl Replica {
    /// Who stands in the log for the leader's own initiative.
    pub(crate) fn principal(&self) -> Principal {
        Principal::new(&format!("replica:{}", self.id)).expect("hexadecimal digits are legal in a principal")
    }

    /// raft-rs may have made this replica the leader.
    pub(crate) fn notice_election(&mut self) {
        let (leads, term) = (self.raw.raft.state == StateRole::Leader, self.raw.raft.term);
        if leads && self.lead.as_ref().is_some_and(|lead| lead.term != term) {
            self.lose_lead();
        }
        if leads && self.lead.is_none() {
            self.lead = Some(Lead::new(term));
            #[cfg(feature = "sabotage")]
            if self.config.sabotage == Some(crate::replica::Sabotage::DecideBeforeFirstEntry) {
                self.notice_first_entry(term);
            }
        }
    }

    /// The first entry of its own term lets a leader decide.
    pub(crate) fn notice_first_entry(&mut self, term: u64) {
        if let Some(lead) = self.lead.as_mut().filter(|lead| lead.term == term && !lead.decides()) {
            lead.start_over(&self.machine.state);
        }
    }

    pub(crate) fn notice_loss(&mut self) {
        let raft = &self.raw.raft;
        if self.lead.as_ref().is_some_and(|lead| raft.state != StateRole::Leader || raft.term != lead.term) {
            self.lose_lead();
        }
    }

    /// Everybody who waits hears that this replica leads no more.
    pub(crate) fn lose_lead(&mut self) {
        let Some(lead) = self.lead.take() else { return };
        self.snapshots.stop_sending();
        let leader = self.leader().filter(|leader| *leader != self.id);
        let (unknown, mut untouched) = self.requests.give_up();
        for asked in self.reads.take_settled() {
            untouched.extend(self.requests.close(&asked));
        }
        untouched.extend(lead.changes.into_iter().filter_map(|queued| queued.ticket));
        let begun = lead.change.and_then(|underway| underway.ticket).into_iter().chain(lead.restoring.map(|restoring| restoring.ticket));
        for ticket in unknown.into_iter().chain(begun) {
            self.answer(ticket, Answer::Unknown);
        }
        for ticket in untouched {
            self.answer(ticket, Answer::NotLeader { leader });
        }
    }

    /// Proposes what waits and may be proposed.
    pub(crate) fn lead_on(&mut self) {
        self.notice_election();
        self.notice_loss();
        let in_flight = self.requests.entries_in_flight();
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.decides()) else { return };
        if lead.spoiled && in_flight == 0 {
            lead.working = Some(Working::new(&self.machine.state));
            lead.spoiled = false;
        }
        self.restore_on();
        self.change_on();
        self.prove_removals();
        while self.requests.has_waiting() && self.may_propose() {
            let asked = self.requests.next(self.config.max_batch, self.config.max_entry_bytes);
            self.decide(asked);
        }
    }

    /// Whether raft-rs would take an entry.
    pub(crate) fn may_propose(&self) -> bool {
        let ready = self.lead.as_ref().is_some_and(|lead| lead.decides() && !lead.spoiled && lead.restoring.is_none());
        let raft = &self.raw.raft;
        let room =
            (raft.uncommitted_size() as u64) < MAX_UNCOMMITTED_BYTES / 2 && self.requests.entries_in_flight() < MAX_ENTRIES_IN_FLIGHT;
        ready && room && raft.lead_transferee.is_none()
    }

    fn decide(&mut self, asked: Vec<Asked>) {
        let time = self.clock.at(self.now);
        let (mut commands, mut askers, mut settled) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()), Vec::new());
        let Some(working) = self.lead.as_mut().and_then(|lead| lead.working.as_mut()) else { return };
        for mut one in asked {
            one.decisions += 1;
            match working.decide(&self.machine.state, &one.request, time) {
                Ok(Decision::Propose(command)) => {
                    commands.push(Envelope { principal: one.request.principal.clone(), retry: one.request.retry, command });
                    askers.push(Some(one));
                }
                Ok(Decision::Answer(outcome)) => settled.push((one, outcome)),
                Err(rejection) => settled.push((one, Outcome::Rejected(rejection))),
            }
        }
        if commands.is_empty() {
            // What it looked at counts only if it still leads, and once its own entries before this are applied.
            self.reads.arrive(Waiter::Settled { answers: settled, after: self.raw.raft.raft_log.last_index() });
        } else {
            self.propose(time, commands, askers, settled);
        }
    }

    /// Proposes an entry without commands; its index, if raft-rs takes it.
    pub(crate) fn propose_nothing(&mut self) -> Option<u64> {
        let before = self.raw.raft.raft_log.last_index();
        self.propose(self.clock.at(self.now), Vec::new(), Vec::new(), Vec::new());
        Some(self.raw.raft.raft_log.last_index()).filter(|index| *index > before)
    }

    fn propose(&mut self, time: Timestamp, commands: Vec<Envelope>, askers: Vec<Option<Asked>>, settled: Vec<(Asked, Outcome)>) {
        let batch = Batch { level: self.machine.state.level(), time, commands };
        let data = codec::encode_batch(&batch);
        if self.raw.propose(Vec::new(), data).is_err() {
            if let Some(lead) = &mut self.lead {
                lead.spoiled = true;
            }
            let asked: Vec<Asked> = askers.into_iter().flatten().chain(settled.into_iter().map(|(asked, _)| asked)).collect();
            self.requests.put_back(asked.into_iter());
            return;
        }
        self.clock.saw(time, self.now);
        #[allow(unused_mut)] // only sabotage changes it
        let mut proposal = Proposal { index: self.raw.raft.raft_log.last_index(), term: self.raw.raft.term, batch, askers, settled };
        #[cfg(feature = "sabotage")]
        self.sabotage_proposal(&mut proposal);
        self.requests.proposed(proposal);
    }

    #[cfg(feature = "sabotage")]
    fn sabotage_proposal(&mut self, proposal: &mut Proposal) {
        use crate::replica::Sabotage;
        if self.config.sabotage == Some(Sabotage::CountWithoutReservations)
            && let Some(lead) = &mut self.lead
        {
            lead.working = Some(Working::new(&self.machine.state));
        }
        if self.config.sabotage == Some(Sabotage::AnswerBeforeCommit) {
            let mut ahead = self.machine.state.clone();
            let applied = roadstead_core::apply::apply(&mut ahead, proposal.index, &proposal.batch);
            for (asker, outcome) in proposal.askers.iter_mut().zip(applied.outcomes) {
                if let Some(asked) = asker.take() {
                    self.conclude(&asked, &Answer::Outcome { outcome, revision: applied.revision });
                }
            }
        }
    }

    /// Answers everybody who asked this.
    pub(crate) fn conclude(&mut self, asked: &Asked, answer: &Answer) {
        for ticket in self.requests.close(asked) {
            self.answer(ticket, answer.clone());
        }
    }

    pub(crate) fn conclude_settled(&mut self, settled: Vec<(Asked, Outcome)>, revision: Revision) {
        for (asked, outcome) in settled {
            self.conclude(&asked, &Answer::Outcome { outcome, revision });
        }
    }

    /// Answers, unless another entry was faster: then it is to be decided again.
    pub(crate) fn conclude_or_repeat(&mut self, asked: Asked, outcome: Outcome, revision: Revision) -> Option<Asked> {
        if outcome != Outcome::Rejected(Rejection::Stale) {
            self.conclude(&asked, &Answer::Outcome { outcome, revision });
            return None;
        }
        if asked.decisions < MAX_DECISIONS {
            return Some(asked);
        }
        self.conclude(&asked, &Answer::Overloaded { retry_after_ms: RETRY_AFTER_MS });
        None
    }

    /// The leader's own initiative, one entry at a time.
    pub(crate) fn take_initiative(&mut self) {
        if self.requests.initiative_in_flight() || !self.may_propose() {
            return;
        }
        let time = self.clock.at(self.now);
        let raise = self.level_to_raise();
        let principal = self.principal();
        let Some(lead) = &mut self.lead else { return };
        let Some(working) = lead.working.as_mut() else { return };
        let mut commands = working.advance(&self.machine.state, &lead.contacts, time);
        commands.extend(raise.map(|level| Envelope { principal, retry: None, command: Command::RaiseLevel { level } }));
        if !commands.is_empty() {
            let askers = commands.iter().map(|_| None).collect();
            self.propose(time, commands, askers, Vec::new());
        }
        self.promote_learners();
    }

    /// The level that every member supports, if it is above the group's.
    fn level_to_raise(&self) -> Option<roadstead_core::command::FeatureLevel> {
        let all: Option<Vec<_>> = self.machine.membership.ids().into_iter().map(|id| self.level_of(id)).collect();
        all?.into_iter().min().filter(|level| *level > self.machine.state.level())
    }

    /// When agents were last heard of in this term, and now; `None` elsewhere than at a leader that decides.
    #[must_use]
    pub fn contacts(&self) -> Option<(&Contacts, Timestamp)> {
        let lead = self.lead.as_ref().filter(|lead| lead.decides())?;
        Some((&lead.contacts, self.clock.at(self.now)))
    }

    /// A cluster's agent was heard of.
    pub(crate) fn heard(&mut self, cluster: ClusterId) {
        let time = self.clock.at(self.now);
        if let Some(lead) = &mut self.lead {
            lead.contacts.last_heard.insert(cluster, time);
        }
    }

    /// Tells a caller that this replica does not lead.
    pub(crate) fn not_leader(&mut self, ticket: Ticket) {
        let leader = self.leader().filter(|leader| *leader != self.id);
        self.answer(ticket, Answer::NotLeader { leader });
    }
}
