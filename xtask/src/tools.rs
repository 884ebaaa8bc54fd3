//! What is needed and is not Rust: found on the machine, else fetched once into `.tools/`. Each has a fixed version.
//!
//! A tool that cannot be had is `Ok(Err(why))`: the step that needs it says so and is not run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::run::{Outcome, Step, Summary, answers, cargo, command, root};

const CARGO_DENY: &str = "0.20.2";
const BUF: &str = "1.75.0";
/// Where distributions put the network plugins of containers.
const NETWORK_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Programs of one Go module, which a module of our own below `xtask/tools` names with its version and with all that it needs.
struct GoPrograms {
    /// Our module's folder.
    folder: &'static str,
    /// Theirs.
    module: &'static str,
    /// Each program and its package.
    programs: &'static [(&'static str, &'static str)],
    /// The packages whose variables hold the version, for those that have it from their own release scripts.
    stamped: &'static [&'static str],
}

const ETCD: GoPrograms =
    GoPrograms { folder: "etcd", module: "go.etcd.io/etcd/server/v3", programs: &[("etcd", "go.etcd.io/etcd/server/v3")], stamped: &[] };
const KUBERNETES: GoPrograms = GoPrograms {
    folder: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ],
    stamped: &["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"],
};
const KWOK: GoPrograms =
    GoPrograms { folder: "kwok", module: "sigs.k8s.io/kwok", programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")], stamped: &[] };

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
    // It runs for seconds, and would be optimised for minutes.
    install.args(["install", "--locked", "--quiet", "--debug", "cargo-deny", "--version", CARGO_DENY, "--root"]).arg(folder());
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

/// etcd, the peer of some benchmarks and what Kubernetes keeps its objects in, built from its Go module.
pub(crate) fn etcd(step: &mut Step) -> Result<Tool> {
    go_programs(step, &ETCD)
}

/// kube-apiserver, kube-controller-manager, kube-scheduler and kubelet, built from Kubernetes' Go module. The path is the first one's.
pub(crate) fn kubernetes(step: &mut Step) -> Result<Tool> {
    go_programs(step, &KUBERNETES)
}

/// kwok, which plays nodes and pods, built from its Go module.
pub(crate) fn kwok(step: &mut Step) -> Result<Tool> {
    go_programs(step, &KWOK)
}

/// What a whole cluster's node needs of the machine, and the program that runs in its pods. The path is that program's.
pub(crate) fn node(step: &mut Step) -> Result<Tool> {
    if !is_root() {
        return Ok(Err("whole clusters need root: they make control groups, mounts and network interfaces".to_owned()));
    }
    let has_plugins = || NETWORK_PLUGINS.iter().any(|folder| Path::new(folder).join("bridge").is_file());
    let packages: [(&str, &dyn Fn() -> bool); 4] = [
        ("containerd", &|| answers("containerd", "--version")),
        ("runc", &|| answers("runc", "--version")),
        ("containernetworking-plugins", &has_plugins),
        ("iproute2", &|| answers("ip", "-Version")),
    ];
    for (package, present) in packages {
        if let Err(why) = debian(step, present, package)? {
            return Ok(Err(why));
        }
    }
    if !answers("go", "version") {
        return Ok(Err("Go is not installed (https://go.dev/dl/); what runs in pods is built with it".to_owned()));
    }
    let program = folder().join("bin/testbed-guest");
    // Its sources are here, so Go knows whether it is up to date.
    let mut build = command("go");
    build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&program).arg(".");
    let done = step.run(build.env("CGO_ENABLED", "0").current_dir(root().join("xtask/tools/guest")))?;
    Ok(if done { Ok(program) } else { Err("xtask/tools/guest could not be built with Go".to_owned()) })
}

/// Builds those that are missing or of another version; the path is the first one's.
fn go_programs(step: &mut Step, of: &GoPrograms) -> Result<Tool> {
    let own = root().join("xtask/tools").join(of.folder);
    let described = own.join("go.mod");
    let described = std::fs::read_to_string(&described).with_context(|| format!("failed to read {}", described.display()))?;
    let version = required(&described, of.module).with_context(|| format!("{}/go.mod names no version of it", own.display()))?;
    let stamps = of.stamped.iter().map(|package| stamp(package, version)).collect::<Option<Vec<_>>>();
    let stamps = stamps.with_context(|| format!("{version} is not a version"))?;
    for (name, package) in of.programs {
        let program = folder().join("bin").join(name);
        let is_it = || said(command(&program).arg("--version")).is_some_and(|text| text.contains(version.trim_start_matches('v')));
        if is_it() {
            continue;
        }
        if !answers("go", "version") {
            return Ok(Err(format!("Go is not installed (https://go.dev/dl/); {name} is built with it")));
        }
        let mut build = command("go");
        // Without debugging symbols, which are most of such a program; without C, so that no C compiler is needed.
        build.args(["build", "-trimpath", "-ldflags", &format!("-s -w{}", stamps.concat()), "-o"]).arg(&program).arg(package);
        if !step.run(build.env("CGO_ENABLED", "0").current_dir(&own))? || !is_it() {
            return Ok(Err(format!("{name} {version} could not be built with Go")));
        }
    }
    Ok(Ok(folder().join("bin").join(of.programs[0].0)))
}

/// The version of a module that a go.mod requires, as in `v1.34.4`.
fn required<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    let mut words = go_mod.lines().map(|line| line.trim().trim_start_matches("require ").split_whitespace());
    words.find_map(|mut words| (words.next()? == module).then(|| words.next()).flatten()).filter(|version| version.starts_with('v'))
}

/// Linker flags that set the version which a package of Kubernetes' tells; without them it is v0.0.0 and clients complain.
fn stamp(package: &str, version: &str) -> Option<String> {
    let mut numbers = version.strip_prefix('v')?.split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    Some(format!(" -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"))
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
    let all: [Named; 8] = [
        ("strace", strace),
        ("cargo-deny", cargo_deny),
        ("buf", buf),
        ("python", python),
        ("etcd", etcd),
        ("kubernetes", kubernetes),
        ("kwok", kwok),
        ("node", node),
    ];
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

#[cfg(test)]
mod tests {
    use super::{required, stamp};

    #[test]
    fn a_required_version_is_found_alone_and_in_a_block() {
        let alone = "module m\n\ntool a.b/c/cmd\n\nrequire a.b/c v1.34.4\n\nreplace a.b/d v0.0.0 => a.b/d v0.34.4\n";
        assert_eq!(required(alone, "a.b/c"), Some("v1.34.4"));
        assert_eq!(required("tool a.b/c\n\nrequire (\n\ta.b/cd v2.0.0\n\ta.b/c v0.7.0 // indirect\n)\n", "a.b/c"), Some("v0.7.0"));
        assert_eq!(required("tool a.b/c\n", "a.b/c"), None);
    }

    #[test]
    fn a_version_is_stamped_whole_and_in_parts() {
        assert_eq!(stamp("p", "v1.34.4").as_deref(), Some(" -X p.gitVersion=v1.34.4 -X p.gitMajor=1 -X p.gitMinor=34"));
        assert_eq!(stamp("p", "1.34.4"), None);
    }
}
