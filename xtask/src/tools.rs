//! What is needed and is not Rust: found on the machine, else fetched once into `.tools/`. Each has a fixed version.
//!
//! A tool that cannot be had is `Ok(Err(why))`: the step that needs it says so and is not run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{Outcome, Step, Summary, answers, cargo, command, root};

const CARGO_DENY: &str = "0.20.2";
const BUF: &str = "1.75.0";
/// Its version is in xtask/tools/etcd/go.mod.
const ETCD_PACKAGE: &str = "go.etcd.io/etcd/server/v3";

/// A tool's path, or why there is none.
pub(crate) type Tool = Result<PathBuf, String>;

/// Where tools are kept; git ignores it.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("ROADSTEAD_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from)
}

/// What a command prints, if it runs.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_root() -> bool {
    said(command("id").arg("-u")).is_some_and(|id| id == "0")
}

/// Installs a Debian package if its program is not there and we may.
fn debian(step: &mut Step, present: impl Fn() -> bool, package: &str) -> Result<Result<(), String>> {
    if present() {
        return Ok(Ok(()));
    }
    if !is_root() || !answers("apt-get", "--version") {
        return Ok(Err(format!("{package} is not installed, and installing it takes root and apt-get")));
    }
    let mut install = command("apt-get");
    install.args(["install", "-y", "--no-install-recommends", package]).env("DEBIAN_FRONTEND", "noninteractive");
    if !step.run(&mut install)? {
        step.run(command("apt-get").arg("update"))?;
        step.run(&mut install)?;
    }
    Ok(if present() { Ok(()) } else { Err(format!("apt-get could not install {package}")) })
}

/// strace, which shows whether a system really syncs.
pub(crate) fn strace(step: &mut Step) -> Result<Tool> {
    Ok(debian(step, || answers("strace", "-V"), "strace")?.map(|()| PathBuf::from("strace")))
}

/// cargo-deny: licences, bans, sources.
pub(crate) fn cargo_deny(step: &mut Step) -> Result<Tool> {
    let own = folder().join("bin/cargo-deny");
    let wanted = format!("cargo-deny {CARGO_DENY}");
    for candidate in [PathBuf::from("cargo-deny"), own.clone()] {
        if said(command(&candidate).arg("--version")).is_some_and(|version| version == wanted) {
            return Ok(Ok(candidate));
        }
    }
    let mut install = cargo();
    install.args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY, "--root"]).arg(folder());
    Ok(if step.run(&mut install)? { Ok(own) } else { Err(format!("cargo-deny {CARGO_DENY} could not be installed")) })
}

/// buf: lint and breaking changes of the protos.
pub(crate) fn buf(step: &mut Step) -> Result<Tool> {
    let prefix = folder().join("npm");
    let program = prefix.join("node_modules/.bin/buf");
    if said(command(&program).arg("--version")).is_some_and(|version| version == BUF) {
        return Ok(Ok(program));
    }
    if let Err(why) = debian(step, || answers("npm", "--version"), "npm")? {
        return Ok(Err(why));
    }
    std::fs::create_dir_all(&prefix).with_context(|| format!("failed to create {}", prefix.display()))?;
    let package = format!("@bufbuild/buf@{BUF}");
    let done = step.run(command("npm").args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"]).arg(&prefix).arg(package))?;
    Ok(if done { Ok(program) } else { Err(format!("npm could not install buf {BUF}")) })
}

/// etcd, the peer of some benchmarks, built from its Go module.
pub(crate) fn etcd(step: &mut Step) -> Result<Tool> {
    let program = folder().join("bin/etcd");
    let module = root().join("xtask/tools/etcd");
    let wanted = std::fs::read_to_string(module.join("go.mod")).context("failed to read xtask/tools/etcd/go.mod")?;
    let wanted = wanted.lines().find_map(|line| line.trim().strip_prefix(ETCD_PACKAGE)).and_then(|rest| rest.split_whitespace().next());
    let wanted = wanted.and_then(|version| version.strip_prefix('v')).context("xtask/tools/etcd/go.mod names no version of etcd")?;
    let is_it = || said(command(&program).arg("--version")).is_some_and(|text| text.contains(&format!("etcd Version: {wanted}")));
    if is_it() {
        return Ok(Ok(program));
    }
    if !answers("go", "version") {
        return Ok(Err("Go is not installed (https://go.dev/dl/); etcd is built with it".to_owned()));
    }
    let done = step.run(command("go").args(["build", "-trimpath", "-o"]).arg(&program).arg(ETCD_PACKAGE).current_dir(module))?;
    Ok(if done && is_it() { Ok(program) } else { Err(format!("etcd {wanted} could not be built with Go")) })
}

/// A Python with grpcio and its code generator, apart from the machine's.
pub(crate) fn python(step: &mut Step) -> Result<Tool> {
    let venv = folder().join("python");
    let program = venv.join("bin/python3");
    let requirements = root().join("tests/python/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).context("failed to read tests/python/requirements.txt")?;
    let stamp = venv.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && answers(&program, "--version") {
        return Ok(Ok(program));
    }
    let can_make_venvs = || said(command("python3").args(["-c", "import venv, ensurepip"])).is_some();
    if let Err(why) = debian(step, can_make_venvs, "python3-venv")? {
        return Ok(Err(why));
    }
    let done = step.run(command("python3").args(["-m", "venv"]).arg(&venv))?
        && step.run(command(&program).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements))?;
    if !done {
        return Ok(Err("a Python environment with grpcio could not be made".to_owned()));
    }
    std::fs::write(&stamp, wanted).with_context(|| format!("failed to write {}", stamp.display()))?;
    Ok(Ok(program))
}

/// A tool's name and how to get it.
type Named = (&'static str, fn(&mut Step) -> Result<Tool>);

/// All tools, for `cargo xtask setup`.
pub(crate) fn set_up_all() -> Result<bool> {
    let mut summary = Summary::new();
    let all: [Named; 5] = [("strace", strace), ("cargo-deny", cargo_deny), ("buf", buf), ("etcd", etcd), ("python", python)];
    for (name, tool) in all {
        summary.step(name, false, |step| {
            Ok(match tool(step)? {
                Ok(path) => Outcome::ok(path.display().to_string()),
                Err(why) => Outcome::Missing(why),
            })
        })?;
    }
    Ok(summary.print())
}
