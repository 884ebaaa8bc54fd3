//! What could not be made, or not be changed, for every tenant that a class is for, and is refused.

use serde_json::{Value, json};

use crate::given::workload;
use crate::refusals::{problems, refused, roomy, with};

#[test]
fn numbers_that_are_not_whole_are_refused() {
    let what = "spec.manifests: Deployment/web: ";
    let web = json!({"properties": {"web": {"type": "integer", "default": 3}}});
    refused(
        with("values", web),
        &workload("Deployment", "replicas: \"{{ values.web / 2 }}\""),
        &format!("{what}spec.replicas is 1.5, must be a whole number"),
    );
    refused(roomy(), &workload("Deployment", "replicas: '2'"), &format!("{what}spec.replicas is \"2\", must be a whole number"));
    refused(
        roomy(),
        &workload("Deployment", "strategy: {rollingUpdate: {maxSurge: half}}"),
        &format!("{what}spec.strategy.rollingUpdate.maxSurge is \"half\", must be a whole number or a percentage"),
    );
    let scaler = "---\n{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: s}, spec: {maxReplicas: -1, \
                  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}";
    refused(
        roomy(),
        &(workload("Deployment", "") + scaler),
        "spec.manifests: HorizontalPodAutoscaler/s: spec.maxReplicas is -1, must be a whole number",
    );
    let job = |fields: &str| workload("Job", fields).replace("containers:", "restartPolicy: Never\n      containers:");
    refused(roomy(), &job("parallelism: 0.5"), "spec.manifests: Job/web: spec.parallelism is 0.5, must be a whole number");
    assert!(problems(roomy(), &workload("Deployment", "replicas: null\n  strategy: {rollingUpdate: {maxSurge: 30%}}")).is_empty());
}

#[test]
fn a_class_that_needs_hostnames_is_refused() {
    let config = |text: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {{a: {text:?}}}}}");
    refused(
        roomy(),
        &config("{{ hostnames[0] }}"),
        "spec.manifests: shop.yaml: ConfigMap/x: data.a: {{ hostnames[0] }}: is not defined (for a tenant without hostnames)",
    );
    assert!(problems(roomy(), &config("{{ hostnames[0] | default('none') }}")).is_empty());
}

/// A Job whose command is given by an expression.
fn job(name: &str, command: &str) -> String {
    workload("Job", "")
        .replace("metadata: {name: web}", &format!("metadata: {{name: {name:?}}}"))
        .replace("containers:", "restartPolicy: Never\n      containers:")
        .replace("image:", &format!("args: [{command:?}]\n        image:"))
}

fn plans() -> Value {
    with("values", json!({"properties": {"plan": {"enum": ["small", "large"], "default": "small"}}}))
}

#[test]
fn what_no_cluster_lets_change_may_not_depend_on_values_or_hostnames() {
    refused(
        plans(),
        &job("migrate", "{{ values.plan }}"),
        "spec.manifests: Job/migrate: spec.template depends on values, and no cluster lets it change: put what it depends on into the \
         object's name",
    );
    refused(
        plans(),
        &job("migrate", "{{ hostnames | length }}"),
        "spec.manifests: Job/migrate: spec.template depends on hostnames, and no cluster lets it change: put what it depends on into the \
         object's name",
    );
    assert_eq!(problems(plans(), &job("migrate-{{ values.plan }}", "{{ values.plan }}")), Vec::<String>::new());
    let deployment = workload("Deployment", "").replace("image:", "args: [\"{{ values.plan }}\"]\n        image:");
    assert_eq!(problems(plans(), &deployment), Vec::<String>::new(), "a Deployment's template changes");
}

#[test]
fn a_selector_that_does_not_take_its_own_pods_is_refused() {
    let labelled =
        |selector: &str| workload("Deployment", "").replace("selector: {matchLabels: {app: web}}", &format!("selector: {selector}"));
    let told = "spec.manifests: Deployment/web: spec.selector does not match the labels of its own template";
    for wrong in [
        "{matchLabels: {app: shop}}",
        "{matchLabels: {app: web, tier: front}}",
        "{matchExpressions: [{key: app, operator: In, values: [shop]}]}",
        "{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}",
        "{matchExpressions: [{key: app, operator: DoesNotExist}]}",
        "{matchExpressions: [{key: tier, operator: Exists}]}",
    ] {
        refused(roomy(), &labelled(wrong), told);
    }
    let right =
        "{matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [shop, web]}, {key: tier, operator: DoesNotExist}]}";
    assert_eq!(problems(roomy(), &labelled(right)), Vec::<String>::new());
}

#[test]
fn what_is_to_end_says_how_its_pods_restart() {
    let told = |kind: &str| format!("spec.manifests: {kind}/web: its pods are to end: say restartPolicy Never or OnFailure");
    refused(roomy(), &workload("Job", ""), &told("Job"));
    let with_policy = |policy: &str| workload("Job", "").replace("containers:", &format!("restartPolicy: {policy}\n      containers:"));
    refused(roomy(), &with_policy("Always"), &told("Job"));
    let night = "{apiVersion: batch/v1, kind: CronJob, metadata: {name: web}, spec: {concurrencyPolicy: Forbid, jobTemplate: {spec: {template: \
                 {spec: {containers: [{name: web, resources: {limits: {cpu: 1, memory: 1Gi}}}]}}}}}}";
    refused(with("podSecurity", json!("privileged")), night, &told("CronJob"));
    for policy in ["Never", "OnFailure"] {
        assert_eq!(problems(roomy(), &with_policy(policy)), Vec::<String>::new());
    }
}

#[test]
fn what_is_no_text_where_no_cluster_takes_anything_else_is_refused() {
    let text = "must be text: put it in quotes, or let an expression end in `| string`";
    let environment =
        |value: &str| workload("Deployment", "").replace("image:", &format!("env: [{{name: A, value: {value}}}]\n        image:"));
    refused(roomy(), &environment("'{{ 5 }}'"), &format!("spec.manifests: Deployment/web: container web: env A is 5, {text}"));
    assert_eq!(problems(roomy(), &environment("'{{ 5 | string }}'")), Vec::<String>::new());
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: true}}";
    refused(roomy(), config, &format!("spec.manifests: ConfigMap/x: data.a is true, {text}"));
}

#[test]
fn a_role_that_is_bound_is_among_the_manifests() {
    let rbac = "rbac.authorization.k8s.io";
    let binding = format!(
        "{{apiVersion: {rbac}/v1, kind: RoleBinding, metadata: {{name: b}}, roleRef: {{apiGroup: {rbac}, kind: Role, name: r}}, \
         subjects: [{{kind: ServiceAccount, name: tenant}}]}}"
    );
    refused(roomy(), &binding, "spec.manifests: RoleBinding/b: binds Role/r, which is not among the manifests");
}
