//! A toy world for replicas: disks that lose what was not synced, a network that is told what to do, and a record of everything.
//!
//! It shows in few lines what a driver's duties are. Deterministic: the same calls give the same history.

#![allow(dead_code, unreachable_pub)] // each test file uses a part of it
#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roadstead_consensus::door::{Answer, HardState, Input, LogEntry, LogWrite, Monotonic, Output, Restored, Role, Ticket};
use roadstead_consensus::member::{GroupId, MemberId, MemberInfo, Membership};
use roadstead_consensus::replica::{Config, Replica};
use roadstead_core::class::ClassVersion;
use roadstead_core::cluster::{Capacity, ClusterSpec};
use roadstead_core::command::{FIRST_LEVEL, FeatureLevel, Outcome};
use roadstead_core::id::{Name, Owner, RequestId, Revision};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Ask, Principal, Report, Request, Retry};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, TenantSpec};
use roadstead_core::time::{Millis, Timestamp};

pub const GROUP: GroupId = GroupId(0xfeed);
/// Wall time at which every toy group is made.
pub const ORIGIN_MS: u64 = 1_700_000_000_000;

pub fn member(n: u64) -> MemberId {
    MemberId(n)
}

pub fn info(n: u64) -> MemberInfo {
    MemberInfo { peer_address: format!("peer-{n}"), client_address: format!("client-{n}") }
}

/// A write to one register (a pool's price) with a retry id of its own.
pub fn write(register: &str, value: u64, id: u64) -> Request {
    let name = name(register);
    let spec = PoolSpec { name, kind: PoolKind::Home, order: 0, price_micros: value, policy: PoolPolicy::Spread };
    let id = RequestId(u128::from(ORIGIN_MS) << 80 | u128::from(id));
    let retry = Some(Retry { id, fingerprint: value });
    Request { principal: Principal::new("admin:toy").unwrap(), retry, ask: Ask::PutPool { spec, expected: None } }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn ask(ask: Ask) -> Request {
    Request { principal: Principal::new("admin:toy").unwrap(), retry: None, ask }
}

/// What makes a fleet of so many clusters with room for `cap` tenants each.
pub fn fleet(clusters: u32, cap: u32) -> Vec<Request> {
    let pool = PoolSpec { name: name("home"), kind: PoolKind::Home, order: 0, price_micros: 0, policy: PoolPolicy::Spread };
    let one = Resources { cpu: Millicores(1), memory: Bytes(1), pods: 1, storage: Bytes(0), attachments: 0 };
    let class = ClassVersion {
        name: name("shop"),
        version: "1".to_owned(),
        requests: Requests { total: one, largest_pod: PodSize { cpu: Millicores(1), memory: Bytes(1) } },
        volumes: Vec::new(),
        retain: Millis(0),
        values_schema: String::new(),
        template: String::new(),
        created: Revision::default(),
    };
    let mut requests = vec![ask(Ask::PutPool { spec: pool, expected: None }), ask(Ask::PutClass { class: Box::new(class) })];
    for number in 0..clusters {
        let spec = cluster(number, cap);
        let allocatable =
            Resources { cpu: Millicores(1 << 30), memory: Bytes(1 << 40), pods: 1 << 20, storage: Bytes(1 << 40), attachments: 1 << 20 };
        let capacity = Some(Capacity { allocatable, used_by_others: Resources::default(), nodes: Vec::new() });
        let report = Report {
            cluster: spec.name.clone(),
            uid: format!("uid-{number}"),
            capacity,
            tenants: Vec::new(),
            by_agent: true,
            complete: None,
        };
        requests.push(ask(Ask::PutCluster { spec: Box::new(spec), expected: None }));
        requests.push(ask(Ask::Report(Box::new(report))));
    }
    requests
}

pub fn cluster(number: u32, cap: u32) -> ClusterSpec {
    ClusterSpec {
        name: name(&format!("c{number}")),
        uid: String::new(),
        provider: "own".to_owned(),
        region: "eu-1".to_owned(),
        zones: vec!["a".to_owned()],
        residency: "eu".to_owned(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        pool: name("home"),
        dedicated_to: Vec::new(),
        tenant_cap: cap,
        high_water: cap,
        shard_cap: cap.div_ceil(10),
        max_shards: 10,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    }
}

/// Places a tenant; the name is its number.
pub fn place(number: u64, wait: bool) -> Request {
    let spec = TenantSpec {
        name: name(&format!("t{number}")),
        owner: Owner::new("acme").unwrap(),
        class: name("shop"),
        version: "1".to_owned(),
        values: "{\"plan\":\"small\"}".to_owned(),
        hostnames: Vec::new(),
        volumes: Vec::new(),
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Default::default(),
        requests: Requests::default(),
    };
    let id = RequestId(u128::from(ORIGIN_MS) << 80 | 1 << 60 | u128::from(number));
    let ask = Ask::PlaceTenant { spec: Box::new(spec), wait };
    Request { principal: Principal::new("client:toy").unwrap(), retry: Some(Retry { id, fingerprint: number }), ask }
}

pub fn register(state: &State, name: &str) -> Option<u64> {
    state.pool(name).map(|pool| pool.spec.price_micros)
}

/// A snapshot file.
#[derive(Clone)]
pub struct File {
    pub term: u64,
    pub index: u64,
    pub membership: Membership,
    pub state: Box<State>,
}

/// What survives a crash, and what is on its way to it.
#[derive(Clone, Default)]
pub struct ToyDisk {
    pub hard_state: HardState,
    pub entries: Vec<LogEntry>,
    pub snapshots: Vec<File>,
    pub unsynced: VecDeque<(u64, LogWrite)>,
}

impl ToyDisk {
    /// The next write reaches the disk; its number.
    pub fn sync_one(&mut self) -> Option<u64> {
        let (number, write) = self.unsynced.pop_front()?;
        if let Some(after) = write.begins_after {
            self.entries.clear();
            assert!(self.snapshots.iter().any(|file| file.index == after), "a log begins after a snapshot that is there");
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            assert!(self.entries.last().is_none_or(|last| last.index + 1 == first.index), "a log has no gap");
        }
        self.entries.extend(write.entries);
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "a term never goes back");
            self.hard_state = hard_state;
        }
        Some(number)
    }
}

