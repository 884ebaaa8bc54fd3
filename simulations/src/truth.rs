//! The one history that every replica must agree on: entries as they were first applied, and what they did.

use std::collections::{BTreeMap, BTreeSet};

use protobuf::Message as _;
use raft::eraftpb::Entry;
use roadstead_consensus::door::LogEntry;
use roadstead_core::apply::{Applied, Change};
use roadstead_core::codec;
use roadstead_core::command::{Batch, Done, Outcome, Rejection};
use roadstead_core::id::{Incarnation, RequestId, Revision};
use roadstead_core::request::Principal;
use roadstead_core::state::State;

/// What is known of an applied entry.
#[derive(Clone, Debug)]
struct Known {
    term: u64,
    /// Not known if the first replica to apply it had applied more by the time it was looked at.
    digest: Option<u64>,
}

/// Who asked what.
pub type Key = (Principal, RequestId);

/// The history.
#[derive(Debug, Default)]
pub struct Truth {
    /// Batches by index and term, as leaders wrote them.
    written: BTreeMap<(u64, u64), Option<Batch>>,
    /// The first entry of each term.
    first_of_term: BTreeMap<u64, u64>,
    applied: BTreeMap<u64, Known>,
    /// First answers of requests with an id, since the last restore.
    answers: BTreeMap<Key, Outcome>,
    /// Values that a tenant was given, each once, since the last restore.
    tokens: BTreeSet<String>,
    /// Restores so far.
    pub incarnation: Incarnation,
    /// The last entry that anybody applied.
    pub last: u64,
}

impl Truth {
    /// A replica gives an entry to its disk. The first to do so wrote it, as the leader.
    ///
    /// # Errors
    /// What a leader may not do.
    pub fn written(&mut self, entry: &LogEntry, applied: u64) -> Result<(), String> {
        let key = (entry.index, entry.term);
        if self.written.contains_key(&key) {
            return Ok(());
        }
        let first = *self.first_of_term.entry(entry.term).or_insert(entry.index);
        let batch = decode(entry)?;
        let decides = batch.as_ref().is_some_and(|batch| !batch.commands.is_empty());
        self.written.insert(key, batch);
        if decides && applied < first {
            return Err(format!(
                "the leader of term {} decided entry {} having applied {applied}, before the first entry of its term, {first}",
                entry.term, entry.index
            ));
        }
        Ok(())
    }

    /// A replica applied an entry; `true` if it is the first to do so.
    ///
    /// # Errors
    /// What differs from what another replica did, or must not be.
    pub fn applied(&mut self, index: u64, term: u64, state: Option<&State>, applied: &Applied) -> Result<bool, String> {
        let digest = state.map(State::digest);
        if let Some(known) = self.applied.get_mut(&index) {
            if known.term != term {
                return Err(format!(
                    "entry {index} was applied from term {} and from term {term}: an acknowledged write is lost",
                    known.term
                ));
            }
            if let (Some(known), Some(digest)) = (known.digest, digest)
                && known != digest
            {
                return Err(format!("two replicas differ after entry {index}: {known:016x} and {digest:016x}"));
            }
            known.digest = known.digest.or(digest);
            return Ok(false);
        }
        if index != self.last + 1 && self.last != 0 {
            return Err(format!("entry {index} was applied first by a replica, and nobody applied {}", self.last + 1));
        }
        self.last = index;
        self.applied.insert(index, Known { term, digest });
        if applied.revision.incarnation != self.incarnation {
            self.forget_before(applied.revision.incarnation);
        }
        if let Some(Some(batch)) = self.written.get(&(index, term)).cloned() {
            self.answered(index, &batch, applied)?;
        }
        self.changed(index, applied)?;
        Ok(true)
    }

