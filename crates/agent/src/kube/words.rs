//! Errors of an API server in plain words, and whether they are worth another try.

use std::time::Duration;

use kube::core::Status;

use crate::interpreter::Failed;

/// How long one request may take.
pub(super) const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// When to come again where an API server that has too many requests does not say: as it says itself.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// The longest message that is passed on, in bytes: the placement service keeps less.
const MAX_MESSAGE_BYTES: usize = 600;

/// What an API server says while a quota that was made just now has no use yet.
const QUOTA_UNCOUNTED: &str = "status unknown for quota";

/// Fields that cannot change once an object is there, and what is to be done about it.
const IMMUTABLE: &[(&str, &str)] = &[
    (
        "StatefulSet",
        "a StatefulSet can only change replicas, template, updateStrategy, ordinals, minReadySeconds and its claims' retention; delete it with `kubectl delete --cascade=orphan` and it is made anew around its pods and volumes, or give it another name",
    ),
    (
        "Job",
        "a Job's pods cannot change once it is there; give the new Job another name, with the class's version in it say, or delete the old one",
    ),
    ("Deployment", "its selector cannot change; give the new Deployment another name"),
    ("DaemonSet", "its selector cannot change; give the new DaemonSet another name"),
    ("Service", "its clusterIP cannot change; leave it out, or give the Service another name"),
    ("RoleBinding", "the role that it refers to cannot change; give the new RoleBinding another name"),
    ("PersistentVolumeClaim", "a claim can only grow, if its StorageClass allows that"),
    ("ConfigMap", "it is marked immutable; give the new ConfigMap another name"),
    ("Secret", "its type cannot change, nor anything if it is marked immutable; give the new Secret another name"),
];

/// What became of a request about `what` (as in `Deployment/web`).
pub(super) fn failed(error: kube::Error, what: &str) -> Failed {
    match error {
        kube::Error::Api(status) => refused(&status, what),
        kube::Error::SerdeError(error) => Failed::Refused(format!("{what}: the answer cannot be read: {error}")),
        error => Failed::Later { why: format!("{what}: the API server cannot be reached: {}", chain(&error)), after: None },
    }
}

/// Nothing was heard in time.
pub(super) fn late(what: &str) -> Failed {
    Failed::Later { why: format!("{what}: the API server did not answer within {} s", REQUEST_WITHIN.as_secs()), after: None }
}

/// What is to be looked at again.
pub(super) fn again(why: impl Into<String>) -> Failed {
    Failed::Later { why: why.into(), after: None }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        source = error.source();
    }
    text
}

