//! Random schedules: messages lost, doubled and out of order, links cut in one direction, crashes that lose what was not synced, members
//! that come and go, leadership sent around. A schedule is its seed; `SEED=n` runs one, `SEEDS=n` so many.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod toy;

use std::collections::BTreeMap;

use roadstead_consensus::door::{Answer, Input, Ticket};
use roadstead_consensus::member::MemberId;
use roadstead_consensus::replica::Config;
use roadstead_core::codec;
use roadstead_core::command::Outcome;
use roadstead_core::id::Revision;
use roadstead_core::state::State;
use toy::{Dice, Toy, info, member, small_config, write};

const SEEDS: u64 = 150;
const STEPS: u64 = 4_000;
const MOST_MEMBERS: usize = 5;

/// A client's write, sent until it is answered for good.
struct Wish {
    id: u64,
    ticket: Option<Ticket>,
}

struct Schedule {
    toy: Toy,
    dice: Dice,
    wishes: Vec<Wish>,
    acknowledged: BTreeMap<u64, (Outcome, Revision)>,
    /// Reads on their way, and what each of them must see at least.
    reads: BTreeMap<Ticket, Revision>,
    served: u64,
    /// The newest revision that anybody was told of.
    known: Revision,
    next_id: u64,
    next_member: u64,
    /// Instead of writes and reads, this backup is restored now and then.
    backup: Option<State>,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let config = Config { snapshot_every_entries: 12, kept_entries: 4, max_batch: 3, ..small_config() };
        let mut toy = Toy::group(3, config);
        toy.eager_disks = false;
        toy.eager_files = false;
        Self {
            toy,
            dice: Dice(seed),
            wishes: Vec::new(),
            acknowledged: BTreeMap::new(),
            reads: BTreeMap::new(),
            served: 0,
            known: Revision::default(),
            next_id: 0,
            next_member: 4,
            backup: None,
        }
    }

    fn anybody(&mut self) -> Option<MemberId> {
        let running = self.toy.running();
        if running.is_empty() { None } else { Some(running[self.dice.roll(running.len() as u64) as usize]) }
    }

    fn step(&mut self) {
        match self.dice.roll(1_000) {
            0..400 => self.deliver(),
            400..420 => {
                if let Some(packet) = self.take_packet()
                    && self.dice.roll(2) == 0
                {
                    self.toy.input(packet.from, Input::Unreachable(packet.to));
                }
            }
            420..440 => {
                if let Some(packet) = self.take_packet() {
                    self.toy.network.push_back(packet.clone());
                    self.toy.deliver(packet);
                }
            }
            440..620 => self.tick_somebody(),
            620..820 => {
                if let Some(id) = self.anybody() {
                    self.toy.sync_one(id);
                }
            }
            820..850 => drop(self.toy.do_file()),
            850..970 if self.backup.is_some() => self.restore(),
            850..900 => self.wish(),
            900..940 => self.retry(),
            940..970 => self.read(),
            970..975 => self.crash(),
            975..985 => self.restart(),
            985..989 => self.cut(),
            989..992 => self.toy.heal(),
            992..995 => self.change_members(),
            _ => self.transfer(),
        }
        self.take_answers();
        self.toy.compare();
    }

    fn take_packet(&mut self) -> Option<toy::Packet> {
        let waiting = self.toy.network.len() as u64;
        if waiting == 0 {
            return None;
        }
        // Mostly in order, as over a stream; sometimes not.
        let at = if self.dice.roll(4) == 0 { self.dice.roll(waiting) } else { 0 };
        self.toy.network.remove(at as usize)
    }

    fn deliver(&mut self) {
        if let Some(packet) = self.take_packet() {
            self.toy.deliver(packet);
        }
    }

    fn tick_somebody(&mut self) {
        self.toy.now += self.toy.config.tick_ms / 3;
        if let Some(id) = self.anybody() {
            self.toy.input(id, Input::Tick);
        }
    }

    fn wish(&mut self) {
        self.next_id += 1;
        self.wishes.push(Wish { id: self.next_id, ticket: None });
    }

    /// Sends the wishes that nobody works on to somebody.
    fn retry(&mut self) {
        let Some(id) = self.toy.leader().or_else(|| self.anybody()) else { return };
        let open: Vec<usize> = (0..self.wishes.len()).filter(|at| self.wishes[*at].ticket.is_none()).collect();
        let mut requests = Vec::new();
        for at in open {
            let ticket = self.toy.ticket();
            self.wishes[at].ticket = Some(ticket);
            let wish = self.wishes[at].id;
            requests.push((ticket, write(&format!("r{}", wish % 3), wish, wish)));
        }
        self.toy.input(id, Input::Requests(requests));
    }

    fn read(&mut self) {
        let Some(id) = self.anybody() else { return };
        let ticket = self.toy.ticket();
        self.reads.insert(ticket, self.known);
        self.toy.input(id, Input::Read(ticket));
    }

    fn restore(&mut self) {
        let (Some(backup), Some(leader)) = (self.backup.clone(), self.toy.leader()) else { return };
        if self.dice.roll(10) == 0 {
            let ticket = self.toy.ticket();
            let chunks = codec::snapshot(&backup).collect();
            self.toy.input(leader, Input::Restore { ticket, state: Box::new(backup), chunks });
        }
    }

    fn crash(&mut self) {
        let Some(id) = self.anybody() else { return };
        let kept = self.dice.roll(self.toy.nodes[&id].disk.unsynced.len() as u64 + 1) as usize;
        self.toy.crash(id, kept);
        // Whoever asked it hears nothing.
        let asked: Vec<Ticket> = self.wishes.iter().filter_map(|wish| wish.ticket).collect();
        for ticket in asked {
            if !self.toy.answers.contains_key(&ticket) {
                self.forget(ticket);
            }
        }
    }

    fn forget(&mut self, ticket: Ticket) {
        for wish in &mut self.wishes {
            if wish.ticket == Some(ticket) {
                wish.ticket = None;
            }
        }
    }

    fn restart(&mut self) {
        let down: Vec<MemberId> =
            self.toy.nodes.iter().filter(|(_, node)| node.replica.is_none() && !node.removed).map(|(id, _)| *id).collect();
        if !down.is_empty() {
            let id = down[self.dice.roll(down.len() as u64) as usize];
            self.toy.start(id);
        }
    }

    fn cut(&mut self) {
        if let (Some(from), Some(to)) = (self.anybody(), self.anybody()) {
            self.toy.cut.insert((from, to));
        }
    }

    fn change_members(&mut self) {
        let Some(leader) = self.toy.leader() else { return };
        let members = self.toy.replica(leader).membership().ids();
        let ticket = self.toy.ticket();
        if members.len() < MOST_MEMBERS && self.dice.roll(2) == 0 {
            let n = self.next_member;
            self.next_member += 1;
            self.toy.insert_empty(n);
            self.toy.input(leader, Input::AddMember { ticket, id: member(n), info: info(n) });
        } else if members.len() > 2 {
            let all: Vec<MemberId> = members.into_iter().collect();
            let id = all[self.dice.roll(all.len() as u64) as usize];
            self.toy.input(leader, Input::RemoveMember { ticket, id });
        }
    }

    fn transfer(&mut self) {
        let Some(leader) = self.toy.leader() else { return };
        let ticket = self.toy.ticket();
        self.toy.input(leader, Input::Transfer { ticket, to: None });
    }

    fn take_answers(&mut self) {
        for at in 0..self.wishes.len() {
            let Some(ticket) = self.wishes[at].ticket else { continue };
            let Some(answer) = self.toy.answers.get(&ticket).cloned() else { continue };
            self.wishes[at].ticket = None;
            if let Answer::Outcome { outcome, revision } = answer {
                let id = self.wishes[at].id;
                assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
                self.known = self.known.max(revision);
                self.acknowledged.insert(id, (outcome, revision));
            }
        }
        let acknowledged = &self.acknowledged;
        self.wishes.retain(|wish| !acknowledged.contains_key(&wish.id));
        for (ticket, (revision, _)) in std::mem::take(&mut self.toy.reads) {
            if let Some(least) = self.reads.remove(&ticket) {
                assert!(revision >= least, "a read saw {revision}, after {least} was known");
                self.known = self.known.max(revision);
                self.served += 1;
            }
        }
    }

    /// All faults end: the group must come back, and still know everything that it acknowledged.
    fn recover(&mut self) {
        self.toy.heal();
        self.toy.eager_disks = true;
        self.toy.eager_files = true;
        let ids: Vec<MemberId> = self.toy.nodes.keys().copied().collect();
        for id in ids {
            if !self.toy.runs(id) && !self.toy.nodes[&id].removed {
                self.toy.start(id);
            }
            while self.toy.sync_one(id) {}
        }
        while self.toy.do_file() {}
        let leader = self.toy.until_leader();
        let wished: Vec<(u64, (Outcome, Revision))> = self.acknowledged.iter().map(|(id, answer)| (*id, answer.clone())).collect();
        for (id, (outcome, revision)) in wished {
            let ticket = self.toy.ticket();
            let leader = self.toy.leader().unwrap_or(leader);
            self.toy.input(leader, Input::Requests(vec![(ticket, write(&format!("r{}", id % 3), id, id))]));
            self.toy.until("the retry is answered", |toy| toy.answers.contains_key(&ticket));
            match &self.toy.answers[&ticket] {
                Answer::Outcome { outcome: again, .. } => assert_eq!(*again, outcome, "write {id} of {revision} was acknowledged"),
                Answer::NotLeader { .. } | Answer::Unknown => {}
                other => panic!("{other:?}"),
            }
        }
        let leader = self.toy.until_leader();
        let (_, revision) = self.toy.done(leader, write("last", 1, 1 << 40));
        self.toy.until("all members have everything", |toy| {
            let Some(leader) = toy.leader() else { return false };
            let members = toy.replica(leader).membership().ids();
            members.iter().all(|id| toy.runs(*id) && toy.replica(*id).state().revision() >= revision)
        });
        for id in self.toy.running() {
            assert_eq!(self.toy.replica(id).state().check_invariants(), Vec::<String>::new());
        }
    }
}

