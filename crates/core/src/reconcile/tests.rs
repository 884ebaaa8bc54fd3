#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use proptest::prelude::*;

use super::*;
use crate::id::{Incarnation, Owner, ShardId, VolumeUid};
use crate::intent::{Role, TenantIntent, VolumeIntent};
use crate::resources::{Bytes, Requests};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn epoch(index: u64) -> Epoch {
    Epoch { incarnation: Incarnation(0), index }
}

fn wanted(id: u64, index: u64, role: Role) -> TenantIntent {
    let volume = |text: &str, size| VolumeIntent { name: name(text), size: Bytes(size), storage: "fast".to_owned(), uid: None };
    TenantIntent {
        id: TenantId(id),
        epoch: epoch(index),
        shard: ShardId(0),
        role,
        name: name(&format!("tenant-{id}")),
        owner: Owner::new("acme").unwrap(),
        class: name("shop"),
        version: "1".to_owned(),
        values: "{}".to_owned(),
        hostnames: Vec::new(),
        volumes: vec![volume("data", 10 + index), volume("logs", 5)],
        requests: Requests::default(),
        removal_agreed: false,
    }
}

/// A volume, always the same one.
fn there(bytes: u64) -> VolumeSeen {
    VolumeSeen::There { bytes, uid: VolumeUid(1) }
}

/// A model cluster: carries actions out on what is seen, and checks that each is allowed.
fn carry_out(wanted: &TenantIntent, seen: &mut TenantSeen, action: &Action) {
    match action {
        Action::Claim => {
            assert!(!matches!(seen.home, Home::Ours(known) if known > wanted.epoch), "an older epoch claims nothing");
            if seen.home == Home::None {
                let is_to_be = matches!(wanted.role, Role::Run | Role::Hold | Role::Receive);
                assert!(is_to_be || !seen.at_rest, "nothing is made under {:?} where nothing is", wanted.role);
                seen.at_rest = true;
            }
            seen.home = Home::Ours(wanted.epoch);
        }
        Action::Put(part) => {
            assert!(!matches!(part, Part::Workloads | Part::Routes) || wanted.role == Role::Run, "{part:?} under {:?}", wanted.role);
            assert_eq!(seen.home, Home::Ours(wanted.epoch));
            if *part == Part::Workloads {
                seen.at_rest = false;
            }
            let now = if *part == Part::Workloads { PartSeen::Waits("pods start".to_owned()) } else { PartSeen::Ready };
            seen.parts.insert(*part, now);
        }
        Action::MakeVolume(volume) => {
            let size = wanted.volumes.iter().find(|intent| intent.name == *volume).unwrap().size.0;
            let before = seen.volumes.insert(volume.clone(), there(size));
            assert!(matches!(before, None | Some(VolumeSeen::Never)), "a volume that was there is never made again");
        }
        Action::GrowVolume(volume) => {
            let size = wanted.volumes.iter().find(|intent| intent.name == *volume).unwrap().size.0;
            assert!(matches!(seen.volumes.insert(volume.clone(), there(size)), Some(VolumeSeen::There { bytes, .. }) if bytes < size));
        }
        Action::Unroute => drop(seen.parts.remove(&Part::Routes)),
        Action::Stop => {
            seen.parts.remove(&Part::Workloads);
            seen.at_rest = true;
        }
        Action::Delete => {
            assert_eq!(
                (wanted.role, seen.at_rest, &seen.home),
                (Role::Absent, true, &Home::Ours(wanted.epoch)),
                "only what is named absent goes"
            );
            *seen = TenantSeen { home: Home::Terminating(None), ..TenantSeen::default() };
        }
    }
}

/// Time passes: pods become ready, namespaces end.
fn settle(seen: &mut TenantSeen) {
    if matches!(seen.home, Home::Terminating(_)) {
        *seen = nothing();
    }
    for part in seen.parts.values_mut().filter(|part| matches!(part, PartSeen::Waits(_))) {
        *part = PartSeen::Ready;
    }
}

/// Nothing of it is there, and that is known.
fn nothing() -> TenantSeen {
    TenantSeen { at_rest: true, ..TenantSeen::default() }
}

