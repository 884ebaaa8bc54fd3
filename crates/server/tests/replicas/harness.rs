//! A group of replicas for tests: certificates, folders, requests, and waiting for a condition.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use roadstead_consensus::member::{MemberId, MemberInfo};
use roadstead_core::class::ClassVersion;
use roadstead_core::cluster::{Capacity, ClusterSpec, NodeSize};
use roadstead_core::command::{Done, Outcome, SUPPORTED_LEVEL};
use roadstead_core::id::{RequestId, Revision};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Ask, Report, Request, Retry};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::tenant::{Desired, TenantSpec};
use roadstead_core::time::Millis;
use roadstead_server::config::{Listen, ServerConfig, Tuning, free_loopback_address};
use roadstead_server::handle::{SubmitError, Submitted};
use roadstead_server::identity::REPLICA_DNS_NAME;
use roadstead_server::issuer::IssuerFiles;
use roadstead_server::lifecycle;
use roadstead_server::log::Backend;
use roadstead_server::server::{RunningServer, Server};
use roadstead_server::tls::{Tls, TlsFiles};
use tempfile::TempDir;

/// How long a test waits for something that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An authority.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate (PEM) and its key (PEM).
    pub(crate) fn issue(&self, role: &str, name: &str, serial: u64, valid: bool) -> (String, String) {
        self.issue_for(role, name, &[], serial, valid)
    }

    /// The same, restricted to these owners.
    pub(crate) fn issue_for(&self, role: &str, name: &str, owners: &[&str], serial: u64, valid: bool) -> (String, String) {
        let mut params = CertificateParams::new(if role == "replica" { vec![REPLICA_DNS_NAME.to_owned()] } else { vec![] }).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::URI(format!("roadstead://{role}/{name}").try_into().unwrap()));
        for owner in owners {
            params.subject_alt_names.push(SanType::URI(format!("roadstead://owner/{owner}").try_into().unwrap()));
        }
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = if valid { date_time_ymd(2200, 1, 1) } else { date_time_ymd(2021, 1, 1) };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A list (PEM) that revokes these serials.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2200, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Writes a set of certificate files into a folder of its own.
pub(crate) fn write_files(folder: &Path, authorities: &str, (certificate, key): &(String, String)) -> TlsFiles {
    std::fs::create_dir_all(folder).unwrap();
    let files = TlsFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        authorities: folder.join("ca.crt"),
        revocations: Some(folder.join("revoked.pem")),
    };
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
    std::fs::write(&files.authorities, authorities).unwrap();
    files
}

/// As usual, but certificates are looked at often.
pub(crate) fn quick() -> Tuning {
    Tuning { reload_every: Duration::from_millis(50), ..Tuning::default() }
}

/// One replica of a group: its folder and addresses stay when it is stopped.
pub(crate) struct Seat {
    pub(crate) data: PathBuf,
    pub(crate) files: TlsFiles,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) running: Option<RunningServer>,
}

impl Seat {
    pub(crate) fn info(&self) -> MemberInfo {
        MemberInfo { peer_address: self.peer.to_string(), client_address: self.client.to_string() }
    }

    pub(crate) fn server(&self) -> &RunningServer {
        self.running.as_ref().expect("this replica runs")
    }
}

/// A group of replicas.
pub(crate) struct Group {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    pub(crate) seats: Vec<Seat>,
    pub(crate) tuning: Tuning,
    pub(crate) backend: Backend,
    /// What replicas issue agents' certificates with, from their next start on.
    pub(crate) issuer: Option<IssuerFiles>,
}

