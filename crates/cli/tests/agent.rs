//! An agent that is started with wrong flags says which, and ends: what no waiting mends is not waited for.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// How long it may take to say so.
const SOON: Duration = Duration::from_secs(30);
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Runs `roadstead agent` until it ends: its exit code, and what it said.
async fn agent(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.args(["agent", "--server", "r1.example.com:7420"]).args(arguments).current_dir(folder).kill_on_drop(true);
    command.env("HOME", folder).env("ROADSTEAD_CONFIG", folder.join("none")).stdin(Stdio::null());
    for given in [
        "KUBECONFIG",
        "ROADSTEAD_CA",
        "ROADSTEAD_CERT",
        "ROADSTEAD_KEY",
        "ROADSTEAD_SERVER",
        "ROADSTEAD_CONTEXT",
        "KUBERNETES_SERVICE_HOST",
    ] {
        command.env_remove(given);
    }
    let ended = tokio::time::timeout(SOON, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{arguments:?} is waited for")).expect("it starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// Of a cluster that nobody can reach.
const KUBECONFIG: &str = "apiVersion: v1
kind: Config
clusters: [{name: other, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: somebody, user: {token: t}}]
contexts: [{name: other, context: {cluster: other, user: somebody}}]
current-context: other
";

#[tokio::test]
async fn outside_of_a_pod_no_kubeconfig_is_used_that_was_not_named() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join(".kube")).expect("a folder");
    for (name, text) in [("token", "t"), ("ca.crt", PEM), (".kube/config", KUBECONFIG)] {
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    let beside = ["--cluster", "eu-1", "--identity-dir", "identity", "--token-file", "token", "--ca", "ca.crt"];
    let (code, said) = agent(folder.path(), &beside).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("without --kubeconfig: no way to the cluster") && said.contains("give --kubeconfig FILE"), "{said}");
}

#[tokio::test]
async fn what_no_waiting_mends_ends_the_agent_with_the_name_of_the_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("token", "t"), ("ca.crt", PEM), ("no.crt", "nothing"), ("kubeconfig", "nothing: [")] {
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    let secret = ["--cluster", "eu-1", "--identity-secret", "own"];
    let beside = ["--cluster", "eu-1", "--identity-dir", "identity"];
    let mounted = ["--token-file", "nowhere/token", "--ca", "nowhere/ca.crt"];
    let good = [&beside[..], &["--token-file", "token", "--ca", "ca.crt"]].concat();
    let cases: [(Vec<&str>, &str); 12] = [
        ([&secret[..], &["--token-file", "token"]].concat(), "--ca is missing"),
        ([&secret[..], &mounted].concat(), "--token-file: there is no folder nowhere"),
        ([&secret[..], &["--token-file", "token", "--ca", "nowhere/ca.crt"]].concat(), "--ca: there is no folder nowhere"),
        (beside.to_vec(), "--token-file is missing"),
        ([&beside[..], &["--token-file", "token"]].concat(), "--ca is missing"),
        ([&beside[..], &mounted].concat(), "--token-file: cannot read nowhere/token"),
        ([&beside[..], &["--token-file", "token", "--ca", "nowhere.crt"]].concat(), "--ca: cannot read nowhere.crt"),
        ([&beside[..], &["--token-file", "token", "--ca", "no.crt"]].concat(), "--ca: there is no certificate (PEM) in no.crt"),
        (vec!["--cert", "nowhere.crt", "--key", "key", "--ca", "ca.crt"], "--cert: cannot read nowhere.crt"),
        (vec!["--cert", "ca.crt", "--key", "nowhere.key", "--ca", "ca.crt"], "--key: cannot read nowhere.key"),
        ([&good[..], &["--kubeconfig", "nowhere.yaml"]].concat(), "--kubeconfig nowhere.yaml: "),
        ([&good[..], &["--kubeconfig", "kubeconfig"]].concat(), "--kubeconfig kubeconfig: "),
    ];
    for (arguments, says) in cases {
        let (code, said) = agent(folder.path(), &arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?} does not say {says:?}: {said}");
    }
}
