//! The sums against sums made from scratch, over any order of events, lists anew included; and what counts, one example each.

use std::collections::BTreeMap;

use proptest::prelude::*;
use roadstead_core::constraint::{TaintEffect, Toleration};

use super::*;
use crate::inventory::slim::{Attachment, Namespace, NodeDrivers, Pod, StorageClass, StorageLeft, Volume};

/// What exists in a cluster.
#[derive(Clone, Debug, Default)]
struct World {
    namespaces: BTreeMap<u8, Namespace>,
    nodes: BTreeMap<u8, Node>,
    drivers: BTreeMap<u8, NodeDrivers>,
    pods: BTreeMap<u8, Pod>,
    volumes: BTreeMap<u8, Volume>,
    classes: BTreeMap<u8, StorageClass>,
    left: BTreeMap<u8, StorageLeft>,
    attachments: BTreeMap<u8, Attachment>,
}

/// One of eight kinds of object; `None` deletes it.
#[derive(Clone, Debug)]
enum Event {
    Namespace(u8, Option<Namespace>),
    Node(u8, Option<Node>),
    Drivers(u8, Option<NodeDrivers>),
    Pod(u8, Option<Pod>),
    Volume(u8, Option<Volume>),
    Class(u8, Option<StorageClass>),
    Left(u8, Option<StorageLeft>),
    Attachment(u8, Option<Attachment>),
    Orphans(BTreeSet<Box<str>>),
    Detached(BTreeSet<Box<str>>),
    /// A list of everything anew, after events that were missed; begun once before in vain.
    Relist(Vec<Event>),
}

fn name(kind: char, number: u8) -> Box<str> {
    format!("{kind}{number}").into()
}

fn maybe<T: std::fmt::Debug>(some: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.8, some)
}

fn size() -> impl Strategy<Value = PodSize> {
    (0..5_000u64, 0..9_000u64).prop_map(|(cpu, memory)| PodSize { cpu: Millicores(cpu), memory: Bytes(memory) })
}

fn taint() -> impl Strategy<Value = Taint> {
    let effect = prop_oneof![Just(TaintEffect::NoSchedule), Just(TaintEffect::PreferNoSchedule)];
    (0..2u8, effect).prop_map(|(key, effect)| Taint { key: name('k', key).into(), value: String::new(), effect })
}

