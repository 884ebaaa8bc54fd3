//! Members: ids that a wiped disk cannot take over, addresses, supported feature levels, and how the group changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use roadstead_core::command::FeatureLevel;
use serde::{Deserialize, Serialize};

/// Removed members that are remembered. One that was forgotten is stopped by pre-votes that nobody grants, only without hearing why.
pub const MAX_REMOVED: usize = 64;

/// A member's id: its storage's creation stamp (seconds since 1970, 40 bits) above random bits drawn at creation (24 bits); never 0.
///
/// A replica that lost its storage makes a new one, so it is a new member: it never votes under its old id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The identity of one group of replicas, made by `init`; on every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u128);

/// What is known of a member; travels in the configuration change that adds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// The group as of an applied entry; kept beside the state in snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Voters.
    pub voters: BTreeMap<MemberId, MemberInfo>,
    /// Learners, promoted once they have caught up.
    pub learners: BTreeMap<MemberId, MemberInfo>,
    /// The newest of those that were removed, at most [`MAX_REMOVED`]: they are told so when they ask, and never come back.
    pub removed: BTreeSet<MemberId>,
}

/// What a message from a peer says of the peer's build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLevel {
    /// Highest supported level.
    pub supported: FeatureLevel,
}

/// One step from a membership to the next. There is no other: a voter is never demoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// Takes part without a vote, until it has caught up.
    AddLearner { id: MemberId, info: MemberInfo },
    /// A learner that has caught up votes.
    Promote { id: MemberId },
    /// Gone for good.
    Remove { id: MemberId },
}

impl Membership {
    /// What is known of a voter or learner.
    #[must_use]
    pub fn info(&self, id: MemberId) -> Option<&MemberInfo> {
        self.voters.get(&id).or_else(|| self.learners.get(&id))
    }

    /// Voters and learners in the order of their ids.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<MemberId> {
        self.voters.keys().chain(self.learners.keys()).copied().collect()
    }

    /// The membership after a change.
    ///
    /// # Errors
    /// Plain words when the change does not fit; the same on every replica, so that all of them skip it.
    pub(crate) fn after(&self, change: &MemberChange) -> Result<Self, String> {
        let mut next = self.clone();
        match change {
            MemberChange::AddLearner { id, .. } if self.removed.contains(id) => {
                return Err(format!("member {id} was removed; start it with new storage, so that it gets a new id"));
            }
            MemberChange::AddLearner { id, .. } if self.info(*id).is_some() => return Err(format!("member {id} takes part already")),
            MemberChange::AddLearner { id, info } => {
                next.learners.insert(*id, info.clone());
            }
            MemberChange::Promote { id } => {
                let info = next.learners.remove(id).ok_or_else(|| format!("member {id} is not a learner"))?;
                next.voters.insert(*id, info);
            }
            MemberChange::Remove { id } => {
                if next.voters.remove(id).or_else(|| next.learners.remove(id)).is_none() {
                    return Err(format!("member {id} does not take part"));
                }
                if next.voters.is_empty() {
                    return Err(format!("member {id} is the only voter"));
                }
                next.removed.insert(*id);
                // Ids begin with a creation stamp: the first are the oldest.
                while next.removed.len() > MAX_REMOVED {
                    next.removed.pop_first();
                }
            }
        }
        Ok(next)
    }

    /// As raft-rs wants it.
    pub(crate) fn conf_state(&self) -> ConfState {
        let numbers = |members: &BTreeMap<MemberId, MemberInfo>| members.keys().map(|id| id.0).collect::<Vec<_>>();
        ConfState::from((numbers(&self.voters), numbers(&self.learners)))
    }
}

impl MemberChange {
    /// As the log carries it.
    pub(crate) fn encode(&self) -> ConfChange {
        let mut change = ConfChange::default();
        let (kind, id) = match self {
            Self::AddLearner { id, info } => {
                let context = postcard::to_allocvec(info).expect("two texts can always be encoded");
                change.context = context.into();
                (ConfChangeType::AddLearnerNode, id)
            }
            Self::Promote { id } => (ConfChangeType::AddNode, id),
            Self::Remove { id } => (ConfChangeType::RemoveNode, id),
        };
        change.set_change_type(kind);
        change.node_id = id.0;
        change
    }

    /// From the log.
    ///
    /// # Errors
    /// Plain words when it is none of ours.
    pub(crate) fn decode(change: &ConfChange) -> Result<Self, String> {
        let id = MemberId(change.node_id);
        Ok(match change.get_change_type() {
            ConfChangeType::AddLearnerNode => {
                let info = postcard::from_bytes(&change.context).map_err(|e| format!("the addresses of member {id} are damaged: {e}"))?;
                Self::AddLearner { id, info }
            }
            ConfChangeType::AddNode => Self::Promote { id },
            ConfChangeType::RemoveNode => Self::Remove { id },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(n: u64) -> MemberInfo {
        MemberInfo { peer_address: format!("10.0.0.{n}:7001"), client_address: format!("10.0.0.{n}:7000") }
    }

    fn one() -> Membership {
        Membership { voters: [(MemberId(1), info(1))].into(), ..Membership::default() }
    }

    #[test]
    fn changes_survive_the_log() {
        let id = MemberId(7);
        for change in [MemberChange::AddLearner { id, info: info(7) }, MemberChange::Promote { id }, MemberChange::Remove { id }] {
            assert_eq!(MemberChange::decode(&change.encode()), Ok(change));
        }
    }

    #[test]
    fn a_removed_member_never_comes_back() {
        let id = MemberId(2);
        let added = one().after(&MemberChange::AddLearner { id, info: info(2) }).unwrap();
        let removed = added.after(&MemberChange::Remove { id }).unwrap();
        assert!(removed.after(&MemberChange::AddLearner { id, info: info(2) }).unwrap_err().contains("was removed"));
    }

    #[test]
    fn the_last_voter_stays() {
        assert!(one().after(&MemberChange::Remove { id: MemberId(1) }).is_err());
    }

    #[test]
    fn only_learners_are_promoted() {
        let id = MemberId(2);
        assert!(one().after(&MemberChange::Promote { id }).is_err());
        let added = one().after(&MemberChange::AddLearner { id, info: info(2) }).unwrap();
        let promoted = added.after(&MemberChange::Promote { id }).unwrap();
        assert_eq!(promoted.voters.len(), 2);
        assert!(promoted.learners.is_empty());
    }

    #[test]
    fn the_memory_of_removed_members_is_bounded() {
        let mut membership = one();
        for n in 2..200 {
            let id = MemberId(n);
            membership = membership.after(&MemberChange::AddLearner { id, info: info(n) }).unwrap();
            membership = membership.after(&MemberChange::Remove { id }).unwrap();
        }
        assert_eq!(membership.removed.len(), MAX_REMOVED);
        assert!(membership.removed.contains(&MemberId(199)));
    }
}
