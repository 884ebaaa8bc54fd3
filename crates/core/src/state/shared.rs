//! One copy of what many tenants have in common. It only saves memory: forgetting an entry changes nothing.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::constraint::Constraints;
use crate::ledger::FoldHasher;

/// Constraints that are remembered: more than most fleets have shapes of tenants.
const SLOTS: usize = 1024;

/// A table with one place for every hash; a newer one takes the place of an older one.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    slots: Arc<Vec<Option<Arc<Constraints>>>>,
}

impl Shared {
    /// The remembered copy, or this one, which is remembered from now on.
    pub(super) fn constraints(&mut self, constraints: &Arc<Constraints>) -> Arc<Constraints> {
        let mut hasher = FoldHasher::default();
        constraints.hash(&mut hasher);
        let slot = hasher.finish() as usize % SLOTS;
        if let Some(Some(known)) = self.slots.get(slot)
            && **known == **constraints
        {
            return known.clone();
        }
        let slots = Arc::make_mut(&mut self.slots);
        slots.resize(SLOTS, None);
        slots[slot] = Some(constraints.clone());
        constraints.clone()
    }
}
