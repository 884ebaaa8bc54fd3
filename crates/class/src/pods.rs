//! A class's workloads once their expressions have values: what the API server, the scheduler or the accounting would not bear of them.

use std::collections::BTreeSet;

use roadstead_core::id::Name;
use roadstead_core::reconcile::Part;
use serde_json::Value;

use crate::finding::Findings;
use crate::kinds;
use crate::manifests::at;
use crate::pod_security;
use crate::rendered::{Manifest, Rendered};
use crate::template::PodSecurity;

/// What is said of a number, or of whether something holds, where no cluster takes it.
pub(crate) const MUST_BE_TEXT: &str = "must be text: put it in quotes, or let an expression end in `| string`";

/// The beginning of the priority classes that are Kubernetes' own.
const SYSTEM: &str = "system-";

/// What is refused of all workloads.
pub(crate) fn check(level: PodSecurity, rendered: &Rendered, findings: &mut Findings) {
    let volumes: BTreeSet<&str> = rendered.volumes.keys().map(Name::as_str).collect();
    let secrets: BTreeSet<&str> = rendered.secrets.iter().map(|secret| secret.manifest.id.name.as_str()).collect();
    for manifest in rendered.parts.get(&Part::Workloads).into_iter().flatten() {
        let Some(template) = kinds::pod_template(&manifest.id.kind).and_then(|path| at(&manifest.body, path)) else { continue };
        let Some(pod) = template.get("spec") else { continue };
        let mut tell = |problem: String| findings.add("spec.manifests", format!("{}: {problem}", manifest.id));
        controller(manifest, template, &mut tell);
        for refusal in pod_security::refusals(level, pod) {
            tell(format!("{refusal} (podSecurity: {})", level.name()));
        }
        placement(pod, &mut tell);
        mounts(pod, &volumes, &mut tell);
        environment(pod, &secrets, &mut tell);
    }
}

/// What makes the pods, against their template.
fn controller(manifest: &Manifest, template: &Value, tell: &mut impl FnMut(String)) {
    let kind = manifest.id.kind.as_str();
    let overlap = manifest.body.pointer("/spec/concurrencyPolicy").and_then(Value::as_str).unwrap_or("Allow");
    if kind == "CronJob" && overlap == "Allow" {
        tell("its runs may pile up beyond what is requested: say concurrencyPolicy Forbid or Replace".to_owned());
    }
    let restarts = template.pointer("/spec/restartPolicy").and_then(Value::as_str);
    if matches!(kind, "Job" | "CronJob") && !matches!(restarts, Some("Never" | "OnFailure")) {
        tell("its pods are to end: say restartPolicy Never or OnFailure".to_owned());
    }
    // A Job's selector is the cluster's to say.
    if kinds::scales(kind)
        && let Some(selector) = manifest.body.pointer("/spec/selector")
        && !selects(selector, template.pointer("/metadata/labels").unwrap_or(&Value::Null))
    {
        tell("spec.selector does not match the labels of its own template".to_owned());
    }
}

/// Whether a selector takes what has these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let named = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let holds = |expression: &Value| {
        let label = expression.get("key").and_then(Value::as_str).and_then(|key| labels.get(key));
        let among = || label.is_some_and(|label| list(expression, "values").any(|value| value == label));
        match expression.get("operator").and_then(Value::as_str) {
            Some("In") => among(),
            Some("NotIn") => !among(),
            Some("Exists") => label.is_some(),
            Some("DoesNotExist") => label.is_none(),
            // The API server tells of an operator that is none.
            Some(_) | None => true,
        }
    };
    named.into_iter().all(|(key, value)| labels.get(key) == Some(value)) && expressions.into_iter().all(holds)
}

/// Where pods come to, and whom they displace: the scheduler's to say, and the cluster's.
fn placement(pod: &Value, tell: &mut impl FnMut(String)) {
    if !text(pod, "/nodeName").is_empty() {
        tell("nodeName is not a class's to say: the scheduler would not be asked, and neither room nor taints would count".to_owned());
    }
    let priority = text(pod, "/priorityClassName");
    if priority.starts_with(SYSTEM) {
        tell(format!("priorityClassName {priority} is for what a cluster needs to work: others' pods would go for it"));
    }
    if list(pod, "tolerations").any(|toleration| text(toleration, "/key").is_empty()) {
        tell("a toleration without a key is for every taint: name those that are meant".to_owned());
    }
}

/// What containers mount has to be there.
fn mounts(pod: &Value, volumes: &BTreeSet<&str>, tell: &mut impl FnMut(String)) {
    let declared: BTreeSet<&str> = list(pod, "volumes").map(|volume| text(volume, "/name")).collect();
    for volume in list(pod, "volumes") {
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        if !claim.is_empty() && !volumes.contains(claim) {
            tell(format!("claims volume {claim}, which is not among spec.volumes"));
        }
    }
    for (name, container) in containers(pod) {
        for mounted in list(container, "volumeMounts").map(|mount| text(mount, "/name")) {
            if !declared.contains(mounted) {
                tell(format!("container {name} mounts {mounted}, which is neither among spec.volumes nor the pod's own"));
            }
        }
    }
}

/// So have secrets that their environment is from; and what is in it is text.
fn environment(pod: &Value, secrets: &BTreeSet<&str>, tell: &mut impl FnMut(String)) {
    for (name, container) in containers(pod) {
        for (variable, value) in list(container, "env").filter_map(|env| Some((text(env, "/name"), env.get("value")?))) {
            if !(value.is_string() || value.is_null()) {
                tell(format!("container {name}: env {variable} is {value}, {MUST_BE_TEXT}"));
            }
        }
        let from = list(container, "envFrom").map(|from| ("/secretRef", from));
        let env = list(container, "env").map(|env| ("/valueFrom/secretKeyRef", env));
        for (path, source) in from.chain(env) {
            let secret = text(source, &format!("{path}/name"));
            let optional = source.pointer(&format!("{path}/optional")) == Some(&Value::Bool(true));
            if !secret.is_empty() && !optional && !secrets.contains(secret) {
                tell(format!("container {name} needs secret {secret}, which is not among spec.secrets"));
            }
        }
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = (&str, &Value)> {
    list(pod, "initContainers").chain(list(pod, "containers")).map(|container| (text(container, "/name"), container))
}

fn list<'v>(owner: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    owner.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
