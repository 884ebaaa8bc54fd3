//! Placing, changing and releasing tenants: retries, preconditions, dry runs, values, errors.

use roadstead_api::v1;
use serde_json::json;
use tonic::{Code, Status};

use crate::world::{World, fields, new_id, place, put_class, reason, spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_the_first_answer_and_has_no_second_effect() {
    let mut world = World::with_clusters(1, 2).await;
    let request = place("anvils", "acme");
    let first = world.placement.place_tenant(request.clone()).await.unwrap().into_inner();
    let tenant = first.tenant.clone().unwrap();
    assert!(!tenant.status.as_ref().unwrap().reason.is_empty(), "an answer explains itself");
    assert_eq!(tenant.status.as_ref().unwrap().requests, Some(crate::world::requests()));
    world.place("other", "acme").await;
    let again = world.placement.place_tenant(request.clone()).await.unwrap().into_inner();
    assert_eq!(again, first);

    let changed = v1::PlaceTenantRequest { name: "hammers".into(), ..request.clone() };
    assert_eq!(reason(&world.placement.place_tenant(changed).await.unwrap_err()).1, "REQUEST_ID_REUSED");
    let other_id = v1::PlaceTenantRequest { request_id: new_id(), ..request };
    let status = world.placement.place_tenant(other_id).await.unwrap_err();
    let (code, why, details) = reason(&status);
    assert_eq!((code, why.as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    assert_eq!(details.resource_info().unwrap().resource_name, "anvils");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_through_another_replica_gets_the_first_answer() {
    let mut world = World::with_clusters(3, 2).await;
    let request = place("anvils", "acme");
    let first = world.placement.place_tenant(request.clone()).await.unwrap().into_inner();
    for at in 1..3 {
        let mut other = crate::world::Placement::new(crate::world::connect(&world.group, at, "admin", "root", &[]).await);
        assert_eq!(other.place_tenant(request.clone()).await.unwrap().into_inner(), first, "replica {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_read_strictly() {
    let mut world = World::with_clusters(1, 1).await;
    let v4 = "936da01f-9abd-4d9d-80c7-02af85c822a8".to_owned();
    for bad in [v4, "1".to_owned(), new_id().to_uppercase(), "01890a5d-ac96-774b-bcce-b302099a805".to_owned()] {
        let request = v1::PlaceTenantRequest { request_id: bad.clone(), ..place("anvils", "acme") };
        assert_eq!(fields(&world.placement.place_tenant(request).await.unwrap_err()), ["request_id"], "{bad}");
    }
    let old = "01800000-0000-7000-8000-000000000001";
    let request = v1::PlaceTenantRequest { request_id: old.into(), ..place("anvils", "acme") };
    assert_eq!(reason(&world.placement.place_tenant(request).await.unwrap_err()).1, "REQUEST_ID_EXPIRED");
    let request = v1::PlaceTenantRequest { request_id: String::new(), ..place("anvils", "acme") };
    world.placement.place_tenant(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_decides_and_changes_nothing() {
    let mut world = World::with_clusters(1, 2).await;
    let dry = v1::PlaceTenantRequest { dry_run: true, ..place("anvils", "acme") };
    let tenant = world.placement.place_tenant(dry).await.unwrap().into_inner().tenant.unwrap();
    let would = tenant.status.unwrap().binding.unwrap();
    assert_eq!(tenant.uid, "", "no uid is given out");
    let get = v1::GetTenantRequest { name: "anvils".into(), ..Default::default() };
    assert_eq!(world.placement.get_tenant(get).await.unwrap_err().code(), Code::NotFound);
    let placed = world.place("anvils", "acme").await.status.unwrap().binding.unwrap();
    assert_eq!((would.cluster, would.shard), (placed.cluster, placed.shard));

    let release = v1::ReleaseTenantRequest { name: "anvils".into(), dry_run: true, ..Default::default() };
    world.placement.release_tenant(release).await.unwrap();
    let spec = v1::TenantSpec { priority: 7, ..spec("acme") };
    let update = v1::UpdateTenantRequest { name: "anvils".into(), spec: Some(spec), dry_run: true, ..Default::default() };
    let answer = world.placement.update_tenant(update).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(answer.spec.unwrap().priority, 7);
    let kept = world.get("anvils").await;
    assert_eq!((kept.spec.unwrap().priority, kept.status.unwrap().phase()), (0, v1::Phase::Placed));
    let missing = v1::ReleaseTenantRequest { name: "hammers".into(), dry_run: true, ..Default::default() };
    assert_eq!(reason(&world.placement.release_tenant(missing).await.unwrap_err()).1, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_violations_are_reported_together_with_their_paths() {
    let mut world = World::with_clusters(1, 1).await;
    let constraints = v1::Constraints {
        labels: vec![
            v1::Requirement { key: "a".into(), operator: 99, values: vec![] },
            v1::Requirement { key: "b".into(), operator: v1::Operator::Gt.into(), values: vec!["x".into()] },
        ],
        preferences: vec![v1::Preference { weight: 0, wish: Some(v1::preference::Wish::Region("eu".into())) }],
        ..Default::default()
    };
    let spec = v1::TenantSpec { owner: "with space".into(), values_json: "[1]".into(), constraints: Some(constraints), ..spec("acme") };
    let request = v1::PlaceTenantRequest { name: "-bad".into(), spec: Some(spec), ..place("x", "acme") };
    let status = world.placement.place_tenant(request).await.unwrap_err();
    assert_eq!(
        fields(&status),
        [
            "name",
            "spec.owner",
            "spec.values_json",
            "spec.constraints.labels[0].operator",
            "spec.constraints.labels[1].values",
            "spec.constraints.preferences[0].weight"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_checked_against_the_class() {
    let mut world = World::with_clusters(1, 1).await;
    let with = |values: &str| {
        let spec = v1::TenantSpec { values_json: values.into(), ..spec("acme") };
        v1::PlaceTenantRequest { spec: Some(spec), ..place("anvils", "acme") }
    };
    let status = world.placement.place_tenant(with(r#"{"plan": "huge", "web": 7, "colour": "red"}"#)).await.unwrap_err();
    assert_eq!(fields(&status), ["spec.values.colour", "spec.values.plan", "spec.values.web"]);
    let large = format!(r#"{{"plan": "{}"}}"#, "x".repeat(20_000));
    assert_eq!(fields(&world.placement.place_tenant(with(&large)).await.unwrap_err()), ["spec.values_json"]);
    let tenant = world.placement.place_tenant(with(r#"{ "web": 2, "plan": "small" }"#)).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(tenant.spec.unwrap().values_json, r#"{"plan":"small","web":2}"#, "kept in one canonical form");

    let missing = v1::PlaceTenantRequest { spec: Some(v1::TenantSpec { version: "9.9.9".into(), ..spec("acme") }), ..place("x", "acme") };
    let (code, why, details) = reason(&world.placement.place_tenant(missing).await.unwrap_err());
    assert_eq!((code, why.as_str()), (Code::NotFound, "NOT_FOUND"));
    assert_eq!(details.error_info().unwrap().metadata["kind"], "class");
}

/// A few lines of a schema that make very many values of one that is given, and nothing of the class's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_which_defaults_make_too_much_are_refused() {
    let mut world = World::with_clusters(1, 1).await;
    let list = |inner: serde_json::Value| json!({"default": vec![json!({}); 12], "items": {"properties": {"a": inner}}});
    let schema = json!({"properties": {"list": {"items": {"properties": {"a": (0..6).fold(json!({}), |inner, _| list(inner))}}}}});
    let mut class = put_class("wide", "1.0.0");
    class.class.as_mut().unwrap().values_schema_json = schema.to_string();
    world.fleet.put_class(class).await.unwrap();
    let spec = v1::TenantSpec { class: "wide".into(), values_json: r#"{"list": [{}]}"#.into(), ..spec("acme") };
    let status = world.placement.place_tenant(v1::PlaceTenantRequest { spec: Some(spec), ..place("anvils", "acme") }).await.unwrap_err();
    assert!(fields(&status)[0].starts_with("spec.values.list[0].a[0]"), "{status:?}");
    assert!(status.message().ends_with("there are more than 10000 values together"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expected_revisions_and_field_masks_guard_updates() {
    let mut world = World::with_clusters(1, 1).await;
    let placed = world.place("anvils", "acme").await;
    let update = |spec: v1::TenantSpec, paths: &[&str], expected: Option<v1::Revision>| v1::UpdateTenantRequest {
        request_id: new_id(),
        name: "anvils".into(),
        spec: Some(spec),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        expected_revision: expected,
        dry_run: false,
    };
    let wanted = v1::TenantSpec { priority: 5, hostnames: vec!["a.example".into()], owner: "ignored".into(), ..Default::default() };
    let request = update(wanted.clone(), &["priority", "spec.hostnames"], placed.revision);
    let updated = world.placement.update_tenant(request.clone()).await.unwrap().into_inner().tenant.unwrap();
    let kept = updated.spec.clone().unwrap();
    assert_eq!((kept.priority, kept.owner.as_str(), kept.hostnames.len()), (5, "acme", 1));
    let again = world.placement.update_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(again, updated, "a retry gets the first answer");

    let status = world.placement.update_tenant(update(wanted.clone(), &["priority"], placed.revision)).await.unwrap_err();
    let (code, why, details) = reason(&status);
    assert_eq!((code, why.as_str()), (Code::Aborted, "REVISION_CONFLICT"));
    let now = updated.revision.unwrap();
    assert_eq!(details.error_info().unwrap().metadata["actual_revision"], format!("{}.{}", now.incarnation, now.index));

    let status = world.placement.update_tenant(update(wanted.clone(), &["colour", "constraints.nothing"], None)).await.unwrap_err();
    assert_eq!(fields(&status), ["update_mask.paths[0]", "update_mask.paths[1]"]);
    let release = v1::ReleaseTenantRequest { name: "anvils".into(), expected_revision: placed.revision, ..Default::default() };
    assert_eq!(reason(&world.placement.release_tenant(release).await.unwrap_err()).1, "REVISION_CONFLICT");
}

/// As the error says: again, with a new request id.
async fn update_until_done(mut client: crate::world::Placement, request: v1::UpdateTenantRequest) {
    while let Err(status) = client.update_tenant(v1::UpdateTenantRequest { request_id: new_id(), ..request.clone() }).await {
        let (_, why, details) = reason(&status);
        assert_eq!(why, "REVISION_CONFLICT");
        assert!(details.retry_info().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masked_updates_at_the_same_time_lose_nothing() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("anvils", "acme").await;
    let update = |spec: v1::TenantSpec, path: &str| v1::UpdateTenantRequest {
        request_id: new_id(),
        name: "anvils".into(),
        spec: Some(spec),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
        ..Default::default()
    };
    let priority = update(v1::TenantSpec { priority: 9, ..Default::default() }, "priority");
    let protection = update(v1::TenantSpec { deletion_protection: true, ..Default::default() }, "deletion_protection");
    let one = update_until_done(world.placement.clone(), priority);
    let other = update_until_done(world.placement.clone(), protection);
    tokio::join!(one, other);
    let kept = world.get("anvils").await.spec.unwrap();
    assert_eq!((kept.priority, kept.deletion_protection), (9, true));
    let release = v1::ReleaseTenantRequest { name: "anvils".into(), ..Default::default() };
    assert_eq!(reason(&world.placement.release_tenant(release).await.unwrap_err()).1, "IN_USE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_nowhere_waits_or_is_refused_in_plain_words() {
    let mut world = World::with_clusters(1, 1).await;
    let constraints = v1::Constraints { regions: vec!["mars".into()], ..Default::default() };
    let spec = v1::TenantSpec { constraints: Some(constraints), ..spec("acme") };
    let request = |name: &str, wait| v1::PlaceTenantRequest { spec: Some(spec.clone()), wait, ..place(name, "acme") };
    let (code, why, _) = explained(world.placement.place_tenant(request("rover", Some(false))).await.unwrap_err());
    assert_eq!((code, why.as_str()), (Code::FailedPrecondition, "UNPLACEABLE"));
    let waiting = request("rover", None);
    let first = world.placement.place_tenant(waiting.clone()).await.unwrap().into_inner();
    world.place("other", "acme").await;
    assert_eq!(world.placement.place_tenant(waiting).await.unwrap().into_inner(), first, "a retry gets the first answer");
    let status = first.tenant.unwrap().status.unwrap();
    assert_eq!(status.phase(), v1::Phase::Pending);
    assert!(status.reason.contains("region"), "{}", status.reason);

    let explained = world.placement.explain_tenant(v1::ExplainTenantRequest { name: "rover".into(), ..Default::default() }).await;
    let now = explained.unwrap().into_inner().now.unwrap();
    assert_eq!((now.candidate_count, now.refusals[0].cause.as_str()), (0, "region"));
}

fn explained(status: Status) -> (Code, String, tonic_types::ErrorDetails) {
    assert!(status.message().contains("region"), "{}", status.message());
    reason(&status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_does_not_count_the_tenants_own_use() {
    let mut world = World::with_clusters(1, 2).await;
    let placed = world.place("anvils", "acme").await.status.unwrap();
    let request = v1::ExplainTenantRequest { name: "anvils".into(), every_cluster: true };
    let answer = world.placement.explain_tenant(request).await.unwrap().into_inner();
    assert_eq!(answer.kept_reason, placed.reason);
    let now = answer.now.unwrap();
    assert_eq!(now.candidates.len(), 2);
    assert_eq!(now.would_bind.unwrap().cluster, placed.binding.unwrap().cluster, "nothing else has changed, so it would go there again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_tenants_count_for_those_after_them_and_for_nobody_else() {
    let mut world = World::empty(1).await;
    world.fleet.put_pool(crate::world::put_pool("home")).await.unwrap();
    world.fleet.put_class(crate::world::put_class("shop", "1.0.0")).await.unwrap();
    let mut cluster = crate::world::put_cluster("tiny", "home");
    let spec = cluster.cluster.as_mut().unwrap().spec.as_mut().unwrap();
    (spec.tenant_cap, spec.high_water, spec.shard_cap) = (2, 2, 2);
    world.fleet.put_cluster(cluster).await.unwrap();
    world.fleet.report_capacity(crate::world::report("tiny")).await.unwrap();
    let tenants = (0..3).map(|n| place(&format!("t{n}"), "acme")).collect();
    let answer = world.placement.simulate_placement(v1::SimulatePlacementRequest { tenants, every_cluster: false }).await;
    let explanations = answer.unwrap().into_inner().explanations;
    let bound: Vec<bool> = explanations.iter().map(|explanation| explanation.would_bind.is_some()).collect();
    assert_eq!(bound, [true, true, false]);
    assert_eq!(explanations[2].refusals[0].cause, "tenant_cap");
    let listed = world.placement.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert!(listed.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_tenant_comes_back_until_it_is_gone() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("anvils", "acme").await;
    world.placement.release_tenant(v1::ReleaseTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap();
    assert_eq!(world.get("anvils").await.status.unwrap().phase(), v1::Phase::Releasing);
    let back = world.placement.undelete_tenant(v1::UndeleteTenantRequest { name: "anvils".into(), ..Default::default() }).await;
    assert_eq!(back.unwrap().into_inner().tenant.unwrap().status.unwrap().phase(), v1::Phase::Placed);
    let events = world.placement.list_tenant_events(v1::ListTenantEventsRequest { name: "anvils".into() }).await.unwrap().into_inner();
    let kinds: Vec<&str> = events.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["placed", "released", "undeleted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_tenant_is_recorded_where_it_runs() {
    let mut world = World::with_clusters(1, 2).await;
    let request =
        v1::AdoptTenantRequest { request_id: new_id(), name: "anvils".into(), spec: Some(spec("acme")), cluster: "c1".into(), shard: None };
    let tenant = world.placement.adopt_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!(tenant.status.unwrap().binding.unwrap().cluster, "c1");
}
