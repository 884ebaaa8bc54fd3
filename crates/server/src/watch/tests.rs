//! The shared history with many watchers, slow ones, and restores; without a network.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use roadstead_api::v1;
use roadstead_core::apply::{Applied, Change};
use roadstead_core::id::{ClusterId, Epoch, Incarnation, Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::resources::Requests;
use roadstead_core::tenant::{Binding, Desired, Phase, Tenant, TenantSpec};
use roadstead_core::time::Timestamp;

use super::ClusterNames;
use super::event::Entry;
use super::history::{History, MAX_CHANGES, Place, Refused, Taken};
use super::scope::{Kinds, Scope};

const CLUSTERS: u64 = 100;
const OWNERS: u64 = 100;

fn revision(incarnation: u16, index: u64) -> Revision {
    Revision { incarnation: Incarnation(incarnation), index }
}

fn names() -> ClusterNames {
    Arc::new((0..CLUSTERS as u32).map(|number| (ClusterId(number), format!("c{number}").parse().unwrap())).collect::<HashMap<_, _>>())
}

fn cluster(number: u64) -> Name {
    format!("c{number}").parse().unwrap()
}

fn owner(number: u64) -> Owner {
    format!("o{number}").parse().unwrap()
}

fn tenant(number: u64) -> Arc<Tenant> {
    let spec = TenantSpec {
        name: format!("t{number}").parse().unwrap(),
        owner: owner(number % OWNERS),
        class: "shop".parse().unwrap(),
        version: "1.0.0".to_owned(),
        values: String::new(),
        hostnames: vec![],
        volumes: vec![],
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Arc::default(),
        requests: Requests::default(),
    };
    let binding = Binding { cluster: ClusterId((number / 7 % CLUSTERS) as u32), shard: ShardId(0), epoch: Epoch::default() };
    Arc::new(Tenant {
        id: TenantId(number),
        spec,
        phase: Phase::Bound { binding, running: false },
        reason: vec![],
        misplaced: false,
        created: Revision::default(),
        created_at: Timestamp::default(),
        changed: Revision::default(),
    })
}

fn entry(revision: Revision, tenants: impl Iterator<Item = Arc<Tenant>>, names: &ClusterNames) -> Arc<Entry> {
    let changes = tenants.map(|tenant| Change::Tenant { before: None, after: Some(tenant), facts: None }).collect();
    let applied = Applied { revision, changes, ..Applied::default() };
    Arc::new(Entry::new(revision, Arc::new(applied), Arc::clone(names), None))
}

fn begun() -> Arc<History> {
    let history = Arc::new(History::default());
    history.begin(revision(0, 1), names());
    history
}

fn everything() -> Scope {
    Scope::new(Kinds::ALL, None, None)
}

/// What a watcher gets: uids of tenants, in order.
fn drain(place: &Place, scope: &Scope) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let entries = match place.take() {
            Taken::Entries(entries) => entries,
            Taken::Nothing(_) => return seen,
            other => panic!("cut off: {other:?}"),
        };
        for message in entries.iter().flat_map(|entry| entry.messages(scope, 0).to_vec()) {
            let response = v1::WatchResponse::decode(message).unwrap();
            seen.extend(response.events.into_iter().map(|event| match event.object {
                Some(v1::watch_event::Object::Tenant(tenant)) => tenant.uid,
                other => panic!("no tenant: {other:?}"),
            }));
        }
    }
}

#[test]
fn a_thousand_watchers_see_their_own_changes_once_and_in_order() {
    let (history, names) = (begun(), names());
    let scopes: Vec<Scope> = (0..1000)
        .map(|number| match number % 2 {
            0 => Scope::new(Kinds::ALL, Some(cluster(number / 2 % CLUSTERS)), None),
            _ => Scope::new(Kinds::ALL, None, Some([owner(number / 2 % OWNERS)].into())),
        })
        .chain([everything(), everything(), everything()])
        .collect();
    let places: Vec<Place> = scopes.iter().map(|scope| history.follow(scope.clone(), revision(0, 1), false).unwrap()).collect();
    let mut seen = vec![Vec::new(); scopes.len()];
    for batch in 0..20 {
        for index in 0..5 {
            let number = batch * 5 + index;
            history.push(entry(revision(0, 2 + number), (number * 100..(number + 1) * 100).map(tenant), &names));
        }
        history.wake();
        for ((place, scope), seen) in places.iter().zip(&scopes).zip(&mut seen) {
            seen.extend(drain(place, scope));
        }
    }
    for (scope, seen) in scopes.iter().zip(&seen) {
        let meant = |number: &u64| {
            scope.cluster().is_none_or(|name| *name == cluster(number / 7 % CLUSTERS))
                && scope.owners().is_none_or(|owners| owners[0] == owner(number % OWNERS))
        };
        let expected: Vec<String> = (0..10_000).filter(meant).map(|number| TenantId(number).to_string()).collect();
        assert_eq!(*seen, expected);
    }
}

#[test]
fn a_slow_watcher_is_compacted_and_an_idle_one_is_not() {
    let (history, names) = (begun(), names());
    let slow = history.follow(everything(), revision(0, 1), false).unwrap();
    let idle = history.follow(Scope::new(Kinds::ALL, None, Some([owner(OWNERS)].into())), revision(0, 1), false).unwrap();
    let one = tenant(1);
    let per_entry = MAX_CHANGES / 100;
    for index in 0..102 {
        history.push(entry(revision(0, 2 + index), std::iter::repeat_n(Arc::clone(&one), per_entry), &names));
    }
    assert!(matches!(slow.take(), Taken::Compacted));
    assert!(matches!(idle.take(), Taken::Nothing(head) if head == revision(0, 103)));
    assert!(matches!(history.follow(everything(), revision(0, 2), false), Err(Refused::Compacted { .. })));
    assert!(history.follow(everything(), revision(0, 50), false).is_ok());
    drop((slow, idle));
    assert_eq!(history.watchers(), 0, "a watcher that has gone leaves nothing behind");
}

#[test]
fn a_restore_compacts_every_watch_of_the_old_incarnation() {
    let (history, names) = (begun(), names());
    let old = history.follow(everything(), revision(0, 1), false).unwrap();
    history.push(entry(revision(0, 2), [tenant(1)].into_iter(), &names));
    history.push(entry(revision(1, 3), [tenant(2)].into_iter(), &names));
    assert!(matches!(old.take(), Taken::Compacted));
    assert!(matches!(history.follow(everything(), revision(0, 2), false), Err(Refused::Compacted { .. })));
    let new = history.follow(everything(), revision(1, 2), false).unwrap();
    assert_eq!(drain(&new, &everything()), [TenantId(2).to_string()]);
}

#[test]
fn a_state_that_was_replaced_compacts_and_the_same_state_goes_on() {
    let history = begun();
    let watcher = history.follow(everything(), revision(0, 1), false).unwrap();
    history.begin(revision(0, 1), names());
    assert!(matches!(watcher.take(), Taken::Nothing(_)), "nothing was missed");
    history.begin(revision(0, 900), names());
    assert!(matches!(watcher.take(), Taken::Compacted));
    history.end();
    assert!(matches!(watcher.take(), Taken::Ended));
    assert!(matches!(history.follow(everything(), revision(0, 900), false), Err(Refused::Ended)));
}
