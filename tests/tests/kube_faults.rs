//! An agent over a bad way to its API server: too many requests, watches that expire, slow and lost answers, a token that is not valid any
//! more, and what somebody else does while a request is on its way. What is there stays, nothing is made twice, and what is wrong is said in
//! plain words.

#[path = "kube/agent.rs"]
mod agent;
#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::{Agent, intent, namespace};
use anyhow::{Context, Result, ensure};
use faults::{Fault, is_watch};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use roadstead_agent::interpreter::{Failed, Interpreter};
use roadstead_agent::kube::client_through;
use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::tenant_intent::Role;
use roadstead_core::reconcile::{Action, Condition, Part};
use roadstead_tests::process::until;
use roadstead_tests::testbed::Options;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::codegen::http::Request;
use tonic::codegen::http::request::Parts;
use tower::layer::util::Identity;
use world::{Given, SOON, World, tenant};

/// As an API server refuses that has too much to do: with a header, and in plain text.
fn too_busy(seconds: u32) -> Fault {
    Fault::Answer(429, vec![("retry-after", seconds.to_string())], "Too many requests, please try again later.\n".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_come_later_does_and_other_shards_go_on() -> Result<()> {
    const LATER: u32 = 8;
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let path = format!("/api/v1/namespaces/{}/configmaps/settings", namespace(1));
    let of = path.clone();
    world.faults.add(move |request| request.uri.path() == of, too_busy(LATER));
    let agent = Agent::start(world.kube.clone()).await?;
    let others = (10..30).map(|number| intent(number, 1, Role::Run));
    agent.want(5, others.chain([intent(1, 0, Role::Run)]).collect()).await?;
    let begun = Instant::now();
    until("it is told to come later", SOON, || async {
        ensure!(world.faults.count("PATCH", &path) == 1, "it is not");
        Ok(())
    })
    .await?;
    // From now on there is another one in its shard, of which nobody has said anything.
    let others = (10..30).map(|number| intent(number, 1, Role::Run));
    agent.want(6, others.chain([intent(1, 0, Role::Run), intent(2, 0, Role::Run)]).collect()).await?;
    for number in 10..30 {
        agent.until_told(number, Observed::Running, SOON).await?;
    }
    let trouble = agent.until_trouble(1, "ConfigMap/settings: the API server has too many requests", SOON).await?;
    assert_eq!(trouble.kind(), roadstead_api::v1::trouble::Kind::Waits, "{trouble:?}");
    until("it was tried three times", SOON, || async {
        ensure!(world.faults.count("PATCH", &path) >= 3, "it was not");
        Ok(())
    })
    .await?;
    // Although its own objects move meanwhile, which else is reason enough for another try.
    assert!(begun.elapsed() >= Duration::from_secs(2 * u64::from(LATER)), "{:?} for three tries", begun.elapsed());
    assert_eq!(world.faults.count("PATCH", &path), 3);
    agent.until_told(2, Observed::Running, SOON).await?;
    let first = |path: &str| world.faults.first_write(path).context("it was written");
    let home = |number: u64| format!("/api/v1/namespaces/{}", namespace(number));
    let waited = first(&home(2))? - first(&path)?;
    assert!(waited >= Duration::from_secs(u64::from(LATER)), "another of its shard was begun {waited:?} later");
    world.faults.clear();
    agent.until_told(1, Observed::Running, SOON).await?;
    assert_eq!(agent.troubles(), []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_to_run_any_more_is_not_started_by_what_was_begun_before() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let claims = format!("/api/v1/namespaces/{}/persistentvolumeclaims", namespace(1));
    let of = claims.clone();
    world.faults.add(move |request| request.method == "POST" && request.uri.path() == of, Fault::Slow(Duration::from_secs(5)));
    let agent = Agent::start(world.kube.clone()).await?;
    agent.want(5, vec![intent(1, 0, Role::Run)]).await?;
    until("its volume is being made", SOON, || async {
        ensure!(world.faults.count("POST", &claims) == 1, "it is not");
        Ok(())
    })
    .await?;
    agent.want(6, vec![intent(1, 0, Role::Stopped)]).await?;
    agent.until_told(1, Observed::Stopped, SOON).await?;
    // What comes after a volume: whatever runs.
    assert_eq!(world.faults.count("PATCH", &format!("/api/v1/namespaces/{}/configmaps/settings", namespace(1))), 0);
    assert_eq!(world.faults.count("POST", &claims), 1);
    agent.want(7, vec![intent(1, 0, Role::Run)]).await?;
    agent.until_told(1, Observed::Running, SOON).await?;
    assert_eq!(agent.troubles(), []);
    Ok(())
}

/// An API server that has too much to do for anything; its address, and how many requests it has heard.
async fn busy_server(seconds: u32) -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, heard) = (format!("http://{}", listener.local_addr()?), Arc::new(AtomicUsize::new(0)));
    let count = heard.clone();
    let answer = format!("HTTP/1.1 429 Too Many Requests\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (count, answer) = (count.clone(), answer.clone());
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // The requests have no bodies.
                    if line.is_empty() {
                        count.fetch_add(1, Ordering::SeqCst);
                        write.write_all(answer.as_bytes()).await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok((address, heard))
}

#[tokio::test]
async fn an_api_server_that_is_too_busy_is_asked_once_and_says_when_to_come_again() -> Result<()> {
    const LATER: u32 = 1;
    let (address, heard) = busy_server(LATER).await?;
    // As the agent makes it, and as it is made for whoever looks at what passes.
    let config = kube::Config::new(address.parse()?);
    let clients = [roadstead_agent::kube::client(config.clone())?, client_through(config, &Identity::new())?];
    for (asked, client) in clients.into_iter().enumerate() {
        let answer = tokio::time::timeout(SOON / 9, async { Api::<Namespace>::all(client).get("default").await });
        let answer = answer.await.with_context(|| format!("it was asked {} times", heard.load(Ordering::SeqCst)))?;
        let Err(kube::Error::Api(status)) = &answer else { anyhow::bail!("{answer:?}") };
        assert_eq!((status.code, status.details.as_ref().map(|details| details.retry_after_seconds)), (429, Some(LATER)));
        assert_eq!(heard.load(Ordering::SeqCst), asked + 1, "it is not asked again below the queue that waits");
    }
    Ok(())
}

/// As an API server ends a watch whose place in history it has forgotten.
fn expired() -> String {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_has_expired_begins_anew_and_nothing_is_lost_or_written() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let agent = Agent::start(world.kube.clone()).await?;
    agent.want(5, vec![intent(1, 0, Role::Run), intent(2, 1, Role::Run)]).await?;
    agent.until_told(1, Observed::Running, SOON).await?;
    agent.until_told(2, Observed::Running, SOON).await?;
    let (maps, path) = (Api::<ConfigMap>::namespaced(world.client(), &namespace(1)), "/api/v1/configmaps");
    let version = maps.get("settings").await?.metadata.resource_version;
    let event = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", expired());
    for answer in [Fault::Answer(410, Vec::new(), expired()), Fault::Answer(200, Vec::new(), event)] {
        let lists = || [path, "/api/v1/namespaces"].map(|path| world.faults.lists(path));
        let (writes, before) = (world.writes(), lists());
        world.faults.add(is_watch, answer);
        world.faults.cut();
        until("all is listed anew", SOON, || async {
            let now = lists();
            // Not once, but as long as it goes on.
            ensure!(before.iter().zip(&now).all(|(before, now)| *now >= before + 2), "config maps and namespaces: {before:?}, {now:?}");
            Ok(())
        })
        .await?;
        world.faults.clear();
        // It sees again: what is broken from now on is put right, and that is the only write.
        maps.delete("settings", &DeleteParams::default()).await?;
        until("it is put right", SOON, || async { Ok(maps.get("settings").await.map(drop)?) }).await?;
        agent.until_told(1, Observed::Running, SOON).await?;
        assert_eq!(world.writes() - writes, 1);
    }
    assert_ne!(maps.get("settings").await?.metadata.resource_version, version);
    assert_eq!(agent.troubles(), []);
    Ok(())
}

/// The password that was generated for a tenant, and the uids of its namespace and its claim.
async fn made(world: &World, number: u64) -> Result<(Vec<u8>, Option<String>, Option<String>)> {
    let name = namespace(number);
    let secrets: Api<Secret> = Api::namespaced(world.client(), &name);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(world.client(), &name);
    let claims = claims.list(&ListParams::default()).await?.items;
    ensure!(claims.len() == 1, "{claims:?}");
    let data = secrets.get("db").await?.data.context("it has data")?;
    let space = Api::<Namespace>::all(world.client()).get(&name).await?;
    Ok((data["password"].0.clone(), space.metadata.uid, claims[0].metadata.uid.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_answers_come_seconds_late_or_never_nothing_is_made_twice_and_nothing_is_called_lost() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    world.faults.add(|request| !is_watch(request), Fault::Slow(Duration::from_secs(2)));
    let agent = Agent::start(world.kube.clone()).await?;
    let tenants = || (1..4).map(|number| intent(number, number as u32, Role::Run)).collect::<Vec<_>>();
    agent.want(5, tenants()).await?;
    for number in 1..4 {
        agent.until_told(number, Observed::Running, 2 * SOON).await?;
        assert_eq!(world.faults.count("POST", &format!("{}/persistentvolumeclaims", namespace(number))), 1);
    }
    assert_eq!(world.faults.count("POST", "/api/v1/namespaces"), 3);
    world.faults.clear();
    let before = made(&world, 1).await?;

    // What was written is there, and who wrote it does not know: of each of these the first time.
    let home = format!("/api/v1/namespaces/{}", namespace(7));
    let once = ["/api/v1/namespaces".to_owned(), format!("{home}/persistentvolumeclaims"), format!("{home}/secrets/db")];
    let lost = Mutex::new(BTreeSet::from(once.clone()));
    let is_lost = move |request: &Parts| request.method != "GET" && lost.lock().expect("nobody panics").remove(request.uri.path());
    world.faults.add(is_lost, Fault::LostAnswer);
    agent.want(6, tenants().into_iter().chain([intent(7, 0, Role::Run)]).collect()).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client(), &namespace(7));
    let first = until("a secret is generated", SOON, || async { Ok(secrets.get("db").await?) }).await?;
    agent.until_told(7, Observed::Running, SOON).await?;
    assert_eq!(Some(&made(&world, 7).await?.0), first.data.as_ref().map(|data| &data["password"].0));
    assert_eq!([&once[0], &once[1]].map(|path| world.faults.count("POST", path)), [4, 1]);
    assert!(world.faults.count("PATCH", &once[2]) >= 1);
    assert_eq!(made(&world, 1).await?, before);
    assert_eq!(agent.troubles(), []);
    Ok(())
}

/// A token of the agent's account that is valid for as long as a Secret is there.
async fn token(world: &World, secret: &str) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(world.client(), "agent");
    let body = json!({"metadata": {"name": secret}});
    let made = secrets.create(&PostParams::default(), &serde_json::from_value(body)?).await?;
    let bound = json!({"kind": "Secret", "apiVersion": "v1", "name": secret, "uid": made.metadata.uid});
    let request = json!({"metadata": {}, "spec": {"audiences": [], "boundObjectRef": bound}});
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), "agent");
    let given = accounts.create_token_request("agent", &PostParams::default(), &serde_json::from_value(request)?).await?;
    Ok(given.status.context("a token is given")?.token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_valid_any_more_is_told_and_a_renewed_one_is_read() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client(), "agent");
    accounts.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "agent"}}))?).await?;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": "agent"}]});
    world.create("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", &binding).await?;
    let file = world.plane().folder().join("agent.token");
    std::fs::write(&file, token(&world, "first").await?)?;
    let by_token = world.another_with(&Given { token_file: Some(file.clone()), ..Given::default() }).await?;
    let agent = Agent::start(by_token.kube.clone()).await?;
    agent.want(5, vec![intent(1, 0, Role::Run)]).await?;
    agent.until_told(1, Observed::Running, SOON).await?;

    // As when it has expired.
    Api::<Secret>::namespaced(world.client(), "agent").delete("first", &DeleteParams::default()).await?;
    until("the token is not valid any more", SOON, || async {
        let answer = Api::<Namespace>::all(by_token.agents_client()).get("default").await;
        ensure!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 401), "{answer:?}");
        Ok(())
    })
    .await?;
    let maps: Api<ConfigMap> = Api::namespaced(world.client(), &namespace(1));
    maps.delete("settings", &DeleteParams::default()).await?;
    let trouble = agent.until_trouble(1, "the API server does not accept the agent's token or certificate", SOON).await?;
    assert!(trouble.why.contains("read anew from its file"), "{trouble:?}");
    std::fs::write(&file, token(&world, "second").await?)?;
    agent.until_told(1, Observed::Running, 3 * SOON).await?;
    maps.get("settings").await?;
    // Its watches, too, go on.
    maps.delete("settings", &DeleteParams::default()).await?;
    until("it is put right", SOON, || async { Ok(maps.get("settings").await.map(drop)?) }).await?;
    Ok(())
}