pub struct Node {
    pub disk: ToyDisk,
    pub replica: Option<Replica>,
    pub role: Role,
    pub runs: u64,
    pub removed: bool,
    /// Replica's time at the start of this run.
    began: u64,
    group: GroupId,
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    pub from: MemberId,
    pub to: MemberId,
    pub messages: Vec<Vec<u8>>,
}

/// Everything.
pub struct Toy {
    pub nodes: BTreeMap<MemberId, Node>,
    pub network: VecDeque<Packet>,
    pub answers: BTreeMap<Ticket, Answer>,
    pub reads: BTreeMap<Ticket, (Revision, MemberId)>,
    pub alarms: Vec<String>,
    /// Digest after each applied entry: the same wherever it is applied.
    pub digests: BTreeMap<u64, u64>,
    /// Who led in which term.
    pub leaders: BTreeMap<u64, MemberId>,
    /// A line for each output, when asked for.
    pub transcript: Option<Vec<String>>,
    /// Links (from, to) over which nothing goes.
    pub cut: BTreeSet<(MemberId, MemberId)>,
    /// Of every member, but for the feature levels of some.
    pub config: Config,
    pub levels: BTreeMap<MemberId, FeatureLevel>,
    /// Whether a replica may stop for good.
    pub fatal_allowed: bool,
    /// Whether peers lie, so that the group's promises are void.
    pub lies_allowed: bool,
    pub now: u64,
    /// Whether disks sync at once.
    pub eager_disks: bool,
    /// Snapshots asked for or fetched that are not on disk yet.
    pub files: VecDeque<(MemberId, FileWork)>,
    pub eager_files: bool,
    next_ticket: u64,
}