fn one(wanted: &TenantIntent, seen: &TenantSeen) -> Step {
    tenant::step(wanted, seen)
}

fn any_role() -> impl Strategy<Value = Role> {
    proptest::sample::select(Role::ALL.to_vec())
}

fn any_part() -> impl Strategy<Value = PartSeen> {
    prop_oneof![Just(PartSeen::Missing), Just(PartSeen::Differs), Just(PartSeen::Waits("a pod".to_owned())), Just(PartSeen::Ready)]
}

/// Anything that may be found, in an epoch of 1 to 6.
fn any_seen() -> impl Strategy<Value = TenantSeen> {
    let home = prop_oneof![
        2 => Just(Home::None),
        6 => (1..7_u64).prop_map(|index| Home::Ours(epoch(index))),
        1 => proptest::option::of(Just("a finalizer".to_owned())).prop_map(Home::Terminating),
        1 => Just(Home::Foreign("a namespace of somebody else".to_owned())),
    ];
    let going = VolumeSeen::Going { uid: VolumeUid(1) };
    let volume = prop_oneof![Just(VolumeSeen::Never), (1..30_u64).prop_map(there), Just(going), Just(VolumeSeen::Lost)];
    (home, proptest::collection::vec(any_part(), 4), proptest::collection::vec(volume, 2), any::<bool>()).prop_map(
        |(home, parts, volumes, at_rest)| {
            if home == Home::None {
                return TenantSeen { at_rest, ..TenantSeen::default() };
            }
            let volumes = [name("data"), name("logs")].into_iter().zip(volumes).collect();
            TenantSeen { home, parts: Part::ALL.into_iter().zip(parts).collect(), volumes, at_rest, ..TenantSeen::default() }
        },
    )
}

proptest! {
    /// Whatever is found, whichever actions fail on the way and however the intent changes meanwhile: it ends where the last intent says, nothing is
    /// done any more, and no rule is broken on the way.
    #[test]
    fn it_comes_to_rest_where_the_last_intent_says(
        mut seen in any_seen(),
        intents in proptest::collection::vec((any_role(), 0..4_usize), 1..5),
        fails in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let mut fails = fails.into_iter();
        let mut last = None;
        for (number, (role, rounds)) in intents.iter().enumerate() {
            let wanted = wanted(1, 3 + number as u64, *role);
            for _ in 0..*rounds {
                for action in one(&wanted, &seen).actions {
                    if fails.next().unwrap_or(false) {
                        break;
                    }
                    carry_out(&wanted, &mut seen, &action);
                }
                settle(&mut seen);
            }
            last = Some(wanted);
        }
        let wanted = last.unwrap();
        for _ in 0..8 {
            for action in one(&wanted, &seen).actions {
                carry_out(&wanted, &mut seen, &action);
            }
            settle(&mut seen);
        }
        let step = one(&wanted, &seen);
        prop_assert_eq!(&step.actions, &[], "{:?} {:?}", step.condition, seen);
        let lost = seen.volumes.values().any(|volume| *volume == VolumeSeen::Lost);
        let goes = wanted.role == Role::Run && going(&wanted, &seen).is_some();
        let expected = match (&seen.home, wanted.role) {
            (Home::Foreign(_), _) => matches!(step.condition, Condition::Blocked(_)),
            (Home::Ours(known), _) if *known > wanted.epoch => matches!(step.condition, Condition::Blocked(_)),
            (_, Role::Absent) => step.condition == Condition::Absent,
            _ if lost => matches!(step.condition, Condition::VolumeLost(_)) && (seen.at_rest || goes),
            (_, Role::Run) => step.condition == Condition::Running || goes && matches!(step.condition, Condition::Progressing(_)),
            (_, Role::Hold | Role::Receive | Role::Stopped) => step.condition == Condition::Stopped && seen.at_rest,
        };
        prop_assert!(expected, "{:?} under {:?}: {:?}", step.condition, wanted.role, seen);
    }

    #[test]
    fn an_older_intent_does_nothing(seen in any_seen(), role in any_role(), known in 2..9_u64) {
        let intent = ClusterIntent { generation: epoch(known - 1), tenants: vec![wanted(1, 9, role)] };
        let seen = ClusterSeen { generation: epoch(known), tenants: BTreeMap::from([(TenantId(1), seen)]) };
        let round = reconcile(&intent, &seen, &Limits::default(), &mut Memory::default(), Timestamp(0));
        prop_assert!(round.stale && round.steps.is_empty());
    }

    #[test]
    fn what_no_intent_names_is_left_as_it_is(seen in proptest::collection::btree_map((1..9_u64).prop_map(TenantId), any_seen(), 0..8), named in proptest::collection::btree_set(1..9_u64, 0..8)) {
        let tenants: Vec<_> = named.iter().map(|id| wanted(*id, 9, Role::Absent)).collect();
        let seen = ClusterSeen { generation: epoch(1), tenants: seen };
        let round = reconcile(&ClusterIntent { generation: epoch(2), tenants }, &seen, &Limits::default(), &mut Memory::default(), Timestamp(0));
        prop_assert!(round.steps.iter().all(|(id, _)| named.contains(&id.0)));
        let orphans: Vec<_> = seen.tenants.keys().filter(|id| !named.contains(&id.0)).copied().collect();
        prop_assert_eq!(round.orphans, orphans);
    }
}

