//! The steps of `cargo xtask test`, in the order in which they run: cheap ones first.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{Outcome, Step, Summary, cargo, command, packages, root, target};
use crate::{protos, purity, reference, tools};

/// Seeds that the simulator plays.
const SEEDS: u32 = 2_000;
/// Test threads where a test starts processes of its own; more only makes each wait for the other on a small machine.
const PROCESS_TEST_THREADS: &str = "2";
/// The tests that start control planes of Kubernetes, and those that start nodes, too; `kubernetes` runs them, and `integration` all others.
const CONTROL_PLANE_TESTS: [&str; 11] = [
    "testbed",
    "inventory",
    "kube_interpreter",
    "kube_kept",
    "kube_pruned",
    "kube_rest",
    "kube_classes",
    "kube_faults",
    "join",
    "let_in",
    "cluster_profiles",
];
const NODE_TESTS: [&str; 5] = ["whole_clusters", "kube_commands", "real_clusters", "network_policies", "agent_pods"];

struct Check {
    name: &'static str,
    what: &'static str,
    /// Whether it takes minutes (left out by `--quick`).
    slow: bool,
    body: fn(&mut Step) -> Result<Outcome>,
}

const CHECKS: [Check; 16] = [
    Check { name: "rustfmt", what: "formatting", slow: false, body: rustfmt },
    Check { name: "purity", what: "which crate depends on what; no I/O, clock or chance in pure crates", slow: false, body: purity::check },
    Check { name: "api-docs", what: "docs/api.md is what the protos say", slow: false, body: reference::check },
    Check { name: "buf-lint", what: "the protos' style", slow: false, body: protos::lint },
    Check { name: "buf-breaking", what: "the protos stay compatible", slow: false, body: protos::breaking },
    Check { name: "deny", what: "licences, duplicates, sources of dependencies", slow: false, body: deny },
    Check { name: "advisories", what: "known holes in dependencies", slow: false, body: advisories },
    Check { name: "clippy", what: "lints; warnings are errors", slow: false, body: clippy },
    Check { name: "docs", what: "rustdoc; warnings are errors", slow: false, body: rustdoc },
    Check { name: "build", what: "everything that the next steps run", slow: false, body: build },
    Check { name: "unit", what: "tests inside the crates", slow: false, body: unit },
    Check { name: "python", what: "a client generated for Python", slow: false, body: python },
    Check { name: "integration", what: "tests against whole crates and over real processes", slow: true, body: integration },
    Check { name: "kubernetes", what: "tests against real Kubernetes, built once from its sources", slow: true, body: kubernetes },
    Check { name: "simulations", what: "the simulator's own tests", slow: true, body: simulations },
    Check { name: "seeds", what: "the simulator's seeds", slow: true, body: seeds },
];

/// Runs the steps; true if nothing failed.
pub(crate) fn test(only: &[String], quick: bool, list: bool, verbose: bool) -> Result<bool> {
    if list {
        for check in &CHECKS {
            println!("{:<14} {}{}", check.name, check.what, if check.slow { " (minutes)" } else { "" });
        }
        return Ok(true);
    }
    if let Some(unknown) = only.iter().find(|name| !CHECKS.iter().any(|check| check.name == name.as_str())) {
        anyhow::bail!("no step is called {unknown}; `cargo xtask test --list` names them");
    }
    let mut summary = Summary::new();
    for check in &CHECKS {
        let named = only.iter().any(|name| name == check.name);
        if named || (only.is_empty() && !(quick && check.slow)) {
            summary.step(check.name, verbose, check.body)?;
        } else if only.is_empty() {
            summary.step(check.name, verbose, |_| Ok(Outcome::ByDesign("--quick".to_owned())))?;
        }
    }
    Ok(summary.print())
}

fn rustfmt(step: &mut Step) -> Result<Outcome> {
    component(step, "rustfmt", "fmt")?;
    step.all(&mut [with(cargo(), &["fmt", "--all", "--check"])])
}

fn clippy(step: &mut Step) -> Result<Outcome> {
    component(step, "clippy", "clippy")?;
    step.all(&mut [with(cargo(), &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])])
}

