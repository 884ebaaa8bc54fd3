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
//! Beside it they keep which removals were begun of late, and when: how many go unasked is counted for the cluster, whichever agent begins them and
//! however often it is started again. It is written before a removal is begun, and only over what this agent has read: where another one has
//! written since, that is taken in first.
//!
//! What is left is the time between that reading and the write behind it. A deletion is bound to the version of the namespace that was read, so
//! that any other agent's claim in between prevents it; a stop or a start in it is undone by whoever has the newer intent, as is any drift.

use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use roadstead_core::id::{Revision, TenantId};
use roadstead_core::reconcile::{Action, Part};
use roadstead_core::time::Timestamp;
use serde_json::json;

use super::act::{call, call_opt};
use super::{store, words};
use crate::interpreter::{Failed, Removals};

/// The ConfigMap in the agents' own namespace, and its key for the generation.
const STATE: (&str, &str) = ("roadstead-agent", "generation");
/// Its key for removals: a tenant's number and the time in a line, `0000000000000007 2026-03-01T12:00:00Z`.
const REMOVALS: &str = "removals";
/// What a request about it is about, in messages.
const WHAT: &str = "the agent's state";

/// See the module.
pub(super) struct Fence {
    api: Api<ConfigMap>,
    namespace: String,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    /// What this agent has read when it began, or kept since: it acts on nothing older.
    mine: Revision,
    /// The newest that it knows to be kept, by whomever.
    newest: Revision,
    /// The removals of late that this agent has read, or kept since.
    removals: Removals,
}

/// What is in the ConfigMap.
struct Kept {
    generation: Revision,
    removals: Removals,
    version: Option<String>,
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
        let kept = self.read().await?.map(|kept| kept.generation).unwrap_or_default();
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
            Some(Kept { generation: kept, .. }) if kept > generation => {
                return Err(Failed::Refused(format!("generation {kept} was acted on here, which is newer than {generation}")));
            }
            Some(Kept { version, .. }) => {
                // Another agent may have kept a newer one in between: then this is refused.
                let patch = json!({ "metadata": { "resourceVersion": version }, "data": data });
                call(WHAT, self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
            }
        }
        self.know(|known| (known.mine, known.newest) = (generation, known.newest.max(generation)));
        Ok(())
    }

    /// The removals of late that are kept.
    pub(super) async fn removals(&self) -> Result<Removals, Failed> {
        let kept = self.read().await?.map(|kept| kept.removals).unwrap_or_default();
        self.know(|known| known.removals.clone_from(&kept));
        Ok(kept)
    }

    /// Keeps removals before they are begun; what is kept from now on.
    pub(super) async fn keep_removals(&self, removals: &Removals) -> Result<Removals, Failed> {
        let (name, _) = STATE;
        // A generation is kept before anything is acted on, so that it is there.
        let kept = self.read().await?.ok_or_else(|| words::again(format!("ConfigMap/{name} in {} is not there", self.namespace)))?;
        if self.know(|known| known.removals != kept.removals) {
            self.know(|known| known.removals.clone_from(&kept.removals));
            return Ok(kept.removals);
        }
        let patch = json!({ "metadata": { "resourceVersion": kept.version }, "data": { REMOVALS: text_of(removals) } });
        call(WHAT, self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await?;
        self.know(|known| known.removals.clone_from(removals));
        Ok(removals.clone())
    }

    /// Whether an action may be carried out.
    ///
    /// # Errors
    /// Another agent has acted on a newer generation; or it cannot be found out whether one has.
    pub(super) async fn allows(&self, action: &Action) -> Result<(), Failed> {
        if ends_or_starts(action) {
            self.read().await?;
        }
        let (mine, newest) = self.know(|known| (known.mine, known.newest));
        if newest > mine {
            return Err(words::again(format!(
                "another agent of this cluster has acted on generation {newest}, and this one has heard {mine}: it does nothing until it has heard as much"
            )));
        }
        Ok(())
    }

    /// What is kept, with the version of the object; `None` if nothing ever was.
    async fn read(&self) -> Result<Option<Kept>, Failed> {
        let (name, key) = STATE;
        let Some(there) = call_opt(WHAT, self.api.get(name)).await? else { return Ok(None) };
        let text = |key: &str| there.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
        let Some(generation) = text(key).and_then(store::epoch_of) else {
            return Err(Failed::Refused(format!("ConfigMap/{name} in {} holds no generation", self.namespace)));
        };
        let Some(removals) = removals_of(text(REMOVALS).unwrap_or_default()) else {
            return Err(Failed::Refused(format!(
                "ConfigMap/{name} in {}: its {REMOVALS} cannot be read; put them right, or take them away where none was begun in the last ten minutes",
                self.namespace
            )));
        };
        self.know(|known| known.newest = known.newest.max(generation));
        Ok(Some(Kept { generation, removals, version: there.metadata.resource_version }))
    }

    fn know<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See [`REMOVALS`].
fn text_of(removals: &Removals) -> String {
    let line = |(id, begun): (&TenantId, &Timestamp)| {
        let time =
            i64::try_from(begun.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok()).unwrap_or(jiff::Timestamp::MAX);
        format!("{id} {time}\n")
    };
    removals.iter().map(line).collect()
}

fn removals_of(text: &str) -> Option<Removals> {
    let of = |line: &str| {
        let (id, time) = line.trim().split_once(' ')?;
        let time: jiff::Timestamp = time.trim().parse().ok()?;
        Some((store::tenant_of(id)?, Timestamp(u64::try_from(time.as_millisecond()).unwrap_or_default())))
    };
    text.lines().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_read_as_they_were_written_and_anything_else_is_not_taken_for_none() {
        let removals = Removals::from([(TenantId(7), Timestamp(1_800_000_000_123)), (TenantId(u64::MAX), Timestamp(0))]);
        let text = text_of(&removals);
        assert_eq!(text, "0000000000000007 2027-01-15T08:00:00.123Z\nffffffffffffffff 1970-01-01T00:00:00Z\n");
        assert_eq!(removals_of(&text), Some(removals));
        assert_eq!(removals_of(""), Some(Removals::new()));
        for broken in ["0000000000000007", "7 2027-01-15T08:00:00Z", "0000000000000007 yesterday", "[]"] {
            assert_eq!(removals_of(broken), None, "{broken}");
        }
    }
}
