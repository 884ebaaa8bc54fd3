//! Replicas that stop in good order, or refuse early.

use std::time::{Duration, Instant};

use roadstead_server::driver::Ended;
use roadstead_server::handle::{MAX_WAITING, SubmitError};
use tokio::sync::mpsc;

use crate::harness::{Group, ask, expect_done, place, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    let role = group.seats[follower].server().handle().role();
    let old = group.seats[leader].server().id();
    let began = Instant::now();
    let stopping = group.seats[leader].running.take().unwrap();
    let stopped = tokio::spawn(stopping.shutdown());
    until("another leader", || async { role.borrow().leader.is_some_and(|id| id != old).then_some(()) }).await;
    let handed_over = began.elapsed();
    assert_eq!(stopped.await.unwrap(), Ended::Stopped);
    assert!(handed_over < Duration::from_secs(2), "it took {handed_over:?}: an election, not a hand-over");
    expect_done(group.place(follower, "after").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_are_refused_at_once_with_a_hint() {
    let group = Group::start(1).await;
    group.make_fleet(1).await;
    let handle = group.seats[0].server().handle();
    let (done, mut answers) = mpsc::unbounded_channel();
    let flood = (0..MAX_WAITING as u64 + 1).map(|key| (key, ask(place("flood"))));
    let Err(SubmitError::Overloaded { retry_after_ms }) = handle.submit_batch(flood, &done) else { panic!("the flood was taken") };
    assert!(retry_after_ms > 0);
    assert!(answers.try_recv().is_err(), "something of a refused batch was answered");
    expect_done(group.place(0, "still-works").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_how_a_replica_is() {
    let group = Group::start(1).await;
    group.make_fleet(2).await;
    expect_done(group.place(0, "counted").await);
    let address = group.seats[0].server().probes_address.unwrap();
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(address, "/metrics").await;
    for line in ["roadstead_raft_leading 1", "roadstead_tenants 1", "roadstead_clusters{state=\"active\"} 2", "roadstead_requests_total"] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    assert!(!metrics.contains("counted"), "a metric names a tenant");
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
