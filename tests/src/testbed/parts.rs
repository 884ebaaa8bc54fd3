//! The programs that a testbed runs: where they are, and that they end with the process that started them, however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// A start of a process, and where it says what came of it.
type Job = Box<dyn FnOnce() + Send>;

/// The path of a program: in `KUBEBUILDER_ASSETS`, else where `cargo xtask setup` builds it.
///
/// # Errors
/// If it is not there; the message says how to get it.
pub(super) fn part(name: &str) -> Result<PathBuf> {
    let built = || {
        let tools = std::env::var_os("ROADSTEAD_TOOLS").map(PathBuf::from);
        tools.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")).join("bin")
    };
    let path = std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(built, PathBuf::from).join(name);
    if !path.is_file() {
        bail!("{} is not there: `cargo xtask setup` builds it", path.display());
    }
    Ok(path)
}

/// A command that the kernel kills as soon as the thread that started it is gone.
pub(super) fn bound(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a [`bound`] command, its output appended to `<folder>/<name>.log`.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start(name: &str, mut command: Command, folder: &Path) -> Result<Process> {
    // A test's thread ends with the test, and a runtime's when it is idle; what several tests share must outlive both. This one ends
    // with the process.
    static STARTER: OnceLock<Sender<Job>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        sender
    });
    let (sender, answer) = channel();
    let (name, log) = (name.to_owned(), folder.join(format!("{name}.log")));
    let job = move || {
        // Nobody listens any more only if the caller's thread is gone.
        let _ = sender.send(Process::start(&name, &mut command, &log));
    };
    starter.send(Box::new(job)).ok().context("the thread that starts processes is gone")?;
    answer.recv().context("the thread that starts processes is gone")?
}
