//! Carrying out what raft-rs is ready for, in its order: a leader's messages, a snapshot, entries and hard state to disk, the messages that
//! wait for the disk, then what is committed.

use std::sync::Arc;

use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use raft::{Ready, StateRole};
use roadstead_core::apply::Applied;
use roadstead_core::command::Batch;

use crate::batch::Proposal;
use crate::door::{HardState, LogEntry, LogWrite, Output};
use crate::lead::Lead;
use crate::machine::{Content, Effect};
use crate::member::MemberChange;
use crate::replica::Replica;
use crate::snapshots::KEPT_BYTES;
use crate::wire::SnapshotInfo;

impl Replica {
    /// Until raft-rs has nothing more.
    pub(crate) fn carry_out_readies(&mut self) {
        while !self.stopped && self.raw.has_ready() {
            let ready = self.raw.ready();
            self.carry_out(ready);
        }
    }

    fn carry_out(&mut self, mut ready: Ready) {
        let messages = ready.take_messages();
        if !ready.snapshot().is_empty() && !self.install(ready.snapshot()) {
            return;
        }
        let promises = self.promises(&ready);
        let complete = if promises || self.disk.promises_pending() {
            // Alone among learners, a leader elects itself: its term must be on disk before anybody hears of it.
            let complete = self.write(&mut ready, promises);
            let free = self.disk.hold(messages);
            self.send(free);
            complete
        } else {
            self.send(messages);
            self.write(&mut ready, promises)
        };
        let messages = ready.take_persisted_messages();
        self.send_when_safe(messages);
        for read in ready.take_read_states() {
            self.reads.confirm(&read.request_ctx, read.index);
        }
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        if let Some(number) = complete {
            self.raw.on_persist_ready(number);
        }
        self.notice_election();
        self.apply(committed);
        if !self.stopped {
            self.notice_loss();
        }
    }

    /// Takes over a fetched snapshot.
    fn install(&mut self, snapshot: &Snapshot) -> bool {
        let (term, index) = (snapshot.get_metadata().term, snapshot.get_metadata().index);
        let Some(fetched) = self.snapshots.take_fetched(term, index) else {
            self.fatal(format!("broken invariant: raft took over snapshot {index} of term {term}, which is not here"));
            return false;
        };
        self.machine.replace(*fetched.state, fetched.info.membership.clone());
        self.raw.mut_store().restart_after(fetched.info);
        self.snapshots.bytes_since = 0;
        self.begins_after = Some(index);
        let (revision, time) = (self.state().revision(), self.state().time());
        self.clock.saw(time, self.now);
        self.out.push(Output::Replaced { revision, time });
        true
    }

    /// Whether a ready holds a new term or vote.
    fn promises(&self, ready: &Ready) -> bool {
        ready.hs().is_some_and(|new| (new.term, new.vote) != (self.hard_state.term, self.hard_state.vote))
    }

