//! A Kubernetes cluster as an [`Interpreter`]: watches tell what is there, server-side apply makes what there is to be.
//!
//! Modules in reading order: `record` (what was made, kept in the tenant's namespace), `owned` and `compare` (what of an object is ours,
//! and whether it is as rendered), `ready` and `pods` (whether it is ready, and why not), `secrets`; `store` (what is there), `watch` and
//! `ask` (what feeds it), `body` (an object as it is to be there), `known` (what was made and is nowhere else), `holds` (whether it is at rest, and what keeps it from that), `seen` (a tenant out of it); `fence` (whether this agent may act), `act`, `keep`, `prune`, `rest`, `exec` (actions), `diff` (what they would change), `words` (errors).
//!
//! It decides nothing. It calls nobody while a tenant is as rendered.

mod act;
mod ask;
mod body;
mod compare;
mod diff;
mod exec;
mod fence;
mod holds;
mod keep;
mod known;
mod owned;
mod pods;
mod prune;
mod ready;
mod record;
mod rest;
mod secrets;
mod seen;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod words;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ::kube::Client;
use ::kube::client::{Body, ClientBuilder, DynBody};
use http_body_util::{BodyExt, Full};
use roadstead_api::v1::ObjectDiff;
use roadstead_core::id::{Name, Revision, TenantId};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, TenantSeen};
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tonic::codegen::http::header::RETRY_AFTER;
use tonic::codegen::http::{Request, Response, StatusCode};
use tower::layer::util::Identity;
use tower::util::{BoxService, MapResponseLayer};
use tower::{BoxError, Layer, Service};
use tracing::warn;

use self::act::{Work, Writer};
use self::ask::Questions;
use self::fence::Fence;
pub use self::owned::{MANAGER, REST_MANAGER};
use self::store::{Question, Store};
use crate::interpreter::{Changed, ClusterFacts, Failed, Interpreter, Job, Others, Removals};

/// Whose an object is: the tenant's number, 16 hexadecimal digits. All objects and the namespace carry it.
pub const TENANT_LABEL: &str = "roadstead.dev/tenant";
/// The epoch in which a namespace was last acted on, as in `0.17`.
pub const EPOCH_LABEL: &str = "roadstead.dev/epoch";
/// The shard of a namespace.
pub const SHARD_LABEL: &str = "roadstead.dev/shard";

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

/// What is done about objects that were as rendered and are not any more: edited, deleted, stripped of labels. Secrets are kept in step in any
/// case, and so is the label by which a namespace is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drift {
    /// It is put right; also fields that somebody at a keyboard has taken over (a field manager that begins with `kubectl`).
    #[default]
    Repair,
    /// It is told, until the class, the tenant's values or its role make something else of it.
    Report,
}

/// Hears of what nobody counts.
pub type OnOthers = Box<dyn Fn(Others<'_>) + Send + Sync>;

/// What the interpreter needs to know.
pub struct Settings {
    /// Of the cluster. Its own retries must be off ([`client`]): a queue of ours decides when to try again.
    pub client: Client,
    /// Kinds that are watched from the beginning, but for those that are so in any case. All others of a tenant are when it is first seen.
    pub kinds: BTreeSet<Kind>,
    /// The agent's own namespace.
    pub own_namespace: String,
    /// The namespace of the secrets that are copied.
    pub template_namespace: String,
    /// What is done about changes by hand.
    pub drift: Drift,
    /// Facts about the cluster, once there are any.
    pub facts: Receiver<Option<ClusterFacts>>,
    /// See [`OnOthers`].
    pub on_others: OnOthers,
}

/// How a client of ours is built on what kube makes of a configuration.
type Connection = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// A client that tries nothing again by itself, and knows of its answers what interpreters have to.
///
/// # Errors
/// If the configuration is not usable.
pub fn client(config: ::kube::Config) -> Result<Client, ::kube::Error> {
    client_through(config, &Identity::new())
}

/// As [`client`], whose requests and answers pass through a layer of the caller's.
///
/// # Errors
/// If the configuration is not usable.
pub fn client_through<L>(mut config: ::kube::Config, layer: &L) -> Result<Client, ::kube::Error>
where
    L: Layer<Connection>,
    L::Service: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError> + Send + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
{
    config.default_retry = false;
    let service = ClientBuilder::try_from(config)?.with_layer(layer);
    Ok(service.with_layer(&MapResponseLayer::new(with_retry_after)).build())
}

/// An API server that is too busy says when to come again in a header, which errors of clients do not carry; they carry what a `Status` says.
fn with_retry_after(response: Response<Box<DynBody>>) -> Response<Box<DynBody>> {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse::<u32>().ok());
    let Some(seconds) = seconds.filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS) else { return response };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "TooManyRequests",
        "message": "too many requests", "details": { "retryAfterSeconds": seconds }, "code": StatusCode::TOO_MANY_REQUESTS.as_u16(),
    });
    let body = Full::from(status.to_string()).map_err(BoxError::from);
    response.map(|_| Box::new(body) as Box<DynBody>)
}

