use serde_json::{Value, json};

use super::super::Slim;
use super::*;

/// Read as it comes over the wire: from text, not from a tree.
fn read<K: Kind>(written: Value) -> K {
    serde_json::from_str::<Slim<K>>(&written.to_string()).unwrap().object
}

fn size(spec: Value, status: Value) -> (u64, u64) {
    let metadata =
        json!({"name": "a", "namespace": "b", "uid": "6f2c0ae1-8a3b-4d7e-9b1e-0d5c4a7e9f10", "managedFields": [{"fieldsV1": {}}]});
    let pod: Pod = read(json!({"metadata": metadata, "spec": spec, "status": status}));
    assert_eq!(pod.uid, 0x6f2c_0ae1_8a3b_4d7e_9b1e_0d5c_4a7e_9f10);
    (pod.size.cpu.0, pod.size.memory.0 >> 20)
}

fn container(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory, "nvidia.com/gpu": "1"}, "limits": {"cpu": "64"}}})
}

fn sidecar(name: &str, cpu: &str, memory: &str) -> Value {
    let mut container = container(name, cpu, memory);
    container["restartPolicy"] = "Always".into();
    container
}

#[test]
fn a_pod_asks_for_the_sum_of_its_containers_or_for_its_largest_start() {
    let containers = json!([container("a", "100m", "64Mi"), container("b", "0.2", "128Mi"), {"name": "c"}]);
    assert_eq!(size(json!({"containers": containers}), json!({})), (300, 192));
    let starts = json!([container("i", "250m", "1Gi"), container("j", "1", "1Mi")]);
    assert_eq!(size(json!({"containers": containers, "initContainers": starts}), json!({})), (1000, 1024));
}

#[test]
fn sidecars_run_beside_the_containers_and_beside_later_starts() {
    let containers = json!([container("a", "100m", "100Mi")]);
    // While j starts, s runs; while i starts, it does not yet.
    let starts = json!([container("i", "500m", "10Mi"), sidecar("s", "200m", "50Mi"), container("j", "400m", "10Mi")]);
    assert_eq!(size(json!({"containers": containers, "initContainers": starts}), json!({})), (600, 150));
}

#[test]
fn what_is_asked_for_the_whole_pod_stands_for_the_sum_and_overhead_comes_on_top() {
    let spec = json!({
        "containers": [container("a", "100m", "100Mi")],
        "resources": {"requests": {"cpu": "2"}},
        "overhead": {"cpu": "50m", "memory": "20Mi"},
    });
    assert_eq!(size(spec, json!({})), (2050, 120));
}

#[test]
fn a_pod_that_shrinks_counts_as_it_is_until_it_has_and_one_that_cannot_grow_as_it_is() {
    let spec = json!({"containers": [container("a", "100m", "300Mi")]});
    let mut status = json!({"containerStatuses": [
        {"name": "a", "allocatedResources": {"cpu": "200m", "memory": "100Mi"}, "resources": {"requests": {"cpu": "300m", "memory": "100Mi"}}},
    ]});
    assert_eq!(size(spec.clone(), status.clone()), (300, 300));
    status["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
    assert_eq!(size(spec, status), (300, 100));
}

#[test]
fn a_pod_that_has_ended_and_one_that_is_not_bound_are_told_apart() {
    let pod = |phase: &str, node: Option<&str>| -> Pod {
        let metadata = json!({"name": "a", "namespace": "b", "uid": "odd"});
        read(json!({"metadata": metadata, "spec": {"nodeName": node.unwrap_or("")}, "status": {"phase": phase}}))
    };
    assert_eq!(
        ["Pending", "Running", "Unknown", "Succeeded", "Failed"].map(|phase| pod(phase, None).ended),
        [false, false, false, true, true]
    );
    assert_eq!([pod("Running", Some("n")).node, pod("Pending", None).node], [Some("n".into()), None]);
}

#[test]
fn a_node_is_read_with_what_decides() {
    let written = json!({
        "metadata": {"name": "n", "resourceVersion": "7", "labels": {
            "topology.kubernetes.io/zone": "z1", "cloud.google.com/gke-nodepool": "p", "kubernetes.io/os": "linux",
        }},
        "spec": {"unschedulable": true, "taints": [
            {"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}, {"key": "b", "value": "c", "effect": "PreferNoSchedule"},
        ]},
        "status": {
            "allocatable": {"cpu": "3920m", "memory": "15036452Ki", "pods": "110", "ephemeral-storage": "1Gi", "attachable-volumes-aws-ebs": "25"},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}, {"type": "PIDPressure", "status": "Unknown"}],
        },
    });
    let taint = |key: &str, value: &str, effect| Taint { key: key.into(), value: value.into(), effect };
    let node = Node {
        name: "n".into(),
        ready: true,
        schedulable: false,
        taints: vec![taint("a", "", TaintEffect::NoSchedule), taint("b", "c", TaintEffect::PreferNoSchedule)],
        allocatable: PodSize { cpu: Millicores(3920), memory: Bytes(15_036_452 << 10) },
        pods: 110,
        attachable: Some(25),
        zone: Some("z1".into()),
        pool: Some("p".into()),
        pressure: [false, true, false],
    };
    assert_eq!(read::<Node>(written), node);
    assert_eq!(read::<Node>(json!({"metadata": {"name": "bare"}})).attachable, None);
}

