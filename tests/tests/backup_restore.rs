//! A drill over processes: what a backup brings back and what it does not, who is waited for, and what one survivor is worth.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use roadstead_api::v1;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_tests::agent::Agent;
use roadstead_tests::cli;
use roadstead_tests::fleet::{Fleet, Placements, cluster_name, request_id};
use roadstead_tests::group::Group;
use roadstead_tests::process::until;
use roadstead_tests::tenants::{Placing, all, clients, get, place, place_once, reason};
use tonic::{Code, Streaming};

const WITHIN: Duration = Duration::from_secs(30);
/// Three clusters with room for twelve tenants; the fourth comes when the backup is taken already.
const FLEET: Fleet = Fleet { clusters: 3, regions: 3, tenant_cap: 4 };
const LARGER: Fleet = Fleet { clusters: 4, ..FLEET };
const ROOM: u64 = 12;
/// The tenant that waits when the backup is taken.
const WAITING: u64 = ROOM;
/// Placed after it.
const LATER: u64 = ROOM + 1;
/// Released after it.
const RELEASED: u64 = 0;

fn path(path: &Path) -> &str {
    path.to_str().expect("a temporary folder's name is text")
}

fn binding(tenant: &v1::Tenant) -> Option<&v1::Binding> {
    tenant.status.as_ref()?.binding.as_ref()
}

fn incarnation(revision: Option<&v1::Revision>) -> Option<u32> {
    revision.map(|revision| revision.incarnation)
}

/// Tenants that are bound to a cluster.
fn carried(tenants: &BTreeMap<String, v1::Tenant>, cluster: &str) -> Vec<v1::Tenant> {
    let here = |tenant: &&v1::Tenant| binding(tenant).is_some_and(|binding| binding.cluster == cluster);
    tenants.values().filter(here).cloned().collect()
}

/// The agents of a fleet's clusters, speaking to one replica.
fn agents(group: &Group, number: usize, fleet: Fleet) -> Result<Vec<Agent>> {
    let channel = group.channel(number, "admin-test")?;
    Ok(fleet.declarations().clusters.into_iter().map(|(_, facts)| Agent::new(channel.clone(), facts)).collect())
}

/// Declares the cluster that the backup does not know.
async fn declare_the_fourth(group: &Group, number: usize) -> Result<()> {
    let (put, report) = LARGER.declarations().clusters.pop().context("there are four")?;
    let mut fleet = FleetServiceClient::new(group.channel(number, "admin-test")?);
    fleet.put_cluster(put).await.context("failed to declare the fourth cluster")?;
    fleet.report_capacity(report).await.context("failed to report the fourth cluster")?;
    Ok(())
}

/// A group, full, with one tenant that waits.
async fn full_group(replicas: usize) -> Result<(Group, Placements)> {
    let group = Group::start(replicas).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    let (clients, placements) = (clients(&group)?, Placements::new("t"));
    for number in 0..ROOM {
        let tenant = place(&clients, &placements.request(number)).await?;
        ensure!(binding(&tenant).is_some(), "{} has no place though there is room", tenant.name);
    }
    let waiting = place(&clients, &placements.request(WAITING)).await?;
    ensure!(binding(&waiting).is_none(), "a tenant was bound though all is full");
    Ok((group, placements))
}

/// Writes a backup, and says what it is to bring back.
async fn back_up(group: &Group, number: usize, file: &Path) -> Result<BTreeMap<String, v1::Tenant>> {
    cli::run(group, number, &["admin", "backup", "-o", path(file)])?;
    all(&mut Placing::new(group.channel(number, "viewer-test")?)).await
}

async fn release(group: &Group, number: usize, name: String) -> Result<(), tonic::Status> {
    let channel = group.channel(number, "client-test").map_err(|error| tonic::Status::internal(error.to_string()))?;
    let request = v1::ReleaseTenantRequest { request_id: request_id(), name, ..Default::default() };
    Placing::new(channel).release_tenant(request).await.map(drop)
}

async fn expect_fenced(group: &Group, number: usize, placements: &Placements) -> Result<()> {
    let mut client = Placing::new(group.channel(number, "client-test")?);
    let refusals = [
        ("placed", place_once(&mut client, &placements.request(100)).await.map(drop)),
        ("released", release(group, number, placements.name(1)).await),
    ];
    for (what, refused) in refusals {
        let status = refused.err().with_context(|| format!("a tenant was {what} before every cluster had told"))?;
        ensure!(status.code() == Code::Unavailable && reason(&status) == "FENCED", "refused in other words: {status:?}");
    }
    Ok(())
}

async fn fenced(group: &Group, number: usize) -> Result<Vec<String>> {
    Ok(group.status(number).await?.fenced_clusters)
}