fn rustdoc(step: &mut Step) -> Result<Outcome> {
    let mut doc = with(cargo(), &["doc", "--no-deps", "--workspace"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step.all(&mut [doc])
}

/// Adds a part of the Rust toolchain if it is not there.
fn component(step: &mut Step, name: &str, verb: &str) -> Result<()> {
    if !step.run(cargo().args([verb, "--version"]))? {
        step.run(command("rustup").args(["component", "add", name]))?;
    }
    Ok(())
}

fn deny(step: &mut Step) -> Result<Outcome> {
    match tools::cargo_deny(step)? {
        Ok(program) => {
            let mut fetch = with(cargo(), &["fetch", "--locked", "--quiet"]);
            // Sources of all targets must be at hand for an offline check of licences; without a network they may be already.
            step.run(&mut fetch)?;
            step.all(&mut [with(command(program), &["--offline", "check", "bans", "licenses", "sources"])])
        }
        Err(why) => Ok(Outcome::Missing(why)),
    }
}

/// Whether cargo-deny has its copy of the advisory database.
fn has_advisories() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let Ok(databases) = std::fs::read_dir(home.unwrap_or_default().join("advisory-dbs")) else { return false };
    databases.flatten().any(|database| database.path().join(".git").is_dir())
}

fn advisories(step: &mut Step) -> Result<Outcome> {
    if !has_advisories() {
        return Ok(Outcome::ByDesign(
            "a check must not depend on the network; `cargo deny fetch` once, and it runs on that copy of the database".to_owned(),
        ));
    }
    match tools::cargo_deny(step)? {
        Ok(program) => step.all(&mut [with(command(program), &["--offline", "check", "advisories"])]),
        Err(why) => Ok(Outcome::Missing(why)),
    }
}

/// What is built together, so that every step finds its dependencies built with the same features. The simulator is apart: it has the
/// faults that it plants compiled in, and what is shipped must not.
const SHIPPED: [&str; 3] = ["--workspace", "--exclude", SIMULATIONS];
const SIMULATIONS: &str = "roadstead-simulations";

fn build(step: &mut Step) -> Result<Outcome> {
    step.all(&mut [with(with(cargo(), &["build", "--all-targets"]), &SHIPPED)])
}

/// The binary that tests over processes start, built as `build` does it.
fn binary(step: &mut Step) -> Result<PathBuf> {
    let Outcome::Passed { .. } = build(step)? else { anyhow::bail!("the binary does not build") };
    Ok(target().join("debug/roadstead"))
}

fn unit(step: &mut Step) -> Result<Outcome> {
    tests(step, &mut with(with(cargo(), &["test", "--no-fail-fast", "--lib", "--bins"]), &SHIPPED))
}

fn integration(step: &mut Step) -> Result<Outcome> {
    let mut names = Vec::new();
    for package in packages()?.iter().filter(|package| package["name"] != SIMULATIONS) {
        let targets = package["targets"].as_array().context("cargo metadata names no targets")?;
        let tests = targets.iter().filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
        names.extend(tests.filter(|name| !CONTROL_PLANE_TESTS.contains(name) && !NODE_TESTS.contains(name)).map(str::to_owned));
    }
    over_processes(step, &names)
}

fn kubernetes(step: &mut Step) -> Result<Outcome> {
    for tool in [tools::etcd, tools::kubernetes, tools::kwok] {
        if let Err(why) = tool(step)? {
            return Ok(Outcome::Missing(why));
        }
    }
    let mut names = CONTROL_PLANE_TESTS.map(str::to_owned).to_vec();
    match tools::node(step)? {
        Ok(_) => names.extend(NODE_TESTS.map(str::to_owned)),
        Err(why) => step.part_missing(&format!("tests with nodes: {why}")),
    }
    over_processes(step, &names)
}

/// Runs tests that start processes of ours and of others.
fn over_processes(step: &mut Step, names: &[String]) -> Result<Outcome> {
    let binary = binary(step)?;
    let mut test = with(with(cargo(), &["test", "--no-fail-fast"]), &SHIPPED);
    test.args(names.iter().flat_map(|name| ["--test", name]));
    test.env("ROADSTEAD_BIN", binary).env("RUST_TEST_THREADS", PROCESS_TEST_THREADS);
    tests(step, &mut test)
}

fn python(step: &mut Step) -> Result<Outcome> {
    let binary = binary(step)?;
    match tools::python(step)? {
        Ok(program) => tests(step, command(program).arg(root().join("tests/python/run.py")).env("ROADSTEAD_BIN", binary)),
        Err(why) => Ok(Outcome::Missing(why)),
    }
}

fn simulations(step: &mut Step) -> Result<Outcome> {
    tests(step, &mut with(cargo(), &["test", "--no-fail-fast", "--package", SIMULATIONS]))
}

fn seeds(step: &mut Step) -> Result<Outcome> {
    // The simulator's own tests run those before them.
    let seeds = format!("{SEEDS}..{}", 2 * SEEDS);
    let mut last = String::new();
    let mut run = with(cargo(), &["run", "--quiet", "--package", SIMULATIONS, "--bin", "roadstead-sim", "--", "--seeds", &seeds]);
    let (ok, _) = step.run_lines(&mut run, |line| line.clone_into(&mut last))?;
    Ok(if ok { Outcome::ok(last) } else { Outcome::failed(format!("{SEEDS} seeds: {last}")) })
}

/// Lines of a failed test's output that are kept for the summary, and of all of them together.
const SAID_LINES: usize = 12;
const SAID_LINES_OF_ALL: usize = 60;

/// What failed tests said, as cargo shows it after the last of a binary's tests.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// Lines that the present test may still say.
    left: usize,
}

