//! What is added to a class's objects: namespace, labels, account, volumes, disruption budgets.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Here, Made, TENANT_LABEL};
use crate::kinds;
use crate::manifests::{ACCOUNT, at};
use crate::rendered::{Ceded, Manifest, ObjectId};
use crate::sums::{autoscaler_of, number, replicas};

/// Replicas from which on a disruption budget is made: on a single one it would block the draining of its node.
const BUDGET_FROM: u64 = 2;

impl Here<'_> {
    /// The class's objects, in the order in which they are made, each as it is to be.
    pub(super) fn workloads(&self, objects: Vec<Made>) -> Vec<Manifest> {
        let mut budgets: Vec<Manifest> = Vec::new();
        for object in &objects {
            budgets.extend(self.budget(object, &objects, &budgets));
        }
        let mut manifests: Vec<Manifest> = objects.into_iter().map(|object| self.workload(object)).collect();
        manifests.extend(budgets);
        manifests
    }

    fn workload(&self, object: Made) -> Manifest {
        let Made { id, mut body, .. } = object;
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), json!(self.namespace));
            self.label(metadata);
        }
        if id.kind == "RoleBinding" {
            for subject in body.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(subject) = subject.as_object_mut() {
                    subject.insert("namespace".to_owned(), json!(self.namespace));
                }
            }
        }
        if let Some(template) = kinds::pod_template(&id.kind).and_then(|path| at_mut(&mut body, path)) {
            self.label(entry(template, "metadata"));
            self.pod(entry(template, "spec"));
        }
        Manifest { id, body }
    }

    fn label(&self, metadata: &mut Map<String, Value>) {
        entry(metadata, "labels").insert(TENANT_LABEL.to_owned(), json!(self.uid));
    }

    fn pod(&self, pod: &mut Map<String, Value>) {
        pod.entry("serviceAccountName").or_insert_with(|| json!(ACCOUNT));
        let declared: BTreeSet<String> = names(pod.get("volumes")).map(str::to_owned).collect();
        let containers = ["initContainers", "containers"].into_iter().filter_map(|field| pod.get(field)?.as_array()).flatten();
        let mounted: BTreeSet<&str> = containers.flat_map(|container| names(container.get("volumeMounts"))).collect();
        let ours = self.tenant.volumes.iter().map(|volume| volume.name.as_str());
        let missing: Vec<Value> = ours
            .filter(|name| mounted.contains(name) && !declared.contains(*name))
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        if missing.is_empty() {
            return;
        }
        match pod.get_mut("volumes").and_then(Value::as_array_mut) {
            Some(volumes) => volumes.extend(missing),
            None => {
                pod.insert("volumes".to_owned(), Value::Array(missing));
            }
        }
    }

    /// Lets one pod at a time go, unless the class brings a budget of its own for the same pods. Its name is the workload's; where one of another
    /// kind has that, its kind stands before it.
    fn budget(&self, workload: &Made, all: &[Made], made: &[Manifest]) -> Option<Manifest> {
        if !kinds::scales(&workload.id.kind) || least(workload, all) < BUDGET_FROM {
            return None;
        }
        let selector = workload.body.pointer("/spec/selector")?;
        let own = all.iter().filter(|object| object.id.kind == "PodDisruptionBudget");
        if own.into_iter().any(|own| own.body.pointer("/spec/selector") == Some(selector) || own.id.name == workload.id.name) {
            return None;
        }
        let ObjectId { kind, name, .. } = &workload.id;
        let taken = made.iter().any(|budget| budget.id.name == *name);
        let name = if taken { format!("{}-{name}", kind.to_ascii_lowercase()) } else { name.clone() };
        Some(self.own("policy/v1", "PodDisruptionBudget", &name, json!({"spec": {"maxUnavailable": 1, "selector": selector}})))
    }

    /// What the class leaves to others, and what autoscalers are there for.
    pub(super) fn ceded(&self, objects: &[Made]) -> Vec<Ceded> {
        let mut ceded: BTreeSet<Ceded> = self.class.template.ceded.iter().cloned().collect();
        let scaled = objects.iter().filter(|object| kinds::scales(&object.id.kind) && scaler(object, objects).is_some());
        ceded.extend(scaled.map(|object| Ceded { object: object.id.to_string(), path: ["spec", "replicas"].map(str::to_owned).to_vec() }));
        ceded.into_iter().collect()
    }
}

fn scaler<'m>(workload: &Made, all: &'m [Made]) -> Option<(&'m ObjectId, &'m Value)> {
    autoscaler_of(&workload.id, all.iter().map(|object: &'m Made| (&object.id, &object.body)))
}

/// Replicas that are there at least.
fn least(workload: &Made, all: &[Made]) -> u64 {
    match scaler(workload, all) {
        Some((_, scaler)) => number(scaler, "/spec/minReplicas", &mut |_| {}).unwrap_or(1),
        None => replicas(&workload.body, &mut |_| {}),
    }
}

/// The `name` of each entry of a list.
fn names(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(|entry| entry.get("name")?.as_str())
}

/// The map under a key, made if it is not there.
fn entry<'m>(map: &'m mut Map<String, Value>, key: &str) -> &'m mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

fn at_mut<'v>(value: &'v mut Value, path: &[&str]) -> Option<&'v mut Map<String, Value>> {
    path.iter().try_fold(value, |value, step| value.get_mut(step))?.as_object_mut()
}

impl Here<'_> {
    /// The exposed service's pods: their labels, and their port.
    pub(super) fn exposed<'m>(&self, objects: &'m [Made], service: &str, port: u16) -> Option<(&'m Value, Value)> {
        let is_service = |id: &ObjectId| id.api_version == "v1" && id.kind == "Service" && id.name == service;
        let body = &objects.iter().find(|object| is_service(&object.id))?.body;
        let ports = body.pointer("/spec/ports")?.as_array()?;
        let found = ports.iter().find(|entry| entry.get("port").and_then(Value::as_u64) == Some(port.into()))?;
        let target = found.get("targetPort").cloned().unwrap_or_else(|| json!(port));
        Some((at(body, &["spec", "selector"]).filter(|selector| selector.is_object())?, target))
    }
}
