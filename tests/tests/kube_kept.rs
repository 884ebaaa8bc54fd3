//! What the Kubernetes interpreter keeps, over its own restarts, beside other agents, and when somebody takes it away: records, volumes, secrets,
//! generations and removals.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, PersistentVolumeClaim, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use roadstead_agent::interpreter::{Failed, Interpreter, Removals};
use roadstead_core::id::TenantId;
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Home, Part, going};
use roadstead_core::time::Timestamp;
use roadstead_tests::process::until;
use roadstead_tests::testbed::Options;
use serde_json::json;
use world::{SOON, World, manifest, name, tenant};

#[tokio::test]
async fn what_was_begun_and_not_yet_written_down_is_known_to_the_next_agent() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let mut begun = tenant(9, "begun", Role::Run);
    let limits = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}});
    world.change(&mut begun, |rendered| {
        rendered.parts.remove(&Part::Workloads);
        rendered.parts.get_mut(&Part::Bounds).expect("it has bounds").push(manifest("begun", 9, "v1", "LimitRange", "old", limits));
    });
    until("it is known what is there", SOON, || async { Ok(world.kube.seen(&begun)?) }).await?;
    for action in [Action::Claim, Action::Put(Part::Bounds)] {
        world.kube.act(&begun, &action).await?;
    }
    let ranges: Api<LimitRange> = Api::namespaced(world.client(), "begun");
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), "begun");
    assert!(ranges.get_opt("old").await?.is_some());
    assert!(maps.get_opt("roadstead-record").await?.is_none(), "it is written once, before anything runs");

    // The agent dies, and the class changes before the next one comes.
    world.change(&mut begun, |rendered| {
        rendered.parts.get_mut(&Part::Bounds).expect("it has bounds").pop();
    });
    let next = world.another().await?;
    next.settles(&begun, &Condition::Running).await?;
    assert!(ranges.get_opt("old").await?.is_none(), "nobody else would ever take it away");
    let record = maps.get("roadstead-record").await?.data.unwrap_or_default();
    assert!(!record["record"].contains("LimitRange"), "{record:?}");
    Ok(())
}

#[tokio::test]
async fn what_was_lost_is_not_made_again() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let client = world.client();
    let mut lost = tenant(8, "lost", Role::Run);
    world.change(&mut lost, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
    world.settles(&lost, &Condition::Running).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "lost");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "lost");
    let password = secrets.get("db").await?.data.unwrap_or_default()["password"].0.clone();
    assert_eq!(password.len(), 32);

    // A secret keeps its data when its label is taken away or its other fields are changed.
    let by_hand = PatchParams { field_manager: Some("kubectl-label".to_owned()), ..PatchParams::default() };
    secrets.patch("db", &by_hand, &Patch::Merge(json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}}))).await?;
    world
        .comes("the secret's label comes back", &lost, || async {
            Ok(secrets.get("db").await?.metadata.labels.unwrap_or_default().contains_key("roadstead.dev/tenant"))
        })
        .await?;
    assert_eq!(secrets.get("db").await?.data.unwrap_or_default()["password"].0, password);

    // Gone: nothing is made in its place, by this agent or by one that is started anew.
    secrets.delete("db", &DeleteParams::default()).await?;
    world.settles(&lost, &Condition::SecretLost(name("db"))).await?;
    claims.delete("data", &DeleteParams::default()).await?;
    // Its finalizer holds it, as a pod that uses it does; nothing takes the deletion back.
    world
        .comes("the claim is seen to go", &lost, || async {
            let seen = world.kube.seen(&lost).ok();
            Ok(seen.is_some_and(|seen| going(&lost.intent, &seen) == Some(&name("data"))))
        })
        .await?;
    assert_eq!(claims.list(&ListParams::default()).await?.items.len(), 1);
    claims.patch("data", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    world.settles(&lost, &Condition::VolumeLost(name("data"))).await?;
    world.another().await?.settles(&lost, &Condition::VolumeLost(name("data"))).await?;
    assert!(
        matches!(world.kube.act(&lost, &Action::MakeVolume(name("data"))).await, Err(Failed::Refused(why)) if why.contains("not made again"))
    );
    assert!(claims.list(&ListParams::default()).await?.items.is_empty());
    // One of the same name is another volume.
    let claim = lost.rendered.as_ref().expect("it is rendered").volumes[&name("data")].body.clone();
    claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    world.settles(&lost, &Condition::VolumeLost(name("data"))).await?;

    // Generations are kept, and only go up.
    let generation = |index| roadstead_core::id::Revision { index, ..Default::default() };
    assert_eq!(world.kube.generation().await, Ok(generation(0)));
    world.kube.keep_generation(generation(7)).await?;
    world.kube.keep_generation(generation(9)).await?;
    assert!(matches!(world.kube.keep_generation(generation(8)).await, Err(Failed::Refused(why)) if why.contains("newer")));
    assert_eq!(world.another().await?.kube.generation().await, Ok(generation(9)));

    // And so are removals, over restarts, and over those that another agent has begun of which this one did not know.
    let removals = |ids: &[u64]| ids.iter().map(|id| (TenantId(*id), Timestamp(1_800_000_000_000 + id))).collect::<Removals>();
    let other = world.another().await?;
    for agent in [&world, &other] {
        assert_eq!(agent.kube.removals().await, Ok(removals(&[])));
    }
    assert_eq!(world.kube.keep_removals(&removals(&[1, 2])).await, Ok(removals(&[1, 2])));
    assert_eq!(other.kube.keep_removals(&removals(&[3])).await, Ok(removals(&[1, 2])));
    assert_eq!(other.kube.keep_removals(&removals(&[1, 2, 3])).await, Ok(removals(&[1, 2, 3])));
    world.kube.keep_generation(generation(10)).await?;
    let anew = world.another().await?;
    assert_eq!((anew.kube.generation().await, anew.kube.removals().await), (Ok(generation(10)), Ok(removals(&[1, 2, 3]))));
    let states: Api<ConfigMap> = Api::namespaced(client, "agent");
    let broken = Patch::Merge(json!({"data": {"removals": "some"}}));
    states.patch("roadstead-agent", &PatchParams::default(), &broken).await?;
    assert!(matches!(anew.kube.removals().await, Err(Failed::Refused(why)) if why.contains("its removals cannot be read")));
    Ok(())
}

