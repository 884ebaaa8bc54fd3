//! Placing tenants through a group: batches in flight, limits, decisions that were overtaken.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod toy;

use roadstead_consensus::door::{Answer, Input, Ticket};
use roadstead_consensus::replica::Config;
use roadstead_core::command::{Done, Outcome};
use roadstead_core::request::Ask;
use toy::{Toy, cluster, fleet, place, small_config};

/// A group of three that knows a fleet.
fn with_fleet(clusters: u32, cap: u32, config: Config) -> Toy {
    let mut toy = Toy::group(3, config);
    let leader = toy.leader().unwrap();
    for request in fleet(clusters, cap) {
        let (outcome, _) = toy.done(leader, request);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    toy
}

fn send(toy: &mut Toy, numbers: std::ops::Range<u64>) -> Vec<Ticket> {
    let leader = toy.leader().unwrap();
    let requests: Vec<_> = numbers.map(|number| (toy.ticket(), place(number, false))).collect();
    let tickets = requests.iter().map(|(ticket, _)| *ticket).collect();
    toy.input(leader, Input::Requests(requests));
    tickets
}

fn placed(answer: &Answer) -> bool {
    matches!(answer, Answer::Outcome { outcome: Outcome::Done(Done::Placed { .. }), .. })
}

#[test]
fn many_entries_in_flight_cross_no_cap() {
    let mut toy = with_fleet(3, 40, Config { max_batch: 7, ..small_config() });
    toy.eager_disks = false;
    let mut tickets = Vec::new();
    for round in 0..20 {
        tickets.extend(send(&mut toy, round * 10..round * 10 + 10));
    }
    toy.eager_disks = true;
    for id in toy.running() {
        while toy.sync_one(id) {}
    }
    toy.until("all are answered", |toy| tickets.iter().all(|ticket| toy.answers.contains_key(ticket)));
    assert_eq!(tickets.iter().filter(|ticket| placed(&toy.answers[ticket])).count(), 120, "three clusters take 40 each");
    for id in toy.running() {
        assert_eq!(toy.replica(id).state().check_invariants(), Vec::<String>::new());
    }
}

#[test]
fn a_decision_that_was_overtaken_is_taken_again_and_no_client_hears_of_it() {
    let mut toy = with_fleet(2, 1_000, small_config());
    toy.eager_disks = false;
    let leader = toy.leader().unwrap();
    // The cluster changes in one entry while placements that were decided under its old spec follow in the next.
    for region in ["eu-2", "eu-3"] {
        for number in 0..2 {
            let mut spec = cluster(number, 1_000);
            spec.region = region.to_owned();
            let request = roadstead_core::request::Request {
                ask: Ask::PutCluster { spec: Box::new(spec), expected: None },
                retry: None,
                ..place(0, false)
            };
            toy.request(leader, request);
        }
    }
    let tickets = send(&mut toy, 0..50);
    toy.eager_disks = true;
    for id in toy.running() {
        while toy.sync_one(id) {}
    }
    toy.until("all are answered", |toy| tickets.iter().all(|ticket| toy.answers.contains_key(ticket)));
    assert!(tickets.iter().all(|ticket| placed(&toy.answers[ticket])), "{:?}", toy.answers[&tickets[0]]);
    assert_eq!(toy.replica(leader).state().tenant_count(), 50);
}

#[test]
fn a_refusal_that_needs_no_entry_is_as_linearizable_as_a_read() {
    let mut toy = with_fleet(1, 10, small_config());
    send(&mut toy, 0..10);
    let leader = toy.leader().unwrap();
    toy.quiet();
    toy.isolate(leader);
    let ticket = send(&mut toy, 10..11)[0];
    toy.quiet();
    assert_eq!(toy.answers.get(&ticket), None, "a leader that may have been deposed refuses nothing");
    toy.until("it gives up", |toy| toy.answers.contains_key(&ticket));
    assert!(matches!(toy.answers[&ticket], Answer::NotLeader { .. } | Answer::Unknown), "{:?}", toy.answers[&ticket]);
}

#[test]
fn requests_in_flight_survive_a_crash_at_every_step_exactly_once() {
    for cut in 0..60 {
        let mut toy = with_fleet(2, 1_000, small_config());
        toy.eager_disks = false;
        let first = toy.leader().unwrap();
        let tickets = send(&mut toy, 0..3);
        let mut steps = 0;
        while steps < cut {
            if let Some(packet) = toy.network.pop_front() {
                toy.deliver(packet);
            } else if !toy.running().into_iter().any(|id| toy.sync_one(id)) {
                break;
            }
            steps += 1;
        }
        toy.crash(first, cut % 2);
        toy.eager_disks = true;
        for id in toy.running() {
            while toy.sync_one(id) {}
        }
        toy.until("another one leads", |toy| toy.leader().is_some_and(|leader| leader != first));
        toy.start(first);
        let second = toy.leader().unwrap();
        for (number, ticket) in tickets.iter().enumerate() {
            let before = toy.answers.get(ticket).cloned();
            let (outcome, _) = toy.done(second, place(number as u64, false));
            if let Some(Answer::Outcome { outcome: known, .. }) = before {
                assert_eq!(outcome, known, "step {cut}: an acknowledged placement");
            }
        }
        assert_eq!(toy.replica(second).state().tenant_count(), 3, "step {cut}");
    }
}