fn resting(index: u64) -> TenantSeen {
    TenantSeen { home: Home::Ours(epoch(index)), at_rest: true, ..TenantSeen::default() }
}

fn deletions(round: &Round) -> usize {
    round.steps.iter().filter(|(_, step)| step.actions.contains(&Action::Delete)).count()
}

#[test]
fn many_deletions_at_once_wait_for_an_operator() {
    let tenants = (0..100).map(|id| wanted(id, 1, Role::Absent)).collect();
    let mut intent = ClusterIntent { generation: epoch(1), tenants };
    let seen = ClusterSeen { generation: epoch(1), tenants: (0..100).map(|id| (TenantId(id), resting(1))).collect() };
    let (limits, mut memory) = (Limits::default(), Memory::default());
    let first = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(0));
    assert_eq!((deletions(&first), first.held_back.len()), (5, 95));
    let again = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(1000));
    assert_eq!(deletions(&again), 5, "those that were begun go on, and no other");
    let later = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(600_000));
    assert_eq!(deletions(&later), 5, "the window has passed");
    let condition = |round: &Round, id: u64| round.steps.iter().find(|(step, _)| step.0 == id).unwrap().1.condition.clone();
    assert_eq!(condition(&later, 50), Condition::HeldBack);

    for tenant in &mut intent.tenants[50..70] {
        tenant.removal_agreed = true;
    }
    for _ in 0..2 {
        let agreed = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(600_001));
        assert_eq!(
            (deletions(&agreed), agreed.held_back.len()),
            (25, 75),
            "an operator has agreed to those, and to no other, however often told"
        );
        assert!((50..70).all(|id| matches!(condition(&agreed, id), Condition::Progressing(_))));
        memory = Memory::default();
    }
}

#[test]
fn who_begins_anew_counts_the_removals_that_were_begun_before() {
    let tenants = (0..100).map(|id| wanted(id, 1, Role::Absent)).collect();
    let intent = ClusterIntent { generation: epoch(1), tenants };
    let mut seen = ClusterSeen { generation: epoch(1), tenants: (0..100).map(|id| (TenantId(id), resting(1))).collect() };
    let limits = Limits::default();
    let mut kept = BTreeMap::new();
    let mut gone = BTreeSet::new();
    // It crashes every minute, with whatever it has begun carried out.
    for minute in 0..20 {
        let (mut memory, now) = (Memory::default(), Timestamp(1_000_000 + minute * 60_000));
        memory.removals_are(kept, now);
        let round = reconcile(&intent, &seen, &limits, &mut memory, now);
        kept = memory.removals().clone();
        for (id, _) in round.steps.iter().filter(|(_, step)| step.actions.contains(&Action::Delete)) {
            gone.insert(*id);
            seen.tenants.insert(*id, TenantSeen::default());
        }
        assert_eq!(gone.len(), if minute < 10 { 5 } else { 10 }, "minute {minute}");
    }
    // By a clock that went back an hour they count for ten minutes, not for seventy.
    let (mut memory, now) = (Memory::default(), Timestamp(0));
    memory.removals_are(kept, now);
    assert_eq!(deletions(&reconcile(&intent, &seen, &limits, &mut memory, now)), 0);
    assert_eq!(deletions(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(600_000))), 5);
}

