//! Classes against real API servers, rendered as an agent does it: what becomes of their secrets, volumes, kinds and hostnames.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/rendered.rs"]
mod rendered;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, ResourceQuota, Secret};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use rendered::{Shop, namespace};
use roadstead_agent::interpreter::{Interpreter, Job};
use roadstead_class::{Entry, Site};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Home, Part};
use roadstead_tests::process::until;
use roadstead_tests::testbed::Options;
use serde_json::{Value, json};
use world::{SOON, World, name};

async fn secret(world: &World, namespace: &str, name: &str) -> Result<Option<Secret>> {
    Ok(Api::<Secret>::namespaced(world.client(), namespace).get_opt(name).await?)
}

async fn template(world: &World, body: Value) -> Result<()> {
    let templates: Api<Secret> = Api::namespaced(world.client(), "templates");
    let body: Secret = serde_json::from_value(body)?;
    let name = body.metadata.name.clone().context("it has a name")?;
    if templates.get_opt(&name).await?.is_some() {
        templates.delete(&name, &DeleteParams::default()).await?;
    }
    templates.create(&PostParams::default(), &body).await?;
    Ok(())
}

#[tokio::test]
async fn a_copied_secret_has_the_type_of_its_original() -> Result<()> {
    const PULL: &str = "kubernetes.io/dockerconfigjson";
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let config = r#"{"auths":{"registry.example":{"auth":"YTpi"}}}"#;
    template(&world, json!({"metadata": {"name": "registry"}, "type": PULL, "stringData": {".dockerconfigjson": config}})).await?;
    let job = Shop { secrets: json!([{"name": "pull", "copy": "registry"}]), ..Shop::default() }.tenant(1)?;
    world.settles(&job, &Condition::Running).await?;
    let copy = secret(&world, &namespace(1), "pull").await?.context("it is there")?;
    assert_eq!(copy.type_.as_deref(), Some(PULL));
    assert_eq!(copy.data.unwrap_or_default()[".dockerconfigjson"].0, config.as_bytes());
    let before = world.requests();
    world.kube.forget_comparisons();
    assert_eq!(world.step(&job).await?, Condition::Running);
    assert_eq!(world.requests(), before, "in step it asks nobody");

    // No Secret changes its type: with another original there is another copy.
    template(&world, json!({"metadata": {"name": "registry"}, "stringData": {"password": "plain"}})).await?;
    let is_new = || async {
        let now = secret(&world, &namespace(1), "pull").await?;
        Ok(now.is_some_and(|now| now.type_.as_deref() == Some("Opaque") && now.data.unwrap_or_default().contains_key("password")))
    };
    world.comes("the copy is made anew", &job, is_new).await?;
    assert_ne!(secret(&world, &namespace(1), "pull").await?.and_then(|now| now.metadata.uid), copy.metadata.uid);
    world.settles(&job, &Condition::Running).await?;

    // What is good for one account only is no tenant's.
    let token = json!({"metadata": {"name": "registry", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    template(&world, token).await?;
    world.says(&job, "the secret `registry` is a token of an account").await?;
    assert_eq!(secret(&world, &namespace(1), "pull").await?.and_then(|now| now.type_).as_deref(), Some("Opaque"));
    Ok(())
}

/// What a person does who cleans up too much.
async fn delete_all_maps_and_secrets(world: &World, namespace: &str) -> Result<()> {
    let (all, how) = (ListParams::default(), DeleteParams::default());
    Api::<ConfigMap>::namespaced(world.client(), namespace).delete_collection(&how, &all).await?;
    Api::<Secret>::namespaced(world.client(), namespace).delete_collection(&how, &all).await?;
    Ok(())
}

#[tokio::test]
async fn a_generated_secret_is_never_made_anew_over_volumes() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let db = json!({"name": "db", "generate": {"password": 24}});
    let mut job = Shop { secrets: json!([db]), volumes: &["data"], ..Shop::default() }.tenant(1)?;
    world.settles(&job, &Condition::Running).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client(), &namespace(1));
    let made = secrets.get("db").await?;
    let password = made.data.clone().context("it has data")?["password"].clone();

    // Another one in its place is told of, and nothing is stopped or kept from stopping by it.
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    secrets.patch("db", &by_hand, &Patch::Merge(json!({"stringData": {"password": "another one"}}))).await?;
    world.says(&job, "the secret `db` is not the one that was generated").await?;
    job.intent.role = Role::Stopped;
    world.settles(&job, &Condition::Stopped).await?;
    job.intent.role = Role::Run;
    world.says(&job, "the secret `db` is not the one that was generated").await?;
    assert_eq!(secrets.get("db").await?.data.context("it has data")?["password"].0, b"another one");
    secrets.patch("db", &by_hand, &Patch::Merge(json!({"data": {"password": password}}))).await?;
    world.settles(&job, &Condition::Running).await?;

    // Gone with all that tells of it, but for the volume: by this agent and by one that is started anew, also when the record has been begun anew.
    delete_all_maps_and_secrets(&world, &namespace(1)).await?;
    world.settles(&job, &Condition::SecretLost(name("db"))).await?;
    let anew = world.another().await?;
    anew.settles(&job, &Condition::SecretLost(name("db"))).await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client(), &namespace(1));
    quotas.delete("tenant", &DeleteParams::default()).await?;
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), &namespace(1));
    anew.comes("the record is begun anew", &job, || async { Ok(maps.get_opt("roadstead-record").await?.is_some()) }).await?;
    anew.settles(&job, &Condition::SecretLost(name("db"))).await?;
    world.settles(&job, &Condition::SecretLost(name("db"))).await?;
    assert!(secrets.get_opt("db").await?.is_none());

    // The same one put back is the right one; a later version of the class may bring others.
    let back = json!({"metadata": {"name": "db", "labels": {"roadstead.dev/tenant": "0000000000000001"}}, "data": {"password": password}});
    secrets.create(&PostParams::default(), &serde_json::from_value(back)?).await?;
    anew.settles(&job, &Condition::Running).await?;
    let cache = json!({"name": "cache", "generate": {"password": 24}});
    let job = Shop { secrets: json!([db, cache]), volumes: &["data"], ..Shop::default() }.tenant(1)?;
    anew.settles(&job, &Condition::Running).await?;
    assert_eq!(secrets.get("db").await?.data.context("it has data")?["password"], password);
    assert!(secrets.get_opt("cache").await?.is_some());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), &namespace(1));
    assert_eq!(claims.list(&ListParams::default()).await?.items.len(), 1);

    // Where there is nothing to protect, nothing is lost.
    let job = Shop { secrets: json!([db]), ..Shop::default() }.tenant(2)?;
    world.settles(&job, &Condition::Running).await?;
    delete_all_maps_and_secrets(&world, &namespace(2)).await?;
    let is_back = || async { Ok(secret(&world, &namespace(2), "db").await?.is_some()) };
    world.comes("it is generated anew", &job, is_back).await?;
    Ok(())
}

