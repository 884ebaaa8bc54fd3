//! Bringing a tenant to rest: its way in away, its workloads to zero in the class's order. Whether it is at rest is for others to see (`holds`).

use std::collections::{BTreeMap, BTreeSet};
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
use super::store::{Inner, Live};
use crate::interpreter::Failed;

/// How long the class's steps may take if it does not say.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// A tenant that is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When the first of the class's steps began.
    since: Instant,
    /// Steps for which there was no time left, as was said of each.
    skipped: BTreeSet<usize>,
}

impl Stopping {
    /// One whose first step began then.
    pub(super) fn since(since: Instant) -> Self {
        Self { since, skipped: BTreeSet::new() }
    }
}

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
            Action::Unroute => self.is_noted(Part::Routes) || self.made(Part::Routes).iter().any(|(id, live)| is_ours_to_delete(id, live)),
            Action::Stop => {
                // Once their time is over nothing of them is left to do: what runs on then may never end, and is not asked again and again.
                let has_steps = self.job.rendered.as_ref().is_ok_and(|rendered| !rendered.stop.is_empty()) && !self.is_out_of_time();
                let is_running = || self.made(Part::Workloads).iter().any(|(id, live)| rest_of(id, live).is_some());
                let has_pods = || !self.pods_to_end().is_empty();
                self.is_noted(Part::Workloads) || has_steps || is_running() || has_pods() || !self.has_written_vanished()
            }
            Action::Claim | Action::Put(_) | Action::MakeVolume(_) | Action::GrowVolume(_) | Action::Delete => true,
        }
    }

    /// Whether it may be noted that a part is as rendered; where damage is only told.
    fn is_noted(&self, part: Part) -> bool {
        let part = PartName::from(part);
        let noted = |inner: &Inner| {
            let record = inner.homes.get(&self.namespace).and_then(|home| home.record.as_ref());
            record.is_none_or(|record| record.in_step.contains_key(&part))
        };
        self.writer.drift == Drift::Report && self.look(noted)
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
        for (number, step) in steps.iter().enumerate() {
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
                    if self.is_skipped(number) {
                        continue;
                    }
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

    /// What is left of it since the first of them, which begins now if none has.
    pub(super) fn time_left(&self) -> Duration {
        let mut stops = self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = stops.entry(self.job.intent.id).or_insert_with(|| Stopping::since(Instant::now()));
        self.stop_within().saturating_sub(stop.since.elapsed())
    }

    /// Whether the first of them has begun, and their time is over.
    fn is_out_of_time(&self) -> bool {
        let stops = self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.get(&self.job.intent.id).is_some_and(|stop| stop.since.elapsed() >= self.stop_within())
    }

    /// Goes on without a step; whether it did so before.
    fn is_skipped(&self, step: usize) -> bool {
        let mut stops = self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.get_mut(&self.job.intent.id).is_some_and(|stop| !stop.skipped.insert(step))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should panic
mod tests {
    use std::sync::{Arc, Mutex};

    use kube::api::DynamicObject;
    use kube::client::Body;
    use roadstead_class::{Exec, Manifest, Rendered};
    use roadstead_core::time::Millis;
    use tonic::codegen::http::{Request, Response};
    use tower::BoxError;

    use super::super::Kind;
    use super::super::act::Writer;
    use super::super::pods::SlimPod;
    use super::super::record::core;
    use super::super::store::Store;
    use super::super::tests::stopped_tenant;
    use super::*;
    use crate::interpreter::Job;

    const HOME: &str = "acme";
    const WITHIN: Millis = Millis::from_secs(60);

    /// A tenant with one workload, that is to run a command when it is stopped.
    fn job() -> Job {
        let manifest = |id: ObjectId| Manifest { id, body: json!({}) };
        let flush = Exec { target: "Deployment/web".to_owned(), run: vec!["flush".to_owned()], undo: Vec::new() };
        let rendered = Rendered {
            digest: String::new(),
            class_digest: String::new(),
            namespace: manifest(core("Namespace", HOME)),
            parts: [(Part::Workloads, vec![manifest(web())])].into(),
            secrets: Vec::new(),
            volumes: BTreeMap::new(),
            ceded: Vec::new(),
            also: Vec::new(),
            ready_within: None,
            stop: vec![StopStep::Exec(flush)],
            stop_within: Some(WITHIN),
            local: BTreeMap::new(),
        };
        Job { intent: stopped_tenant(), rendered: Ok(Arc::new(rendered)) }
    }

    fn web() -> ObjectId {
        ObjectId { api_version: "apps/v1".to_owned(), kind: "Deployment".to_owned(), name: "web".to_owned() }
    }

    /// The workload, which runs or is held at zero.
    fn workload(version: &str, held: bool) -> DynamicObject {
        let fields = if held { json!([{"manager": REST_MANAGER, "operation": "Apply", "fieldsV1": {}}]) } else { json!([]) };
        let metadata = json!({"name": "web", "namespace": HOME, "generation": 1, "resourceVersion": version, "managedFields": fields});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"template": {}}, "status": {"observedGeneration": 1}})).unwrap()
    }

    fn pod(ended: bool) -> SlimPod {
        let (uid, node, owner) = ("u".into(), Some("far".into()), "Deployment/web".into());
        SlimPod { uid, ended, succeeded: false, deleting: !ended, node, owner, trouble: None }
    }

    fn writer(drift: Drift) -> Writer {
        let nobody = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
        let store = Arc::new(Store::new("templates"));
        for kind in [core("Namespace", ""), web()] {
            store.add(Kind { api_version: kind.api_version, kind: kind.kind }).unwrap();
        }
        let client = kube::Client::new(nobody, "default");
        Writer { client, store, drift, stops: Mutex::default(), originals: Mutex::default() }
    }

    #[tokio::test]
    async fn who_cannot_come_to_rest_is_left_alone_when_the_time_for_the_steps_is_over() {
        let (job, writer) = (job(), writer(Drift::Repair));
        let work = Work { writer: &writer, job: &job, namespace: HOME.to_owned() };
        let began = |ago: Duration| {
            let stop = Stopping::since(Instant::now().checked_sub(ago).unwrap());
            writer.stops.lock().unwrap().insert(job.intent.id, stop);
        };
        // On a node that does not come back.
        writer.store.of_home(HOME, |home| drop(home.pods.insert("web-0".into(), pod(false))));
        writer.store.put(1, workload("5", true), false);
        assert!(work.has_work(&Action::Stop), "no step has been tried");
        began(Duration::from_secs(59));
        assert!(work.has_work(&Action::Stop), "there is time");
        began(Duration::from_secs(61));
        assert!(!work.has_work(&Action::Stop));
        // What is ended without any step is still ended.
        writer.store.put(1, workload("6", false), false);
        assert!(work.has_work(&Action::Stop), "it was scaled up again");
        writer.store.put(1, workload("7", true), false);
        assert!(!work.has_work(&Action::Stop));
        writer.store.of_home(HOME, |home| drop(home.pods.insert("web-1".into(), pod(true))));
        assert!(work.has_work(&Action::Stop), "a pod has ended that nobody takes away");

        assert_eq!([work.is_skipped(0), work.is_skipped(0), work.is_skipped(1)], [false, true, false], "each is said once");
        began(Duration::from_secs(61));
        assert!(!work.is_skipped(0), "of another stop");
    }

    #[tokio::test]
    async fn where_damage_is_only_told_nothing_is_asked_once_nothing_is_noted() {
        let (job, writer) = (job(), writer(Drift::Report));
        let work = Work { writer: &writer, job: &job, namespace: HOME.to_owned() };
        let stop = Stopping::since(Instant::now().checked_sub(Duration::from_secs(61)).unwrap());
        writer.stops.lock().unwrap().insert(job.intent.id, stop);
        writer.store.put(1, workload("5", true), false);
        let has_work = || [Action::Unroute, Action::Stop].map(|action| work.has_work(&action));
        assert_eq!(has_work(), [true, true], "what is noted is not known");
        let note = |parts: &[PartName]| {
            let in_step = parts.iter().map(|part| (*part, "hash".to_owned())).collect();
            writer.store.of_home(HOME, |home| home.record = Some(Record { in_step, ..Record::default() }));
        };
        note(&[PartName::Workloads]);
        assert_eq!(has_work(), [false, true]);
        note(&[PartName::Routes]);
        assert_eq!(has_work(), [true, false]);
        note(&[]);
        assert_eq!(has_work(), [false, false]);
    }
}
