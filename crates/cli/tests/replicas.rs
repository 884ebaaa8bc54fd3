//! `admin` against three real replicas: what is for the leader finds the leader.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use roadstead_cli::client::Client;
use roadstead_cli::pki::Role;
use roadstead_cli::trial::{Trial, declare, replicas, until_voters};

/// The binary with a trial's context.
fn roadstead(trial: &Trial, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    let config = trial.folder.join("config.yaml");
    command.args(arguments).env("ROADSTEAD_CONFIG", config).env("NO_COLOR", "1").env_remove("ROADSTEAD_SERVER");
    command
}

async fn run(trial: &Trial, arguments: &[&str], code: i32) -> (String, String) {
    let mut command = roadstead(trial, arguments);
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("run");
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert_eq!(status.code(), Some(code), "`{arguments:?}`\n{out}\n{err}");
    (out, err)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_the_leader_goes_to_the_leader_whichever_replica_is_asked() {
    let folder = tempfile::tempdir().expect("folder");
    let mut trial = Trial::prepare(folder.path(), 3).expect("a trial");
    let mut running = replicas::start_all_here(&trial).await.expect("replicas");
    let client = trial.client(Role::Admin, "me").expect("a client");
    until_voters(&client, 3).await.expect("a leader");
    trial.write_config().expect("a context");
    // Clusters without agents: after a restore they keep everything fenced.
    declare(&client, &trial.fleet_documents(2).expect("the examples")).await.expect("declared");

    let addresses: Vec<String> = trial.plans.iter().map(|plan| plan.info.client_address.clone()).collect();
    for address in &addresses {
        let (out, _) = run(&trial, &["admin", "status", "--server", address], 0).await;
        let asked = out.lines().find_map(|line| line.strip_prefix("asked        ")).and_then(|line| line.split(' ').next()).expect("who");
        let leader = out.lines().find(|line| line.contains(" leader ")).expect("a leader");
        assert!(leader.starts_with(asked) && !leader.contains(" - "), "the leader itself answers, and knows what it has:\n{out}");
    }
    let backup = trial.folder.join("fleet.backup").to_string_lossy().into_owned();
    run(&trial, &["admin", "backup", "-o", &backup], 0).await;
    for address in &addresses {
        let (out, _) = run(&trial, &["admin", "restore", &backup, "--i-know", "--server", address], 0).await;
        assert!(out.contains("0 tenants restored"), "{out}");
    }
    a_fence_is_told_of_at_once(&trial);

    let gone = running.remove(0);
    gone.shutdown().await;
    let (_, err) = run(&trial, &["admin", "status", "--every-replica"], 5).await;
    assert!(err.contains(&format!("{} did not answer", addresses[0])), "{err}");
    assert!(!err.contains(&addresses[1]) && !err.contains(&addresses[2]), "only who did not answer is named: {err}");
    let gone = running.remove(0);
    gone.shutdown().await;
    until_nobody_leads(&client).await;
    let (out, err) = run(&trial, &["admin", "status"], 5).await;
    assert!(out.contains(&addresses[2]) && err.contains("no leader: "), "{out}\n{err}");
    // Within a time in which it does not say so itself, and in one in which it does.
    for (timeout, says) in [("2s", "answers, but knows no leader"), ("8s", "the placement service has no leader at the moment")] {
        let (_, err) = run(&trial, &["get", "clusters", "--timeout", timeout], 5).await;
        let lines = format!("\n{err}");
        let error = lines.split_once("\nerror: ").expect("an error").1;
        assert!(error.starts_with("list clusters: no leader\n"), "{err}");
        assert!(error.contains(&format!("{}: {says}", addresses[2])), "{err}");
        assert!(error.contains("next: see that a majority of the members runs"), "{err}");
    }
    for server in running {
        server.shutdown().await;
    }
}

/// A leader that has lost its majority believes in itself until an election's time has passed.
async fn until_nobody_leads(client: &Client) {
    let begun = Instant::now();
    while client.status().await.expect("one is left").members.iter().any(|member| member.leader) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it still leads, without a majority");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn a_fence_is_told_of_at_once(trial: &Trial) {
    let place = ["place", "acme", "--owner", "acme", "--class", "shop-small@1.0.0", "--timeout", "5m"];
    let mut waiting = roadstead(trial, &place).stderr(Stdio::piped()).spawn().expect("run");
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
    waiting.kill().expect("it still waits");
    waiting.wait().expect("ended");
    assert!(line.starts_with("waiting at most 300 s for clusters' agents: "), "{line}");
}
