//! A Kubernetes cluster as an [`Interpreter`]: watches tell what is there, server-side apply makes what there is to be.
//!
//! Modules in reading order: `record` (what was made, kept in the tenant's namespace), `owned` and `compare` (what of an object is ours,
//! and whether it is as rendered), `ready` and `pods` (whether it is ready, and why not), `secrets`; `store` (what is there), `watch` and
//! `ask` (what feeds it), `seen` (a tenant out of it); `act`, `keep`, `rest` (actions), `diff` (what
//! they would change), `words` (errors).
//!
//! It decides nothing. It calls nobody while a tenant is as rendered.

mod act;
mod ask;
mod compare;
mod diff;
mod keep;
mod owned;
mod pods;
mod ready;
mod record;
mod rest;
mod secrets;
mod seen;
mod store;
mod watch;
mod words;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ::kube::api::{Patch, PatchParams, PostParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use roadstead_api::v1::ObjectDiff;
use roadstead_core::id::{Revision, TenantId};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, TenantSeen};
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;

use self::act::{Work, Writer, call, call_opt};
use self::ask::Questions;
pub use self::owned::{MANAGER, REST_MANAGER};
use self::store::Store;
use crate::interpreter::{Changed, ClusterFacts, Failed, Interpreter, Job};

/// Whose an object is: the tenant's number, 16 hexadecimal digits. All objects and the namespace carry it.
pub const TENANT_LABEL: &str = "roadstead.dev/tenant";
/// The epoch in which a namespace was last acted on, as in `0.17`.
pub const EPOCH_LABEL: &str = "roadstead.dev/epoch";
/// The shard of a namespace.
pub const SHARD_LABEL: &str = "roadstead.dev/shard";

/// The ConfigMap in the agent's own namespace that keeps what must outlive it, and its only key.
const AGENT_STATE: (&str, &str) = ("roadstead-agent", "generation");

/// Kinds that are looked at whatever classes name: without them nothing can be said of a tenant. The first is [`store`]'s own.
const ALWAYS: [(&str, &str); 10] = [
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
];

/// A kind of objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// As in `apps/v1`.
    pub api_version: String,
    /// As in `Deployment`.
    pub kind: String,
}

/// What is done about a field of ours that somebody changed at a keyboard (a field manager that begins with `kubectl`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drift {
    /// It is put right.
    #[default]
    Repair,
    /// It is told.
    Report,
}

/// Hears which namespaces are tenants' that nobody counts.
pub type OnOrphans = Box<dyn Fn(&[TenantId]) + Send + Sync>;

/// What the interpreter needs to know.
pub struct Settings {
    /// Of the cluster. Its own retries must be off ([`client`]): a queue of ours decides when to try again.
    pub client: Client,
    /// Kinds that classes may name, but for those that every tenant has.
    pub kinds: BTreeSet<Kind>,
    /// The agent's own namespace.
    pub own_namespace: String,
    /// The namespace of the secrets that are copied.
    pub template_namespace: String,
    /// What is done about changes by hand.
    pub drift: Drift,
    /// Facts about the cluster, once there are any.
    pub facts: Receiver<Option<ClusterFacts>>,
    /// See [`OnOrphans`].
    pub on_orphans: OnOrphans,
}

/// A client that tries nothing again by itself.
///
/// # Errors
/// If the configuration is not usable.
pub fn client(mut config: ::kube::Config) -> Result<Client, ::kube::Error> {
    config.default_retry = false;
    Client::try_from(config)
}

/// A Kubernetes cluster. Cheap to clone; its watches end with the last clone.
#[derive(Clone)]
pub struct KubeInterpreter {
    writer: Arc<Writer>,
    shared: Arc<Shared>,
}

