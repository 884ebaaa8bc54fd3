//! Whole clusters on this machine: what other tests take for granted of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Client};
use roadstead_tests::process::{Process, until};
use roadstead_tests::testbed::{GUEST_IMAGE, STORAGE_CLASS, WholeCluster};
use serde_json::json;
use tonic::codegen::http::Request;

/// How long a pod may take to run, or to be gone.
const SOON: Duration = Duration::from_secs(90);

/// A pod that keeps a log on a volume of its own; waits until it answers.
async fn run_pod(client: &Client, name: &str) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": STORAGE_CLASS, "resources": {"requests": {"storage": "16Mi"}},
        },
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{
                "name": "guest", "image": GUEST_IMAGE, "imagePullPolicy": "Never", "args": ["serve", ":8080", "/data/log"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    });
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(client.clone());
    claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    until("the pod is ready", SOON, || async {
        let status = pods.get(name).await?.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ensure!(ready, "it is not: {status:?}");
        Ok(())
    })
    .await
}

async fn end_pod(client: &Client, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.delete(name, &DeleteParams::default()).await?;
    until("the pod is gone", SOON, || async {
        ensure!(pods.get_opt(name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await
}

/// Has a pod append to its log, and reads the log from it.
async fn tell(client: &Client, pod: &str, text: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/");
    client.request_text(Request::post(&path).body(text.as_bytes().to_vec())?).await?;
    Ok(client.request_text(Request::get(&path).body(Vec::new())?).await?)
}

async fn cluster_with_a_pod_that_comes_and_goes(name: &str) -> Result<WholeCluster> {
    let started = Instant::now();
    let cluster = WholeCluster::start(name).await?;
    println!("{name}: its node is ready after {:.1} s", started.elapsed().as_secs_f64());
    let volume = cluster.add_volume("one", 16).await?;
    let client = cluster.plane().client().await?;
    let asked = Instant::now();
    run_pod(&client, "keeper").await?;
    println!("{name}: a pod with a volume is ready after {:.1} s", asked.elapsed().as_secs_f64());
    let line = format!("hello {name}\n");
    assert_eq!(tell(&client, "keeper", &line).await?, format!("started\n{line}"));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    assert_eq!(pods.logs("keeper", &LogParams::default()).await?, "serving :8080\n");
    let asked = Instant::now();
    end_pod(&client, "keeper").await?;
    println!("{name}: it is gone after {:.1} s", asked.elapsed().as_secs_f64());
    assert_eq!(std::fs::read_to_string(volume.join("log"))?, format!("started\n{line}stopped\n"));
    Ok(cluster)
}

#[tokio::test]
async fn a_pod_and_its_volume_live_and_end_in_each_of_two_clusters() -> Result<()> {
    let (red, blue) = tokio::try_join!(cluster_with_a_pod_that_comes_and_goes("red"), cluster_with_a_pod_that_comes_and_goes("blue"))?;
    assert_ne!(red.folder(), blue.folder());
    let folder = red.folder();
    // A pod that runs when its cluster is dropped ends with it.
    red.add_volume("two", 16).await?;
    run_pod(&red.plane().client().await?, "left").await?;
    assert!(is_used(&folder)?);
    drop(red);
    assert!(!is_used(&folder)? && !folder.exists());
    Ok(())
}

#[tokio::test]
async fn what_a_killed_test_left_is_removed_by_the_next() -> Result<()> {
    // The test starts itself: with a file named, it is the one to be killed.
    const FILE: &str = "ROADSTEAD_TEST_CLUSTER";
    if let Some(file) = std::env::var_os(FILE) {
        let cluster = WholeCluster::start("killed").await?;
        cluster.add_volume("one", 16).await?;
        run_pod(&cluster.plane().client().await?, "left").await?;
        let partial = Path::new(&file).with_extension("partial");
        std::fs::write(&partial, format!("{}\n{}", cluster.folder().display(), cluster.plane().folder().display()))?;
        std::fs::rename(partial, file)?;
        return std::future::pending().await;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cluster");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--exact", "what_a_killed_test_left_is_removed_by_the_next"]).env(FILE, &file);
    let mut killed = Process::start("the killed test", &mut command, &folder.path().join("log"))?;
    let told = until("a pod runs", Duration::from_secs(240), || async { Ok(std::fs::read_to_string(&file)?) }).await?;
    let (left, plane) = told.split_once('\n').context("it names two folders")?;
    killed.kill()?;
    assert!(is_used(Path::new(left))?);
    let next = WholeCluster::start("next").await?;
    // The next may have got the same folder, but never what was in it.
    assert!(!Path::new(left).join("volumes").exists());
    drop(next);
    assert!(!is_used(Path::new(left))?);
    until("its control plane's folder is gone", SOON, || async {
        ensure!(!Path::new(plane).exists(), "{plane} is there");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Whether anything is mounted below a folder, or a process names it.
fn is_used(folder: &Path) -> Result<bool> {
    let within = format!("{}/", folder.display());
    let mounted = std::fs::read_to_string("/proc/self/mountinfo")?.contains(&within);
    let named = std::fs::read_dir("/proc")?.flatten().any(|process| {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&within)
    });
    Ok(mounted || named)
}
