//! The rest of a class's document, typed: what `apply` puts into [`roadstead_core::class::ClassVersion::template`].

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::class::MAX_TEMPLATE_BYTES;
use roadstead_core::id::Name;
use roadstead_core::time::Millis;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cidr::Cidr;
use crate::finding::Findings;
use crate::rendered::{Ceded, Exec, Observe, SecretSource, StopStep};
use crate::units::span;

/// Entries of any one list of a class: secrets, egress rules, steps, ceded fields, processes.
pub const MAX_ENTRIES: usize = 64;
/// Characters of a secret's generated text, at least and at most.
pub const SECRET_CHARS: std::ops::RangeInclusive<u32> = 8..=1024;

/// Pod Security levels of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// Anything.
    Privileged,
    /// Known escalations are refused.
    Baseline,
    /// Hardened. What a class gets that names no level: forgetting it must not open anything.
    #[default]
    Restricted,
}

impl PodSecurity {
    /// As labels write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// One manifest file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Its path as the document gave it.
    pub(crate) file: String,
    /// YAML, one or several documents.
    pub(crate) content: String,
}

/// A secret.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Secret {
    pub(crate) name: Name,
    pub(crate) source: SecretSource,
    pub(crate) restart_on_change: bool,
}

/// What is reachable from outside.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expose {
    /// Name of a Service of the manifests.
    pub(crate) service: String,
    /// One of its ports.
    pub(crate) port: u16,
}

/// Where traffic may go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Egress {
    pub(crate) cidr: Cidr,
    /// None: all ports.
    pub(crate) ports: Vec<u16>,
    /// `TCP` or `UDP`.
    pub(crate) protocol: Protocol,
}

/// Of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A process of the local interpreter, with its expressions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Local {
    pub(crate) run: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// Everything of a class that the placement service does not count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Template {
    pub(crate) secrets: Vec<Secret>,
    pub(crate) expose: Option<Expose>,
    pub(crate) egress: Vec<Egress>,
    pub(crate) pod_security: PodSecurity,
    pub(crate) files: Vec<File>,
    pub(crate) ceded: Vec<Ceded>,
    pub(crate) ready_within: Option<Millis>,
    pub(crate) also: Vec<Observe>,
    pub(crate) stop: Vec<StopStep>,
    pub(crate) stop_within: Option<Millis>,
    pub(crate) local: BTreeMap<String, Local>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretDoc {
    name: String,
    copy: Option<String>,
    generate: Option<BTreeMap<String, u32>>,
    on_change: Option<OnChange>,
}

