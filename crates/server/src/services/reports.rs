//! Facts about a cluster on their way in, whether an agent tells them or an operator.

use roadstead_api::v1;
use roadstead_core::id::Name;
use roadstead_core::request::Ask;
use roadstead_core::time::Millis;

use super::context::Context;
use crate::auth::Reach;
use crate::convert::{wire_duration, wire_revision};
use crate::errors::Fault;
use crate::identity::Role;

/// The part of the silence that is allowed after which an agent is to report again: two may be lost.
const REPORTS_PER_SILENCE: u64 = 3;
/// The longest pause between two reports that is asked for.
const LONGEST_REPORT_PAUSE: Millis = Millis::from_secs(30);

/// What is answered.
pub(super) struct Taken {
    /// Of what was told, or of now if nothing moved.
    pub revision: v1::Revision,
    /// When to tell again, at the latest.
    pub report_within: prost_types::Duration,
    /// Since a restore, all that the cluster carries is waited for.
    pub complete_wanted: bool,
}

/// Submits facts. They are idempotent by themselves: there is no retry identity.
pub(super) async fn submit(context: &Context, reach: &Reach, cluster: &Name, ask: Ask) -> Result<Taken, Fault> {
    let (done, revision) = context.submit(&reach.caller().principal, None, ask).await?;
    let state = context.state(false).await?;
    let known = state.cluster(cluster.as_str());
    if let Some(known) = known.filter(|_| reach.caller().role == Role::Agent) {
        context.handle.heard(known.id);
    }
    let complete_wanted = known.is_some_and(|cluster| cluster.fenced);
    let silence = state.policy().spec.silent_after;
    let pause = Millis((silence.0 / REPORTS_PER_SILENCE).clamp(1, LONGEST_REPORT_PAUSE.0));
    let mut revision = context.revision_of(&done, revision).await;
    if complete_wanted {
        // What the agent is to look after: of the present incarnation.
        revision = revision.max(state.revision());
    }
    Ok(Taken { revision: wire_revision(revision), report_within: wire_duration(pause), complete_wanted })
}
