//! Changing members, one at a time and learners first, and handing leadership over.

use std::collections::BTreeSet;

use raft::{Progress, ProgressState, StateRole};
use roadstead_core::id::Revision;

use crate::door::{Answer, Monotonic, Ticket};
use crate::member::{MemberChange, MemberId, MemberInfo};
use crate::replica::Replica;
use crate::wire::Word;

/// Changes that may wait for the one in the log.
const MAX_QUEUED: usize = 16;
/// Entries by which a learner may lag and be promoted: it catches up with them in one message or so.
const PROMOTE_LAG: u64 = 64;
/// Milliseconds between two questions of a removed member whether it may go.
const ASK_EVERY_MS: u64 = 500;
/// Milliseconds after which a handover without a known new leader is given up.
const HANDOVER_MS: u64 = 5_000;

/// A change that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) ticket: Option<Ticket>,
    pub(crate) change: MemberChange,
}

/// The change that is in the log.
#[derive(Debug)]
pub(crate) struct Underway {
    pub(crate) ticket: Option<Ticket>,
    pub(crate) index: u64,
}

/// Letting removed members go.
///
/// A removed member may be needed still: by one that has not applied the removal, or has forgotten it in a crash, and so waits for its vote.
/// An entry that was proposed after the removal was applied, and is committed, is the proof that a majority of those that remain know
/// of it on their disks: every write of entries carries the commit index.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    waiting: BTreeSet<MemberId>,
    proof: Proof,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Proof {
    #[default]
    Missing,
    Proposed(u64),
    Given,
}

/// Leadership on its way to another voter.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) ticket: Ticket,
    to: MemberId,
    since: Monotonic,
    /// So that this member can be removed by the new leader.
    to_leave: bool,
}

impl Replica {
    pub(crate) fn add_member(&mut self, ticket: Ticket, id: MemberId, info: MemberInfo) {
        if self.machine.membership.info(id) == Some(&info) && self.lead.is_some() {
            // Said again, perhaps because the answer was lost.
            let revision = self.state().revision();
            return self.answer(ticket, Answer::Done { revision });
        }
        self.queue_change(ticket, MemberChange::AddLearner { id, info });
    }

    pub(crate) fn remove_member(&mut self, ticket: Ticket, id: MemberId) {
        if self.lead.is_some() && self.machine.membership.removed.contains(&id) {
            let revision = self.state().revision();
            return self.answer(ticket, Answer::Done { revision });
        }
        let others = self.machine.membership.voters.len() > 1;
        if id == self.id && self.lead.is_some() && others {
            return self.hand_over(ticket, None, true);
        }
        self.queue_change(ticket, MemberChange::Remove { id });
    }

    fn queue_change(&mut self, ticket: Ticket, change: MemberChange) {
        let fits = self.machine.membership.after(&change);
        let Some(lead) = &mut self.lead else { return self.not_leader(ticket) };
        match fits {
            Err(why) => self.answer(ticket, Answer::Refused { why }),
            Ok(_) if lead.changes.len() >= MAX_QUEUED => self.answer(ticket, Answer::Overloaded { retry_after_ms: HANDOVER_MS }),
            Ok(_) => lead.changes.push_back(Queued { ticket: Some(ticket), change }),
        }
    }

