//! What a tenant's pods ask for, summed as kube-scheduler sums: init containers, sidecars, overhead, an autoscaler's most, a roll-out's surge.
//!
//! Kinds of other groups are not looked into: what their controllers start is the class's author to count.

use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests};
use serde_json::Value;

use crate::kinds;
use crate::manifests::at;
use crate::rendered::{ObjectId, Rendered};
use crate::units::{bytes, millicores};

/// Percent of its replicas that a Deployment adds during an update if it does not say (Kubernetes' default).
const DEFAULT_SURGE: u64 = 25;
/// Where a resource is said, the first that has it counts.
const LISTS: [&str; 2] = ["requests", "limits"];

/// What all pods and volumes of a tenant ask for at most.
#[must_use]
pub fn pods_of(rendered: &Rendered) -> Requests {
    sum(rendered, &mut |_, _| {})
}

/// As [`pods_of`]; tells of what could not be read, or is not said, with the object that it is of.
pub(crate) fn sum(rendered: &Rendered, tell: &mut impl FnMut(&ObjectId, String)) -> Requests {
    let objects: Vec<(&ObjectId, &Value)> = rendered.parts.values().flatten().map(|manifest| (&manifest.id, &manifest.body)).collect();
    let mut requests = Requests::default();
    let total = &mut requests.total;
    for (id, body) in &objects {
        let Some(template) = kinds::pod_template(&id.kind).and_then(|path| at(body, path)) else { continue };
        let pod = pod_size(template.get("spec").unwrap_or(&Value::Null), &mut |problem| tell(id, problem));
        let count = pods(id, body, &objects, tell);
        if count > 0 {
            requests.largest_pod.cpu = requests.largest_pod.cpu.max(pod.cpu);
            requests.largest_pod.memory = requests.largest_pod.memory.max(pod.memory);
        }
        total.cpu.0 = total.cpu.0.saturating_add(pod.cpu.0.saturating_mul(count));
        total.memory.0 = total.memory.0.saturating_add(pod.memory.0.saturating_mul(count));
        total.pods = total.pods.saturating_add(count);
    }
    let size = |body: &Value| body.pointer("/spec/resources/requests/storage").and_then(bytes).unwrap_or(0);
    total.storage = Bytes(rendered.volumes.values().fold(0, |sum: u64, claim| sum.saturating_add(size(&claim.body))));
    total.attachments = rendered.volumes.len() as u64;
    requests
}

/// Pods that a workload has at most at a time.
fn pods(id: &ObjectId, body: &Value, objects: &[(&ObjectId, &Value)], tell: &mut impl FnMut(&ObjectId, String)) -> u64 {
    let most = match autoscaler_of(id, objects.iter().copied()) {
        Some((scaler, body)) => number(body, "/spec/maxReplicas", &mut |problem| tell(scaler, problem)).unwrap_or(1),
        None => replicas(body, &mut |problem| tell(id, problem)),
    };
    let mut tell = |problem: String| tell(id, problem);
    match id.kind.as_str() {
        "Deployment" => most.saturating_add(surge(body, most, &mut tell)),
        "StatefulSet" => most,
        "Job" => parallel(body, "", &mut tell),
        // Runs that overlap are refused by the class's check.
        "CronJob" => parallel(body, "/spec/jobTemplate", &mut tell),
        _ => 0,
    }
}

/// A whole number, also one that an expression has made with a point: `{{ 6 / 2 }}` is 3.0, which the API server takes for 3.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| match value {
        Value::Number(number) => number.to_string().strip_suffix(".0")?.parse().ok(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    })
}

/// The whole number at a path, if anything is said there; tells of anything else.
pub(crate) fn number(body: &Value, path: &str, tell: &mut impl FnMut(String)) -> Option<u64> {
    let said = body.pointer(path).filter(|said| !said.is_null())?;
    let found = whole(said);
    if found.is_none() {
        tell(format!("{} is {said}, must be a whole number", path.trim_start_matches('/').replace('/', ".")));
    }
    found
}

/// `spec.replicas`, one if it is not said.
pub(crate) fn replicas(body: &Value, tell: &mut impl FnMut(String)) -> u64 {
    number(body, "/spec/replicas", tell).unwrap_or(1)
}

/// The autoscaler whose target a workload is.
pub(crate) fn autoscaler_of<'m>(
    workload: &ObjectId,
    objects: impl IntoIterator<Item = (&'m ObjectId, &'m Value)>,
) -> Option<(&'m ObjectId, &'m Value)> {
    let targets = |body: &Value| {
        let text = |field: &str| body.pointer(&format!("/spec/scaleTargetRef/{field}")).and_then(Value::as_str);
        text("kind") == Some(&workload.kind) && text("name") == Some(&workload.name)
    };
    objects.into_iter().find(|(id, body)| id.kind == "HorizontalPodAutoscaler" && targets(body))
}

