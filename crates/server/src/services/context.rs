//! What all services share: the replica, the watch history, pinned pages, schemas, and how a submission becomes an answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roadstead_api::v1;
use roadstead_class::{Class, Finding, Schema};
use roadstead_core::class::ClassVersion;
use roadstead_core::command::{Done, Kind, Outcome, Rejection};
use roadstead_core::id::{Name, RequestId, Revision, TenantId};
use roadstead_core::request::{Ask, Principal, Request, Retry};
use roadstead_core::state::State;
use roadstead_core::tenant::TenantSpec;
use roadstead_core::time::Millis;
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::auth::Reach;
use crate::convert::check::{At, Check};
use crate::convert::{cluster_names, request_id};
use crate::errors::{Fault, RETRY_SOON, Violation, rejected};
use crate::handle::{Handle, Heard, SubmitError};
use crate::identity;
use crate::pages::Pins;
use crate::watch::history::History;

/// Versions of a class that a new one is compared with: the newest of those that are in use.
const MAX_COMPARED: usize = 16;

/// Explanations, simulations and long listings at a time: each keeps a core busy for up to a second.
const MAX_HEAVY: usize = 4;
/// How long it is not asked again when agents were last heard of: they tell every ten seconds or so.
const HEARD_IS_GOOD_FOR: Duration = Duration::from_millis(500);
/// Parsed schemas that are kept.
const MAX_SCHEMAS: usize = 1024;

/// What all services share.
#[derive(Debug)]
pub struct Context {
    /// The replica.
    pub handle: Handle,
    /// What was applied lately.
    pub history: Arc<History>,
    /// Frozen copies behind page tokens.
    pub pins: Pins,
    heavy: Arc<Semaphore>,
    schemas: Mutex<Schemas>,
    heard: Mutex<Option<(Instant, Heard)>>,
}

#[derive(Debug, Default)]
struct Schemas {
    version: u64,
    parsed: HashMap<(Name, String), Arc<Schema>>,
}

impl Context {
    /// Nothing pinned, nothing learnt.
    #[must_use]
    pub fn new(handle: Handle, history: Arc<History>) -> Self {
        let pins = Pins::new(rand::random());
        Self { handle, history, pins, heavy: Arc::new(Semaphore::new(MAX_HEAVY)), schemas: Mutex::default(), heard: Mutex::default() }
    }

    /// A frozen copy of the state, as fresh as the caller wants.
    ///
    /// # Errors
    /// `UNAVAILABLE`, or `INVALID_ARGUMENT` for a consistency that is not known.
    pub async fn read(&self, consistency: i32) -> Result<Arc<State>, Fault> {
        self.state(fresh(consistency)?).await
    }

