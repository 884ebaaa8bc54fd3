//! What happens to processes and their disks happens here to a group under load: every acknowledged placement is there once, none twice,
//! and a replica that cannot go on says what to do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use roadstead_tests::disk::{SmallDisk, not_run};
use roadstead_tests::fleet::{Fleet, Placements};
use roadstead_tests::group::{Group, Options};
use roadstead_tests::process::{Process, until};
use roadstead_tests::tenants::{Acknowledged, Load, all, clients, place, place_once, remembered, verify};

const WITHIN: Duration = Duration::from_secs(30);
/// Room for more than the load can place meanwhile.
const FLEET: Fleet = Fleet { clusters: 100, regions: 5, tenant_cap: 2_000 };
/// Clients of the load.
const WORKERS: usize = 4;
const KILL_ROUNDS: usize = 20;
const STOP_ROUNDS: usize = 10;
/// Placements that have to be acknowledged before the next harm is done.
const BETWEEN: u64 = 20;
/// MiB of a disk that is to be filled.
const DISK_MIB: u32 = 64;
/// Tenants in a log that is to be damaged.
const IN_LOG: u64 = 200;

/// Numbers that look drawn, the same in every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("it is below a usize")
    }
}

/// A group with a fleet, and placements going on.
async fn under_load(replicas: usize) -> Result<(Group, Load)> {
    let group = Group::start(replicas).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    let load = Load::start(&clients(&group)?, &Placements::new("t"), WORKERS);
    load.goes_on(BETWEEN).await?;
    Ok((group, load))
}

