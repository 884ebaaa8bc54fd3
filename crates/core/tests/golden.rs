//! Logs as earlier builds wrote them give the same state for ever, under the feature level they were written for.
//!
//! `golden/level-N.log` is a sequence of `index: u64 LE, length: u32 LE, encoded batch`; `golden/digests.txt` has one line a file. Made
//! anew by `UPDATE_GOLDEN=1`; a changed digest of an old file is a change of what a log means, and replicas would come apart.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::*;
use roadstead_core::agreement::LASTS;
use roadstead_core::apply::apply;
use roadstead_core::codec::{SnapshotReader, decode_batch, encode_batch, snapshot};
use roadstead_core::command::{Batch, Command, FeatureLevel};
use roadstead_core::constraint::Constraints;
use roadstead_core::id::Incarnation;
use roadstead_core::join::Digest;
use roadstead_core::observed::{TroubleKind, Upheld};
use roadstead_core::request::{Ask, Observed};
use roadstead_core::state::State;
use roadstead_core::tenant::{Phase, TenantSpec};
use roadstead_core::time::Timestamp;

/// Those that every level knows.
const COMMANDS: usize = 21;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn number(command: &Command) -> usize {
    match command {
        Command::CreateTenant { .. } => 0,
        Command::BindTenant { .. } => 1,
        Command::NoteUnplaced { .. } => 2,
        Command::UpdateTenant { .. } => 3,
        Command::ReleaseTenant { .. } => 4,
        Command::UndeleteTenant { .. } => 5,
        Command::AdoptTenant { .. } => 6,
        Command::PutCluster { .. } => 7,
        Command::CordonCluster { .. } => 8,
        Command::DeleteCluster { .. } => 9,
        Command::Report(_) => 10,
        Command::MarkSilent { .. } => 11,
        Command::PutPool { .. } => 12,
        Command::DeletePool { .. } => 13,
        Command::PutClass { .. } => 14,
        Command::DeleteClass { .. } => 15,
        Command::PutPolicy { .. } => 16,
        Command::Expire { .. } => 17,
        Command::RaiseLevel { .. } => 18,
        Command::Incarnate { .. } => 19,
        Command::WaiveFence { .. } => 20,
        Command::Observe(_) => 21,
        Command::PutToken { .. } => 22,
        Command::SpendToken(_) => 23,
        Command::AllowRemovals { .. } => 24,
        Command::NoteCluster(_) => 25,
        Command::NoteGrowth(_) => 26,
    }
}