#[test]
fn who_is_stopped_for_a_removal_that_will_be_held_back_is_not_said_to_be_removed() {
    let intent = ClusterIntent { generation: epoch(1), tenants: (0..6).map(|id| wanted(id, 1, Role::Absent)).collect() };
    let runs = |id| (TenantId(id), TenantSeen { at_rest: id < 5, ..resting(1) });
    let mut seen = ClusterSeen { generation: epoch(1), tenants: (0..6).map(runs).collect() };
    let (limits, mut memory) = (Limits::default(), Memory::default());
    let said = |round: &Round| match &round.steps.last().unwrap().1.condition {
        Condition::Progressing(words) => words.clone(),
        other => panic!("{other:?}"),
    };
    let full = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(0));
    assert_eq!((deletions(&full), full.held_back.len()), (5, 0));
    assert!(said(&full).contains("its removal waits for an operator"), "{}", said(&full));
    assert_eq!(full.steps.last().unwrap().1.actions, [Action::Stop]);
    let room = reconcile(&intent, &seen, &limits, &mut memory, Timestamp(600_000));
    assert_eq!(deletions(&room), 5);

    seen.tenants.retain(|id, _| id.0 == 5);
    let alone = ClusterIntent { generation: epoch(1), tenants: intent.tenants[5..].to_vec() };
    let room = reconcile(&alone, &seen, &limits, &mut Memory::default(), Timestamp(0));
    assert_eq!(said(&room), "it is being stopped, and then removed");
    let agreed = ClusterIntent { tenants: vec![TenantIntent { removal_agreed: true, ..intent.tenants[5].clone() }], ..alone };
    let agreed = reconcile(&agreed, &seen, &limits, &mut memory, Timestamp(600_001));
    assert_eq!(said(&agreed), "it is being stopped, and then removed");
}

#[test]
fn what_keeps_a_tenant_from_being_at_rest_is_told() {
    let holds = Some("pod shell still runs".to_owned());
    let seen = TenantSeen { at_rest: false, holds, ..resting(1) };
    let said = |role| match one(&wanted(1, 1, role), &seen).condition {
        Condition::Progressing(words) => words,
        other => panic!("{other:?}"),
    };
    assert_eq!(said(Role::Stopped), "it is being stopped: pod shell still runs");
    assert_eq!(said(Role::Absent), "it is being stopped, and then removed: pod shell still runs");
    let intent = ClusterIntent { generation: epoch(1), tenants: vec![wanted(1, 1, Role::Absent)] };
    let seen = ClusterSeen { generation: epoch(1), tenants: BTreeMap::from([(TenantId(1), seen)]) };
    let limits = Limits { removals: 0, removals_per_mille: 0, ..Limits::default() };
    let round = reconcile(&intent, &seen, &limits, &mut Memory::default(), Timestamp(0));
    let waits = &round.steps[0].1.condition;
    assert!(matches!(waits, Condition::Progressing(words) if words.ends_with("unasked: pod shell still runs")), "{waits:?}");
}

fn busy(round: &Round) -> Vec<u64> {
    round.steps.iter().filter(|(_, step)| !step.actions.is_empty()).map(|(id, _)| id.0).collect()
}

/// A hundred tenants that run, of which something is to be changed, in ten shards: tenant 17 is in shard 7.
fn to_be_changed() -> (ClusterIntent, ClusterSeen) {
    let tenants = (0..100).map(|id| TenantIntent { shard: ShardId(id as u16 % 10), volumes: Vec::new(), ..wanted(id, 1, Role::Run) });
    let parts: BTreeMap<_, _> = Part::ALL.into_iter().map(|part| (part, PartSeen::Ready)).collect();
    let mut seen = TenantSeen { home: Home::Ours(epoch(1)), parts, ..TenantSeen::default() };
    seen.parts.insert(Part::Workloads, PartSeen::Differs);
    let seen = (0..100).map(|id| (TenantId(id), seen.clone())).collect();
    (ClusterIntent { generation: epoch(1), tenants: tenants.collect() }, ClusterSeen { generation: epoch(1), tenants: seen })
}