    /// A replica took over a state as a whole.
    ///
    /// # Errors
    /// What differs from what another replica did.
    pub fn replaced(&mut self, revision: Revision, term: u64, state: Option<&State>) -> Result<(), String> {
        let (index, digest) = (revision.index, state.map(State::digest));
        match self.applied.get(&index) {
            Some(known) if known.digest.is_some_and(|known| digest.is_some_and(|digest| known != digest)) => {
                Err(format!("a replica took over a state at entry {index} that differs from what the others hold"))
            }
            Some(_) => Ok(()),
            None if index == self.last + 1 || self.last == 0 => {
                self.last = index;
                self.applied.insert(index, Known { term, digest });
                if revision.incarnation != self.incarnation {
                    self.forget_before(revision.incarnation);
                }
                Ok(())
            }
            None => Err(format!("a replica took over a state at entry {index}, which nobody has applied")),
        }
    }

    /// The batch in an entry, as its leader wrote it.
    #[must_use]
    pub fn batch(&self, index: u64, term: u64) -> Option<&Batch> {
        self.written.get(&(index, term)).and_then(Option::as_ref)
    }

    /// A restore undoes what was acknowledged after its backup was taken: what is checked begins anew.
    fn forget_before(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
        self.answers.clear();
        self.tokens.clear();
    }

    fn answered(&mut self, index: u64, batch: &Batch, applied: &Applied) -> Result<(), String> {
        if batch.commands.len() != applied.outcomes.len() {
            return Err(format!("entry {index} has {} commands and {} outcomes", batch.commands.len(), applied.outcomes.len()));
        }
        for (envelope, outcome) in batch.commands.iter().zip(&applied.outcomes) {
            let Some(retry) = envelope.retry else { continue };
            if matches!(outcome, Outcome::Rejected(Rejection::Stale)) {
                continue;
            }
            let key = (envelope.principal.clone(), retry.id);
            let first = self.answers.entry(key).or_insert_with(|| outcome.clone());
            if first != outcome {
                return Err(format!("a retry of request {:032x} in entry {index} got {outcome:?}, at first {first:?}", retry.id.0));
            }
        }
        Ok(())
    }

    /// Every value that clients write is written by one request: twice is a request with two effects.
    fn changed(&mut self, index: u64, applied: &Applied) -> Result<(), String> {
        for change in &applied.changes {
            let Change::Tenant { before, after: Some(after), .. } = change else { continue };
            if before.as_ref().is_some_and(|before| before.spec.values == after.spec.values) {
                continue;
            }
            if !self.tokens.insert(after.spec.values.to_string()) {
                return Err(format!("entry {index} wrote {} to tenant {} a second time", after.spec.values, after.spec.name));
            }
        }
        Ok(())
    }

    /// The answer that a request got in the log.
    #[must_use]
    pub fn answer(&self, key: &Key) -> Option<&Outcome> {
        self.answers.get(key)
    }
}

/// Whether an answer must have come out of the log of this incarnation: a restored backup answers for what was done before it was taken.
#[must_use]
pub fn needs_entry(outcome: &Outcome, incarnation: Incarnation) -> bool {
    match outcome {
        Outcome::Done(Done::Placed { epoch, .. }) => epoch.incarnation == incarnation,
        Outcome::Done(Done::Pending { id }) => id.0 >> 48 == u64::from(incarnation.0),
        Outcome::Done(Done::Changed { .. }) | Outcome::Rejected(_) => false,
    }
}

/// The batch in a Raft entry; nothing for an empty one, a change of the group, or a part of a restore.
fn decode(entry: &LogEntry) -> Result<Option<Batch>, String> {
    let raft = Entry::parse_from_bytes(&entry.bytes).map_err(|error| format!("entry {} is none of raft-rs: {error}", entry.index))?;
    if (raft.index, raft.term) != (entry.index, entry.term) {
        return Err(format!("entry {} of term {} is kept as entry {} of term {}", raft.index, raft.term, entry.index, entry.term));
    }
    let plain = raft.get_entry_type() == raft::eraftpb::EntryType::EntryNormal && raft.context.is_empty() && !raft.data.is_empty();
    if !plain {
        return Ok(None);
    }
    codec::decode_batch(&raft.data).map(Some).map_err(|error| format!("entry {}: {error}", entry.index))
}