/// Pods that an update adds: a number, or a percentage rounded up.
fn surge(body: &Value, replicas: u64, tell: &mut impl FnMut(String)) -> u64 {
    let percent = |percent: u64| replicas.saturating_mul(percent).div_ceil(100);
    if replicas == 0 || body.pointer("/spec/strategy/type").and_then(Value::as_str) == Some("Recreate") {
        return 0;
    }
    let Some(said) = body.pointer("/spec/strategy/rollingUpdate/maxSurge").filter(|said| !said.is_null()) else {
        return percent(DEFAULT_SURGE);
    };
    let part = || said.as_str()?.strip_suffix('%')?.parse().ok().map(percent);
    whole(said).or_else(part).unwrap_or_else(|| {
        tell(format!("spec.strategy.rollingUpdate.maxSurge is {said}, must be a whole number or a percentage"));
        percent(DEFAULT_SURGE)
    })
}

/// Pods of a job that run at a time; the job is at a path.
fn parallel(body: &Value, job: &str, tell: &mut impl FnMut(String)) -> u64 {
    let parallelism = number(body, &format!("{job}/spec/parallelism"), tell).unwrap_or(1);
    number(body, &format!("{job}/spec/completions"), tell).map_or(parallelism, |completions| parallelism.min(completions))
}

/// What one pod asks for: the greater of what its containers ask for together and what each step of its beginning does, plus overhead.
pub(crate) fn pod_size(pod: &Value, tell: &mut impl FnMut(String)) -> PodSize {
    let list = |field: &str| pod.get(field).and_then(Value::as_array).into_iter().flatten();
    let (mut sidecars, mut most) = (PodSize::default(), PodSize::default());
    for container in list("initContainers") {
        let own = asked(container, pod, tell);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            // A sidecar runs on beside whatever comes after it.
            sidecars = plus(sidecars, own);
            most = greater(most, sidecars);
        } else {
            most = greater(most, plus(sidecars, own));
        }
    }
    let together = list("containers").fold(sidecars, |sum, container| plus(sum, asked(container, pod, tell)));
    let mut size = greater(most, together);
    if let Some(cpu) = whole_pod(pod, "cpu", millicores, tell) {
        size.cpu = Millicores(cpu);
    }
    if let Some(memory) = whole_pod(pod, "memory", bytes, tell) {
        size.memory = Bytes(memory);
    }
    let overhead =
        |field: &str, read: fn(&Value) -> Option<u64>| pod.get("overhead").and_then(|all| all.get(field)).and_then(read).unwrap_or(0);
    plus(size, PodSize { cpu: Millicores(overhead("cpu", millicores)), memory: Bytes(overhead("memory", bytes)) })
}

/// What is said of the pod as a whole, which stands in place of its containers' sums: what it requests; what it is limited to only if none of its
/// containers says anything of the resource, as the API server fills it in (`defaultPodRequests` in `pkg/apis/core/v1/defaults.go`).
fn whole_pod(pod: &Value, field: &str, read: fn(&Value) -> Option<u64>, tell: &mut impl FnMut(String)) -> Option<u64> {
    let says = |owner: &Value, list: &str| owner.pointer(&format!("/resources/{list}/{field}")).is_some();
    let containers = ["initContainers", "containers"].into_iter().filter_map(|list| pod.get(list)?.as_array()).flatten();
    let of_containers = || containers.into_iter().any(|container| LISTS.into_iter().any(|list| says(container, list)));
    if says(pod, "requests") || !of_containers() { quantity(pod, field, read, tell) } else { None }
}

/// What a container asks for. A request that is not said is the limit, if there is one, as the API server fills it in.
fn asked(container: &Value, pod: &Value, tell: &mut impl FnMut(String)) -> PodSize {
    let mut of = |field: &str, read: fn(&Value) -> Option<u64>| {
        let found = quantity(container, field, read, tell);
        if found.is_none() && whole_pod(pod, field, read, &mut |_| {}).is_none() {
            tell(format!("container {} does not say how much {field} it requests", name(container)));
        }
        found.unwrap_or(0)
    };
    PodSize { cpu: Millicores(of("cpu", millicores)), memory: Bytes(of("memory", bytes)) }
}

/// A resource that a container or a pod asks for, or its limit.
fn quantity(owner: &Value, field: &str, read: fn(&Value) -> Option<u64>, tell: &mut impl FnMut(String)) -> Option<u64> {
    let said = LISTS.into_iter().find_map(|list| owner.pointer(&format!("/resources/{list}/{field}")))?;
    let found = read(said);
    if found.is_none() {
        tell(format!("container {} requests {said} of {field}, which is no quantity", name(owner)));
    }
    // Told already; what is unreadable counts as nothing and is not missing, too.
    Some(found.unwrap_or(0))
}

fn name(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or("?")
}

fn plus(a: PodSize, b: PodSize) -> PodSize {
    PodSize { cpu: Millicores(a.cpu.0.saturating_add(b.cpu.0)), memory: Bytes(a.memory.0.saturating_add(b.memory.0)) }
}

fn greater(a: PodSize, b: PodSize) -> PodSize {
    PodSize { cpu: a.cpu.max(b.cpu), memory: a.memory.max(b.memory) }
}