#[tokio::test]
async fn a_class_may_drop_a_volume_and_bring_another() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let before = Shop { volumes: &["data", "old"], ..Shop::default() }.tenant(1)?;
    world.settles(&before, &Condition::Running).await?;
    let after = Shop { volumes: &["data", "new"], ..Shop::default() }.tenant(1)?;
    world.settles(&after, &Condition::Running).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), &namespace(1));
    let claims = claims.list(&ListParams::default()).await?.items;
    let names: Vec<&str> = claims.iter().filter_map(|claim| claim.metadata.name.as_deref()).collect();
    assert_eq!(names, ["data", "new", "old"]);
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client(), &namespace(1));
    let hard = quotas.get("tenant").await?.spec.and_then(|spec| spec.hard).context("it has bounds")?;
    assert_eq!((&*hard["persistentvolumeclaims"].0, &*hard["requests.storage"].0), ("3", "3221225472"));
    // What is dropped is known by the volume that it is bound to, once it is.
    let all: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), &namespace(1));
    let bound = Patch::Merge(json!({"spec": {"volumeName": "pv-old"}}));
    all.patch("old", &PatchParams::default(), &bound).await?;
    let old = (after.intent.id, name("old"));
    until("it is known", SOON, || async {
        world.kube.detached(&[old.clone(), (old.0, name("new"))].into());
        ensure!(world.detached() == ["pv-old".into()].into(), "{:?}", world.detached());
        Ok(())
    })
    .await?;
    world.settles(&after, &Condition::Running).await?;
    // It is in step so, also for an agent that begins anew.
    let requests = world.requests();
    world.kube.forget_comparisons();
    assert_eq!(world.step(&after).await?, Condition::Running);
    assert_eq!(world.requests(), requests);
    let anew = world.another().await?;
    anew.settles(&after, &Condition::Running).await?;
    assert_eq!((anew.writes(), anew.kube.diff(&after).await?), (0, Vec::new()));
    // As it was: with the claim that was kept.
    world.settles(&before, &Condition::Running).await?;
    Ok(())
}

