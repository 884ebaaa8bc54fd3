//! The testbed itself: what other tests take for granted of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Pod, PodSpec, ResourceRequirements, Secret, ServiceAccount, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{ControlPlane, Kwok, NodeShape, Options};

/// How long a controller may take to do one thing.
const SOON: Duration = Duration::from_secs(60);

fn named<T>(name: &str, make: impl FnOnce(ObjectMeta) -> T) -> T {
    make(ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() })
}

fn namespace(name: &str) -> Namespace {
    named(name, |metadata| Namespace { metadata, ..Namespace::default() })
}

fn config_map(name: &str) -> ConfigMap {
    named(name, |metadata| ConfigMap { metadata, ..ConfigMap::default() })
}

#[tokio::test]
async fn a_control_plane_serves_and_nothing_of_it_stays() -> Result<()> {
    let started = Instant::now();
    let plane = ControlPlane::start(Options { scheduler: true, ..Options::default() }).await?;
    println!("a control plane is ready after {:.1} s", started.elapsed().as_secs_f64());
    let version = plane.client().await?.apiserver_version().await?;
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "34"));
    let (ids, folder, address) = (plane.ids(), plane.folder().to_owned(), plane.address());
    assert_eq!(ids.len(), 4);
    drop(plane);
    assert!(!folder.exists());
    assert!(!ids.iter().any(|&id| runs(id)));
    assert!(std::net::TcpStream::connect(address).is_err());
    Ok(())
}

#[tokio::test]
async fn what_a_killed_test_started_ends_with_it_and_its_folder_soon_after() -> Result<()> {
    // The test starts itself: with a file named, it is the one to be killed.
    const FILE: &str = "ROADSTEAD_TEST_IDS";
    if let Some(file) = std::env::var_os(FILE) {
        // On a thread that ends: what it started must not end with it.
        let plane = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ControlPlane::start(Options { controllers: false, ..Options::default() }))
        });
        let plane = plane.join().expect("the thread does not panic")?;
        plane.client().await?.apiserver_version().await?;
        let ids: Vec<String> = plane.ids().iter().map(u32::to_string).collect();
        let partial = std::path::Path::new(&file).with_extension("partial");
        std::fs::write(&partial, format!("{}\n{}", plane.folder().display(), ids.join(" ")))?;
        std::fs::rename(partial, file)?;
        return std::future::pending().await;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ids");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--exact", "what_a_killed_test_started_ends_with_it_and_its_folder_soon_after"]).env(FILE, &file);
    let mut killed = Process::start("the killed test", &mut command, &folder.path().join("log"))?;
    let told = until("it has started a control plane", Duration::from_secs(120), || async { Ok(std::fs::read_to_string(&file)?) }).await?;
    let (its_folder, ids) = told.split_once('\n').context("it names a folder and processes")?;
    let ids = ids.split(' ').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    assert!(!ids.is_empty() && ids.iter().all(|&id| runs(id)));
    killed.kill()?;
    until("all are gone", SOON, || async {
        ensure!(!ids.iter().any(|&id| runs(id)), "some run");
        Ok(())
    })
    .await?;
    // Its folder goes when the next one starts.
    drop(ControlPlane::start(Options { controllers: false, ..Options::default() }).await?);
    gone(its_folder).await?;
    Ok(())
}

/// Waits until a folder is gone: another test that starts at the same time may be about to remove it.
async fn gone(folder: &str) -> Result<()> {
    until("a folder is gone", SOON, || async {
        ensure!(!std::path::Path::new(folder).exists(), "{folder} is there");
        Ok(())
    })
    .await
}

