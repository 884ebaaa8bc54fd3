//! Agreements to removals, by tenant. There are few of them, and none most of the time.

use imbl::OrdMap;

use crate::agreement::Agreement;
use crate::digest::{self, Tag};
use crate::id::TenantId;
use crate::time::Timestamp;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agreements {
    tenants: OrdMap<TenantId, Agreement>,
    digest: u64,
}

impl Agreements {
    pub(crate) fn get(&self, id: TenantId) -> Option<Agreement> {
        self.tenants.get(&id).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TenantId, Agreement)> {
        self.tenants.iter().map(|(id, agreement)| (*id, *agreement))
    }

    /// Those that have ended, in the order of their numbers.
    pub(crate) fn ended(&self, now: Timestamp) -> impl Iterator<Item = TenantId> {
        self.iter().filter(move |(_, agreement)| agreement.until <= now).map(|(id, _)| id)
    }

    pub(crate) fn put(&mut self, id: TenantId, agreement: Agreement) {
        self.forget(id);
        self.digest = self.digest.wrapping_add(digest::of(Tag::Agreement, &(id, agreement)));
        self.tenants.insert(id, agreement);
    }

    pub(crate) fn forget(&mut self, id: TenantId) {
        if let Some(before) = self.tenants.remove(&id) {
            self.digest = self.digest.wrapping_sub(digest::of(Tag::Agreement, &(id, before)));
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn recomputed_digest(&self) -> u64 {
        self.iter().map(|item| digest::of(Tag::Agreement, &item)).fold(0, u64::wrapping_add)
    }
}
