//! What a cluster is said to hold, against a real API server: nodes and pods are written through its API, and nothing runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use roadstead_agent::interpreter::Others;
use roadstead_agent::inventory::{Held, Inventory, Options, UNLIMITED_ATTACHMENTS};
use roadstead_core::id::TenantId;
use roadstead_core::observed::{GrowthGroup, Pressure};
use roadstead_core::resources::{Bytes, Millicores, PodSize};
use roadstead_tests::process::until;
use roadstead_tests::testbed::{ControlPlane, Options as PlaneOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a change may take to be told, on a machine that does other things besides; the smallest ones settle for ten seconds.
const SOON: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
/// Namespaces of two tenants.
const SHOP: &str = "shop-00000000000000a1";
const ORPHAN: &str = "lost-00000000000000a2";

/// An API server that leaves new nodes untainted and pods without service accounts: nobody is there to mend either.
async fn plane() -> Result<ControlPlane> {
    let flags = vec!["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned()];
    ControlPlane::start(PlaneOptions { controllers: false, api_server_flags: flags, ..PlaneOptions::default() }).await
}

async fn create<K>(api: Api<K>, object: Value) -> Result<()>
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object = serde_json::from_value(object).context("an object is malformed")?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("failed to create {object:?}"))?;
    Ok(())
}

fn condition(ready: bool) -> Value {
    json!({"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]})
}

/// A node with 4 cores, 16 GiB and 110 pods.
async fn node(client: &Client, name: &str, ready: bool, spec: Value) -> Result<()> {
    let mut status = condition(ready);
    status["allocatable"] = json!({"cpu": "4", "memory": "16Gi", "pods": "110"});
    let labels = json!({"topology.kubernetes.io/zone": "zone-a"});
    create::<Node>(Api::all(client.clone()), json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status})).await
}

/// A pod that asks for so many millicores and as many MiB, bound if a node is named.
async fn pod(client: &Client, namespace: &str, name: &str, node: Option<&str>, amount: u64) -> Result<()> {
    let requests = json!({"cpu": format!("{amount}m"), "memory": format!("{amount}Mi")});
    let mut spec = json!({"containers": [{"name": "main", "image": "any", "resources": {"requests": requests}}]});
    if let Some(node) = node {
        spec["nodeName"] = node.into();
    }
    create::<Pod>(Api::namespaced(client.clone(), namespace), json!({"metadata": {"name": name}, "spec": spec})).await
}

async fn namespace(client: &Client, name: &str, tenant: Option<&str>) -> Result<()> {
    let labels = tenant.map(|tenant| json!({"roadstead.dev/tenant": tenant}));
    create::<Namespace>(Api::all(client.clone()), json!({"metadata": {"name": name, "labels": labels}})).await
}

async fn patch_node(client: &Client, name: &str, subresource: Option<&str>, patch: Value) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let (how, patch) = (PatchParams::default(), Patch::Strategic(patch));
    match subresource {
        Some(_) => nodes.patch_status(name, &how, &patch).await,
        None => nodes.patch(name, &how, &patch).await,
    }
    .with_context(|| format!("failed to patch {name}"))?;
    Ok(())
}

/// What is held as soon as it is as expected.
async fn held(inventory: &Inventory, what: &str, expected: impl Fn(&Held) -> bool) -> Result<Arc<Held>> {
    let mut told = inventory.held();
    let found = tokio::time::timeout(SOON, told.wait_for(|held| held.as_ref().is_some_and(|held| expected(held)))).await;
    match found {
        Ok(held) => held.context("the inventory has ended")?.clone().context("what was waited for is there"),
        Err(_) => anyhow::bail!("{what}: not within {SOON:?}; told last: {:#?}", inventory.held().borrow()),
    }
}

fn others(held: &Held) -> (u64, u64) {
    (held.facts.capacity.used_by_others.cpu.0, held.facts.capacity.used_by_others.pods)
}

