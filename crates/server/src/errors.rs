//! Refusals and failures as a caller meets them: `google.rpc.Status` with an `ErrorInfo` and whatever else helps to mend the call.
//!
//! A [`Fault`] is made where something is refused and becomes a [`tonic::Status`] (or, in a stream, a `PlaceError`) at the edge. It knows
//! the words, not the transport.

use std::time::Duration;

use roadstead_api::v1;
use roadstead_core::command::{Kind, Rejection};
use roadstead_core::id::ClusterId;
use roadstead_core::schedule;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "roadstead.dev";
/// Field violations reported at a time. With the lengths below, a status stays within the 8 KiB that gRPC peers take as trailers.
pub const MAX_VIOLATIONS: usize = 12;
/// Characters of a message.
const MAX_MESSAGE_CHARS: usize = 600;
/// Characters of a field's path, and of what is wrong with it.
const MAX_VIOLATION_CHARS: [usize; 2] = [120, 240];
/// When to ask again after an answer that says "unknown", "not available" or "changed meanwhile": about one election.
pub const RETRY_SOON: Duration = Duration::from_millis(250);
/// When to ask again while agents report after a restore.
pub const RETRY_FENCED: Duration = Duration::from_secs(5);
/// When to ask again while too many tenants wait for room.
pub const RETRY_FULL: Duration = Duration::from_secs(30);

/// One field that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in `spec.constraints.labels[0].operator`.
    pub field: String,
    /// What was wrong, and what is allowed.
    pub problem: String,
}

/// Why a call was not answered as asked.
#[derive(Clone, Debug)]
pub struct Fault(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
    detail: Detail,
    retry: Option<Duration>,
}

/// What is told beside `ErrorInfo` and `RetryInfo`.
#[derive(Clone, Debug)]
enum Detail {
    None,
    Fields(Vec<Violation>),
    Precondition { kind: &'static str, subject: String },
    Quota { subject: String },
    Resource { kind: String, name: String },
}

impl Fault {
    /// A fault with nothing but its code, its machine-readable reason and its words.
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, reason, message: message.into(), metadata: Vec::new(), detail: Detail::None, retry: None }))
    }

    /// One field has a value that is not allowed.
    #[must_use]
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::fields(vec![Violation { field: field.into(), problem: problem.into() }])
    }

    /// Several fields have values that are not allowed.
    #[must_use]
    pub fn fields(violations: Vec<Violation>) -> Self {
        let message = match &violations[..] {
            [one] => format!("{}: {}", one.field, one.problem),
            [first, ..] => format!("{} fields are not valid, the first is {}: {}", violations.len(), first.field, first.problem),
            [] => "the request is not valid".to_owned(),
        };
        let mut fault = Self::new(Code::InvalidArgument, "INVALID_FIELD", message);
        fault.0.detail = Detail::Fields(violations);
        fault
    }

    /// No such thing.
    #[must_use]
    pub fn not_found(kind: Kind, name: &str) -> Self {
        rejected(&Rejection::NotFound { kind, name: name.to_owned() }, &|_| String::new())
    }

    /// Too much is going on; ask again later.
    #[must_use]
    pub fn overloaded(message: impl Into<String>, retry: Duration) -> Self {
        Self::new(Code::ResourceExhausted, "OVERLOADED", message).retry(retry)
    }

    /// Not able to answer at the moment; ask again.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, "UNAVAILABLE", message).retry(RETRY_SOON)
    }

    /// A bug, or something that should never be.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// Adds a machine-readable fact.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.0.metadata.push((key, value.to_string()));
        self
    }

    /// Says it in other words.
    #[must_use]
    pub fn saying(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Says when asking again makes sense.
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.0.retry = Some(after);
        self
    }

    fn detail(mut self, detail: Detail) -> Self {
        self.0.detail = detail;
        self
    }

    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// What went wrong, in plain words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The form that fits into a stream of answers.
    #[must_use]
    pub fn into_place_error(self) -> v1::place_tenants_response::PlaceError {
        let retry_after_ms = self.0.retry.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
        v1::place_tenants_response::PlaceError {
            code: self.0.code as i32,
            message: self.0.message,
            reason: self.0.reason.to_owned(),
            retry_after_ms,
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let Inner { code, reason, message, metadata, detail, retry } = *fault.0;
        let message = shortened(message, MAX_MESSAGE_CHARS);
        let mut details = ErrorDetails::new();
        let metadata: std::collections::HashMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.set_error_info(reason, DOMAIN, metadata);
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        match detail {
            Detail::None => {}
            Detail::Fields(violations) => {
                for Violation { field, problem } in violations.into_iter().take(MAX_VIOLATIONS) {
                    let [path, words] = MAX_VIOLATION_CHARS;
                    details.add_bad_request_violation(shortened(field, path), shortened(problem, words));
                }
            }
            Detail::Precondition { kind, subject } => {
                details.add_precondition_failure_violation(kind, subject, message.clone());
            }
            Detail::Quota { subject } => {
                details.add_quota_failure_violation(subject, message.clone());
            }
            Detail::Resource { kind, name } => {
                details.set_resource_info(kind, name, "", message.clone());
            }
        }
        Status::with_error_details(code, message, details)
    }
}

