//! Changes from one version of a class to another that a cluster could never carry out: fields that the API server lets nobody change.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::check::{MAX_EXAMPLES, rendered, samples};
use crate::class::Class;
use crate::finding::{Finding, Findings};
use crate::rendered::Rendered;
use crate::units::bytes_words;

/// A field's path, and what it is if nothing is said.
type Field = (&'static str, Option<&'static str>);

/// Fields that the API server never lets anybody change, by kind, each with its default; a change of one answers 422 for ever. No rule
/// covers them: making the object anew would end what runs, and is the class's author's to decide, by another name.
const IMMUTABLE: [(&str, &[Field]); 6] = [
    ("Deployment", &[("/spec/selector", None)]),
    ("StatefulSet", &[("/spec/selector", None), ("/spec/serviceName", None), ("/spec/podManagementPolicy", Some("OrderedReady"))]),
    (
        "Job",
        &[("/spec/selector", None), ("/spec/template", None), ("/spec/completions", None), ("/spec/completionMode", Some("NonIndexed"))],
    ),
    ("Service", &[("/spec/clusterIP", None), ("/spec/ipFamilies", None)]),
    ("RoleBinding", &[("/roleRef", None)]),
    ("Secret", &[("/type", None)]),
];

/// What of `new` cannot be applied to tenants that have `old`. Both must pass [`crate::check`].
#[must_use]
pub fn check_change(old: &Class, new: &Class) -> Vec<Finding> {
    let mut findings = Findings::default();
    volumes(old, new, &mut findings);
    // A tenant keeps what was said of it, and has the defaults of its version. What only one of the two accepts is no tenant's.
    let said = std::iter::once(json!({})).chain(examples(old)).chain(examples(new));
    let mut tried = Vec::new();
    for said in said {
        let (Some(before), Some(after)) = (filled(old, &said), filled(new, &said)) else { continue };
        let pair = (before, after);
        if tried.contains(&pair) {
            continue;
        }
        if let (Ok(before), Ok(after)) = (rendered(old, &pair.0), rendered(new, &pair.1)) {
            objects(&before, &after, &mut findings);
        }
        tried.push(pair);
    }
    // Where neither accepts what the other gives as an example, each is tried with its own.
    if tried.is_empty()
        && let (Some(before), Some(after)) = (sample(old), sample(new))
    {
        objects(&before, &after, &mut findings);
    }
    let mut told = BTreeSet::new();
    findings.0.retain(|finding| told.insert(finding.clone()));
    findings.0
}

/// A class rendered with the first values that it is tried with.
fn sample(class: &Class) -> Option<Rendered> {
    let samples = samples(class, &mut Findings::default());
    rendered(class, &samples.first()?.values).ok()
}

/// Values that a class gives as examples of the whole.
fn examples(class: &Class) -> impl Iterator<Item = Value> {
    class.schema.examples().iter().take(MAX_EXAMPLES).cloned()
}

/// Values with a class's defaults; `None` if it does not accept them.
fn filled(class: &Class, said: &Value) -> Option<Value> {
    let mut values = said.clone();
    class.schema.fill_defaults(&mut values);
    class.schema.violations(&values).is_empty().then_some(values)
}

fn volumes(old: &Class, new: &Class, findings: &mut Findings) {
    for (index, volume) in new.volumes.iter().enumerate() {
        // A volume that is dropped is only detached, and a new one is made.
        let Some(before) = old.volumes.iter().find(|before| before.name == volume.name) else { continue };
        let field = format!("spec.volumes[{index}]");
        if before.storage != volume.storage {
            let (was, is) = (&before.storage, &volume.storage);
            findings.add(
                format!("{field}.storage"),
                format!("was `{was}` and would be `{is}`: a claim keeps its storage for good, so give the volume another name"),
            );
        }
        if volume.size < before.size {
            let (was, is) = (bytes_words(before.size.0), bytes_words(volume.size.0));
            findings.add(format!("{field}.size"), format!("was {was} and would be {is}: volumes never shrink"));
        }
        if volume.size > before.size && !before.grow {
            findings.add(format!("{field}.size"), "would be larger, and the volume cannot grow: `grow` is not set");
        }
    }
}

fn objects(old: &Rendered, new: &Rendered, findings: &mut Findings) {
    for after in new.manifests() {
        let Some(before) = old.manifests().find(|before| before.id == after.id) else { continue };
        let mut tell = |path: &str| {
            let field = path.trim_start_matches('/').replace('/', ".");
            let problem = format!("{}: {field} would change, which no cluster allows: give the object another name", after.id);
            findings.add("spec.manifests", problem);
        };
        let fields = IMMUTABLE.iter().find(|(kind, _)| *kind == after.id.kind).map_or(&[][..], |(_, fields)| fields);
        for (path, default) in fields {
            if value(&before.body, path, *default) != value(&after.body, path, *default) {
                tell(path);
            }
        }
        if before.body.get("immutable") == Some(&Value::Bool(true)) {
            for path in ["/data", "/binaryData", "/immutable"] {
                if before.body.pointer(path) != after.body.pointer(path) {
                    tell(path);
                }
            }
        }
    }
}

fn value(body: &Value, path: &str, default: Option<&str>) -> Option<Value> {
    body.pointer(path).cloned().or_else(|| default.map(Value::from))
}
