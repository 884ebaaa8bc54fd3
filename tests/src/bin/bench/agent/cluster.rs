//! A cluster to be carried in: a control plane with controllers and a scheduler, nodes that kwok plays, and what joining puts there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::client::Body;
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use roadstead_agent::kube::client_through;
use roadstead_tests::testbed::{ControlPlane, Kwok, NodeShape, Options};
use serde_json::{Value, json};
use tonic::codegen::http::Request;
use tower::util::MapRequestLayer;

use super::Size;
use super::counts::Counts;
use super::tenants::{STORAGE, TEMPLATE};

/// The agent's namespace and account, as joining makes them.
pub(crate) const OWN: (&str, &str) = ("roadstead-system", "roadstead-agent");
/// Pods that a node of Kubernetes takes, less some.
const PODS_PER_NODE: u32 = 100;
/// The cluster is quiet when so long nothing was written to what a tenant has.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_WITHIN: Duration = Duration::from_secs(300);
/// Kinds that tenants have, all of them.
pub(super) const KINDS: [(&str, &str); 11] = [
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "ResourceQuota"),
    ("v1", "LimitRange"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("apps/v1", "Deployment"),
    ("v1", "Pod"),
];

/// See the module. Dropping it ends everything.
pub(super) struct Cluster {
    pub(super) plane: ControlPlane,
    _kwok: Kwok,
    pub(super) client: Client,
    /// How [`KINDS`] are served.
    resources: BTreeMap<&'static str, ApiResource>,
}

impl Cluster {
    /// Starts it, with nodes for a pod of each tenant.
    pub(super) async fn start(size: Size) -> Result<Self> {
        // Played nodes send no heartbeats by themselves.
        let controller_flags = vec!["--node-monitor-grace-period=24h".to_owned()];
        let requests_per_second = Some(size.controllers_qps);
        let options = Options { scheduler: true, requests_per_second, controller_flags, ..Options::default() };
        let plane = ControlPlane::start(options).await?;
        let client = plane.client().await?;
        let kwok = Kwok::start(&plane).await?;
        let nodes = size.tenants.div_ceil(PODS_PER_NODE) + 1;
        kwok.add_nodes("node", usize::try_from(nodes)?, &NodeShape::of(64, 256)).await?;
        let mut cluster = Self { plane, _kwok: kwok, client, resources: BTreeMap::new() };
        cluster.join().await.context("the cluster cannot be joined")?;
        for (api_version, kind) in KINDS {
            let (resource, _) = cluster.discover(api_version, kind).await?;
            cluster.resources.insert(kind, resource);
        }
        Ok(cluster)
    }

    /// What `roadstead join` makes, but for the agent's Deployment; and what a provider has there beside it.
    async fn join(&self) -> Result<()> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/agent.yaml");
        let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        for document in text.split("\n---\n") {
            let document: Value = serde_saphyr::from_str(document).with_context(|| format!("{} is no YAML", file.display()))?;
            if document["kind"] != "Deployment" {
                self.apply(&document).await?;
            }
        }
        // Every agent watches roles; the classes that the file is for bring none.
        let (rbac, reads) = ("rbac.authorization.k8s.io", "roadstead-agent-roles");
        let rule = json!({"apiGroups": [rbac], "resources": ["roles", "rolebindings"], "verbs": ["get", "list", "watch"]});
        let account = json!({"kind": "ServiceAccount", "namespace": OWN.0, "name": OWN.1});
        let (api_version, metadata) = (format!("{rbac}/v1"), json!({"name": reads}));
        self.apply(&json!({"apiVersion": api_version, "kind": "ClusterRole", "metadata": metadata, "rules": [rule]})).await?;
        self.apply(&json!({
            "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": metadata, "subjects": [account],
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": reads},
        }))
        .await?;
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEMPLATE.0}})).await?;
        let metadata = json!({"name": TEMPLATE.1, "namespace": TEMPLATE.0});
        self.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"password": "secret"}})).await?;
        // Claims that no pod mounts wait for their first consumer: nobody makes volumes here.
        self.apply(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": STORAGE},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        }))
        .await
    }

    async fn apply(&self, document: &Value) -> Result<()> {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let (resource, scope) = self.discover(api_version, kind).await?;
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), text("/metadata/namespace"), &resource),
        };
        let made = api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(document)).await;
        made.with_context(|| format!("failed to make {kind}/{name}")).map(drop)
    }

    /// How one of [`KINDS`] is served.
    pub(super) fn resource(&self, kind: &str) -> Result<&ApiResource> {
        self.resources.get(kind).with_context(|| format!("{kind} is no kind of tenants' objects"))
    }

    async fn discover(&self, api_version: &str, kind: &str) -> Result<(ApiResource, Scope)> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await;
        let (resource, capabilities) = found.with_context(|| format!("no {kind} is served"))?;
        Ok((resource, capabilities.scope))
    }

    /// A client as the agent has it: its account, nothing tried again by itself, every request counted.
    pub(super) async fn agents_client(&self, counts: &Arc<Counts>) -> Result<Client> {
        let config = self.plane.config_for_account(OWN.0, OWN.1).await?;
        let counts = counts.clone();
        let layer = MapRequestLayer::new(move |request: Request<Body>| counts.count(request));
        client_through(config, &layer).context("failed to make a client")
    }

    /// `resourceVersion` by kind, namespace and name of everything that is the tenants'.
    pub(super) async fn versions(&self) -> Result<BTreeMap<(String, String, String), String>> {
        let mut found = BTreeMap::new();
        for (_, kind) in KINDS {
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), self.resource(kind)?);
            // Pods carry no label of ours; they are all the tenants'.
            let params = if kind == "Pod" { ListParams::default() } else { ListParams::default().labels("roadstead.dev/tenant") };
            let listed = api.list_metadata(&params).await.with_context(|| format!("failed to list {kind} objects"))?;
            for object in listed.items {
                let metadata = object.metadata;
                let key = (kind.to_owned(), metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                found.insert(key, metadata.resource_version.unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Waits until the controllers have nothing to do about tenants any more.
    pub(super) async fn until_quiet(&self) -> Result<()> {
        let (began, mut before) = (Instant::now(), self.versions().await?);
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.versions().await?;
            let moved = now.iter().filter(|(key, version)| before.get(*key) != Some(version)).count();
            if moved == 0 {
                return Ok(());
            }
            ensure!(began.elapsed() < QUIET_WITHIN, "{moved} objects still move after {QUIET_WITHIN:?}");
            before = now;
        }
    }
}
