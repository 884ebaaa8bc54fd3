//! What is refused of a class before it is written anywhere: it is rendered with its defaults, with the examples of its schema, with the
//! largest values of each of these and with those of each member of its enums, and what comes out is looked at.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::id::{Incarnation, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::reconcile::Part;
use serde_json::{Value, json};

use crate::class::Class;
use crate::finding::{Finding, Findings};
use crate::kinds;
use crate::manifests::at;
use crate::pod_security;
use crate::render::{RenderError, render};
use crate::rendered::{ObjectId, Rendered, StopStep};
use crate::site::{Entry, Site};
use crate::sums::sum;
use crate::template::PodSecurity;
use crate::units::bytes_words;

/// Examples that a class is tried with: each is rendered in full.
pub(crate) const MAX_EXAMPLES: usize = 16;

/// Members of enums that a class is tried with, of all properties together: each is rendered in full.
pub(crate) const MAX_CHOICES: usize = 32;

/// Values that a class is tried with, and what they are called.
pub(crate) struct Sample {
    name: String,
    pub(crate) values: Value,
}

/// What a tenant's values are called that says nothing.
const DEFAULTS: &str = "its defaults";
/// What values are called in which each number is as large as it may be.
const LARGEST: &str = "the largest values";

/// Everything for which a class is refused. Empty: its tenants can be rendered, and ask for no more than the class says.
#[must_use]
pub fn check(class: &Class) -> Vec<Finding> {
    let mut findings = Findings::default();
    let samples = samples(class, &mut findings);
    if samples.is_empty() && findings.0.is_empty() {
        findings.add("spec.values", "asks for values that have no default, so that nothing can be tried: give `examples` of the whole");
    }
    let mut excess = Excess::default();
    for sample in &samples {
        match rendered(class, &sample.values) {
            Ok(rendered) => {
                references(class, &rendered, &mut findings);
                workloads(class.template.pod_security, &rendered, &mut findings);
                requests(class, sample, &rendered, &mut excess, &mut findings);
            }
            Err(error) => findings.add(field_of(&error), error.to_string()),
        }
    }
    findings.0.extend(excess.into_values().map(|(_, finding)| finding));
    findings.0
}

/// Values to try a class with: its defaults and its examples, each of them with numbers as large as they may be, and the first of those with each
/// member of its enums. None is there twice.
pub(crate) fn samples(class: &Class, findings: &mut Findings) -> Vec<Sample> {
    let schema = &class.schema;
    let mut samples = Vec::new();
    let (nothing, mut defaults) = (json!({}), json!({}));
    schema.fill_defaults(&mut defaults);
    let (without, with) = (schema.violations(&nothing), schema.violations(&defaults));
    for wrong in with.iter().filter(|wrong| !without.contains(wrong)) {
        findings.add("spec.values", format!("the default of {} {}", wrong.field, wrong.problem));
    }
    if with.is_empty() {
        samples.push(Sample { name: DEFAULTS.to_owned(), values: defaults });
    }
    let examples = schema.examples();
    if examples.len() > MAX_EXAMPLES {
        findings.add("spec.values", format!("gives {} examples of the whole, at most {MAX_EXAMPLES} are tried", examples.len()));
    }
    for (index, example) in examples.iter().take(MAX_EXAMPLES).enumerate() {
        let mut values = example.clone();
        schema.fill_defaults(&mut values);
        match schema.violations(&values).first() {
            Some(wrong) => findings.add("spec.values", format!("examples[{index}]: {} {}", wrong.field, wrong.problem)),
            None => samples.push(Sample { name: format!("examples[{index}] of its values"), values }),
        }
    }
    largest(class, &mut samples);
    samples
}

