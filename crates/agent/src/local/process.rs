//! One process of a workload: started in a group of its own, found again after a restart of the agent, started again when it ends.
//!
//! A process is known by its number and the moment it started, so that another one with the same number is never taken for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// The first rest before a process that ended is started again; each further one doubles it.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A process that has run for so long counts as ready, and as recovered.
pub(super) const SETTLED: Duration = Duration::from_millis(200);
/// How often it is looked whether a process has ended that is to end.
const POLL: Duration = Duration::from_millis(20);

/// Which process runs, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its number, and that of its group.
    pub(super) pid: i32,
    /// When it started, in ticks since the machine did; as the system counts them.
    pub(super) started: u64,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) run: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// Of the secrets on whose change it is started anew: their hash. Empty without any.
    pub(super) secrets: String,
}

/// A process that is to run.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) program: Program,
    identity: Option<Identity>,
    /// Ours to reap, unless another agent started it.
    child: Option<Child>,
    since: Instant,
    ended: u32,
    /// How it ended last.
    last: Option<String>,
}

/// How a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It runs.
    Runs,
    /// It has just been started.
    Starts,
    /// It ended, and is started again.
    Ended(String),
}

impl Process {
    /// Starts it; its output goes to the end of `log`.
    pub(super) fn start(program: Program, folder: &Path, log: &Path) -> io::Result<Self> {
        let mut process = Self { program, identity: None, child: None, since: Instant::now(), ended: 0, last: None };
        process.spawn(folder, log)?;
        Ok(process)
    }

    /// Takes over one that another agent started, if it still runs.
    pub(super) fn adopt(program: Program, identity: Identity) -> Option<Self> {
        let runs = started(identity.pid) == Some(identity.started);
        runs.then(|| Self { program, identity: Some(identity), child: None, since: Instant::now(), ended: 0, last: None })
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    fn spawn(&mut self, folder: &Path, log: &Path) -> io::Result<()> {
        let [program, arguments @ ..] = self.program.run.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
        };
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).envs(&self.program.env).current_dir(folder).process_group(0);
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let pid = i32::try_from(child.id()).map_err(|_| io::Error::other("a process number beyond any"))?;
        self.identity = started(pid).map(|started| Identity { pid, started });
        (self.child, self.since) = (Some(child), Instant::now());
        Ok(())
    }

    /// Whether it still runs; started again if it does not and has rested.
    pub(super) fn look(&mut self, folder: &Path, log: &Path) -> Health {
        let runs = self.runs();
        if runs && self.since.elapsed() >= SETTLED {
            if self.since.elapsed() > LONGEST_REST {
                self.ended = 0;
            }
            return Health::Runs;
        }
        if runs {
            return Health::Starts;
        }
        if self.identity.take().is_some() {
            self.ended = self.ended.saturating_add(1);
            self.since = Instant::now();
        }
        let rest = (FIRST_REST * 2_u32.saturating_pow(self.ended.saturating_sub(1).min(10))).min(LONGEST_REST);
        if self.since.elapsed() >= rest {
            match self.spawn(folder, log) {
                Ok(()) => {}
                Err(error) => {
                    self.last = Some(error.to_string());
                    self.since = Instant::now();
                    self.ended = self.ended.saturating_add(1);
                }
            }
        }
        let how = self.last.as_deref().unwrap_or("it ended");
        Health::Ended(format!("{how}, {} times so far; its output is in {}", self.ended, log.display()))
    }

    fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.last = Some(status.to_string());
            self.child = None;
            return false;
        }
        self.identity.is_some_and(|identity| started(identity.pid) == Some(identity.started))
    }

    /// Asks it to end, with all that it started; after `within` it is ended.
    pub(super) fn stop(&mut self, within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        let Some(identity) = self.identity else { return Ok(()) };
        let group = Pid::from_raw(identity.pid).ok_or_else(|| io::Error::other("a process number of 0"))?;
        let mut signal = Signal::TERM;
        while self.runs() {
            let _gone_already = kill_process_group(group, signal);
            std::thread::sleep(POLL);
            if Instant::now() > deadline {
                signal = Signal::KILL;
            }
        }
        // What it started may have outlived it.
        let _gone_already = kill_process_group(group, Signal::KILL);
        self.identity = None;
        Ok(())
    }
}

/// When a process started, in the system's ticks; `None` if there is none, or it has ended and only waits to be reaped.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, its name, is in brackets and may hold anything. The state is the third field, the start the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}