#[tokio::test]
async fn what_there_is_and_what_others_use_follow_nodes_pods_and_namespaces() -> Result<()> {
    let plane = plane().await?;
    let client = plane.client().await?;
    let taint = |effect: &str| json!({"taints": [{"key": "reserved", "value": "x", "effect": effect}]});
    node(&client, "open-1", true, json!({})).await?;
    node(&client, "open-2", true, taint("PreferNoSchedule")).await?;
    node(&client, "unready", false, json!({})).await?;
    node(&client, "cordoned", true, json!({"unschedulable": true})).await?;
    node(&client, "tainted", true, taint("NoSchedule")).await?;
    namespace(&client, SHOP, Some("00000000000000a1")).await?;
    namespace(&client, ORPHAN, Some("00000000000000a2")).await?;
    namespace(&client, "copy-of-shop", Some("00000000000000a1")).await?;
    for name in ["open-1", "open-2", "unready", "cordoned", "tainted"] {
        pod(&client, "kube-system", &format!("daemon-{name}"), Some(name), 100).await?;
    }
    pod(&client, SHOP, "web", Some("open-1"), 1_000).await?;
    pod(&client, ORPHAN, "web", Some("open-2"), 500).await?;
    pod(&client, "copy-of-shop", "web", Some("open-1"), 50).await?;
    pod(&client, "default", "unbound", None, 3_000).await?;
    pod(&client, "default", "ended", Some("open-1"), 2_000).await?;
    let ended = Patch::Strategic(json!({"status": {"phase": "Succeeded"}}));
    Api::<Pod>::namespaced(client.clone(), "default").patch_status("ended", &PatchParams::default(), &ended).await?;

    let inventory = Inventory::start(client.clone(), Options::default());
    let first = held(&inventory, "a first look", |_| true).await?;
    let uid = Api::<Namespace>::all(client.clone()).get("kube-system").await?.metadata.uid;
    assert_eq!(Some(&first.facts.uid), uid.as_ref());
    assert!(first.facts.version.starts_with("v1."), "{}", first.facts.version);
    assert_eq!((first.facts.nodes, first.facts.ready_nodes, first.census.open), (5, 4, 2));
    let there = first.facts.capacity.allocatable;
    assert_eq!((there.cpu, there.memory, there.pods), (Millicores(8_000), Bytes(32 * GIB), 220));
    assert_eq!(there.attachments, 2 * UNLIMITED_ATTACHMENTS);
    assert_eq!(others(&first), (250, 3), "the DaemonSet's pods on open nodes, and that of a copy of a tenant's namespace");
    assert_eq!(first.census.zones.get("zone-a"), Some(&2));
    assert_eq!(first.census.taints.len(), 2, "{:?}", first.census.taints);
    // Rounded down to sixteenths of a node: 2850m of 4000m are 11 of them.
    let room = first.facts.capacity.nodes.iter().map(|size| size.largest_free.cpu).min();
    assert_eq!(room, Some(Millicores(2_750)));

    inventory.hear(Others::Tenants(&[TenantId(0xa2)]));
    held(&inventory, "an orphan is another", |held| others(held) == (750, 4)).await?;
    patch_node(&client, "unready", Some("status"), json!({"status": condition(true)})).await?;
    let more = held(&inventory, "a node gets ready", |held| held.census.open == 3).await?;
    assert_eq!((more.facts.capacity.allocatable.cpu, others(&more)), (Millicores(12_000), (850, 5)));
    patch_node(&client, "open-2", None, json!({"spec": {"unschedulable": true}})).await?;
    let less = held(&inventory, "a node is cordoned", |held| held.census.open == 2).await?;
    assert_eq!((less.facts.capacity.allocatable.cpu, others(&less)), (Millicores(8_000), (250, 3)));
    patch_node(&client, "tainted", None, json!({"spec": {"taints": null}})).await?;
    held(&inventory, "a taint is taken away", |held| held.census.open == 3 && others(held) == (350, 4)).await?;
    Api::<Node>::all(client.clone()).delete("open-1", &DeleteParams::default()).await?;
    held(&inventory, "a node is gone", |held| held.facts.nodes == 4 && others(held) == (200, 2)).await?;
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}}));
    Api::<Namespace>::all(client.clone()).patch(SHOP, &PatchParams::default(), &unlabelled).await?;
    pod(&client, SHOP, "more", Some("unready"), 700).await?;
    held(&inventory, "a namespace is nobody's any more", |held| others(held) == (900, 3)).await?;
    Ok(())
}