/// A watch on every replica that has told its initial state.
async fn watch_all(group: &Group) -> Result<Vec<Streaming<v1::WatchResponse>>> {
    try_join_all(group.replicas.iter().map(|replica| async {
        let mut client = Placing::new(group.channel(replica.number, "viewer-test")?);
        let request = v1::WatchRequest { with_initial_state: true, ..Default::default() };
        let mut watch = client.watch(request).await.context("a watch was refused")?.into_inner();
        while !watch.message().await.context("a watch broke")?.context("a watch ended")?.initial_state_complete {}
        Ok(watch)
    }))
    .await
}

/// Reads until the watch ends; it has to end with the word that says that it cannot resume.
async fn expect_compacted(mut watch: Streaming<v1::WatchResponse>) -> Result<()> {
    let end = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("a watch ended without a word"),
                Err(status) => return Ok(status),
            }
        }
    };
    let status = tokio::time::timeout(WITHIN, end).await.context("a watch goes on after a restore")??;
    ensure!(reason(&status) == "COMPACTED", "a watch ended with other words: {status:?}");
    Ok(())
}

/// Waits until all replicas hold the same state.
async fn expect_same_state(group: &Group) -> Result<()> {
    until("all replicas hold the same state", WITHIN, || async {
        let statuses = try_join_all(group.replicas.iter().map(|replica| group.status(replica.number))).await?;
        let states: Vec<_> = statuses.iter().map(|status| (status.digest_index, &status.digest)).collect();
        ensure!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_restored_group_decides_again_only_when_every_cluster_has_told_what_it_carries() -> Result<()> {
    let (group, placements) = full_group(3).await?;
    let leader = group.leader().await?;
    let mut client = Placing::new(group.channel(leader, "client-test")?);
    let file = group.folder().join("fleet.backup");
    let backed_up = back_up(&group, leader, &file).await?;

    // What the backup knows nothing of: a cluster, the tenant that waits placed there and one more, and one released.
    declare_the_fourth(&group, leader).await?;
    let late = cluster_name(3);
    let placed = until("the waiting tenant is placed", WITHIN, || async {
        let tenant = get(&mut client.clone(), placements.name(WAITING)).await?;
        ensure!(binding(&tenant).is_some(), "it waits");
        Ok(tenant)
    })
    .await?;
    ensure!(binding(&placed).is_some_and(|binding| binding.cluster == late), "it was placed where there is no room");
    let unknown = place_once(&mut client, &placements.request(LATER)).await.context("there is room")?;
    release(&group, leader, placements.name(RELEASED)).await.context("a release was refused")?;
    let resumable = group.status(leader).await?.applied.context("a status has a revision")?;

    let watches = watch_all(&group).await?;
    let follower = leader % 3 + 1;
    // Asked at a follower: the command line finds the leader by itself.
    cli::run(&group, follower, &["admin", "restore", path(&file), "--i-know"])?;
    for watch in watches {
        expect_compacted(watch).await?;
    }
    let resumed = client.watch(v1::WatchRequest { after: Some(resumable), ..Default::default() }).await;
    match resumed {
        Ok(watch) => expect_compacted(watch.into_inner()).await?,
        Err(status) => ensure!(reason(&status) == "COMPACTED", "a watch from before was refused with other words: {status:?}"),
    }

    // The state is the backup's, and waits for four clusters; only complete reports of the new incarnation count.
    let restored = all(&mut client).await?;
    ensure!(restored.keys().eq(backed_up.keys()), "the restored tenants are not those of the backup");
    ensure!(restored.iter().all(|(name, tenant)| tenant.uid == backed_up[name].uid), "a tenant came back as another");
    ensure!(fenced(&group, leader).await?.len() == 4, "not every cluster is waited for: {:?}", fenced(&group, leader).await?);
    expect_fenced(&group, leader, &placements).await?;
    let mut agents = agents(&group, leader, LARGER)?;
    let stale = agents[0].report(&carried(&backed_up, &cluster_name(0)), Some(resumable)).await.context("a report was refused")?;
    ensure!(stale.complete_wanted, "a report from before the restore ended the wait");
    ensure!(incarnation(stale.revision.as_ref()) == Some(1), "the agent hears of another incarnation: {:?}", stale.revision);
    ensure!(fenced(&group, leader).await?.len() == 4, "a report from before the restore ended the wait");

    for agent in &mut agents[..2] {
        let carries = carried(&backed_up, agent.cluster());
        agent.tell_everything(&carries).await?;
    }
    cli::run(&group, leader, &["admin", "waive-fence", &cluster_name(2), "--i-know"])?;
    ensure!(fenced(&group, leader).await? == [late.clone()], "waited for: {:?}", fenced(&group, leader).await?);
    expect_fenced(&group, leader, &placements).await?;
    agents[3].tell_everything(&[placed.clone(), unknown.clone()]).await?;
    ensure!(fenced(&group, leader).await?.is_empty(), "everybody has told");

    // The tenant that waited is bound where it runs, under an epoch of the new incarnation.
    let found = get(&mut client, placements.name(WAITING)).await?;
    ensure!(binding(&found).is_some_and(|binding| binding.cluster == late), "a running tenant is not bound where it runs");
    ensure!(incarnation(binding(&found).and_then(|binding| binding.epoch.as_ref())) == Some(1), "its epoch is of before");
    let released = get(&mut client, placements.name(RELEASED)).await?;
    ensure!(binding(&released) == binding(&backed_up[&released.name]), "a tenant released after the backup is not back");
    let new = place(&clients(&group)?, &placements.request(200)).await?;
    ensure!(binding(&new).is_some_and(|binding| binding.cluster == late), "only the fourth cluster has room");
    ensure!(incarnation(binding(&new).and_then(|binding| binding.epoch.as_ref())) == Some(1), "a new epoch is of before");
    ensure!(incarnation(new.revision.as_ref()) == Some(1), "a new revision is of before");
    ensure!(new.uid != unknown.uid && backed_up.values().all(|tenant| tenant.uid != new.uid), "a uid was used again");
    release(&group, leader, new.name).await.context("a release was refused")?;
    expect_same_state(&group).await
}

#[tokio::test]
async fn a_backup_becomes_a_fresh_group_of_one() -> Result<()> {
    let (old, placements) = full_group(1).await?;
    let file = old.folder().join("fleet.backup");
    let backed_up = back_up(&old, 1, &file).await?;
    declare_the_fourth(&old, 1).await?;
    let mut old_client = Placing::new(old.channel(1, "client-test")?);
    let running = until("the waiting tenant is placed", WITHIN, || async {
        let tenant = get(&mut old_client.clone(), placements.name(WAITING)).await?;
        ensure!(binding(&tenant).is_some(), "it waits");
        Ok(tenant)
    })
    .await?;
    let lost = place_once(&mut old_client, &placements.request(LATER)).await.context("there is room")?;

    let group = Group::start(1).await?;
    ensure!(group.status(1).await?.group_id != old.status(1).await?.group_id, "two groups are one");
    let said = cli::run(&group, 1, &["admin", "restore", path(&file), "--i-know"])?;
    ensure!(said.contains("13 tenants restored as of revision 1."), "{said}");
    ensure!(fenced(&group, 1).await?.len() == 3, "the backup's clusters are not waited for");
    expect_fenced(&group, 1, &placements).await?;
    // It cannot know of the fourth cluster: it is declared before the last of the others has told.
    declare_the_fourth(&group, 1).await?;
    let mut agents = agents(&group, 1, LARGER)?;
    agents[3].report(&[running, lost.clone()], None).await.context("a report was refused")?;
    for agent in &mut agents[..3] {
        expect_fenced(&group, 1, &placements).await?;
        let carries = carried(&backed_up, agent.cluster());
        agent.tell_everything(&carries).await?;
    }
    let mut client = Placing::new(group.channel(1, "client-test")?);
    let found = get(&mut client, placements.name(WAITING)).await?;
    ensure!(binding(&found).is_some_and(|binding| binding.cluster == cluster_name(3)), "a running tenant is not bound where it runs");
    ensure!(get(&mut client, lost.name).await.is_err(), "the backup knows a tenant that came after it");
    let new = place_once(&mut client, &placements.request(200)).await.context("everybody has told")?;
    ensure!(incarnation(new.revision.as_ref()) == Some(1) && binding(&new).is_some(), "{new:?}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_or_cut_backup_is_refused_and_changes_nothing() -> Result<()> {
    let (group, placements) = full_group(1).await?;
    let file = group.folder().join("fleet.backup");
    let before = back_up(&group, 1, &file).await?;
    let whole = std::fs::read(&file).context("failed to read the backup")?;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        bytes
    };
    let half = whole.len() / 2;
    let bad = [
        ("a flipped bit in its head", flipped(9)),
        ("a flipped bit in the middle", flipped(half)),
        ("a flipped bit in its checksum", flipped(whole.len() - 1)),
        ("a cut end", whole[..whole.len() - 1].to_vec()),
        ("half of it", whole[..half].to_vec()),
        ("a missing middle", [&whole[..half - 50], &whole[half..]].concat()),
        ("something behind it", [&whole[..], b"more"].concat()),
        ("something else", b"apiVersion: roadstead.dev/v1\n".repeat(100)),
    ];
    let state = group.status(1).await?;
    for (what, bytes) in bad {
        std::fs::write(&file, bytes).context("failed to write a bad backup")?;
        let said = cli::try_run(&group, 1, &["admin", "restore", path(&file), "--i-know"])?;
        ensure!(said.code == 2 && said.text.contains("no whole backup"), "{what}: ended with {}:\n{}", said.code, said.text);
    }
    std::fs::write(&file, "").context("failed to write a bad backup")?;
    let said = cli::try_run(&group, 1, &["admin", "restore", path(&file), "--i-know"])?;
    ensure!(said.code == 2 && said.text.contains("the bytes of a backup"), "nothing: ended with {}:\n{}", said.code, said.text);
    let after = group.status(1).await?;
    ensure!(after.fenced_clusters.is_empty() && after.digest == state.digest, "a refused backup has changed something");
    let mut client = Placing::new(group.channel(1, "client-test")?);
    ensure!(all(&mut client).await? == before, "a refused backup has changed a tenant");
    release(&group, 1, placements.name(RELEASED)).await.context("the group does not go on")?;
    std::fs::write(&file, whole).context("failed to write the backup")?;
    cli::run(&group, 1, &["admin", "restore", path(&file), "--i-know"]).map(drop)
}

#[tokio::test]
async fn one_survivor_becomes_a_group_and_loses_nothing_it_held() -> Result<()> {
    let (mut group, placements) = full_group(3).await?;
    let survivor = group.leader().await? % 3 + 1;
    let held = all(&mut Placing::new(group.channel(survivor, "viewer-test")?)).await?;
    let old = group.status(survivor).await?;
    for number in 1..=3 {
        group.kill(number)?;
    }
    let (data, into) = (group.replica(survivor).data.clone(), group.folder().join("survivor"));
    let (client, peer) = (group.replica(survivor).client.to_string(), group.replica(survivor).peer.to_string());
    let recover = ["server", "recover", "--data", path(&data), "--into", path(&into), "--client-address", &client, "--peer-address", &peer];
    let unasked = cli::offline(&recover)?;
    ensure!(unasked.code == 2 && unasked.text.contains("--i-know"), "it does not ask: {}", unasked.text);
    let recover = [&recover[..], &["--i-know"]].concat();
    let said = cli::offline(&recover)?;
    ensure!(said.code == 0 && said.text.contains("never start a replica from"), "{} {}", said.code, said.text);
    let again = cli::offline(&recover)?;
    ensure!(again.code == 4 && again.text.contains("holds a replica already"), "{} {}", again.code, again.text);

    group.replicas[survivor - 1].data = into;
    group.start_replica(survivor)?;
    group.wait_for_voters(1).await?;
    let new = group.status(survivor).await?;
    ensure!(new.group_id != old.group_id && new.members.len() == 1, "{new:?}");
    ensure!(incarnation(new.applied.as_ref()) == Some(1), "the incarnation is of before: {:?}", new.applied);
    let mut reader = Placing::new(group.channel(survivor, "viewer-test")?);
    let tenants = all(&mut reader).await?;
    ensure!(tenants.keys().eq(held.keys()), "the survivor lost what it held");
    let same = |name: &String, tenant: &v1::Tenant| tenant.uid == held[name].uid && binding(tenant) == binding(&held[name]);
    ensure!(tenants.iter().all(|(name, tenant)| same(name, tenant)), "a tenant is not what was acknowledged");
    ensure!(new.fenced_clusters.len() == 3, "the clusters are not waited for");
    expect_fenced(&group, survivor, &placements).await?;

    // The others come back after all, as the majority that they are, and are not heard.
    let others: Vec<usize> = (1..=3).filter(|number| *number != survivor).collect();
    for &number in &others {
        group.start_replica(number)?;
    }
    until("the old members elect a leader", WITHIN, || async {
        let status = group.status(others[0]).await?;
        ensure!(status.group_id == old.group_id && status.members.iter().any(|member| member.leader), "none leads");
        Ok(())
    })
    .await?;
    for mut agent in agents(&group, survivor, FLEET)? {
        let carries = carried(&held, agent.cluster());
        agent.tell_everything(&carries).await?;
    }
    release(&group, survivor, placements.name(RELEASED)).await.context("a release was refused")?;
    let now = group.status(survivor).await?;
    ensure!((&now.group_id, now.term, now.members.len()) == (&new.group_id, new.term, 1), "an old member was heard: {now:?}");
    ensure!(get(&mut reader, placements.name(RELEASED)).await.is_ok_and(|tenant| tenant.revision != held[&tenant.name].revision));

    // From empty folders they join the new group.
    for &number in &others {
        group.kill(number)?;
    }
    for &number in &others {
        std::fs::remove_dir_all(&group.replica(number).data).context("failed to remove an old folder")?;
        group.make_folder(number)?;
        group.start_replica(number)?;
        group.wait_until_it_answers(number).await?;
    }
    group.wait_for_voters(3).await?;
    expect_same_state(&group).await
}
