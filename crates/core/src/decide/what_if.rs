//! What would become of tenants that nobody has asked for yet.

use super::resolve;
use crate::apply;
use crate::command::Rejection;
use crate::ledger::{Arrivals, Ledger, Share};
use crate::schedule::{self, Explanation};
use crate::state::State;
use crate::tenant::TenantSpec;

/// Tenants that are placed one after the other, each counting for the next; nothing else changes.
#[derive(Clone, Debug)]
pub struct WhatIf<'a> {
    state: &'a State,
    ledger: Ledger,
    arrivals: Arrivals,
}

impl<'a> WhatIf<'a> {
    /// Begins with the fleet as it is.
    #[must_use]
    pub fn new(state: &'a State) -> Self {
        Self { state, ledger: state.ledger().clone(), arrivals: Arrivals::default() }
    }

    /// Where the next tenant would go, and its owner's quota if that refuses it nevertheless.
    ///
    /// # Errors
    /// A rejection that no cluster has to be asked for.
    pub fn place(&mut self, mut spec: TenantSpec) -> Result<(Explanation, Option<Rejection>), Rejection> {
        resolve(self.state, &mut spec)?;
        let explanation = schedule::explain(&self.ledger, &self.arrivals.beside(self.state), &spec);
        let wanted = explanation.decision.is_ok().then_some(spec.requests.total);
        let quota = apply::check_quota_with(self.state, self.ledger.owner_use(&spec.owner), &spec.owner, None, wanted).err();
        if let (Ok(placement), None) = (&explanation.decision, &quota) {
            self.ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
            self.arrivals.add(&spec.name, placement.cluster, placement.shard);
        }
        Ok((explanation, quota))
    }
}
