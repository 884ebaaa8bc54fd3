//! Snapshot files survive what disks do, and a fetch what networks do.

use roadstead_core::apply::apply;
use roadstead_core::command::{Batch, Command, Envelope, FIRST_LEVEL};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::time::Timestamp;
use tempfile::TempDir;

use super::*;

const GROUP: GroupId = GroupId(7);
const TERM: u64 = 3;

/// A state of some chunks, after so many entries.
fn state(entries: u64) -> State {
    let mut state = State::default();
    for index in 1..=entries {
        let command = |number: u64| {
            let name = format!("pool-{index}-{number}").parse().unwrap();
            let spec = PoolSpec { name, kind: PoolKind::Home, order: 0, price_micros: number, policy: PoolPolicy::Spread };
            Envelope { principal: "admin:test".parse().unwrap(), retry: None, command: Command::PutPool { spec, expected: None } }
        };
        let applied =
            apply(&mut state, index, &Batch { level: FIRST_LEVEL, time: Timestamp(index), commands: (0..800).map(command).collect() });
        assert_eq!(applied.changes.len(), 800);
    }
    state
}

fn folder() -> (TempDir, Snapshots) {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(folder.path(), GROUP).unwrap();
    (folder, snapshots)
}

/// Writes a snapshot and returns what it is called and which state it holds.
fn write(snapshots: &Snapshots, index: u64) -> (SnapshotId, u64) {
    let state = state(index);
    snapshots.write(TERM, index, &Membership::default(), &state).unwrap();
    (SnapshotId { index, term: TERM }, state.digest())
}

#[test]
fn the_two_newest_are_kept_and_the_newest_is_loaded() {
    let (_folder, snapshots) = folder();
    assert!(snapshots.load(0).unwrap().0.is_none(), "a new replica has none");
    let [_, second, third] = [1, 2, 3].map(|index| write(&snapshots, index));
    assert_eq!(snapshots.list().unwrap(), [second.0, third.0]);
    let (loaded, wrong) = snapshots.load(3).unwrap();
    let loaded = loaded.unwrap();
    assert_eq!((loaded.header.id(), loaded.state.digest(), wrong), (third.0, third.1, Vec::new()));
}

#[test]
fn a_damaged_one_is_never_taken_for_a_state_and_the_one_before_serves() {
    let (_folder, snapshots) = folder();
    let [older, newer] = [1, 2].map(|index| write(&snapshots, index));
    let path = snapshots.path(newer.0, FINISHED);
    let sound = std::fs::read(&path).unwrap();
    let flipped = (0..sound.len()).step_by(sound.len() / 97).map(|at| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    let cut = [0, 1, sound.len() / 2, sound.len() - 1].map(|length| sound[..length].to_vec());
    let longer = [sound.clone(), vec![0; 9]].concat();
    for bytes in flipped.chain(cut).chain([longer]) {
        std::fs::write(&path, &bytes).unwrap();
        let (loaded, wrong) = snapshots.load(1).unwrap();
        let loaded = loaded.unwrap();
        assert_eq!((loaded.header.id(), loaded.state.digest()), older);
        assert_eq!(wrong.len(), 1, "what was wrong is told");
        let Err(SnapshotError::Unusable { what, .. }) = snapshots.load(2) else { panic!("the log does not reach the older one") };
        assert!(what.contains("does not reach back"), "{what}");
    }
}

#[test]
fn without_any_file_a_compacted_log_is_no_replica() {
    let (_folder, snapshots) = folder();
    let Err(SnapshotError::Unusable { what, .. }) = snapshots.load(5) else { panic!("entries 1 to 5 are nowhere") };
    assert!(what.contains("there is no snapshot"), "{what}");
}

#[test]
fn another_groups_file_is_refused_and_an_unfinished_one_removed() {
    let (folder, snapshots) = folder();
    let (id, _) = write(&snapshots, 1);
    let other = Snapshots::open(folder.path(), GroupId(8)).unwrap();
    assert!(matches!(other.load(0), Err(SnapshotError::OtherGroup { .. })));
    let unfinished = snapshots.path(SnapshotId { index: 9, term: TERM }, UNFINISHED);
    std::fs::write(&unfinished, b"half").unwrap();
    let opened = Snapshots::open(folder.path(), GROUP).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(opened.list().unwrap(), [id]);
}

#[test]
fn a_fetch_goes_on_where_it_broke_off_and_is_checked() {
    let ((_here, from), (_there, to)) = (folder(), folder());
    let (id, digest) = write(&from, 2);
    let served = from.serve(id).unwrap();
    let half = served.total_bytes() / 2;
    let mut fetch = to.fetch(id).unwrap();
    fetch.push(&served.range(0, half as usize).unwrap()).unwrap();
    drop(fetch);
    let to = Snapshots::open(&to.folder, GROUP).unwrap();
    let mut fetch = to.fetch(id).unwrap();
    assert_eq!(fetch.received(), half, "a restart loses nothing of it");
    fetch.push(&served.range(half, usize::MAX).unwrap()).unwrap();
    assert!(served.range(served.total_bytes(), 10).unwrap().is_empty());
    assert_eq!(fetch.finish().unwrap().state.digest(), digest);
    assert_eq!(to.list().unwrap(), [id]);

    let mut bytes = served.range(0, usize::MAX).unwrap();
    bytes[half as usize] ^= 1;
    let (_third, third) = folder();
    let mut fetch = third.fetch(id).unwrap();
    fetch.push(&bytes).unwrap();
    assert!(matches!(fetch.finish(), Err(SnapshotError::Damaged { .. })));
    assert_eq!((third.list().unwrap(), third.fetch(id).unwrap().received()), (vec![], 0), "it is fetched anew");
}