#[test]
fn a_volume_knows_its_claim_and_its_one_host() {
    let volume = |values: Value| -> Volume {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": values}]});
        read(json!({
            "metadata": {"name": "v"},
            "spec": {
                "capacity": {"storage": "10Gi"}, "storageClassName": "local", "claimRef": {"namespace": "t", "name": "c"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            },
        }))
    };
    let expected = Volume { name: "v".into(), size: 10 << 30, class: "local".into(), claimed_in: Some("t".into()), host: Some("n".into()) };
    assert_eq!(volume(json!(["n"])), expected);
    assert_eq!(volume(json!(["n", "m"])).host, None);
    assert_eq!(read::<Volume>(json!({"metadata": {"name": "v"}})).claimed_in, None);
}

#[test]
fn the_other_kinds_are_read() {
    let labels = json!({"roadstead.dev/tenant": "00a1", "roadstead.dev/epoch": "3"});
    for (name, tenant) in [("acme-00a1", Some("00a1")), ("copy-of-acme", None), ("acme00a1", None)] {
        let namespace = read::<Namespace>(json!({"metadata": {"name": name, "uid": "u", "labels": labels}}));
        assert_eq!(namespace, Namespace { name: name.into(), uid: "u".into(), tenant: tenant.map(Into::into) });
    }
    let drivers = json!([{"name": "a", "allocatable": {"count": 25}}, {"name": "b"}, {"name": "c", "allocatable": {"count": 3}}]);
    let drivers = json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}});
    assert_eq!(read::<NodeDrivers>(drivers), NodeDrivers { node: "n".into(), attachable: Some(28) });
    let class = |name: &str, provisioner: &str, kind: &str| -> StorageClass {
        read(json!({"metadata": {"name": name}, "provisioner": provisioner, "parameters": {"type": kind}}))
    };
    assert_eq!(class("a", "ebs", "gp3").pool, class("b", "ebs", "gp3").pool);
    assert_ne!(class("a", "ebs", "gp3").pool, class("a", "ebs", "io2").pool);
    assert!(!class("a", "kubernetes.io/no-provisioner", "").provisioned);
    let left = json!({"metadata": {"name": "csisc-1", "namespace": "csi", "uid": "u"}, "storageClassName": "s", "capacity": "100Gi"});
    assert_eq!(read::<StorageLeft>(left).left, 100 << 30);
    let attachment =
        json!({"metadata": {"name": "csi-1"}, "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    assert_eq!(read::<Attachment>(attachment), Attachment { name: "csi-1".into(), node: "n".into(), volume: "v".into() });
}

#[test]
fn quantities_that_overflow_are_the_largest() {
    let containers = json!([container("a", "9E", "9E"), container("b", "9E", "9E")]);
    assert_eq!(size(json!({"containers": containers}), json!({})), (MAX_QUANTITY, MAX_QUANTITY >> 20));
}

#[test]
fn a_list_that_go_writes_as_null_is_empty() {
    // Seen of a kubelet without CSI drivers.
    let node = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "7"}, "spec": {"drivers": null}}).to_string();
    serde_json::from_str::<WireDrivers<'_>>(&node).unwrap();
}
