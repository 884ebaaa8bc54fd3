//! Certificates: what is issued is trusted, what is revoked is not, and a change of authority breaks nobody.

use std::path::Path;
use std::sync::Arc;

use roadstead_cli::pki::store::Files;
use roadstead_cli::pki::{Error, REPLICA_DNS_NAME, Role, Store, Subject, show};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("file").collect::<Result<_, _>>().expect("PEM")
}

fn roots(bundle: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(bundle) {
        roots.add(authority).expect("an authority");
    }
    Arc::new(roots)
}

/// What a replica's TLS stack says to a client's certificate, revocation lists included.
fn client_is_accepted(files: &Files) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(&files.crl).expect("file").collect::<Result<_, _>>().expect("PEM");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(&files.ca_bundle), provider).with_crls(lists).build().expect("verifier");
    let chain = certificates(&files.certificate);
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map(|_| ())
}

fn key_belongs(files: &Files) -> bool {
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("key");
    let provider = rustls::crypto::ring::default_provider();
    let signer = provider.key_provider.load_private_key(key).expect("a key");
    rustls::sign::CertifiedKey::new(certificates(&files.certificate), signer).keys_match().is_ok()
}

#[test]
fn every_role_gets_a_certificate_that_the_authority_vouches_for() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    for role in [Role::Replica, Role::Admin, Role::Operator, Role::Viewer, Role::Client, Role::Agent] {
        let files = store.issue(&Subject::new(role, "one"), 90).expect("issue");
        client_is_accepted(&files).unwrap_or_else(|error| panic!("{role}: {error}"));
        assert!(key_belongs(&files), "{role}");
        let shown = show::read(&files.certificate).expect("show").remove(0);
        assert_eq!(shown.names[0], format!("roadstead://{role}/one"));
        assert_eq!(shown.names.contains(&REPLICA_DNS_NAME.to_owned()), role == Role::Replica, "{role}");
        assert!(!shown.authority);
    }
}

#[test]
fn a_replica_is_known_by_its_dns_name_and_nobody_else_can_serve() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let name = ServerName::try_from(REPLICA_DNS_NAME).expect("a name");
    for (role, accepted) in [(Role::Replica, true), (Role::Admin, false), (Role::Agent, false)] {
        let files = store.issue(&Subject::new(role, "one"), 90).expect("issue");
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(&files.ca_bundle), Arc::clone(&provider)).build().expect("verifier");
        let chain = certificates(&files.certificate);
        let verified = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now());
        assert_eq!(verified.is_ok(), accepted, "{role}: {verified:?}");
    }
}

#[test]
fn a_client_carries_its_owners_and_nobody_else_may() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let owners = vec!["acme-gmbh".to_owned(), "b@example.org".to_owned()];
    let subject = Subject { owners: owners.clone(), ..Subject::new(Role::Client, "portal") };
    let files = store.issue(&subject, 90).expect("issue");
    let names = show::read(&files.certificate).expect("show").remove(0).names;
    assert_eq!(names, ["roadstead://client/portal", "roadstead://owner/acme-gmbh", "roadstead://owner/b@example.org"]);
    let wrong = Subject { owners, ..Subject::new(Role::Admin, "alice") };
    assert!(matches!(store.issue(&wrong, 90), Err(Error::OwnersWithoutClient(Role::Admin))));
    assert!(matches!(store.issue(&Subject::new(Role::Admin, "../alice"), 90), Err(Error::BadName { .. })));
}

#[test]
fn what_is_revoked_is_refused_and_the_rest_is_not() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let alice = store.issue(&Subject::new(Role::Admin, "alice"), 90).expect("issue");
    let bob = store.issue(&Subject::new(Role::Admin, "bob"), 90).expect("issue");
    assert_eq!(store.revoke("admin-alice").expect("revoke").len(), 1);
    assert!(matches!(client_is_accepted(&alice), Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked))));
    client_is_accepted(&bob).expect("bob was not revoked");
    assert!(matches!(store.revoke("admin-carol"), Err(Error::NotIssued(_))));
    // A reopened folder remembers.
    let mut store = Store::open(folder.path()).expect("open");
    store.revoke("admin-bob").expect("revoke");
    assert!(client_is_accepted(&alice).is_err() && client_is_accepted(&bob).is_err());
}

#[test]
fn renewing_keeps_subject_and_key() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let subject = Subject { hosts: vec!["r1.example.com".to_owned(), "10.0.0.1".to_owned()], ..Subject::new(Role::Replica, "r1") };
    let files = store.issue(&subject, 30).expect("issue");
    let (before, key) = (show::read(&files.certificate).expect("show").remove(0), std::fs::read(&files.key).expect("key"));
    store.renew("replica-r1", None, false).expect("renew");
    let after = show::read(&files.certificate).expect("show").remove(0);
    assert_eq!(after.names, before.names);
    assert_ne!(after.serial, before.serial);
    assert_eq!(std::fs::read(&files.key).expect("key"), key);
    store.renew("replica-r1", None, true).expect("renew");
    assert_ne!(std::fs::read(&files.key).expect("key"), key);
    assert!(key_belongs(&files));
}