fn node() -> impl Strategy<Value = (u8, Node)> {
    let parts = (0..4u8, any::<bool>(), prop::bool::weighted(0.8), prop::collection::vec(taint(), 0..2), size(), 0..9u64);
    (parts, maybe(0..9u64), maybe(0..3u8), any::<[bool; 3]>()).prop_map(
        |((number, ready, schedulable, taints, allocatable, pods), attachable, zone, pressure)| {
            let (zone, name) = (zone.map(|zone| name('z', zone)), name('n', number));
            (number, Node { name, ready, schedulable, taints, allocatable, pods, attachable, zone, pool: None, pressure })
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let namespace = (0..4u8, maybe(maybe(0..3u8))).prop_map(|(number, there)| {
        let there = there.map(|tenant| Namespace {
            name: name('s', number),
            uid: name('u', number),
            tenant: tenant.map(|tenant| name('t', tenant)),
        });
        Event::Namespace(number, there)
    });
    let node = (node(), any::<bool>()).prop_map(|((number, node), there)| Event::Node(number, there.then_some(node)));
    let drivers = (0..4u8, maybe(maybe(0..40u64)))
        .prop_map(|(number, there)| Event::Drivers(number, there.map(|attachable| NodeDrivers { node: name('n', number), attachable })));
    let pod = (0..12u8, maybe((0..4u8, maybe(0..4u8), size(), prop::bool::weighted(0.1)))).prop_map(|(number, there)| {
        let there = there.map(|(namespace, node, size, ended)| {
            let node = node.map(|node| name('n', node));
            Pod { uid: number.into(), namespace: name('s', namespace), node, size, ended }
        });
        Event::Pod(number, there)
    });
    let volume = (0..6u8, maybe((0..99u64, 0..4u8, maybe(0..4u8), maybe(0..4u8)))).prop_map(|(number, there)| {
        let there = there.map(|(size, class, claimed_in, host)| Volume {
            name: name('v', number),
            size,
            class: if class == 3 { Box::default() } else { name('c', class) },
            claimed_in: claimed_in.map(|namespace| name('s', namespace)),
            host: host.map(|node| name('n', node)),
        });
        Event::Volume(number, there)
    });
    let class = (0..3u8, maybe((any::<bool>(), 0..2u64))).prop_map(|(number, there)| {
        let there = there.map(|(provisioned, pool)| StorageClass { name: name('c', number), provisioned, pool });
        Event::Class(number, there)
    });
    let left = (0..5u8, maybe((0..3u8, 0..99u64))).prop_map(|(number, there)| {
        let there = there.map(|(class, left)| StorageLeft { uid: number.into(), class: name('c', class), left });
        Event::Left(number, there)
    });
    let attachment = (0..8u8, maybe((0..4u8, 0..6u8))).prop_map(|(number, there)| {
        let there = there.map(|(node, volume)| Attachment { name: name('a', number), node: name('n', node), volume: name('v', volume) });
        Event::Attachment(number, there)
    });
    let orphans = prop::collection::btree_set((0..3u8).prop_map(|tenant| name('t', tenant)), 0..2).prop_map(Event::Orphans);
    let detached = prop::collection::btree_set((0..6u8).prop_map(|volume| name('v', volume)), 0..3).prop_map(Event::Detached);
    let others = prop_oneof![orphans, detached];
    prop_oneof![2 => namespace, 3 => node, 1 => drivers, 6 => pod, 3 => volume, 1 => class, 1 => left, 2 => attachment, 2 => others]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let relist = prop::collection::vec(event(), 0..20).prop_map(Event::Relist);
    prop::collection::vec(prop_oneof![12 => event(), 1 => relist], 1..80)
}

/// Does an event to the map and to the sums.
fn happen<K: Counted + Clone>(map: &mut BTreeMap<u8, K>, number: u8, there: Option<K>, tally: Option<&mut Tally>) {
    let before = match &there {
        Some(object) => map.insert(number, object.clone()),
        None => map.remove(&number),
    };
    let Some(tally) = tally else { return };
    match (there, before) {
        (Some(object), _) => tally.take(Step::Is(object)),
        (None, Some(object)) => tally.take(Step::Gone(object)),
        (None, None) => {}
    }
}

fn list<K: Counted + Clone>(map: &BTreeMap<u8, K>, tally: &mut Tally) {
    // The first list breaks off in the middle.
    for (breaks_off, objects) in [(true, map.len() / 2), (false, map.len())] {
        tally.take(Step::<K>::Begin);
        for object in map.values().take(objects) {
            tally.take(Step::Is(object.clone()));
        }
        if !breaks_off {
            tally.take(Step::<K>::Done);
        }
    }
}

impl World {
    fn happen(&mut self, event: Event, mut tally: Option<&mut Tally>) {
        match event {
            Event::Namespace(number, there) => happen(&mut self.namespaces, number, there, tally),
            Event::Node(number, there) => happen(&mut self.nodes, number, there, tally),
            Event::Drivers(number, there) => happen(&mut self.drivers, number, there, tally),
            Event::Pod(number, there) => happen(&mut self.pods, number, there, tally),
            Event::Volume(number, there) => happen(&mut self.volumes, number, there, tally),
            Event::Class(number, there) => happen(&mut self.classes, number, there, tally),
            Event::Left(number, there) => happen(&mut self.left, number, there, tally),
            Event::Attachment(number, there) => happen(&mut self.attachments, number, there, tally),
            Event::Orphans(orphans) => {
                if let Some(tally) = tally {
                    tally.set_orphans(orphans);
                }
            }
            Event::Detached(detached) => {
                if let Some(tally) = tally {
                    tally.set_detached(detached);
                }
            }
            Event::Relist(missed) => {
                for event in missed {
                    let tally = if matches!(event, Event::Orphans(_) | Event::Detached(_)) { tally.as_deref_mut() } else { None };
                    self.happen(event, tally);
                }
                if let Some(tally) = tally {
                    self.list(tally);
                }
            }
        }
    }

    fn list(&self, tally: &mut Tally) {
        list(&self.attachments, tally);
        list(&self.pods, tally);
        list(&self.left, tally);
        list(&self.volumes, tally);
        list(&self.drivers, tally);
        list(&self.nodes, tally);
        list(&self.classes, tally);
        list(&self.namespaces, tally);
    }

    fn is_open(&self, name: &str, tally: &Tally) -> bool {
        let node = self.nodes.values().find(|node| &*node.name == name);
        node.is_some_and(|node| {
            let repels = |taint: &Taint| {
                taint.effect == TaintEffect::NoSchedule && !tally.options.tolerations.iter().any(|toleration| toleration.tolerates(taint))
            };
            node.ready && node.schedulable && !node.taints.iter().any(repels)
        })
    }

    fn is_tenants(&self, namespace: &str, tally: &Tally) -> bool {
        let found = self.namespaces.values().find(|one| &*one.name == namespace);
        found.and_then(|one| one.tenant.as_ref()).is_some_and(|tenant| !tally.orphans.contains(tenant))
    }

    /// What there is and what others use of CPU, memory, pods and attachments, by the definitions.
    fn by_definition(&self, tally: &Tally) -> (Sums, Sums) {
        let (mut there, mut others) = (Sums::default(), Sums::default());
        for node in self.nodes.values().filter(|node| self.is_open(&node.name, tally)) {
            let drivers = self.drivers.values().find(|drivers| drivers.node == node.name).and_then(|drivers| drivers.attachable);
            let attachable = drivers.or(node.attachable).unwrap_or(UNLIMITED_ATTACHMENTS);
            let part = [node.allocatable.cpu.0, node.allocatable.memory.0, node.pods, 0, attachable];
            there.iter_mut().zip(part).for_each(|(sum, part)| *sum += u128::from(part));
        }
        for pod in self.pods.values().filter(|pod| !pod.ended && !self.is_tenants(&pod.namespace, tally)) {
            if pod.node.as_ref().is_some_and(|node| self.is_open(node, tally)) {
                let part = [pod.size.cpu.0, pod.size.memory.0, 1, 0, 0];
                others.iter_mut().zip(part).for_each(|(sum, part)| *sum += u128::from(part));
            }
        }
        for attachment in self.attachments.values().filter(|attachment| self.is_open(&attachment.node, tally)) {
            let volume = self.volumes.values().find(|volume| volume.name == attachment.volume);
            let volume = volume.filter(|volume| !tally.detached.contains(&volume.name));
            let claimed_in = volume.and_then(|volume| volume.claimed_in.as_ref());
            others[4] += u128::from(!claimed_in.is_some_and(|namespace| self.is_tenants(namespace, tally)));
        }
        (there, others)
    }
}

fn options() -> Options {
    let toleration = Toleration { key: Some("k0".to_owned()), value: None, effect: None };
    Options { tolerations: vec![toleration], storage: [("c2".to_owned(), 500)].into() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_those_made_from_scratch_after_any_events(events in events()) {
        let (mut world, mut tally) = (World::default(), Tally::new(options()));
        for event in events {
            world.happen(event, Some(&mut tally));
        }
        let mut fresh = Tally::new(options());
        fresh.set_orphans(tally.orphans.clone());
        fresh.set_detached(tally.detached.clone());
        world.list(&mut fresh);
        prop_assert_eq!(tally.capacity(), fresh.capacity());
        prop_assert_eq!(tally.census(), fresh.census());
        prop_assert_eq!(tally.storage(), fresh.storage());
        prop_assert_eq!((tally.allocatable, tally.others), world.by_definition(&tally));
    }

    #[test]
    fn nothing_is_kept_of_what_is_gone(events in events()) {
        let (mut world, mut tally) = (World::default(), Tally::new(options()));
        for event in events {
            world.happen(event, Some(&mut tally));
        }
        World::default().list(&mut tally);
        prop_assert_eq!(tally.sums().allocatable, Resources::default());
        prop_assert_eq!(tally.sums().used_by_others, Resources::default());
        prop_assert_eq!(tally.census(), &Census::default());
        prop_assert!(tally.nodes.iter().next().is_none() && tally.namespaces.iter().next().is_none());
        prop_assert!(tally.volumes.iter().next().is_none() && tally.classes.iter().next().is_none());
    }
}

fn open_node(name: &str) -> Node {
    Node {
        name: name.into(),
        ready: true,
        schedulable: true,
        allocatable: PodSize { cpu: Millicores(4_000), memory: Bytes(1 << 34) },
        pods: 110,
        ..Node::default()
    }
}

fn volume(name: &str, class: &str, claimed_in: Option<&str>) -> Volume {
    Volume { name: name.into(), size: 10, class: class.into(), claimed_in: claimed_in.map(Into::into), host: None }
}

#[test]
fn storage_is_what_is_declared_or_left_or_made_by_hand_or_unlimited() {
    let mut tally = Tally::new(options());
    let class = |name: &str, provisioned, pool| Step::Is(StorageClass { name: name.into(), provisioned, pool });
    for (name, class, claimed_in) in
        [("1", "by-hand", None), ("2", "by-hand", Some("s")), ("3", "told", Some("s")), ("4", "c2", Some("s")), ("5", "", Some("s"))]
    {
        tally.take(Step::Is(volume(name, class, claimed_in)));
    }
    tally.take(class("told", true, 1));
    tally.take(class("told-as-well", true, 1));
    for (uid, class, left) in [(1, "told", 100), (2, "told", 50), (3, "told-as-well", 150)] {
        tally.take(Step::Is(StorageLeft { uid, class: class.into(), left }));
    }
    // by-hand: 20; told and its twin share 150, and 10 are made; c2: 500 are declared.
    assert_eq!(tally.sums().allocatable.storage, Bytes(20 + 150 + 10 + 500));
    assert_eq!(tally.sums().used_by_others.storage, Bytes(30));
    tally.take(class("cloud", true, 2));
    assert_eq!(tally.sums().allocatable.storage, Bytes(UNLIMITED_STORAGE));
}

#[test]
fn the_room_on_a_node_is_what_no_pod_of_anybody_takes() {
    let mut tally = Tally::default();
    let tenant = Namespace { name: "t".into(), uid: "u".into(), tenant: Some("x".into()) };
    tally.take(Step::Is(tenant));
    tally.take(Step::Is(open_node("n")));
    let pod = |uid, namespace: &str| {
        let size = PodSize { cpu: Millicores(1_000), memory: Bytes(1 << 32) };
        Step::Is(Pod { uid, namespace: namespace.into(), node: Some("n".into()), size, ended: false })
    };
    tally.take(pod(1, "t"));
    tally.take(pod(2, "kube-system"));
    let capacity = tally.capacity();
    assert_eq!(capacity.used_by_others.cpu, Millicores(1_000));
    assert_eq!(capacity.nodes[0].largest_free, PodSize { cpu: Millicores(2_000), memory: Bytes(1 << 33) });
}

#[test]
fn a_node_without_room_for_a_pod_has_no_room() {
    let mut tally = Tally::default();
    tally.take(Step::Is(Node { pods: 1, ..open_node("n") }));
    tally.take(Step::Is(Pod { uid: 1, namespace: "s".into(), node: Some("n".into()), ..Pod::default() }));
    assert_eq!(tally.capacity().nodes[0].largest_free, PodSize::default());
}

#[test]
fn a_pod_is_kept_in_64_bytes() {
    assert!(size_of::<(u128, (PodKept, u32))>() <= 64);
}

#[test]
fn names_that_begin_alike_stay_apart_and_those_that_are_alike_are_added_up() {
    let zone =
        |zone: &str| format!("https://www.googleapis.com/compute/v1/projects/acme/zones/{zone}/instanceGroups/apps").into_boxed_str();
    let room = Some(PodSize { cpu: Millicores(4_000), memory: Bytes(1 << 34) });
    let group = |name: Box<str>| Group { name, nodes: Some(2), room, held_back: false };
    let long = |start: &str| format!("{start}{}", "x".repeat(300));
    let mut tally = Tally::default();
    for (number, value) in [long("a"), long("b")].into_iter().enumerate() {
        let taint = Taint { key: "reserved".to_owned(), value, effect: TaintEffect::NoSchedule };
        tally.take(Step::Is(Node { taints: vec![taint], ..open_node(&number.to_string()) }));
    }
    let groups = vec![group(zone("europe-west1-b")), group(zone("europe-west1-c")), group(zone("europe-west1-c"))];
    let details = tally.census().details(&Growth { groups, ..Growth::default() });
    let told: Vec<_> = details.growth.groups.iter().map(|group| (group.name.as_str(), group.nodes)).collect();
    assert_eq!(told, [(&*zone("europe-west1-b"), Some(2)), (&*zone("europe-west1-c"), Some(4))]);
    assert_eq!(details.taints, [(format!("...{}:NoSchedule", "x".repeat(242)), 2)]);
}

#[test]
fn a_taint_is_told_with_its_own_effect() {
    let taint = |key: &str, effect| Taint { key: key.to_owned(), value: String::new(), effect };
    let taints = vec![taint("hard", TaintEffect::NoSchedule), taint("soft", TaintEffect::PreferNoSchedule)];
    let mut tally = Tally::default();
    tally.take(Step::Is(Node { taints, ..open_node("n") }));
    let told = tally.census().details(&Growth::default()).taints;
    assert_eq!(told, [("hard:NoSchedule".to_owned(), 1), ("soft:PreferNoSchedule".to_owned(), 1)]);
}