#[tokio::test]
async fn storage_and_attachments_are_told_by_class_and_by_claim() -> Result<()> {
    let plane = plane().await?;
    let client = plane.client().await?;
    node(&client, "open", true, json!({})).await?;
    namespace(&client, SHOP, Some("00000000000000a1")).await?;
    let drivers = json!([{"name": "disk.example", "nodeID": "open", "topologyKeys": [], "allocatable": {"count": 25}}]);
    create::<CSINode>(Api::all(client.clone()), json!({"metadata": {"name": "open"}, "spec": {"drivers": drivers}})).await?;
    let class = |name: &str, provisioner: &str| json!({"metadata": {"name": name}, "provisioner": provisioner});
    create::<StorageClass>(Api::all(client.clone()), class("disk", "disk.example")).await?;
    create::<StorageClass>(Api::all(client.clone()), class("local", "kubernetes.io/no-provisioner")).await?;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    for (name, class, size, claimed_in) in
        [("v1", "disk", "10Gi", Some(SHOP)), ("v2", "disk", "20Gi", Some("default")), ("v3", "local", "40Gi", None)]
    {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["open"]}]});
        let volume = json!({
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": size}, "storageClassName": class, "accessModes": ["ReadWriteOnce"], "local": {"path": "/any"},
                "claimRef": claimed_in.map(|namespace| json!({"namespace": namespace, "name": "any"})),
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            },
        });
        create(volumes.clone(), volume).await?;
        if claimed_in.is_some() {
            let spec = json!({"attacher": "disk.example", "nodeName": "open", "source": {"persistentVolumeName": name}});
            create::<VolumeAttachment>(Api::all(client.clone()), json!({"metadata": {"name": format!("a-{name}")}, "spec": spec})).await?;
        }
    }
    let declared = Options { storage: [("disk".to_owned(), 1_000 * GIB)].into(), ..Options::default() };
    let inventory = Inventory::start(client.clone(), declared);
    let first = held(&inventory, "a first look", |_| true).await?;
    let (there, used) = (first.facts.capacity.allocatable, first.facts.capacity.used_by_others);
    assert_eq!((there.storage, used.storage), (Bytes(1_040 * GIB), Bytes(20 * GIB)));
    assert_eq!((there.attachments, used.attachments), (25, 1));
    // What a tenant keeps and nothing asks for any more is as others'.
    inventory.hear(Others::Volumes(["v1".into()].into()));
    let used = held(&inventory, "a volume is detached", |held| held.facts.capacity.used_by_others.attachments == 2).await?;
    assert_eq!(used.facts.capacity.used_by_others.storage, Bytes(30 * GIB));
    inventory.hear(Others::Volumes([].into()));
    held(&inventory, "it is asked for again", |held| held.facts.capacity.used_by_others.attachments == 1).await?;
    patch_node(&client, "open", None, json!({"spec": {"unschedulable": true}})).await?;
    let closed = held(&inventory, "the node is cordoned", |held| held.census.open == 0).await?;
    assert_eq!(closed.facts.capacity.allocatable.storage, Bytes(1_000 * GIB));
    assert_eq!((closed.facts.capacity.allocatable.attachments, closed.facts.capacity.used_by_others.attachments), (0, 0));
    Ok(())
}

/// As cluster-autoscaler writes it; of the first group so many nodes at most.
fn autoscaler(most: u32) -> Value {
    let status = format!(
        "time: 2026-01-05 10:11:12.131415161 +0000 UTC
autoscalerStatus: Running
clusterWide:
  health: {{status: Healthy}}
nodeGroups:
- name: eu-apps-7
  health:
    status: Healthy
    nodeCounts: {{registered: {{total: 2, ready: 2, notStarted: 0}}}}
    cloudProviderTarget: 2
    minSize: 1
    maxSize: {most}
  scaleUp: {{status: NoActivity}}
- name: eu-gpu-1
  health: {{status: Healthy, cloudProviderTarget: 0, minSize: 0, maxSize: 2}}
  scaleUp: {{status: Backoff}}
"
    );
    json!({"metadata": {"name": "cluster-autoscaler-status"}, "data": {"status": status}})
}