/// Adds the largest values of each sample, and of each member of an enum. Where a number has no largest value, or one that its schema does not accept,
/// it stays as it is, and the others are as large as they may be all the same.
fn largest(class: &Class, samples: &mut Vec<Sample>) {
    let schema = &class.schema;
    let raised = |sample: &Sample| {
        let mut values = sample.values.clone();
        schema.fill_maxima(&mut values);
        let name = if sample.name == DEFAULTS { LARGEST.to_owned() } else { format!("{} and {LARGEST}", sample.name) };
        Sample { name, values }
    };
    let mut further: Vec<Sample> = samples.iter().map(raised).collect();
    let Some(first) = further.first().map(|sample| sample.values.clone()) else { return };
    let chosen = schema.choices().into_iter().take(MAX_CHOICES).map(|(property, member)| {
        let (name, mut values) = (format!("{property} {member} and {LARGEST}"), first.clone());
        if let Some(object) = values.as_object_mut() {
            object.insert(property.to_owned(), member);
        }
        Sample { name, values }
    });
    further.extend(chosen);
    for sample in further {
        // No tenant has values that the schema does not accept.
        if samples.iter().all(|known| known.values != sample.values) && schema.violations(&sample.values).is_empty() {
            samples.push(sample);
        }
    }
}

/// A tenant of the class in a cluster that has everything.
pub(crate) fn rendered(class: &Class, values: &Value) -> Result<Rendered, RenderError> {
    let volume = |spec: &roadstead_core::class::VolumeSpec| VolumeIntent {
        name: spec.name.clone(),
        size: spec.size,
        storage: spec.storage.clone(),
        uid: None,
    };
    let volumes: Vec<VolumeIntent> = class.volumes.iter().map(volume).collect();
    let mut requests = class.requests;
    requests.total.storage.0 = volumes.iter().fold(requests.total.storage.0, |sum, volume| sum.saturating_add(volume.size.0));
    let tenant = TenantIntent {
        id: TenantId::new(Incarnation(0), 1),
        epoch: Revision::default(),
        shard: ShardId(0),
        role: Role::Run,
        name: class.name.clone(),
        owner: Owner::new(class.name.as_str()).expect("every name is an owner's, too"),
        class: class.name.clone(),
        version: class.version.clone(),
        values: values.to_string(),
        hostnames: vec!["tenant.example".to_owned()],
        volumes,
        requests,
        removal_agreed: false,
    };
    let site = Site {
        cluster: "any".to_owned(),
        region: "any".to_owned(),
        storage: class.volumes.iter().map(|volume| (volume.storage.clone(), "any".to_owned())).collect(),
        entry: Entry::Ingress { class: "any".to_owned(), from_namespace: "any".to_owned() },
        ..Site::default()
    };
    render(class, &tenant, &site)
}

/// The field of the class's document that an error is about.
fn field_of(error: &RenderError) -> &'static str {
    match error {
        RenderError::Values { .. } => "spec.values",
        RenderError::Local { .. } => "spec.local",
        RenderError::Expression { .. } | RenderError::Object { .. } | RenderError::TooLarge => "spec.manifests",
        RenderError::Storage { .. } => "spec.volumes",
        RenderError::Denied { .. } | RenderError::Site { .. } => "spec.network.egress",
        RenderError::Expose { .. } => "spec.network.expose",
    }
}

/// What the class names elsewhere must be among its objects.
fn references(class: &Class, rendered: &Rendered, findings: &mut Findings) {
    let there: BTreeSet<String> = rendered.manifests().map(|manifest| manifest.id.to_string()).collect();
    let mut check = |field: String, object: &str| {
        if !there.contains(object) {
            findings.add(field, format!("{object} is not among the manifests"));
        }
    };
    for (index, ceded) in class.template.ceded.iter().enumerate() {
        check(format!("spec.cede[{index}]"), &ceded.object);
    }
    for (index, observe) in class.template.also.iter().enumerate() {
        check(format!("spec.ready.also[{index}]"), &observe.object);
    }
    for (index, step) in class.template.stop.iter().enumerate() {
        let target = match step {
            StopStep::Scale(target) => target,
            StopStep::Exec(exec) => &exec.target,
        };
        check(format!("spec.quiesce.steps[{index}]"), target);
    }
}

