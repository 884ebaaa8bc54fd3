//! What of a tenant is not rendered any more, and what the cluster does not serve any more: when it goes, when it stays, and that nothing else
//! goes with it.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use roadstead_agent::interpreter::{Interpreter, Job};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Part};
use roadstead_tests::process::until;
use roadstead_tests::testbed::Options;
use serde_json::{Value, json};
use world::{SOON, World, deployment, manifest, ready, tenant};

/// A tenant of which nothing needs controllers.
fn plain(world: &World, id: u64, namespace: &str) -> Job {
    let mut job = tenant(id, namespace, Role::Run);
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").retain(|manifest| manifest.id.kind != "Deployment");
    });
    job
}

#[tokio::test]
async fn what_a_controller_looks_after_is_left_to_it() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let mut job = plain(&world, 70, "owned");
    world.settles(&job, &Condition::Running).await?;
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), "owned");
    // Some operator adopts it; the edit beside that is put right, so that what it did is known.
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Shop", "name": "s", "uid": "0c9ee5b2-52b8-4d7c-9a5e-2f3a1b0c4d5e", "controller": true});
    let adopted = json!({"metadata": {"ownerReferences": [owner]}, "data": {"requests": "9"}});
    maps.patch("settings", &by_hand, &Patch::Merge(adopted)).await?;
    world
        .comes("the data comes back", &job, || async { Ok(maps.get("settings").await?.data.unwrap_or_default()["requests"] == "1000m") })
        .await?;

    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").retain(|manifest| manifest.id.kind != "ConfigMap");
    });
    world.settles(&job, &Condition::Running).await?;
    // Neither when something else is put right, nor by an agent that begins anew.
    world.kube.act(&job, &Action::Put(Part::Workloads)).await?;
    world.another().await?.settles(&job, &Condition::Running).await?;
    let there = maps.get("settings").await?.metadata;
    assert_eq!(there.labels.unwrap_or_default()["roadstead.dev/tenant"], format!("{:016x}", 70));
    assert_eq!(there.deletion_timestamp, None);
    let record = maps.get("roadstead-record").await?.data.unwrap_or_default();
    assert!(record["record"].contains("settings"), "{record:?}");

    // Given back, it is what a class has no more.
    maps.patch("settings", &by_hand, &Patch::Merge(json!({"metadata": {"ownerReferences": null}}))).await?;
    world.comes("it is pruned", &job, || async { Ok(maps.get_opt("settings").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_new_is_ready_before_what_was_there_goes() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let mut job = tenant(71, "successor", Role::Run);
    let deployments: Api<Deployment> = Api::namespaced(world.client(), "successor");
    world.says(&job, "Deployment/web: has not been looked at by its controller yet").await?;
    ready(&deployments, "web", 2).await?;
    world.settles(&job, &Condition::Running).await?;
    let before = deployments.get("web").await?.metadata;

    world.change(&mut job, |rendered| {
        let workloads = rendered.parts.get_mut(&Part::Workloads).expect("there are workloads");
        workloads.retain(|manifest| manifest.id.kind != "Deployment");
        let mut next = deployment("successor", 71);
        next.id.name = "next".to_owned();
        next.body["metadata"]["name"] = json!("next");
        for labels in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
            next.body.pointer_mut(labels).expect("it has labels")["app"] = json!("next");
        }
        workloads.push(next);
    });
    world.says(&job, "Deployment/next: has not been looked at by its controller yet").await?;
    ready(&deployments, "next", 1).await?;
    world.says(&job, "Deployment/next: 1 of 2 pods are ready").await?;
    // Also when the part is put right for another reason.
    for agent in [&world, &world.another().await?] {
        agent.says(&job, "Deployment/next: 1 of 2 pods are ready").await?;
        agent.kube.act(&job, &Action::Put(Part::Workloads)).await?;
        agent.says(&job, "Deployment/next: 1 of 2 pods are ready").await?;
    }
    let there = deployments.get("web").await?.metadata;
    assert_eq!((there.uid, there.generation, there.deletion_timestamp), (before.uid, before.generation, None));

    ready(&deployments, "next", 2).await?;
    world.comes("the old one goes", &job, || async { Ok(deployments.get_opt("web").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;
    deployments.get("next").await?;
    Ok(())
}

/// A definition of Gadgets whose first version is served, or is not; the second one is.
fn gadgets(first: bool) -> Value {
    let version = |name: &str, served: bool, storage: bool| {
        json!({"name": name, "served": served, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Gadget", "plural": "gadgets"},
            "versions": [version("v1", first, true), version("v2", true, false)]}})
}

/// Whether the cluster serves Gadgets in a version.
async fn serves(client: &Client, version: &str, is_served: bool) -> Result<()> {
    until("it is served, or not", SOON, || async {
        let found = kube::discovery::pinned_kind(client, &GroupVersionKind::gvk("example.com", version, "Gadget")).await;
        ensure!(found.is_ok() == is_served, "{found:?}");
        Ok(())
    })
    .await
}

/// Identities of what a tenant has besides a Gadget, and its password.
async fn kept(client: &Client, namespace: &str) -> Result<(Vec<Option<String>>, Vec<u8>)> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get("db").await?;
    let of = [maps.get("settings").await?.metadata, claims.get("data").await?.metadata, secret.metadata];
    ensure!(of.iter().all(|metadata| metadata.deletion_timestamp.is_none()), "{of:?}");
    Ok((of.map(|metadata| metadata.uid).into(), secret.data.unwrap_or_default()["password"].0.clone()))
}

const NOT_SERVED: &str = "the cluster serves no Gadget (example.com/v1); its CRD is missing or broken";

#[tokio::test]
async fn a_kind_that_is_not_served_any_more_is_told_and_takes_nothing_else_with_it() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let client = world.client();
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &gadgets(true)).await?;
    serves(&client, "v1", true).await?;
    let (mut job, other) = (plain(&world, 72, "gadgets"), plain(&world, 73, "other"));
    world.change(&mut job, |rendered| {
        let gadget = manifest("gadgets", 72, "example.com/v1", "Gadget", "g", json!({"spec": {"size": 1}}));
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").push(gadget);
    });
    for job in [&job, &other] {
        world.settles(job, &Condition::Running).await?;
    }
    let before = kept(&client, "gadgets").await?;
    let api = |version: &str| -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("example.com", version, "Gadget");
        Api::namespaced_with(client.clone(), "gadgets", &ApiResource::from_gvk_with_plural(&kind, "gadgets"))
    };
    let gadget = api("v1").get("g").await?.metadata.uid.context("it has a uid")?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "other");
    let goes_on = || async {
        world.says(&job, NOT_SERVED).await?;
        ensure!(kept(&client, "gadgets").await? == before, "something of it is gone, or is another");
        // Nobody else is kept from anything.
        maps.delete("settings", &DeleteParams::default()).await?;
        world.comes("it is put right", &other, || async { Ok(maps.get_opt("settings").await?.is_some()) }).await?;
        world.settles(&other, &Condition::Running).await
    };

    // Its version is not served any more: the object is there in another one.
    definitions.patch("gadgets.example.com", &PatchParams::default(), &Patch::Merge(gadgets(false))).await?;
    serves(&client, "v1", false).await?;
    goes_on().await?;
    assert_eq!(api("v2").get("g").await?.metadata.uid.as_ref(), Some(&gadget));
    // A class that has moved on to that one goes on with the same object.
    let mut moved = job.clone();
    world.change(&mut moved, |rendered| {
        let workloads = rendered.parts.get_mut(&Part::Workloads).expect("there are workloads");
        workloads.retain(|manifest| manifest.id.kind != "Gadget");
        workloads.push(manifest("gadgets", 72, "example.com/v2", "Gadget", "g", json!({"spec": {"size": 2}})));
    });
    world.settles(&moved, &Condition::Running).await?;
    let there = api("v2").get("g").await?;
    assert_eq!((there.metadata.uid.as_ref(), &there.data["spec"]["size"]), (Some(&gadget), &json!(2)));
    definitions.patch("gadgets.example.com", &PatchParams::default(), &Patch::Merge(gadgets(true))).await?;
    world.settles(&job, &Condition::Running).await?;
    assert_eq!(api("v1").get("g").await?.metadata.uid.as_ref(), Some(&gadget));

    // The whole kind is taken away, and with it the objects: they are made anew once it is back.
    definitions.delete("gadgets.example.com", &DeleteParams::default()).await?;
    serves(&client, "v1", false).await?;
    goes_on().await?;
    job.intent.role = Role::Stopped;
    world.settles(&job, &Condition::Stopped).await?;
    job.intent.role = Role::Run;
    world.says(&job, NOT_SERVED).await?;
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &gadgets(true)).await?;
    world.settles(&job, &Condition::Running).await?;
    assert_ne!(api("v1").get("g").await?.metadata.uid, Some(gadget));
    assert_eq!(kept(&client, "gadgets").await?, before);
    Ok(())
}