    /// A frozen copy of the state.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn state(&self, fresh: bool) -> Result<Arc<State>, Fault> {
        self.handle.read(fresh).await.map_err(|error| Fault::unavailable(error.to_string()))
    }

    /// When agents were last heard of, as fresh as the caller wants: a stale read asks nobody else. What the leader said is good for a while.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a consistency that is not known.
    pub async fn last_heard(&self, consistency: i32) -> Result<Heard, Fault> {
        let kept = || self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept().clone();
        if let Some((at, heard)) = known.filter(|(at, _)| at.elapsed() < HEARD_IS_GOOD_FOR) {
            let now = heard.now.after(Millis(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)));
            return Ok(Heard { now, ..heard });
        }
        let heard = self.handle.last_heard(fresh(consistency)?).await;
        *kept() = heard.clone().map(|heard| (Instant::now(), heard));
        Ok(heard.unwrap_or_default())
    }

    /// Runs something that keeps a core busy, few at a time.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when too many run already; what `work` answers.
    pub async fn heavy<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
        let permit = tokio::time::timeout(RETRY_SOON, Arc::clone(&self.heavy).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Fault::overloaded("too many explanations, simulations or listings run at the moment", RETRY_SOON));
        };
        let done = tokio::task::spawn_blocking(move || {
            let answer = work();
            drop(permit);
            answer
        });
        done.await.unwrap_or_else(|error| Err(Fault::internal(error.to_string())))
    }

    /// Submits a request and waits for its outcome.
    ///
    /// # Errors
    /// What it was rejected with, or why there is no outcome.
    pub async fn submit(&self, principal: &Principal, retry: Option<Retry>, ask: Ask) -> Result<(Done, Revision), Fault> {
        let request = Request { principal: principal.clone(), retry, ask };
        match self.handle.submit(request).await {
            Ok((Outcome::Done(done), revision)) => Ok((done, revision)),
            Ok((Outcome::Rejected(rejection), _)) => Err(self.rejected(&rejection).await),
            Err(error) => Err(submit_fault(&error, retry)),
        }
    }

    /// The revision of what was done, the same for every retry. `answered` is that of the answer, which a retry gets later than the first.
    pub async fn revision_of(&self, done: &Done, answered: Revision) -> Revision {
        match *done {
            Done::Placed { epoch, .. } => epoch,
            Done::Changed { revision } => revision,
            Done::Pending { id } => self.created(id).await.unwrap_or(answered),
        }
    }

    /// When a tenant came into being, if it is still known.
    async fn created(&self, id: TenantId) -> Option<Revision> {
        let newest = self.state(false).await.ok()?;
        if let Some(tenant) = newest.tenant_by_id(id) {
            return Some(tenant.created);
        }
        // This replica may be behind.
        self.state(true).await.ok()?.tenant_by_id(id).map(|tenant| tenant.created)
    }

    /// A rejection in words, with the names of clusters if it needs them.
    pub async fn rejected(&self, rejection: &Rejection) -> Fault {
        let names_clusters = matches!(rejection, Rejection::Unplaceable { .. });
        let state = if names_clusters { self.handle.read(false).await.ok() } else { None };
        rejected(rejection, &|id| state.as_deref().map_or_else(|| format!("#{}", id.0), |state| cluster_names(state)(id)))
    }

    /// Refuses a class of which no tenant could be rendered, or that tenants could not be given that have the latest version, or any other that is
    /// in use: all that `roadstead apply` refuses, for whoever writes past it. The work is bounded by the limits of a class, and done few at a time.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every finding.
    pub async fn check_class(&self, version: &ClassVersion) -> Result<(), Fault> {
        let (state, version) = (self.state(false).await?, version.clone());
        let work = move || {
            let name = version.name.as_str();
            // As it is kept: it was tried before it came to be, maybe by a release that refused less.
            let is_kept = |kept: &ClassVersion| ClassVersion { created: kept.created, ..version.clone() } == *kept;
            if state.class(name, &version.version).is_some_and(|kept| is_kept(kept)) {
                return Ok(());
            }
            let class = Class::parse(&version).map_err(findings)?;
            let found = roadstead_class::check(&class);
            if !found.is_empty() {
                return Err(findings(found));
            }
            let known = state.class(name, &version.version).is_some();
            let mut others: Vec<_> = state.classes().filter(|other| !known && other.name == version.name).collect();
            others.sort_by_key(|other| std::cmp::Reverse(other.created));
            let latest = others.first().map(|other| other.created);
            let compared = others.into_iter().filter(|other| Some(other.created) == latest || state.class_use(name, &other.version) > 0);
            let mut found = Vec::new();
            // What is kept already and is not understood is not this version's fault.
            for (before, version) in compared.take(MAX_COMPARED).filter_map(|other| Some((Class::parse(other).ok()?, &other.version))) {
                let changes = roadstead_class::check_change(&before, &class).into_iter();
                let of_version =
                    |finding: Finding| Finding { problem: format!("{} (compared with {name}@{version})", finding.problem), ..finding };
                found.extend(changes.map(of_version));
            }
            if found.is_empty() { Ok(()) } else { Err(findings(found)) }
        };
        self.heavy(work).await
    }

    /// Refuses values that the class does not accept, and a class that does not exist.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every violation, `NOT_FOUND` for the class.
    pub async fn check_values(&self, spec: &TenantSpec) -> Result<(), Fault> {
        let schema = match self.known_schema(spec) {
            Some(schema) => schema,
            None => self.learn_schema(spec).await?,
        };
        violations(&schema, spec)
    }

    /// The same where the class is known already; `None` if it is not.
    #[must_use]
    pub fn check_known_values(&self, spec: &TenantSpec) -> Option<Result<(), Fault>> {
        self.known_schema(spec).map(|schema| violations(&schema, spec))
    }

    fn known_schema(&self, spec: &TenantSpec) -> Option<Arc<Schema>> {
        let version = self.history.classes_version();
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if schemas.version != version {
            *schemas = Schemas { version, parsed: HashMap::new() };
        }
        schemas.parsed.get(&(spec.class.clone(), spec.version.clone())).cloned()
    }

    async fn learn_schema(&self, spec: &TenantSpec) -> Result<Arc<Schema>, Fault> {
        let version = self.history.classes_version();
        let (class, class_version) = (spec.class.as_str(), spec.version.as_str());
        let mut state = self.state(false).await?;
        if state.class(class, class_version).is_none() {
            // This replica may not have heard of it yet.
            state = self.state(true).await?;
        }
        let Some(found) = state.class(class, class_version) else {
            return Err(Fault::not_found(Kind::Class, &format!("{class}@{class_version}")));
        };
        let schema = Schema::parse(&found.values_schema);
        let schema =
            schema.map_err(|problem| Fault::internal(format!("the schema of {class}@{class_version} cannot be used: {problem}")))?;
        let schema = Arc::new(schema);
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if schemas.version == version && schemas.parsed.len() < MAX_SCHEMAS {
            schemas.parsed.insert((spec.class.clone(), spec.version.clone()), Arc::clone(&schema));
        }
        Ok(schema)
    }
}