/// A pool of Karpenter's, which has some nodes already.
async fn node_pool(client: &Client, name: &str) -> Result<()> {
    let definition = json!({"metadata": {"name": "nodepools.karpenter.sh"}, "spec": {
        "group": "karpenter.sh", "scope": "Cluster", "names": {"kind": "NodePool", "plural": "nodepools"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    create::<CustomResourceDefinition>(Api::all(client.clone()), definition).await?;
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("karpenter.sh", "v1", "NodePool"), "nodepools");
    let pools: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let pool = json!({"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": name},
        "spec": {"limits": {"cpu": "100", "memory": "400Gi"}}, "status": {"resources": {"cpu": "12", "memory": "48Gi", "nodes": "3"}}});
    until("the pool is there", SOON, || async { create(pools.clone(), pool.clone()).await }).await
}

#[tokio::test]
async fn what_a_cluster_is_made_of_and_may_still_get_is_told() -> Result<()> {
    let plane = plane().await?;
    let client = plane.client().await?;
    let taint = |effect: &str| json!({"taints": [{"key": "reserved", "value": "x", "effect": effect}]});
    node(&client, "apps-1", true, json!({})).await?;
    node(&client, "apps-2", true, taint("PreferNoSchedule")).await?;
    node(&client, "tainted", true, taint("NoSchedule")).await?;
    let label = |name: &str, value: &str| json!({"metadata": {"labels": {name: value}}});
    for name in ["apps-1", "apps-2"] {
        patch_node(&client, name, None, label("node.cluster.x-k8s.io/node-pool", "apps")).await?;
    }
    patch_node(&client, "apps-2", None, label("topology.kubernetes.io/zone", "zone-b")).await?;
    let short = |kind: &str, is_short: &str| json!({"status": {"conditions": [{"type": kind, "status": is_short}]}});
    patch_node(&client, "apps-1", Some("status"), short("MemoryPressure", "True")).await?;
    patch_node(&client, "tainted", Some("status"), short("DiskPressure", "True")).await?;
    // The least node of a group says how large another one will be.
    patch_node(&client, "apps-2", Some("status"), json!({"status": {"allocatable": {"cpu": "2", "memory": "8Gi"}}})).await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    create(maps.clone(), autoscaler(5)).await?;
    node_pool(&client, "spot").await?;

    let inventory = Inventory::start(client.clone(), Options::default());
    let facts = held(&inventory, "a first look", |_| true).await?.facts.clone();
    let counted: Vec<(PodSize, u32)> = facts.growth.nodes.iter().map(|node| (node.allocatable, node.count)).collect();
    assert_eq!(counted, [(PodSize { cpu: Millicores(2_000), memory: Bytes(8 * GIB) }, 3)], "beside the two that are ready");
    let details = facts.details;
    assert_eq!(details.open_nodes, 2);
    assert_eq!(details.zones, [("zone-a".to_owned(), 1), ("zone-b".to_owned(), 1)]);
    assert_eq!(details.taints, [("reserved=x:PreferNoSchedule".to_owned(), 1), ("reserved=x:NoSchedule".to_owned(), 1)]);
    assert_eq!(details.pressure, Pressure { memory: 1, disk: 1, pids: 0 });
    let size = |cpu: u64, gib: u64| PodSize { cpu: Millicores(cpu), memory: Bytes(gib * GIB) };
    let group = |name: &str, nodes, room, held_back| GrowthGroup { name: name.to_owned(), nodes, room, held_back };
    let groups = |nodes: u32, room: PodSize| {
        let gpu = group("eu-gpu-1", Some(2), None, true);
        [group("eu-apps-7", Some(nodes), Some(room), false), gpu, group("spot", None, Some(size(88_000, 352)), false)]
    };
    assert_eq!(details.growth.groups, groups(3, size(6_000, 24)));
    assert_eq!(details.growth.room, size(94_000, 376));

    // What changes of it, too, though it moves no decision.
    patch_node(&client, "apps-1", Some("status"), short("MemoryPressure", "False")).await?;
    held(&inventory, "the pressure is gone", |held| held.facts.details.pressure == Pressure { disk: 1, ..Pressure::default() }).await?;
    maps.patch("cluster-autoscaler-status", &PatchParams::default(), &Patch::Merge(autoscaler(3))).await?;
    let less = held(&inventory, "a group may grow less", |held| held.facts.details.growth.room == size(90_000, 360)).await?;
    assert_eq!(less.facts.details.growth.groups, groups(1, size(2_000, 8)));
    assert_eq!(less.facts.growth.nodes.iter().map(|node| node.count).sum::<u32>(), 1);
    maps.delete("cluster-autoscaler-status", &DeleteParams::default()).await?;
    let left = held(&inventory, "nothing is scaled any more", |held| held.facts.details.growth.groups.len() == 1).await?;
    assert_eq!(left.facts.details.growth.room, size(88_000, 352));
    Ok(())
}

#[tokio::test]
async fn a_watch_that_is_too_old_ends_in_a_new_list_and_nothing_is_missed() -> Result<()> {
    let mut plane = plane().await?;
    let client = plane.client().await?;
    node(&client, "open", true, json!({})).await?;
    for number in 0..1_200 {
        // More than two pages.
        pod(&client, "default", &format!("pod-{number}"), Some("open"), 1).await?;
    }
    let inventory = Inventory::start(client.clone(), Options::default());
    let first = held(&inventory, "a first look", |_| true).await?;
    assert_eq!((others(&first), inventory.pod_lists()), ((1_200, 1_200), 1));
    // The API server forgets what happened before it started; so that something did, for the watches on pods, something else is written.
    let map = json!({"metadata": {"name": "later"}});
    create::<ConfigMap>(Api::namespaced(client.clone(), "default"), map).await?;
    plane.restart_api_server().await?;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    for number in 0..100 {
        pods.delete(&format!("pod-{number}"), &DeleteParams::default().grace_period(0)).await?;
    }
    pod(&client, "default", "late", Some("open"), 500).await?;
    held(&inventory, "what changed is seen", |held| others(held) == (1_600, 1_101)).await?;
    until("pods are listed anew", SOON, || async {
        ensure!(inventory.pod_lists() > 1, "they are not");
        Ok(())
    })
    .await?;
    pods.delete("late", &DeleteParams::default().grace_period(0)).await?;
    held(&inventory, "the new watch goes on", |held| others(held) == (1_100, 1_100)).await?;
    Ok(())
}

#[tokio::test]
async fn kinds_that_may_not_be_read_are_done_without() -> Result<()> {
    let plane = plane().await?;
    let client = plane.client().await?;
    node(&client, "open", true, json!({})).await?;
    let verbs = json!(["list", "watch"]);
    let rules = json!([{"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "persistentvolumes"], "verbs": verbs}]);
    create::<ClusterRole>(Api::all(client.clone()), json!({"metadata": {"name": "least"}, "rules": rules})).await?;
    let to = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "least"});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "looker"});
    let binding = json!({"metadata": {"name": "least"}, "roleRef": to, "subjects": [subject]});
    create::<ClusterRoleBinding>(Api::all(client.clone()), binding).await?;
    let inventory = Inventory::start(plane.client_as("looker", &[]).await?, Options::default());
    let first = held(&inventory, "a first look", |_| true).await?;
    let size = PodSize { cpu: Millicores(4_000), memory: Bytes(16 * GIB) };
    let sizes: Vec<_> = first.facts.capacity.nodes.iter().map(|node| (node.allocatable, node.largest_free, node.count)).collect();
    assert_eq!(sizes, [(size, size, 1)]);
    Ok(())
}
