//! Classes against real API servers, rendered as an agent does it: what becomes of their secrets, volumes, kinds and hostnames.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/rendered.rs"]
mod rendered;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use rendered::{Shop, namespace};
use roadstead_core::reconcile::Condition;
use roadstead_tests::testbed::Options;
use serde_json::{Value, json};
use world::World;

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