#[tokio::test]
async fn a_claim_is_taken_for_a_volume_only_if_it_is_known_or_was_made_in_this_epoch() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let shop = Shop { volumes: &["data"], ..Shop::default() };
    let claims = |id: u64| Api::<PersistentVolumeClaim>::namespaced(world.client(), &namespace(id));
    let begin = async |job: &Job| -> Result<()> {
        let seen = until("it is known what is there", SOON, || async { Ok(world.kube.seen(job)?) }).await?;
        assert_eq!(seen.home, Home::None);
        world.kube.act(job, &Action::Claim).await?;
        world.kube.act(job, &Action::Put(Part::Bounds)).await?;
        Ok(())
    };

    // Made, and not written down before the agent died: it is the volume.
    let job = shop.tenant(1)?;
    begin(&job).await?;
    world.kube.act(&job, &Action::MakeVolume(name("data"))).await?;
    let made = claims(1).get("data").await?.metadata;
    assert_eq!(made.labels.context("it has labels")?["roadstead.dev/epoch"], "0.3");
    world.another().await?.settles(&job, &Condition::Running).await?;
    assert_eq!(claims(1).get("data").await?.metadata.uid, made.uid);
    // Written down, it is the volume in every epoch.
    world.settles(&shop.tenant_in(1, 4)?, &Condition::Running).await?;
    assert_eq!(claims(1).get("data").await?.metadata.uid, made.uid);

    // Whatever else has its name is not, until it is gone.
    for (id, labels, why) in [
        (2, json!({"roadstead.dev/tenant": "0000000000000002", "roadstead.dev/epoch": "0.2"}), "from epoch 0.2 and not from 0.3"),
        (3, json!({"roadstead.dev/tenant": "0000000000000003"}), "from an epoch that is not known and not from 0.3"),
        (4, json!({"roadstead.dev/tenant": "0000000000000001", "roadstead.dev/epoch": "0.3"}), "is not this tenant's"),
    ] {
        let mut job = shop.tenant(id)?;
        begin(&job).await?;
        let mut claim = job.rendered.as_ref().expect("it is rendered").volumes[&name("data")].body.clone();
        claim["metadata"]["labels"] = labels;
        let left = claims(id).create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
        world.fails(&job, why).await?;
        assert_eq!(claims(id).get("data").await?.metadata.uid, left.metadata.uid);
        if id == 3 {
            // The placement service knows it: it was made before claims had an epoch.
            job.intent.volumes[0].uid = left.metadata.uid.as_deref().and_then(|uid| uid.parse().ok());
            world.settles(&job, &Condition::Running).await?;
            assert_eq!(claims(id).get("data").await?.metadata.uid, left.metadata.uid);
        } else {
            claims(id).delete("data", &DeleteParams::default()).await?;
            claims(id).patch("data", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
            world.settles(&job, &Condition::Running).await?;
            assert_ne!(claims(id).get("data").await?.metadata.uid, left.metadata.uid);
        }
    }
    Ok(())
}

/// A kind of a group that is none of Kubernetes' own.
async fn define(world: &World, group: &str, kind: &str, scope: &str) -> Result<()> {
    let plural = format!("{}s", kind.to_lowercase());
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": scope, "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &definition).await
}