fn set(seen: &mut ClusterSeen, id: u64, part: PartSeen) {
    seen.tenants.get_mut(&TenantId(id)).unwrap().parts.insert(Part::Workloads, part);
}

#[test]
fn so_many_that_run_are_changed_at_a_time_shard_by_shard_until_they_are_complete() {
    let (intent, mut seen) = to_be_changed();
    let (limits, mut memory) = (Limits::default(), Memory::default());
    let mut round = |seen: &ClusterSeen, now| busy(&reconcile(&intent, seen, &limits, &mut memory, Timestamp(now)));
    let first: Vec<u64> = (0..20).map(|turn| turn % 10 * 10 + turn / 10).collect();
    assert_eq!(round(&seen, 0), first, "all of shard 0, then all of shard 1");
    first.iter().for_each(|id| set(&mut seen, *id, PartSeen::Waits("a pod".to_owned())));
    assert_eq!(round(&seen, 1), [] as [u64; 0], "none is complete yet");
    set(&mut seen, 10, PartSeen::Ready);
    assert_eq!(round(&seen, 2), [2], "one is, and another one takes its place");
    set(&mut seen, 20, PartSeen::Blocked("no such image".to_owned()));
    assert_eq!(round(&seen, 3), [2, 12], "nor does one keep its place that cannot go on");
    assert_eq!(round(&seen, 600_001).len(), 18 + 2, "nor one that takes too long");
}

#[test]
fn who_begins_anew_finds_those_in_work_that_are_on_their_way() {
    let (intent, mut seen) = to_be_changed();
    let limits = Limits::default();
    let first = busy(&reconcile(&intent, &seen, &limits, &mut Memory::default(), Timestamp(0)));
    first.iter().for_each(|id| set(&mut seen, *id, PartSeen::Waits("a pod".to_owned())));
    // One of them has been changed by half, and one of those behind them has not been looked at yet.
    seen.tenants.get_mut(&TenantId(first[7])).unwrap().parts.insert(Part::Routes, PartSeen::Differs);
    let unknown = seen.tenants.remove(&TenantId(99)).unwrap();
    let mut memory = Memory::default();
    let mut round = |seen: &ClusterSeen, now| busy(&reconcile(&intent, seen, &limits, &mut memory, Timestamp(now)));
    assert_eq!(round(&seen, 1), [first[7], 99], "it goes on with what was begun, and changes nothing else");
    seen.tenants.insert(TenantId(99), unknown);
    assert_eq!(round(&seen, 2), [first[7]]);
    set(&mut seen, first[0], PartSeen::Ready);
    assert_eq!(round(&seen, 3), [first[7], 2], "one is complete, and another one takes its place");
    // One that was complete and is not ready any more is not being changed.
    set(&mut seen, first[0], PartSeen::Waits("its pod has ended".to_owned()));
    set(&mut seen, first[1], PartSeen::Ready);
    assert_eq!(round(&seen, 4), [first[7], 2, 12]);
    assert_eq!(round(&seen, 600_004).len(), 20, "and nobody keeps its place for ever");
}

#[test]
fn who_is_put_back_as_it_was_complete_before_waits_for_nobody() {
    let (intent, mut seen) = to_be_changed();
    let (limits, mut memory) = (Limits::default(), Memory::default());
    let mut round = |seen: &ClusterSeen| busy(&reconcile(&intent, seen, &limits, &mut memory, Timestamp(0))).len();
    let all = |seen: &mut ClusterSeen, rendering, part: PartSeen| {
        (0..100).for_each(|id| set(seen, id, part.clone()));
        seen.tenants.values_mut().for_each(|seen| seen.rendering = rendering);
    };
    all(&mut seen, Some(1), PartSeen::Ready);
    assert_eq!(round(&seen), 0);
    all(&mut seen, Some(1), PartSeen::Differs);
    assert_eq!(round(&seen), 100, "all were damaged at once");
    all(&mut seen, Some(2), PartSeen::Differs);
    assert_eq!(round(&seen), 20, "something else is wanted");
    all(&mut seen, None, PartSeen::Differs);
    assert_eq!(round(&seen), 20, "nobody knows");
}

