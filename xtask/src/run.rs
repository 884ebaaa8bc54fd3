//! One step: a name, the commands it runs, what came of it; and the summary of all. It does not know which steps there are.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Lines of a failed step's output that are shown; the rest is in its log file.
const SHOWN_LINES: usize = 80;

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Where builds go.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A command of this workspace, started in its root.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What cargo knows of the workspace's packages.
pub(crate) fn packages() -> Result<Vec<serde_json::Value>> {
    let output = cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output().context("failed to run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata's answer is not JSON")?;
    match metadata["packages"].take() {
        serde_json::Value::Array(packages) => Ok(packages),
        _ => anyhow::bail!("cargo metadata names no packages"),
    }
}

/// Whether a program answers to `--version` (or `version`).
pub(crate) fn answers(program: impl AsRef<std::ffi::OsStr>, argument: &str) -> bool {
    command(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What came of a step.
pub(crate) enum Outcome {
    /// So many checks or tests passed; the note says more.
    Passed { count: usize, note: String },
    /// Some failed; `said` is what they printed, shortened.
    Failed { passed: usize, failed: usize, why: String, said: Vec<String> },
    /// Could not be run here: a tool or a right is missing. Fails the whole run where `CI=true`.
    Missing(String),
    /// Is not run, on purpose.
    ByDesign(String),
}

impl Outcome {
    pub(crate) fn ok(note: impl Into<String>) -> Self {
        Self::Passed { count: 1, note: note.into() }
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed { passed: 0, failed: 1, why: why.into(), said: Vec::new() }
    }
}

/// The step that runs: its log.
pub(crate) struct Step {
    log: File,
    log_path: PathBuf,
    verbose: bool,
    /// Single tests of it that could not be run here, and why.
    missing: Vec<String>,
}

impl Step {
    pub(crate) fn open(name: &str, verbose: bool) -> Result<Self> {
        let folder = target().join("xtask");
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let log_path = folder.join(format!("{name}.log"));
        let log = File::create(&log_path).with_context(|| format!("failed to create {}", log_path.display()))?;
        Ok(Self { log, log_path, verbose, missing: Vec::new() })
    }

    /// Writes a line to the step's log.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").context("failed to write a step's log")?;
        if self.verbose {
            println!("    {line}");
        }
        Ok(())
    }

    /// Notes that a part of this step could not be run here: as [`Outcome::Missing`], but the rest was.
    pub(crate) fn part_missing(&mut self, what: &str) {
        self.missing.push(what.to_owned());
    }

    /// Runs a command, its output in the step's log.
    ///
    /// # Errors
    /// If it cannot be started; a non-zero exit is `Ok(false)`.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<bool> {
        Ok(self.run_lines(command, |_| {})?.0)
    }

    /// Runs a command and shows every line of its output to `each` as it comes.
    pub(crate) fn run_lines(&mut self, command: &mut Command, mut each: impl FnMut(&str)) -> Result<(bool, Duration)> {
        let started = Instant::now();
        let (reader, writer) = std::io::pipe().context("failed to make a pipe")?;
        self.say(&format!("$ {}", shown(command)))?;
        let error = writer.try_clone().context("failed to clone a pipe")?;
        let mut child =
            command.stdout(writer).stderr(error).spawn().with_context(|| format!("failed to start {}", command.get_program().display()))?;
        // The command holds the pipe's writing ends; without them gone the reader would wait for ever.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).context("failed to read a command's output")? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            each(text);
            self.say(text)?;
            line.clear();
        }
        let status = child.wait().context("failed to wait for a command")?;
        self.say(&format!("-> {status} after {:.1} s", started.elapsed().as_secs_f64()))?;
        Ok((status.success(), started.elapsed()))
    }

    /// Runs commands one after the other; passes if all do.
    pub(crate) fn all(&mut self, commands: &mut [Command]) -> Result<Outcome> {
        for command in commands {
            if !self.run(command)? {
                return Ok(Outcome::failed(format!("`{}` failed", shown(command))));
            }
        }
        Ok(Outcome::ok(""))
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// All steps of one run.
pub(crate) struct Summary {
    started: Instant,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    missing: Vec<String>,
    by_design: Vec<String>,
}

impl Summary {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), passed: 0, failed: 0, failures: Vec::new(), missing: Vec::new(), by_design: Vec::new() }
    }

    /// Runs one step and prints its line.
    pub(crate) fn step(&mut self, name: &str, verbose: bool, body: impl FnOnce(&mut Step) -> Result<Outcome>) -> Result<()> {
        let started = Instant::now();
        print!("{name:<14} ");
        std::io::stdout().flush().context("failed to write to stdout")?;
        if verbose {
            println!();
        }
        let mut step = Step::open(name, verbose)?;
        let outcome = body(&mut step).unwrap_or_else(|error| Outcome::failed(format!("{error:#}")));
        let seconds = started.elapsed().as_secs_f64();
        self.missing.extend(step.missing.drain(..).map(|what| format!("{name}: {what}")));
        match outcome {
            Outcome::Passed { count, note } => {
                self.passed += count;
                println!("ok      {seconds:>7.1} s  {note}");
            }
            Outcome::Failed { passed, failed, why, said } => {
                self.passed += passed;
                self.failed += failed;
                println!("FAILED  {seconds:>7.1} s  {why}");
                show_tail(&step.log_path)?;
                // At the very end, where a run that was cut off at its front still shows it.
                let mut failure = format!("{name}: {why} (whole output: {})", step.log_path.display());
                said.iter().for_each(|line| failure.extend(["\n    | ", line]));
                self.failures.push(failure);
            }
            Outcome::Missing(why) => {
                println!("not run             {why}");
                self.missing.push(format!("{name}: {why}"));
            }
            Outcome::ByDesign(why) => {
                println!("left out            {why}");
                self.by_design.push(format!("{name}: {why}"));
            }
        }
        Ok(())
    }

    /// Prints what a reader must know and the last line; true if all is well.
    pub(crate) fn print(mut self) -> bool {
        println!();
        for line in &self.by_design {
            println!("left out by design: {line}");
        }
        let strict = std::env::var("CI").is_ok_and(|value| value == "true");
        for line in &self.missing {
            println!("NOT RUN{}: {line}", if strict { " (a failure, since CI=true)" } else { "" });
        }
        if strict {
            self.failed += self.missing.len();
        }
        for line in &self.failures {
            println!("FAILED: {line}");
        }
        println!("took {:.0} s", self.started.elapsed().as_secs_f64());
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

fn show_tail(log: &Path) -> Result<()> {
    let bytes = std::fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        println!("    | {line}");
    }
    Ok(())
}
