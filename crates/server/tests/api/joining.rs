//! How agents are let in: tokens that are exchanged once, certificates that renew themselves, and what those are not good for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequest, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use roadstead_api::v1;
use roadstead_api::v1::agent_service_client::AgentServiceClient;
use roadstead_api::v1::join_service_client::JoinServiceClient;
use roadstead_server::identity::{Caller, REPLICA_DNS_NAME, Role};
use roadstead_server::issuer::IssuerFiles;
use roadstead_server::server::Server;
use roadstead_server::services::join::token_digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Authority, Group, PATIENCE, quick, until, write_files};
use crate::world::{Fleet, Placement, World, connect, fields, place, put_cluster, put_pool, reason, report};

type Joins = JoinServiceClient<Channel>;

/// Serial number of the issuer.
const ISSUER: u64 = 51;
const LONG: Duration = Duration::from_secs(3600);

/// A certificate (PEM) that signs agents' certificates, and its key (PEM).
fn issuer_by(authority: &Authority) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "issuer");
    params.subject_alt_names.push(SanType::URI("roadstead://issuer/one".try_into().unwrap()));
    params.serial_number = Some(ISSUER.into());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2200, 1, 1));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &authority.issuer).unwrap().pem(), key.serialize_pem())
}

/// Replicas that issue certificates of this life, and the clusters `c0` and `c1`, of which nothing has reported yet.
async fn joinable(replicas: usize, life: Duration) -> World {
    let mut group = Group::empty(quick());
    let files = write_files(&group.folder.path().join("issuer"), "", &issuer_by(&group.authority));
    group.issuer = Some(IssuerFiles { certificate: files.certificate, key: files.key, life });
    group.fill(replicas).await;
    let mut world = World::of(group).await;
    world.fleet.put_pool(put_pool("home")).await.unwrap();
    for name in ["c0", "c1"] {
        world.fleet.put_cluster(put_cluster(name, "home")).await.unwrap();
    }
    // The level that knows tokens is agreed soon after the start.
    let token = v1::PutTokenRequest { cluster: "c0".into(), token_digest: vec![0; 32].into(), ..Default::default() };
    let joins = Joins::new(world.connect("operator", "root", &[]).await);
    until("tokens can be made", || async { joins.clone().put_token(token.clone()).await.ok() }).await;
    world
}

/// A connection of somebody without a certificate, who trusts this authority.
async fn stranger(group: &Group, at: usize, trusted: &str) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted)).domain_name(REPLICA_DNS_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", group.seats[at].client)).unwrap();
    endpoint.tls_config(tls).unwrap().connect_timeout(PATIENCE).connect().await
}

async fn door(world: &World, at: usize) -> Joins {
    Joins::new(stranger(&world.group, at, &world.group.authority.pem()).await.unwrap())
}

/// Gives a cluster a token of this life.
async fn put_token(world: &World, cluster: &str, token: &str, life: Option<Duration>) -> Timestamp {
    let mut joins = Joins::new(world.connect("operator", "root", &[]).await);
    let request = v1::PutTokenRequest {
        cluster: cluster.into(),
        token_digest: token_digest(token).to_vec().into(),
        life: life.map(|life| life.try_into().unwrap()),
        ..Default::default()
    };
    joins.put_token(request).await.unwrap().into_inner().until.unwrap()
}

fn request(key: &KeyPair) -> CertificateSigningRequest {
    CertificateParams::default().serialize_request(key).unwrap()
}

fn enrol(cluster: &str, token: &str, key: &KeyPair) -> v1::EnrolRequest {
    let request = request(key).der().to_vec().into();
    v1::EnrolRequest { cluster: cluster.into(), token: token.into(), uid: format!("uid-{cluster}"), request }
}

async fn enrolled(world: &World, cluster: &str, token: &str, key: &KeyPair) -> Result<v1::Issued, Status> {
    door(world, 0).await.enrol(enrol(cluster, token, key)).await.map(|answer| answer.into_inner().issued.unwrap())
}

