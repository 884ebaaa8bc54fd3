//! Callers that are not what they should be: certificates that have ended or come from elsewhere, bytes that are no message, messages
//! without bounds, connections without end. Each is refused or bounded, and nobody else is hurt.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use roadstead_tests::client::Credentials;
use roadstead_tests::disk::not_run;
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::{Group, Options, SERVER_NAME};
use roadstead_tests::process::until;
use roadstead_tests::tenants::{Placing, clients, place, place_once, reason};
use roadstead_tests::{cli, http, pki, raw};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(30);
const FLEET: Fleet = Fleet { clusters: 4, regions: 2, tenant_cap: 500 };
/// A certificate is looked at again this often while its connection is open, and some.
const EXPIRY_WITHIN: Duration = Duration::from_secs(45);
/// A placement on a machine that is busy with something else.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Bytes that garbage may cost a replica.
const MOST_GARBAGE_MEMORY: u64 = 96 << 20;
const IDLE: usize = 10_000;
/// Idle connections made at a time: as many handshakes as a replica works on.
const CONNECTING: usize = 64;

/// A group with a fleet.
async fn serving(replicas: usize) -> Result<(Group, Placements)> {
    let group = Group::start(replicas).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    Ok((group, Placements::new("t")))
}

fn log_of(group: &Group, number: usize) -> Result<String> {
    let bytes = std::fs::read(group.folder().join(format!("r{number}.log"))).context("failed to read a log")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A number of `/metrics`.
async fn metric(group: &Group, number: usize, name: &str) -> Result<f64> {
    let metrics = http::get(group.replica(number).probes, "/metrics").await?;
    let line = metrics.lines().find(|line| line.starts_with(name)).with_context(|| format!("there is no metric {name}"))?;
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).context("a metric has a value")
}

/// Why a greeting was not answered.
async fn refusal(address: SocketAddr, credentials: &Credentials) -> Result<String> {
    let error = raw::greet(address, credentials).await.err().with_context(|| format!("{address} took a bad certificate"))?;
    Ok(format!("{error:#}"))
}

