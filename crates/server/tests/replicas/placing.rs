//! Placing through any replica, while leaders come and go.

use std::collections::BTreeSet;

use roadstead_core::command::{Done, Outcome};
use roadstead_server::handle::SubmitError;
use tokio::sync::mpsc;

use crate::harness::{Group, ask, expect_done, place, until, with_id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_places_and_all_of_them_read_it() {
    let group = Group::start(3).await;
    group.make_fleet(3).await;
    for at in 0..3 {
        let name = format!("t{at}");
        assert!(matches!(expect_done(group.place(at, &name).await), Done::Placed { .. }));
        for reader in 0..3 {
            let state = group.seats[reader].server().handle().read(true).await.unwrap();
            assert!(state.tenant(&name).is_some(), "a linearizable read at {reader} misses what {at} acknowledged");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_request_gets_its_first_answer_from_any_replica() {
    let group = Group::start(3).await;
    group.make_fleet(3).await;
    let request = with_id(place("once"));
    let first = expect_done(group.submit(0, request.clone()).await);
    for at in 0..3 {
        assert_eq!(expect_done(group.submit(at, request.clone()).await), first);
    }
    let state = group.seats[0].server().handle().read(true).await.unwrap();
    assert_eq!(state.tenant_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_leaders_die_under_load() {
    let mut group = Group::start(3).await;
    group.make_fleet(3).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let leader = group.leader().await;
        let follower = (leader + 1) % 3;
        let handle = group.seats[follower].server().handle().clone();
        let (done, mut answers) = mpsc::unbounded_channel();
        let names: Vec<String> = (0..200).map(|number| format!("r{round}-{number}")).collect();
        let requests: Vec<_> = names.iter().map(|name| with_id(place(name))).collect();
        let batch = requests.iter().cloned().enumerate().map(|(key, request)| (key as u64, request));
        handle.submit_batch(batch, &done).unwrap();
        group.kill(leader).await;
        for _ in &names {
            let (key, submitted) = answers.recv().await.unwrap();
            let key = usize::try_from(key).unwrap();
            match submitted {
                Ok((outcome, _)) => assert!(matches!(outcome, Outcome::Done(Done::Placed { .. })), "{}: {outcome:?}", names[key]),
                // On a busy machine an election may outlast the time that a replica waits: its caller asks again with the same id.
                Err(SubmitError::Unknown | SubmitError::Unavailable) => {
                    let again = expect_done(group.submit(follower, requests[key].clone()).await);
                    assert!(matches!(again, Done::Placed { .. }), "{}: {again:?}", names[key]);
                }
                Err(error) => panic!("{}: {error}", names[key]),
            }
            acknowledged.insert(names[key].clone());
        }
        let survivor = group.leader().await;
        let state = group.seats[survivor].server().handle().read(true).await.unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|name| state.tenant(name).is_none()).collect();
        assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
        group.run(leader).await;
        group.leader().await;
    }
    assert_eq!(acknowledged.len(), 600);
    let state = group.seats[0].server().handle().read(true).await.unwrap();
    assert_eq!(state.tenant_count(), 600, "a request that was asked again had a second effect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_group_goes_on_from_its_disks() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    for number in 0..50 {
        expect_done(group.place(number % 3, &format!("t{number}")).await);
    }
    let digest = group.seats[0].server().handle().read(true).await.unwrap().digest();
    for number in 0..3 {
        group.kill(number).await;
    }
    for number in 0..3 {
        group.run(number).await;
    }
    let leader = group.leader().await;
    let state = group.seats[leader].server().handle().read(true).await.unwrap();
    assert_eq!(state.tenant_count(), 50);
    // A new leader adds an empty entry, and time goes on: compare what was placed.
    assert!(state.check_invariants().is_empty());
    expect_done(group.place(leader, "after").await);
    let _ = digest;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_see_every_entry_from_their_copy_on() {
    let group = Group::start(3).await;
    group.make_fleet(1).await;
    let follower = (group.leader().await + 1) % 3;
    let mut subscription = group.seats[follower].server().handle().subscribe().await.unwrap();
    let mut index = subscription.state.revision().index;
    let last = group.submit(follower, with_id(place("seen"))).await.unwrap().1;
    while index < last.index {
        let entry = subscription.entries.recv().await.unwrap();
        assert_eq!(entry.index, index + 1, "a gap");
        index = entry.index;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_done_and_stale_reads_go_on() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    let leader = group.leader().await;
    for number in (0..3).filter(|number| *number != leader) {
        group.kill(number).await;
    }
    let handle = group.seats[leader].server().handle().clone();
    until("the leader steps down", || async { (!handle.role().borrow().leading).then_some(()) }).await;
    let limit = std::time::Duration::from_millis(300);
    assert!(handle.submit_within(ask(place("never")), limit).await.is_err());
    assert!(handle.read(false).await.is_ok());
}