#[tokio::test]
async fn of_two_agents_the_one_with_the_older_intent_ends_and_starts_nothing() -> Result<()> {
    let old = World::start(Options { controllers: false, ..Options::default() }).await?;
    let new = old.another().await?;
    let mut job = tenant(12, "fenced", Role::Run);
    old.says(&job, "Deployment/web: has not been looked at by its controller yet").await?;
    let generation = |index| roadstead_core::id::Revision { index, ..Default::default() };
    old.kube.keep_generation(generation(4)).await?;
    new.kube.keep_generation(generation(5)).await?;

    // The old one has heard that the tenant is to be stopped, to run, to go; the new one has heard something else since.
    let deployments: Api<Deployment> = Api::namespaced(old.client(), "fenced");
    let before = deployments.get("web").await?.metadata.resource_version;
    old.until_seen(&job).await?;
    let writes = old.writes();
    for (role, actions) in [
        (Role::Stopped, vec![Action::Unroute, Action::Stop, Action::Put(Part::Bounds)]),
        (Role::Run, vec![Action::Put(Part::Workloads), Action::Put(Part::Routes), Action::Claim]),
        (Role::Absent, vec![Action::Stop, Action::Delete]),
    ] {
        job.intent.role = role;
        for action in actions {
            let refused = old.kube.act(&job, &action).await;
            assert!(
                matches!(&refused, Err(Failed::Later { why, .. }) if why.contains("has acted on generation 0.5")),
                "{action:?}: {refused:?}"
            );
        }
    }
    assert_eq!(old.writes(), writes);
    assert_eq!(deployments.get("web").await?.metadata.resource_version, before);

    // As soon as it has heard as much it goes on; in step neither of them asks anybody.
    assert!(matches!(old.kube.keep_generation(generation(4)).await, Err(Failed::Refused(_))));
    old.kube.keep_generation(generation(5)).await?;
    job.intent.role = Role::Run;
    for world in [&old, &new] {
        world.says(&job, "Deployment/web: has not been looked at by its controller yet").await?;
        let before = world.requests();
        world.kube.forget_comparisons();
        world.step(&job).await?;
        assert_eq!(world.requests(), before);
    }
    job.intent.role = Role::Stopped;
    old.says(&job, "it is being stopped").await?;
    assert_eq!(deployments.get("web").await?.spec.context("it has a spec")?.replicas, Some(0));
    Ok(())
}