    /// Proposes the next change once the last one is applied.
    pub(crate) fn change_on(&mut self) {
        let blocked = self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some();
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.decides() && lead.restoring.is_none()) else { return };
        if blocked || lead.change.is_some() {
            return;
        }
        let Some(Queued { ticket, change }) = lead.changes.pop_front() else { return };
        if self.raw.propose_conf_change(Vec::new(), change.encode()).is_ok() {
            lead.change = Some(Underway { ticket, index: self.raw.raft.raft_log.last_index() });
        } else {
            lead.changes.push_front(Queued { ticket, change });
        }
    }

    /// A change was applied, or skipped because it did not fit.
    pub(crate) fn change_ended(&mut self, index: u64, result: Result<Revision, String>) {
        let Some(lead) = &mut self.lead else { return };
        let Some(underway) = lead.change.take_if(|underway| underway.index == index) else { return };
        let Some(ticket) = underway.ticket else { return };
        let answer = match result {
            Ok(revision) => Answer::Done { revision },
            Err(why) => Answer::Refused { why },
        };
        self.answer(ticket, answer);
    }

    /// A learner that has nearly caught up votes from now on.
    pub(crate) fn promote_learners(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if lead.change.is_some() || !lead.changes.is_empty() {
            return;
        }
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let caught_up = |id: &MemberId| {
            let progress = raft.prs().get(id.0);
            // `recent_active` alone is no evidence: raft-rs takes it that a new learner is active. One that matches something has answered.
            let behind = |p: &Progress| p.state == ProgressState::Snapshot || p.matched == 0 || p.matched + PROMOTE_LAG < last;
            progress.is_some_and(|p| p.recent_active && !behind(p))
        };
        if let Some(id) = self.machine.membership.learners.keys().copied().find(caught_up) {
            lead.changes.push_back(Queued { ticket: None, change: MemberChange::Promote { id } });
        }
    }

    /// A leader has applied the removal of another member.
    pub(crate) fn removal_applied(&mut self, id: MemberId) {
        if let Some(lead) = &mut self.lead {
            lead.farewell.proof = Proof::Missing;
            lead.farewell.waiting.insert(id);
        }
    }

    /// A removed member has said something.
    pub(crate) fn tell_removed(&mut self, id: MemberId) {
        let Some(lead) = &mut self.lead else { return };
        if lead.farewell.proof == Proof::Given {
            self.say(id, &[Word::Removed]);
        } else {
            lead.farewell.waiting.insert(id);
        }
    }

    pub(crate) fn prove_removals(&mut self) {
        let wanted = |farewell: &Farewell| farewell.proof == Proof::Missing && !farewell.waiting.is_empty();
        if self.may_propose() && self.lead.as_ref().is_some_and(|lead| wanted(&lead.farewell)) {
            let index = self.propose_nothing();
            if let (Some(index), Some(lead)) = (index, &mut self.lead) {
                lead.farewell.proof = Proof::Proposed(index);
            }
        }
    }

    /// An entry of this leader is applied; perhaps the proof.
    pub(crate) fn removals_proven(&mut self, index: u64) {
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.farewell.proof == Proof::Proposed(index)) else { return };
        lead.farewell.proof = Proof::Given;
        for id in std::mem::take(&mut lead.farewell.waiting) {
            self.say(id, &[Word::Removed]);
        }
    }

    /// A member that has applied its own removal asks whether it may go.
    pub(crate) fn ask_to_leave(&mut self) {
        let membership = &self.machine.membership;
        if !membership.removed.contains(&self.id) || self.asked_to_leave.0 + ASK_EVERY_MS > self.now.0 {
            return;
        }
        self.asked_to_leave = self.now;
        for id in membership.ids() {
            self.say(id, &[Word::Ask]);
        }
    }

    pub(crate) fn transfer(&mut self, ticket: Ticket, to: Option<MemberId>) {
        self.hand_over(ticket, to, false);
    }

    fn hand_over(&mut self, ticket: Ticket, to: Option<MemberId>, to_leave: bool) {
        if self.lead.is_none() {
            return self.not_leader(ticket);
        }
        let target = to.or_else(|| self.best_voter());
        let refusal = match target {
            _ if self.handover.is_some() => Some("leadership is being handed over already".to_owned()),
            None => Some("no other voter is there to lead".to_owned()),
            Some(to) if to == self.id => {
                let revision = self.state().revision();
                return self.answer(ticket, Answer::Done { revision });
            }
            Some(to) if !self.machine.membership.voters.contains_key(&to) => Some(format!("member {to} does not vote")),
            Some(_) => None,
        };
        match (refusal, target) {
            (None, Some(to)) => {
                self.raw.transfer_leader(to.0);
                self.handover = Some(Handover { ticket, to, since: self.now, to_leave });
            }
            (refusal, _) => self.answer(ticket, Answer::Refused { why: refusal.unwrap_or_default() }),
        }
    }

    /// The voter that has most of the log, among those that were heard of lately.
    fn best_voter(&self) -> Option<MemberId> {
        let progress = |id: &MemberId| self.raw.raft.prs().get(id.0).filter(|p| p.recent_active).map(|p| p.matched);
        let others = self.machine.membership.voters.keys().filter(|id| **id != self.id);
        others.filter_map(|id| progress(id).map(|matched| (matched, *id))).max().map(|(_, id)| id)
    }

    /// Answers a handover once it is clear who leads.
    pub(crate) fn watch_handover(&mut self) {
        let Some(handover) = &self.handover else { return };
        let raft = &self.raw.raft;
        let leader = self.leader();
        let leads = raft.state == StateRole::Leader;
        let late = handover.since.0 + HANDOVER_MS <= self.now.0;
        if (leads && raft.lead_transferee.is_some()) || (!leads && leader.is_none() && !late) {
            return;
        }
        let Some(Handover { ticket, to, to_leave, .. }) = self.handover.take() else { return };
        let answer = match leader {
            Some(leader) if leader == self.id => Answer::Refused { why: format!("member {to} did not take over in time") },
            Some(leader) if to_leave => Answer::NotLeader { leader: Some(leader) },
            Some(leader) if leader == to => Answer::Done { revision: self.state().revision() },
            Some(leader) => Answer::Refused { why: format!("member {leader} leads now instead of {to}") },
            None => Answer::Unknown,
        };
        self.answer(ticket, answer);
    }
}
