//! Callers: clients, the operator, and the clusters' agents. Each has one job at a time, and asks again with the same id, at whatever
//! replica, until it is answered.

use roadstead_consensus::door::Answer;
use roadstead_consensus::member::{MemberId, MemberInfo};
use roadstead_core::id::{Incarnation, Name, RequestId, Revision};
use roadstead_core::intent::ClusterIntent;
use roadstead_core::request::{Ask, Principal, Retry};
use roadstead_core::resources::Bytes;
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, TenantSpec};

use crate::agent::Agent;
use crate::chance::Chance;
use crate::fleet;
use crate::net::Micros;

/// Names that clients place tenants under: few, so that they meet.
const NAMES: u64 = 30;
/// Registers: tenants that are changed and read, and never released.
pub const REGISTERS: u64 = 2;
/// Operations on one register at most: what the search for an order can take.
pub const MAX_REGISTER_OPERATIONS: usize = 110;

/// Something to be done.
#[derive(Clone, Debug)]
pub enum What {
    /// A request.
    Ask(Ask),
    /// A linearizable read.
    Read(ReadOf),
    /// Add a member.
    Add(MemberId, MemberInfo),
    /// Remove a member.
    Remove(MemberId),
    /// Hand leadership over.
    Transfer,
    /// Restore a backup.
    Restore(Box<State>),
}

/// What is read.
#[derive(Clone, Debug)]
pub enum ReadOf {
    /// The values of a tenant.
    Tenant(Name),
    /// What a cluster's agent has to do; with `lagging`, as the replica that is asked happens to know it.
    Intent {
        /// The cluster.
        cluster: Name,
        /// See there.
        lagging: bool,
    },
}

/// What was read.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Values, if the tenant is there.
    Tenant(Option<String>),
    /// Nothing if there is no such cluster.
    Intent(Option<ClusterIntent>),
}

/// What a caller hears.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer; to an agent with the incarnation for which all that is in its cluster is to be told, if that is awaited.
    Answer(Answer, Option<Incarnation>),
    /// What was read, as of a revision.
    Read(Revision, Seen),
}

/// A job on its way.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to do.
    pub what: What,
    /// Makes retries recognisable.
    pub retry: Option<Retry>,
    /// When it was first asked for.
    pub called: Micros,
    /// What was acknowledged to anybody before: the answer must reflect it.
    pub floor: Revision,
    /// Counts attempts.
    pub attempt: u32,
    /// The register and value, if it is an operation on one.
    pub register: Option<(Name, Option<u64>)>,
}

/// What kind of caller.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Places, changes, releases, reads.
    Client,
    /// Does what the storm and the set-up give it to do.
    Operator(std::collections::VecDeque<What>),
    /// Carries out a cluster's intent, and reports.
    Agent(Box<Agent>),
}

/// One caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// What kind.
    pub kind: Kind,
    /// Its chance.
    pub chance: Chance,
    /// Its job.
    pub job: Option<Job>,
    /// Counts jobs.
    pub serial: u64,
    /// The machine that it asks first.
    pub asks: usize,
}

impl Caller {
    /// A caller without a job.
    #[must_use]
    pub fn new(principal: &str, kind: Kind, chance: Chance) -> Self {
        let principal = Principal::new(principal).expect("a short principal");
        Self { principal, kind, chance, job: None, serial: 0, asks: 0 }
    }

    /// Whether it must be done before the run can end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Client => self.job.is_none(),
            Kind::Operator(jobs) => self.job.is_none() && jobs.is_empty(),
            Kind::Agent(_) => true,
        }
    }

    /// Begins a job.
    pub fn begin(&mut self, what: What, register: Option<(Name, Option<u64>)>, now: Micros, floor: Revision, unix_ms: u64) {
        self.serial += 1;
        let random = u128::from(self.chance.draw() & 0xffff_ffff) << 32 | u128::from(self.serial);
        let id = RequestId(u128::from(unix_ms) << 80 | random);
        let retry = match &what {
            What::Ask(Ask::Observe(_) | Ask::NoteGrowth(_)) => None,
            What::Ask(_) => Some(Retry { id, fingerprint: self.serial }),
            What::Read(_) | What::Add(..) | What::Remove(_) | What::Transfer | What::Restore(_) => None,
        };
        self.job = Some(Job { what, retry, called: now, floor, attempt: 0, register });
    }

    /// A client's next job. `tokens` counts values, each of which is written once.
    pub fn draw(&mut self, tokens: &mut u64, register_is_open: bool) -> (What, Option<(Name, Option<u64>)>) {
        let chance = &mut self.chance;
        let name = Name::new(&format!("t{}", chance.below(NAMES))).expect("a short name");
        *tokens += 1;
        let token = *tokens;
        let size = if chance.percent(75) { "small" } else { "large" };
        let ask = match chance.below(100) {
            0..40 => Ask::PlaceTenant { spec: Box::new(tenant(&name, chance.below(4), size, token)), wait: chance.percent(70) },
            40..50 => {
                let mut spec = tenant(&name, chance.below(4), size, token);
                if chance.percent(30) {
                    spec.desired = Desired::Hibernated;
                }
                if chance.percent(20) {
                    spec.volumes = vec![(Name::new("data").expect("a short name"), Bytes(2 << 30))];
                }
                Ask::UpdateTenant { spec: Box::new(spec), expected: None }
            }
            50..65 => Ask::ReleaseTenant { name, purge: chance.percent(60), expected: None },
            65..71 => Ask::UndeleteTenant { name },
            71..73 => Ask::AllowRemovals { cluster: fleet::cluster_name(chance.below(4) as usize), count: chance.between(1, 3) as u32 },
            drawn => {
                let number = chance.below(REGISTERS);
                let register = register_name(number);
                if !register_is_open || drawn < 85 {
                    let written = register_is_open.then_some((register.clone(), None));
                    return (What::Read(ReadOf::Tenant(register)), written);
                }
                let spec = Box::new(tenant(&register, number, "small", token));
                return (What::Ask(Ask::UpdateTenant { spec, expected: None }), Some((register, Some(token))));
            }
        };
        (What::Ask(ask), None)
    }
}

/// The name of a register.
#[must_use]
pub fn register_name(number: u64) -> Name {
    Name::new(&format!("register{number}")).expect("a short name")
}

/// A tenant's document.
#[must_use]
pub fn tenant(name: &Name, owner: u64, class: &str, token: u64) -> TenantSpec {
    TenantSpec {
        name: name.clone(),
        owner: roadstead_core::id::Owner::new(&format!("owner{owner}")).expect("a short owner"),
        class: Name::new(class).expect("a short name"),
        version: "1.0.0".to_owned(),
        values: values(token),
        hostnames: Vec::new(),
        volumes: Vec::new(),
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: roadstead_core::constraint::Constraints::default().into(),
        requests: roadstead_core::resources::Requests::default(),
    }
}

/// A value as a tenant's values.
#[must_use]
pub fn values(token: u64) -> String {
    format!("{{\"v\":{token}}}")
}

/// The value in a tenant's values.
#[must_use]
pub fn token_of(values: &str) -> Option<u64> {
    values.strip_prefix("{\"v\":")?.strip_suffix('}')?.parse().ok()
}
