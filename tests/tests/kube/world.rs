//! A cluster with an interpreter of it, tenants rendered by hand, and rounds as an agent makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use roadstead_agent::interpreter::{ClusterFacts, Failed, Interpreter, Job, Others};
use roadstead_agent::kube::{Drift, KubeInterpreter, Settings};
use roadstead_class::{Manifest, ObjectId, Rendered, SecretPlan, SecretSource};
use roadstead_core::id::{Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{ClusterIntent, Role, TenantIntent, VolumeIntent};
use roadstead_core::reconcile::{ClusterSeen, Condition, Limits, Memory, Part, Step, TenantSeen, reconcile};
use roadstead_core::resources::{Bytes, Requests};
use roadstead_core::time::Timestamp;
use roadstead_tests::process::until;
use roadstead_tests::testbed::{ControlPlane, Options};
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request};
use tower::layer::util::Stack;
use tower::util::MapRequestLayer;

use crate::faults::Faults;

/// How long one thing may take; the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(90);
const GIB: u64 = 1 << 30;

/// A cluster and an interpreter of it.
pub(crate) struct World {
    /// Where it is the world's own.
    plane: Option<Arc<ControlPlane>>,
    kubeconfig: PathBuf,
    pub(crate) kube: KubeInterpreter,
    pub(crate) faults: Faults,
    agents: Client,
    client: Client,
    counts: Arc<Counts>,
    detached: Detached,
}

/// What is otherwise than usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    pub(crate) drift: Drift,
    /// A file with the token that is shown instead of a certificate.
    pub(crate) token_file: Option<PathBuf>,
    /// As whom it acts.
    pub(crate) user: Option<String>,
}

/// Requests of the interpreter but for its watches and their lists.
#[derive(Default)]
struct Counts {
    all: AtomicU64,
    writes: AtomicU64,
}