/// What the transport refused by itself: a message that is too large, that cannot be decoded, that is compressed in an unknown way.
#[must_use]
pub fn wire(status: &Status) -> Fault {
    let words = status.message().to_owned();
    match status.code() {
        Code::OutOfRange => Fault::new(Code::InvalidArgument, "MESSAGE_TOO_LARGE", words),
        Code::Internal | Code::InvalidArgument => Fault::new(Code::InvalidArgument, "MALFORMED_MESSAGE", words),
        code => Fault::new(code, "TRANSPORT", words),
    }
}

fn shortened(text: String, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text,
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

/// A rejection of the core as a fault; `cluster_name` puts names to the numbers in its reason.
#[must_use]
pub fn rejected(rejection: &Rejection, cluster_name: &dyn Fn(ClusterId) -> String) -> Fault {
    let words = rejection.to_string();
    match rejection {
        Rejection::Stale => Fault::new(Code::Aborted, "OVERTAKEN", words).retry(RETRY_SOON),
        Rejection::NotFound { kind, name } => {
            Fault::new(Code::NotFound, "NOT_FOUND", words).with("kind", kind).with("name", name).detail(resource(*kind, name))
        }
        Rejection::AlreadyExists { kind, name } => {
            Fault::new(Code::AlreadyExists, "ALREADY_EXISTS", words).with("kind", kind).with("name", name).detail(resource(*kind, name))
        }
        Rejection::Conflict { kind, name, expected, actual } => Fault::new(Code::Aborted, "REVISION_CONFLICT", words)
            .with("kind", kind)
            .with("name", name)
            .with("expected_revision", expected)
            .with("actual_revision", actual)
            .detail(Detail::Precondition { kind: "REVISION", subject: format!("{kind}/{name}") }),
        Rejection::RequestIdReused => Fault::new(Code::InvalidArgument, "REQUEST_ID_REUSED", words.clone())
            .detail(Detail::Fields(vec![Violation { field: "request_id".to_owned(), problem: words }])),
        Rejection::RequestIdExpired { window_secs } => Fault::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", words)
            .with("window_seconds", window_secs)
            .detail(Detail::Precondition { kind: "REQUEST_ID", subject: "request_id".to_owned() }),
        Rejection::Unplaceable { reason } => {
            let why = schedule::describe_reason(reason, cluster_name);
            Fault::new(Code::FailedPrecondition, "UNPLACEABLE", why)
                .detail(Detail::Precondition { kind: "ROOM", subject: "fleet".to_owned() })
        }
        Rejection::PendingFull { max } => Fault::new(Code::ResourceExhausted, "PENDING_FULL", words)
            .with("max_pending", max)
            .retry(RETRY_FULL)
            .detail(Detail::Quota { subject: "fleet:pending".to_owned() }),
        Rejection::QuotaExceeded { owner, what, limit, wanted } => Fault::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", words)
            .with("owner", owner)
            .with("resource", what)
            .with("limit", limit)
            .with("wanted", wanted)
            .detail(Detail::Quota { subject: format!("owner:{owner}") }),
        Rejection::Invalid { field, problem } => Fault::invalid(field.clone(), problem.clone()),
        Rejection::InUse { kind, name, .. } => Fault::new(Code::FailedPrecondition, "IN_USE", words)
            .with("kind", kind)
            .with("name", name)
            .detail(Detail::Precondition { kind: "IN_USE", subject: format!("{kind}/{name}") }),
        Rejection::Fenced { waiting } => {
            Fault::new(Code::Unavailable, "FENCED", words).with("waiting_clusters", waiting).retry(RETRY_FENCED)
        }
        Rejection::Broken { .. } => Fault::new(Code::Internal, "BROKEN_INVARIANT", words),
    }
}

fn resource(kind: Kind, name: &str) -> Detail {
    Detail::Resource { kind: format!("{DOMAIN}/{kind}"), name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use roadstead_core::id::Revision;

    use super::*;

    #[test]
    fn a_conflict_tells_both_revisions_and_the_thing() {
        let rejection = Rejection::Conflict {
            kind: Kind::Tenant,
            name: "acme".into(),
            expected: Revision::default(),
            actual: Revision { index: 9, ..Revision::default() },
        };
        let status = Status::from(rejected(&rejection, &|_| String::new()));
        assert_eq!(status.code(), Code::Aborted);
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has an ErrorInfo");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (DOMAIN, "REVISION_CONFLICT"));
        assert_eq!(info.metadata["actual_revision"], "0.9");
        assert_eq!(details.precondition_failure().expect("a precondition").violations[0].subject, "tenant/acme");
    }

    #[test]
    fn what_may_be_asked_again_says_when() {
        for fault in [
            Fault::overloaded("busy", RETRY_SOON),
            Fault::unavailable("no leader"),
            rejected(&Rejection::Fenced { waiting: 3 }, &|_| String::new()),
        ] {
            assert!(Status::from(fault).get_error_details().retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
        }
    }

    #[test]
    fn a_status_stays_within_the_size_of_trailers() {
        let violations = (0..100).map(|n| Violation { field: format!("spec.values[{n}]"), problem: "x".repeat(4000) }).collect();
        let status = Status::from(Fault::fields(violations));
        assert!(status.details().len() < 6 << 10, "{} bytes", status.details().len());
    }
}
