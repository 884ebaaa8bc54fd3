//! What a whole cluster takes of the machine: a number, and by it a folder, a bridge with a subnet, and control groups. A claim ends with
//! the process that holds it, however that ends; what it left is removed by whoever claims next. Only empty lock files stay. It does not
//! know what runs there.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// Fixed, so that the next claim finds what was left, and short: a socket's path has at most 107 bytes.
const FOLDER: &str = "/var/tmp/roadstead-testbed";
/// Claims at the same time; a subnet's number has a byte, and no machine runs more.
const MOST: u8 = 250;
/// How long killed processes and what they held may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// What runs in no control group of ours, as `/proc/PID/comm` has it: at most 15 letters.
const PROGRAMS: [&str; 4] = ["containerd", "containerd-shim", "kubelet", "runc"];
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// A claim. Dropping it kills whatever runs in it and removes all of it.
#[derive(Debug)]
pub(super) struct Claim {
    number: u8,
    /// Locked as long as this process has it open.
    _lock: File,
}

impl Claim {
    /// Removes what ended processes left, takes the first free number and sets up what goes with it.
    ///
    /// # Errors
    /// If this is not root, or anything of it cannot be removed or made.
    pub(super) fn take() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("whole clusters need root: they make control groups, mounts and network interfaces");
        }
        std::fs::create_dir_all(FOLDER).with_context(|| format!("failed to create {FOLDER}"))?;
        let mut free = None;
        for number in 0..MOST {
            let path = Path::new(FOLDER).join(format!("{number}.lock"));
            if free.is_some() && !path.exists() {
                continue;
            }
            let lock = File::options().create(true).append(true).open(&path);
            let lock = lock.with_context(|| format!("failed to open {}", path.display()))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            remove(number).with_context(|| format!("failed to remove what was left of {number}"))?;
            if free.is_none() {
                free = Some(Self { number, _lock: lock });
            }
        }
        let claim = free.context("there are too many whole clusters on this machine")?;
        claim.set_up()?;
        Ok(claim)
    }

    /// Where everything of it is.
    pub(super) fn folder(&self) -> PathBuf {
        folder(self.number)
    }

    /// Its control group, below the root of each hierarchy; also the name of its network.
    pub(super) fn name(&self) -> String {
        name(self.number)
    }

    /// Its network interface, which only this machine reaches.
    pub(super) fn bridge(&self) -> String {
        bridge(self.number)
    }

    /// This machine's address on the bridge.
    pub(super) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.number, 1)
    }

    /// The addresses of its pods.
    pub(super) fn subnet(&self) -> String {
        format!("10.200.{}.0/24", self.number)
    }

    fn set_up(&self) -> Result<()> {
        std::fs::create_dir(self.folder()).with_context(|| format!("failed to create {}", self.folder().display()))?;
        let (bridge, address) = (self.bridge(), format!("{}/24", self.address()));
        // One of its own: else it has that of some pod's link, and another one when that pod goes.
        let hardware = format!("02:00:0a:c8:{:02x}:01", self.number);
        run("ip", &["link", "add", &bridge, "address", &hardware, "type", "bridge"])?;
        run("ip", &["address", "add", &address, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for parent in hierarchies()? {
            let own = parent.join(self.name());
            std::fs::create_dir(&own).with_context(|| format!("failed to create {}", own.display()))?;
            // In version 1 a new group may use nothing until this is filled in.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if is_version_1() && parent.join(file).exists() {
                    let allowed = std::fs::read(parent.join(file)).with_context(|| format!("failed to read {file}"))?;
                    std::fs::write(own.join(file), allowed).with_context(|| format!("failed to write {file}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = remove(self.number) {
            eprintln!("{} is not gone: {error:#}", self.folder().display());
        }
    }
}

fn folder(number: u8) -> PathBuf {
    Path::new(FOLDER).join(number.to_string())
}

fn name(number: u8) -> String {
    format!("roadstead-testbed-{number}")
}

fn bridge(number: u8) -> String {
    format!("rstestbed{number}")
}

fn is_version_1() -> bool {
    !Path::new(CONTROL_GROUPS).join("cgroup.controllers").exists()
}

/// The roots of the control groups: one for each controller in version 1, one for all in version 2.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(CONTROL_GROUPS);
    if !is_version_1() {
        let enabled = root.join("cgroup.subtree_control");
        std::fs::write(&enabled, "+cpu +cpuset +io +memory +pids").with_context(|| format!("failed to write {}", enabled.display()))?;
        return Ok(vec![root.to_owned()]);
    }
    let entries = std::fs::read_dir(root).with_context(|| format!("failed to read {CONTROL_GROUPS}"))?;
    // Beside them are links, for names such as `cpu,cpuacct`.
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect())
}

/// Kills what runs in a claim, and removes its mounts, its bridge, its control groups, its traces elsewhere and its folder.
fn remove(number: u8) -> Result<()> {
    let (own, name, bridge) = (folder(number), name(number), bridge(number));
    let within = format!("{}/", own.display());
    until_true("its processes end", || {
        let running = processes(&within, &name)?;
        for &process in &running {
            // It may have ended on its own.
            let _ = kill_process(process, Signal::KILL);
        }
        Ok(running.is_empty())
    })?;
    for mount in mounts(&within)?.iter().rev() {
        run("umount", &["--lazy", mount])?;
    }
    if Path::new("/sys/class/net").join(&bridge).exists() {
        run("ip", &["link", "delete", &bridge])?;
    }
    for hierarchy in hierarchies()? {
        until_true("its control groups go", || Ok(remove_groups(&hierarchy.join(&name))))?;
    }
    remove_traces(&own);
    if own.exists() {
        std::fs::remove_dir_all(&own).with_context(|| format!("failed to remove {}", own.display()))?;
    }
    Ok(())
}

/// Living processes that are in a control group of that name, or are a program of a cluster's that names the folder.
fn processes(within: &str, group: &str) -> Result<Vec<Pid>> {
    let inner = format!("/{group}/");
    let is_ours = |process: &Path| -> bool {
        // What cannot be read has ended.
        let read = |file: &str| std::fs::read(process.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (Ok(stat), Ok(groups), Ok(command), Ok(arguments)) = (read("stat"), read("cgroup"), read("comm"), read("cmdline")) else {
            return false;
        };
        let ended = stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']));
        let grouped = groups.lines().any(|line| line.contains(&inner) || line.ends_with(inner.trim_end_matches('/')));
        !ended && (grouped || (PROGRAMS.contains(&command.trim_end()) && arguments.contains(within)))
    };
    let entries = std::fs::read_dir("/proc").context("failed to read /proc")?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw).map(|id| (id, entry.path())));
    Ok(ids.filter(|(_, path)| is_ours(path)).map(|(id, _)| id).collect())
}