/// A life of a small fleet in which every command occurs.
fn write_log(level: FeatureLevel) -> Vec<(u64, Batch)> {
    let mut fleet = Fleet::with_clusters(2, 2, 1000);
    fleet.command(Command::RaiseLevel { level });
    for tenant in 0..6u32 {
        let mut wanted = spec(&format!("t{tenant}"));
        if tenant == 0 {
            wanted.constraints = Constraints { regions: vec!["eu-1".to_owned()], ..Constraints::default() }.into();
        }
        let mut request = fleet.request(place(wanted));
        request.retry = Some(retry(tenant.into(), fleet.time));
        fleet.batch(vec![request.clone()]);
        fleet.batch(vec![request]);
    }
    fleet.command(Command::NoteUnplaced { id: fleet.tenant("t5").id, reason: vec![1, 2, 3] });
    fleet.observe("t0", Observed::Running);
    let moved = roadstead_core::cluster::ClusterSpec { region: "us-1".to_owned(), ..cluster("c0", 2) };
    fleet.must(Ask::PutCluster { spec: Box::new(moved), expected: None });
    let protected = TenantSpec { deletion_protection: true, constraints: fleet.tenant("t1").spec.constraints, ..spec("t1") };
    fleet.must(Ask::UpdateTenant { spec: Box::new(protected), expected: None });
    fleet.release("t0");
    fleet.observe("t0", Observed::Stopped);
    fleet.settle();
    fleet.must(Ask::AdoptTenant { spec: Box::new(spec("adopted")), cluster: name("c1"), shard: None });
    fleet.release("t2");
    fleet.must(Ask::UndeleteTenant { name: name("t2") });
    fleet.must(Ask::CordonCluster { name: name("c1"), cordoned: true });
    fleet.command(Command::MarkSilent { cluster: fleet.state.cluster("c1").expect("there").id });
    fleet.time = Timestamp(fleet.time.0 + 5000);
    fleet.command(Command::Expire { limit: 10 });
    fleet.must(Ask::PutPool { spec: pool("burst"), expected: None });
    fleet.must(Ask::DeletePool { name: name("burst") });
    fleet.must(Ask::PutClass { class: Box::new(class("2", 10)) });
    fleet.must(Ask::DeleteClass { name: name("shop"), version: "2".to_owned() });
    let mut policy = fleet.state.policy().spec.clone();
    policy.quotas.insert(owner("acme"), roadstead_core::policy::Quota { tenants: Some(9), ..Default::default() });
    fleet.must(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    if level >= FeatureLevel(4) {
        observed_life(&mut fleet);
    }
    if level >= FeatureLevel(5) {
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        fleet.must(put_token("c0", one, "uid-c0"));
        fleet.must(put_token("c1", one, ""));
        fleet.must(put_token("c1", other, ""));
        fleet.must(spend_token("c1", other, "uid-c1", 7));
    }
    if level >= FeatureLevel(6) {
        agreed_end(&mut fleet);
    }
    if level >= FeatureLevel(7) {
        fleet.must(found("c0", Upheld::Yes, Upheld::No));
        fleet.must(found("c1", Upheld::Unknown, Upheld::Unknown));
        fleet.must(found("c0", Upheld::Yes, Upheld::Yes));
    }
    if level >= FeatureLevel(8) {
        fleet.must(growing("c0", 3));
        fleet.must(growing("c1", 1));
        fleet.must(growing("c0", 0));
    }
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    fleet.must(Ask::WaiveFence { cluster: None });
    fleet.must(Ask::DeleteCluster { name: name("c1"), forget: true });
    fleet.check();
    fleet.log
}

/// What only agents tell, and what becomes of a tenant whose volumes are kept, from level 4 on.
fn observed_life(fleet: &mut Fleet) {
    fleet.tell("t2", &[("data", 7)], Some((TroubleKind::Waits, "a pod is not ready")));
    fleet.tell("t2", &[("data", 8), ("logs", 9)], None);
    fleet.release("t2");
    fleet.observe("t2", Observed::Stopped);
    fleet.time = Timestamp(fleet.time.0 + 5000);
    fleet.command(Command::Expire { limit: 10 });
    assert!(matches!(fleet.tenant("t2").phase, Phase::Purging { .. }));
    fleet.release("adopted");
    fleet.observe("adopted", Observed::Stopped);
    fleet.must(Ask::ReleaseTenant { name: name("adopted"), purge: true, expected: None });
    fleet.observe("adopted", Observed::Absent);
    assert!(fleet.state.tenant("adopted").is_none());
}

/// Tenants that are removed only after an operator has agreed to it, from level 6 on.
fn agreed_end(fleet: &mut Fleet) {
    let removed = ["t3", "t4"];
    for tenant in removed {
        fleet.must(Ask::ReleaseTenant { name: name(tenant), purge: true, expected: None });
        fleet.tell(tenant, &[], Some((TroubleKind::HeldBack, "too many at once")));
        let cluster = fleet.tenant(tenant).phase.binding().expect("bound").cluster;
        let cluster = fleet.state.cluster_by_id(cluster).expect("there").spec.name.clone();
        fleet.must(Ask::AllowRemovals { cluster, count: 1 });
    }
    fleet.observe("t3", Observed::Absent);
    fleet.time = fleet.time.after(LASTS);
    fleet.settle();
    assert!(fleet.state.clusters().all(|cluster| fleet.state.agreed(cluster.id).count() == 0));
}

fn to_bytes(log: &[(u64, Batch)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, batch) in log {
        let entry = encode_batch(batch);
        bytes.extend(index.to_le_bytes());
        bytes.extend(u32::try_from(entry.len()).expect("small").to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

fn from_bytes(mut bytes: &[u8]) -> Vec<(u64, Batch)> {
    let mut log = Vec::new();
    while let Some((index, rest)) = bytes.split_first_chunk::<8>() {
        let (length, rest) = rest.split_first_chunk::<4>().expect("a length");
        let (entry, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        log.push((u64::from_le_bytes(*index), decode_batch(entry).expect("an entry of an earlier build")));
        bytes = rest;
    }
    log
}

fn copy_of(state: &State) -> State {
    let mut reader = SnapshotReader::default();
    for chunk in snapshot(state) {
        reader.push(&chunk).expect("our own chunk");
    }
    reader.finish().expect("our own snapshot")
}

#[test]
fn golden_logs_give_the_same_digest_also_after_a_snapshot_at_every_point() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut digests = String::new();
    for level in [1, 2, 3, 4, 5, 6, 7, 8] {
        let path = file(&format!("level-{level}.log"));
        if update {
            std::fs::create_dir_all(file("")).expect("a folder");
            std::fs::write(&path, to_bytes(&write_log(FeatureLevel(level)))).expect("written");
        }
        let log = from_bytes(&std::fs::read(&path).expect("a golden log"));
        let commands: BTreeSet<usize> =
            log.iter().flat_map(|(_, batch)| &batch.commands).map(|envelope| number(&envelope.command)).collect();
        let since = [(4, 1), (5, 2), (6, 1), (7, 1), (8, 1)].into_iter().filter(|(since, _)| level >= *since);
        let known = COMMANDS + since.map(|(_, commands)| commands).sum::<usize>();
        assert_eq!(commands.len(), known, "level {level}: every command occurs");
        let (mut straight, mut copied) = (State::default(), State::default());
        for (index, batch) in &log {
            let (a, b) = (apply(&mut straight, *index, batch), apply(&mut copied, *index, batch));
            assert_eq!(a.outcomes, b.outcomes);
            assert!(a.alarms.is_empty(), "{:?}", a.alarms);
            copied = copy_of(&copied);
            assert_eq!(straight.digest(), copied.digest(), "level {level}, entry {index}");
        }
        assert!(copied.check_invariants().is_empty());
        digests.push_str(&format!("level-{level}.log {:016x}\n", straight.digest()));
    }
    if update {
        std::fs::write(file("digests.txt"), &digests).expect("written");
    }
    let expected = std::fs::read_to_string(file("digests.txt")).expect("golden digests");
    assert_eq!(digests, expected);
}