    /// Entries, term and vote go to disk; a commit index alone waits for the next write. The ready's number if it is complete as it is.
    fn write(&mut self, ready: &mut Ready, promises: bool) -> Option<u64> {
        if let Some(hard_state) = ready.hs() {
            self.hard_state = HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit };
        }
        let number = ready.number();
        if !ready.must_sync() {
            return self.disk.join(number).then_some(number);
        }
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().get_metadata().index);
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        let entries = entries.iter().map(keep).collect();
        let write = LogWrite { begins_after: self.begins_after.take(), entries, hard_state: Some(self.hard_state) };
        let number = self.disk.begin(number, promises, snapshot);
        self.out.push(Output::Persist { number, write });
        None
    }

    /// What a member promises must be on disk first. A sign of life, or a read passed on, promises nothing new.
    fn send_when_safe(&mut self, messages: Vec<Message>) {
        let pending = self.disk.promises_pending();
        let harmless =
            |message: &Message| !pending && matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex);
        let (now, later): (Vec<_>, Vec<_>) = messages.into_iter().partition(harmless);
        self.send(now);
        let free = self.disk.hold(later);
        self.send(free);
    }

    /// A write and all before it are on disk.
    pub(crate) fn persisted(&mut self, number: u64) {
        let done = self.disk.finish(number);
        self.send(done.messages);
        if let Some(ready) = done.ready {
            self.raw.on_persist_ready(ready);
        }
        if let Some(index) = done.snapshot {
            self.raw.advance_apply_to(index);
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let (index, size) = (entry.index, entry.data.len() as u64);
            self.apply_one(&entry);
            if self.stopped {
                return;
            }
            let (level, supported) = (self.state().level().0, self.config.supported_level.0);
            if level > supported {
                return self
                    .fatal(format!("entry {index} raises the feature level to {level}, this build supports {supported}: upgrade it"));
            }
            self.snapshots.bytes_since += size;
            self.raw.advance_apply_to(index);
            self.compare_digest(index);
        }
        self.snapshots.applied(self.state().revision().index);
    }

    fn apply_one(&mut self, entry: &Entry) {
        let mine = self.requests.take_applied(entry.index, entry.term);
        if let Some(proposal) = mine {
            let applied = self.machine.apply_batch(entry.index, &proposal.batch);
            self.tell_applied(entry.index, &applied, &proposal.batch, true);
            self.conclude_all(proposal, &applied);
            self.removals_proven(entry.index);
            return;
        }
        match self.machine.read(entry, self.config.supported_level) {
            Err(why) => self.fatal(why),
            Ok(Content::Batch(batch)) => {
                let applied = self.machine.apply_batch(entry.index, &batch);
                self.tell_applied(entry.index, &applied, &batch, false);
                self.notice_first_entry(entry.term);
                // raft-rs empties a change that comes too early.
                self.change_ended(entry.index, Err("another change of members was on its way".to_owned()));
            }
            Ok(content) => {
                let (applied, effect) = self.machine.apply_other(entry.index, content);
                let batch = self.machine.nothing();
                self.took_effect(entry.index, &applied, &batch, effect);
            }
        }
    }

    fn took_effect(&mut self, index: u64, applied: &Arc<Applied>, batch: &Batch, effect: Effect) {
        match effect {
            Effect::Switched => {
                let (revision, time) = (applied.revision, self.state().time());
                self.clock.saw(time, self.now);
                self.alarms(applied);
                self.out.push(Output::Replaced { revision, time });
                self.restored(index, Ok(revision));
            }
            Effect::NotSwitched(why) => {
                self.tell_applied(index, applied, batch, false);
                self.restored(index, Err(why));
            }
            Effect::None => self.tell_applied(index, applied, batch, false),
            Effect::Skipped(why) => {
                self.tell_applied(index, applied, batch, false);
                self.change_ended(index, Err(why));
            }
            Effect::Changed(change) => {
                self.tell_applied(index, applied, batch, false);
                self.reconfigure(&change);
                self.change_ended(index, Ok(applied.revision));
            }
        }
    }

    /// The group is another one now; raft-rs must agree before anything else happens.
    fn reconfigure(&mut self, change: &MemberChange) {
        if let Err(e) = self.raw.apply_conf_change(&change.encode()) {
            return self.fatal(format!("broken invariant: raft refuses a change of members that fits: {e}"));
        }
        let MemberChange::Remove { id } = change else { return };
        if *id != self.id {
            return self.removal_applied(*id);
        }
        // raft-rs lets a removed leader go on, and panics when its log grows.
        if self.raw.raft.state == StateRole::Leader {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        // It stays to vote for those who have not applied its removal, until the leader lets it go.
    }

    /// Tells watchers, alarms, time and the leader's working copy of an applied entry.
    fn tell_applied(&mut self, index: u64, applied: &Arc<Applied>, batch: &Batch, mine: bool) {
        let time = self.state().time();
        self.clock.saw(time, self.now);
        self.out.push(Output::Applied { index, time, applied: Arc::clone(applied) });
        if let Some(lead) = &mut self.lead {
            lead.applied(&self.machine.state, batch, applied, mine, time);
        }
    }

    fn alarms(&mut self, applied: &Applied) {
        for what in &applied.alarms {
            self.alarm(what.clone());
        }
    }

    fn conclude_all(&mut self, proposal: Proposal, applied: &Applied) {
        let Proposal { askers, settled, .. } = proposal;
        let revision = applied.revision;
        self.conclude_settled(settled, revision);
        let outcomes = applied.outcomes.iter().cloned();
        let mut again = Vec::new();
        for (asked, outcome) in askers.into_iter().zip(outcomes) {
            again.extend(asked.and_then(|asked| self.conclude_or_repeat(asked, outcome, revision)));
        }
        self.requests.put_back(again.into_iter());
    }

    /// Asks for a snapshot when the log has grown, or a peer needs a newer one.
    pub(crate) fn think_of_snapshots(&mut self) {
        let wanted = self.raw.store().take_wanted();
        if self.snapshots.taking.is_some() || self.machine.is_restoring() || self.disk.snapshot_pending() {
            return;
        }
        let index = self.state().revision().index;
        let grown = index - self.raw.store().snapshot_info().index;
        let large = grown >= self.config.snapshot_every_entries || self.snapshots.bytes_since >= self.config.snapshot_every_bytes;
        if grown == 0 || !(wanted || large) {
            return;
        }
        let Ok(term) = self.raw.raft.raft_log.term(index) else { return };
        let membership = self.machine.membership.clone();
        #[allow(unused_mut)] // only sabotage changes it
        let mut state = Box::new(self.machine.state.clone());
        #[cfg(feature = "sabotage")]
        if self.config.sabotage == Some(crate::replica::Sabotage::LoseRequestIdsInSnapshot) {
            state.forget_requests();
        }
        self.snapshots.taking = Some(SnapshotInfo { term, index, membership: membership.clone() });
        self.snapshots.bytes_since = 0;
        self.out.push(Output::TakeSnapshot { term, index, membership, state });
    }

    /// A snapshot is on disk: what it holds may leave the log, but for what a peer that lags a little still needs.
    pub(crate) fn snapshot_taken(&mut self, index: u64) {
        let Some(info) = self.snapshots.taking.take_if(|info| info.index == index) else { return };
        if info.index <= self.raw.store().snapshot_info().index {
            return;
        }
        let kept = self.config.kept_entries;
        // A peer that waits for it is offered it when it answers a heartbeat.
        self.raw.ping();
        let store = self.raw.mut_store();
        store.set_snapshot(info);
        let keep_from = store.reach_back(index, KEPT_BYTES).max(index.saturating_sub(kept));
        let through = self.everybody_has().unwrap_or(0).min(index).max(keep_from);
        let store = self.raw.mut_store();
        if through >= store.first() {
            store.compact(through);
            self.out.push(Output::Compact { through });
        }
    }

    /// The last entry that every member is known to have on disk, as far as a leader knows.
    fn everybody_has(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        self.lead.as_ref().filter(|lead| Lead::decides(lead))?;
        raft.prs().iter().map(|(_, progress)| progress.matched).min()
    }
}

fn keep(entry: &Entry) -> LogEntry {
    let bytes = entry.write_to_bytes().expect("a Raft entry has no required fields");
    LogEntry { index: entry.index, term: entry.term, bytes }
}