/// A Kubernetes cluster. Cheap to clone; its watches end with the last clone.
#[derive(Clone)]
pub struct KubeInterpreter {
    writer: Arc<Writer>,
    shared: Arc<Shared>,
}

struct Shared {
    questions: Arc<Questions>,
    fence: Fence,
    facts: Receiver<Option<ClusterFacts>>,
    on_others: OnOthers,
    /// Tenants of which several namespaces were seen, as was told last.
    copied: Mutex<HashMap<TenantId, BTreeSet<String>>>,
    /// Aborted when this is dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl KubeInterpreter {
    /// Starts to watch. Must be called in a runtime.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let always = ALWAYS.map(|(api_version, kind)| Kind { api_version: api_version.to_owned(), kind: kind.to_owned() });
        let store = Arc::new(Store::new(&settings.template_namespace));
        let mut tasks = JoinSet::new();
        watch::add(&store, &settings.client, always.into_iter().chain(settings.kinds), &mut tasks);
        watch::start(&store, &settings.client, &settings.template_namespace, &mut tasks);
        let fence = Fence::new(settings.client.clone(), &settings.own_namespace);
        let (stops, originals) = (Mutex::default(), Mutex::default());
        let writer = Arc::new(Writer { client: settings.client, store, drift: settings.drift, stops, originals });
        let questions = Arc::new(Questions::default());
        tasks.spawn(ask::answer(writer.clone(), questions.clone()));
        tasks.spawn(ask::explain(writer.clone()));
        let shared = Shared {
            questions,
            fence,
            facts: settings.facts,
            on_others: settings.on_others,
            copied: Mutex::default(),
            tasks: Mutex::new(tasks),
        };
        Self { writer, shared: Arc::new(shared) }
    }

    /// Forgets what was found out by comparing, not what is there: the next look at each tenant compares anew.
    pub fn forget_comparisons(&self) {
        for home in self.writer.store.read().homes.values() {
            *home.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn work<'a>(&'a self, job: &'a Job) -> Work<'a> {
        Work { writer: &self.writer, job, namespace: seen::namespace_of(job) }
    }

    /// Says of tenants that are named which further namespaces have their labels, as copies have: nothing is done about those.
    fn tell_copies(&self, spaces: &HashMap<TenantId, BTreeSet<String>>, named: impl Fn(TenantId) -> bool) {
        let copied = spaces.iter().filter(|(id, names)| names.len() > 1 && named(**id));
        let copied: HashMap<TenantId, BTreeSet<String>> = copied.map(|(id, names)| (*id, names.clone())).collect();
        let mut told = self.shared.copied.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, namespaces) in copied.iter().filter(|(id, names)| told.get(id) != Some(names)) {
            warn!(
                %tenant,
                ?namespaces,
                "several namespaces are labelled as one tenant's: only the one that is named NAME-UID after it is acted on; delete the others by hand, or take their label roadstead.dev/tenant away"
            );
        }
        *told = copied;
    }

    /// See [`Interpreter::seen`].
    fn look(&self, job: &Job) -> Result<TenantSeen, Failed> {
        let inner = self.writer.store.read();
        seen::listed(&inner)?;
        let rendered = job.rendered.as_deref().ok();
        let namespace = seen::namespace_of(job);
        let home = inner.homes.get(&namespace);
        let digest = job.rendered.as_ref().map_or_else(String::as_str, |rendered| rendered.digest.as_str());
        let (runs, volumes) = (job.intent.role == Role::Run, || job.intent.volumes.iter().map(|volume| volume.uid));
        if let Some(home) = home
            && let Some(((known, ran, had, changes, shared), seen)) = &*home.cached.lock().unwrap_or_else(PoisonError::into_inner)
            && known == digest
            && had.iter().copied().eq(volumes())
            && (*ran, *changes, *shared) == (runs, home.changes, inner.shared)
        {
            return Ok(seen.clone());
        }
        let new = seen::new_kinds(&inner, home, rendered)?;
        if !new.is_empty() {
            drop(inner);
            let mut tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            watch::add(&self.writer.store, &self.writer.client, new, &mut tasks);
            return Err(words::again("kinds of its objects are being looked for"));
        }
        match seen::seen(&inner, job, &namespace, self.writer.drift) {
            Ok(seen) => {
                if let Some(home) = home {
                    let key = (digest.to_owned(), runs, volumes().collect(), home.changes, inner.shared);
                    *home.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, seen.clone()));
                }
                Ok(seen)
            }
            Err(questions) => {
                let words = questions.first().map_or_else(String::new, Question::words);
                self.shared.questions.ask(questions);
                Err(words::again(words))
            }
        }
    }
}