#[derive(Clone)]
pub enum FileWork {
    Take(File),
    Fetch { from: MemberId, term: u64, index: u64 },
}

pub fn small_config() -> Config {
    Config { snapshot_every_entries: 1_000_000, digest_every: 1, ..Config::default() }
}

impl Toy {
    /// One running member, not yet elected.
    pub fn new(config: Config) -> Self {
        let first = Restored::first(GROUP, member(1), info(1), Timestamp(ORIGIN_MS), FIRST_LEVEL);
        let file = File { term: first.snapshot_term, index: first.snapshot_index, membership: first.membership, state: first.state };
        let disk = ToyDisk { hard_state: first.hard_state, snapshots: vec![file], ..ToyDisk::default() };
        let mut toy = Self {
            nodes: BTreeMap::new(),
            network: VecDeque::new(),
            answers: BTreeMap::new(),
            reads: BTreeMap::new(),
            alarms: Vec::new(),
            digests: BTreeMap::new(),
            leaders: BTreeMap::new(),
            transcript: None,
            cut: BTreeSet::new(),
            config,
            levels: BTreeMap::new(),
            fatal_allowed: false,
            lies_allowed: false,
            now: 0,
            eager_disks: true,
            files: VecDeque::new(),
            eager_files: true,
            next_ticket: 0,
        };
        toy.insert(member(1), disk);
        toy
    }

    /// A group of `count` voters with a leader.
    pub fn group(count: u64, config: Config) -> Self {
        let mut toy = Self::new(config);
        toy.until_leader();
        for n in 2..=count {
            toy.join(n);
        }
        toy
    }

    /// Adds a member and waits until it votes.
    pub fn join(&mut self, n: u64) {
        self.insert(member(n), ToyDisk::default());
        let leader = self.leader().expect("somebody leads");
        let ticket = self.ticket();
        self.input(leader, Input::AddMember { ticket, id: member(n), info: info(n) });
        self.until("the new member votes", |toy| {
            toy.leader().is_some_and(|leader| toy.replica(leader).membership().voters.contains_key(&member(n)))
                && toy.replica(member(n)).membership().voters.contains_key(&member(n))
        });
        assert!(matches!(self.answers[&ticket], Answer::Done { .. }), "{:?}", self.answers[&ticket]);
    }

    fn insert(&mut self, id: MemberId, disk: ToyDisk) {
        self.nodes.insert(id, Node { disk, replica: None, role: Role::default(), runs: 0, removed: false, began: 0, group: GROUP });
        self.start(id);
    }

    /// A wiped disk comes back as a new member that nobody knows.
    pub fn insert_empty(&mut self, n: u64) {
        self.insert(member(n), ToyDisk::default());
    }

    pub fn set_group(&mut self, id: MemberId, group: GroupId) {
        self.nodes.get_mut(&id).unwrap().group = group;
    }

    /// What is on a member's disk.
    pub fn restored(&self, id: MemberId) -> Restored {
        let node = &self.nodes[&id];
        let empty = Restored::joining(node.group, id);
        let (hard_state, entries) = (node.disk.hard_state, node.disk.entries.clone());
        match node.disk.snapshots.last().cloned() {
            None => Restored { hard_state, entries, ..empty },
            Some(File { term, index, membership, state }) => {
                Restored { hard_state, entries, snapshot_term: term, snapshot_index: index, membership, state, ..empty }
            }
        }
    }