#[tokio::test]
async fn an_expired_client_is_told_so_and_open_connections_are_not_hurt() -> Result<()> {
    let (group, placements) = serving(1).await?;
    let mut good = clients(&group)?.remove(0);
    place_once(&mut good, &placements.request(1)).await.context("a good client places")?;
    let ended = SystemTime::now() - Duration::from_secs(60);
    for (role, address) in [("client", group.replica(1).client), ("replica", group.replica(1).peer)] {
        let why = refusal(address, &pki::credentials(&group, role, "late", ended)?).await?;
        ensure!(why.contains("CertificateExpired"), "an expired {role} hears: {why}");
    }
    let late = pki::credentials(&group, "client", "late", ended)?;
    let status = place_once(&mut Placing::new(late.channel(group.replica(1).client)?), &placements.request(2)).await;
    println!("a gRPC client with an expired certificate hears: {:?}", status.err().context("an expired client placed")?);
    // The command line looks itself, before it asks.
    std::fs::write(group.folder().join("pki/admin-test.crt"), &late.certificate)?;
    std::fs::write(group.folder().join("pki/admin-test.key"), &late.key)?;
    let said = cli::try_run(&group, 1, &["get", "tenants"])?;
    ensure!(said.code == 6 && said.text.contains("expired at") && said.text.contains("pki renew"), "{}: {}", said.code, said.text);
    place_once(&mut good, &placements.request(3)).await.context("a good client places")?;
    let log = log_of(&group, 1)?;
    ensure!(log.lines().any(|line| line.contains("connection refused") && line.contains("expired")), "the log does not say why:\n{log}");
    ensure!(metric(&group, 1, "roadstead_connections_refused_total{listener=\"client\"}").await? >= 2.0, "refusals are not counted");
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate_and_others_stay_open() -> Result<()> {
    let (group, placements) = serving(1).await?;
    let address = group.replica(1).client;
    let mut stays = raw::greet(address, &group.credentials("client-test")?).await?;
    let end = SystemTime::now() + Duration::from_secs(4);
    let mut ends = raw::greet(address, &pki::credentials(&group, "client", "soon", end)?).await?;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(EXPIRY_WITHIN, ends.read_to_end(&mut rest)).await;
    ensure!(closed.is_ok(), "the connection of an expired certificate is open after {EXPIRY_WITHIN:?}");
    ensure!(SystemTime::now() >= end, "it was closed before its certificate ended");
    println!("closed {:?} after the certificate's end", SystemTime::now().duration_since(end).unwrap_or_default());
    ensure!(metric(&group, 1, "roadstead_connections_closed_total{listener=\"client\"}").await? == 1.0, "others were closed, too");
    // The greeting's answer to a ping is its echo.
    stays.write_all(&frame(6, 0, 0, b"are you?")).await.context("a good connection was closed")?;
    let mut answer = Vec::new();
    let answered = async {
        while !answer.ends_with(b"are you?") {
            answer.push(stays.read_u8().await.context("a good connection was closed")?);
        }
        Ok::<(), anyhow::Error>(())
    };
    tokio::time::timeout(WITHIN, answered).await.context("a good connection is not answered")??;
    place(&clients(&group)?, &placements.request(1)).await.map(drop)
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_ends() -> Result<()> {
    let (group, placements) = serving(1).await?;
    let stranger = Group::empty(Options::default())?;
    let ours = group.credentials("admin-test")?.authorities;
    stranger.pki(&["issue", "replica", "r1"])?;
    for (stem, address) in [("admin-test", group.replica(1).client), ("replica-r1", group.replica(1).peer)] {
        let theirs = stranger.credentials(stem)?;
        let why = refusal(address, &Credentials { authorities: ours.clone(), ..theirs.clone() }).await?;
        ensure!(why.contains("UnknownCA") || why.contains("DecryptError"), "{stem} of another authority hears: {why}");
        let why = refusal(address, &theirs).await?;
        ensure!(why.contains("UnknownIssuer") || why.contains("BadSignature"), "{stem} trusts a server of another authority: {why}");
    }
    place(&clients(&group)?, &placements.request(1)).await.map(drop)
}

#[tokio::test]
async fn a_replica_whose_certificate_ends_keeps_its_connections_and_says_what_to_do() -> Result<()> {
    let (mut group, placements) = serving(3).await?;
    let all = clients(&group)?;
    let leader = group.leader().await?;
    let late = leader % 3 + 1;
    place_once(&mut all[late - 1].clone(), &placements.request(1)).await.context("a good replica places")?;
    let stem = format!("replica-r{late}");
    let files = ["crt", "key"].map(|kind| group.folder().join("pki").join(format!("{stem}.{kind}")));
    let valid = [std::fs::read(&files[0])?, std::fs::read(&files[1])?];
    let (certificate, key) = pki::issue(&group, "replica", &format!("r{late}"), SystemTime::now() - Duration::from_secs(60))?;
    std::fs::write(&files[0], certificate)?;
    std::fs::write(&files[1], key)?;
    until("the replica says that its certificate has ended", WITHIN, || async {
        ensure!(log_of(&group, late)?.contains("certificate has expired"), "it does not");
        Ok(())
    })
    .await?;
    place_once(&mut all[late - 1].clone(), &placements.request(2)).await.context("an open connection was hurt")?;
    let members = group.status(leader).await?.members;
    ensure!(members.iter().all(|member| member.active != Some(false)), "the group lost a member: {members:?}");
    let why = refusal(group.replica(late).client, &group.credentials("client-test")?).await?;
    ensure!(why.contains("expired") || why.contains("Expired"), "a client hears: {why}");

    group.terminate(late)?;
    group.start_replica(late)?;
    let process = group.process(late)?;
    ensure!(!process.wait(WITHIN)?.success(), "a replica with an expired certificate started");
    let said = process.log_tail();
    ensure!(said.contains("has expired: renew it, then start again"), "it says:\n{said}");
    group.replicas[late - 1].process = None;
    place(&all, &placements.request(3)).await?;
    for (file, content) in files.iter().zip(valid) {
        std::fs::write(file, content)?;
    }
    group.start_replica(late)?;
    group.wait_until_it_answers(late).await?;
    group.wait_for_voters(3).await.map(drop)
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, without anything indexed (RFC 7541).
fn call(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("below 127")][..], text.as_bytes()].concat();
    [
        &[0x83, 0x87, 0x04][..],
        &text(path),
        &[0x01],
        &text(SERVER_NAME),
        &[0x0f, 0x10],
        &text("application/grpc"),
        &[0x00],
        &text("te"),
        &text("trailers"),
    ]
    .concat()
}

/// Bytes that look drawn, the same in every run.
fn drawn(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// What breaks HTTP/2's rules, after a greeting that keeps them.
fn broken_frames(path: &str) -> Vec<(&'static str, Vec<u8>)> {
    const END_HEADERS: u8 = 4;
    let headers = frame(1, END_HEADERS, 1, &call(path));
    let opened = |more: Vec<u8>| [headers.clone(), more].concat();
    vec![
        ("random bytes", drawn(1, 4_096)),
        ("a frame of 16 MiB", [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 4_096]].concat()),
        ("settings of an odd length", frame(4, 0, 0, b"12345")),
        ("headers on stream 0", frame(1, END_HEADERS, 0, &call(path))),
        ("headers that are none", frame(1, END_HEADERS, 1, &drawn(2, 200))),
        ("data on a stream that was never opened", frame(0, 0, 5, b"data")),
        ("a window that grows by nothing", frame(8, 0, 0, &[0; 4])),
        ("a window without bounds", frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("a continuation of nothing", frame(9, END_HEADERS, 1, b"more")),
        ("a ping of an odd length", frame(6, 0, 0, b"ping")),
        ("headers that never end", [frame(1, 0, 1, &call(path)), frame(9, 0, 1, &[0x82; 8_192]).repeat(200)].concat()),
        (
            "streams that are reset at once",
            (0..5_000_u32)
                .flat_map(|n| [frame(1, END_HEADERS, 2 * n + 1, &call(path)), frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat())
                .collect(),
        ),
        ("a stream in the middle of another's headers", [frame(1, 0, 1, &call(path)), frame(0, 0, 1, b"data")].concat()),
        ("a flood of settings", [frame(4, 0, 0, &[]).repeat(20_000), frame(6, 0, 0, b"are you?")].concat()),
        ("a message that is none", opened(frame(0, 1, 1, &[&[0, 0, 0, 0, 9][..], &[0xff; 9]].concat()))),
        ("a message shorter than it says", opened(frame(0, 1, 1, &[0, 0, 0, 1, 0, 7, 7]))),
        ("a message compressed in an unknown way", opened(frame(0, 1, 1, &[1, 0, 0, 0, 1, 7]))),
        ("a message of 4 GiB", opened(frame(0, 0, 1, &[&[0, 0xff, 0xff, 0xff, 0xff][..], &[7; 1_000]].concat()))),
    ]
}

/// Sends bytes and counts what comes back by kind of frame until nothing more does, or the connection ends.
async fn answered(address: SocketAddr, credentials: &Credentials, bytes: &[u8]) -> Result<BTreeMap<u8, usize>> {
    let mut stream = raw::connect(address, &raw::config(credentials)?, SERVER_NAME).await?;
    let mut kinds = BTreeMap::new();
    // A server that has had enough closes while we still write.
    let sent = async {
        stream.write_all(raw::GREETING).await?;
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let _ = tokio::time::timeout(WITHIN, sent).await.context("the server neither reads nor closes")?;
    let read = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            *kinds.entry(head[3]).or_default() += 1;
            // Headers of an answer, a stream that was refused, a ping's echo, or good-bye.
            if matches!(head[3], 1 | 3 | 6 | 7) {
                break;
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.context("neither an answer nor an end")?;
    Ok(kinds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_either_port_is_answered_or_cut_off_and_costs_little() -> Result<()> {
    let (mut group, placements) = serving(1).await?;
    let mut good = clients(&group)?.remove(0);
    place_once(&mut good, &placements.request(0)).await.context("a good client places")?;
    let before = group.process(1)?.memory("VmRSS")?;
    let ports = [
        (group.replica(1).client, "admin-test", "/roadstead.v1.PlacementService/PlaceTenant"),
        (group.replica(1).peer, "replica-r1", "/roadstead.internal.v1.ReplicaService/Join"),
    ];
    for (address, stem, path) in ports {
        for seed in 0..20 {
            let mut plain = TcpStream::connect(address).await.context("nobody listens")?;
            // It may be closed before everything was sent.
            let _ = plain.write_all(&drawn(seed, 16 << 10)).await;
            let mut rest = Vec::new();
            let end = tokio::time::timeout(WITHIN, plain.read_to_end(&mut rest)).await;
            ensure!(end.is_ok(), "a connection of random bytes stays open");
        }
        let mut silent = TcpStream::connect(address).await.context("nobody listens")?;
        let end = tokio::time::timeout(WITHIN, silent.read_u8()).await;
        ensure!(end.context("a connection that says nothing stays open")?.is_err(), "silence was answered");
        let credentials = group.credentials(stem)?;
        for (what, bytes) in broken_frames(path) {
            let kinds = answered(address, &credentials, &bytes).await.with_context(|| format!("{what} on {address}"))?;
            println!("{what}: {kinds:?}");
            let from = Instant::now();
            place_once(&mut good, &placements.request(1)).await.with_context(|| format!("after {what}"))?;
            ensure!(from.elapsed() < AT_ONCE, "after {what} a placement took {:?}", from.elapsed());
        }
    }
    let process = group.process(1)?;
    ensure!(process.ended()?.is_none(), "the replica has ended");
    let cost = process.memory("VmHWM")?.saturating_sub(before);
    println!("garbage cost {} MiB at most", cost >> 20);
    ensure!(cost < MOST_GARBAGE_MEMORY, "garbage cost {cost} bytes");
    ensure!(!log_of(&group, 1)?.contains("panicked"), "garbage made something panic:\n{}", log_of(&group, 1)?);
    Ok(())
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_by_name_and_the_connection_goes_on() -> Result<()> {
    let (group, placements) = serving(1).await?;
    let mut client = clients(&group)?.remove(0);
    for mib in [5, 64] {
        let mut request = placements.request(1);
        request.spec.as_mut().context("a request has a spec")?.values_json = "x".repeat(mib << 20);
        let status = place_once(&mut client, &request).await.err().with_context(|| format!("{mib} MiB were taken"))?;
        println!("{mib} MiB: {:?} {} {}", status.code(), reason(&status), status.message());
        ensure!(reason(&status) == "MESSAGE_TOO_LARGE", "{mib} MiB: {status:?}");
    }
    place_once(&mut client, &placements.request(1)).await.context("the client cannot go on")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_delay_nobody() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = IDLE as u64 + 1_000;
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return not_run("10,000 idle connections", &format!("at most {:?} files may be open here", limit.maximum));
    }
    // Replicas are started as a login shell would start them, and have to see to it themselves that they may open more.
    setrlimit(Resource::Nofile, Rlimit { current: Some(1_024), ..limit }).context("a limit cannot be lowered")?;
    let serving = serving(3).await;
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("a limit cannot be raised")?;
    let (mut group, placements) = serving?;
    let leader = group.leader().await?;
    let address = group.replica(leader).client;
    let before = group.process(leader)?.memory("VmRSS")?;
    let config = raw::config(&group.credentials("viewer-test")?)?;
    let from = Instant::now();
    let connections = futures::stream::iter(0..IDLE).map(|_| async {
        let mut stream = raw::connect(address, &config, SERVER_NAME).await?;
        stream.write_all(raw::GREETING).await.context("a greeting was refused")?;
        stream.read_exact(&mut [0; 9]).await.context("a greeting was not answered")?;
        Ok::<_, anyhow::Error>(stream)
    });
    let mut idle = Vec::with_capacity(IDLE);
    let mut connections = connections.buffer_unordered(CONNECTING);
    let mut slowest = Duration::ZERO;
    let mut number = 0;
    while let Some(connection) = connections.next().await {
        idle.push(connection.with_context(|| format!("after {} connections", idle.len()))?);
        if idle.len() % (IDLE / 10) == 0 {
            let sent = Instant::now();
            place(&clients(&group)?[leader - 1..leader], &placements.request(number)).await?;
            slowest = slowest.max(sent.elapsed());
            number += 1;
        }
    }
    let took = from.elapsed();
    let open = metric(&group, leader, "roadstead_connections{listener=\"client\"}").await?;
    ensure!(open >= IDLE as f64, "{open} connections are open");
    let memory = group.process(leader)?.memory("VmRSS")?.saturating_sub(before);
    println!(
        "{IDLE} connections in {took:?}; a placement over a new one meanwhile took {slowest:?} at most; {} KiB each",
        memory / 1024 / IDLE as u64
    );
    let mut slowest = Duration::ZERO;
    for number in 100..200 {
        let sent = Instant::now();
        place(&clients(&group)?[leader - 1..leader], &placements.request(number)).await?;
        slowest = slowest.max(sent.elapsed());
    }
    println!("while they are idle, a placement over a new connection took {slowest:?} at most");
    ensure!(slowest < AT_ONCE, "a placement took {slowest:?}");
    ensure!(group.leader().await? == leader, "the leader was given up");
    drop(idle);
    until("closed connections are let go", WITHIN, || async {
        let open = metric(&group, leader, "roadstead_connections{listener=\"client\"}").await?;
        ensure!(open < 100.0, "{open} are open");
        Ok(())
    })
    .await
}
