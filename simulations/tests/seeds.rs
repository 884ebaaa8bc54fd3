//! The product holds under every seed, and each planted fault is found.

use roadstead_consensus::replica::Sabotage;
use roadstead_simulations::seeds;
use roadstead_simulations::world::{Planted, Stats};

/// Seeds of the test command.
const SEEDS: u64 = 2_000;

fn found(planted: Planted) {
    let summary = seeds::search(0..SEEDS, Some(planted));
    let first = summary.first.and_then(|first| first.violation);
    let first = first.unwrap_or_else(|| panic!("{planted:?} was not found in {SEEDS} seeds"));
    println!("{planted:?}: {first}");
}

#[test]
fn two_thousand_seeds_are_sound() {
    let summary = seeds::search(0..SEEDS, None);
    if let Some(first) = summary.first {
        panic!("{:?}; replay it: cargo run -p roadstead-simulations -- --seed {} --trace", first.violation, first.seed);
    }
    assert_eq!(summary.seeds, SEEDS);
    // The faults were there: replicas came back, took over snapshots, and backups were restored; clusters were silent for long and came back,
    // had two agents at once and were told what was older than what they had done, and held what nobody named any more.
    let Stats { silent, returned, beside, older, orphans, running_orphans, .. } = summary.stats;
    assert!(silent > SEEDS / 4 && returned > SEEDS / 4, "{:?}", summary.stats);
    assert!(beside > SEEDS / 4 && older > SEEDS, "{:?}", summary.stats);
    assert!(orphans > SEEDS / 4 && running_orphans > SEEDS / 40, "{:?}", summary.stats);
    assert!(summary.stats.actions > 100 * SEEDS && summary.stats.agreed > 0, "{:?}", summary.stats);
    assert!(
        summary.stats.starts > 4 * SEEDS && summary.stats.installs > SEEDS && summary.stats.restores > SEEDS / 40,
        "{:?}",
        summary.stats
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..30 {
        let (first, second) = (seeds::run(seed, None, false), seeds::run(seed, None, true));
        assert_eq!((first.hash, first.stats.events), (second.hash, second.stats.events), "seed {seed}");
    }
}

#[test]
fn a_disk_that_lies_about_its_sync_is_found() {
    found(Planted::SkipSync);
}

#[test]
fn an_answer_before_commit_is_found() {
    found(Planted::Inside(Sabotage::AnswerBeforeCommit));
}

#[test]
fn a_count_without_reservations_is_found() {
    found(Planted::Inside(Sabotage::CountWithoutReservations));
}

#[test]
fn request_ids_lost_in_a_snapshot_are_found() {
    found(Planted::Inside(Sabotage::LoseRequestIdsInSnapshot));
}

#[test]
fn a_decision_before_the_first_entry_of_the_term_is_found() {
    found(Planted::Inside(Sabotage::DecideBeforeFirstEntry));
}

#[test]
fn a_forgotten_fence_is_found() {
    found(Planted::Inside(Sabotage::ForgetFence));
}

#[test]
fn acting_on_an_older_intent_is_found() {
    found(Planted::ActOnOlderIntents);
}

#[test]
fn a_lost_volume_that_is_made_again_is_found() {
    found(Planted::MakeLostVolumes);
}

#[test]
fn telling_all_before_the_new_incarnation_was_heard_of_is_found() {
    found(Planted::CompleteTooSoon);
}

#[test]
fn telling_nothing_twice_is_found() {
    found(Planted::TellOnlyNews);
}

#[test]
fn telling_how_a_tenant_was_before_it_was_worked_on_is_found() {
    found(Planted::TellWhileWorking);
}

#[test]
fn removing_more_than_is_removed_unasked_is_found() {
    found(Planted::AgreeUnasked);
}

#[test]
fn counting_removals_anew_with_each_start_is_found() {
    found(Planted::CountRemovalsAnew);
}

#[test]
fn deleting_what_no_intent_names_is_found() {
    found(Planted::DeleteOrphans);
}

#[test]
fn deleting_the_tenants_of_a_cluster_that_is_silent_is_found() {
    found(Planted::ReleaseSilent);
}

#[test]
fn moving_the_tenants_of_a_cluster_that_is_silent_is_found() {
    found(Planted::MoveSilent);
}
