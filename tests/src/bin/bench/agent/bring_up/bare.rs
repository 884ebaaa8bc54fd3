//! Who only writes: the objects that the agent would, with nothing recorded, looked at or waited for.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use roadstead_class::Rendered;
use serde_json::{Value, json};

use crate::agent::cluster::Cluster;
use crate::agent::tenants::{Renderer, TEMPLATE};

/// Objects of tenants in the order in which no server has a reason to refuse one.
pub(super) struct Work {
    namespaces: Vec<Value>,
    /// Claims first and the quota last: it refuses claims until a controller has looked at it.
    others: Vec<Value>,
}

impl Work {
    /// Those of some tenants.
    pub(super) fn render(first: u32, tenants: u32, shard: u32) -> Result<Self> {
        let renderer = Renderer::new()?;
        let mut work = Self { namespaces: Vec::new(), others: Vec::new() };
        for number in first..first + tenants {
            let rendered = renderer.render(number, shard)?;
            work.namespaces.push(rendered.namespace.body.clone());
            let mut objects: Vec<Value> = rendered.manifests().skip(1).map(|manifest| manifest.body.clone()).collect();
            for object in objects.iter_mut().filter(|object| object["kind"] == "Secret") {
                object["data"] = json!({"password": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI="});
            }
            objects.push(record(&rendered));
            objects.sort_by_key(|object| match object["kind"].as_str() {
                Some("PersistentVolumeClaim" | "ServiceAccount") => 0,
                Some("ResourceQuota") => 2,
                Some(_) | None => 1,
            });
            work.others.append(&mut objects);
        }
        Ok(work)
    }

    /// Applies all of it: objects a second. A tenant is nobody's but the writer's.
    pub(super) async fn write(&self, cluster: &Cluster, in_flight: usize) -> Result<f64> {
        let client = cluster.plane.client().await?;
        let began = Instant::now();
        for objects in [&self.namespaces, &self.others] {
            let writes = stream::iter(objects).map(|object| write(cluster, &client, object));
            writes.buffer_unordered(in_flight).try_for_each(|()| async { Ok(()) }).await?;
        }
        let count = f64::from(u32::try_from(self.namespaces.len() + self.others.len())?);
        Ok(count / began.elapsed().as_secs_f64())
    }
}

async fn write(cluster: &Cluster, client: &Client, object: &Value) -> Result<()> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    let resource = cluster.resource(kind)?;
    let api: Api<DynamicObject> = match kind {
        "Namespace" => Api::all_with(client.clone(), resource),
        _ => Api::namespaced_with(client.clone(), text("/metadata/namespace"), resource),
    };
    let written = api.patch(name, &PatchParams::apply("bare"), &Patch::Apply(object)).await;
    written.with_context(|| format!("failed to write {kind}/{name}")).map(drop)
}

/// An object as large as the agent's record of a tenant.
fn record(rendered: &Rendered) -> Value {
    let namespace = &rendered.namespace.id.name;
    let objects: Vec<Value> = rendered
        .manifests()
        .skip(1)
        .map(|manifest| json!({"part": "workloads", "apiVersion": manifest.id.api_version, "kind": manifest.id.kind, "name": manifest.id.name}))
        .collect();
    let text =
        json!({"tenant": "0000000000000000", "namespaceUid": "00000000-0000-0000-0000-000000000000", "objects": objects}).to_string();
    let labels = &rendered.namespace.body["metadata"]["labels"]["roadstead.dev/tenant"];
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "roadstead-record", "namespace": namespace, "labels": {"roadstead.dev/tenant": labels}},
        "data": {"record": text, "from": TEMPLATE.0},
    })
}

/// Has `kubectl apply` write all of it, out of one file.
pub(super) async fn kubectl_apply(cluster: &Cluster, work: &Work) -> Result<()> {
    // Gone with the cluster, however this ends.
    let folder = cluster.plane.folder();
    let file = folder.join("tenants.json");
    let items: Vec<&Value> = work.namespaces.iter().chain(&work.others).collect();
    std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).context("failed to write a file")?;
    let mut command = tokio::process::Command::new("kubectl");
    command.arg("--kubeconfig").arg(cluster.plane.kubeconfig()).arg("--cache-dir").arg(folder.join("kubectl-cache"));
    command.args(["apply", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let status = command.status().await.context("failed to start kubectl")?;
    ensure!(status.success(), "kubectl ended with {status}");
    Ok(())
}
