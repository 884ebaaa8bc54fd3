//! Comparing states: every so many entries the leader says its digest, and a replica that has another one stops.

use std::collections::BTreeMap;

use crate::member::MemberId;
use crate::replica::Replica;
use crate::wire::Word;

/// Digests kept, of this replica and of the leader: so far one may be ahead of the other.
const MAX_KEPT: usize = 16;

/// The newest digests, by index.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    own: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
}

impl Digests {
    /// Keeps this replica's digest; the leader's for the same index, if it has said it already.
    fn keep_own(&mut self, index: u64, digest: u64) -> Option<u64> {
        insert(&mut self.own, index, digest);
        self.leaders.remove(&index)
    }

    /// Keeps the leader's digest if this replica has not come so far; otherwise its own, to compare.
    fn keep_leaders(&mut self, index: u64, digest: u64, applied: u64) -> Option<u64> {
        if index > applied {
            insert(&mut self.leaders, index, digest);
        }
        self.own.get(&index).copied()
    }
}

fn insert(digests: &mut BTreeMap<u64, u64>, index: u64, digest: u64) {
    digests.insert(index, digest);
    while digests.len() > MAX_KEPT {
        digests.pop_first();
    }
}

impl Replica {
    /// After an entry was applied: takes the digest if it is due, says it if this replica leads.
    pub(crate) fn compare_digest(&mut self, index: u64) {
        if self.config.digest_every == 0 || !index.is_multiple_of(self.config.digest_every) {
            return;
        }
        let digest = self.state().digest();
        let leaders = self.digests.keep_own(index, digest);
        if self.lead.is_some() {
            let mut peers = self.machine.membership.ids();
            peers.remove(&self.id);
            for peer in peers {
                self.say(peer, &[Word::Digest { index, digest }]);
            }
        } else if let Some(leaders) = leaders {
            self.judge(index, digest, leaders);
        }
    }

    pub(crate) fn hear_digest(&mut self, from: MemberId, index: u64, digest: u64) {
        if self.leader() != Some(from) || self.lead.is_some() {
            return;
        }
        let applied = self.state().revision().index;
        if let Some(own) = self.digests.keep_leaders(index, digest, applied) {
            self.judge(index, own, digest);
        }
    }

    fn judge(&mut self, index: u64, own: u64, leaders: u64) {
        if own != leaders {
            self.fatal(format!(
                "broken invariant: the state after entry {index} has digest {own:016x}, the leader's has {leaders:016x}; \
                 remove this member, and join it again with new storage"
            ));
        }
    }
}