#[test]
fn new_tenants_do_not_wait_for_each_other() {
    let tenants = (0..100).map(|id| wanted(id, 1, Role::Run)).collect();
    let intent = ClusterIntent { generation: epoch(1), tenants };
    let round = reconcile(&intent, &ClusterSeen::default(), &Limits::default(), &mut Memory::default(), Timestamp(0));
    assert_eq!(busy(&round).len(), 100);
}

#[test]
fn who_fails_rests_longer_each_time_and_gives_its_place_away() {
    let (intent, seen) = to_be_changed();
    let (limits, mut memory) = (Limits { in_work: 1, ..Limits::default() }, Memory::default());
    assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(0))), [0]);
    memory.failed(TenantId(0), Timestamp(0), None);
    assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(1))), [10]);
    let mut rests = Vec::new();
    let mut now = Timestamp(0);
    for _ in 0..12 {
        memory.failed(TenantId(0), now, None);
        let until = memory.next_try().unwrap();
        rests.push(until.0 - now.0);
        now = until;
    }
    assert!(rests.is_sorted() && rests[0] >= 1000 && rests[11] == 300_000, "{rests:?}");
    memory.failed(TenantId(0), now, Some(Millis(900_000)));
    assert_eq!(memory.next_try(), Some(now.after(Millis(900_000))), "as long as it was told");
    memory.try_again(TenantId(0));
    assert!(memory.rests(TenantId(0), now), "also where something moves");
    assert!(!memory.rests(TenantId(0), now.after(Millis(900_000))));
    memory.failed(TenantId(0), now, None);
    memory.try_again(TenantId(0));
    assert!(!memory.rests(TenantId(0), now), "nobody told it to wait");
}

proptest! {
    /// Whoever of a shard is told to come again later, and whatever moves meanwhile: nobody of that shard does anything before, all others go on,
    /// and then it goes on as if nothing had been: nobody is taken for one that failed, and nobody has lost its place.
    #[test]
    fn a_shard_that_is_told_to_come_later_does_and_nobody_else(
        told in proptest::collection::vec((0..100_u64, 1..20_000_u64), 1..6),
        moves in proptest::collection::vec(0..100_u64, 0..20),
        at in 0..40_000_u64,
    ) {
        let (intent, seen) = to_be_changed();
        let shard = |id: u64| intent.tenants[id as usize].shard;
        // All may be changed at once, so that no limit but this one counts.
        let (limits, mut memory) = (Limits { in_work: 100, ..Limits::default() }, Memory::default());
        prop_assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(0))).len(), 100);
        told.iter().for_each(|(id, after)| memory.shard_rests(shard(*id), Timestamp(0), Millis(*after)));
        moves.iter().for_each(|id| memory.try_again(TenantId(*id)));
        let rests = |id: &u64| told.iter().any(|(of, after)| shard(*of) == shard(*id) && *after > at);
        let first = told.iter().map(|(of, _)| told.iter().filter(|(id, _)| shard(*id) == shard(*of)).map(|(_, after)| *after).max()).min().flatten();
        prop_assert_eq!(memory.next_try(), first.map(Timestamp));
        let mut goes_on = busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(at)));
        goes_on.sort_unstable();
        prop_assert_eq!(goes_on, (0..100).filter(|id| !rests(id)).collect::<Vec<_>>());
        prop_assert!((0..100).all(|id| memory.failures(TenantId(id)) == 0));
        prop_assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(20_000))).len(), 100);
    }
}

#[test]
fn who_is_told_to_come_later_keeps_its_place_among_those_that_are_changed() {
    let (intent, seen) = to_be_changed();
    let (limits, mut memory) = (Limits { in_work: 1, ..Limits::default() }, Memory::default());
    assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(0))), [0]);
    memory.shard_rests(ShardId(0), Timestamp(0), Millis(5_000));
    memory.shard_rests(ShardId(0), Timestamp(0), Millis(1_000));
    assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(4_999))), [] as [u64; 0], "nobody takes its place");
    assert_eq!(busy(&reconcile(&intent, &seen, &limits, &mut memory, Timestamp(5_000))), [0], "the longer one counts");
    assert_eq!(memory.next_try(), None);
    memory.shard_rests(ShardId(0), Timestamp(5_000), Millis(u64::MAX));
    assert_eq!(memory.next_try(), Some(Timestamp(305_000)), "not for ever, whatever it is told");
}

