//! A group of real processes does what its users rely on: it places, forgets nothing when its leader dies, and grows and shrinks.

use anyhow::{Context, Result, ensure};
use roadstead_api::v1;
use roadstead_api::v1::admin_service_client::AdminServiceClient;
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::Group;
use roadstead_tests::tenants::{clients, get, place};

const FLEET: Fleet = Fleet { clusters: 3, regions: 3, tenant_cap: 100 };

#[tokio::test]
async fn acknowledged_placements_survive_the_death_of_every_leader_in_turn() -> Result<()> {
    let mut group = Group::start(3).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    let placements = Placements::new("t");
    let clients = clients(&group)?;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in round * 10..round * 10 + 10 {
            acknowledged.push(place(&clients, &placements.request(number)).await?.uid);
        }
        let leader = group.leader().await?;
        group.kill(leader)?;
        acknowledged.push(place(&clients, &placements.request(100 + round)).await?.uid);
        group.start_replica(leader)?;
        group.wait_until_it_answers(leader).await?;
        group.wait_for_voters(3).await?;
    }
    let numbers = (0..3).flat_map(|round| (round * 10..round * 10 + 10).chain([100 + round]));
    let mut reader = clients[0].clone();
    for (number, acknowledged) in numbers.zip(acknowledged) {
        ensure!(
            get(&mut reader, placements.name(number)).await?.uid == acknowledged,
            "{} is not what was acknowledged",
            placements.name(number)
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_from_any_replica_also_after_all_were_killed() -> Result<()> {
    let mut group = Group::start(3).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    let request = Placements::new("t").request(1);
    let clients = clients(&group)?;
    let first = place(&clients, &request).await?.uid;
    for number in 1..=3 {
        group.kill(number)?;
    }
    for number in 1..=3 {
        group.start_replica(number)?;
    }
    for number in 1..=3 {
        group.wait_until_it_answers(number).await?;
    }
    for client in &clients {
        ensure!(place(std::slice::from_ref(client), &request).await?.uid == first, "a retry got another answer");
    }
    let mut other = request.clone();
    other.spec.as_mut().context("a request has a spec")?.owner = "somebody-else".to_owned();
    let refused = clients[0].clone().place_tenant(other).await;
    ensure!(refused.is_err(), "the same id with another body was accepted");
    Ok(())
}

#[tokio::test]
async fn a_wiped_member_comes_back_as_a_new_one() -> Result<()> {
    let mut group = Group::start(3).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    let placements = Placements::new("t");
    let clients = clients(&group)?;
    let acknowledged = place(&clients, &placements.request(1)).await?.uid;
    let leader = group.leader().await?;
    let wiped = leader % 3 + 1;
    let id = group.status(wiped).await?.member_id;
    group.kill(wiped)?;
    std::fs::remove_dir_all(&group.replica(wiped).data).context("failed to wipe a member")?;
    let mut admin = AdminServiceClient::new(group.channel(leader, "admin-test")?);
    admin.remove_member(v1::RemoveMemberRequest { id: id.clone() }).await.context("the wiped member cannot be removed")?;
    group.make_folder(wiped)?;
    group.start_replica(wiped)?;
    group.wait_until_it_answers(wiped).await?;
    group.wait_for_voters(3).await?;
    ensure!(group.status(wiped).await?.member_id != id, "a wiped member came back under its old id");
    ensure!(get(&mut clients[wiped - 1].clone(), placements.name(1)).await?.uid == acknowledged, "the new member does not know the tenant");
    Ok(())
}

#[tokio::test]
async fn sigterm_hands_over_and_ends_well() -> Result<()> {
    let mut group = Group::start(3).await?;
    let leader = group.leader().await?;
    group.terminate(leader)?;
    ensure!(group.leader().await? != leader, "the replica that ended leads");
    Ok(())
}