/// Whether a process is there and is not only waited for.
fn runs(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[tokio::test]
async fn a_namespace_gets_its_account_and_goes_with_all_in_it() -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    let client = plane.client().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace("red")).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "red");
    until("the account is made", SOON, || async { accounts.get("default").await.context("not yet") }).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "red");
    maps.create(&PostParams::default(), &config_map("kept")).await?;
    namespaces.delete("red", &DeleteParams::default()).await?;
    until("the namespace is gone", SOON, || async {
        ensure!(namespaces.get_opt("red").await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    assert!(maps.get_opt("kept").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_restarted_api_server_has_what_was_written() -> Result<()> {
    let mut plane = ControlPlane::start(Options { controllers: false, ..Options::default() }).await?;
    let client = plane.client().await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let written = maps.create(&PostParams::default(), &config_map("kept")).await?;
    plane.restart_api_server().await?;
    assert_eq!(maps.get("kept").await?.metadata.uid, written.metadata.uid);
    Ok(())
}

#[tokio::test]
async fn a_paused_api_server_answers_nobody_until_it_goes_on() -> Result<()> {
    let mut plane = ControlPlane::start(Options { controllers: false, ..Options::default() }).await?;
    let maps: Api<ConfigMap> = Api::namespaced(plane.client().await?, "default");
    maps.list(&Default::default()).await?;
    plane.pause()?;
    let (how, late) = (PostParams::default(), config_map("late"));
    let mut asked = Box::pin(maps.create(&how, &late));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut asked).await.is_err());
    plane.resume()?;
    assert_eq!(asked.await?.metadata.name.as_deref(), Some("late"));
    Ok(())
}

#[tokio::test]
async fn users_and_accounts_have_only_their_own_rights() -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    let forbidden = |result: kube::Result<Option<Secret>>| matches!(result, Err(kube::Error::Api(status)) if status.code == 403);
    let nobody: Api<Secret> = Api::namespaced(plane.client_as("jane", &["readers", "writers"]).await?, "default");
    assert!(forbidden(nobody.get_opt("any").await));
    let master: Api<Secret> = Api::namespaced(plane.client_as("root", &["readers", "system:masters"]).await?, "default");
    assert!(master.get_opt("any").await?.is_none());
    let account: Api<Secret> = Api::namespaced(plane.client_for_account("default", "default").await?, "default");
    assert!(forbidden(account.get_opt("any").await));
    Ok(())
}

#[tokio::test]
async fn fifty_pods_run_on_five_played_nodes_where_they_may() -> Result<()> {
    let plane = ControlPlane::start(Options { scheduler: true, ..Options::default() }).await?;
    let kwok = Kwok::start(&plane).await?;
    kwok.add_nodes("small", 5, &NodeShape::of(4, 16)).await?;
    let taint = Taint { key: "reserved".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    kwok.add_nodes("reserved", 1, &NodeShape { taints: vec![taint], ..NodeShape::of(64, 256) }).await?;
    let pods: Api<Pod> = Api::namespaced(plane.client().await?, "default");
    for number in 0..50 {
        let requests = [("cpu".to_owned(), Quantity("250m".to_owned()))];
        let container = Container {
            name: "any".to_owned(),
            image: Some("any".to_owned()),
            resources: Some(ResourceRequirements { requests: Some(requests.into()), ..ResourceRequirements::default() }),
            ..Container::default()
        };
        let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
        let pod = named(&format!("pod-{number}"), |metadata| Pod { metadata, spec: Some(spec), ..Pod::default() });
        pods.create(&PostParams::default(), &pod).await?;
    }
    let running = until("the pods run", SOON, || async {
        let all = pods.list(&ListParams::default()).await?.items;
        let running = all.iter().filter(|pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")));
        let running = running.count();
        ensure!(running == 50, "{running} of {} run", all.len());
        Ok(all)
    })
    .await?;
    let mut per_node = BTreeMap::<String, usize>::new();
    for pod in running {
        *per_node.entry(pod.spec.and_then(|spec| spec.node_name).context("a running pod has a node")?).or_default() += 1;
    }
    // 4 cores hold 16 pods of 250m.
    assert!(per_node.iter().all(|(node, &count)| node.starts_with("small-") && count <= 16), "{per_node:?}");
    Ok(())
}