#[test]
fn who_is_to_run_and_is_not_ready_within_its_time_is_late_until_it_is() {
    let (mut intent, mut seen) = to_be_changed();
    intent.tenants.truncate(2);
    intent.tenants[1].role = Role::Stopped;
    let (limits, mut memory) = (Limits::default(), Memory::default());
    let within = Millis::from_secs(300);
    let mut at = |seen: &ClusterSeen, now: u64| {
        let now = Timestamp(now);
        let round = reconcile(&intent, seen, &limits, &mut memory, now);
        round.steps.into_iter().map(|(id, step)| memory.judged(id, step.condition, within, now)).collect::<Vec<_>>()
    };
    let progressing = |why: &str| Condition::Progressing(why.to_owned());
    assert_eq!(at(&seen, 1000)[0], progressing("its objects are being made"));
    set(&mut seen, 0, PartSeen::Waits("pod web-0 cannot be scheduled".to_owned()));
    assert_eq!(at(&seen, 300_999)[0], progressing("pod web-0 cannot be scheduled"));
    let late = at(&seen, 301_000);
    assert_eq!(late[0], Condition::Late("not ready within 5m: pod web-0 cannot be scheduled".to_owned()), "since it was begun");
    assert_eq!(at(&seen, 900_000)[1], progressing("it is being stopped"), "what is to rest is given its time by others");
    set(&mut seen, 0, PartSeen::Ready);
    assert_eq!(at(&seen, 900_001)[0], Condition::Running);
    set(&mut seen, 0, PartSeen::Waits("its pod has ended".to_owned()));
    assert_eq!(at(&seen, 901_000)[0], progressing("its pod has ended"), "each time anew");
    assert_eq!(at(&seen, 1_201_000)[0], Condition::Late("not ready within 5m: its pod has ended".to_owned()));
}

#[test]
fn a_volume_that_is_known_and_not_there_is_never_made_again() {
    let mut run = wanted(1, 1, Role::Run);
    let mut seen = TenantSeen::default();
    one(&run, &seen).actions.iter().for_each(|action| carry_out(&run, &mut seen, action));
    settle(&mut seen);
    run.volumes[0].uid = Some(VolumeUid(1));
    assert_eq!(one(&run, &seen), Step { actions: vec![], condition: Condition::Running });
    run.volumes[0].uid = Some(VolumeUid(2));
    let other = one(&run, &seen);
    assert_eq!(other, Step { actions: vec![Action::Unroute, Action::Stop], condition: Condition::VolumeLost(name("data")) });
    seen.volumes.clear();
    assert_eq!(one(&run, &seen), other, "neither where the claim is gone, with all that was written down about it");
    assert_eq!(one(&run, &TenantSeen::default()).condition, Condition::VolumeLost(name("data")), "nor where the namespace is");
}

#[test]
fn a_volume_that_is_being_deleted_is_named_and_its_tenant_goes_on() {
    let run = wanted(1, 1, Role::Run);
    let mut seen = TenantSeen::default();
    one(&run, &seen).actions.iter().for_each(|action| carry_out(&run, &mut seen, action));
    settle(&mut seen);
    assert_eq!(going(&run, &seen), None);
    seen.volumes.insert(name("data"), VolumeSeen::Going { uid: VolumeUid(1) });
    assert_eq!(going(&run, &seen), Some(&name("data")));
    assert_eq!(one(&run, &seen), Step { actions: vec![], condition: Condition::Running }, "to stop it would end the volume");
    assert_eq!(going(&wanted(1, 1, Role::Absent), &seen), None, "it is to go");
    let mut changed = seen.clone();
    changed.parts.insert(Part::Workloads, PartSeen::Differs);
    assert_eq!(one(&run, &changed).actions, [], "nor are its pods made anew");
    assert!(matches!(one(&run, &changed).condition, Condition::Progressing(_)));
    changed.volumes.insert(name("logs"), VolumeSeen::Lost);
    assert_eq!(one(&run, &changed), Step { actions: vec![], condition: Condition::VolumeLost(name("logs")) }, "whatever else is lost");
    let mut other = run.clone();
    other.volumes[0].uid = Some(VolumeUid(2));
    assert_eq!(one(&other, &seen).condition, Condition::VolumeLost(name("data")), "another one in its place is no better for going");
    seen.home = Home::Terminating(None);
    assert_eq!(going(&run, &seen), None, "the namespace is what goes");
}