#[tokio::test]
async fn what_a_watch_withholds_is_never_called_lost_or_gone() -> Result<()> {
    let blind = World::start(Options::default()).await?;
    let sees = blind.another().await?;
    let told = RefCell::new(Vec::new());
    let hidden = [
        (&["namespaces"][..], Role::Stopped),
        (&["namespaces"], Role::Run),
        (&["persistentvolumeclaims", "configmaps"], Role::Run),
        (&["persistentvolumeclaims"], Role::Run),
        (&["secrets"], Role::Run),
    ];
    for (number, (withheld, first)) in hidden.into_iter().enumerate() {
        let (id, name) = (20 + number as u64, format!("hidden-{number}"));
        let mut job = tenant(id, &name, Role::Run);
        blind.change(&mut job, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
        blind.until_seen(&job).await?;
        withheld.iter().for_each(|resource| blind.faults.withhold(resource));
        // Another agent makes it, and tells which volume it has; or it is to be stopped before that is known.
        sees.settles(&job, &Condition::Running).await?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(sees.client(), &name);
        let uid = claims.get("data").await?.metadata.uid.context("it has a uid")?;
        let uid = uid.parse().ok().context("it is a uid")?;
        job.intent.volumes[0].uid = (first == Role::Run).then_some(uid);
        for role in [first, Role::Absent] {
            job.intent.role = role;
            until("it is seen", SOON, || async {
                let seen = blind.kube.seen(&job)?;
                let is_there = seen.home != Home::None;
                let condition = blind.decide(&job, seen).1.condition;
                told.borrow_mut().push((is_there, condition));
                Ok(())
            })
            .await?;
        }
        blind.faults.clear();
        sees.settles(&job, &Condition::Absent).await?;
        // What is gone is told as gone, once that has been confirmed.
        blind.settles(&job, &Condition::Absent).await?;
    }
    let told = told.into_inner();
    assert_eq!(told.len(), 10);
    let is_wrong = |condition: &Condition| matches!(condition, Condition::VolumeLost(_) | Condition::SecretLost(_) | Condition::Absent);
    assert!(told.iter().all(|(is_there, condition)| *is_there && !is_wrong(condition)), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_volume_grows_where_its_storage_allows_it_and_says_so_where_not() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let mut grown = tenant(30, "grown", Role::Run);
    world.change(&mut grown, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
    world.settles(&grown, &Condition::Running).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), "grown");
    let uid = claims.get("data").await?.metadata.uid;
    let size = grown.intent.volumes[0].size.0;
    grown.intent.volumes[0].size.0 = 2 * size;
    // Nothing has bound it yet.
    let unbound = world.kube.act(&grown, &Action::GrowVolume(name("data"))).await;
    assert!(matches!(&unbound, Err(Failed::Later { why, .. }) if why.contains("grows once it is bound")), "{unbound:?}");
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "hostPath": {"path": "/nowhere"}}});
    world.create("", "v1", "PersistentVolume", &volume).await?;
    until("the claim is bound", SOON, || async {
        let phase = claims.get("data").await?.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Bound"), "it is {phase:?}");
        Ok(())
    })
    .await?;
    // There is no such class of storage, and then one that does not allow it: it runs all the same.
    world.fails(&grown, "PersistentVolumeClaim/data cannot grow: its StorageClass does not allow it").await?;
    let storage = |expands: bool| json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": "example.com/none", "allowVolumeExpansion": expands});
    world.create("storage.k8s.io", "v1", "StorageClass", &storage(false)).await?;
    world.fails(&grown, "PersistentVolumeClaim/data cannot grow: its StorageClass does not allow it").await?;
    let classes: Api<k8s_openapi::api::storage::v1::StorageClass> = Api::all(world.client());
    classes.patch("fast", &PatchParams::default(), &Patch::Merge(json!({"allowVolumeExpansion": true}))).await?;
    until("it is asked for", SOON, || async {
        let _ = world.step(&grown).await;
        let claim = claims.get("data").await?.spec.context("it has a spec")?;
        let asked = claim.resources.and_then(|resources| resources.requests).unwrap_or_default()["storage"].0.clone();
        ensure!(asked == (2 * size).to_string(), "{asked}");
        Ok(())
    })
    .await?;
    world.says(&grown, "volume data is growing from 1024 to 2048 MiB").await?;
    // It is asked for once.
    let writes = world.writes();
    world.says(&grown, "volume data is growing from 1024 to 2048 MiB").await?;
    assert_eq!(world.writes(), writes);
    // As its storage does when it is done.
    let done = json!({"status": {"capacity": {"storage": "2Gi"}}});
    claims.patch_status("data", &PatchParams::default(), &Patch::Merge(done)).await?;
    world.settles(&grown, &Condition::Running).await?;
    let claim = claims.get("data").await?;
    assert_eq!((claim.metadata.uid, claim.spec.and_then(|spec| spec.volume_name)), (uid, Some("v".to_owned())));
    Ok(())
}
