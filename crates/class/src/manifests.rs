//! A class's manifests: YAML to trees, and what no tree may hold whatever the values are.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::expression;
use crate::finding::Findings;
use crate::kinds::{self, RULES, Verdict};
use crate::template::File;

/// Objects of one class. A tenant has a dozen; the API server is shared by a thousand of them.
pub const MAX_OBJECTS: usize = 128;
/// The account that a tenant's pods run under unless the class names one; it has no rights and no token.
pub(crate) const ACCOUNT: &str = "tenant";
/// The ConfigMap in a tenant's namespace in which its agent writes down what it made.
pub const RECORD: &str = "roadstead-record";
/// Nesting of one object; Kubernetes' own kinds stay below 20.
pub const MAX_DEPTH: usize = 40;
/// Values in all objects of one class together.
pub const MAX_NODES: usize = 100_000;
/// Problems of one Role that are told.
const MAX_PROBLEMS: usize = 64;
/// The only metadata that a class writes; the rest belongs to the API server and to us.
const METADATA: [&str; 3] = ["name", "labels", "annotations"];
/// The beginning of labels and annotations that are ours.
pub(crate) const OURS: &str = "roadstead.dev/";

/// One object as the class has it, expressions included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Object {
    /// File that it is from.
    pub(crate) file: String,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Its place in the order in which objects are made.
    pub(crate) order: u8,
    pub(crate) body: Value,
}

/// Reads all files.
pub(crate) fn parse(files: &[File], findings: &mut Findings) -> Vec<Object> {
    let (mut objects, mut nodes) = (Vec::new(), 0);
    for file in files {
        let at = format!("{}: ", file.file);
        let documents = match read(&file.content) {
            Ok(documents) => documents,
            Err(problem) => {
                findings.add("spec.manifests", format!("{at}{problem}"));
                continue;
            }
        };
        for body in documents.into_iter().filter(|body| !body.is_null()) {
            if objects.len() == MAX_OBJECTS {
                findings.add("spec.manifests", format!("hold more than {MAX_OBJECTS} objects"));
                return objects;
            }
            if !count(&body, MAX_DEPTH, &mut nodes) {
                findings.add("spec.manifests", format!("{at}is nested deeper than {MAX_DEPTH}, or there are more than {MAX_NODES} values"));
                return objects;
            }
            match object(file, body) {
                Ok(object) => {
                    for problem in problems(&object.kind, &object.body) {
                        findings.add("spec.manifests", format!("{at}{}: {problem}", named(&object)));
                    }
                    objects.push(object);
                }
                Err(problem) => findings.add("spec.manifests", format!("{at}{problem}")),
            }
        }
    }
    let engine = expression::engine(1);
    for object in &objects {
        let mut check = |path: &str, text: &str| {
            if let Err(wrong) = expression::check(&engine, text) {
                let message = format!("{}: {}: {path}: {}: {}", object.file, named(object), wrong.expression, wrong.problem);
                findings.add("spec.manifests", message);
            }
        };
        scalars(&object.body, &mut String::new(), &mut check);
    }
    // The order in which they are made; what is equal keeps the order of the files.
    objects.sort_by_key(|object| object.order);
    objects
}

fn read(content: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_OBJECTS * 2,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 2,
            max_depth: MAX_DEPTH,
        },
        strict_booleans: true,
        // As kubectl reads `defaultMode: 0644`.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(content, options).map_err(|error| {
        let text = error.to_string();
        let hint = expression::unquoted(content).map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("is no YAML: {}{hint}", text.lines().next().unwrap_or_default())
    })
}

/// Counts values; whether depth and number are within the limits.
fn count(value: &Value, depth: usize, nodes: &mut usize) -> bool {
    *nodes += 1;
    let Some(depth) = depth.checked_sub(1).filter(|_| *nodes <= MAX_NODES) else { return false };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| count(item, depth, nodes)),
        Value::Object(fields) => fields.values().all(|field| count(field, depth, nodes)),
    }
}

/// Calls `visit` with path and text of every scalar that is text.
pub(crate) fn scalars(value: &Value, path: &mut String, visit: &mut impl FnMut(&str, &str)) {
    let length = path.len();
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => visit(path, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                scalars(item, path, visit);
                path.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                path.push_str(if length == 0 { "" } else { "." });
                path.push_str(name);
                scalars(field, path, visit);
                path.truncate(length);
            }
        }
    }
}

fn object(file: &File, body: Value) -> Result<Object, String> {
    let text = |field: &str| body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty() && !text.contains("{{"));
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err("holds a document without a plain apiVersion and kind".to_owned());
    };
    let order = match kinds::verdict(api_version, kind) {
        Verdict::Allowed(order) => order,
        Verdict::Refused(why) => return Err(kinds::refusal(api_version, kind, why)),
    };
    let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
    Ok(Object { file: file.file.clone(), api_version, kind, order, body })
}