#[derive(PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnChange {
    Restart,
    Ignore,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NetworkDoc {
    expose: Option<Expose>,
    egress: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressDoc {
    cidr: String,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    protocol: Protocol,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ReadyDoc {
    within: Option<String>,
    also: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct QuiesceDoc {
    within: Option<String>,
    steps: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StepDoc {
    Scale(String),
    Exec(ExecDoc),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecDoc {
    #[serde(rename = "in")]
    target: String,
    run: Vec<String>,
    #[serde(default)]
    undo: Vec<String>,
}

impl Template {
    /// Reads a template; what cannot be read is noted and left out.
    pub(crate) fn parse(text: &str, findings: &mut Findings) -> Self {
        if text.len() > MAX_TEMPLATE_BYTES {
            findings.add("spec.manifests", format!("the template has {} bytes, at most {MAX_TEMPLATE_BYTES} are allowed", text.len()));
            return Self::default();
        }
        let fields: Map<String, Value> = match text {
            "" => Map::new(),
            text => match serde_json::from_str(text) {
                Ok(fields) => fields,
                Err(error) => {
                    findings.add("spec", format!("the template is no JSON object: {error}"));
                    return Self::default();
                }
            },
        };
        let mut template = Self::default();
        for (name, value) in fields {
            let field = format!("spec.{name}");
            match name.as_str() {
                _ if value.is_null() => {}
                "secrets" => template.secrets(&field, value, findings),
                "network" => template.network(&field, value, findings),
                "podSecurity" => template.pod_security = read(&field, value, findings).unwrap_or_default(),
                "manifests" => template.files = each(&field, value, findings, read),
                "cede" => template.ceded = each(&field, value, findings, ceded),
                "ready" => template.ready(&field, value, findings),
                "quiesce" => template.quiesce(&field, value, findings),
                "local" => template.local(&field, value, findings),
                _ => findings.add(field, "is not known here"),
            }
        }
        template
    }

    fn secrets(&mut self, field: &str, value: Value, findings: &mut Findings) {
        self.secrets = each(field, value, findings, secret);
        let mut names = BTreeSet::new();
        for secret in &self.secrets {
            if !names.insert(&secret.name) {
                findings.add(field, format!("{} is there twice", secret.name));
            }
        }
    }

    fn network(&mut self, field: &str, value: Value, findings: &mut Findings) {
        let network: NetworkDoc = read(field, value, findings).unwrap_or_default();
        if network.expose.as_ref().is_some_and(|expose| expose.port == 0) {
            findings.add(format!("{field}.expose.port"), "must be between 1 and 65535");
        }
        self.expose = network.expose;
        self.egress = each(&format!("{field}.egress"), Value::Array(network.egress), findings, egress);
    }

    fn ready(&mut self, field: &str, value: Value, findings: &mut Findings) {
        let ready: ReadyDoc = read(field, value, findings).unwrap_or_default();
        self.ready_within = within(field, ready.within, findings);
        let also = ready.also.into_iter().map(Value::String).collect();
        self.also = each(&format!("{field}.also"), Value::Array(also), findings, |field, value, findings| {
            let text: String = read(field, value, findings)?;
            let parts = text.split_once('=').filter(|(object, condition)| is_object(object) && !condition.is_empty());
            if parts.is_none() {
                findings.add(field, "must name an object and a condition, as in Job/migrate=Complete");
            }
            parts.map(|(object, condition)| Observe { object: object.to_owned(), condition: condition.to_owned() })
        });
    }

    fn quiesce(&mut self, field: &str, value: Value, findings: &mut Findings) {
        let quiesce: QuiesceDoc = read(field, value, findings).unwrap_or_default();
        self.stop_within = within(field, quiesce.within, findings);
        self.stop = each(&format!("{field}.steps"), Value::Array(quiesce.steps), findings, step);
    }

    fn local(&mut self, field: &str, value: Value, findings: &mut Findings) {
        let processes: Map<String, Value> = read(field, value, findings).unwrap_or_default();
        if processes.len() > MAX_ENTRIES {
            findings.add(field, format!("has {} entries, at most {MAX_ENTRIES} are allowed", processes.len()));
        }
        for (name, value) in processes.into_iter().take(MAX_ENTRIES) {
            let field = format!("{field}.{name}");
            if let Err(error) = Name::new(&name) {
                findings.add(&field, format!("the name {error}"));
            }
            let process: Local = read(&field, value, findings).unwrap_or_default();
            if process.run.is_empty() {
                findings.add(format!("{field}.run"), "must name a program and its arguments");
            }
            self.local.insert(name, process);
        }
    }
}

/// A value of a type, or a finding.
fn read<T: DeserializeOwned>(field: &str, value: Value, findings: &mut Findings) -> Option<T> {
    serde_json::from_value(value).map_err(|error| findings.add(field, error.to_string())).ok()
}

/// The entries of a list that could be read.
fn each<T>(field: &str, value: Value, findings: &mut Findings, mut one: impl FnMut(&str, Value, &mut Findings) -> Option<T>) -> Vec<T> {
    let Value::Array(values) = value else {
        findings.add(field, "must be a list");
        return Vec::new();
    };
    // Manifests have a limit of their own, for all objects together.
    if values.len() > MAX_ENTRIES && !field.ends_with("manifests") {
        findings.add(field, format!("has {} entries, at most {MAX_ENTRIES} are allowed", values.len()));
        return Vec::new();
    }
    let entries = values.into_iter().enumerate();
    entries.filter_map(|(index, value)| one(&format!("{field}[{index}]"), value, findings)).collect()
}

fn within(field: &str, text: Option<String>, findings: &mut Findings) -> Option<Millis> {
    let text = text?;
    let length = span(&text).filter(|length| length.0 > 0);
    if length.is_none() {
        findings.add(format!("{field}.within"), "must be a duration with its unit, as in 20s, 5m or 1h30m");
    }
    length
}

fn secret(field: &str, value: Value, findings: &mut Findings) -> Option<Secret> {
    let doc: SecretDoc = read(field, value, findings)?;
    let name = Name::new(&doc.name).map_err(|error| findings.add(format!("{field}.name"), error.to_string())).ok()?;
    let source = match (doc.copy, doc.generate) {
        (Some(from), None) => {
            Name::new(&from).map_err(|error| findings.add(format!("{field}.copy"), error.to_string())).ok()?;
            SecretSource::Copy { from }
        }
        (None, Some(keys)) => {
            if keys.is_empty() {
                findings.add(format!("{field}.generate"), "must name at least one key, as in {password: 32}");
            }
            for (key, chars) in &keys {
                let legal = !key.is_empty() && key.len() <= 253 && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                if !legal {
                    findings.add(format!("{field}.generate"), format!("{key:?} is no key: use letters, digits and any of - _ ."));
                }
                if !SECRET_CHARS.contains(chars) {
                    let (least, most) = (SECRET_CHARS.start(), SECRET_CHARS.end());
                    findings.add(format!("{field}.generate.{key}"), format!("has {chars} characters, {least} to {most} are allowed"));
                }
            }
            SecretSource::Generate { keys }
        }
        (None, None) | (Some(_), Some(_)) => {
            findings.add(field, "must say either `copy` (from the cluster's template namespace) or `generate`");
            return None;
        }
    };
    Some(Secret { name, source, restart_on_change: doc.on_change == Some(OnChange::Restart) })
}

fn egress(field: &str, value: Value, findings: &mut Findings) -> Option<Egress> {
    let doc: EgressDoc = read(field, value, findings)?;
    if doc.ports.contains(&0) {
        findings.add(format!("{field}.ports"), "must be between 1 and 65535");
    }
    let cidr = doc.cidr.parse().map_err(|problem: String| findings.add(format!("{field}.cidr"), problem)).ok()?;
    Some(Egress { cidr, ports: doc.ports, protocol: doc.protocol })
}

fn ceded(field: &str, value: Value, findings: &mut Findings) -> Option<Ceded> {
    let text: String = read(field, value, findings)?;
    let parts =
        text.split_once(':').filter(|(object, path)| is_object(object) && !path.is_empty() && path.split('.').all(|step| !step.is_empty()));
    match parts {
        Some((_, path)) if !path.starts_with("spec.") => {
            findings.add(field, "only fields of `spec` can be left to others");
            None
        }
        Some((object, path)) => Some(Ceded { object: object.to_owned(), path: path.split('.').map(str::to_owned).collect() }),
        None => {
            findings.add(field, "must name an object and a field of it, as in Deployment/web:spec.replicas");
            None
        }
    }
}

fn step(field: &str, value: Value, findings: &mut Findings) -> Option<StopStep> {
    let step = match read(field, value, findings)? {
        StepDoc::Scale(target) => StopStep::Scale(target),
        StepDoc::Exec(ExecDoc { target, run, undo }) => StopStep::Exec(Exec { target, run, undo }),
    };
    let target = match &step {
        StopStep::Scale(target) => target,
        StopStep::Exec(exec) => {
            if exec.run.is_empty() {
                findings.add(format!("{field}.exec.run"), "must name a program and its arguments");
            }
            &exec.target
        }
    };
    let scales = |kind: &str| matches!(kind, "Deployment" | "StatefulSet");
    if !target.split_once('/').is_some_and(|(kind, name)| scales(kind) && !name.is_empty()) {
        findings.add(field, format!("{target:?} is no Deployment and no StatefulSet: write it as in StatefulSet/db"));
    }
    Some(step)
}

/// Whether a text is as in `Deployment/web`.
fn is_object(text: &str) -> bool {
    text.split_once('/').is_some_and(|(kind, name)| {
        kind.starts_with(|c: char| c.is_ascii_uppercase()) && kind.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty()
    })
}
