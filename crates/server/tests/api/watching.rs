//! Watches: no gap, no duplicate, resumption, compaction, bookmarks, scopes.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_api::v1::watch_event::{Object, Type};
use tonic::{Code, Streaming};

use crate::harness::PATIENCE;
use crate::world::{A_WHILE, Placement, World, connect, fields, next, place, reason};

type Watch = Streaming<v1::WatchResponse>;

async fn watch(client: &mut Placement, request: v1::WatchRequest) -> Watch {
    client.watch(request).await.unwrap().into_inner()
}

fn tenants_only() -> v1::WatchRequest {
    v1::WatchRequest { kinds: vec![v1::WatchKind::Tenant.into()], ..Default::default() }
}

fn tenant_of(event: &v1::WatchEvent) -> &v1::Tenant {
    match &event.object {
        Some(Object::Tenant(tenant)) => tenant,
        other => panic!("no tenant: {other:?}"),
    }
}

/// Every event until `enough` says so, with its revision.
async fn until(watch: &mut Watch, mut enough: impl FnMut(&v1::WatchEvent) -> bool) -> Vec<(u64, v1::WatchEvent)> {
    let mut all = Vec::new();
    loop {
        let message = next(watch).await;
        let index = message.revision.unwrap().index;
        let mut done = false;
        for event in message.events {
            done |= enough(&event);
            all.push((index, event));
        }
        if done {
            return all;
        }
    }
}