#[test]
fn of_who_is_only_to_be_stopped_nothing_is_made_where_nothing_is() {
    for role in Role::ALL {
        let Step { actions, condition } = one(&wanted(1, 1, role), &nothing());
        match role {
            Role::Run | Role::Hold | Role::Receive => assert_eq!(actions.first(), Some(&Action::Claim), "{role:?}"),
            Role::Stopped => assert_eq!((actions, condition), (vec![], Condition::Stopped)),
            Role::Absent => assert_eq!((actions, condition), (vec![], Condition::Absent)),
        }
    }
    let mut stopped = wanted(1, 1, Role::Stopped);
    assert_eq!(one(&stopped, &TenantSeen::default()).actions.first(), Some(&Action::Claim), "something may still run");
    stopped.volumes[0].uid = Some(VolumeUid(1));
    assert_eq!(one(&stopped, &nothing()), Step { actions: vec![], condition: Condition::VolumeLost(name("data")) }, "it was there");
}

#[test]
fn a_volume_that_may_not_be_able_to_grow_keeps_nothing_from_running() {
    let (mut seen, mut run) = (TenantSeen::default(), wanted(1, 1, Role::Run));
    one(&run, &seen).actions.iter().for_each(|action| carry_out(&run, &mut seen, action));
    settle(&mut seen);
    seen.parts.insert(Part::Workloads, PartSeen::Missing);
    run.volumes[0].size.0 += 1;
    assert_eq!(one(&run, &seen).actions, [Action::Put(Part::Workloads), Action::GrowVolume(name("data"))]);
}

#[test]
fn what_holds_a_namespace_that_is_on_its_way_out_is_said() {
    let says = |role: Role, held: Option<&str>| {
        let home = Home::Terminating(held.map(str::to_owned));
        one(&wanted(1, 1, role), &TenantSeen { home, ..TenantSeen::default() }).condition
    };
    let (going, blocked) = ("its namespace is being deleted", "its namespace is being deleted, and nothing can be made in it");
    assert_eq!(says(Role::Absent, None), Condition::Progressing(going.to_owned()));
    assert_eq!(says(Role::Absent, Some("a finalizer")), Condition::Progressing(format!("{going}: a finalizer")));
    assert_eq!(says(Role::Run, Some("a finalizer")), Condition::Blocked(format!("{blocked}: a finalizer")));
}

#[test]
fn a_tenant_comes_up_part_by_part_and_goes_down_the_other_way() {
    let (mut seen, run) = (TenantSeen::default(), wanted(1, 1, Role::Run));
    let made = one(&run, &seen).actions;
    let volumes = [Action::MakeVolume(name("data")), Action::MakeVolume(name("logs"))];
    let [data, logs] = volumes;
    let put = Action::Put;
    assert_eq!(made, [Action::Claim, put(Part::Bounds), put(Part::Secrets), data, logs, put(Part::Workloads), put(Part::Routes)]);
    made.iter().for_each(|action| carry_out(&run, &mut seen, action));
    assert_eq!(one(&run, &seen), Step { actions: vec![], condition: Condition::Progressing("pods start".to_owned()) });
    settle(&mut seen);
    assert_eq!(one(&run, &seen), Step { actions: vec![], condition: Condition::Running });
    let absent = wanted(1, 1, Role::Absent);
    let first = one(&absent, &seen).actions;
    assert_eq!(first, [Action::Unroute, Action::Stop], "nothing is deleted that still writes");
    first.iter().for_each(|action| carry_out(&absent, &mut seen, action));
    assert_eq!(one(&absent, &seen).actions, [Action::Delete]);
}