impl Interpreter for KubeInterpreter {
    async fn generation(&self) -> Result<Revision, Failed> {
        self.shared.fence.begin().await
    }

    async fn keep_generation(&self, generation: Revision) -> Result<(), Failed> {
        self.shared.fence.keep(generation).await
    }

    async fn removals(&self) -> Result<Removals, Failed> {
        self.shared.fence.removals().await
    }

    async fn keep_removals(&self, removals: &Removals) -> Result<Removals, Failed> {
        self.shared.fence.keep_removals(removals).await
    }

    fn home_of(&self, id: TenantId) -> String {
        let inner = self.writer.store.read();
        let names =
            inner.spaces.get(&id).map(|names| names.iter().map(|name| format!("namespace {name}")).collect::<Vec<_>>().join(" and "));
        names.unwrap_or_else(|| id.to_string())
    }

    fn orphans(&self, orphans: &[TenantId]) {
        (self.shared.on_others)(Others::Tenants(orphans));
    }

    fn detached(&self, volumes: &BTreeSet<(TenantId, Name)>) {
        let names = {
            let inner = self.writer.store.read();
            volumes.iter().filter_map(|(id, volume)| seen::volume_of(&inner, *id, volume)).collect()
        };
        (self.shared.on_others)(Others::Volumes(names));
    }

    fn seen(&self, job: &Job) -> Result<TenantSeen, Failed> {
        let seen = self.look(job)?;
        if rest::is_over(&job.intent, &seen) {
            self.writer.stops.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.intent.id);
        }
        Ok(seen)
    }

    fn labelled(&self, named: impl Fn(TenantId) -> bool) -> Result<Vec<(TenantId, TenantSeen)>, Failed> {
        let inner = self.writer.store.read();
        seen::listed(&inner)?;
        self.tell_copies(&inner.spaces, &named);
        let of = |(id, names): (&TenantId, &BTreeSet<String>)| names.first().map(|name| (*id, seen::labelled(&inner, *id, name)));
        Ok(inner.spaces.iter().filter(|(id, _)| !named(**id)).filter_map(of).collect())
    }

    async fn act(&self, job: &Job, action: &Action) -> Result<(), Failed> {
        let work = self.work(job);
        // Nothing that comes after this look is ended, since nobody has asked whether it may be.
        if !work.has_work(action) {
            return Ok(());
        }
        self.shared.fence.allows(action).await?;
        work.act(action).await
    }

    async fn diff(&self, job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        self.work(job).diff().await
    }

    async fn changed(&self) -> Changed {
        self.writer.store.changed().await
    }

    fn facts(&self) -> Result<ClusterFacts, Failed> {
        self.shared.facts.borrow().clone().ok_or_else(|| words::again("nothing is known of the cluster yet"))
    }
}
