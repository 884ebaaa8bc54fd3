//! What would change of a tenant's objects if it were made as rendered. The API server is asked to try each (`dryRun=All`), so that what it
//! fills in, and what admission says, is in the answer. Nothing is written, and no secret's data leaves the cluster.

use kube::api::{DynamicObject, Patch, PatchParams};
use roadstead_api::v1::ObjectDiff;
use roadstead_api::v1::object_diff::Change;
use roadstead_class::{Manifest, ObjectId, Rendered};
use roadstead_core::id::Name;
use roadstead_core::reconcile::Part;
use serde_json::{Value, json};

use super::act::{Work, call, call_opt, cede};
use super::body::body;
use super::owned::MANAGER;
use super::record::core;
use super::seen::{ceded, namespace_body};
use super::store::Extra;
use super::words;
use crate::diff::yaml;
use crate::interpreter::Failed;

/// What stands in the place of a secret's values.
const MASKED: &str = "(not shown)";
/// What the API server and controllers keep of an object; nobody's wish.
const KEPT: [&str; 6] = ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];

impl Work<'_> {
    /// See the module. In the order in which objects are made; those that would be pruned last.
    pub(super) async fn diff(&self) -> Result<Vec<ObjectDiff>, Failed> {
        let rendered = self.rendered()?;
        let mut diffs = Vec::new();
        let space = core("Namespace", &self.namespace);
        let (_, api) = self.writer.api(&space, "")?;
        let is_there = call_opt(&space.to_string(), api.get(&self.namespace)).await?.is_some();
        let body = namespace_body(self.job, rendered);
        // Where there is no namespace nothing can be tried in it.
        diffs.extend(if is_there { self.tried(&space, &body).await? } else { Some(made(&space, &body)) });
        for part in Part::ALL {
            if part == Part::Workloads {
                for (name, claim) in &rendered.volumes {
                    diffs.extend(if is_there { self.grown(name, claim).await? } else { Some(made(&claim.id, &claim.body)) });
                }
            }
            for manifest in rendered.parts.get(&part).into_iter().flatten() {
                let body = self.body(rendered, manifest);
                diffs.extend(if is_there { self.tried(&manifest.id, &body).await? } else { Some(made(&manifest.id, &body)) });
            }
            if part == Part::Secrets {
                for plan in &rendered.secrets {
                    let known = is_there && self.there(&plan.manifest.id).await?.is_some();
                    diffs.extend((!known).then(|| made(&plan.manifest.id, &plan.manifest.body)));
                }
            }
        }
        for (id, live) in Part::ALL.into_iter().flat_map(|part| self.pruned(part, rendered)) {
            if let Some(there) = self.there(&id).await?.filter(|there| there.metadata.uid.as_deref() == Some(&*live.uid)) {
                let before = yaml(&value(&there, &id)?);
                diffs.push(ObjectDiff { object: id.to_string(), change: Change::Deleted.into(), before, ..ObjectDiff::default() });
            }
        }
        Ok(diffs)
    }

    /// An object as it would be applied: with what is ceded left as it is.
    fn body(&self, rendered: &Rendered, manifest: &Manifest) -> Value {
        self.look(|inner| {
            let Some(home) = inner.homes.get(&self.namespace) else { return manifest.body.clone() };
            let live = inner.peek(home, &manifest.id);
            let mut body = body(inner, home, rendered, manifest).into_owned();
            for path in ceded(rendered, manifest, live) {
                cede(&mut body, path, live.and_then(|live| live.owned.value_at(path)));
            }
            body
        })
    }

    async fn there(&self, id: &ObjectId) -> Result<Option<DynamicObject>, Failed> {
        let (_, api) = self.writer.api(id, &self.namespace)?;
        call_opt(&id.to_string(), api.get(&id.name)).await
    }

    /// Lets the API server try an object; `None` if nothing would change.
    async fn tried(&self, id: &ObjectId, body: &Value) -> Result<Option<ObjectDiff>, Failed> {
        let there = match self.there(id).await {
            Ok(there) => there,
            Err(Failed::Refused(why)) => return Ok(Some(refused(id, String::new(), why))),
            Err(later) => return Err(later),
        };
        let before = there.as_ref().map(|there| value(there, id)).transpose()?.map(|value| yaml(&value)).unwrap_or_default();
        let (_, api) = self.writer.api(id, &self.namespace)?;
        let mut params = PatchParams::apply(MANAGER).validation_strict();
        params.dry_run = true;
        let what = id.to_string();
        let mut tried = tokio::time::timeout(words::REQUEST_WITHIN, api.patch(&id.name, &params, &Patch::Apply(body)))
            .await
            .map_err(|_| words::late(&what))?;
        if let Err(kube::Error::Api(status)) = &tried
            && status.code == 409
        {
            let others = words::conflicts(status);
            if others.is_empty() || !others.iter().all(|(manager, _)| self.writer.may_take(manager)) {
                let why = if others.is_empty() { status.message.clone() } else { words::owned_by_others(&what, &others) };
                return Ok(Some(refused(id, before, why)));
            }
            params.force = true;
            tried = Ok(call(&what, api.patch(&id.name, &params, &Patch::Apply(body))).await?);
        }
        let after = match tried.map_err(|error| words::failed(error, &what)) {
            Ok(after) => yaml(&value(&after, id)?),
            Err(Failed::Refused(why)) => return Ok(Some(refused(id, before, why))),
            Err(later) => return Err(later),
        };
        let change = if there.is_some() { Change::Changed } else { Change::Created };
        Ok((before != after).then(|| ObjectDiff { object: what, change: change.into(), before, after, note: String::new() }))
    }

    /// A claim is made once, and only its size is ever changed.
    async fn grown(&self, name: &Name, claim: &Manifest) -> Result<Option<ObjectDiff>, Failed> {
        let Some(there) = self.there(&claim.id).await? else { return Ok(Some(made(&claim.id, &claim.body))) };
        let size = self.job.intent.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0);
        let requested = match self.live(&claim.id).map(|live| live.extra) {
            Some(Extra::Claim { requested, .. }) => requested,
            Some(Extra::Nothing | Extra::Secret(_)) | None => return Err(words::again(format!("{} is being looked for", claim.id))),
        };
        if requested >= size {
            return Ok(None);
        }
        let before = value(&there, &claim.id)?;
        let mut after = before.clone();
        if let Some(place) = after.pointer_mut("/spec/resources/requests/storage") {
            *place = json!(size.to_string());
        }
        let (before, after) = (yaml(&before), yaml(&after));
        Ok(Some(ObjectDiff { object: claim.id.to_string(), change: Change::Changed.into(), before, after, note: String::new() }))
    }
}