fn refused(status: &Status, what: &str) -> Failed {
    let message = short(&status.message);
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    let after = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    let after = after.map(|seconds| Duration::from_secs(seconds.into()));
    match status.code {
        429 => Failed::TooMany { why: format!("{what}: the API server has too many requests"), after: after.unwrap_or(COME_AGAIN) },
        403 if causes().any(|cause| cause.reason == "NamespaceTerminating") => again(format!("{what}: its namespace is being deleted")),
        // Whatever code whoever refused it gave: a policy's own is 422, a webhook's 400. One of 5xx is the webhook's own trouble.
        400..500 if by_admission(message) => Failed::Refused(format!("{what}: admission refused it: {message}")),
        // A quota counts what is there once its controller has looked at it; until then nothing that it bounds is let in.
        403 if message.contains(QUOTA_UNCOUNTED) => {
            again(format!("{what}: the quota's use is still being counted: {}", after_colon(message, QUOTA_UNCOUNTED)))
        }
        403 if message.contains("exceeded quota") => {
            Failed::Refused(format!("{what}: the quota does not allow it: {}", after_colon(message, "exceeded quota")))
        }
        403 if message.contains("not yet ready to handle request") => again(format!("{what}: the API server is not ready yet: {message}")),
        403 if message.contains("must support resize") => Failed::Refused(format!(
            "{what} cannot grow: its StorageClass does not allow it (allowVolumeExpansion), or it was not provisioned by it: {message}"
        )),
        403 if message.contains("Only bound persistent volume claims") => again(format!("{what} grows once it is bound to a volume")),
        422 if message.contains("for bound claims") => again(format!("{what} grows once it is bound to a volume")),
        400 | 403 if message.contains("admission webhook") => Failed::Refused(format!("{what}: admission refused it: {message}")),
        403 if message.contains("denied") => Failed::Refused(format!("{what}: admission refused it: {message}")),
        403 if message.contains(" cannot ") => {
            Failed::Refused(format!("{what}: the agent has not the right to do this (`roadstead join` again with all classes): {message}"))
        }
        401 => Failed::Refused(format!(
            "{what}: the API server does not accept the agent's token or certificate: it has expired, or was taken back; a renewed one is read anew from \
             its file within a minute, otherwise give the agent another (in a cluster: restart its pods)"
        )),
        403 => Failed::Refused(format!("{what}: it is forbidden: {message}")),
        404 if message.contains("namespaces") => again(format!("{what}: its namespace is not there")),
        404 => again(format!("{what}: it is not there, or the cluster does not serve its kind")),
        409 if status.reason == "AlreadyExists" => again(format!("{what}: it is there already")),
        409 => again(format!("{what}: it changed meanwhile: {message}")),
        422 => Failed::Refused(invalid(message, what)),
        400 | 405 | 406 | 413 | 415 => Failed::Refused(format!("{what}: the API server does not take it: {message}")),
        // This is how server-side apply refuses a field that is not in the schema.
        500 if message.contains("failed to create typed patch object") => {
            Failed::Refused(format!("{what}: the API server does not take it: {message}"))
        }
        500 if message.contains("failed calling webhook") => Failed::Later { why: format!("{what}: {message}"), after },
        code => Failed::Later { why: format!("{what}: the API server answers {code}: {message}"), after },
    }
}

/// Whether a policy or a webhook of the cluster refused it.
fn by_admission(message: &str) -> bool {
    let by_policy = message.contains("ValidatingAdmissionPolicy '") && message.contains(" denied request: ");
    by_policy || (message.contains("admission webhook \"") && message.contains(" denied the request"))
}

fn invalid(message: &str, what: &str) -> String {
    let fixed = message.contains("immutable")
        || message.contains("updates to statefulset spec")
        || message.contains("may not change")
        || message.contains("cannot change");
    let kind = what.split('/').next().unwrap_or_default();
    match IMMUTABLE.iter().find(|(known, _)| fixed && *known == kind) {
        Some((_, advice)) => format!("{what} cannot be changed as the class wants: {advice} ({message})"),
        None => format!("{what}: the API server does not take it: {message}"),
    }
}

/// From where a text begins within a message.
fn after_colon<'a>(message: &'a str, text: &str) -> &'a str {
    message.find(text).map_or(message, |at| &message[at..])
}

fn short(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Who else owns fields that we want to write, and which: of a conflict of server-side apply. Empty if it is another one.
pub(super) fn conflicts(status: &Status) -> Vec<(String, String)> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let ours = causes.filter(|cause| cause.reason == "FieldManagerConflict");
    ours.map(|cause| (cause.message.split('"').nth(1).unwrap_or_default().to_owned(), cause.field.trim_start_matches('.').to_owned()))
        .collect()
}

