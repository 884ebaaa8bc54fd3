//! What would change in a tenant's cluster. The change is tried on a copy of the state; its agent is asked what that would come to there.

use std::sync::Arc;

use roadstead_api::v1;
use roadstead_class::Schema;
use roadstead_core::id::ClusterId;
use roadstead_core::intent;
use roadstead_core::request::Ask;
use roadstead_core::state::State;
use roadstead_core::tenant::TenantSpec;
use tonic::Code;
use uuid::Uuid;

use super::context::violations;
use super::dry;
use super::placement::{Placement, find};
use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::{agent, class, cluster_names, tenant, wire_revision};
use crate::errors::{Fault, RETRY_SOON, rejected};
use crate::questions::Unanswered;

impl Placement {
    pub(super) async fn diff(&self, reach: &Reach, message: v1::DiffTenantRequest) -> Result<v1::DiffTenantResponse, Fault> {
        let mut check = Check::default();
        let name = check.name(At::Top("name"), &message.name);
        let class = message.class.as_ref().map_or(Some(None), |wire| class::class(&mut check, Some(wire)).map(Some));
        let (name, class) = check.finish(name.zip(class))?;
        let state = self.context.state(true).await?;
        let found = find(&state, reach, &name)?;
        let mut spec: TenantSpec = match &message.spec {
            None => found.spec.clone(),
            Some(wire) => {
                let mut check = Check::default();
                let spec = tenant::spec_at(&mut check, At::Top("spec"), Some(name.clone()), wire);
                check.finish(spec)?
            }
        };
        reach.spec(&spec)?;
        match &class {
            None => self.context.check_values(&spec).await?,
            Some(class) => {
                self.context.check_class(class).await?;
                if message.spec.is_none() {
                    (spec.class, spec.version) = (class.name.clone(), class.version.clone());
                }
                let schema = Schema::parse(&class.values_schema).map_err(|problem| Fault::invalid("class.values_schema_json", problem))?;
                violations(&schema, &spec)?;
            }
        }
        let (principal, copy) = (reach.caller().principal.clone(), Arc::clone(&state));
        let changed = found.spec != spec;
        let work = move || {
            let refused = |rejection| rejected(&rejection, &cluster_names(&copy));
            let mut tried = State::clone(&copy);
            if let Some(class) = class {
                (_, tried) = dry::run(&tried, &principal, Ask::PutClass { class: Box::new(class) }).map_err(refused)?;
            }
            if changed {
                let ask = Ask::UpdateTenant { spec: Box::new(spec), expected: None };
                (_, tried) = dry::run(&tried, &principal, ask).map_err(refused)?;
            }
            question(&tried, name.as_str())
        };
        let (cluster, question) = self.context.heavy(work).await?;
        let named = cluster_names(&state)(cluster);
        let unanswered = |why: Unanswered| {
            let words = format!("what would change in cluster {named:?} is not known: {why}");
            match why {
                Unanswered::Busy => Fault::overloaded(words, RETRY_SOON),
                // Asking again at once does not bring an agent back.
                Unanswered::NotHere | Unanswered::Silent => Fault::new(Code::FailedPrecondition, "AGENT_SILENT", words),
            }
        };
        let answer = self.context.handle.ask_agent(cluster, question).await.map_err(unanswered)?;
        if !answer.error.is_empty() {
            let words = format!("the agent of cluster {named:?} cannot say what would change: {}", answer.error);
            return Err(Fault::new(Code::FailedPrecondition, "AGENT_REFUSES", words));
        }
        let v1::AnswerDiffRequest { objects, left_out, .. } = answer;
        Ok(v1::DiffTenantResponse { cluster: named, objects, left_out, revision: Some(wire_revision(state.revision())) })
    }
}

/// What is asked about a tenant, and of which cluster's agent.
fn question(state: &State, name: &str) -> Result<(ClusterId, v1::DiffQuestion), Fault> {
    let nowhere = || Fault::new(Code::FailedPrecondition, "NOT_PLACED", "it is in no cluster: nothing of it is there to be changed");
    let tenant = state.tenant(name).ok_or_else(nowhere)?;
    let cluster = tenant.phase.binding().ok_or_else(nowhere)?.cluster;
    let wanted = intent::of_tenant(state, &tenant).ok_or_else(nowhere)?;
    let class = state.class(wanted.class.as_str(), &wanted.version).map(|found| class::wire(found, 0));
    let tenant = Some(agent::wire_intent(&wanted));
    Ok((cluster, v1::DiffQuestion { id: Uuid::new_v4().to_string(), class, tenant }))
}
