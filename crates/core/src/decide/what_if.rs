//! What would become of tenants that nobody has asked for yet.

use super::{Working, resolve};
use crate::apply;
use crate::command::Rejection;
use crate::schedule::{self, Explanation};
use crate::state::State;
use crate::tenant::TenantSpec;

/// Tenants that are placed one after the other, each counting for the next; nothing else changes.
#[derive(Clone, Debug)]
pub struct WhatIf<'a> {
    state: &'a State,
    working: Working,
}

impl<'a> WhatIf<'a> {
    /// Begins with the fleet as it is.
    #[must_use]
    pub fn new(state: &'a State) -> Self {
        Self { state, working: Working::new(state) }
    }

    /// Where the next tenant would go, and its owner's quota if that refuses it nevertheless.
    ///
    /// # Errors
    /// A rejection that no cluster has to be asked for.
    pub fn place(&mut self, mut spec: TenantSpec) -> Result<(Explanation, Option<Rejection>), Rejection> {
        resolve(self.state, &mut spec)?;
        let Working { ledger, arrivals, .. } = &self.working;
        let explanation = schedule::explain(ledger, &arrivals.beside(self.state), &spec);
        let wanted = explanation.decision.is_ok().then_some(spec.requests.total);
        let quota = apply::check_quota_with(self.state, ledger.owner_use(&spec.owner), &spec.owner, None, wanted).err();
        if let (Ok(placement), None) = (&explanation.decision, &quota) {
            self.working.arrive(&spec, placement.cluster, placement.shard);
        }
        Ok((explanation, quota))
    }
}
