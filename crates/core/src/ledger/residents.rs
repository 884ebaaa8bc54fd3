//! Where single tenants are, for terms that name one. The ledger counts; it does not know who is where.

use hashbrown::HashMap;

use crate::id::{ClusterId, Name, ShardId};
use crate::ledger::hash::BuildFold;
use crate::ledger::places::Places;

/// Knows where the tenants are that count in full. The state does; a leader adds what it has proposed.
pub trait Residents {
    /// Tells `found` where a tenant is: nowhere, in one place, in two while it moves.
    fn where_is(&self, tenant: &Name, found: &mut dyn FnMut(ClusterId, ShardId));
}

/// Tenants that were given a place of which the state knows nothing yet.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(HashMap<Name, Places, BuildFold>);

impl Arrivals {
    /// One more tenant of this name here.
    pub fn add(&mut self, tenant: &Name, cluster: ClusterId, shard: ShardId) {
        self.0.entry(tenant.clone()).or_default().add(cluster, shard);
    }

    /// One less; there was one.
    pub fn remove(&mut self, tenant: &Name, cluster: ClusterId, shard: ShardId) {
        let places = self.0.get_mut(tenant).expect("who goes on has arrived before");
        places.remove(cluster, shard);
        if places.is_empty() {
            self.0.remove(tenant);
        }
    }

    /// These beside those who are there already.
    #[must_use]
    pub fn beside<'a>(&'a self, others: &'a dyn Residents) -> Beside<'a> {
        Beside { arrivals: self, others }
    }
}

impl Residents for Arrivals {
    fn where_is(&self, tenant: &Name, found: &mut dyn FnMut(ClusterId, ShardId)) {
        if let Some(places) = self.0.get(tenant) {
            places.iter().for_each(|(cluster, shard, _)| found(cluster, shard));
        }
    }
}

/// Arrivals and others.
pub struct Beside<'a> {
    arrivals: &'a Arrivals,
    others: &'a dyn Residents,
}

impl Residents for Beside<'_> {
    fn where_is(&self, tenant: &Name, found: &mut dyn FnMut(ClusterId, ShardId)) {
        self.arrivals.where_is(tenant, found);
        self.others.where_is(tenant, found);
    }
}
