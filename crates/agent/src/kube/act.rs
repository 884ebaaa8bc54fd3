//! Requests to the API server, and the actions that make a tenant. Nothing is forced over anybody but ourselves and hands at a keyboard.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use roadstead_class::ObjectId;
use roadstead_class::{Manifest, Rendered};
use roadstead_core::id::{Name, TenantId};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Home as HomeSeen, Part, VolumeSeen};
use serde_json::{Value, json};

use super::body::body;
use super::known;
use super::owned::{MANAGER, REST_MANAGER, held};
use super::record::{self, Record, core};
use super::rest::Stopping;
use super::secrets::{self, SlimSecret};
use super::seen::{self, ceded, differs, home_of, namespace_body};
use super::store::{Extra, Inner, Live, Served, Store, epoch_of, version};
use super::words::{self, REQUEST_WITHIN};
use super::{Drift, EPOCH_LABEL, TENANT_LABEL};
use crate::interpreter::{Failed, Job};

/// The field manager under which claims are made larger.
const SIZE_MANAGER: &str = "roadstead-size";
/// Managers that stand for somebody at a keyboard.
const HANDS: &str = "kubectl";

/// Whoever writes.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) store: Arc<Store>,
    pub(super) drift: Drift,
    /// Tenants that are being stopped.
    pub(super) stops: Mutex<HashMap<TenantId, Stopping>>,
    /// Secrets that are copied, as they were read last, by name: each is read once for all of its copies.
    pub(super) originals: Mutex<HashMap<String, Original>>,
}

/// A secret that is copied.
#[derive(Clone, Debug)]
pub(super) struct Original {
    /// What a watch tells of it while it is still like this.
    pub(super) slim: SlimSecret,
    pub(super) data: Value,
    pub(super) of_type: String,
}

/// An action on a tenant in its namespace.
pub(super) struct Work<'a> {
    pub(super) writer: &'a Writer,
    pub(super) job: &'a Job,
    pub(super) namespace: String,
}