fn fresh(consistency: i32) -> Result<bool, Fault> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => Ok(true),
        Ok(v1::Consistency::Stale) => Ok(false),
        Err(_) => Err(Fault::invalid("consistency", format!("{consistency} is no value that this server knows"))),
    }
}

/// What is wrong with a class, by the message's fields; each finding names its own field of the document, too.
fn findings(found: Vec<Finding>) -> Fault {
    let violation = |Finding { field, problem }: Finding| {
        let part = field.split(['.', '[']).nth(1).unwrap_or_default();
        let part = match part {
            "values" => "class.values_schema_json",
            "volumes" => "class.volumes",
            "requests" => "class.requests",
            _ => "class.template_json",
        };
        Violation { field: part.to_owned(), problem: format!("{field}: {problem}") }
    };
    Fault::fields(found.into_iter().map(violation).collect())
}

/// Refuses values that a schema does not accept, or of which its defaults would make more than an agent renders.
pub(super) fn violations(schema: &Schema, spec: &TenantSpec) -> Result<(), Fault> {
    let text = if spec.values.is_empty() { "{}" } else { &spec.values };
    let values = serde_json::from_str(text).map_err(|error| Fault::internal(error.to_string()))?;
    let found = schema.refusals(values);
    let violation = |Finding { field, problem }| Violation { field, problem };
    if found.is_empty() { Ok(()) } else { Err(Fault::fields(found.into_iter().map(violation).collect())) }
}

/// Why a submission has no outcome, as its caller meets it.
#[must_use]
pub fn submit_fault(error: &SubmitError, retry: Option<Retry>) -> Fault {
    let words = error.to_string();
    let fault = match error {
        SubmitError::Overloaded { retry_after_ms } => return Fault::overloaded(words, Duration::from_millis(*retry_after_ms)),
        SubmitError::Unknown => Fault::new(Code::Unavailable, "UNKNOWN_OUTCOME", words).retry(RETRY_SOON),
        SubmitError::Unavailable => Fault::new(Code::Unavailable, "NO_LEADER", words).retry(RETRY_SOON),
        SubmitError::Stopping => Fault::unavailable(words),
        SubmitError::Refused { .. } => Fault::new(Code::FailedPrecondition, "REFUSED", words),
    };
    // Whoever let the server make the id can still ask again with it.
    match retry {
        Some(Retry { id: RequestId(id), .. }) => fault.with("request_id", Uuid::from_u128(id)),
        None => fault,
    }
}

/// Who calls, and what it may touch.
///
/// # Errors
/// `UNAUTHENTICATED`.
pub fn reach<T>(request: &tonic::Request<T>) -> Result<Reach, Status> {
    identity::caller(request).map(Reach::of)
}

/// Checks a request id, beside other fields.
pub fn retry(check: &mut Check, id: &str, fingerprint: u64) -> Option<Retry> {
    request_id::retry(check, At::Top("request_id"), id, fingerprint)
}
