//! Members that join, leave, and come back without their disks.

use roadstead_consensus::member::{GroupId, MemberInfo};
use roadstead_server::config::Tuning;
use roadstead_server::driver::Ended;
use roadstead_server::lifecycle;
use roadstead_server::server::Server;

use crate::harness::{Group, expect_done, until};

/// Snapshots so often that a new member needs one.
fn small_log() -> Tuning {
    Tuning { snapshot_every_entries: 50, ..Tuning::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_replica_joins_by_snapshot_while_load_runs() {
    let mut group = Group::start_with(1, small_log()).await;
    group.make_fleet(1).await;
    for number in 0..300 {
        expect_done(group.place(0, &format!("before-{number}")).await);
    }
    let loader = group.seats[0].server().handle().clone();
    let load = tokio::spawn(async move {
        for number in 0..200 {
            let request = crate::harness::with_id(crate::harness::place(&format!("while-{number}")));
            expect_done(loader.submit(request).await);
        }
    });
    let new = group.add(false).await;
    load.await.unwrap();
    group.all_voters().await;
    let state = group.seats[new].server().handle().read(true).await.unwrap();
    assert_eq!(state.tenant_count(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_stops_and_says_so() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    let leader = group.leader().await;
    let removed = (leader + 1) % 3;
    let id = group.seats[removed].server().id();
    group.seats[leader].server().handle().remove_member(id).await.unwrap();
    let Ended::Failed(why) = group.seats[removed].server().ended().await else { panic!("it ended in good order") };
    assert!(why.contains("removed"), "{why}");
    group.kill(removed).await;
    expect_done(group.place(leader, "goes-on").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_comes_back_as_a_new_one() {
    let mut group = Group::start(3).await;
    group.make_fleet(1).await;
    let leader = group.leader().await;
    let wiped = (leader + 1) % 3;
    let old = group.seats[wiped].server().id();
    group.kill(wiped).await;
    std::fs::remove_dir_all(&group.seats[wiped].data).unwrap();
    let refused = Server::start(group.config(wiped)).await.unwrap_err().to_string();
    assert!(refused.contains("join"), "{refused}");

    let (via, tls) = (group.seats[leader].server().peer_address.to_string(), group.seats[leader].server().tls().clone());
    let (data, info) = (group.seats[wiped].data.clone(), group.seats[wiped].info());
    group.seats[leader].server().handle().remove_member(old).await.unwrap();
    until("the group lets it in", || async { lifecycle::join(&data, info.clone(), group.backend, &via, &tls).await.ok() }).await;
    group.run(wiped).await;
    group.all_voters().await;
    assert_ne!(group.seats[wiped].server().id(), old);
    expect_done(group.place(wiped, "again").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_another_group_is_not_listened_to() {
    let group = Group::start(1).await;
    let other = Group::start(1).await;
    assert_ne!(group.seats[0].server().handle().group(), GroupId(0));
    assert_ne!(group.seats[0].server().handle().group(), other.seats[0].server().handle().group());
    // The other group's replica is added under this one's address: its authority is another one, and so is its group.
    let info = MemberInfo { peer_address: other.seats[0].peer.to_string(), client_address: String::new() };
    group.seats[0].server().handle().add_member(other.seats[0].server().id(), info).await.unwrap();
    expect_done({
        group.make_fleet(1).await;
        group.place(0, "alone").await
    });
    assert_eq!(other.seats[0].server().handle().read(true).await.unwrap().tenant_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_lost_its_log_is_refused_with_words_that_help() {
    let mut group = Group::start(1).await;
    group.kill(0).await;
    std::fs::remove_dir_all(group.seats[0].data.join("log")).unwrap();
    let refused = Server::start(group.config(0)).await.unwrap_err().to_string();
    assert!(refused.contains("join it again as a new member"), "{refused}");
}
