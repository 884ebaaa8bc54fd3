//! Bringing a tenant to rest: its way in away, its workloads to zero in the class's order. Whether it is at rest is for others to see (`holds`).

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use roadstead_class::ObjectId;
use roadstead_class::StopStep;
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::reconcile::{Action, Part, TenantSeen, VolumeSeen};
use serde_json::{Value, json};
use tracing::warn;

use super::Drift;
use super::act::{Work, call_opt};
use super::holds;
use super::known::is_ours_to_delete;
use super::owned::REST_MANAGER;
use super::record::{PartName, Record, Vanished};
use super::store::Live;
use crate::interpreter::Failed;

/// How long the class's steps may take if it does not say.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How an object is brought to rest.
enum Rest {
    /// A field of `spec`.
    Set(&'static str, Value),
    /// It cannot be otherwise.
    Delete,
}

/// What is left to do to bring an object to rest, if anything.
fn rest_of(id: &ObjectId, live: &Live) -> Option<Rest> {
    let (rest, is_done) = match id.kind.as_str() {
        "Deployment" | "StatefulSet" | "ReplicaSet" => (Rest::Set("replicas", json!(0)), live.held || live.deleting),
        "CronJob" => (Rest::Set("suspend", json!(true)), live.held || live.deleting),
        // One that has ended stays as it is.
        "Job" => (Rest::Set("suspend", json!(true)), live.held || live.deleting || live.at_rest),
        "HorizontalPodAutoscaler" | "DaemonSet" | "Pod" => (Rest::Delete, !is_ours_to_delete(id, live)),
        // It starts nothing.
        _ => return None,
    };
    (!is_done).then_some(rest)
}

/// Whether a tenant is not being stopped any more: it is at rest, or runs again. One that has lost a volume is stopped whatever is wanted of it.
pub(super) fn is_over(intent: &TenantIntent, seen: &TenantSeen) -> bool {
    let is_lost = |volume: &VolumeIntent| seen.volumes.get(&volume.name) == Some(&VolumeSeen::Lost);
    seen.at_rest || intent.role == Role::Run && !intent.volumes.iter().any(is_lost)
}

impl Work<'_> {
    /// What was made for a part, or is rendered for it, and is there.
    fn made(&self, part: Part) -> Vec<(ObjectId, Live)> {
        let rendered =
            self.job.rendered.iter().flat_map(|rendered| rendered.parts.get(&part)).flatten().map(|manifest| manifest.id.clone());
        self.look(|inner| {
            let Some(home) = inner.homes.get(&self.namespace) else { return Vec::new() };
            let recorded = home.recorded().into_iter().flat_map(|record| &record.objects).filter(|made| made.part == PartName::from(part));
            let mut ids: Vec<ObjectId> = rendered.chain(recorded.map(super::record::Made::id)).collect();
            ids.sort();
            ids.dedup();
            ids.into_iter().filter_map(|id| inner.peek(home, &id).cloned().map(|live| (id, live))).collect()
        })
    }

    /// Whether an action that ends something has anything left to end: it is asked for again until all is seen at rest.
    pub(super) fn has_work(&self, action: &Action) -> bool {
        match action {
            Action::Unroute => {
                self.writer.drift == Drift::Report || self.made(Part::Routes).iter().any(|(id, live)| is_ours_to_delete(id, live))
            }
            Action::Stop => {
                let has_steps = self.job.rendered.as_ref().is_ok_and(|rendered| !rendered.stop.is_empty());
                let is_running = || self.made(Part::Workloads).iter().any(|(id, live)| rest_of(id, live).is_some());
                let has_pods = || !self.pods_to_end().is_empty();
                self.writer.drift == Drift::Report || has_steps || is_running() || has_pods() || !self.has_written_vanished()
            }
            Action::Claim | Action::Put(_) | Action::MakeVolume(_) | Action::GrowVolume(_) | Action::Delete => true,
        }
    }

    /// Takes the hostnames' way in away.
    pub(super) async fn unroute(&self) -> Result<(), Failed> {
        self.note(Part::Routes, None).await?;
        for (id, live) in self.made(Part::Routes) {
            if is_ours_to_delete(&id, &live) {
                self.writer.delete(&id, &self.namespace, &live).await?;
            }
        }
        Ok(())
    }

