//! Restoring a backup: the leader sends it through the log chunk by chunk, and all replicas switch at the same entry.
//!
//! See docs/decisions/0005-restore.md. While it is on its way nothing else is proposed; requests wait.

use std::collections::VecDeque;

use roadstead_core::codec;
use roadstead_core::command::{Batch, Command, Envelope, FeatureLevel};
use roadstead_core::id::{Incarnation, Revision};
use roadstead_core::state::State;
use roadstead_core::time::Timestamp;

use crate::door::{Answer, Ticket};
use crate::machine::Mark;
use crate::replica::{MAX_UNCOMMITTED_BYTES, Replica};

/// A restore that this leader carries out.
#[derive(Debug)]
pub(crate) struct Restoring {
    pub(crate) ticket: Ticket,
    chunks: VecDeque<Vec<u8>>,
    /// Whether the first chunk is in the log.
    begun: bool,
    /// The entry that makes the switch, once proposed.
    switch: Option<u64>,
    incarnation: Incarnation,
    level: FeatureLevel,
    time: Timestamp,
}

impl Replica {
    /// Begins a restore.
    pub(crate) fn begin_restore(&mut self, ticket: Ticket, backup: &State, chunks: Vec<Vec<u8>>) {
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.decides()) else {
            let leader = self.leader();
            return self.answer(ticket, Answer::NotLeader { leader });
        };
        let refusal = if lead.restoring.is_some() {
            Some("another restore is on its way".to_owned())
        } else if lead.change_in_flight() {
            Some("a change of members is on its way; try again when it is done".to_owned())
        } else if chunks.is_empty() {
            Some("the backup is empty".to_owned())
        } else if backup.level() > self.config.supported_level {
            Some(format!(
                "the backup is of feature level {}, the group supports {}: upgrade it",
                backup.level().0,
                self.config.supported_level.0
            ))
        } else {
            None
        };
        if let Some(why) = refusal {
            return self.answer(ticket, Answer::Refused { why });
        }
        lead.restoring = Some(Restoring {
            ticket,
            chunks: chunks.into(),
            begun: false,
            switch: None,
            incarnation: backup.incarnation(),
            level: backup.level(),
            time: backup.time(),
        });
    }

    /// Proposes as many chunks as may be in flight, and the switch after the last one.
    pub(crate) fn restore_on(&mut self) {
        let state = &self.machine.state;
        let Some(restoring) = self.lead.as_mut().and_then(|lead| lead.restoring.as_mut()) else { return };
        let room = |raw: &raft::RawNode<_>| (raw.raft.uncommitted_size() as u64) < MAX_UNCOMMITTED_BYTES / 2;
        while room(&self.raw)
            && let Some(chunk) = restoring.chunks.pop_front()
        {
            let mark = if restoring.begun { Mark::Next } else { Mark::First };
            if self.raw.propose(vec![mark as u8], chunk.clone()).is_err() {
                restoring.chunks.push_front(chunk);
                return;
            }
            restoring.begun = true;
        }
        if !restoring.chunks.is_empty() || restoring.switch.is_some() {
            return;
        }
        let incarnation = Incarnation(restoring.incarnation.0.max(state.incarnation().0).saturating_add(1));
        let level = state.level().max(restoring.level);
        let time = self.clock.at(self.now).max(restoring.time);
        let mut commands = Vec::new();
        if restoring.level < level {
            commands.push(Command::RaiseLevel { level });
        }
        commands.push(Command::Incarnate { incarnation });
        #[cfg(feature = "sabotage")]
        if self.config.sabotage == Some(crate::replica::Sabotage::ForgetFence) {
            commands.push(Command::WaiveFence { cluster: None });
        }
        let commands = commands.into_iter().map(|command| Envelope { principal: self.principal(), retry: None, command }).collect();
        let batch = codec::encode_batch(&Batch { level: self.machine.state.level(), time, commands });
        if self.raw.propose(vec![Mark::Last as u8], batch).is_ok()
            && let Some(restoring) = self.lead.as_mut().and_then(|lead| lead.restoring.as_mut())
        {
            restoring.switch = Some(self.raw.raft.raft_log.last_index());
        }
    }

    /// The switch was applied, or failed.
    pub(crate) fn restored(&mut self, index: u64, result: Result<Revision, String>) {
        let state = &self.machine.state;
        let Some(lead) = &mut self.lead else { return };
        if result.is_ok() {
            lead.start_over(state);
        }
        let Some(restoring) = lead.restoring.take_if(|restoring| restoring.switch == Some(index)) else { return };
        let answer = match result {
            Ok(revision) => Answer::Done { revision },
            Err(why) => Answer::Refused { why },
        };
        self.answer(restoring.ticket, answer);
    }
}