/// As people name it: `Deployment/web`.
fn named(object: &Object) -> String {
    format!("{}/{}", object.kind, object.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?"))
}

/// What no object of a class may say, whether it is written there or comes from values.
pub(crate) fn problems(kind: &str, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let empty = Map::new();
    let metadata = body.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        found.push("needs a metadata.name".to_owned());
    }
    for field in metadata.keys().filter(|field| !METADATA.contains(&field.as_str())) {
        let why = if field == "namespace" { ": it is set to the tenant's" } else { "" };
        found.push(format!("metadata.{field} is not a class's to say{why}"));
    }
    for (field, map) in metadata.iter().filter(|(field, _)| *field != "name") {
        let keys = map.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| key.starts_with(OURS));
        found.extend(keys.map(|key| format!("metadata.{field}: {key} is not a class's to say")));
    }
    if body.get("status").is_some() {
        found.push("has a status, which is the cluster's to say".to_owned());
    }
    // Of the kinds that a class may bring these are made beside it; budgets give way to its own.
    match (kind, metadata.get("name").and_then(Value::as_str)) {
        ("ServiceAccount", Some(ACCOUNT)) => found.push(format!("the account {ACCOUNT} is made for every tenant")),
        ("ConfigMap", Some(RECORD)) => found.push("the agent writes down there what it made: give it another name".to_owned()),
        (_, Some(_) | None) => {}
    }
    if body.pointer("/spec/volumeClaimTemplates").is_some() {
        found.push(
            "spec.volumeClaimTemplates: declare volumes under spec.volumes of the class, so that their data moves with the tenant"
                .to_owned(),
        );
    }
    match kind {
        "Role" => role(body, &mut found),
        "RoleBinding" => binding(body, &mut found),
        _ => {}
    }
    if let Some(path) = kinds::pod_template(kind) {
        let volumes = at(body, path).and_then(|template| template.pointer("/spec/volumes")).and_then(Value::as_array);
        for volume in volumes.into_iter().flatten().filter(|volume| volume.get("ephemeral").is_some()) {
            let name = volume.get("name").and_then(Value::as_str).unwrap_or("?");
            found.push(format!("volume {name} would make a claim of its own: declare it under spec.volumes of the class, or use emptyDir"));
        }
    }
    found
}

/// The value at a path.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| value.get(step))
}

fn role(body: &Value, found: &mut Vec<String>) {
    // Each once: three long lists make very many rights.
    let list = |rule: &Value, field: &str| -> BTreeSet<String> {
        let items = rule.get(field).and_then(Value::as_array).into_iter().flatten();
        items.map(|item| item.as_str().unwrap_or("?").to_owned()).collect()
    };
    for (index, rule) in body.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let known = |field: &String| ["apiGroups", "resources", "verbs", "resourceNames"].contains(&field.as_str());
        if let Some(other) = rule.as_object().and_then(|rule| rule.keys().find(|field| !known(field))) {
            found.push(format!("rules[{index}].{other} is more than a tenant may have"));
        }
        let (groups, resources, verbs) = (list(rule, "apiGroups"), list(rule, "resources"), list(rule, "verbs"));
        // Every right names all three.
        if verbs.is_empty() {
            continue;
        }
        for (group, resource) in groups.iter().flat_map(|group| resources.iter().map(move |resource| (group, resource))) {
            for verb in &verbs {
                let allowed = RULES.iter().any(|(known, resources, verbs)| {
                    known == group && resources.contains(&resource.as_str()) && verbs.contains(&verb.as_str())
                });
                if !allowed {
                    let group = if group.is_empty() { "the core group" } else { group };
                    found.push(format!("rules[{index}]: {verb} on {resource} of {group} is more than a tenant may have"));
                }
                if found.len() >= MAX_PROBLEMS {
                    return;
                }
            }
        }
    }
}

fn binding(body: &Value, found: &mut Vec<String>) {
    let role = body.pointer("/roleRef/kind").and_then(Value::as_str);
    if role != Some("Role") {
        found.push(format!("roleRef: {} is not a Role of the tenant's own", role.unwrap_or("nothing")));
    }
    for (index, subject) in body.get("subjects").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if subject.get("kind").and_then(Value::as_str) != Some("ServiceAccount") || subject.get("namespace").is_some() {
            found.push(format!("subjects[{index}] is not a ServiceAccount of the tenant's own (its namespace is set)"));
        }
    }
}
