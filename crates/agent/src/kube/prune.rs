//! What was made for a tenant and is not rendered any more: it is taken away, and forgotten once it is known to be gone.

use kube::api::{DynamicObject, Patch, PatchParams};
use roadstead_class::{ObjectId, Rendered};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Part, PartSeen};
use serde_json::json;
use tracing::debug;

use super::act::{Work, call, call_opt};
use super::known::is_ours_to_delete;
use super::owned::MANAGER;
use super::record::{Record, core, is_secret_of};
use super::seen;
use super::store::{Live, Served};
use super::words;
use super::{Drift, TENANT_LABEL};
use crate::interpreter::Failed;

impl Work<'_> {
    /// Deletes what was made for a part and is not rendered any more. Claims, and secrets that were generated, are never among it.
    pub(super) async fn prune(&self, part: Part, rendered: &Rendered) -> Result<(), Failed> {
        for (id, live) in self.pruned(part, rendered) {
            self.writer.delete(&id, &self.namespace, &live).await?;
        }
        Ok(())
    }

    /// What was made for a part, is not rendered any more, and is there.
    pub(super) fn pruned(&self, part: Part, rendered: &Rendered) -> Vec<(ObjectId, Live)> {
        self.look(|inner| {
            let Some((home, record)) = inner.homes.get(&self.namespace).and_then(|home| Some((home, home.recorded()?))) else {
                return Vec::new();
            };
            let there = record.stale(part, rendered).filter_map(|id| inner.peek(home, &id).cloned().map(|live| (id, live)));
            there.filter(|(id, live)| is_ours_to_delete(id, live)).collect()
        })
    }

    /// Deletes secrets that were copied and are not rendered any more, once nothing runs that was made to use them.
    pub(super) async fn prune_secrets(&self, rendered: &Rendered) -> Result<(), Failed> {
        if self.job.intent.role != Role::Run || self.pruned(Part::Secrets, rendered).is_empty() {
            return Ok(());
        }
        let seen = self.look(|inner| seen::seen(inner, self.job, &self.namespace, self.writer.drift));
        let seen = seen.map_err(|_| words::again("it is being looked at"))?;
        if seen.parts.get(&Part::Workloads) == Some(&PartSeen::Ready) { self.prune(Part::Secrets, rendered).await } else { Ok(()) }
    }

    /// Takes out of a record what is neither rendered nor there any more. What is only not seen stays in it, or nobody would ever take it away.
    pub(super) async fn forget(&self, record: &mut Record, rendered: &Rendered) {
        let objects = record.objects.iter().filter(|made| !made.is_in(rendered)).map(|made| made.id());
        let secrets = record.secrets.iter().filter(|(name, made)| !made.generated && !is_secret_of(rendered, name));
        let old: Vec<ObjectId> = objects.chain(secrets.map(|(name, _)| core("Secret", name))).collect();
        for id in old {
            if self.live(&id).is_none() && self.is_gone(&id).await {
                record.objects.retain(|made| made.id() != id);
                record.secrets.retain(|name, _| id != core("Secret", name));
            }
        }
    }

    /// Whether an object that is not seen is not there. It may be there without the label by which it is watched, or nobody can look; and where its kind is
    /// not served in this version it may be there in another.
    async fn is_gone(&self, id: &ObjectId) -> bool {
        let served = self.look(|inner| inner.kind_of(&id.api_version, &id.kind).map(|kind| inner.kinds[kind].served.clone()));
        match served {
            Some(Served::Listed) => {}
            Some(Served::Unknown | Served::Missing | Served::Broken(_)) | None => return false,
        }
        let found = match self.writer.api(id, &self.namespace) {
            Ok((_, api)) => call_opt(&id.to_string(), api.get(&id.name)).await,
            Err(failed) => Err(failed),
        };
        match found {
            Ok(None) => true,
            Ok(Some(there)) => {
                if let Err(error) = self.label_again(id, there).await {
                    debug!(%id, %error, "an object that was made cannot be labelled again");
                }
                false
            }
            Err(error) => {
                debug!(%id, %error, "it is not known whether an object is there");
                false
            }
        }
    }

    /// Gives an object of ours the label back by which it is seen, and pruned then.
    async fn label_again(&self, id: &ObjectId, there: DynamicObject) -> Result<(), Failed> {
        let (kind, api) = self.writer.api(id, &self.namespace)?;
        let (known, version) = (self.look(|inner| inner.kinds[kind].kind.clone()), there.metadata.resource_version.clone());
        let live = Live::of(&known, there, &self.writer.store.names);
        if self.writer.drift == Drift::Report || !is_ours_to_delete(id, &live) {
            return Ok(());
        }
        let labels = json!({ TENANT_LABEL: self.job.intent.id.to_string() });
        let patch = json!({ "metadata": { "resourceVersion": version, "labels": labels } });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        call(&id.to_string(), api.patch(&id.name, &params, &Patch::Merge(patch))).await.map(drop)
    }
}
