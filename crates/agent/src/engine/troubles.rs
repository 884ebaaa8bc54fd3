//! Troubles of tenants in the agent's log: each once when it begins, changes or ends, however often it is told or looked at.

use std::collections::BTreeMap;

use roadstead_core::id::TenantId;
use roadstead_core::observed::TroubleKind;
use tracing::{info, warn};

/// What is wrong with a tenant, in plain words.
pub(super) type Trouble = (TroubleKind, String);

/// What has become of a tenant's trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has begun, or is another one now.
    Is(Trouble),
    /// It is over.
    Over,
}

/// What is in the log already.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<TenantId, Trouble>);

impl Troubles {
    /// Takes in how a tenant is; what is new about it, if anything.
    pub(super) fn turn(&mut self, id: TenantId, now: Option<&Trouble>) -> Option<Turn> {
        match now {
            Some(trouble) if self.0.get(&id) == Some(trouble) => None,
            Some(trouble) => {
                self.0.insert(id, trouble.clone());
                Some(Turn::Is(trouble.clone()))
            }
            None => self.0.remove(&id).map(|_| Turn::Over),
        }
    }

    /// Forgets those whom no intent names any more.
    pub(super) fn keep(&mut self, is_named: impl Fn(TenantId) -> bool) {
        self.0.retain(|id, _| is_named(*id));
    }
}

/// Puts it into the log: what may pass by itself is no warning.
pub(super) fn log(name: &str, id: TenantId, turn: &Turn) {
    match turn {
        Turn::Is((TroubleKind::Waits, why)) => info!(tenant = name, %id, why, "a tenant waits"),
        Turn::Is((kind, why)) => warn!(tenant = name, %id, ?kind, why, "a tenant is in trouble"),
        Turn::Over => info!(tenant = name, %id, "a tenant's trouble is over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_when_it_begins_changes_and_ends_and_at_no_other_time() {
        let (id, mut troubles) = (TenantId(7), Troubles::default());
        let blocked = |why: &str| (TroubleKind::Blocked, why.to_owned());
        assert_eq!(troubles.turn(id, None), None, "nothing was wrong before either");
        assert_eq!(troubles.turn(id, Some(&blocked("quota"))), Some(Turn::Is(blocked("quota"))));
        assert_eq!(troubles.turn(id, Some(&blocked("quota"))), None);
        assert_eq!(troubles.turn(id, Some(&blocked("taken"))), Some(Turn::Is(blocked("taken"))));
        assert_eq!(troubles.turn(TenantId(8), None), None, "another's is another's");
        assert_eq!(troubles.turn(id, None), Some(Turn::Over));
        assert_eq!(troubles.turn(id, None), None);
        assert_eq!(troubles.turn(id, Some(&blocked("quota"))), Some(Turn::Is(blocked("quota"))));
        troubles.keep(|named| named != id);
        assert_eq!(troubles.turn(id, None), None, "whom nobody names is nobody's trouble");
    }
}