/// What the API server, or the accounting, would not bear.
fn workloads(level: PodSecurity, rendered: &Rendered, findings: &mut Findings) {
    let volumes: BTreeSet<&str> = rendered.volumes.keys().map(roadstead_core::id::Name::as_str).collect();
    let secrets: BTreeSet<&str> = rendered.secrets.iter().map(|secret| secret.manifest.id.name.as_str()).collect();
    for manifest in rendered.parts.get(&Part::Workloads).into_iter().flatten() {
        let Some(pod) = kinds::pod_template(&manifest.id.kind).and_then(|path| at(&manifest.body, path)?.get("spec")) else { continue };
        let mut tell = |problem: String| findings.add("spec.manifests", format!("{}: {problem}", manifest.id));
        let overlap = manifest.body.pointer("/spec/concurrencyPolicy").and_then(Value::as_str).unwrap_or("Allow");
        if manifest.id.kind == "CronJob" && overlap == "Allow" {
            tell("its runs may pile up beyond what is requested: say concurrencyPolicy Forbid or Replace".to_owned());
        }
        for refusal in pod_security::refusals(level, pod) {
            tell(format!("{refusal} (podSecurity: {})", level.name()));
        }
        let list = |owner: &'_ Value, field: &str| owner.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let declared: BTreeSet<String> = list(pod, "volumes").iter().map(|volume| text(volume, "/name")).collect();
        for volume in list(pod, "volumes") {
            let claim = text(&volume, "/persistentVolumeClaim/claimName");
            if !claim.is_empty() && !volumes.contains(claim.as_str()) {
                tell(format!("claims volume {claim}, which is not among spec.volumes"));
            }
        }
        for container in list(pod, "initContainers").iter().chain(&list(pod, "containers")) {
            let name = text(container, "/name");
            for mount in list(container, "volumeMounts") {
                let mounted = text(&mount, "/name");
                if !declared.contains(&mounted) {
                    tell(format!("container {name} mounts {mounted}, which is neither among spec.volumes nor the pod's own"));
                }
            }
            let from = list(container, "envFrom").into_iter().map(|from| ("/secretRef", from));
            let env = list(container, "env").into_iter().map(|env| ("/valueFrom/secretKeyRef", env));
            for (path, source) in from.chain(env) {
                let secret = text(&source, &format!("{path}/name"));
                let optional = source.pointer(&format!("{path}/optional")) == Some(&Value::Bool(true));
                if !secret.is_empty() && !optional && !secrets.contains(secret.as_str()) {
                    tell(format!("container {name} needs secret {secret}, which is not among spec.secrets"));
                }
            }
        }
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// An amount as people read it.
type Words = fn(u64) -> String;

/// Where pods ask for more than the class says: by the place of the field in the order in which it is told, how much they ask for at most, and what is
/// said of it. One sample stands for all, the one that asks for most.
type Excess = BTreeMap<usize, (u64, Finding)>;

/// The pods against what the class says that they ask for.
fn requests(class: &Class, sample: &Sample, rendered: &Rendered, excess: &mut Excess, findings: &mut Findings) {
    let mut tell = |id: &ObjectId, problem: String| findings.add("spec.manifests", format!("{id}: {problem}"));
    let (asked, said) = (sum(rendered, &mut tell), class.requests);
    let millicores: Words = |cpu| format!("{cpu}m");
    let together: [(&str, u64, u64, Words); 5] = [
        ("cpu", asked.total.cpu.0, said.total.cpu.0, millicores),
        ("memory", asked.total.memory.0, said.total.memory.0, bytes_words),
        ("pods", asked.total.pods, said.total.pods, |pods| pods.to_string()),
        ("largestPod.cpu", asked.largest_pod.cpu.0, said.largest_pod.cpu.0, millicores),
        ("largestPod.memory", asked.largest_pod.memory.0, said.largest_pod.memory.0, bytes_words),
    ];
    for (place, (field, asked, said, text)) in together.into_iter().enumerate() {
        if asked <= said || excess.get(&place).is_some_and(|(most, _)| *most >= asked) {
            continue;
        }
        let name = &sample.name;
        let whose = if field.starts_with("largestPod") { "one pod asks" } else { "the manifests ask" };
        let problem = format!("is {}, but with {name} {whose} for {}, surge of updates included", text(said), text(asked));
        excess.insert(place, (asked, Finding { field: format!("spec.requests.{field}"), problem }));
    }
}