/// Where something is mounted below a folder, in the order in which it was.
fn mounts(within: &str) -> Result<Vec<String>> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").context("failed to read /proc/self/mountinfo")?;
    let points = all.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.filter(|point| point.starts_with(within)).map(|point| point.replace("\\040", " ")).collect())
}

/// Removes a control group and those below; true if it is gone. One is busy until its last process is.
fn remove_groups(group: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(group) else { return true };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).for_each(|entry| {
        remove_groups(&entry.path());
    });
    std::fs::remove_dir(group).is_ok()
}

/// What containerd and kubelet keep of containers outside the folder that they are given. It does no harm, so what cannot be removed
/// stays. (kubelet also sets a few of the kernel's values and opens `/var/lib/kubelet/device-plugins/kubelet.sock`, as everywhere.)
fn remove_traces(own: &Path) {
    let files = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let results = files(Path::new("/var/lib/cni/results"));
    for container in files(&own.join("containerd/state/io.containerd.runtime.v2.task/k8s.io")) {
        // It tells the socket of its shim.
        if let Ok(socket) = std::fs::read_to_string(container.join("address")) {
            let _ = std::fs::remove_file(socket.trim().trim_start_matches("unix://"));
        }
        let id = container.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for result in results.iter().filter(|path| path.to_string_lossy().contains(&id)) {
            let _ = std::fs::remove_file(result);
        }
    }
    for link in files(Path::new("/var/log/containers")) {
        if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(own)) {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// Looks again and again whether something is so.
fn until_true(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > GONE_WITHIN {
            bail!("{what}: not within {GONE_WITHIN:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Runs a program to its end.
///
/// # Errors
/// If it fails; carries what it said.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("failed to start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed ({}): {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}
