//! What a tenant of these benchmarks is made of: 12 objects in its namespace, one Deployment of one pod among them. The agent adds its record.

use anyhow::{Context, Result, ensure};
use roadstead_api::v1;
use roadstead_class::{Class, Rendered, Site, render};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::id::{Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::time::Millis;
use serde_json::json;

/// Objects in a tenant's namespace, without the agent's record.
pub(super) const OBJECTS: usize = 12;
/// The class and its version.
const CLASS: (&str, &str) = ("shop", "1.0.0");
/// The only volume.
pub(super) const VOLUME: &str = "data";
/// StorageClass of the cluster.
pub(super) const STORAGE: &str = "fast";
/// Namespace and name of the secret that is copied.
pub(crate) const TEMPLATE: (&str, &str) = ("roadstead-templates", "shared-smtp");
const GIB: u64 = 1 << 30;
/// The only generation of the intent.
pub(crate) const GENERATION: u64 = 7;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {name: "{{ tenant.name }}", theme: "{{ values.theme }}", url: "https://{{ tenant.name }}.shop.example"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: registry.example/shop/web:1.0.0
        ports: [{name: http, containerPort: 8080}]
        env: [{name: SHOP_THEME, value: "{{ values.theme }}"}, {name: SHOP_NAME, value: "{{ tenant.name }}"}]
        envFrom: [{secretRef: {name: db}}, {secretRef: {name: smtp}}, {configMapRef: {name: settings}}]
        resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 64Mi}}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

fn requests() -> Requests {
    let total = Resources { cpu: Millicores(100), memory: Bytes(GIB), pods: 2, storage: Bytes(GIB), attachments: 1 };
    Requests { total, largest_pod: PodSize { cpu: Millicores(50), memory: Bytes(64 << 20) } }
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| anyhow::anyhow!("{text} is no name: {error}"))
}

/// The class.
fn version() -> Result<ClassVersion> {
    let template = json!({
        "secrets": [{"name": "smtp", "copy": TEMPLATE.1, "onChange": "restart"}, {"name": "db", "generate": {"password": 32}}],
        "manifests": [{"file": "shop.yaml", "content": MANIFESTS}],
        "ready": {"within": "5m"},
    });
    Ok(ClassVersion {
        name: name(CLASS.0)?,
        version: CLASS.1.to_owned(),
        requests: requests(),
        volumes: vec![VolumeSpec { name: name(VOLUME)?, size: Bytes(GIB), storage: STORAGE.to_owned(), grow: true }],
        retain: Millis::from_secs(3600),
        values_schema: r#"{"properties": {"theme": {"type": "string", "default": "plain"}}}"#.to_owned(),
        template: template.to_string(),
        created: Revision::default(),
    })
}

/// The cluster as rendering knows it.
pub(super) fn site() -> Site {
    Site { cluster: "bench".to_owned(), storage: [(STORAGE.to_owned(), STORAGE.to_owned())].into(), ..Site::default() }
}

/// A tenant, as the placement service would send it.
pub(super) fn intent(number: u32, shard: u32) -> v1::TenantIntent {
    v1::TenantIntent {
        uid: uid(number),
        epoch: Some(v1::Revision { incarnation: 0, index: 3 }),
        shard: number / shard.max(1),
        role: v1::tenant_intent::Role::Run.into(),
        name: format!("tenant-{number:05}"),
        owner: format!("owner-{:03}", number % 100),
        class: CLASS.0.to_owned(),
        version: CLASS.1.to_owned(),
        values_json: r#"{"theme":"dark"}"#.to_owned(),
        hostnames: vec![format!("tenant-{number:05}.shop.example")],
        volumes: vec![v1::VolumeIntent { name: VOLUME.to_owned(), size_bytes: GIB, storage: STORAGE.to_owned(), uid: String::new() }],
        requests: Some(wire_requests()),
        removal_agreed: false,
    }
}

/// Its uid.
pub(super) fn uid(number: u32) -> String {
    TenantId(u64::from(number) + 1).to_string()
}

/// Its namespace.
pub(super) fn namespace(number: u32) -> String {
    format!("tenant-{number:05}-{}", uid(number))
}

fn wire_requests() -> v1::Requests {
    let Requests { total, largest_pod } = requests();
    let total = v1::Resources {
        cpu_millicores: total.cpu.0,
        memory_bytes: total.memory.0,
        pods: total.pods,
        storage_bytes: total.storage.0,
        attachments: total.attachments,
    };
    v1::Requests {
        total: Some(total),
        largest_pod: Some(v1::PodSize { cpu_millicores: largest_pod.cpu.0, memory_bytes: largest_pod.memory.0 }),
    }
}

/// The class, as the placement service would send it.
pub(super) fn class() -> Result<v1::Class> {
    let version = version()?;
    let volume = |volume: &VolumeSpec| v1::VolumeSpec {
        name: volume.name.to_string(),
        size_bytes: volume.size.0,
        storage: volume.storage.clone(),
        grow: volume.grow,
    };
    Ok(v1::Class {
        name: version.name.to_string(),
        version: version.version.clone(),
        requests: Some(wire_requests()),
        volumes: version.volumes.iter().map(volume).collect(),
        retain: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        values_schema_json: version.values_schema,
        template_json: version.template,
        ..v1::Class::default()
    })
}

/// What the agent renders of tenants, for whoever else makes them.
pub(super) struct Renderer(Class);

impl Renderer {
    pub(super) fn new() -> Result<Self> {
        let class = Class::parse(&version()?).map_err(|findings| {
            let words: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the class is wrong: {}", words.join("; "))
        })?;
        Ok(Self(class))
    }

    /// One tenant.
    pub(super) fn render(&self, number: u32, shard: u32) -> Result<Rendered> {
        let wire = intent(number, shard);
        let intent = TenantIntent {
            id: TenantId(u64::from(number) + 1),
            epoch: Revision { index: 3, ..Revision::default() },
            shard: ShardId(u16::try_from(wire.shard).context("a shard's number is small")?),
            role: Role::Run,
            name: name(&wire.name)?,
            owner: Owner::new(&wire.owner).map_err(|error| anyhow::anyhow!("{error}"))?,
            class: name(&wire.class)?,
            version: wire.version,
            values: wire.values_json,
            hostnames: wire.hostnames,
            volumes: vec![VolumeIntent { name: name(VOLUME)?, size: Bytes(GIB), storage: STORAGE.to_owned(), uid: None }],
            requests: requests(),
            removal_agreed: false,
        };
        let rendered = render(&self.0, &intent, &site()).context("a tenant cannot be rendered")?;
        let objects = rendered.manifests().count() - 1;
        ensure!(objects == OBJECTS, "a tenant has {objects} objects beside its namespace");
        Ok(rendered)
    }
}
