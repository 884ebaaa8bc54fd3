//! Certificates that change, end, are revoked, or were never good.

use std::time::Duration;

use roadstead_server::config::ServerConfig;
use roadstead_server::lifecycle;
use roadstead_server::server::Server;
use roadstead_server::tls::Tls;

use crate::harness::{Authority, Group, expect_done, until, write_files};

/// Whether a replica lets this certificate into its TLS at all, by the public listener.
async fn connects(group: &Group, at: usize, pair: &(String, String), authorities: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::load(write_files(folder.path(), authorities, pair));
    let Ok(tls) = tls else { return false };
    open(&group.seats[at].client.to_string(), &tls).await.is_ok()
}

/// A TLS connection that has seen the server's answer to its certificate.
async fn open(address: &str, tls: &Tls) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let tcp = tokio::net::TcpStream::connect(address).await?;
    let name = "replica.roadstead".try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(tls.current().client.clone()).connect(name, tcp).await?;
    // In TLS 1.3 the client learns of a refusal with the first bytes only: those of HTTP/2's greeting.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_good_certificates_connect() {
    let group = Group::start(1).await;
    let ours = group.authority.pem();
    assert!(connects(&group, 0, &group.authority.issue("admin", "alice", 1, true), &ours).await);
    let stranger = Authority::new("stranger");
    let theirs = stranger.issue("admin", "mallory", 2, true);
    assert!(!connects(&group, 0, &theirs, &ours).await, "another authority's certificate was accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_on_both_ends() {
    let mut group = Group::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let expired = group.authority.issue("admin", "late", 3, false);
    let refused = Tls::load(write_files(folder.path(), &group.authority.pem(), &expired)).unwrap_err().to_string();
    assert!(refused.contains("expired"), "{refused}");

    let own = group.authority.issue("replica", "r0", 4, false);
    group.kill(0).await;
    std::fs::write(&group.seats[0].files.certificate, own.0).unwrap();
    std::fs::write(&group.seats[0].files.key, own.1).unwrap();
    let refused = Server::start(group.config(0)).await.unwrap_err().to_string();
    assert!(refused.contains("expired") && refused.contains("renew"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_loses_the_connection_that_is_open() {
    use tokio::io::AsyncReadExt;
    let group = Group::start(1).await;
    let seat = &group.seats[0];
    let folder = tempfile::tempdir().unwrap();
    let pair = group.authority.issue("admin", "bob", 77, true);
    let tls = Tls::load(write_files(folder.path(), &group.authority.pem(), &pair)).unwrap();
    let mut open_one = open(&seat.client.to_string(), &tls).await.unwrap();
    std::fs::write(seat.files.revocations.as_ref().unwrap(), group.authority.revoke(&[77])).unwrap();

    let closed = async {
        let mut rest = Vec::new();
        // The end of the stream or an error: either way it is closed.
        let _ = open_one.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the open connection of a revoked certificate was left open");
    assert!(open(&seat.client.to_string(), &tls).await.is_err(), "a revoked certificate connects");
    assert!(connects(&group, 0, &group.authority.issue("admin", "carol", 78, true), &group.authority.pem()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_change_without_an_outage() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    let next = Authority::new("next");
    let both = format!("{}{}", group.authority.pem(), next.pem());
    let mut placed = 0;

    // 1. All trust both. 2. All get certificates of the next one. 3. All trust only the next one.
    for number in 0..3 {
        std::fs::write(&group.seats[number].files.authorities, &both).unwrap();
    }
    reloaded(&group, &next, &both).await;
    for number in 0..3 {
        let (certificate, key) = next.issue("replica", &format!("r{number}"), 200 + number as u64, true);
        // Between the two writes the pair does not fit; what is in use stays in use.
        std::fs::write(&group.seats[number].files.certificate, certificate).unwrap();
        std::fs::write(&group.seats[number].files.key, key).unwrap();
        expect_done(group.place(number, &format!("during-{placed}")).await);
        placed += 1;
    }
    for number in 0..3 {
        let handle = group.seats[number].server().tls().clone();
        let files = group.seats[number].files.clone();
        let wanted = std::fs::read(&files.certificate).unwrap();
        until("the new certificate is in use", || async {
            let _ = handle.reload();
            (std::fs::read(&files.certificate).unwrap() == wanted && handle.reload().is_ok_and(|changed| !changed)).then_some(())
        })
        .await;
        std::fs::write(&files.authorities, next.pem()).unwrap();
    }
    let old = group.authority.issue("admin", "old", 9, true);
    until("the old authority is not trusted any more", || async { (!connects(&group, 0, &old, &both).await).then_some(()) }).await;
    group.leader().await;
    for number in 0..3 {
        expect_done(group.place(number, &format!("after-{number}")).await);
    }
    group.authority = next;
}

/// Waits until every replica accepts a certificate of this authority.
async fn reloaded(group: &Group, authority: &Authority, trusted: &str) {
    let pair = authority.issue("admin", "probe", 300, true);
    for at in 0..group.seats.len() {
        until("the new authority is trusted", || async { connects(group, at, &pair, trusted).await.then_some(()) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_replicas_certificate_joins() {
    let mut group = Group::start(1).await;
    let seat = group.seat();
    let folder = tempfile::tempdir().unwrap();
    let admin = group.authority.issue("admin", "alice", 5, true);
    let tls = Tls::load(write_files(folder.path(), &group.authority.pem(), &admin)).unwrap();
    let via = group.seats[0].peer.to_string();
    let refused = lifecycle::join(&group.seats[seat].data, group.seats[seat].info(), group.backend, &via, &tls).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("takes the role replica"), "{refused}");
    let config = ServerConfig { tls: write_files(folder.path(), &group.authority.pem(), &admin), ..group.config(0) };
    let refused = Server::start(config).await.unwrap_err().to_string();
    assert!(refused.contains("role admin") && refused.contains("role replica"), "{refused}");
}