#[test]
fn a_change_of_authority_refuses_nobody_who_follows_it() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let alice = store.issue(&Subject::new(Role::Admin, "alice"), 90).expect("issue");
    let mallory = store.issue(&Subject::new(Role::Admin, "mallory"), 90).expect("issue");
    store.revoke("admin-mallory").expect("revoke");

    store.begin_rotation().expect("begin");
    client_is_accepted(&alice).expect("the previous authority is trusted");
    assert!(client_is_accepted(&mallory).is_err(), "a revocation survives the rotation");
    assert!(matches!(store.begin_rotation(), Err(Error::Rotation(_))));
    assert!(matches!(store.finish_rotation(false), Err(Error::Rotation(_))), "alice still depends on the previous one");

    store.renew("admin-alice", None, false).expect("renew");
    client_is_accepted(&alice).expect("by the new one");
    store.finish_rotation(false).expect("finish");
    client_is_accepted(&alice).expect("by the new one alone");
    assert!(client_is_accepted(&mallory).is_err());
    assert!(!folder.path().join("previous.key").exists());
}

#[test]
fn keys_are_for_their_owner_only_and_init_replaces_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let files = store.issue(&Subject::new(Role::Viewer, "v"), 90).expect("issue");
    for key in [folder.path().join("ca.key"), files.key] {
        assert_eq!(std::fs::metadata(key).expect("key").permissions().mode() & 0o777, 0o600);
    }
    assert!(matches!(Store::init(folder.path()), Err(Error::Exists(_))));
    assert!(matches!(Store::open(Path::new("/nonexistent/pki")), Err(Error::NotInitialised(_))));
}

#[test]
fn what_an_issuer_signs_is_a_client_and_never_a_server() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::init(folder.path()).expect("init");
    let files = store.issue(&Subject::new(Role::Issuer, "r1"), 90).expect("issue");
    assert!(show::read(&files.certificate).expect("show").remove(0).authority);
    let (own, key) = (std::fs::read_to_string(&files.certificate).expect("file"), std::fs::read_to_string(&files.key).expect("file"));
    let issuer = rcgen::Issuer::from_ca_cert_pem(&own, rcgen::KeyPair::from_pem(&key).expect("a key")).expect("an issuer");
    let signed = |dns: Vec<String>, usage: rcgen::ExtendedKeyUsagePurpose, is_ca: rcgen::IsCa| {
        let mut params = rcgen::CertificateParams::new(dns).expect("names");
        params.extended_key_usages = vec![usage];
        params.is_ca = is_ca;
        let key = rcgen::KeyPair::generate().expect("a key");
        [params.signed_by(&key, &issuer).expect("signed").der().clone(), certificates(&files.certificate).remove(0)]
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots(&files.ca_bundle), Arc::clone(&provider)).build().expect("verifier");
    let servers = WebPkiServerVerifier::builder_with_provider(roots(&files.ca_bundle), provider).build().expect("verifier");
    let client = |chain: &[CertificateDer<'static>]| clients.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok();
    let name = ServerName::try_from(REPLICA_DNS_NAME).expect("a name");
    let server =
        |chain: &[CertificateDer<'static>]| servers.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok();
    let (clients_use, servers_use) = (rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let dns = || vec![REPLICA_DNS_NAME.to_owned()];
    assert!(client(&signed(Vec::new(), clients_use.clone(), rcgen::IsCa::NoCa)));
    assert!(!client(&signed(dns(), clients_use, rcgen::IsCa::NoCa)), "it carries a server's name");
    assert!(!server(&signed(dns(), servers_use, rcgen::IsCa::NoCa)));

    // What is revoked takes with it what it has signed; it is renewed like any other.
    store.renew("issuer-r1", None, false).expect("renew");
    store.revoke("issuer-r1").expect("revoke");
    assert!(store.issued().iter().all(|issued| issued.revoked.is_some()));
}

#[test]
fn what_init_says_comes_next_makes_all_that_a_service_starts_with() {
    let folder = tempfile::tempdir().expect("folder");
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead")).args(words).current_dir(&folder).output().expect("run");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let said = run(&["pki", "init", "--dir", "own"]);
    for command in said.lines().filter_map(|line| line.trim().strip_prefix("roadstead ")) {
        let words: Vec<&str> = command.split_whitespace().take_while(|word| *word != "#").collect();
        run(&words);
    }
    for file in ["replica-r1.crt", "issuer-r1.crt", "issuer-r1.key", "admin-me.crt", "ca-bundle.crt", "crl.pem"] {
        assert!(folder.path().join("own").join(file).exists(), "no {file}:\n{said}");
    }
}