    /// Ends everything that runs: the class's steps, each when the one before it is done or the time for all of them is over; then the
    /// rest. It is called again and again until all is at rest, and asks for nothing twice.
    pub(super) async fn stop(&self) -> Result<(), Failed> {
        self.note(Part::Workloads, None).await?;
        self.write_vanished().await?;
        let workloads = self.made(Part::Workloads);
        // What would scale up again goes first.
        for (id, live) in workloads.iter().filter(|(id, _)| id.kind == "HorizontalPodAutoscaler") {
            self.rest(id, live).await?;
        }
        let steps: &[StopStep] = self.job.rendered.as_ref().map_or(&[], |rendered| &rendered.stop);
        for step in steps {
            match step {
                StopStep::Scale(target) => {
                    let Some((id, live)) = workloads.iter().find(|(id, _)| id.to_string() == *target) else { continue };
                    self.rest(id, live).await?;
                    if !self.has_ended(id, live) && !self.time_left().is_zero() {
                        return Ok(());
                    }
                }
                // One that fails is tried again while there is time; after that it is stopped without.
                StopStep::Exec(exec) if self.time_left().is_zero() => {
                    warn!(tenant = %self.job.intent.name, workload = exec.target, "the time for stopping is over: it goes on without this step");
                }
                StopStep::Exec(exec) => self.exec(exec).await?,
            }
        }
        for (id, live) in &workloads {
            self.rest(id, live).await?;
        }
        self.end_pods().await
    }

    /// The pods that vanished and may run on, by UID.
    pub(super) fn vanished(&self) -> BTreeMap<String, Vanished> {
        self.look(|inner| inner.homes.get(&self.namespace).map(|home| holds::vanished(inner, home))).unwrap_or_default()
    }

    fn has_written_vanished(&self) -> bool {
        self.look(|inner| inner.homes.get(&self.namespace).is_none_or(|home| holds::is_written(inner, home)))
    }

    /// Writes down which pods vanished: an agent that starts anew would take them for ended.
    async fn write_vanished(&self) -> Result<(), Failed> {
        if self.has_written_vanished() {
            return Ok(());
        }
        let uid = self.look(|inner| Some(inner.homes.get(&self.namespace)?.space.as_ref()?.live.uid.to_string()));
        let known = self.recorded().await?;
        let (tenant, namespace_uid) = (self.job.intent.id.to_string(), uid.unwrap_or_default());
        self.write(&Record { tenant, namespace_uid, vanished: self.vanished(), ..known }).await
    }

    /// Name and UID of pods that have ended and that nobody has taken away; where all is to go, also of those that nothing looks after.
    fn pods_to_end(&self) -> Vec<(String, String)> {
        let all_goes = self.job.intent.role == Role::Absent;
        self.look(|inner| {
            let pods = inner.homes.get(&self.namespace).into_iter().flat_map(|home| &home.pods);
            let ended = pods.filter(|(_, pod)| !pod.deleting && (pod.ended || all_goes && pod.owner.is_empty()));
            ended.map(|(name, pod)| (name.to_string(), pod.uid.to_string())).collect()
        })
    }

    /// Takes pods away that have ended: those of Jobs, and those that were evicted, would stay and be taken for running ones. And those that would
    /// keep a namespace from going and that nobody else ends.
    async fn end_pods(&self) -> Result<(), Failed> {
        let ended = self.pods_to_end();
        let pods: Api<Pod> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        for (name, uid) in ended {
            let same = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            call_opt(&format!("Pod/{name}"), pods.delete(&name, &params)).await?;
        }
        Ok(())
    }

    /// Whether a workload has no pods left.
    fn has_ended(&self, id: &ObjectId, live: &Live) -> bool {
        let workload = id.to_string();
        let pods =
            self.look(|inner| inner.homes.get(&self.namespace).is_some_and(|home| home.pods.values().any(|pod| *pod.owner == *workload)));
        live.at_rest && !pods
    }

    /// How long the class's steps may take together.
    pub(super) fn stop_within(&self) -> Duration {
        let within = self.job.rendered.as_ref().ok().and_then(|rendered| rendered.stop_within);
        within.map_or(STOP_WITHIN, |within| Duration::from_millis(within.0))
    }

    /// What is left of it since the first of them.
    pub(super) fn time_left(&self) -> Duration {
        let mut stops = self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        self.stop_within().saturating_sub(now.duration_since(*stops.entry(self.job.intent.id).or_insert(now)))
    }

    async fn rest(&self, id: &ObjectId, live: &Live) -> Result<(), Failed> {
        match rest_of(id, live) {
            None => Ok(()),
            Some(Rest::Delete) => self.writer.delete(id, &self.namespace, live).await,
            Some(Rest::Set(field, value)) => {
                let spec = json!({ field: value });
                let body = json!({ "apiVersion": id.api_version, "kind": id.kind, "metadata": { "name": id.name }, "spec": spec });
                self.writer.apply(id, &self.namespace, &body, REST_MANAGER).await.map(drop)
            }
        }
    }
}