impl World {
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let plane = Arc::new(ControlPlane::start(options).await?);
        let world = Self::over(&plane).await?;
        Ok(Self { plane: Some(plane), ..world })
    }

    /// In a cluster that is there already.
    pub(crate) async fn over(plane: &ControlPlane) -> Result<Self> {
        let client = plane.client().await?;
        for namespace in ["agent", "templates"] {
            let body = json!({"metadata": {"name": namespace}});
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
            namespaces.create(&PostParams::default(), &serde_json::from_value(body)?).await?;
        }
        let template = json!({"metadata": {"name": "shared-smtp"}, "stringData": {"password": "old"}});
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), "templates");
        secrets.create(&PostParams::default(), &serde_json::from_value(template)?).await?;
        Self::of(plane.kubeconfig().to_owned(), client, &Given::default()).await
    }

    async fn of(kubeconfig: PathBuf, client: Client, given: &Given) -> Result<Self> {
        let (counts, faults) = (Arc::new(Counts::default()), Faults::default());
        let agents = agents_client(&kubeconfig, &counts, &faults, given).await?;
        let detached = Detached::default();
        let kube = interpreter(agents.clone(), given.drift, detached.clone());
        Ok(Self { plane: None, kubeconfig, kube, faults, agents, client, counts, detached })
    }

    /// Another agent of the same cluster, just started.
    pub(crate) async fn another(&self) -> Result<Self> {
        self.another_with(&Given::default()).await
    }

    /// Another agent of the same cluster, otherwise than usual.
    pub(crate) async fn another_with(&self, given: &Given) -> Result<Self> {
        let other = Self::of(self.kubeconfig.clone(), self.client.clone(), given).await?;
        Ok(Self { plane: self.plane.clone(), ..other })
    }

    /// The world's own control plane.
    pub(crate) fn plane(&self) -> &ControlPlane {
        self.plane.as_deref().expect("it was started by the world")
    }

    /// The client of the interpreter.
    pub(crate) fn agents_client(&self) -> Client {
        self.agents.clone()
    }

    /// A client of the test's own.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Requests of the interpreter so far, but for watching.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.all.load(Ordering::SeqCst)
    }

    /// Those that write.
    pub(crate) fn writes(&self) -> u64 {
        self.counts.writes.load(Ordering::SeqCst)
    }

    /// The volumes that were last told to be nobody's.
    pub(crate) fn detached(&self) -> BTreeSet<Box<str>> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Renders something else.
    pub(crate) fn change(&self, job: &mut Job, change: impl FnOnce(&mut Rendered)) {
        let rendered = job.rendered.as_mut().expect("it is rendered");
        let rendered = Arc::make_mut(rendered);
        change(rendered);
        rendered.digest.push('+');
    }

    /// One round: what is seen, what comes next, and that done. How it was before.
    pub(crate) async fn step(&self, job: &Job) -> Result<Condition> {
        let seen = until("it is known what is there", SOON, || async { Ok(self.kube.seen(job)?) }).await?;
        let (_, step) = self.decide(job, seen);
        for action in &step.actions {
            match self.kube.act(job, action).await {
                Ok(()) => {}
                Err(Failed::Later { .. } | Failed::TooMany { .. }) => break,
                Err(Failed::Refused(why)) => bail!("{action:?}: {why}"),
            }
        }
        Ok(step.condition)
    }

    /// What comes next where this is seen of one tenant.
    pub(crate) fn decide(&self, job: &Job, seen: TenantSeen) -> (TenantId, Step) {
        let intent = ClusterIntent { generation: Revision::default(), tenants: vec![job.intent.clone()] };
        let seen = ClusterSeen { generation: Revision::default(), tenants: BTreeMap::from([(job.intent.id, seen)]) };
        let round = reconcile(&intent, &seen, &Limits::default(), &mut Memory::default(), Timestamp::default());
        round.steps.into_iter().next().expect("there is a step")
    }

    /// Waits until it is known what is there of it.
    pub(crate) async fn until_seen(&self, job: &Job) -> Result<()> {
        until("it is known what is there", SOON, || async { Ok(self.kube.seen(job).map(drop)?) }).await
    }

    /// Rounds until it is so.
    pub(crate) async fn settles(&self, job: &Job, condition: &Condition) -> Result<()> {
        until("it settles", SOON, || async {
            let is = self.step(job).await?;
            ensure!(is == *condition, "it is {is:?} instead of {condition:?}");
            Ok(())
        })
        .await
    }

    /// Rounds until what it is contains this text.
    pub(crate) async fn says(&self, job: &Job, text: &str) -> Result<()> {
        until("it says so", SOON, || async {
            let why = match self.step(job).await? {
                Condition::Progressing(why) | Condition::Blocked(why) => why,
                other => format!("{other:?}"),
            };
            ensure!(why.contains(text), "it says `{why}` instead of `{text}`");
            Ok(())
        })
        .await
    }

    /// Rounds until an action is refused in words that contain this text.
    pub(crate) async fn fails(&self, job: &Job, text: &str) -> Result<()> {
        until("it is refused", SOON, || async {
            match self.step(job).await {
                Ok(condition) => bail!("it is {condition:?} instead of refused with `{text}`"),
                Err(error) => ensure!(error.to_string().contains(text), "it is refused with `{error}` instead of `{text}`"),
            }
            Ok(())
        })
        .await
    }

    /// Rounds until something holds.
    pub(crate) async fn comes<F: Future<Output = Result<bool>>>(&self, what: &str, job: &Job, holds: impl Fn() -> F) -> Result<()> {
        until(what, SOON, || async {
            self.step(job).await?;
            ensure!(holds().await?, "it does not");
            Ok(())
        })
        .await
    }

    /// Creates something that is in no namespace.
    pub(crate) async fn create(&self, group: &str, version: &str, kind: &str, body: &Value) -> Result<()> {
        let (resource, _) = kube::discovery::pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await?;
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        api.create(&PostParams::default(), &serde_json::from_value(body.clone())?).await?;
        Ok(())
    }
}

async fn agents_client(kubeconfig: &Path, counts: &Arc<Counts>, faults: &Faults, given: &Given) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate.clone_from(&given.user);
    if let Some(file) = &given.token_file {
        config.auth_info = AuthInfo { token_file: Some(file.display().to_string()), ..AuthInfo::default() };
    }
    let counts = counts.clone();
    let count = MapRequestLayer::new(move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default();
        // A watch, or the list that it begins with.
        let watches = ["watch=true", "watch=1", "limit=500"].iter().any(|part| query.contains(part));
        if !watches || request.method() != Method::GET {
            counts.all.fetch_add(1, Ordering::SeqCst);
            counts.writes.fetch_add(u64::from(request.method() != Method::GET), Ordering::SeqCst);
        }
        request
    });
    Ok(roadstead_agent::kube::client_through(config, &Stack::new(faults.clone(), count))?)
}

/// See [`World::detached`].
type Detached = Arc<Mutex<BTreeSet<Box<str>>>>;

fn interpreter(client: Client, drift: Drift, detached: Detached) -> KubeInterpreter {
    let (told, facts) = tokio::sync::watch::channel(Some(ClusterFacts::default()));
    drop(told);
    let settings = Settings {
        client,
        // All are found when a tenant has them.
        kinds: BTreeSet::new(),
        own_namespace: "agent".to_owned(),
        template_namespace: "templates".to_owned(),
        drift,
        facts,
        on_others: Box::new(move |others| {
            if let Others::Volumes(volumes) = others {
                *detached.lock().unwrap_or_else(PoisonError::into_inner) = volumes;
            }
        }),
    };
    KubeInterpreter::start(settings)
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("it is a name")
}