/// Puts another namespace in the place of one, of the same name and with the same labels; its UID.
async fn swap(client: &Client, name: &str) -> Result<Option<String>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete(name, &DeleteParams::default()).await?;
    // As the controllers do when nothing is left in it.
    let mut going = namespaces.get(name).await?;
    going.spec = None;
    let path = format!("/api/v1/namespaces/{name}/finalize");
    let finalize = Request::put(path).header("content-type", "application/json").body(serde_json::to_vec(&going)?)?;
    client.request::<Value>(finalize).await?;
    let new = json!({"metadata": {"name": name, "labels": going.metadata.labels}});
    let new: Namespace = namespaces.create(&PostParams::default(), &serde_json::from_value(new)?).await?;
    ensure!(new.metadata.uid != going.metadata.uid, "it is the one before");
    Ok(new.metadata.uid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_not_as_it_was_read_any_more_is_not_deleted() -> Result<()> {
    const HOME: &str = "swapped";
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let mut job = tenant(40, HOME, roadstead_core::intent::Role::Run);
    world.change(&mut job, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
    world.settles(&job, &Condition::Running).await?;
    job.intent.role = roadstead_core::intent::Role::Absent;
    let namespaces: Api<Namespace> = Api::all(world.client());
    let epoch = |epoch: &str| Patch::Merge(json!({"metadata": {"labels": {"roadstead.dev/epoch": epoch}}}));
    let path = format!("/api/v1/namespaces/{HOME}");
    let (of, go) = (path.clone(), Arc::new(Notify::new()));
    world.faults.add(move |request| request.method == "DELETE" && request.uri.path() == of, Fault::Held(go.clone()));
    for is_swapped in [false, true] {
        let deletes = world.faults.count("DELETE", &path);
        let (kube, job) = (world.kube.clone(), job.clone());
        let deleting = tokio::spawn(async move { kube.act(&job, &Action::Delete).await });
        until("it has been read and is to be deleted", SOON, || async {
            ensure!(world.faults.count("DELETE", &path) > deletes, "it is not");
            Ok(())
        })
        .await?;
        let uid = if is_swapped {
            swap(&world.client(), HOME).await?
        } else {
            // Another agent has claimed it for a newer intent.
            namespaces.patch(HOME, &PatchParams::default(), &epoch("0.4")).await?.metadata.uid
        };
        go.notify_one();
        let deleted = deleting.await?;
        assert!(matches!(&deleted, Err(Failed::Later { why, .. }) if why.contains("it changed meanwhile")), "{deleted:?}");
        let there = namespaces.get(HOME).await?.metadata;
        assert_eq!((there.uid, there.deletion_timestamp), (uid, None));
        namespaces.patch(HOME, &PatchParams::default(), &epoch("0.3")).await?;
    }
    Ok(())
}