fn is_named(event: &v1::WatchEvent, name: &str) -> bool {
    matches!(&event.object, Some(Object::Tenant(tenant)) if tenant.name == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_while_tenants_are_placed_sees_each_once() {
    let world = World::with_clusters(3, 2).await;
    let mut placing = tokio::task::JoinSet::new();
    for part in 0..4 {
        let mut client = world.placement.clone();
        placing.spawn(async move {
            for number in 0..50 {
                client.place_tenant(place(&format!("t{part}-{number}"), "acme")).await.unwrap();
            }
        });
    }
    let mut watching = tokio::task::JoinSet::new();
    for at in 0..3 {
        let mut client = Placement::new(connect(&world.group, at, "viewer", "v", &[]).await);
        watching.spawn(async move {
            let mut stream = watch(&mut client, v1::WatchRequest { with_initial_state: true, ..tenants_only() }).await;
            let mut seen = BTreeMap::<String, u32>::new();
            let mut last = 0;
            while seen.len() < 200 {
                let message = next(&mut stream).await;
                let index = message.revision.unwrap().index;
                assert!(index >= last, "revisions ascend");
                last = index;
                for event in &message.events {
                    assert!(matches!(event.r#type(), Type::Initial | Type::Added), "{event:?}");
                    *seen.entry(tenant_of(event).name.clone()).or_default() += 1;
                }
            }
            assert!(seen.values().all(|count| *count == 1), "{seen:?}");
        });
    }
    while let Some(done) = placing.join_next().await {
        done.unwrap();
    }
    while let Some(done) = watching.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_after_a_revision_and_within_it() {
    let mut world = World::with_clusters(1, 2).await;
    let mut first = watch(&mut world.placement, tenants_only()).await;
    let begin = next(&mut first).await;
    assert!(begin.events.is_empty(), "a watch without initial state begins with a bookmark");
    let placing = (0..40).map(|number| {
        let mut client = world.placement.clone();
        async move { client.place_tenant(place(&format!("t{number}"), "acme")).await.unwrap() }
    });
    futures::future::join_all(placing).await;
    world.place("last", "acme").await;
    let all = until(&mut first, |event| is_named(event, "last")).await;
    assert_eq!(all.len(), 41);

    // From every position, exactly what comes after it.
    for cut in [0, 1, 7, 20, 40] {
        let (index, event) = &all[cut];
        let after = Some(v1::Revision { incarnation: 0, index: *index });
        let request = v1::WatchRequest { after, after_ordinal: event.ordinal, ..tenants_only() };
        let mut resumed = watch(&mut world.placement, request).await;
        world.place(&format!("mark-{cut}"), "acme").await;
        let rest = until(&mut resumed, |event| is_named(event, &format!("mark-{cut}"))).await;
        let expected = &all[cut + 1..];
        assert_eq!(&rest[..expected.len()], expected, "after {index} ordinal {}", event.ordinal);
    }
    let (index, _) = all[10];
    let after = Some(v1::Revision { incarnation: 0, index });
    let mut resumed = watch(&mut world.placement, v1::WatchRequest { after, ..tenants_only() }).await;
    let rest = until(&mut resumed, |event| is_named(event, "last")).await;
    assert_eq!(rest, all.iter().filter(|(at, _)| *at > index).cloned().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_resumed_is_compacted() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("anvils", "acme").await;
    for after in [
        // Before anything that is kept; of another incarnation; from a future that never was.
        v1::Revision { incarnation: 0, index: 0 },
        v1::Revision { incarnation: 7, index: 1 },
        v1::Revision { incarnation: 0, index: 1 << 40 },
    ] {
        let status = world.placement.watch(v1::WatchRequest { after: Some(after), ..Default::default() }).await.unwrap_err();
        let (code, why, _) = reason(&status);
        assert_eq!((code, why.as_str()), (Code::OutOfRange, "COMPACTED"), "{after:?}");
    }
    let after = Some(v1::Revision { incarnation: 0, index: 1 });
    let both = v1::WatchRequest { after, with_initial_state: true, kinds: vec![0], ..Default::default() };
    assert_eq!(fields(&world.placement.watch(both).await.unwrap_err()), ["kinds[0]", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_comes_while_nothing_happens_and_passes_what_is_out_of_scope() {
    let mut world = World::with_clusters(1, 1).await;
    let mut stream = watch(&mut world.placement, v1::WatchRequest { owner: "nobody".into(), ..tenants_only() }).await;
    let begin = next(&mut stream).await.revision.unwrap();
    let placed = world.place("anvils", "acme").await.revision.unwrap();
    let bookmark = tokio::time::timeout(A_WHILE, stream.message()).await.expect("a bookmark comes").unwrap().unwrap();
    assert!(bookmark.events.is_empty() && !bookmark.initial_state_complete);
    assert!(bookmark.revision.unwrap().index >= placed.index && placed.index > begin.index);
    let after = bookmark.revision;
    let mut resumed = watch(&mut world.placement, v1::WatchRequest { after, ..tenants_only() }).await;
    world.place("hammers", "acme").await;
    assert_eq!(until(&mut resumed, |event| is_named(event, "hammers")).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_tell_what_enters_and_leaves_them() {
    let mut world = World::with_clusters(1, 2).await;
    let mut of_acme = watch(&mut world.placement, v1::WatchRequest { owner: "acme".into(), ..Default::default() }).await;
    let mut of_bolt = watch(&mut world.placement, v1::WatchRequest { owner: "bolt".into(), ..Default::default() }).await;
    let mut of_c0 = watch(&mut world.placement, v1::WatchRequest { cluster: "c0".into(), ..Default::default() }).await;
    for stream in [&mut of_acme, &mut of_bolt, &mut of_c0] {
        next(stream).await;
    }
    let mut in_c0 = 0;
    for number in 0..4 {
        let tenant = world.place(&format!("t{number}"), "acme").await;
        in_c0 += usize::from(tenant.status.unwrap().binding.unwrap().cluster == "c0");
    }
    world.place("other", "bolt").await;
    assert!((1..=4).contains(&in_c0), "the policy spreads them");
    // Its tenants wait again, and then go elsewhere.
    let forget = v1::DeleteClusterRequest { name: "c0".into(), forget: true, ..Default::default() };
    world.fleet.delete_cluster(forget).await.unwrap();
    world.place("last", "acme").await;

    let is_c0 = |event: &v1::WatchEvent| matches!(&event.object, Some(Object::Cluster(cluster)) if cluster.name == "c0");
    let gone = |event: &v1::WatchEvent| event.r#type() == Type::Deleted;
    let mut left = 0;
    let mut cluster_gone = false;
    let seen = until(&mut of_c0, |event| {
        let tenant = matches!(event.object, Some(Object::Tenant(_)));
        left += usize::from(tenant && gone(event) && tenant_of(event).spec.as_ref().unwrap().owner == "acme");
        cluster_gone |= is_c0(event) && gone(event);
        left == in_c0 && cluster_gone
    })
    .await;
    let entered = |(_, event): &&(u64, v1::WatchEvent)| {
        matches!(&event.object, Some(Object::Tenant(tenant)) if tenant.name.starts_with('t')) && event.r#type() == Type::Added
    };
    assert_eq!(seen.iter().filter(entered).count(), in_c0);
    for (_, event) in seen.iter().filter(|(_, event)| gone(event) && !is_c0(event)) {
        let binding = tenant_of(event).status.as_ref().unwrap().binding.as_ref().unwrap();
        assert_eq!(binding.cluster, "c0", "as it was last");
    }
    assert!(!seen.iter().any(|(_, event)| matches!(&event.object, Some(Object::Cluster(cluster)) if cluster.name != "c0")));

    let seen = until(&mut of_acme, |event| is_named(event, "last")).await;
    assert!(seen.iter().all(|(_, event)| tenant_of(event).spec.as_ref().unwrap().owner == "acme" && !gone(event)));
    assert_eq!(seen.iter().filter(|(_, event)| event.r#type() == Type::Added).count(), 5);
    let seen = until(&mut of_bolt, |event| is_named(event, "other")).await;
    assert_eq!(seen.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_initial_state_is_sorted_complete_and_of_one_revision() {
    let mut world = World::with_clusters(1, 2).await;
    for number in 0..600 {
        let mut client = world.placement.clone();
        if number % 50 == 49 {
            client.place_tenant(place(&format!("t{number:03}"), "acme")).await.unwrap();
        } else {
            tokio::spawn(async move { client.place_tenant(place(&format!("t{number:03}"), "acme")).await.unwrap() });
        }
    }
    crate::harness::until("all are placed", || {
        let mut client = world.placement.clone();
        async move {
            let request = v1::ListTenantsRequest { page_size: 5000, ..Default::default() };
            (client.list_tenants(request).await.unwrap().into_inner().tenants.len() == 600).then_some(())
        }
    })
    .await;
    let mut stream = watch(&mut world.placement, v1::WatchRequest { with_initial_state: true, ..Default::default() }).await;
    let (mut events, mut revisions) = (Vec::new(), Vec::new());
    loop {
        let message = next(&mut stream).await;
        revisions.push(message.revision);
        events.extend(message.events);
        if message.initial_state_complete {
            break;
        }
        assert!(message.partial, "more of the initial state follows");
    }
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
    assert!(events.iter().all(|event| event.r#type() == Type::Initial));
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| match &event.object {
            Some(Object::Tenant(tenant)) => Some(tenant.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names.len(), 600);
    assert!(names.is_sorted());
    let kinds = events.len() - names.len();
    assert_eq!(kinds, 1 + 1 + 1 + 2, "a pool, a class, the policy, two clusters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_replica_ends_its_watches_so_that_they_go_on_elsewhere() {
    let mut world = World::with_clusters(3, 1).await;
    let mut client = Placement::new(connect(&world.group, 2, "viewer", "v", &[]).await);
    let mut stream = watch(&mut client, tenants_only()).await;
    let after = next(&mut stream).await.revision;
    let stopped = world.group.seats[2].running.take().unwrap();
    let stopping = tokio::spawn(stopped.shutdown());
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let status = ended.await.expect("the watch ends").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    stopping.await.unwrap();
    world.group.leader().await;
    let tenant = crate::harness::until("placing goes on", || {
        let mut client = world.placement.clone();
        async move { client.place_tenant(place("anvils", "acme")).await.ok() }
    });
    tenant.await;
    let mut resumed = watch(&mut world.placement, v1::WatchRequest { after, ..tenants_only() }).await;
    assert_eq!(until(&mut resumed, |event| is_named(event, "anvils")).await.len(), 1);
}