    pub fn start(&mut self, id: MemberId) {
        let restored = self.restored(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.runs += 1;
        node.began = self.now;
        let supported_level = self.levels.get(&id).copied().unwrap_or(self.config.supported_level);
        let config = Config { nonce: id.0 * 1_000 + node.runs, supported_level, ..self.config.clone() };
        node.replica = Some(Replica::new(config, restored).unwrap());
    }

    fn level(&self, id: MemberId) -> FeatureLevel {
        self.levels.get(&id).copied().unwrap_or(self.config.supported_level)
    }

    /// Power loss: the first `kept` of the unsynced writes happen to be on disk.
    pub fn crash(&mut self, id: MemberId, kept: usize) {
        let node = self.nodes.get_mut(&id).unwrap();
        for _ in 0..kept {
            node.disk.sync_one();
        }
        node.disk.unsynced.clear();
        node.replica = None;
        node.role = Role::default();
        self.files.retain(|(at, _)| *at != id);
    }

    pub fn replica(&self, id: MemberId) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("it runs")
    }

    pub fn runs(&self, id: MemberId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.replica.is_some())
    }

    pub fn running(&self) -> Vec<MemberId> {
        self.nodes.iter().filter(|(_, node)| node.replica.is_some() && !node.removed).map(|(id, _)| *id).collect()
    }

    /// The leader of the newest term that decides.
    pub fn leader(&self) -> Option<MemberId> {
        let leading = self.nodes.iter().filter(|(_, node)| node.replica.is_some() && node.role.leading);
        leading.max_by_key(|(_, node)| node.role.term).map(|(id, _)| *id)
    }

    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Something happens to a member, if it runs.
    pub fn input(&mut self, id: MemberId, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(replica) = &mut node.replica else { return };
        let outputs = replica.on(input, Monotonic(self.now - node.began));
        for output in outputs {
            self.carry_out(id, output);
        }
        if self.eager_disks {
            self.sync_all(id);
        }
        if self.eager_files {
            self.do_files();
        }
    }

    fn carry_out(&mut self, id: MemberId, output: Output) {
        if let Some(transcript) = &mut self.transcript {
            transcript.push(format!("  {id:?} {}", describe(&output)));
        }
        let node = self.nodes.get_mut(&id).unwrap();
        match output {
            Output::Send { to, messages } => self.network.push_back(Packet { from: id, to, messages }),
            Output::Persist { number, write } => node.disk.unsynced.push_back((number, write)),
            Output::Applied { index, applied, .. } => {
                assert_eq!(applied.revision.index, index);
                self.alarms.extend(applied.alarms.iter().cloned());
            }
            Output::Replaced { .. } => {}
            Output::Answer { ticket, answer } => {
                let before = self.answers.insert(ticket, answer);
                assert_eq!(before, None, "{ticket:?} is answered once");
            }
            Output::ReadReady { ticket, revision } => {
                assert!(node.replica.as_ref().unwrap().state().revision() >= revision);
                assert_eq!(self.reads.insert(ticket, (revision, id)), None);
            }
            Output::FetchSnapshot { from, term, index } => self.files.push_back((id, FileWork::Fetch { from, term, index })),
            Output::TakeSnapshot { term, index, membership, state } => {
                self.files.push_back((id, FileWork::Take(File { term, index, membership, state })));
            }
            Output::Compact { through } => {
                assert!(node.disk.snapshots.iter().any(|file| file.index >= through), "only what a snapshot holds may go");
                node.disk.entries.retain(|entry| entry.index > through);
            }
            Output::Role(role) => {
                if role.leading {
                    let leader = *self.leaders.entry(role.term).or_insert(id);
                    assert!(leader == id || self.lies_allowed, "two leaders in term {}", role.term);
                }
                node.role = role;
            }
            Output::Removed => node.removed = true,
            Output::Alarm { what, fatal } => {
                assert!(!fatal || self.fatal_allowed, "{id} stopped: {what}");
                self.alarms.push(what);
            }
        }
    }

    /// Checks that everybody who has applied the same has the same.
    pub fn compare(&mut self) {
        for (id, node) in &self.nodes {
            let Some(replica) = &node.replica else { continue };
            let (index, digest) = (replica.state().revision().index, replica.state().digest());
            let known = *self.digests.entry(index).or_insert(digest);
            assert_eq!(known, digest, "{id} has another state at {index}");
        }
    }

    /// The next write of a member reaches its disk, and the member hears of it.
    pub fn sync_one(&mut self, id: MemberId) -> bool {
        let Some(number) = self.nodes.get_mut(&id).and_then(|node| node.disk.sync_one()) else { return false };
        let eager = std::mem::replace(&mut self.eager_disks, false);
        self.input(id, Input::Persisted { number });
        self.eager_disks = eager;
        true
    }

    fn sync_all(&mut self, id: MemberId) {
        while self.sync_one(id) {}
    }

    /// The oldest work on snapshot files is done.
    pub fn do_file(&mut self) -> bool {
        let Some((id, work)) = self.files.pop_front() else { return false };
        match work {
            FileWork::Take(file) => {
                let index = file.index;
                self.keep_file(id, file);
                self.input(id, Input::SnapshotTaken { index });
            }
            FileWork::Fetch { from, term, index } => {
                let reachable = self.runs(from) && !self.cut.contains(&(from, id)) && !self.cut.contains(&(id, from));
                let file = self.nodes[&from].disk.snapshots.iter().find(|file| (file.term, file.index) == (term, index)).cloned();
                let Some(file) = file.filter(|_| reachable) else {
                    self.input(id, Input::SnapshotFailed { term, index });
                    return true;
                };
                self.keep_file(id, file.clone());
                self.input(from, Input::SnapshotDelivered { to: id, ok: true });
                let File { membership, state, .. } = file;
                self.input(id, Input::SnapshotInstalled { term, index, membership, state });
            }
        }
        true
    }

    fn do_files(&mut self) {
        while self.do_file() {}
    }

    /// Two are kept, the newest last.
    fn keep_file(&mut self, id: MemberId, file: File) {
        let files = &mut self.nodes.get_mut(&id).unwrap().disk.snapshots;
        files.retain(|kept| kept.index != file.index);
        files.push(file);
        files.sort_by_key(|kept| kept.index);
        if files.len() > 2 {
            files.remove(0);
        }
    }

    /// A packet arrives, unless its link is cut or nobody is there.
    pub fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, messages } = packet;
        if self.cut.contains(&(from, to)) || self.nodes.get(&to).is_none_or(|node| node.removed) {
            return;
        }
        let level = self.level(from);
        self.input(to, Input::Messages { from, level, messages });
    }

    /// Delivers until the network is quiet.
    pub fn quiet(&mut self) {
        for _ in 0..100_000 {
            match self.network.pop_front() {
                Some(packet) => self.deliver(packet),
                None => return,
            }
        }
        panic!("the network never becomes quiet");
    }

    /// One tick for everybody, and everything that follows from it.
    pub fn tick(&mut self) {
        self.now += self.config.tick_ms;
        for id in self.running() {
            self.input(id, Input::Tick);
        }
        self.quiet();
        self.compare();
    }

    /// Ticks until it holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            self.quiet();
            if holds(self) {
                return;
            }
            self.tick();
        }
        let last = self.transcript.as_ref().map(|lines| lines[lines.len().saturating_sub(60)..].join("\n")).unwrap_or_default();
        let roles: Vec<String> = self
            .nodes
            .iter()
            .map(|(id, node)| format!("{id}: runs {} removed {} {:?}", node.replica.is_some(), node.removed, node.role))
            .collect();
        panic!("it never came true that {what}; alarms: {:?}\n{}\n{last}", self.alarms, roles.join("\n"));
    }

    pub fn until_leader(&mut self) -> MemberId {
        self.until("somebody leads", |toy| toy.leader().is_some());
        self.leader().unwrap()
    }

    /// A request to a member.
    pub fn request(&mut self, id: MemberId, request: Request) -> Ticket {
        let ticket = self.ticket();
        self.input(id, Input::Requests(vec![(ticket, request)]));
        ticket
    }

    /// A request, and its outcome.
    pub fn done(&mut self, id: MemberId, request: Request) -> (Outcome, Revision) {
        let ticket = self.request(id, request);
        self.until("the request is answered", |toy| toy.answers.contains_key(&ticket));
        match self.answers[&ticket].clone() {
            Answer::Outcome { outcome, revision } => (outcome, revision),
            other => panic!("{other:?}"),
        }
    }

    pub fn read(&mut self, id: MemberId) -> Ticket {
        let ticket = self.ticket();
        self.input(id, Input::Read(ticket));
        ticket
    }

    /// Every run from now on has this fault; all members start anew.
    #[cfg(feature = "sabotage")]
    pub fn sabotage(&mut self, fault: roadstead_consensus::replica::Sabotage) {
        self.config.sabotage = Some(fault);
        for id in self.running() {
            while self.sync_one(id) {}
            self.crash(id, 0);
            self.start(id);
        }
    }

    /// Cuts a member off from all others, in both directions.
    pub fn isolate(&mut self, id: MemberId) {
        for other in self.nodes.keys().copied().filter(|other| *other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }
}

