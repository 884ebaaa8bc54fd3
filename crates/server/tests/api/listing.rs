//! Pages of one revision, filters, consistency.

use roadstead_api::v1;
use tonic::Code;

use crate::world::{World, fields, reason};

fn names(tenants: &[v1::Tenant]) -> Vec<&str> {
    tenants.iter().map(|tenant| tenant.name.as_str()).collect()
}

async fn list(world: &mut World, filter: &str) -> Vec<String> {
    let request = v1::ListTenantsRequest { filter: filter.into(), ..Default::default() };
    let tenants = world.placement.list_tenants(request).await.unwrap().into_inner().tenants;
    tenants.into_iter().map(|tenant| tenant.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_show_the_revision_of_the_first() {
    let mut world = World::with_clusters(1, 1).await;
    for number in 0..25 {
        world.place(&format!("t{number:02}"), "acme").await;
    }
    let mut request = v1::ListTenantsRequest { page_size: 10, ..Default::default() };
    let (mut seen, mut revisions) = (Vec::new(), Vec::new());
    loop {
        let page = world.placement.list_tenants(request.clone()).await.unwrap().into_inner();
        seen.extend(names(&page.tenants).into_iter().map(str::to_owned));
        revisions.push(page.revision.unwrap());
        // Before and behind where the listing is.
        world.place(&format!("a{}", seen.len()), "acme").await;
        world.place(&format!("z{}", seen.len()), "acme").await;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, (0..25).map(|number| format!("t{number:02}")).collect::<Vec<_>>());
    assert_eq!(revisions.len(), 3);
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_holds_for_its_own_question_and_replica_only() {
    let mut world = World::with_clusters(3, 1).await;
    let mut elsewhere = crate::world::Placement::new(crate::world::connect(&world.group, 1, "admin", "root", &[]).await);
    for number in 0..4 {
        world.place(&format!("t{number}"), "acme").await;
    }
    let first = v1::ListTenantsRequest { page_size: 2, ..Default::default() };
    let token = world.placement.list_tenants(first.clone()).await.unwrap().into_inner().next_page_token;
    let other = v1::ListTenantsRequest { filter: "owner = acme".into(), page_token: token.clone(), ..first.clone() };
    assert_eq!(fields(&world.placement.list_tenants(other).await.unwrap_err()), ["page_token"]);
    let larger = v1::ListTenantsRequest { page_size: 3, page_token: token.clone(), ..first.clone() };
    assert_eq!(world.placement.list_tenants(larger).await.unwrap().into_inner().tenants.len(), 2, "another size is no other question");
    let nonsense = v1::ListTenantsRequest { page_token: "nonsense".into(), ..first.clone() };
    assert_eq!(fields(&world.placement.list_tenants(nonsense).await.unwrap_err()), ["page_token"]);
    let huge = v1::ListTenantsRequest { page_size: 5001, ..first.clone() };
    assert_eq!(fields(&world.placement.list_tenants(huge).await.unwrap_err()), ["page_size"]);

    let (code, why, _) = reason(&elsewhere.list_tenants(v1::ListTenantsRequest { page_token: token, ..first }).await.unwrap_err());
    assert_eq!((code, why.as_str()), (Code::OutOfRange, "PAGE_TOKEN_EXPIRED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_choose_by_every_field() {
    let mut world = World::with_clusters(1, 2).await;
    let mut by_cluster = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (number, owner) in ["acme", "bolt", "acme", "coil"].into_iter().enumerate() {
        let name = format!("{owner}-{number}");
        let cluster = world.place(&name, owner).await.status.unwrap().binding.unwrap().cluster;
        by_cluster.entry(cluster).or_default().push(name);
    }
    assert_eq!(list(&mut world, "owner = acme").await, ["acme-0", "acme-2"]);
    assert_eq!(list(&mut world, "name : \"acme*\"").await, ["acme-0", "acme-2"]);
    assert_eq!(list(&mut world, "name : \"bolt-1*\"").await, ["bolt-1"]);
    assert_eq!(list(&mut world, "phase = PLACED AND class = shop AND version = \"1.0.0\"").await.len(), 4);
    assert_eq!(list(&mut world, "phase = RUNNING").await.len(), 0);
    assert_eq!(list(&mut world, "misplaced = true").await.len(), 0);
    assert_eq!(list(&mut world, "shard = 0").await.len(), 4);
    assert_eq!(list(&mut world, "cluster = nowhere").await.len(), 0);
    for (cluster, mut expected) in by_cluster {
        expected.sort();
        assert_eq!(list(&mut world, &format!("cluster = {cluster}")).await, expected);
        let of_acme: Vec<String> = expected.iter().filter(|name| name.starts_with("acme")).cloned().collect();
        assert_eq!(list(&mut world, &format!("cluster = {cluster} AND owner = acme")).await, of_acme);
    }
    let request = v1::ListTenantsRequest { filter: "colour = red".into(), ..Default::default() };
    let status = world.placement.list_tenants(request).await.unwrap_err();
    assert_eq!(fields(&status), ["filter"]);
    assert!(status.message().contains("at byte 0"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_anywhere_sees_what_was_acknowledged_before() {
    let mut world = World::with_clusters(3, 1).await;
    let mut readers = Vec::new();
    for at in 0..3 {
        readers.push(crate::world::Placement::new(crate::world::connect(&world.group, at, "viewer", "v", &[]).await));
    }
    for number in 0..20 {
        let name = format!("t{number}");
        let revision = world.place(&name, "acme").await.revision.unwrap();
        for reader in &mut readers {
            let read = reader.get_tenant(v1::GetTenantRequest { name: name.clone(), ..Default::default() }).await.unwrap().into_inner();
            assert!(read.revision.unwrap().index >= revision.index);
            let stale = v1::GetTenantRequest { name: name.clone(), consistency: v1::Consistency::Stale.into() };
            // It may not know the tenant yet, but it says which revision it knows.
            if let Ok(stale) = reader.get_tenant(stale).await {
                assert!(stale.into_inner().revision.is_some());
            }
        }
    }
}