/// One request, with an end to it.
pub(super) async fn call<T>(what: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failed> {
    match tokio::time::timeout(REQUEST_WITHIN, request).await {
        Ok(answer) => answer.map_err(|error| words::failed(error, what)),
        Err(_) => Err(words::late(what)),
    }
}

/// As [`call`]; what is not there is `None`.
pub(super) async fn call_opt<T>(what: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<Option<T>, Failed> {
    match tokio::time::timeout(REQUEST_WITHIN, request).await {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(error)) => Err(words::failed(error, what)),
        Err(_) => Err(words::late(what)),
    }
}

impl Writer {
    /// Where objects of a kind are; in no namespace for a Namespace.
    pub(super) fn api(&self, id: &ObjectId, namespace: &str) -> Result<(usize, Api<DynamicObject>), Failed> {
        let inner = self.store.read();
        let kind = inner.kind_of(&id.api_version, &id.kind);
        let found = kind.and_then(|kind| Some((kind, inner.kinds[kind].resource.clone()?)));
        let broken = kind.and_then(|kind| match &inner.kinds[kind].served {
            Served::Broken(why) => Some(why.clone()),
            Served::Unknown | Served::Listed | Served::Missing => None,
        });
        drop(inner);
        let Some((kind, mut resource)) = found else {
            let why = broken.unwrap_or_else(|| format!("the cluster serves no {} ({})", id.kind, id.api_version));
            return Err(Failed::Refused(why));
        };
        // It is written in the version in which it is rendered.
        resource.api_version.clone_from(&id.api_version);
        if let Some((_, version)) = id.api_version.rsplit_once('/') {
            version.clone_into(&mut resource.version);
        }
        let api = match kind {
            0 => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        Ok((kind, api))
    }

    /// Applies an object: what is in it is ours then, what was and is not in it is given up.
    pub(super) async fn apply(&self, id: &ObjectId, namespace: &str, body: &Value, manager: &str) -> Result<DynamicObject, Failed> {
        let (kind, api) = self.api(id, namespace)?;
        let what = id.to_string();
        let mut params = PatchParams::apply(manager).validation_strict();
        params.force = manager == REST_MANAGER;
        let patch = Patch::Apply(body);
        let mut answer =
            tokio::time::timeout(REQUEST_WITHIN, api.patch(&id.name, &params, &patch)).await.map_err(|_| words::late(&what))?;
        if let Err(kube::Error::Api(status)) = &answer
            && status.code == 409
        {
            let others = words::conflicts(status);
            if others.is_empty() {
                return Err(words::again(format!("{what}: it changed meanwhile: {}", status.message)));
            }
            if !others.iter().all(|(manager, _)| self.may_take(manager)) {
                return Err(Failed::Refused(words::owned_by_others(&what, &others)));
            }
            params.force = true;
            answer = tokio::time::timeout(REQUEST_WITHIN, api.patch(&id.name, &params, &patch)).await.map_err(|_| words::late(&what))?;
        }
        let object = answer.map_err(|error| words::failed(error, &what))?;
        self.store.put(kind, object.clone(), true);
        Ok(object)
    }

    /// Whether fields of another manager may be taken from it.
    pub(super) fn may_take(&self, manager: &str) -> bool {
        manager.starts_with(MANAGER) || (manager.starts_with(HANDS) && self.drift == Drift::Repair)
    }

    /// Deletes an object if it is still the one that was seen. What is gone already is fine.
    pub(super) async fn delete(&self, id: &ObjectId, namespace: &str, live: &Live) -> Result<(), Failed> {
        let (_, api) = self.api(id, namespace)?;
        let same = Preconditions { uid: Some(live.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::background() };
        call_opt(&id.to_string(), api.delete(&id.name, &params)).await.map(drop)
    }
}

impl Work<'_> {
    /// Carries an action out.
    pub(super) async fn act(&self, action: &Action) -> Result<(), Failed> {
        match action {
            Action::Claim => return self.claim().await,
            Action::Delete => return self.delete_all().await,
            Action::Put(_) | Action::MakeVolume(_) | Action::GrowVolume(_) | Action::Unroute | Action::Stop => {}
        }
        // Whoever acts must have claimed it: another agent with a newer intent may have.
        let home = self.look(|inner| home_of(inner.homes.get(&self.namespace), self.job.intent.id));
        if home != HomeSeen::Ours(self.job.intent.epoch) {
            return Err(words::again(format!("namespace {} is not claimed in epoch {}", self.namespace, self.job.intent.epoch)));
        }
        match action {
            Action::Put(Part::Secrets) => self.put_secrets().await,
            Action::Put(part) => self.put(*part).await,
            Action::MakeVolume(name) => self.make_volume(name).await,
            Action::GrowVolume(name) => self.grow_volume(name).await,
            Action::Unroute => self.unroute().await,
            Action::Stop => self.stop().await,
            Action::Claim | Action::Delete => Ok(()),
        }
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.writer.store.read())
    }

    /// An object of the tenant, as last seen.
    pub(super) fn live(&self, id: &ObjectId) -> Option<Live> {
        self.look(|inner| inner.peek(inner.homes.get(&self.namespace)?, id).cloned())
    }

    pub(super) fn rendered(&self) -> Result<&Rendered, Failed> {
        self.job.rendered.as_deref().map_err(|why| Failed::Refused(why.clone()))
    }

    async fn apply(&self, id: &ObjectId, body: &Value) -> Result<DynamicObject, Failed> {
        self.writer.apply(id, &self.namespace, body, MANAGER).await
    }

    /// Makes the namespace, or moves its epoch up.
    async fn claim(&self) -> Result<(), Failed> {
        let id = core("Namespace", &self.namespace);
        let (kind, api) = self.writer.api(&id, "")?;
        let what = id.to_string();
        // What has not been seen is most likely not there: then it need not be asked for.
        let is_seen = self.look(|inner| inner.homes.get(&self.namespace).is_some_and(|home| home.space.is_some()));
        let there = if is_seen { call_opt(&what, api.get(&self.namespace)).await? } else { None };
        let Some(there) = there else {
            // From here on it may be there, whether the answer arrives or not.
            self.writer.store.forget_namespace(&self.namespace);
            // Created, not applied: whoever was faster keeps it, and it is looked at again.
            let mut body = namespace_body(self.job, self.rendered()?);
            if let Some(plan) = Record::plan(self.job.intent.id, self.rendered()?) {
                body["metadata"]["annotations"][record::PLAN] = plan.into();
            }
            let object = serde_json::from_value(body).map_err(|error| Failed::Refused(format!("{what}: {error}")))?;
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            let made = call(&what, api.create(&params, &object)).await?;
            self.writer.store.put(kind, made, true);
            self.writer.store.of_home(&self.namespace, |home| home.is_new = true);
            return Ok(());
        };
        self.is_ours(&there).await?;
        let label = |name: &str| there.metadata.labels.iter().flatten().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        let epoch = label(EPOCH_LABEL).and_then(epoch_of).unwrap_or_default();
        if epoch > self.job.intent.epoch {
            return Err(Failed::Refused(format!("{what} was acted on in epoch {epoch}, which is newer than {}", self.job.intent.epoch)));
        }
        let labels = json!({ TENANT_LABEL: self.job.intent.id.to_string(), EPOCH_LABEL: self.job.intent.epoch.to_string() });
        let patch = json!({ "metadata": { "resourceVersion": there.metadata.resource_version, "labels": labels } });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let moved = call(&what, api.patch(&self.namespace, &params, &Patch::Merge(patch))).await?;
        self.writer.store.put(kind, moved, true);
        Ok(())
    }

    /// Whether a namespace that was just read is this tenant's, and can still be worked in.
    async fn is_ours(&self, there: &DynamicObject) -> Result<(), Failed> {
        if there.metadata.deletion_timestamp.is_some() {
            return Err(words::again(format!("namespace {} is being deleted", self.namespace)));
        }
        let tenant = self.job.intent.id.to_string();
        let label = there.metadata.labels.iter().flatten().find(|(known, _)| *known == TENANT_LABEL).map(|(_, value)| value.clone());
        let ours = match &label {
            Some(label) => *label == tenant,
            None => {
                let (_, api) = self.writer.api(&core("ConfigMap", record::NAME), &self.namespace)?;
                let record = call_opt("ConfigMap/roadstead-record", api.get(record::NAME)).await?;
                let record = record.and_then(|object| Record::of(&object.data)).or_else(|| Record::planned(&there.metadata));
                record.is_some_and(|record| record.tenant == tenant && there.metadata.uid.as_deref() == Some(&record.namespace_uid))
            }
        };
        let whose = label.map_or_else(|| "no tenant's".to_owned(), |label| format!("labelled {TENANT_LABEL}={label}"));
        if ours { Ok(()) } else { Err(Failed::Refused(format!("the namespace {} is there and is {whose}", self.namespace))) }
    }

    /// Deletes the namespace that was just read and is this tenant's in this epoch.
    async fn delete_all(&self) -> Result<(), Failed> {
        let id = core("Namespace", &self.namespace);
        let (_, api) = self.writer.api(&id, "")?;
        let what = id.to_string();
        let Some(there) = call_opt(&what, api.get(&self.namespace)).await? else { return Ok(()) };
        if there.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let label = |name: &str| there.metadata.labels.iter().flatten().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let (tenant, epoch) = (label(TENANT_LABEL), label(EPOCH_LABEL).as_deref().and_then(epoch_of));
        if tenant != Some(self.job.intent.id.to_string()) || epoch != Some(self.job.intent.epoch) {
            return Err(Failed::Refused(format!(
                "namespace {} is not that of tenant {} in epoch {}",
                self.namespace, self.job.intent.id, self.job.intent.epoch
            )));
        }
        let same = Preconditions { uid: there.metadata.uid, resource_version: there.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::background() };
        call_opt(&what, api.delete(&self.namespace, &params)).await.map(drop)
    }

    async fn put(&self, part: Part) -> Result<(), Failed> {
        let rendered = self.rendered()?;
        if part == Part::Workloads {
            self.take_back().await?;
        }
        let mut in_step = true;
        // Before anything within it: where its label was stripped, admission refuses whatever comes first.
        if part == Part::Bounds && self.look(|inner| seen::namespace_differs(inner, self.job, rendered, &self.namespace)) {
            in_step = false;
            self.apply(&rendered.namespace.id, &namespace_body(self.job, rendered)).await?;
        }
        self.record(part == Part::Workloads).await?;
        for manifest in rendered.parts.get(&part).into_iter().flatten() {
            in_step &= !self.put_object(rendered, manifest).await?;
        }
        let waits = || {
            rendered.parts.get(&part).into_iter().flatten().any(|manifest| self.live(&manifest.id).is_none_or(|live| live.waits.is_some()))
        };
        if in_step && !waits() {
            self.prune(part, rendered).await?;
        }
        if self.writer.drift == Drift::Report {
            let hash = self.look(|inner| Some(seen::hash_of(inner, inner.homes.get(&self.namespace)?, self.job, rendered, part)));
            self.note(part, hash).await?;
        }
        if part == Part::Workloads {
            self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job.intent.id);
        }
        Ok(())
    }

    /// Notes that a part is as rendered, or is not to be any more; where damage is only told.
    pub(super) async fn note(&self, part: Part, hash: Option<String>) -> Result<(), Failed> {
        if self.writer.drift == Drift::Repair {
            return Ok(());
        }
        let mut record = self.recorded().await?;
        let before = match hash.clone() {
            Some(hash) => record.in_step.insert(part.into(), hash),
            None => record.in_step.remove(&part.into()),
        };
        if before == hash { Ok(()) } else { self.write(&record).await }
    }

    /// Applies an object unless it is as rendered; whether it did.
    async fn put_object(&self, rendered: &Rendered, manifest: &Manifest) -> Result<bool, Failed> {
        let (body, is_held) = {
            let inner = self.writer.store.read();
            let Some(home) = inner.homes.get(&self.namespace) else { return Err(words::again("its namespace is gone")) };
            let live = inner.peek(home, &manifest.id);
            if live.is_some_and(|live| differs(&inner, home, manifest, rendered, live).is_ok()) {
                return Ok(false);
            }
            let mut body = body(&inner, home, rendered, manifest).into_owned();
            for path in ceded(rendered, manifest, live) {
                // What is still ours keeps the value that it has; left out, it would be taken away.
                cede(&mut body, path, live.and_then(|live| live.owned.value_at(path)));
            }
            (body, live.is_some_and(|live| live.held))
        };
        let mut object = self.apply(&manifest.id, &body).await?;
        if is_held && held(object.metadata.managed_fields.as_deref().unwrap_or_default()) {
            let nothing =
                json!({ "apiVersion": manifest.id.api_version, "kind": manifest.id.kind, "metadata": { "name": manifest.id.name } });
            object = self.writer.apply(&manifest.id, &self.namespace, &nothing, REST_MANAGER).await?;
        }
        let version = version(object.metadata.resource_version.as_deref());
        self.writer.store.of_home(&self.namespace, |home| {
            home.applied.insert(manifest.id.to_string(), (version, rendered.digest.clone()));
        });
        Ok(true)
    }

    async fn make_volume(&self, name: &Name) -> Result<(), Failed> {
        let claim = self.rendered()?.volumes.get(name).ok_or_else(|| Failed::Refused(format!("volume `{name}` is not in the class")))?;
        self.record(false).await?;
        let seen = self.look(|inner| seen::seen(inner, self.job, &self.namespace, self.writer.drift));
        let seen = seen.map_err(|_| words::again(format!("volume `{name}` is being looked for")))?;
        match seen.volumes.get(name) {
            None | Some(VolumeSeen::Never) => {}
            Some(VolumeSeen::There { .. } | VolumeSeen::Going { .. }) => return Ok(()),
            Some(VolumeSeen::Lost) => return Err(Failed::Refused(format!("volume `{name}` was there and is lost: it is not made again"))),
        }
        let what = claim.id.to_string();
        let (kind, api) = self.writer.api(&claim.id, &self.namespace)?;
        let mut body = claim.body.clone();
        body["metadata"]["labels"][EPOCH_LABEL] = self.job.intent.epoch.to_string().into();
        let object = serde_json::from_value(body).map_err(|error| Failed::Refused(format!("{what}: {error}")))?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let made = match call(&what, api.create(&params, &object)).await {
            Ok(made) => made,
            Err(failed) => {
                let there = call_opt(&what, api.get(&claim.id.name)).await?.ok_or(failed)?;
                self.may_take_over(&there, &what)?;
                there
            }
        };
        self.writer.store.put(kind, made, true);
        if self.job.intent.role != Role::Run { self.record(true).await } else { Ok(()) }
    }

    /// Whether a claim that is there, and that nothing is written down of, may be the volume that is to be made: another try of ours made it.
    fn may_take_over(&self, there: &DynamicObject, what: &str) -> Result<(), Failed> {
        let label = |name: &str| there.metadata.labels.iter().flatten().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        if label(TENANT_LABEL) != Some(&*self.job.intent.id.to_string()) {
            return Err(Failed::Refused(format!("{what} is there already and is not this tenant's")));
        }
        let (made, now) = (label(EPOCH_LABEL), self.job.intent.epoch);
        if made.and_then(epoch_of) == Some(now) {
            return Ok(());
        }
        let made = made.map_or_else(|| "an epoch that is not known".to_owned(), |made| format!("epoch {made}"));
        Err(Failed::Refused(format!(
            "{what} is there already, from {made} and not from {now}: it is not known to hold the tenant's data, and is not taken for it"
        )))
    }

    async fn grow_volume(&self, name: &Name) -> Result<(), Failed> {
        let claim = self.rendered()?.volumes.get(name).ok_or_else(|| Failed::Refused(format!("volume `{name}` is not in the class")))?;
        let size = self.job.intent.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0);
        let requested = match self.live(&claim.id).map(|live| live.extra) {
            Some(Extra::Claim { requested, .. }) => requested,
            Some(Extra::Nothing | Extra::Secret(_)) | None => return Err(words::again(format!("{} is not there", claim.id))),
        };
        // It has been asked for already, or it is larger than it need be.
        if requested >= size {
            return Ok(());
        }
        let body = json!({
            "apiVersion": claim.id.api_version, "kind": claim.id.kind, "metadata": { "name": claim.id.name },
            "spec": { "resources": { "requests": { "storage": size.to_string() } } },
        });
        // Under a name of its own: what else is in the claim was created, not applied, and is not to be given up.
        self.writer.apply(&claim.id, &self.namespace, &body, SIZE_MANAGER).await.map(drop)
    }

    /// The record as it is known.
    pub(super) async fn recorded(&self) -> Result<Record, Failed> {
        let id = core("ConfigMap", record::NAME);
        let (found, is_all) = self.look(|inner| {
            let Some(home) = inner.homes.get(&self.namespace) else { return (Record::default(), true) };
            if let Some(known) = &home.record {
                return (known.clone(), true);
            }
            // One that is begun anew does not know what was made before; where this process made all that is there, it is not begun anew.
            let whole = home.is_new || !known::has_volumes(inner, home, self.job);
            let planned = Record { whole, ..home.recorded().cloned().unwrap_or_default() };
            (planned, home.is_new || home.objects.values().all(std::collections::BTreeMap::is_empty))
        });
        if is_all {
            return Ok(found);
        }
        // It may be there without the label by which it is watched.
        let (_, api) = self.writer.api(&id, &self.namespace)?;
        match call_opt(&id.to_string(), api.get(record::NAME)).await? {
            None => Ok(found),
            Some(object) => Record::of(&object.data)
                .ok_or_else(|| Failed::Refused(format!("{id} cannot be read; what was made for the tenant is not known"))),
        }
    }

    /// Writes down what is rendered; with `identities` also which volumes and secrets have been made.
    pub(super) async fn record(&self, identities: bool) -> Result<(), Failed> {
        let rendered = self.rendered()?;
        let known = self.recorded().await?;
        let uid = self
            .look(|inner| inner.homes.get(&self.namespace).and_then(|home| home.space.as_ref()).map(|space| space.live.uid.to_string()));
        let mut record = known.with(self.job.intent.id, &uid.unwrap_or_default(), rendered);
        record.vanished = self.vanished();
        let (is_written, is_new) = self.look(|inner| {
            let Some(home) = inner.homes.get(&self.namespace) else { return (false, false) };
            (home.record.is_some(), home.is_new)
        });
        if identities {
            for (name, made) in record.volumes.iter_mut().filter(|(_, made)| made.uid.is_none()) {
                let claim = self.live(&core("PersistentVolumeClaim", &made.claim));
                made.uid = claim.filter(|claim| known::is_volume(self.job, name, claim)).map(|claim| claim.uid.to_string());
            }
            for (name, made) in record.secrets.iter_mut().filter(|(_, made)| made.hash.is_none()) {
                made.hash = self.live(&core("Secret", name)).and_then(|live| match live.extra {
                    Extra::Secret(slim) => Some(secrets::digest(&slim.hashes)),
                    Extra::Nothing | Extra::Claim { .. } => None,
                });
            }
            // Volumes that are written down say that all is that was made. A secret of which nothing is would be taken for one that never was, and be
            // made anew over them: it has gone since it was looked at, and that is told when it is looked at again.
            let gone =
                record.secrets.iter().find(|(name, made)| made.generated && made.hash.is_none() && record::is_secret_of(rendered, name));
            if let Some((name, _)) = gone {
                return Err(words::again(format!("the secret `{name}` is not there any more")));
            }
        }
        // What was planned stands in the namespace; with what came of it, it is written down.
        if record == known && (is_written || is_new && !identities) {
            return Ok(());
        }
        // While it is written anyway.
        self.forget(&mut record, rendered).await;
        self.write(&record).await
    }

    pub(super) async fn write(&self, record: &Record) -> Result<(), Failed> {
        self.apply(&core("ConfigMap", record::NAME), &record.body(&self.namespace)).await?;
        let config_maps = self.look(|inner| inner.kind_of("v1", "ConfigMap"));
        // The answer tells nothing new where just this was there, and seen: a list of namespaces that came between has taken the record out of sight.
        self.writer.store.of_home(&self.namespace, |home| {
            let seen = config_maps.and_then(|kind| home.objects.get(&kind));
            if seen.is_some_and(|objects| objects.contains_key(record::NAME)) && home.space.is_some() && home.record.is_none() {
                (home.record, home.is_new) = (Some(record.clone()), false);
            }
        });
        Ok(())
    }
}

/// Sets a field of a body, or takes it out.
pub(super) fn cede(body: &mut Value, path: &[String], value: Option<&Value>) {
    let Some((last, above)) = path.split_last() else { return };
    let Some(parent) = above.iter().try_fold(body, |body, name| body.get_mut(name)).and_then(Value::as_object_mut) else { return };
    match value {
        Some(value) => drop(parent.insert(last.clone(), value.clone())),
        None => drop(parent.remove(last)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_given_up_in_plain_words() {
        let why = "Deployment/web: the API server did not answer within 30 s".to_owned();
        let late = Failed::Later { why, after: None };
        let never = || std::future::pending::<Result<(), kube::Error>>();
        let began = Instant::now();
        assert_eq!(call("Deployment/web", never()).await, Err(late.clone()));
        assert_eq!(call_opt("Deployment/web", never()).await, Err(late));
        assert_eq!(began.elapsed(), 2 * REQUEST_WITHIN);
    }
}