/// What is said of fields that others own.
pub(super) fn owned_by_others(what: &str, others: &[(String, String)]) -> String {
    let fields: Vec<String> = others.iter().take(3).map(|(manager, field)| format!("{field} is owned by `{manager}`")).collect();
    let more = if others.len() > 3 { format!(" and {} more", others.len() - 3) } else { String::new() };
    let fields = fields.join(", ");
    format!("{what}: {fields}{more}; cede the field in the class (`cede: [{what}:{}]`), or let its owner give it up", others[0].1)
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn status(code: u16, message: &str) -> Status {
        Status::failure(message, "").with_code(code)
    }

    fn cause(reason: &str, message: &str, field: &str) -> Status {
        let cause = StatusCause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![cause],
            retry_after_seconds: 0,
        };
        status(403, "forbidden").with_details(details)
    }

    #[test]
    fn what_may_work_later_is_told_apart_from_what_is_refused() {
        let later = |status: &Status| matches!(refused(status, "Deployment/web"), Failed::Later { .. });
        assert!(matches!(refused(&status(429, ""), "Deployment/web"), Failed::TooMany { after: COME_AGAIN, .. }));
        assert!(later(&status(500, "etcdserver: request timed out")));
        assert!(later(&status(503, "")));
        assert!(later(&cause("NamespaceTerminating", "", "")));
        assert!(!later(&status(403, "exceeded quota: q, requested: pods=1")));
        assert!(!later(&status(422, "spec.selector: field is immutable")));
    }

    #[test]
    fn a_quota_whose_use_is_not_counted_yet_is_waited_for() {
        let message = "persistentvolumeclaims \"data\" is forbidden: status unknown for quota: bounds, resources: requests.storage";
        let why = "PersistentVolumeClaim/data: the quota's use is still being counted: status unknown for quota: bounds, resources: requests.storage";
        let waits = Failed::Later { why: why.to_owned(), after: None };
        assert_eq!(refused(&status(403, message), "PersistentVolumeClaim/data"), waits);
        let message = "pods \"web\" is forbidden: exceeded quota: bounds, requested: pods=1, used: pods=2, limited: pods=2";
        let why = "Pod/web: the quota does not allow it: exceeded quota: bounds, requested: pods=1, used: pods=2, limited: pods=2";
        assert_eq!(refused(&status(403, message), "Pod/web"), Failed::Refused(why.to_owned()));
    }

    #[test]
    fn an_api_server_that_has_just_started_is_waited_for() {
        let message = "configmaps \"settings\" is forbidden: not yet ready to handle request";
        let why = format!("ConfigMap/settings: the API server is not ready yet: {message}");
        assert_eq!(refused(&status(403, message), "ConfigMap/settings"), Failed::Later { why, after: None });
    }

    #[test]
    fn what_admission_refused_is_told_as_that_whatever_its_code() {
        let policy =
            "jobs.batch \"m\" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'images' denied request: an image is immutable";
        let webhook = "admission webhook \"images.example\" denied the request: an image is immutable";
        for (message, codes) in [(policy, [401, 403, 413, 422]), (webhook, [400, 403, 409, 422])] {
            for code in codes {
                let why = format!("Job/m: admission refused it: {message}");
                assert_eq!(refused(&status(code, message), "Job/m"), Failed::Refused(why), "{code}");
            }
        }
        let dry = "admission webhook \"images.example\" does not support dry run";
        assert_eq!(refused(&status(400, dry), "Job/m"), Failed::Refused(format!("Job/m: admission refused it: {dry}")));
        for broken in [webhook, "failed calling webhook \"images.example\": connection refused"] {
            assert!(matches!(refused(&status(500, broken), "Job/m"), Failed::Later { .. }), "{broken}");
        }
    }

    #[test]
    fn an_immutable_field_comes_with_what_to_do() {
        let Failed::Refused(why) = refused(&status(422, "Job.batch \"m\" is invalid: spec.template: field is immutable"), "Job/m") else {
            panic!()
        };
        assert!(why.starts_with("Job/m cannot be changed as the class wants: a Job's pods cannot change"), "{why}");
        assert!(why.contains("spec.template"), "{why}");
    }

    #[test]
    fn a_conflict_names_manager_and_field() {
        let others = conflicts(&cause("FieldManagerConflict", "conflict with \"argocd\" using apps/v1", ".spec.replicas"));
        assert_eq!(others, [("argocd".to_owned(), "spec.replicas".to_owned())]);
        let told = owned_by_others("Deployment/web", &others);
        assert!(told.starts_with("Deployment/web: spec.replicas is owned by `argocd`"), "{told}");
    }
}
