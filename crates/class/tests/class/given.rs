//! Classes, tenants and clusters for the tests.

use roadstead_class::{Class, Entry, Finding, Site};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::id::{Incarnation, Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::time::Millis;
use serde_json::{Value, json};

/// The examples' documents.
const EXAMPLES: &str = include_str!("../../../../examples/classes.yaml");

/// A class version from its document's spec, as `apply` makes it; `file` gives the content of manifests by their pattern.
pub(crate) fn version(name: &str, spec: &Value, files: Vec<(String, String)>) -> ClassVersion {
    let requests = &spec["requests"];
    let volumes: Vec<VolumeSpec> = spec["volumes"].as_array().into_iter().flatten().map(volume).collect();
    let storage = volumes.iter().map(|volume| volume.size.0).sum();
    let largest = &requests["largestPod"];
    let files: Vec<Value> = files.into_iter().map(|(file, content)| json!({"file": file, "content": content})).collect();
    let mut template = json!({"manifests": files});
    for field in ["secrets", "network", "podSecurity", "cede", "ready", "quiesce", "local"] {
        if let Some(value) = spec.get(field) {
            template[field] = value.clone();
        }
    }
    ClassVersion {
        name: name.parse().unwrap(),
        version: spec["version"].as_str().unwrap_or("1.0.0").to_owned(),
        requests: Requests {
            total: Resources {
                cpu: Millicores(cpu(&requests["cpu"])),
                memory: Bytes(bytes(&requests["memory"])),
                pods: requests["pods"].as_u64().unwrap_or(0),
                storage: Bytes(storage),
                attachments: volumes.len() as u64,
            },
            largest_pod: PodSize { cpu: Millicores(cpu(&largest["cpu"])), memory: Bytes(bytes(&largest["memory"])) },
        },
        volumes,
        retain: Millis(0),
        values_schema: spec.get("values").map_or_else(String::new, ToString::to_string),
        template: template.to_string(),
        created: Revision::default(),
    }
}

fn volume(spec: &Value) -> VolumeSpec {
    VolumeSpec {
        name: spec["name"].as_str().unwrap().parse().unwrap(),
        size: Bytes(bytes(&spec["size"])),
        storage: spec["storage"].as_str().unwrap_or("").to_owned(),
        grow: spec["grow"].as_bool().unwrap_or(false),
    }
}

fn cpu(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => text.strip_suffix('m').unwrap().parse().unwrap(),
        None => value.as_u64().unwrap_or(0) * 1000,
    }
}

fn bytes(value: &Value) -> u64 {
    let Some(text) = value.as_str() else { return value.as_u64().unwrap_or(0) };
    let (number, unit) = text.split_at(text.len() - 2);
    let shift = ["Ki", "Mi", "Gi", "Ti"].iter().position(|known| *known == unit).unwrap() + 1;
    number.parse::<u64>().unwrap() << (10 * shift)
}

/// The examples' classes.
pub(crate) fn examples() -> Vec<ClassVersion> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let documents: Vec<Value> = serde_saphyr::from_multiple(EXAMPLES).unwrap();
    let files = |pattern: &Value| {
        let (inner, _) = pattern.as_str().unwrap().split_once('/').unwrap();
        let mut files: Vec<String> =
            std::fs::read_dir(folder.join(inner)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let read = |file: String| (format!("{inner}/{file}"), std::fs::read_to_string(folder.join(inner).join(&file)).unwrap());
        files.into_iter().map(read).collect::<Vec<_>>()
    };
    let class = |document: Value| {
        let spec = &document["spec"];
        let manifests = spec["manifests"].as_array().into_iter().flatten().flat_map(files).collect();
        version(document["metadata"]["name"].as_str().unwrap(), spec, manifests)
    };
    documents.into_iter().map(class).collect()
}

/// A class of one manifest file, with everything else as in `spec`.
pub(crate) fn class_of(spec: Value, manifests: &str) -> Result<Class, Vec<Finding>> {
    Class::parse(&version("shop", &spec, vec![("shop.yaml".to_owned(), manifests.to_owned())]))
}

/// A tenant of a class, with values.
pub(crate) fn tenant(class: &Class, values: &Value) -> TenantIntent {
    let volume = |spec: &VolumeSpec| VolumeIntent { name: spec.name.clone(), size: spec.size, storage: spec.storage.clone(), uid: None };
    TenantIntent {
        id: TenantId::new(Incarnation(0), 7),
        epoch: Revision { incarnation: Incarnation(1), index: 42 },
        shard: ShardId(3),
        role: Role::Run,
        name: Name::new("acme").unwrap(),
        owner: Owner::new("acme-gmbh").unwrap(),
        class: class.name.clone(),
        version: class.version.clone(),
        values: values.to_string(),
        hostnames: vec!["shop.acme.example".to_owned()],
        volumes: class.volumes.iter().map(volume).collect(),
        requests: class.requests,
        removal_agreed: false,
    }
}

/// A cluster that has everything.
pub(crate) fn site() -> Site {
    Site {
        cluster: "eu-1".to_owned(),
        region: "eu-central".to_owned(),
        storage: [("fast", "nvme"), ("bulk", "hdd")].map(|(kind, class)| (kind.to_owned(), class.to_owned())).into(),
        entry: Entry::Ingress { class: "edge".to_owned(), from_namespace: "ingress".to_owned() },
        ..Site::default()
    }
}

/// A workload named `web` with one container of 100m and 128Mi; `fields` are further ones of its spec.
pub(crate) fn workload(kind: &str, fields: &str) -> String {
    let group = if kind.ends_with("Job") { "batch/v1" } else { "apps/v1" };
    format!(
        "apiVersion: {group}
kind: {kind}
metadata: {{name: web}}
spec:
  {fields}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: web
        image: registry.example/web:1
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
        resources: {{requests: {{cpu: 100m, memory: 128Mi}}}}
"
    )
}
