//! An agent's account finds out, with pods of its own on a real node, whether network policies hold. The node's bridge enforces none; where
//! one is to be enforced, this test plays the network plugin: by rules in the pods' own network namespaces, for the ports that the real
//! policies leave out.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use roadstead_agent::probe::{DIALER, LISTENER, NO_EGRESS_PORT, NO_INGRESS_PORT, OPEN_PORT, Probe};
use roadstead_core::observed::Upheld;
use roadstead_tests::group::binary;
use roadstead_tests::process::until;
use roadstead_tests::testbed::WholeCluster;
use serde_json::json;

const SYSTEM: &str = "roadstead-system";
const IMAGE: &str = "testbed.local/roadstead:1";
/// How long a pod, or the policy, may take.
const SOON: Duration = Duration::from_secs(90);
const CLASS: &str = "\
apiVersion: roadstead.dev/v1
kind: Class
metadata: {name: empty}
spec:
  version: 1.0.0
  requests: {cpu: 1, memory: 1Gi, pods: 1, largestPod: {cpu: 1, memory: 1Gi}}
  retain: 1d
";

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn roadstead(arguments: &[&str]) -> Result<()> {
    let output = Command::new(binary()?).args(arguments).output().context("failed to run roadstead")?;
    ensure!(output.status.success(), "roadstead {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A cluster that has joined, with the account's client; the agent itself is not started.
async fn joined() -> Result<(WholeCluster, Client)> {
    let cluster = WholeCluster::start("probed").await?;
    let program = binary()?;
    cluster.import_program(IMAGE, &program)?;
    let folder = tempfile::tempdir()?;
    let (class, pki) = (folder.path().join("class.yaml"), folder.path().join("pki"));
    std::fs::write(&class, CLASS)?;
    roadstead(&["pki", "init", "--dir", &path(&pki)])?;
    let kubeconfig = path(cluster.plane().kubeconfig());
    let server = ["--server", "r1.example.com:7420", "--image", IMAGE];
    let files = ["-f", &path(&class), "--pki", &path(&pki), "--apply", "--kubeconfig", &kubeconfig];
    roadstead(&[["join", "eu-1"].as_slice(), &server, &files].concat())?;
    let admin = cluster.plane().client().await?;
    Api::<Deployment>::namespaced(admin, SYSTEM).delete("roadstead-agent", &DeleteParams::default()).await?;
    let account = cluster.plane().client_for_account(SYSTEM, "roadstead-agent").await?;
    Ok((cluster, account))
}

/// Ports that a policy lets through.
async fn allowed(client: &Client, name: &str) -> Result<Vec<u16>> {
    let policy = Api::<NetworkPolicy>::namespaced(client.clone(), SYSTEM).get(name).await?.spec.context("it has a spec")?;
    let incoming = policy.ingress.into_iter().flatten().flat_map(|rule| rule.ports.unwrap_or_default());
    let outgoing = policy.egress.into_iter().flatten().flat_map(|rule| rule.ports.unwrap_or_default());
    let number = |port: IntOrString| if let IntOrString::Int(port) = port { u16::try_from(port).ok() } else { None };
    Ok(incoming.chain(outgoing).filter_map(|port| number(port.port?)).collect())
}

/// Keeps what a pod's policy does not let through from getting through, as soon as the pod has an address.
async fn enforce(cluster: &WholeCluster, client: &Client, name: &str, incoming: bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let address = until(&format!("{name} has an address"), SOON, || async {
        let pod = pods.get_opt(name).await?.context("it is not there")?;
        pod.status.and_then(|status| status.pod_ip).context("it has none")
    })
    .await?;
    let network = format!("--net={}", cluster.network_of(&address)?.display());
    let rule = |arguments: &[&str]| {
        let output =
            Command::new("nsenter").arg(&network).args(["ip", "rule"]).args(arguments).output().context("failed to run nsenter")?;
        ensure!(output.status.success(), "ip rule {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // What is for this host is looked up first of all, unless it is told otherwise.
    rule(&["add", "pref", "100", "lookup", "local"])?;
    rule(&["del", "pref", "0"])?;
    let open = allowed(client, name).await?;
    for port in [OPEN_PORT, NO_INGRESS_PORT, NO_EGRESS_PORT].into_iter().filter(|port| !open.contains(port)) {
        let port = port.to_string();
        let from: &[&str] = if incoming { &["iif", "eth0"] } else { &[] };
        rule(&[["add", "pref", "1"].as_slice(), from, &["ipproto", "tcp", "dport", &port, "prohibit"]].concat())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_hold_are_told_from_those_that_nothing_enforces() -> Result<()> {
    let (cluster, account) = joined().await?;
    let admin = cluster.plane().client().await?;
    let probe = Probe::new(account.clone(), SYSTEM, IMAGE);

    let found = probe.find_out().await;
    assert_eq!((found.ingress, found.egress, found.why.as_str()), (Upheld::No, Upheld::No, ""), "a bridge enforces nothing");

    let (found, listener, dialer) =
        tokio::join!(probe.find_out(), enforce(&cluster, &admin, LISTENER, true), enforce(&cluster, &admin, DIALER, false));
    listener.context("what comes in")?;
    dialer.context("what goes out")?;
    assert_eq!((found.ingress, found.egress, found.why.as_str()), (Upheld::Yes, Upheld::Yes, ""));

    let left = Api::<Pod>::namespaced(admin.clone(), SYSTEM).list(&ListParams::default().labels("roadstead.dev/probe")).await?;
    assert_eq!(left.items.len(), 0, "nothing is left of a try");

    let found = Probe::new(account.clone(), SYSTEM, "testbed.local/unknown:1").find_out().await;
    assert_eq!((found.ingress, found.egress), (Upheld::Unknown, Upheld::Unknown));
    assert!(found.why.contains("ErrImagePull") || found.why.contains("ImagePullBackOff"), "{}", found.why);

    the_account_makes_no_other_pods(&account).await
}

/// The right to make the two pods is no right to read the Secrets beside them, or to make others.
async fn the_account_makes_no_other_pods(account: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(account.clone(), SYSTEM);
    let spec = |more: serde_json::Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": LISTENER}, "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": IMAGE, "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        }});
        for (at, value) in more.as_object().into_iter().flatten() {
            let (place, field) = at.rsplit_once('/').expect("it is a path");
            pod.pointer_mut(place).expect("it is there")[field] = value.clone();
        }
        pod
    };
    let secret = json!([{"secretRef": {"name": "roadstead-agent-identity"}}]);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for (what, pod) in [
        ("another name", spec(json!({"/metadata/name": "mine"}))),
        ("an account", spec(json!({"/spec/automountServiceAccountToken": true}))),
        ("a secret", spec(json!({"/spec/containers/0/envFrom": secret}))),
    ] {
        match pods.create(&dry, &serde_json::from_value(pod)?).await {
            Err(kube::Error::Api(status)) if status.message.contains("no tenant's") => {}
            other => bail!("{what}: {other:?}"),
        }
    }
    pods.create(&dry, &serde_json::from_value(spec(json!({})))?).await.map(drop).context("what a try needs is allowed")
}
