//! Which of several agents of one cluster may act: whoever has heard the newest intent. They share one ConfigMap, which keeps the newest
//! generation that any of them has acted on.
//!
//! Two agents work at the same time when one does not know yet that it lost its lease, after a pause say, or when somebody started a second
//! one. What they do under the same intent is the same. Under an older one an agent would stop, start or delete what the newer intent says
//! otherwise about, within the same epoch, which the namespace's label cannot tell apart. Therefore:
//!
//! - a generation is kept before anything of it is acted on, with the version that was read as precondition: it only goes up;
//! - before anything ends or starts (a stop, the end of the way in, workloads, a deletion) the kept one is read anew, and a newer one than this agent has heard
//!   refuses the action: one GET for each tenant that is made or stopped. All other actions are held against the newest one that is known.
//!   Where nothing is done nothing is read: in step there is no call.
//!
//! What is left is the time between that reading and the write behind it. A deletion is bound to the version of the namespace that was read, so
//! that any other agent's claim in between prevents it; a stop or a start in it is undone by whoever has the newer intent, as is any drift.

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use roadstead_core::id::Revision;
use roadstead_core::reconcile::{Action, Part};
use serde_json::json;

use super::act::{call, call_opt};
use super::{store, words};
use crate::interpreter::Failed;

/// The ConfigMap in the agents' own namespace, and its only key.
const STATE: (&str, &str) = ("roadstead-agent", "generation");
/// What a request about it is about, in messages.
const WHAT: &str = "the agent's state";

/// See the module.
pub(super) struct Fence {
    api: Api<ConfigMap>,
    namespace: String,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// What this agent has read when it began, or kept since: it acts on nothing older.
    mine: Revision,
    /// The newest that it knows to be kept, by whomever.
    newest: Revision,
}

/// Whether an action ends something that runs or lets something run.
fn ends_or_starts(action: &Action) -> bool {
    match action {
        Action::Stop | Action::Unroute | Action::Delete | Action::Put(Part::Workloads) => true,
        // Routes are put behind workloads, and lead nowhere without them.
        Action::Claim | Action::Put(Part::Bounds | Part::Secrets | Part::Routes) | Action::MakeVolume(_) | Action::GrowVolume(_) => false,
    }
}

impl Fence {
    /// Of the agents whose own namespace this is.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned(), known: Mutex::default() }
    }

    /// The generation that is kept; from here on this agent acts for it, or for newer ones.
    pub(super) async fn begin(&self) -> Result<Revision, Failed> {
        let kept = self.read().await?.map(|(kept, _)| kept).unwrap_or_default();
        self.know(|known| known.mine = known.mine.max(kept));
        Ok(kept)
    }

    /// Keeps a generation from which on this agent acts.
    pub(super) async fn keep(&self, generation: Revision) -> Result<(), Failed> {
        let (name, key) = STATE;
        let data = json!({ key: generation.to_string() });
        match self.read().await? {
            None => {
                let body = json!({ "metadata": { "name": name }, "data": data });
                let body: ConfigMap = serde_json::from_value(body).map_err(|error| Failed::Refused(error.to_string()))?;
                call(WHAT, self.api.create(&PostParams::default(), &body)).await?;
            }
            Some((kept, _)) if kept > generation => {
                return Err(Failed::Refused(format!("generation {kept} was acted on here, which is newer than {generation}")));
            }
            Some((_, version)) => {
                // Another agent may have kept a newer one in between: then this is refused.
                let patch = json!({ "metadata": { "resourceVersion": version }, "data": data });
                call(WHAT, self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
            }
        }
        self.know(|known| *known = Known { mine: generation, newest: known.newest.max(generation) });
        Ok(())
    }

    /// Whether an action may be carried out.
    ///
    /// # Errors
    /// Another agent has acted on a newer generation; or it cannot be found out whether one has.
    pub(super) async fn allows(&self, action: &Action) -> Result<(), Failed> {
        if ends_or_starts(action) {
            self.read().await?;
        }
        let Known { mine, newest } = self.know(|known| *known);
        if newest > mine {
            return Err(words::again(format!(
                "another agent of this cluster has acted on generation {newest}, and this one has heard {mine}: it does nothing until it has heard as much"
            )));
        }
        Ok(())
    }

    /// What is kept, with the version of the object; `None` if nothing ever was.
    async fn read(&self) -> Result<Option<(Revision, Option<String>)>, Failed> {
        let (name, key) = STATE;
        let Some(there) = call_opt(WHAT, self.api.get(name)).await? else { return Ok(None) };
        let text = there.data.iter().flatten().find(|(known, _)| *known == key).map(|(_, text)| text.as_str());
        let Some(kept) = text.and_then(store::epoch_of) else {
            return Err(Failed::Refused(format!("ConfigMap/{name} in {} holds no generation", self.namespace)));
        };
        self.know(|known| known.newest = known.newest.max(kept));
        Ok(Some((kept, there.metadata.resource_version)))
    }

    fn know<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
