//! The files in deploy/ are what they say: they parse, hang together, and use flags and metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(deploy().join(path)).with_context(|| format!("failed to read deploy/{path}"))
}

fn documents(path: &str) -> Result<Vec<Value>> {
    text(path)?
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).with_context(|| format!("deploy/{path} is no YAML")))
        .collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind).with_context(|| format!("there is no {kind}"))
}

/// The flags that a text uses, such as `--data`.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c.is_whitespace() || "\"'=[],`".contains(c));
    let flags = words.filter(|word| word.starts_with("--") && word.len() > 2);
    flags.map(str::to_owned).collect()
}

fn help(verbs: &[&str]) -> Result<String> {
    let output = Command::new(roadstead_tests::group::binary()?).args(verbs).arg("--help").output().context("failed to ask for help")?;
    ensure!(output.status.success(), "roadstead {verbs:?} --help fails");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn kubernetes_objects_select_the_pods_that_the_set_makes() -> Result<()> {
    let documents = documents("kubernetes/roadstead.yaml")?;
    let set = of_kind(&documents, "StatefulSet")?;
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    ensure!(labels.is_object(), "the pods carry no labels");
    ensure!(&set["spec"]["selector"]["matchLabels"] == labels, "the set does not select its own pods");
    let budget = of_kind(&documents, "PodDisruptionBudget")?;
    ensure!(&budget["spec"]["selector"]["matchLabels"] == labels, "the disruption budget selects other pods");
    let services: Vec<&Value> = documents.iter().filter(|document| document["kind"] == "Service").collect();
    ensure!(services.iter().all(|service| &service["spec"]["selector"] == labels), "a service selects other pods");
    let headless = services.iter().find(|service| service["metadata"]["name"] == set["spec"]["serviceName"]);
    ensure!(headless.context("the set's service is missing")?["spec"]["clusterIP"] == "None", "the set's service is not headless");
    Ok(())
}

#[test]
fn kubernetes_pods_keep_apart_and_run_confined() -> Result<()> {
    let documents = documents("kubernetes/roadstead.yaml")?;
    let pod = &of_kind(&documents, "StatefulSet")?["spec"]["template"]["spec"];
    let apart = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    ensure!(apart["topologyKey"] == "kubernetes.io/hostname", "two replicas may share a node");
    ensure!(pod["securityContext"]["runAsNonRoot"] == true, "pods may run as root");
    for container in pod["containers"].as_array().into_iter().chain(pod["initContainers"].as_array()).flatten() {
        let context = &container["securityContext"];
        ensure!(context["readOnlyRootFilesystem"] == true, "{} may write its root", container["name"]);
        ensure!(context["allowPrivilegeEscalation"] == false, "{} may gain privileges", container["name"]);
        ensure!(context["capabilities"]["drop"][0] == "ALL", "{} keeps capabilities", container["name"]);
    }
    Ok(())
}

#[test]
fn every_flag_in_deploy_exists() -> Result<()> {
    let set = documents("kubernetes/roadstead.yaml")?;
    let container = &of_kind(&set, "StatefulSet")?["spec"]["template"]["spec"]["containers"][0];
    let arguments: Vec<&str> =
        container["args"].as_array().context("the container has no arguments")?.iter().filter_map(Value::as_str).collect();
    let unit = text("systemd/roadstead@.service")?;
    let start = unit.split_once("ExecStart=").and_then(|(_, rest)| rest.split_once("\n#")).context("the unit starts nothing")?.0;
    let known = flags(&help(&["server", "run"])?);
    for flag in flags(&arguments.join(" ")).union(&flags(start)) {
        ensure!(known.contains(flag), "`roadstead server run` has no {flag}");
    }
    let export = documents("kubernetes/cluster-profiles.yaml")?;
    let export = &of_kind(&export, "Deployment")?["spec"]["template"]["spec"]["containers"][0]["args"];
    let known = flags(&help(&["export", "cluster-profiles"])?);
    for argument in export.as_array().context("the export has no arguments")?.iter().filter_map(Value::as_str) {
        let flag = argument.split('=').next().unwrap_or_default();
        ensure!(!flag.starts_with("--") || known.contains(flag), "`roadstead export cluster-profiles` has no {flag}");
    }
    let begin = &of_kind(&set, "StatefulSet")?["spec"]["template"]["spec"]["initContainers"][0]["args"][0];
    let known: BTreeSet<String> = flags(&help(&["server", "init"])?).union(&flags(&help(&["server", "join"])?)).cloned().collect();
    for flag in flags(begin.as_str().context("the first container runs nothing")?) {
        ensure!(known.contains(&flag), "`roadstead server init` and `join` have no {flag}");
    }
    Ok(())
}

/// What `roadstead join` prints for an example; `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn the_agents_manifests_are_those_that_join_prints() -> Result<()> {
    let classes = deploy().join("../examples/classes.yaml");
    let output = Command::new(roadstead_tests::group::binary()?)
        .args(["join", "eu-1", "--certificate-secret", "agent-pki", "--storage", "fast=gp3", "--ingress", "nginx=ingress-nginx"])
        .args(["--server", "r1.example.com:7420,r2.example.com:7420,r3.example.com:7420", "-f"])
        .arg(&classes)
        .output()
        .context("failed to run join")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let head = "# What `roadstead join` prints for a cluster eu-1 and the classes of examples/; see ../../docs/joining.md.\n";
    let printed = format!("{head}{}", String::from_utf8(output.stdout)?);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(deploy().join("kubernetes/agent.yaml"), &printed)?;
    }
    ensure!(
        text("kubernetes/agent.yaml")? == printed,
        "deploy/kubernetes/agent.yaml is not what join prints: UPDATE_GOLDEN=1 writes it anew"
    );
    Ok(())
}

#[tokio::test]
async fn every_metric_in_the_alerts_exists() -> Result<()> {
    let alerts: Value = documents("prometheus/alerts.yaml")?.remove(0);
    documents("prometheus/scrape.yaml")?;
    let group = roadstead_tests::group::Group::start(1).await?;
    let metrics = roadstead_tests::http::get(group.replica(1).probes, "/metrics").await?;
    let rules = alerts["groups"][0]["rules"].as_array().context("there are no rules")?;
    ensure!(!rules.is_empty(), "there are no rules");
    for rule in rules {
        let expression = rule["expr"].as_str().context("a rule has no expression")?;
        for word in expression.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.starts_with("roadstead_")) {
            let found = metrics.lines().any(|line| line.starts_with(word) && line[word.len()..].starts_with([' ', '{']));
            ensure!(found, "no replica has a metric {word}");
        }
    }
    Ok(())
}