/// How much a schedule has tried.
fn run(seed: u64) -> (usize, u64, usize) {
    let mut schedule = Schedule::new(seed);
    for _ in 0..STEPS {
        schedule.step();
    }
    if std::env::var("SEED").is_ok() {
        schedule.toy.transcript = Some(Vec::new());
    }
    schedule.recover();
    (schedule.acknowledged.len(), schedule.served, schedule.toy.leaders.len())
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost_and_reads_are_linearizable() {
    let one = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let many = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let seeds = one.map_or(1..=many, |seed: u64| seed..=seed);
    let (mut writes, mut reads, mut terms) = (0, 0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        let (w, r, t) = outcome.unwrap_or_else(|_| panic!("seed {seed} fails; run it alone with SEED={seed}"));
        (writes, reads, terms) = (writes + w, reads + r, terms + t);
    }
    println!("{writes} writes, {reads} reads, {terms} terms");
    assert!(writes > 50 && reads > 20, "schedules must get something done: {writes} writes, {reads} reads");
}

/// Restores among faults: how many incarnations there were.
fn run_restores(seed: u64) -> u16 {
    let mut schedule = Schedule::new(seed);
    let toy = &mut schedule.toy;
    (toy.eager_disks, toy.eager_files) = (true, true);
    let leader = toy.until_leader();
    for n in 0..400 {
        toy.request(leader, write(&format!("old{n}"), 1, 1_000 + n));
        toy.quiet();
    }
    let backup = toy.replica(leader).state().clone();
    toy.done(leader, write("new", 2, 2));
    (toy.eager_disks, toy.eager_files) = (false, false);
    schedule.backup = Some(backup);
    for _ in 0..STEPS {
        schedule.step();
    }
    schedule.recover();
    let leader = schedule.toy.until_leader();
    let state = schedule.toy.replica(leader).state();
    let incarnation = state.incarnation().0;
    let expected = if incarnation == 0 { Some(2) } else { None };
    assert_eq!(toy::register(state, "new"), expected, "the backup is from before; incarnation {incarnation}");
    assert_eq!(toy::register(state, "old399"), Some(1));
    incarnation
}

#[test]
fn a_restore_happens_whole_or_not_at_all_whatever_happens() {
    let incarnations: Vec<u16> = (1..=40).map(run_restores).collect();
    assert!(incarnations.iter().filter(|count| **count > 0).count() > 10, "some must succeed: {incarnations:?}");
}

#[test]
fn a_schedule_is_its_seed() {
    let (first, second) = (run(3), run(3));
    assert_eq!(first, second);
}

#[cfg(feature = "sabotage")]
mod planted {
    //! Faults on purpose: the schedules must notice them.

    use super::*;
    use roadstead_consensus::replica::Sabotage;

    /// Seeds that a fault may stay hidden for.
    const PATIENCE: u64 = 200;

    fn is_found(fault: Sabotage) -> bool {
        (1..=PATIENCE).any(|seed| {
            std::panic::catch_unwind(|| {
                let mut schedule = Schedule::new(seed);
                schedule.toy.sabotage(fault);
                for _ in 0..STEPS {
                    schedule.step();
                }
                schedule.recover();
            })
            .is_err()
        })
    }

    #[test]
    fn an_answer_before_commit_is_found() {
        assert!(is_found(Sabotage::AnswerBeforeCommit));
    }

    #[test]
    fn request_ids_lost_in_a_snapshot_are_found() {
        assert!(is_found(Sabotage::LoseRequestIdsInSnapshot));
    }
}