/// A connection by a certificate that was issued.
async fn connected(world: &World, issued: &v1::Issued, key: &KeyPair) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&issued.authorities))
        .identity(Identity::from_pem(&issued.certificate, key.serialize_pem()))
        .domain_name(REPLICA_DNS_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", world.group.seats[0].client)).unwrap();
    endpoint.tls_config(tls).unwrap().connect_timeout(PATIENCE).connect().await
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn refused_token(status: &Status, words: &str) {
    assert_eq!(fields(status), ["token"], "{status:?}");
    assert!(status.message().contains(words) && status.message().contains("roadstead join"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_becomes_the_certificate_of_its_clusters_agent_once() {
    let mut world = joinable(1, LONG).await;
    put_token(&world, "c0", "secret", None).await;
    let key = KeyPair::generate().unwrap();
    let issued = enrolled(&world, "c0", "secret", &key).await.unwrap();
    assert_eq!(Caller::from_chain(&chain(&issued.certificate)).unwrap().principal.as_str(), "agent:c0");
    assert_eq!(issued.authorities, world.group.authority.pem());

    let channel = connected(&world, &issued, &key).await.unwrap();
    let uid = || "uid-c0".to_owned();
    AgentServiceClient::new(channel.clone()).observe(v1::ObserveRequest { uid: uid(), ..Default::default() }).await.unwrap();
    let mut fleet = Fleet::new(channel);
    let own = fleet.get_cluster(v1::GetClusterRequest { name: "c0".into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(own.cluster.unwrap().spec.unwrap().uid, uid(), "the first to come is the cluster");
    let other = fleet.get_cluster(v1::GetClusterRequest { name: "c1".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(reason(&other).1, "CLUSTER_NOT_ALLOWED");

    // The answer may have been lost: the same key gets another one.
    let again = enrolled(&world, "c0", "secret", &key).await.unwrap();
    assert!(connected(&world, &again, &key).await.is_ok());
    refused_token(&enrolled(&world, "c0", "secret", &KeyPair::generate().unwrap()).await.unwrap_err(), "was used already");
    let listed = world.fleet.list_clusters(v1::ListClustersRequest::default()).await.unwrap().into_inner().clusters;
    assert_eq!(listed.len(), 2, "nothing else has changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refused_after_its_time_for_another_cluster_and_when_it_was_replaced() {
    let world = joinable(1, LONG).await;
    let key = KeyPair::generate().unwrap();
    refused_token(&enrolled(&world, "c0", "guessed", &key).await.unwrap_err(), "is none of this cluster");
    let ends = put_token(&world, "c0", "secret", Some(Duration::from_millis(1))).await;
    let ends = Duration::new(ends.seconds.try_into().unwrap(), ends.nanos.try_into().unwrap());
    until("its time has passed", || async {
        (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > ends + Duration::from_millis(100)).then_some(())
    })
    .await;
    refused_token(&enrolled(&world, "c0", "secret", &key).await.unwrap_err(), "has expired");

    put_token(&world, "c0", "second", None).await;
    refused_token(&enrolled(&world, "c1", "second", &key).await.unwrap_err(), "another cluster's");
    refused_token(&enrolled(&world, "nowhere", "second", &key).await.unwrap_err(), "another cluster's");
    put_token(&world, "c0", "third", None).await;
    refused_token(&enrolled(&world, "c0", "second", &key).await.unwrap_err(), "a newer one");
    enrolled(&world, "c0", "third", &key).await.unwrap();

    let mut joins = Joins::new(world.connect("operator", "root", &[]).await);
    let token = |change: v1::PutTokenRequest| v1::PutTokenRequest { token_digest: vec![1; 32].into(), ..change };
    let wrong = joins.put_token(v1::PutTokenRequest { cluster: "c0".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(fields(&wrong), ["token_digest"]);
    let unknown = joins.put_token(token(v1::PutTokenRequest { cluster: "nowhere".into(), ..Default::default() })).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let copy = token(v1::PutTokenRequest { cluster: "c0".into(), uid: "uid-of-a-copy".into(), ..Default::default() });
    assert_eq!(fields(&joins.put_token(copy).await.unwrap_err()), ["uid"]);
    let forever = Some(Duration::from_secs(8 * 24 * 3600).try_into().unwrap());
    let long = token(v1::PutTokenRequest { cluster: "c0".into(), life: forever, ..Default::default() });
    assert_eq!(fields(&joins.put_token(long).await.unwrap_err()), ["life"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_gets_what_the_token_says_whatever_it_asks_for() {
    let world = joinable(1, LONG).await;
    put_token(&world, "c0", "secret", None).await;
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(vec![REPLICA_DNS_NAME.to_owned()]).unwrap();
    greedy.subject_alt_names.push(SanType::URI("roadstead://admin/root".try_into().unwrap()));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let asked = greedy.serialize_request(&key).unwrap().der().to_vec();
    let mut joins = door(&world, 0).await;
    let message = v1::EnrolRequest { request: asked.clone().into(), ..enrol("c0", "secret", &key) };
    let issued = joins.enrol(message.clone()).await.unwrap().into_inner().issued.unwrap();
    let chain = chain(&issued.certificate);
    let caller = Caller::from_chain(&chain).unwrap();
    assert_eq!((caller.role, caller.name.as_str()), (Role::Agent, "c0"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(!parsed.is_ca() && names.len() == 1, "{names:?}");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);

    // Who has not the key has signed nothing.
    let mut forged = asked;
    *forged.last_mut().unwrap() ^= 1;
    for bad in [forged, Vec::new(), vec![0; 64], vec![0; 9000]] {
        let refused = joins.enrol(v1::EnrolRequest { request: bad.into(), ..message.clone() }).await.unwrap_err();
        assert_eq!(fields(&refused), ["request"]);
    }
    let refused = joins.enrol(v1::EnrolRequest::default()).await.unwrap_err();
    assert_eq!(fields(&refused), ["cluster", "token", "uid", "request"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_exchange_a_token_at_once_one_is_let_in() {
    let world = joinable(3, LONG).await;
    for round in 0..5 {
        let token = format!("secret-{round}");
        put_token(&world, "c1", &token, None).await;
        let keys: Vec<KeyPair> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
        let exchanges = keys.iter().enumerate().map(|(at, key)| {
            let (world, message) = (&world, enrol("c1", &token, key));
            async move { door(world, at).await.enrol(message).await }
        });
        let outcomes = futures::future::join_all(exchanges).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).for_each(|status| refused_token(status, "was used already"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_renews_for_its_own_cluster_only() {
    let world = joinable(1, LONG).await;
    put_token(&world, "c0", "secret", None).await;
    let (key, next) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let issued = enrolled(&world, "c0", "secret", &key).await.unwrap();
    let mut joins = Joins::new(connected(&world, &issued, &key).await.unwrap());
    let renew = |uid: &str| v1::RenewRequest { uid: uid.into(), request: request(&next).der().to_vec().into() };
    let renewed = joins.renew(renew("uid-c0")).await.unwrap().into_inner().issued.unwrap();
    assert_eq!(Caller::from_chain(&chain(&renewed.certificate)).unwrap().principal.as_str(), "agent:c0");
    let mut joins = Joins::new(connected(&world, &renewed, &next).await.unwrap());
    joins.renew(renew("uid-c0")).await.unwrap();
    let copy = joins.renew(renew("uid-of-a-copy")).await.unwrap_err();
    assert_eq!(fields(&copy), ["uid"]);
    let token = v1::PutTokenRequest { cluster: "c0".into(), token_digest: vec![1; 32].into(), ..Default::default() };
    assert_eq!(reason(&joins.put_token(token).await.unwrap_err()).1, "ROLE_NOT_ALLOWED");
    // An offline certificate is an agent's as well; nobody else renews.
    let mut offline = Joins::new(world.connect("agent", "c1", &[]).await);
    let other = offline.renew(renew("uid-c1")).await.unwrap().into_inner().issued.unwrap();
    assert_eq!(Caller::from_chain(&chain(&other.certificate)).unwrap().principal.as_str(), "agent:c1");
    for role in ["replica", "admin", "operator", "viewer", "client", "issuer"] {
        let mut joins = Joins::new(world.connect(role, "c0", &[]).await);
        assert_eq!(reason(&joins.renew(renew("uid-c0")).await.unwrap_err()).1, "ROLE_NOT_ALLOWED", "{role}");
    }
    world.fleet.clone().delete_cluster(v1::DeleteClusterRequest { name: "c0".into(), ..Default::default() }).await.unwrap();
    let mut joins = Joins::new(connected(&world, &renewed, &next).await.unwrap());
    assert_eq!(joins.renew(renew("uid-c0")).await.unwrap_err().code(), Code::NotFound, "a cluster that is gone has no agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_agent_is_refused_and_joins_again_as_itself() {
    let mut world = joinable(1, Duration::from_secs(2)).await;
    world.fleet.put_class(crate::world::put_class("shop", "1.0.0")).await.unwrap();
    put_token(&world, "c0", "first", None).await;
    let key = KeyPair::generate().unwrap();
    let issued = enrolled(&world, "c0", "first", &key).await.unwrap();
    world.fleet.report_capacity(report("c0")).await.unwrap();
    let before = world.place("anvils", "acme").await;
    until("the certificate has ended", || async {
        let channel = connected(&world, &issued, &key).await.ok()?;
        let mut agent = AgentServiceClient::new(channel);
        agent.observe(v1::ObserveRequest { uid: "uid-c0".into(), ..Default::default() }).await.err()
    })
    .await;
    // Its token is used, also for itself once another has been made.
    put_token(&world, "c0", "second", None).await;
    refused_token(&enrolled(&world, "c0", "first", &key).await.unwrap_err(), "a newer one");
    let copy = v1::EnrolRequest { uid: "uid-of-a-copy".into(), ..enrol("c0", "second", &key) };
    let refused = door(&world, 0).await.enrol(copy).await.unwrap_err();
    assert_eq!(fields(&refused), ["uid"]);
    assert!(refused.message().contains("a copy takes another name"), "{}", refused.message());
    let issued = enrolled(&world, "c0", "second", &key).await.unwrap();
    let mut placement = Placement::new(connected(&world, &issued, &key).await.unwrap());
    let request = v1::GetTenantRequest { name: "anvils".into(), ..Default::default() };
    let kept = placement.get_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!((kept.uid, kept.status.unwrap().binding), (before.uid, before.status.unwrap().binding));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_there_is_one_call_and_none_where_none_are_issued() {
    let world = joinable(1, LONG).await;
    let pem = world.group.authority.pem();
    let channel = stranger(&world.group, 0, &pem).await.unwrap();
    let refused = |status: Status| {
        assert_eq!((status.code(), reason(&status).1.as_str()), (Code::Unauthenticated, "NO_CALLER"));
        assert!(status.message().contains("shows no certificate"), "{}", status.message());
    };
    refused(Placement::new(channel.clone()).place_tenant(place("anvils", "acme")).await.unwrap_err());
    refused(Fleet::new(channel.clone()).report_capacity(report("c0")).await.unwrap_err());
    refused(AgentServiceClient::new(channel.clone()).observe(v1::ObserveRequest::default()).await.unwrap_err());
    refused(Joins::new(channel.clone()).put_token(v1::PutTokenRequest::default()).await.unwrap_err());
    refused(Joins::new(channel).renew(v1::RenewRequest::default()).await.unwrap_err());
    // Few are let in at a time; who has a certificate is not in their queue.
    let mut inside = Vec::new();
    loop {
        assert!(inside.len() <= 64, "{} are inside", inside.len());
        let Ok(channel) = stranger(&world.group, 0, &pem).await else { break };
        let answer = Joins::new(channel.clone()).renew(v1::RenewRequest::default()).await.unwrap_err();
        if answer.get_error_details().error_info().is_none() {
            break;
        }
        inside.push(channel);
    }
    assert!(inside.len() >= 32, "only {} were let in", inside.len());
    world.fleet.clone().list_clusters(v1::ListClustersRequest::default()).await.unwrap();
    drop(inside);
    let key = KeyPair::generate().unwrap();
    until("there is room again", || async {
        let channel = stranger(&world.group, 0, &pem).await.ok()?;
        let refused = Joins::new(channel).enrol(enrol("c0", "t", &key)).await.unwrap_err();
        refused.get_error_details().error_info().is_some().then_some(())
    })
    .await;
    // Who asks trusts the authority that it was given, and tells its token to nobody else.
    assert!(stranger(&world.group, 0, &Authority::new("stranger").pem()).await.is_err());

    let closed = World::empty(1).await;
    // In TLS 1.3 the refusal may come after the connection was made.
    if let Ok(channel) = stranger(&closed.group, 0, &closed.group.authority.pem()).await {
        let refused = Joins::new(channel).enrol(enrol("c0", "t", &key)).await.unwrap_err();
        assert!(refused.get_error_details().error_info().is_none(), "no service has answered: {refused:?}");
    }
    let status = Joins::new(connect(&closed.group, 0, "agent", "c0", &[]).await).enrol(enrol("c0", "t", &key)).await.unwrap_err();
    assert_eq!(reason(&status).1, "NO_ISSUER");
    for (world, issues) in [(&world, true), (&closed, false)] {
        let status = world.admin.clone().get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner();
        assert_eq!(status.issues_certificates, Some(issues), "a replica says of itself whether it issues");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_issuer_takes_what_it_signed_with_it() {
    let world = joinable(1, LONG).await;
    put_token(&world, "c0", "secret", None).await;
    let key = KeyPair::generate().unwrap();
    let issued = enrolled(&world, "c0", "secret", &key).await.unwrap();
    let mut open = AgentServiceClient::new(connected(&world, &issued, &key).await.unwrap());
    let news = || v1::ObserveRequest { uid: "uid-c0".into(), ..Default::default() };
    open.observe(news()).await.unwrap();
    std::fs::write(world.group.seats[0].files.revocations.as_ref().unwrap(), world.group.authority.revoke(&[ISSUER])).unwrap();
    until("its agent is refused", || async { open.clone().observe(news()).await.err() }).await;
    // The replica signs nothing more that nobody believes.
    let refused = enrolled(&world, "c0", "secret", &key).await.unwrap_err();
    assert_eq!(reason(&refused).1, "ISSUER_UNUSABLE");
    assert!(refused.message().contains("not accepted here"), "{}", refused.message());
    let mut offline = AgentServiceClient::new(world.connect("agent", "c0", &[]).await);
    offline.observe(news()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_sign_spends_no_token() {
    let world = joinable(1, LONG).await;
    put_token(&world, "c0", "secret", None).await;
    let file = world.group.issuer.as_ref().unwrap().key.clone();
    let own = std::fs::read(&file).unwrap();
    std::fs::write(&file, "").unwrap();
    let refused = enrolled(&world, "c0", "secret", &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(reason(&refused).1, "ISSUER_UNUSABLE");
    std::fs::write(&file, own).unwrap();
    // An agent that was started anew has another key: the one before was kept nowhere.
    enrolled(&world, "c0", "secret", &KeyPair::generate().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_issuer_signs_is_believed_of_agents_only() {
    let mut world = joinable(1, LONG).await;
    let (certificate, key) = issuer_by(&world.group.authority);
    let issuer = rcgen::Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key).unwrap()).unwrap();
    let signed = |role: &str| {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(format!("roadstead://{role}/c0").try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().pem();
        (v1::Issued { certificate: format!("{leaf}{certificate}"), authorities: world.group.authority.pem() }, key)
    };
    for role in ["replica", "admin", "operator", "viewer", "client", "issuer"] {
        let (issued, key) = signed(role);
        let mut placement = Placement::new(connected(&world, &issued, &key).await.unwrap());
        let refused = placement.list_tenants(v1::ListTenantsRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{role}");
        assert!(refused.message().contains("signed by an issuer"), "{}", refused.message());
    }
    let (issued, key) = signed("agent");
    let mut placement = Placement::new(connected(&world, &issued, &key).await.unwrap());
    placement.list_tenants(v1::ListTenantsRequest::default()).await.unwrap();

    // Certificates of others, and of no issuer, issue nothing: the replica says so when it starts.
    world.group.kill(0).await;
    let stranger = issuer_by(&Authority::new("stranger"));
    let admin = world.group.authority.issue("admin", "root", 9, true);
    for (pair, words) in [(stranger, "not accepted here"), (admin, "not one of role issuer")] {
        let files = write_files(&world.group.folder.path().join("bad"), "", &pair);
        world.group.issuer = Some(IssuerFiles { certificate: files.certificate, key: files.key, life: LONG });
        let refused = Server::start(world.group.config(0)).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    // An issuer among the authorities would be believed of everybody.
    world.group.issuer = None;
    let both = format!("{}{certificate}", world.group.authority.pem());
    std::fs::write(&world.group.seats[0].files.authorities, both).unwrap();
    let refused = Server::start(world.group.config(0)).await.unwrap_err().to_string();
    assert!(refused.contains("is no authority"), "{refused}");
}