#[tokio::test]
async fn a_kind_that_is_in_no_namespace_is_no_tenants_and_keeps_no_other_from_anything() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    define(&world, "cert-manager.io", "ClusterIssuer", "Cluster").await?;
    define(&world, "example.com", "ConfigMap", "Cluster").await?;
    for (id, manifests) in [
        (1, "{apiVersion: cert-manager.io/v1, kind: ClusterIssuer, metadata: {name: letters}, spec: {acme: {}}}"),
        (2, "{apiVersion: example.com/v1, kind: ConfigMap, metadata: {name: letters}, spec: {acme: {}}}"),
    ] {
        let job = Shop { manifests, ..Shop::default() }.tenant(id)?;
        world.says(&job, "objects are in no namespace here, so none can be a tenant's").await?;
        // It is not tried, either.
        assert!(matches!(world.step(&job).await?, Condition::Blocked(_)));
        let diffs = world.kube.diff(&job).await?;
        ensure!(diffs.iter().any(|diff| diff.note.contains("objects are in no namespace here")), "{diffs:?}");
    }
    world.settles(&Shop::default().tenant(3)?, &Condition::Running).await?;
    Ok(())
}

#[tokio::test]
async fn hostnames_become_routes_as_gateway_api_keeps_them() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let definition: Value = serde_saphyr::from_str(include_str!("kube/httproutes.yaml"))?;
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &definition).await?;
    let manifests = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}";
    let entry = Entry::Gateway { name: "public".to_owned(), namespace: "gateways".to_owned() };
    let network = json!({"expose": {"service": "web", "port": 80}});
    let site = Site { entry, ..Shop::default().site };
    let shop = Shop { manifests, network, site, ..Shop::default() };
    let hostnames: Vec<String> = (0..20).map(|number| format!("shop-{number}.acme.example")).collect();
    let mut job = shop.tenant_called(1, &hostnames)?;
    world.settles(&job, &Condition::Running).await?;
    let resource = kube::api::ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let routes: Api<DynamicObject> = Api::namespaced_with(world.client(), &namespace(1), &resource);
    let made = routes.get("tenant").await?.data["spec"].clone();
    assert_eq!(made["parentRefs"][0]["kind"], "Gateway", "what is not said is filled in: {made}");
    assert_eq!(made["rules"][0]["backendRefs"][0]["weight"], 1, "{made}");
    assert_eq!(routes.get("tenant-2").await?.data["spec"]["hostnames"], json!(hostnames[16..]));
    // In step as it is kept, also for an agent that begins anew.
    let requests = world.requests();
    world.kube.forget_comparisons();
    assert_eq!(world.step(&job).await?, Condition::Running);
    assert_eq!(world.requests(), requests);
    let anew = world.another().await?;
    anew.settles(&job, &Condition::Running).await?;
    assert_eq!(anew.writes(), 0);

    // What somebody changes comes back, and what a gateway refuses is said.
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    routes.patch("tenant", &by_hand, &Patch::Merge(json!({"spec": {"hostnames": ["other.example"]}}))).await?;
    let is_back = || async { Ok(routes.get("tenant").await?.data["spec"]["hostnames"] == json!(hostnames[..16])) };
    world.comes("the hostnames come back", &job, is_back).await?;
    let refused = json!({"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no listener allows it",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let parent = json!({"controllerName": "example.com/gateway", "parentRef": {"name": "public"}, "conditions": [refused]});
    routes.patch_status("tenant", &PatchParams::default(), &Patch::Merge(json!({"status": {"parents": [parent]}}))).await?;
    world.says(&job, "HTTPRoute/tenant: was refused by its gateway: no listener allows it").await?;

    // Fewer names need fewer routes, and a tenant that rests has no way in.
    routes.patch_status("tenant", &PatchParams::default(), &Patch::Merge(json!({"status": {"parents": []}}))).await?;
    job = shop.tenant_called(1, &hostnames[..2])?;
    world.comes("the second route goes", &job, || async { Ok(routes.get_opt("tenant-2").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;
    job.intent.role = Role::Stopped;
    world.settles(&job, &Condition::Stopped).await?;
    assert!(routes.list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}