/// Every replica tells exactly what was acknowledged.
async fn verify_all(group: &Group, acknowledged: &Acknowledged) -> Result<()> {
    for replica in &group.replicas {
        group.wait_until_it_answers(replica.number).await?;
        // A read from a replica waits for a leader for some seconds only.
        until("what was acknowledged is there", WITHIN, || verify(group, replica.number, acknowledged)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_any_replicas_again_and_again_loses_and_doubles_nothing() -> Result<()> {
    let (mut group, load) = under_load(3).await?;
    let mut drawn = Drawn(0x9e37_79b9_7f4a_7c15);
    for round in 0..KILL_ROUNDS {
        // Every fourth time a majority dies, and every eighth all.
        let dying = [1, 1, 1, 2, 1, 1, 1, 3][round % 8];
        let first = drawn.below(3);
        let dead: Vec<usize> = (0..dying).map(|at| (first + at) % 3 + 1).collect();
        for &number in &dead {
            group.kill(number)?;
        }
        if dying == 1 {
            load.goes_on(BETWEEN).await.with_context(|| format!("round {round}: two of three do not go on"))?;
        }
        for &number in &dead {
            group.start_replica(number)?;
        }
        for &number in &dead {
            group.wait_until_it_answers(number).await.with_context(|| format!("round {round}"))?;
        }
        load.goes_on(BETWEEN).await.with_context(|| format!("round {round}: all three do not go on"))?;
    }
    let acknowledged = load.stop().await?;
    println!("{KILL_ROUNDS} rounds, {} placements acknowledged", acknowledged.len());
    verify_all(&group, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_and_wakes_up_again_loses_and_doubles_nothing() -> Result<()> {
    let (mut group, load) = under_load(3).await?;
    for round in 0..STOP_ROUNDS {
        let leader = group.leader().await?;
        group.pause(leader)?;
        let on = load.goes_on(BETWEEN).await;
        group.resume(leader)?;
        on.with_context(|| format!("round {round}: the others do not go on"))?;
        load.goes_on(BETWEEN).await?;
    }
    let acknowledged = load.stop().await?;
    println!("{STOP_ROUNDS} rounds, {} placements acknowledged", acknowledged.len());
    verify_all(&group, &acknowledged).await
}

/// A group whose replicas with these numbers keep their data on small disks.
async fn on_small_disks(numbers: &[usize], backend: &str) -> Result<(Group, Vec<SmallDisk>)> {
    let mut group = Group::empty(Options { log_backend: backend.to_owned(), ..Options::default() })?;
    let mut disks = Vec::new();
    for number in 1..=3 {
        ensure!(group.prepare_replica()? == number, "replicas count from 1");
        if numbers.contains(&number) {
            disks.push(SmallDisk::mount(&group.replica(number).data, DISK_MIB)?);
        }
        group.make_folder(number)?;
        group.start_replica(number)?;
        group.wait_until_it_answers(number).await?;
    }
    group.wait_for_voters(3).await?;
    FLEET.declare(&group.channel(group.leader().await?, "admin-test")?).await?;
    Ok((group, disks))
}

/// Waits for a replica's end, which has to say that its disk is full and what to do.
fn expect_full(group: &mut Group, number: usize) -> Result<()> {
    let process = group.process(number)?;
    let status = process.wait(WITHIN)?;
    let said = process.log_tail();
    ensure!(!status.success(), "a replica that cannot go on ended well:\n{said}");
    ensure!(said.contains("no space left on the disk") && said.contains("free some, then start the replica again"), "it says:\n{said}");
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    group.replicas[number - 1].process = None;
    Ok(())
}

async fn full_disk_of_one(backend: &str) -> Result<()> {
    if let Err(why) = SmallDisk::possible()? {
        return not_run(&format!("a full disk of one replica with {backend}"), &why);
    }
    let (mut group, disks) = on_small_disks(&[2], backend).await?;
    let load = Load::start(&clients(&group)?, &Placements::new("t"), WORKERS);
    load.goes_on(BETWEEN).await?;
    disks[0].fill()?;
    expect_full(&mut group, 2)?;
    load.goes_on(BETWEEN).await.context("the other two do not go on")?;
    // Started too early it says so again, and does no harm.
    std::fs::write(group.folder().join("r2.log"), "").context("failed to empty a log")?;
    group.start_replica(2)?;
    expect_full(&mut group, 2)?;
    load.goes_on(BETWEEN).await.context("the other two do not go on")?;
    disks[0].free()?;
    group.start_replica(2)?;
    group.wait_until_it_answers(2).await?;
    load.goes_on(BETWEEN).await?;
    let acknowledged = load.stop().await?;
    println!("{} placements acknowledged", acknowledged.len());
    verify_all(&group, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_one_replica_with_sled_which_comes_back_when_there_is_room() -> Result<()> {
    full_disk_of_one("sled").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_one_replica_with_redb_which_comes_back_when_there_is_room() -> Result<()> {
    full_disk_of_one("redb").await
}

fn ended_now(group: &mut Group, number: usize) -> bool {
    matches!(group.process(number).and_then(Process::ended), Ok(Some(_)))
}

/// Replicas that were started and have ended.
fn ended(group: &mut Group) -> Vec<usize> {
    (1..=3).filter(|number| ended_now(group, *number)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_of_all_refuse_placements_and_lose_none() -> Result<()> {
    if let Err(why) = SmallDisk::possible()? {
        return not_run("full disks of all replicas", &why);
    }
    let (mut group, disks) = on_small_disks(&[1, 2, 3], "sled").await?;
    let (clients, placements) = (clients(&group)?, Placements::new("t"));
    let mut acknowledged = Acknowledged::new();
    for number in 0..IN_LOG {
        let tenant = place(&clients, &placements.request(number)).await?;
        acknowledged.insert(tenant.name.clone(), remembered(&tenant));
    }
    for disk in &disks {
        disk.fill()?;
    }
    // What is still acknowledged counts, too; then a majority is full and nothing is.
    let mut number = IN_LOG;
    let deadline = Instant::now() + WITHIN;
    let (ended, refused) = loop {
        let ended = ended(&mut group);
        match place_once(&mut clients[0].clone(), &placements.request(number)).await {
            Ok(tenant) => {
                acknowledged.insert(tenant.name.clone(), remembered(&tenant));
                number += 1;
            }
            Err(status) if ended.len() >= 2 => break (ended, status),
            Err(status) => ensure!(Instant::now() < deadline, "{ended:?} have stopped, and still: {status:?}"),
        }
    };
    println!("{} placements acknowledged, then: {refused:?}", acknowledged.len());
    for &number in &ended {
        expect_full(&mut group, number)?;
    }
    // Whoever is left says that it cannot, within the caller's deadline; on a busy machine the caller's own clock may be the first to say so.
    for client in &clients {
        let refused = until("it says that it cannot", WITHIN, || async {
            let Err(status) = place_once(&mut client.clone(), &placements.request(number)).await else { return Ok(false) };
            ensure!(matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::DeadlineExceeded), "{status:?}");
            Ok(true)
        });
        ensure!(refused.await?, "placed without a majority");
    }
    for disk in &disks {
        disk.free()?;
    }
    for number in 1..=3 {
        if group.replica(number).process.is_none() || ended_now(&mut group, number) {
            group.start_replica(number)?;
        }
    }
    for number in number..number + BETWEEN {
        let tenant = place(&clients, &placements.request(number)).await?;
        acknowledged.insert(tenant.name.clone(), remembered(&tenant));
    }
    verify_all(&group, &acknowledged).await
}

/// What is done to a log's files while its replica is down.
type Damage = fn(&Path) -> Result<()>;

fn with_bytes(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    change(&mut bytes);
    std::fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
}

/// Where the written part of a file ends.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn flip(path: &Path, per_cent: usize) -> Result<()> {
    with_bytes(path, |bytes| {
        let at = used(bytes) * per_cent / 100;
        let end = (at + 64).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0xff);
    })
}

const DAMAGES: [(&str, Damage); 9] = [
    ("bytes flipped at a tenth", |file| flip(file, 10)),
    ("bytes flipped at a quarter", |file| flip(file, 25)),
    ("bytes flipped in the middle", |file| flip(file, 50)),
    ("bytes flipped at three quarters", |file| flip(file, 75)),
    ("bytes flipped near the end", |file| flip(file, 99)),
    ("cut to half", |file| {
        with_bytes(file, |bytes| {
            let half = used(bytes) / 2;
            bytes.truncate(half);
        })
    }),
    ("its last page zeroed", |file| {
        with_bytes(file, |bytes| {
            let end = used(bytes);
            bytes[end.saturating_sub(4096)..end].fill(0);
        })
    }),
    ("emptied", |file| with_bytes(file, Vec::clear)),
    ("removed", |file| std::fs::remove_file(file).context("failed to remove a file")),
];

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).context("failed to create a folder")?;
    for item in std::fs::read_dir(from).context("failed to list a folder")? {
        let item = item.context("failed to list a folder")?;
        let target = to.join(item.file_name());
        if item.file_type().context("an item has a type")?.is_dir() {
            copy(&item.path(), &target)?;
        } else {
            std::fs::copy(item.path(), &target).context("failed to copy a file")?;
        }
    }
    Ok(())
}

/// Starts a lonely replica on a damaged log: true if it refused with words that say what to do, false if it has everything.
async fn refuses(group: &mut Group, what: &str, acknowledged: &Acknowledged) -> Result<bool> {
    std::fs::write(group.folder().join("r1.log"), "").context("failed to empty a log")?;
    group.start_replica(1)?;
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(status) = group.process(1)?.ended()? {
            let said = group.process(1)?.log_tail();
            group.replicas[0].process = None;
            ensure!(!status.success(), "{what}: it ended well:\n{said}");
            ensure!(said.contains("join") && said.contains("as a new member"), "{what}: it does not say what to do:\n{said}");
            return Ok(true);
        }
        if group.status(1).await.is_ok() {
            break;
        }
        ensure!(Instant::now() < deadline, "{what}: it neither starts nor refuses");
    }
    let verified = until("what was acknowledged is there", WITHIN, || verify(group, 1, acknowledged)).await;
    group.kill(1)?;
    verified.with_context(|| format!("{what}: it started, and"))?;
    Ok(false)
}

async fn damaged_logs(backend: &str, file: &str) -> Result<()> {
    let options = Options { log_backend: backend.to_owned(), ..Options::default() };
    let mut group = Group::start_with(1, options).await?;
    FLEET.declare(&group.channel(1, "admin-test")?).await?;
    let (clients, placements) = (clients(&group)?, Placements::new("t"));
    let mut acknowledged = Acknowledged::new();
    for number in 0..IN_LOG {
        let tenant = place(&clients, &placements.request(number)).await?;
        acknowledged.insert(tenant.name.clone(), remembered(&tenant));
    }
    group.kill(1)?;
    let (data, sound) = (group.replica(1).data.clone(), group.folder().join("sound"));
    copy(&data, &sound)?;
    ensure!(!refuses(&mut group, "nothing", &acknowledged).await?, "a sound log is refused");
    let mut refused = Vec::new();
    for (what, damage) in DAMAGES {
        std::fs::remove_dir_all(&data).context("failed to remove a folder")?;
        copy(&sound, &data)?;
        damage(&data.join("log").join(backend).join(file))?;
        if refuses(&mut group, what, &acknowledged).await? {
            refused.push(what);
        }
    }
    println!("{backend}: refused {} of {}: {refused:?}; started with everything on the others", refused.len(), DAMAGES.len());
    ensure!(
        refused.contains(&"cut to half") && refused.contains(&"emptied"),
        "a log without its newest half is taken for whole: {refused:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sled_log_is_refused_or_has_everything() -> Result<()> {
    damaged_logs("sled", "db").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_redb_log_is_refused_or_has_everything() -> Result<()> {
    damaged_logs("redb", "log.redb").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_without_a_member_whose_log_is_damaged_and_takes_it_back_as_a_new_one() -> Result<()> {
    let (mut group, load) = under_load(3).await?;
    let hurt = group.leader().await?;
    let id = group.status(hurt).await?.member_id;
    group.kill(hurt)?;
    let file = group.replica(hurt).data.join("log/sled/db");
    with_bytes(&file, |bytes| bytes.truncate(used(bytes) / 2))?;
    group.start_replica(hurt)?;
    let status = group.process(hurt)?.wait(WITHIN)?;
    let said = group.process(hurt)?.log_tail();
    if status.success() || !said.contains("as a new member") {
        bail!("it ended with {status}:\n{said}");
    }
    group.replicas[hurt - 1].process = None;
    load.goes_on(BETWEEN).await.context("the other two do not go on")?;
    // What it says, and docs/operations.md.
    roadstead_tests::cli::run(&group, hurt % 3 + 1, &["admin", "members", "remove", &id])?;
    std::fs::remove_dir_all(&group.replica(hurt).data).context("failed to remove a folder")?;
    group.make_folder(hurt)?;
    group.start_replica(hurt)?;
    group.wait_until_it_answers(hurt).await?;
    group.wait_for_voters(3).await?;
    load.goes_on(BETWEEN).await?;
    let acknowledged = load.stop().await?;
    verify_all(&group, &acknowledged).await?;
    ensure!(all(&mut clients(&group)?[hurt - 1]).await?.len() == acknowledged.len(), "the new member tells something else");
    Ok(())
}
