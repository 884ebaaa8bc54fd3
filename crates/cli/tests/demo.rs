//! The demo: what it shows is true, and it leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.args(["demo", "--tenants", "600"]).env("TMPDIR", folder).stdin(Stdio::null());
    command
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("folder").next().is_none()
}

/// Processes whose command line names the folder: replicas that were left behind.
fn left_behind(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("a Linux system").filter_map(Result::ok);
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&folder)).collect()
}

/// Starts a demo and reads what it says until a line holds `text`.
fn until_says(folder: &Path, text: &str) -> Child {
    let mut child = demo(folder).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start");
    let said = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok).any(|line| line.contains(text));
    assert!(said, "the demo ended before it said {text:?}");
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

#[test]
fn all_that_the_demo_claims_is_true_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let output = demo(folder.path()).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for claim in [
        "kill -9",
        "all 600 tenants were acknowledged",
        "saw every tenant come, once",
        "ms at most without an acknowledgement",
        "All of it is true",
    ] {
        assert!(text.contains(claim), "it does not say {claim:?}:\n{text}");
    }
    assert!(!text.contains("FALSE"));
    assert!(is_empty(folder.path()) && left_behind(folder.path()).is_empty());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for name in ["INT", "TERM", "HUP"] {
        let folder = tempfile::tempdir().expect("folder");
        let mut child = until_says(folder.path(), "replicas in processes of their own");
        assert!(!left_behind(folder.path()).is_empty(), "its replicas run");
        signal(&child, name);
        assert_eq!(child.wait().expect("ended").code(), Some(130), "SIG{name}");
        assert!(is_empty(folder.path()) && left_behind(folder.path()).is_empty(), "SIG{name}: {:?}", left_behind(folder.path()));
    }
}
