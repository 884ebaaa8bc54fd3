//! Transcripts: what goes into a group, and everything that comes out, compared with files under `tests/transcripts`.
//!
//! `UPDATE_GOLDEN=1` writes them anew; they are reviewed as code.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod toy;

use std::path::Path;

use roadstead_consensus::door::Input;
use toy::{Toy, info, member, small_config, write};

/// A command in words, and what it does.
type Line<'a> = (&'a str, &'a dyn Fn(&mut Toy));

/// Plays a transcript and compares it.
fn play(name: &str, mut toy: Toy, script: &[Line<'_>]) {
    let mut lines = Vec::new();
    for (command, act) in script {
        lines.push(format!("> {command}"));
        toy.transcript = Some(Vec::new());
        act(&mut toy);
        lines.append(toy.transcript.as_mut().unwrap());
    }
    let found = lines.join("\n").replace("MemberId(", "").replace(") ", " ") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

fn tick_until_leader(toy: &mut Toy) {
    toy.until_leader();
}

#[test]
fn a_group_of_one() {
    let toy = Toy::new(small_config());
    play(
        "group_of_one",
        toy,
        &[
            ("ticks until it leads", &tick_until_leader),
            ("request 1", &|toy| _ = toy.request(member(1), write("a", 7, 1))),
            ("read", &|toy| _ = toy.read(member(1))),
            ("the same request again", &|toy| _ = toy.request(member(1), write("a", 7, 1))),
        ],
    );
}

#[test]
fn a_write_in_a_group_of_three() {
    let mut toy = Toy::group(3, small_config());
    toy.until("nothing more is proposed", |toy| toy.replica(member(1)).state().level() == roadstead_core::command::SUPPORTED_LEVEL);
    toy.quiet();
    toy.eager_disks = false;
    play(
        "write_in_three",
        toy,
        &[
            ("request to the leader", &|toy| _ = toy.request(member(1), write("a", 7, 1))),
            ("messages arrive", &|toy| toy.quiet()),
            ("the leader's disk syncs", &|toy| _ = toy.sync_one(member(1))),
            ("a follower's disk syncs", &|toy| _ = toy.sync_one(member(2))),
            ("messages arrive", &|toy| toy.quiet()),
            ("the other follower's disk syncs", &|toy| _ = toy.sync_one(member(3))),
            ("messages arrive", &|toy| toy.quiet()),
            ("a read on a follower", &|toy| _ = toy.read(member(3))),
            ("messages arrive", &|toy| toy.quiet()),
        ],
    );
}

#[test]
fn a_member_joins() {
    let mut toy = Toy::new(small_config());
    toy.until_leader();
    play(
        "join",
        toy,
        &[
            ("an empty member starts", &|toy| toy.insert_empty(2)),
            ("the leader adds it", &|toy| {
                let ticket = toy.ticket();
                toy.input(member(1), Input::AddMember { ticket, id: member(2), info: info(2) });
            }),
            ("messages arrive", &|toy| toy.quiet()),
            ("ticks", &|toy| (0..3).for_each(|_| toy.tick())),
        ],
    );
}

#[test]
fn leadership_is_handed_over() {
    let mut toy = Toy::group(3, small_config());
    toy.until("nothing more is proposed", |toy| toy.replica(member(1)).state().level() == roadstead_core::command::SUPPORTED_LEVEL);
    toy.quiet();
    play(
        "handover",
        toy,
        &[
            ("transfer to 3", &|toy| {
                let ticket = toy.ticket();
                toy.input(member(1), Input::Transfer { ticket, to: Some(member(3)) });
            }),
            ("messages arrive", &|toy| toy.quiet()),
        ],
    );
}
