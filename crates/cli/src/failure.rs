//! Why a command did not do what was asked: an exit code, plain words, and what to do next.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::document::files::BadInput;

/// Exit codes, as docs/cli.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Refused or failed.
    Failed = 1,
    /// Wrong usage or a bad document; nothing was changed.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// It exists already, or has changed meanwhile.
    Conflict = 4,
    /// No replica answered, or not in time.
    Unavailable = 5,
    /// The certificate does not allow it.
    Permission = 6,
    /// It was interrupted and has tidied up: as shells count SIGINT.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What failed, in plain words; empty if it was told already.
    pub message: String,
    /// What to do next.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without hints.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new() }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Anything that failed on this machine.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says which part of somebody's input it is about.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// After something was done: wrong usage would say that nothing was.
    #[must_use]
    pub fn after_changes(mut self) -> Self {
        if self.exit == Exit::Usage {
            self.exit = Exit::Failed;
        }
        self
    }

    /// What a server answered to `what`, decoded.
    #[must_use]
    pub fn from_status(what: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        // Whoever is no service of ours may say nothing.
        let said = if status.message().is_empty() { status.code().description() } else { status.message() };
        let mut failure = Self::new(exit_of(status.code()), format!("{what}: {said}"));
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        if let [one] = violations
            && status.message().contains(&one.description)
        {
            // The message says it already.
        } else {
            for violation in violations {
                failure.message.push_str(&format!("\n  {}: {}", violation.field, violation.description));
            }
        }
        let info = details.error_info();
        let reason = info.map(|info| info.reason.as_str()).unwrap_or_default();
        let kind = info.and_then(|info| info.metadata.get("kind")).map(String::as_str).unwrap_or_default();
        failure.hints.extend(next_step(status.code(), reason, kind).map(str::to_owned));
        failure
    }
}

/// Two failures in one: the first's exit code and hints, and every message.
#[must_use]
pub fn joined(mut first: Failure, next: Failure) -> Failure {
    first.message = format!("{}\n{}", first.message, next.message);
    first
}

/// What becomes of several things, each done by itself: one that is refused keeps no other from being done.
#[derive(Debug, Default)]
pub struct Several {
    done: usize,
    failed: Option<Failure>,
}

impl Several {
    /// Takes note of the next one.
    ///
    /// # Errors
    /// All failures so far, when going on makes no sense because nobody answers.
    pub fn add(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let Err(failure) = result else {
            self.done += 1;
            return Ok(());
        };
        let hopeless = failure.exit == Exit::Unavailable;
        self.failed = Some(match self.failed.take() {
            Some(first) => joined(first, failure),
            None => failure,
        });
        if hopeless { self.finish() } else { Ok(()) }
    }

    /// The end.
    ///
    /// # Errors
    /// All failures, with the exit code of the first.
    pub fn finish(&mut self) -> Result<(), Failure> {
        match self.failed.take() {
            Some(failure) if self.done > 0 => Err(failure.after_changes()),
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// When a server says that asking again makes sense.
#[must_use]
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::Aborted => Exit::Conflict,
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Exit::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Permission,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::Ok | Code::ResourceExhausted | Code::FailedPrecondition | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            Exit::Failed
        }
    }
}

/// What to do about a class that is not there.
pub const LISTS_CLASSES: &str = "`roadstead get classes` lists what there is";

/// What to do about a pool that is not there.
const DECLARES_POOLS: &str = "a pool is a document of its own (`kind: Pool`): apply it before, or with the rest; `roadstead get pools` lists \
                              what there is";

fn next_step(code: Code, reason: &str, kind: &str) -> Option<&'static str> {
    match (code, reason) {
        (_, "NOT_FOUND") if kind == "class" => Some(LISTS_CLASSES),
        (_, "REVISION_CONFLICT") => Some("it has changed since you read it: `roadstead get` it again, then repeat"),
        (_, "UNPLACEABLE") => Some("`roadstead simulate -f FILE` says what every cluster answers; `roadstead top` shows what is left"),
        (_, "QUOTA_EXCEEDED") => Some("`roadstead get policy -o yaml` shows the quotas"),
        (_, "PENDING_FULL") => Some("too many tenants wait for room: add clusters, or raise maxPending in the policy"),
        (_, "FENCED") => Some("after a restore every cluster's agent has to report first: `roadstead admin status` lists those missing"),
        (_, "REQUEST_ID_EXPIRED") => Some("run the command again; it makes a new request id"),
        (Code::PermissionDenied, _) => Some("use a context whose certificate has the role: `roadstead config get-contexts`"),
        (Code::Unauthenticated, _) => Some("check --ca, --cert and --key: `roadstead pki show --file CERT`"),
        (Code::Unavailable | Code::DeadlineExceeded, _) => {
            Some("check that the replicas run: `roadstead admin status`, or name another with --server")
        }
        (Code::Cancelled, _) => Some(
            "the replica closed the connection: it may not accept the certificate (revoked, or of another authority; its log says why): \
             `roadstead pki show --file CERT`",
        ),
        (Code::Unimplemented, _) => Some(
            "the server is older than this command (`roadstead admin status` shows versions), or this is not the address that it has for clients",
        ),
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for hint in &self.hints {
            write!(f, "\nnext: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<BadInput> for Failure {
    fn from(bad: BadInput) -> Self {
        let failure = Self::new(Exit::Usage, bad.to_string());
        if bad.lacks_a_pool() { failure.hint(DECLARES_POOLS) } else { failure }
    }
}

impl From<crate::pki::Error> for Failure {
    fn from(error: crate::pki::Error) -> Self {
        use crate::pki::Error;
        let exit = match &error {
            Error::BadName { .. } | Error::OwnersWithoutClient(_) => Exit::Usage,
            Error::Exists(_) | Error::Rotation(_) => Exit::Conflict,
            Error::NotInitialised(_) | Error::NotIssued(_) => Exit::NotFound,
            Error::File { .. } | Error::Damaged { .. } | Error::Crypto(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
