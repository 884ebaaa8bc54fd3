//! `AgentService`: what is wanted of a cluster, and what its agent tells. Every call is about the cluster that the certificate names.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use roadstead_api::v1;
use roadstead_api::v1::agent_service_server::AgentService;
use roadstead_class::class_digest;
use roadstead_core::apply::COUNTS_GROWTH;
use roadstead_core::cluster::GrowthRoom;
use roadstead_core::command::{Kind, Rejection};
use roadstead_core::id::Name;
use roadstead_core::request::{Ask, ClusterFound, GrowthFound, Observed, ObservedTenant};
use roadstead_core::state::State;
use tonic::{Code, Request, Response, Status};

use super::context::{Context, reach};
use super::intents::Intents;
use super::reports;
use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::{agent, cluster, cluster_names, details};
use crate::errors::{Fault, rejected};

/// `AgentService` on one replica.
#[derive(Debug)]
pub struct Agents {
    context: Arc<Context>,
}

impl Agents {
    /// On this replica.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

/// The cluster that the caller's certificate names.
pub(super) fn own_cluster(reach: &Reach) -> Result<Name, Fault> {
    let mut check = Check::default();
    let name = check.name(At::Top("certificate"), reach.only_cluster().unwrap_or_default());
    check.finish(name)
}

/// Refuses an agent of a cluster that is not known, or that is another one than is known.
pub(super) fn check_identity(state: &State, name: &Name, uid: &str) -> Result<(), Fault> {
    let refused = |rejection: &Rejection| rejected(rejection, &cluster_names(state));
    let Some(cluster) = state.cluster(name.as_str()) else {
        return Err(refused(&Rejection::NotFound { kind: Kind::Cluster, name: name.to_string() }));
    };
    if !cluster.spec.uid.is_empty() && cluster.spec.uid != uid {
        let known = &cluster.spec.uid;
        let shown = crate::convert::excerpt(uid);
        let words = format!(
            "cluster {:?} is the one whose kube-system has the uid {known}; this one has {shown:?}: it is a copy, or the certificate is another cluster's",
            name.as_str()
        );
        return Err(Fault::invalid("uid", words));
    }
    Ok(())
}

/// Whether what was observed is of the class that the tenant has now: what runs from another one was on its way, or is being changed, and
/// does not run yet. To be stopped, or gone, is the same in every class.
fn running_as_wanted<'a>(state: &'a State, told: &'a [v1::SeenTenant]) -> impl FnMut(&ObservedTenant) -> bool + 'a {
    let told: BTreeMap<&str, &str> = told.iter().map(|seen| (seen.uid.as_str(), seen.class_digest.as_str())).collect();
    let mut digests = BTreeMap::<(Name, String), String>::new();
    move |observed| {
        let digest = told.get(observed.id.to_string().as_str()).copied().unwrap_or_default();
        let tenant = match observed.observed {
            Observed::Running if !digest.is_empty() => state.tenant_by_id(observed.id),
            Observed::Running | Observed::Stopped | Observed::Absent => None,
        };
        let Some(tenant) = tenant else { return true };
        let key = (tenant.spec.class.clone(), tenant.spec.version.clone());
        let of_class =
            |(name, version): &(Name, String)| state.class(name.as_str(), version).map(|class| class_digest(class)).unwrap_or_default();
        *digests.entry(key).or_insert_with_key(of_class) == digest
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type WatchIntentStream = BoxStream<'static, Result<v1::WatchIntentResponse, Status>>;

    async fn watch_intent(&self, request: Request<v1::WatchIntentRequest>) -> Result<Response<Self::WatchIntentStream>, Status> {
        let reach = reach(&request)?;
        let name = own_cluster(&reach)?;
        let state = self.context.state(true).await?;
        check_identity(&state, &name, &request.get_ref().uid)?;
        let intents = Intents::begin(&self.context, name, state)?;
        Ok(Response::new(intents.into_stream().boxed()))
    }

    async fn answer_diff(&self, request: Request<v1::AnswerDiffRequest>) -> Result<Response<v1::AnswerDiffResponse>, Status> {
        let name = own_cluster(&reach(&request)?)?;
        let answer = request.into_inner();
        let state = self.context.state(false).await?;
        check_identity(&state, &name, &answer.uid)?;
        let cluster = state.cluster(name.as_str()).map(|cluster| cluster.id);
        if cluster.is_some_and(|cluster| self.context.handle.questions().answer(cluster, answer)) {
            return Ok(Response::new(v1::AnswerDiffResponse {}));
        }
        Err(Fault::new(Code::NotFound, "NOT_ASKED", "nobody here waits for an answer to this question of this cluster").into())
    }

    async fn observe(&self, request: Request<v1::ObserveRequest>) -> Result<Response<v1::ObserveResponse>, Status> {
        let reach = reach(&request)?;
        let name = own_cluster(&reach)?;
        let mut check = Check::default();
        let observation = agent::observation(&mut check, &name, request.get_ref());
        let found = check.optional(At::Top("details"), request.get_ref().details.as_ref(), details::details);
        let growth = check.optional(At::Top("growth"), request.get_ref().growth.as_ref(), cluster::growth);
        let ((mut observation, found), growth) = check.finish(observation.zip(found).zip(growth))?;
        let state = self.context.state(false).await?;
        observation.report.tenants.retain(running_as_wanted(&state, &request.get_ref().tenants));
        let uid = observation.report.uid.clone();
        let by = &reach.caller().principal;
        // Replicas of a lower level do not know it; it is told again.
        let growth = growth.filter(|_| state.level() >= COUNTS_GROWTH);
        let goes_first = |room: &GrowthRoom| state.cluster(name.as_str()).is_none_or(|known| room.goes_first(&known.growth));
        let (before, after) = if growth.as_ref().is_some_and(goes_first) { (growth, None) } else { (None, growth) };
        let note = |room| Ask::NoteGrowth(Box::new(GrowthFound { cluster: name.clone(), uid: uid.clone(), room }));
        if let Some(room) = before {
            self.context.submit(by, None, note(room)).await?;
        }
        let ask = Ask::Observe(Box::new(observation));
        let reports::Taken { revision, report_within, complete_wanted } = reports::submit(&self.context, &reach, &name, ask).await?;
        if let Some(room) = after {
            self.context.submit(by, None, note(room)).await?;
        }
        if let Some(details) = found {
            let ask = Ask::NoteCluster(Box::new(ClusterFound { cluster: name.clone(), uid: uid.clone(), details }));
            self.context.submit(by, None, ask).await?;
        }
        Ok(Response::new(v1::ObserveResponse { revision: Some(revision), tell_within: Some(report_within), complete_wanted }))
    }
}
