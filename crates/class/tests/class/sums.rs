//! Sums of pods, as kube-scheduler makes them.

use roadstead_class::{pods_of, render};
use serde_json::json;

use crate::given::{self, class_of, workload};

/// CPU in thousandths, pods, and the largest pod's CPU.
fn sums(manifests: &str) -> (u64, u64, u64) {
    let class = class_of(json!({}), manifests).unwrap();
    let sums = pods_of(&render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap());
    (sums.total.cpu.0, sums.total.pods, sums.largest_pod.cpu.0)
}

/// A pod of a Deployment without surge.
fn pod(spec: &str) -> u64 {
    let manifest = workload("Deployment", "strategy: {type: Recreate}");
    let (head, _) = manifest.split_once("    spec:\n").unwrap();
    sums(&format!("{head}    spec: {spec}")).0
}

fn container(cpu: &str) -> String {
    format!("{{name: c, resources: {{requests: {{cpu: {cpu}, memory: 1Mi}}}}}}")
}

#[test]
fn a_roll_out_adds_its_surge_rounded_up() {
    let deployment = |fields: &str| sums(&workload("Deployment", fields));
    assert_eq!(deployment(""), (200, 2, 100));
    assert_eq!(deployment("replicas: 4"), (500, 5, 100));
    assert_eq!(deployment("replicas: 5"), (700, 7, 100));
    assert_eq!(deployment("replicas: 5\n  strategy: {rollingUpdate: {maxSurge: 0}}"), (500, 5, 100));
    assert_eq!(deployment("replicas: 5\n  strategy: {rollingUpdate: {maxSurge: 50%}}"), (800, 8, 100));
    assert_eq!(deployment("replicas: 5\n  strategy: {type: Recreate}"), (500, 5, 100));
    assert_eq!(deployment("replicas: 0"), (0, 0, 0));
    assert_eq!(sums(&workload("StatefulSet", "replicas: 5")), (500, 5, 100));
}

#[test]
fn an_autoscaler_counts_with_its_most() {
    let scaler = "---\n{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: s}, spec: {maxReplicas: 8, \
                  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}";
    assert_eq!(sums(&(workload("Deployment", "replicas: 2") + scaler)), (1000, 10, 100));
}

#[test]
fn jobs_count_with_what_runs_at_a_time() {
    assert_eq!(sums(&workload("Job", "parallelism: 3")), (300, 3, 100));
    assert_eq!(sums(&workload("Job", "parallelism: 3\n  completions: 2")), (200, 2, 100));
}

#[test]
fn a_pod_asks_for_the_greater_of_its_beginning_and_its_run() {
    let (a, b) = (container("100m"), container("300m"));
    assert_eq!(pod(&format!("{{containers: [{a}, {b}]}}")), 400);
    assert_eq!(pod(&format!("{{initContainers: [{b}, {b}], containers: [{a}]}}")), 300);
    assert_eq!(pod(&format!("{{initContainers: [{a}], containers: [{b}]}}")), 300);
}

#[test]
fn sidecars_count_beside_whatever_comes_after_them() {
    let (a, b) = (container("100m"), container("300m"));
    let sidecar = "{name: s, restartPolicy: Always, resources: {requests: {cpu: 50m, memory: 1Mi}}}";
    assert_eq!(pod(&format!("{{initContainers: [{sidecar}], containers: [{a}]}}")), 150);
    assert_eq!(pod(&format!("{{initContainers: [{sidecar}, {b}], containers: [{a}]}}")), 350);
    assert_eq!(pod(&format!("{{initContainers: [{b}, {sidecar}], containers: [{a}]}}")), 300);
}

#[test]
fn overhead_limits_and_the_pods_own_requests_count() {
    let a = container("100m");
    assert_eq!(pod(&format!("{{overhead: {{cpu: 20m}}, containers: [{a}]}}")), 120);
    assert_eq!(pod("{containers: [{name: c, resources: {limits: {cpu: 70m, memory: 1Mi}}}]}"), 70);
    assert_eq!(pod(&format!("{{resources: {{requests: {{cpu: 1}}}}, containers: [{a}]}}")), 1000);
}

#[test]
fn a_limit_of_the_whole_pod_counts_only_where_no_container_says_anything() {
    let a = container("100m");
    assert_eq!(pod(&format!("{{resources: {{limits: {{cpu: 1}}}}, containers: [{a}, {a}]}}")), 200);
    assert_eq!(pod(&format!("{{resources: {{limits: {{cpu: 1}}}}, initContainers: [{a}], containers: [{{name: c}}]}}")), 100);
    assert_eq!(pod("{resources: {limits: {cpu: 1, memory: 1Gi}}, containers: [{name: c}]}"), 1000);
    assert_eq!(pod("{resources: {limits: {cpu: 1}}, containers: [{name: c, resources: {requests: {memory: 1Mi}}}]}"), 1000);
    assert_eq!(pod(&format!("{{resources: {{requests: {{cpu: 500m}}, limits: {{cpu: 1}}}}, containers: [{a}]}}")), 500);
}

#[test]
fn whole_numbers_with_a_point_are_whole_numbers() {
    assert_eq!(sums(&workload("StatefulSet", "replicas: \"{{ 12 / 2 }}\"")), (600, 6, 100));
    assert_eq!(sums(&workload("Deployment", "replicas: 4\n  strategy: {rollingUpdate: {maxSurge: \"{{ 4 / 2 }}\"}}")), (600, 6, 100));
    assert_eq!(sums(&workload("Job", "parallelism: \"{{ 6 / 2 }}\"\n  completions: \"{{ 4 / 2 }}\"")), (200, 2, 100));
    let scaler = "---\n{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: s}, spec: {maxReplicas: \"{{ 8 / 2 }}\", \
                  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: web}}}";
    assert_eq!(sums(&(workload("StatefulSet", "") + scaler)), (400, 4, 100));
}

#[test]
fn volumes_count_their_size_and_an_attachment_each() {
    let class = class_of(json!({"volumes": [{"name": "a", "size": "10Gi"}, {"name": "b", "size": "1Gi"}]}), "").unwrap();
    let sums = pods_of(&render(&class, &given::tenant(&class, &json!({})), &given::site()).unwrap());
    assert_eq!((sums.total.storage.0, sums.total.attachments), (11 << 30, 2));
}
