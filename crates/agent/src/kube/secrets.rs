//! Secrets: what is kept of them in memory (type and hashes), how one is generated, and which pods are to be restarted when one changes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rand::distr::{Alphanumeric, SampleString};
use roadstead_class::{Rendered, SecretPlan, SecretSource};
use serde_json::{Value, json};

/// Key to hash of its value.
pub(super) type Hashes = BTreeMap<String, String>;

/// The annotation of a pod template that changes with the secrets it uses.
pub(super) const RESTART_ANNOTATION: &str = "roadstead.dev/secrets";
/// The type of a Secret that says nothing of it.
pub(super) const OPAQUE: &str = "Opaque";
/// The type of a token of an account: it is good where the account is, and the API server takes none without one.
pub(super) const ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
/// Bytes of a hash that are kept: enough to tell two values apart, too few to say anything about one.
const HASH_BYTES: usize = 8;

fn hash(bytes: &[u8]) -> String {
    let hash = blake3::hash(bytes);
    hash.as_bytes()[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is kept of a Secret: its type, and hashes of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SlimSecret {
    pub(super) of_type: Box<str>,
    pub(super) hashes: Hashes,
}

impl SlimSecret {
    /// Of one with this type and these hashes.
    pub(super) fn new(of_type: Option<&str>, hashes: Hashes) -> Self {
        Self { of_type: of_type.unwrap_or(OPAQUE).into(), hashes }
    }
}

/// Hashes of a Secret's `data`.
pub(super) fn hashes(data: &Value) -> Hashes {
    let values = data.as_object().into_iter().flatten();
    values.map(|(key, value)| (key.clone(), hash(value.as_str().unwrap_or_default().as_bytes()))).collect()
}

/// One hash over all of a secret.
pub(super) fn digest(hashes: &Hashes) -> String {
    hash(serde_json::to_string(hashes).unwrap_or_default().as_bytes())
}

/// The first key that is not there, of a secret that is generated.
pub(super) fn missing_key<'a>(plan: &'a SecretPlan, hashes: &Hashes) -> Option<&'a str> {
    match &plan.source {
        SecretSource::Generate { keys } => keys.keys().find(|key| !hashes.contains_key(*key)).map(String::as_str),
        SecretSource::Copy { .. } => None,
    }
}

/// New data: each key a random text.
pub(super) fn generate(keys: &BTreeMap<String, u32>) -> Value {
    let text = |length: u32| Alphanumeric.sample_string(&mut rand::rng(), length as usize);
    let data: BTreeMap<&str, ByteString> =
        keys.iter().map(|(key, length)| (key.as_str(), ByteString(text(*length).into_bytes()))).collect();
    json!(data)
}

/// A plan's Secret with data, and with the type of its original if it has one.
pub(super) fn body(plan: &SecretPlan, data: Value, of_type: Option<&str>) -> Value {
    let mut body = plan.manifest.body.clone();
    if let Some(object) = body.as_object_mut() {
        object.insert("data".to_owned(), data);
        object.extend(of_type.map(|of_type| ("type".to_owned(), of_type.into())));
    }
    body
}

/// Why a secret cannot be copied that is not there.
pub(super) fn no_original(from: &str, copy: &str) -> String {
    format!("the secret `{from}`, which `{copy}` is copied from, is not in the template namespace")
}

/// Why a secret of this type is not copied, if it is not.
pub(super) fn not_copied(from: &str, of_type: &str) -> Option<String> {
    let why = || format!("the secret `{from}` is a token of an account, which is good where that account is: it is not copied");
    (of_type == ACCOUNT_TOKEN).then(why)
}

/// A workload as it is to be: with a hash of the secrets on whose change its pods are restarted, if it uses any.
pub(super) fn with_restarts<'a>(workload: &'a Value, rendered: &Rendered, hashes: &dyn Fn(&str) -> Option<Hashes>) -> Cow<'a, Value> {
    let template = &workload["spec"]["template"];
    // A Job's template cannot change, and its pods are not restarted.
    if template.is_null() || workload["kind"] == "Job" {
        return Cow::Borrowed(workload);
    }
    let used = rendered.secrets.iter().filter(|plan| plan.restart_on_change && uses(&template["spec"], &plan.manifest.id.name));
    let used: Hashes = used
        .map(|plan| &plan.manifest.id.name)
        .map(|name| (name.clone(), hashes(name).map_or_else(String::new, |hashes| digest(&hashes))))
        .collect();
    if used.is_empty() {
        return Cow::Borrowed(workload);
    }
    let mut workload = workload.clone();
    workload["spec"]["template"]["metadata"]["annotations"][RESTART_ANNOTATION] = digest(&used).into();
    Cow::Owned(workload)
}

/// Whether a pod uses a secret: as a volume, or in its environment.
fn uses(value: &Value, secret: &str) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(name, value)| match name.as_str() {
            "secretName" => value == secret,
            "secretRef" | "secretKeyRef" | "secret" if value["name"] == secret => true,
            _ => uses(value, secret),
        }),
        Value::Array(items) => items.iter().any(|item| uses(item, secret)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_has_random_texts_of_the_lengths_asked_for() {
        let keys = BTreeMap::from([("password".to_owned(), 32), ("pin".to_owned(), 6)]);
        let (one, other) = (generate(&keys), generate(&keys));
        assert_ne!(one, other);
        let text: ByteString = serde_json::from_value(one["password"].clone()).unwrap();
        assert_eq!(text.0.len(), 32);
        assert!(text.0.iter().all(u8::is_ascii_alphanumeric));
    }

    #[test]
    fn a_secret_is_used_by_volume_and_by_environment() {
        assert!(uses(&json!({"volumes": [{"name": "v", "secret": {"secretName": "db"}}]}), "db"));
        assert!(uses(&json!({"containers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}), "db"));
        assert!(uses(&json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "db", "key": "k"}}}]}]}), "db"));
        assert!(uses(&json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}), "db"));
        assert!(!uses(&json!({"containers": [{"name": "db", "image": "db"}]}), "db"));
    }
}