struct Shared {
    questions: Arc<Questions>,
    own_namespace: String,
    facts: Receiver<Option<ClusterFacts>>,
    on_orphans: OnOrphans,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl KubeInterpreter {
    /// Starts to watch. Must be called in a runtime.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let mut kinds: Vec<Kind> =
            ALWAYS.iter().map(|(api_version, kind)| Kind { api_version: (*api_version).to_owned(), kind: (*kind).to_owned() }).collect();
        for kind in settings.kinds {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        let store = Arc::new(Store::new(kinds, &settings.template_namespace));
        let mut tasks = JoinSet::new();
        watch::start(&store, &settings.client, &settings.template_namespace, &mut tasks);
        let stops = Mutex::new(HashMap::new());
        let writer = Arc::new(Writer { client: settings.client, store, drift: settings.drift, stops });
        let questions = Arc::new(Questions::default());
        tasks.spawn(ask::answer(writer.clone(), questions.clone()));
        tasks.spawn(ask::explain(writer.clone()));
        let shared = Shared {
            questions,
            own_namespace: settings.own_namespace,
            facts: settings.facts,
            on_orphans: settings.on_orphans,
            _tasks: tasks,
        };
        Self { writer, shared: Arc::new(shared) }
    }

    /// Forgets what was found out by comparing, not what is there: the next look at each tenant compares anew.
    pub fn forget_comparisons(&self) {
        for home in self.writer.store.read().homes.values() {
            *home.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Why the namespace of a tenant does not end, as Kubernetes tells; `None` if it is not on its way out.
    #[must_use]
    pub fn why_terminating(&self, id: TenantId) -> Option<String> {
        let inner = self.writer.store.read();
        let mut homes = inner.spaces.get(&id)?.iter().filter_map(|name| inner.homes.get(name)?.space.as_ref());
        homes.find(|space| space.live.deleting)?.stuck.as_deref().map(str::to_owned)
    }

    fn work<'a>(&'a self, job: &'a Job) -> Result<Work<'a>, Failed> {
        let namespace = {
            let inner = self.writer.store.read();
            seen::namespace_of(&inner, job.intent.id, job.rendered.as_deref().ok())
        };
        let Some(namespace) = namespace else {
            let why = job.rendered.as_ref().err().map_or("it has no namespace", String::as_str);
            return Err(Failed::Refused(why.to_owned()));
        };
        Ok(Work { writer: &self.writer, job, namespace })
    }

    fn state(&self) -> Api<ConfigMap> {
        Api::namespaced(self.writer.client.clone(), &self.shared.own_namespace)
    }
}

impl Interpreter for KubeInterpreter {
    async fn generation(&self) -> Result<Revision, Failed> {
        let (name, key) = AGENT_STATE;
        let Some(there) = call_opt("the agent's state", self.state().get(name)).await? else { return Ok(Revision::default()) };
        let text = there.data.iter().flatten().find(|(known, _)| *known == key).map(|(_, text)| text.as_str());
        let read = text.and_then(store::epoch_of);
        read.ok_or_else(|| Failed::Refused(format!("ConfigMap/{name} in {} holds no generation", self.shared.own_namespace)))
    }

    async fn keep_generation(&self, generation: Revision) -> Result<(), Failed> {
        let (name, key) = AGENT_STATE;
        let what = "the agent's state";
        let data = json!({ key: generation.to_string() });
        let Some(there) = call_opt(what, self.state().get(name)).await? else {
            let body = json!({ "metadata": { "name": name }, "data": data });
            let body: ConfigMap = serde_json::from_value(body).map_err(|error| Failed::Refused(error.to_string()))?;
            return call(what, self.state().create(&PostParams::default(), &body)).await.map(drop);
        };
        let kept = there.data.iter().flatten().find(|(known, _)| *known == key).and_then(|(_, text)| store::epoch_of(text));
        if let Some(kept) = kept.filter(|kept| *kept > generation) {
            return Err(Failed::Refused(format!("generation {kept} was acted on here, which is newer than {generation}")));
        }
        // Another replica of the agent may have kept a newer one in between: then this is refused.
        let patch = json!({ "metadata": { "resourceVersion": there.metadata.resource_version }, "data": data });
        call(what, self.state().patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    fn orphans(&self, orphans: &[TenantId]) {
        (self.shared.on_orphans)(orphans);
    }

    fn seen(&self, job: &Job) -> Result<TenantSeen, Failed> {
        let inner = self.writer.store.read();
        seen::listed(&inner)?;
        let rendered = job.rendered.as_deref().ok();
        let namespace = seen::namespace_of(&inner, job.intent.id, rendered);
        let home = namespace.as_ref().and_then(|name| inner.homes.get(name));
        let digest = job.rendered.as_ref().map_or_else(String::as_str, |rendered| rendered.digest.as_str());
        let runs = job.intent.role == Role::Run;
        if let Some(home) = home
            && let Some(((known, ran, changes, shared), seen)) = &*home.cached.lock().unwrap_or_else(PoisonError::into_inner)
            && known == digest
            && (*ran, *changes, *shared) == (runs, home.changes, inner.shared)
        {
            return Ok(seen.clone());
        }
        match seen::seen(&inner, job, namespace.as_deref(), rendered) {
            Ok(seen) => {
                if let Some(home) = home {
                    let key = (digest.to_owned(), runs, home.changes, inner.shared);
                    *home.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, seen.clone()));
                }
                Ok(seen)
            }
            Err(questions) => {
                let what = questions.first().map_or_else(String::new, |(_, kind, name)| format!("{kind}/{name}"));
                self.shared.questions.ask(questions);
                Err(words::again(format!("{what} is being looked for")))
            }
        }
    }

    fn labelled(&self, named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        let inner = self.writer.store.read();
        seen::listed(&inner)?;
        let of = |(id, names): (&TenantId, &BTreeSet<String>)| names.first().map(|name| (*id, seen::labelled(&inner, *id, name)));
        Ok(inner.spaces.iter().filter(|(id, _)| !named(**id)).filter_map(of).collect())
    }

    async fn act(&self, job: &Job, action: &Action) -> Result<(), Failed> {
        self.work(job)?.act(action).await
    }

    async fn diff(&self, job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        self.work(job)?.diff().await
    }

    async fn changed(&self) -> Changed {
        self.writer.store.changed().await
    }

    fn facts(&self) -> Result<ClusterFacts, Failed> {
        self.shared.facts.borrow().clone().ok_or_else(|| words::again("nothing is known of the cluster yet"))
    }
}