/// An output in a line.
pub fn describe(output: &Output) -> String {
    match output {
        Output::Send { to, messages } => {
            let kinds: Vec<String> = messages.iter().map(|bytes| describe_message(bytes)).collect();
            format!("-> {}: {}", to.0, kinds.join(", "))
        }
        Output::Persist { number, write } => {
            let entries: Vec<String> = write.entries.iter().map(|entry| format!("{}/{}", entry.term, entry.index)).collect();
            let hard_state = write.hard_state.map(|h| format!(" term {} vote {} commit {}", h.term, h.vote, h.commit)).unwrap_or_default();
            let begins = write.begins_after.map(|index| format!(" begins after {index}")).unwrap_or_default();
            format!("persist {number}:{begins} entries [{}]{hard_state}", entries.join(" "))
        }
        Output::Applied { index, applied, .. } => format!("applied {index}: {} outcomes", applied.outcomes.len()),
        Output::Replaced { revision, .. } => format!("replaced by {revision}"),
        Output::Answer { ticket, answer } => format!("answer {}: {answer:?}", ticket.0),
        Output::ReadReady { ticket, revision } => format!("read {} may see {revision}", ticket.0),
        Output::FetchSnapshot { from, term, index } => format!("fetch snapshot {term}/{index} of {}", from.0),
        Output::TakeSnapshot { term, index, .. } => format!("take snapshot {term}/{index}"),
        Output::Compact { through } => format!("compact through {through}"),
        Output::Role(role) => {
            let (voters, learners): (Vec<u64>, Vec<u64>) =
                (role.membership.voters.keys().map(|id| id.0).collect(), role.membership.learners.keys().map(|id| id.0).collect());
            let leader = role.leader.map_or("nobody".to_owned(), |id| id.0.to_string());
            format!("role: leading {} leader {leader} term {} voters {voters:?} learners {learners:?}", role.leading, role.term)
        }
        Output::Removed => "removed".to_owned(),
        Output::Alarm { what, fatal } => format!("alarm (fatal: {fatal}): {what}"),
    }
}

fn describe_message(bytes: &[u8]) -> String {
    use protobuf::Message as _;
    if bytes[0] != 0 {
        return format!("word {}", bytes[0]);
    }
    let message = raft::eraftpb::Message::parse_from_bytes(&bytes[17..]).unwrap();
    let kind = format!("{:?}", message.get_msg_type());
    let kind = kind.strip_prefix("Msg").unwrap_or(&kind);
    let entries: Vec<String> = message.get_entries().iter().map(|entry| format!("{}/{}", entry.term, entry.index)).collect();
    let entries = if entries.is_empty() { String::new() } else { format!(" [{}]", entries.join(" ")) };
    let reject = if message.reject { " rejected" } else { "" };
    format!("{kind} t{} {}/{}{entries} c{}{reject}", message.term, message.log_term, message.index, message.commit)
}

/// A small generator of numbers (SplitMix64), so that a schedule is its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }
}
