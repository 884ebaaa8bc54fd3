//! What is refused of a class before it is written anywhere: it is rendered with its defaults, with the examples of its schema, with the
//! largest values of each of these and with those of each member of its enums, once without hostnames, and what comes out is looked at.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::id::{Incarnation, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use serde_json::{Value, json};

use crate::change::FirstMade;
use crate::class::Class;
use crate::finding::{Finding, Findings};
use crate::kinds;
use crate::pods;
use crate::render::{RenderError, try_render};
use crate::rendered::{Manifest, ObjectId, Rendered, StopStep};
use crate::services;
use crate::site::{Entry, Site};
use crate::sums::sum;
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
    written(class, &mut findings);
    let (mut excess, mut made) = (Excess::default(), FirstMade::default());
    for (index, sample) in samples.iter().enumerate() {
        match rendered(class, &sample.values) {
            Ok(rendered) => {
                references(class, &rendered, &mut findings);
                objects(&rendered, &mut findings);
                pods::check(class.template.pod_security, &rendered, &mut findings);
                requests(class, sample, &rendered, &mut excess, &mut findings);
                made.compare(&rendered, "values", &mut findings);
                if index == 0 {
                    without_hostnames(class, sample, &mut made, &mut findings);
                }
            }
            Err(error) => {
                findings.add(field_of(&error), error.to_string());
                // Each of the others would take as long, and be refused with it.
                if matches!(error, RenderError::TooLarge { .. } | RenderError::TooMuchWork { .. }) {
                    break;
                }
            }
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
    let too_much = schema.fill_defaults(&mut defaults).err();
    let (without, with) = (schema.violations(&nothing), schema.violations(&defaults));
    for wrong in with.iter().filter(|wrong| !without.contains(wrong)) {
        findings.add("spec.values", format!("the default of {} {}", wrong.field, wrong.problem));
    }
    if let Some(Finding { field, problem }) = &too_much {
        findings.add("spec.values", format!("the default of {field}: {problem}"));
    } else if with.is_empty() {
        samples.push(Sample { name: DEFAULTS.to_owned(), values: defaults });
    }
    let examples = schema.examples();
    if examples.len() > MAX_EXAMPLES {
        findings.add("spec.values", format!("gives {} examples of the whole, at most {MAX_EXAMPLES} are tried", examples.len()));
    }
    for (index, example) in examples.iter().take(MAX_EXAMPLES).enumerate() {
        let mut values = example.clone();
        if let Err(Finding { field, problem }) = schema.fill_defaults(&mut values) {
            findings.add("spec.values", format!("examples[{index}]: {field}: {problem}"));
            continue;
        }
        match schema.violations(&values).first() {
            Some(wrong) => findings.add("spec.values", format!("examples[{index}]: {} {}", wrong.field, wrong.problem)),
            None => samples.push(Sample { name: format!("examples[{index}] of its values"), values }),
        }
    }
    largest(class, &mut samples, findings);
    samples
}

/// Adds the largest values of each sample, and of each member of an enum. Where a number has no largest value, or one that its schema does not accept,
/// it stays as it is, and the others are as large as they may be all the same.
fn largest(class: &Class, samples: &mut Vec<Sample>, findings: &mut Findings) {
    let schema = &class.schema;
    let raised = |sample: &Sample| {
        let mut values = sample.values.clone();
        let name = if sample.name == DEFAULTS { LARGEST.to_owned() } else { format!("{} and {LARGEST}", sample.name) };
        if let Err(Finding { field, problem }) = schema.fill_maxima(&mut values) {
            findings.add("spec.values", format!("{name}: {field}: {problem}"));
        }
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

/// What is refused of the class as it is written, whatever its values are. Reading it does not: versions that are in use go on.
fn written(class: &Class, findings: &mut Findings) {
    for object in &class.objects {
        if let Some(why) = kinds::beyond(&object.api_version, &object.kind) {
            findings.add("spec.manifests", format!("{}: {}", object.file, kinds::refusal(&object.api_version, &object.kind, why)));
        }
    }
    for (index, cidr) in class.template.egress.iter().map(|egress| egress.cidr).enumerate() {
        if let Some(plain) = cidr.mapped() {
            findings.add(format!("spec.network.egress[{index}].cidr"), format!("{cidr} is a block of IPv4 addresses: write {plain}"));
        }
    }
}

/// A tenant need not have hostnames, and a cluster no way in.
fn without_hostnames(class: &Class, sample: &Sample, made: &mut FirstMade, findings: &mut Findings) {
    match tenant_of(class, &sample.values, Vec::new(), Entry::None) {
        Ok(rendered) => made.compare(&rendered, "hostnames", findings),
        Err(error) => findings.add(field_of(&error), format!("{error} (for a tenant without hostnames)")),
    }
}

/// A tenant of the class in a cluster that has everything.
pub(crate) fn rendered(class: &Class, values: &Value) -> Result<Rendered, RenderError> {
    let entry = Entry::Ingress { class: "any".to_owned(), from_namespace: "any".to_owned() };
    tenant_of(class, values, vec!["tenant.example".to_owned()], entry)
}

fn tenant_of(class: &Class, values: &Value, hostnames: Vec<String>, entry: Entry) -> Result<Rendered, RenderError> {
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
        hostnames,
        volumes,
        requests,
        removal_agreed: false,
    };
    let site = Site {
        cluster: "any".to_owned(),
        region: "any".to_owned(),
        storage: class.volumes.iter().map(|volume| (volume.storage.clone(), "any".to_owned())).collect(),
        entry,
        ..Site::default()
    };
    try_render(class, &tenant, &site)
}

/// The field of the class's document that an error is about.
fn field_of(error: &RenderError) -> &'static str {
    match error {
        RenderError::Values { .. } => "spec.values",
        RenderError::Local { .. } => "spec.local",
        RenderError::Expression { .. } | RenderError::Object { .. } | RenderError::TooLarge { .. } | RenderError::TooMuchWork { .. } => {
            "spec.manifests"
        }
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

/// What of the class's objects reaches beyond the tenant's namespace, or is made by itself.
fn objects(rendered: &Rendered, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for manifest in rendered.manifests() {
        let mut tell = |problem: &str| findings.add("spec.manifests", format!("{}: {problem}", manifest.id));
        if !seen.insert(&manifest.id) {
            tell("one of this name is made for the tenant by itself: give it another name");
        }
        let data = manifest.body.get("data").and_then(Value::as_object).filter(|_| manifest.id.kind == "ConfigMap");
        for (key, value) in data.into_iter().flatten().filter(|(_, value)| !value.is_string()) {
            tell(&format!("data.{key} is {value}, {}", pods::MUST_BE_TEXT));
        }
        if let Some(role) =
            bound(manifest).filter(|role| !rendered.manifests().any(|other| other.id.kind == "Role" && other.id.name == *role))
        {
            tell(&format!("binds Role/{role}, which is not among the manifests"));
        }
        if services::is_one(&manifest.id) {
            for problem in services::refusals(&manifest.body) {
                tell(&problem);
            }
        }
    }
}

/// The Role that a RoleBinding binds.
fn bound(manifest: &Manifest) -> Option<&str> {
    let role = manifest.body.get("roleRef").filter(|_| manifest.id.kind == "RoleBinding")?;
    (role.get("kind").and_then(Value::as_str) == Some("Role")).then(|| role.get("name").and_then(Value::as_str)).flatten()
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