impl Group {
    /// `count` replicas, all voters, one of them leading.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, quick()).await
    }

    pub(crate) async fn start_with(count: usize, tuning: Tuning) -> Self {
        let mut group = Self::empty(tuning);
        group.fill(count).await;
        group
    }

    /// No replica yet.
    pub(crate) fn empty(tuning: Tuning) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new("roadstead"),
            seats: Vec::new(),
            tuning,
            backend: Backend::Sled,
            issuer: None,
        }
    }

    /// The first replicas.
    pub(crate) async fn fill(&mut self, count: usize) {
        for number in 0..count {
            self.add(number == 0).await;
        }
        self.all_voters().await;
    }

    /// A replica's folder and addresses, nothing in it yet.
    pub(crate) fn seat(&mut self) -> usize {
        let number = self.seats.len();
        let pair = self.authority.issue("replica", &format!("r{number}"), 100 + number as u64, true);
        let home = self.folder.path().join(format!("r{number}"));
        let files = write_files(&home.join("tls"), &self.authority.pem(), &pair);
        let (client, peer) = (free_address(), free_address());
        self.seats.push(Seat { data: home.join("data"), files, client, peer, running: None });
        number
    }

    /// One more replica, made by `init` or `join`, and started.
    pub(crate) async fn add(&mut self, first: bool) -> usize {
        let number = self.seat();
        let seat = &self.seats[number];
        if first {
            lifecycle::init(&seat.data, seat.info(), self.backend).unwrap();
        } else {
            let via = self.seats.iter().find_map(|other| other.running.as_ref()).unwrap().peer_address.to_string();
            let tls = Tls::load(seat.files.clone()).unwrap();
            let (data, info, backend) = (&seat.data, seat.info(), self.backend);
            // A change of the group may have to wait for the one before.
            until("the group lets a member in", || async { lifecycle::join(data, info.clone(), backend, &via, &tls).await.ok() }).await;
        }
        self.run(number).await;
        number
    }

    /// Starts the replica of a folder.
    pub(crate) async fn run(&mut self, number: usize) {
        let running = Server::start(self.config(number)).await.unwrap();
        self.seats[number].running = Some(running);
    }

    pub(crate) fn config(&self, number: usize) -> ServerConfig {
        let seat = &self.seats[number];
        ServerConfig {
            data: seat.data.clone(),
            tls: seat.files.clone(),
            client: Listen::Address(seat.client),
            peer: Listen::Address(seat.peer),
            probes: Some(Listen::Address(SocketAddr::from(([127, 0, 0, 1], 0)))),
            issuer: self.issuer.clone(),
            tuning: self.tuning.clone(),
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &RunningServer)> {
        self.seats.iter().enumerate().filter_map(|(number, seat)| Some((number, seat.running.as_ref()?)))
    }

    /// Waits for a leader that decides, and that all running replicas know.
    pub(crate) async fn leader(&self) -> usize {
        until("a leader", || async {
            let leader = self.running().find(|(_, server)| server.handle().role().borrow().leading)?;
            let known = self.running().all(|(_, server)| server.handle().role().borrow().leader == Some(leader.1.id()));
            known.then_some(leader.0)
        })
        .await
    }

    /// Waits until every running replica is a voter, and the group has the feature level that they all support.
    pub(crate) async fn all_voters(&self) {
        until("all replicas are voters", || async {
            let ids: Vec<MemberId> = self.running().map(|(_, server)| server.id()).collect();
            self.running()
                .all(|(_, server)| ids.iter().all(|id| server.handle().role().borrow().membership.voters.contains_key(id)))
                .then_some(())
        })
        .await;
        let leader = self.leader().await;
        until("the group's feature level", || async {
            let state = self.seats[leader].server().handle().read(false).await.ok()?;
            (state.level() == SUPPORTED_LEVEL).then_some(())
        })
        .await;
    }

    pub(crate) async fn kill(&mut self, number: usize) {
        self.seats[number].running.take().unwrap().kill().await;
    }

    /// Submits at a replica; overload and a missing leader are tried again, as a client does.
    pub(crate) async fn submit(&self, at: usize, request: Request) -> Submitted {
        let began = Instant::now();
        loop {
            match self.seats[at].server().handle().submit(request.clone()).await {
                Err(SubmitError::Overloaded { .. } | SubmitError::Unavailable | SubmitError::Unknown) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }

    /// A pool, and clusters with room for many tenants.
    pub(crate) async fn make_fleet(&self, clusters: usize) {
        let at = self.leader().await;
        expect_done(self.submit(at, ask(put_pool())).await);
        expect_done(self.submit(at, ask(put_class())).await);
        for number in 0..clusters {
            let name = format!("c{number}");
            expect_done(self.submit(at, ask(put_cluster(&name))).await);
            expect_done(self.submit(at, ask(report(&name))).await);
        }
    }

    /// Places a tenant through a replica.
    pub(crate) async fn place(&self, at: usize, name: &str) -> Submitted {
        self.submit(at, with_id(place(name))).await
    }
}

pub(crate) fn expect_done(submitted: Submitted) -> Done {
    match submitted {
        Ok((Outcome::Done(done), _)) => done,
        other => panic!("not done: {other:?}"),
    }
}

fn free_address() -> SocketAddr {
    free_loopback_address().unwrap()
}

/// A request that is idempotent by itself.
pub(crate) fn ask(ask: Ask) -> Request {
    Request { principal: "admin:test".parse().unwrap(), retry: None, ask }
}

/// A request with a new retry id.
pub(crate) fn with_id(what: Ask) -> Request {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let count = u128::from(COUNT.fetch_add(1, Ordering::Relaxed));
    let id = RequestId(unix_ms << 80 | 0x7 << 76 | 0b10 << 62 | count);
    Request { retry: Some(Retry { id, fingerprint: 1 }), ..ask(what) }
}

fn put_pool() -> Ask {
    let name = "home".parse().unwrap();
    Ask::PutPool { spec: PoolSpec { name, kind: PoolKind::Home, order: 1, price_micros: 0, policy: PoolPolicy::Spread }, expected: None }
}

fn put_cluster(name: &str) -> Ask {
    let spec = ClusterSpec {
        name: name.parse().unwrap(),
        uid: format!("uid-{name}"),
        provider: "own".to_owned(),
        region: "eu-1".to_owned(),
        zones: vec!["eu-1a".to_owned()],
        residency: "eu".to_owned(),
        labels: [].into(),
        taints: vec![],
        pool: "home".parse().unwrap(),
        dedicated_to: vec![],
        tenant_cap: 100_000,
        high_water: 90_000,
        shard_cap: 10_000,
        max_shards: 100,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    };
    Ask::PutCluster { spec: Box::new(spec), expected: None }
}

fn report(name: &str) -> Ask {
    let node = PodSize { cpu: Millicores(64_000), memory: Bytes(256 << 30) };
    let allocatable =
        Resources { cpu: Millicores(64_000_000), memory: Bytes(1 << 50), pods: 1_000_000, storage: Bytes(1 << 52), attachments: 1_000_000 };
    let nodes = vec![NodeSize { allocatable: node, largest_free: node, count: 1000 }];
    let capacity = Some(Capacity { allocatable, used_by_others: Resources::default(), nodes });
    Ask::Report(Box::new(Report {
        cluster: name.parse().unwrap(),
        uid: format!("uid-{name}"),
        capacity,
        tenants: vec![],
        by_agent: true,
        complete: None,
    }))
}

fn requests() -> Requests {
    let largest_pod = PodSize { cpu: Millicores(10), memory: Bytes(10 << 20) };
    let total = Resources { cpu: Millicores(20), memory: Bytes(20 << 20), pods: 2, storage: Bytes(1 << 20), attachments: 1 };
    Requests { total, largest_pod }
}

fn put_class() -> Ask {
    let class = ClassVersion {
        name: "shop".parse().unwrap(),
        version: "1.0.0".to_owned(),
        requests: requests(),
        volumes: vec![],
        retain: Millis::from_secs(60),
        values_schema: String::new(),
        template: String::new(),
        created: Revision::default(),
    };
    Ask::PutClass { class: Box::new(class) }
}

pub(crate) fn place(name: &str) -> Ask {
    let spec = TenantSpec {
        name: name.parse().unwrap(),
        owner: "acme".parse().unwrap(),
        class: "shop".parse().unwrap(),
        version: "1.0.0".to_owned(),
        values: "{}".to_owned(),
        hostnames: vec![],
        volumes: vec![],
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Arc::default(),
        requests: requests(),
    };
    Ask::PlaceTenant { spec: Box::new(spec), wait: true }
}