impl Said {
    fn read(&mut self, line: &str) {
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.left = SAID_LINES;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.left = 0;
        }
        if self.left > 0 && !line.is_empty() && self.lines.len() < SAID_LINES_OF_ALL {
            self.left -= 1;
            self.lines.push(line.to_owned());
        }
    }
}

/// Runs a test command and adds its results up. A test that says of itself, on a line of its own, that it was not run counts as missing.
fn tests(step: &mut Step, test: &mut Command) -> Result<Outcome> {
    let (mut passed, mut failed, mut names, mut not_run) = (0, 0, Vec::new(), Vec::new());
    let mut said = Said::default();
    let (ok, _) = step.run_lines(test, |line| {
        said.read(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += counted(result, "passed");
            failed += counted(result, "failed");
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            names.push(name.to_owned());
        }
        if let Some(what) = line.strip_prefix("not run: ") {
            not_run.push(what.to_owned());
        }
    })?;
    not_run.iter().for_each(|what| step.part_missing(what));
    passed = passed.saturating_sub(not_run.len());
    if ok && passed > 0 {
        return Ok(Outcome::Passed { count: passed, note: format!("{passed} tests") });
    }
    let why = if failed > 0 {
        format!("{failed} of {} tests failed: {}", passed + failed, names.join(", "))
    } else if ok {
        "no test ran".to_owned()
    } else {
        "the tests do not build".to_owned()
    };
    Ok(Outcome::Failed { passed, failed: failed.max(1), why, said: said.lines })
}

/// The number before a word, as in `ok. 12 passed; 0 failed`.
fn counted(line: &str, word: &str) -> usize {
    let words: Vec<&str> = line.split([' ', ';']).filter(|part| !part.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::{SAID_LINES, Said, counted};

    #[test]
    fn what_a_failed_test_said_is_kept_without_its_backtrace() {
        let mut said = Said::default();
        let long: Vec<String> = (0..40).map(|number| format!("frame {number}")).collect();
        let output = ["test a ... FAILED", "failures:", "", "---- a stdout ----", "thread 'a' panicked: told"];
        output.into_iter().chain(long.iter().map(String::as_str)).for_each(|line| said.read(line));
        ["---- b stdout ----", "no", "", "failures:", "    a", "test result: FAILED."].into_iter().for_each(|line| said.read(line));
        assert_eq!(said.lines.len(), SAID_LINES + 2);
        assert_eq!(said.lines[1], "thread 'a' panicked: told");
        assert_eq!(said.lines[SAID_LINES..], ["---- b stdout ----", "no"]);
    }

    #[test]
    fn a_test_result_is_counted() {
        let line = "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(counted(line, "passed"), 12);
        assert_eq!(counted(line, "failed"), 3);
    }
}