fn made(id: &ObjectId, body: &Value) -> ObjectDiff {
    ObjectDiff { object: id.to_string(), change: Change::Created.into(), after: yaml(&shown(body.clone(), id)), ..ObjectDiff::default() }
}

fn refused(id: &ObjectId, before: String, note: String) -> ObjectDiff {
    ObjectDiff { object: id.to_string(), change: Change::Refused.into(), before, note, ..ObjectDiff::default() }
}

/// An object as people look at it.
fn value(object: &DynamicObject, id: &ObjectId) -> Result<Value, Failed> {
    let value = serde_json::to_value(object).map_err(|error| Failed::Refused(format!("{id}: {error}")))?;
    Ok(shown(value, id))
}

/// Without what nobody wishes, and without what is secret.
fn shown(mut value: Value, id: &ObjectId) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
        object.entry("apiVersion").or_insert_with(|| json!(id.api_version));
        object.entry("kind").or_insert_with(|| json!(id.kind));
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        KEPT.iter().for_each(|kept| drop(metadata.remove(*kept)));
    }
    if id.kind == "Secret" {
        for field in ["data", "stringData"] {
            for (_, data) in value.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
                *data = json!(MASKED);
            }
        }
        // A hand at a keyboard leaves the whole of it there.
        if let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.values_mut().for_each(|annotation| *annotation = json!(MASKED));
        }
    }
    value
}