/// An object of a tenant, with the label that all have.
pub(crate) fn manifest(namespace: &str, tenant: u64, api_version: &str, kind: &str, name: &str, body: Value) -> Manifest {
    let mut body = body;
    body["apiVersion"] = json!(api_version);
    body["kind"] = json!(kind);
    body["metadata"] = json!({"name": name, "namespace": namespace, "labels": {"roadstead.dev/tenant": format!("{tenant:016x}")}});
    Manifest { id: ObjectId { api_version: api_version.to_owned(), kind: kind.to_owned(), name: name.to_owned() }, body }
}

/// Says of a Deployment of two pods, as its controller would, that so many of them are ready.
pub(crate) async fn ready(deployments: &Api<Deployment>, name: &str, pods: u32) -> Result<()> {
    let generation = deployments.get(name).await?.metadata.generation;
    let ready =
        json!({"observedGeneration": generation, "replicas": 2, "updatedReplicas": 2, "readyReplicas": pods, "availableReplicas": pods});
    deployments.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": ready}))).await?;
    Ok(())
}

/// Two pods that use a copied secret.
pub(crate) fn deployment(namespace: &str, tenant: u64) -> Manifest {
    let container = json!({"name": "web", "image": "shop:1", "envFrom": [{"secretRef": {"name": "smtp"}}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    manifest(namespace, tenant, "apps/v1", "Deployment", "web", json!({"spec": spec}))
}

/// A Job.
pub(crate) fn job(namespace: &str, tenant: u64, name: &str) -> Manifest {
    let container = json!({"name": "job", "image": "shop:1", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}});
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
    manifest(namespace, tenant, "batch/v1", "Job", name, json!({"spec": {"template": template}}))
}

pub(crate) fn secret(namespace: &str, tenant: u64) -> SecretPlan {
    let source = SecretSource::Generate { keys: BTreeMap::from([("password".to_owned(), 32)]) };
    let manifest = manifest(namespace, tenant, "v1", "Secret", "db", json!({"type": "Opaque"}));
    SecretPlan { manifest, source, restart_on_change: false }
}

/// A tenant with some of everything.
pub(crate) fn tenant(id: u64, namespace: &str, role: Role) -> Job {
    let space = json!({"metadata": {"labels": {}}});
    let mut space = manifest(namespace, id, "v1", "Namespace", namespace, space);
    space.body["metadata"] = json!({"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "baseline"}});
    let of = |api_version: &str, kind: &str, name: &str, body: Value| manifest(namespace, id, api_version, kind, name, body);
    let bounds = vec![of("v1", "ResourceQuota", "bounds", json!({"spec": {"hard": {"pods": "20", "requests.cpu": "4000m"}}}))];
    let workloads = vec![
        of("v1", "ConfigMap", "settings", json!({"data": {"requests": "1000m"}})),
        of("v1", "Service", "web", json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})),
        deployment(namespace, id),
    ];
    let rule = json!({"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}});
    let routes = vec![of("networking.k8s.io/v1", "Ingress", "web", json!({"spec": {"rules": [rule]}}))];
    let smtp = SecretPlan {
        manifest: of("v1", "Secret", "smtp", json!({"type": "Opaque"})),
        source: SecretSource::Copy { from: "shared-smtp".to_owned() },
        restart_on_change: true,
    };
    let claim =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    let rendered = Rendered {
        digest: format!("{namespace}-1"),
        class_digest: String::new(),
        namespace: space,
        parts: BTreeMap::from([(Part::Bounds, bounds), (Part::Workloads, workloads), (Part::Routes, routes)]),
        secrets: vec![smtp, secret(namespace, id)],
        volumes: BTreeMap::from([(name("data"), of("v1", "PersistentVolumeClaim", "data", claim))]),
        ceded: Vec::new(),
        also: Vec::new(),
        ready_within: None,
        stop: Vec::new(),
        stop_within: None,
        local: BTreeMap::new(),
    };
    let intent = TenantIntent {
        id: TenantId(id),
        epoch: Revision { index: 3, ..Revision::default() },
        shard: ShardId(0),
        role,
        name: name(namespace),
        owner: Owner::new("acme").expect("it is an owner"),
        class: name("shop"),
        version: "1".to_owned(),
        values: "{}".to_owned(),
        hostnames: vec!["a.example".to_owned()],
        volumes: vec![VolumeIntent { name: name("data"), size: Bytes(GIB), storage: "fast".to_owned(), uid: None }],
        requests: Requests::default(),
        removal_agreed: false,
    };
    Job { intent, rendered: Ok(Arc::new(rendered)) }
}
