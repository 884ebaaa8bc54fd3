//! Power loss: the log lies on a file system of its own, whose device is copied while its writer is held up wherever it happens to be.
//! The copy is what a disk has after the power went: what was synced, and of the rest whatever the kernel had written by itself.
//!
//! Takes root, for the mounts; elsewhere it is named as not run. The writer is a process of its own: this test again, started with
//! [`WRITER`] set.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use roadstead_consensus::door::{HardState, LogEntry, LogWrite};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::conformance::{Model, entries};
use super::{Backend, LogError, open, open_with};

/// Losses of power for each backend.
const ROUNDS: u64 = 110;
/// The variable that tells a writer its folder, backend, seed, and whether it syncs.
const WRITER: &str = "ROADSTEAD_POWER_LOSS_WRITER";
/// The smallest batch.
const MIN_BATCH_BYTES: usize = 1 << 10;
/// The largest batch: as much as the log thread syncs together.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// What a writer writes in one round at most; the device holds several times as much.
const MAX_ROUND_BYTES: usize = 16 << 20;
/// Steps of one round at most.
const MAX_STEPS: usize = 30;
/// The device, made sparse.
const DEVICE_BYTES: u64 = 256 << 20;
/// The power goes at most so long after an acknowledgement: about as long as the largest batch takes.
const MAX_DELAY_US: u64 = 6_000;
/// How long a writer may take for its steps.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that look drawn; the same seed draws the same ones in both processes.
struct Drawn(u64);

impl Drawn {
    fn new(seed: u64) -> Self {
        let mut drawn = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        drawn.below(2);
        drawn
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// As often of one order of magnitude as of another; one in eight is the largest.
    fn batch_bytes(&mut self) -> usize {
        let doublings = u64::from((MAX_BATCH_BYTES / MIN_BATCH_BYTES).ilog2());
        if self.below(8) == 0 {
            return MAX_BATCH_BYTES;
        }
        let low = MIN_BATCH_BYTES << self.below(doublings);
        low + self.below(low as u64) as usize
    }
}

/// What a writer does, one after the other.
enum Step {
    Write(LogWrite),
    Compact(u64),
    /// As after a restart.
    Reopen,
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Self::Write(write) => write.entries.iter().map(|entry| entry.bytes.len()).sum(),
            Self::Compact(_) | Self::Reopen => 0,
        }
    }

    fn on_model(&self, model: &mut Model) {
        match self {
            Self::Write(write) => model.write(write),
            Self::Compact(through) => model.compact(*through),
            Self::Reopen => {}
        }
    }
}

fn steps(seed: u64) -> Vec<Step> {
    let (mut drawn, mut model, mut steps, mut bytes) = (Drawn::new(seed), Model::default(), Vec::new(), 0);
    let mut lowest = 1;
    while steps.len() < MAX_STEPS && bytes < MAX_ROUND_BYTES {
        let (next, term) = (model.next(), steps.len() as u64 + 1);
        let step = match drawn.below(20) {
            19 => Step::Reopen,
            0 => Step::Write(LogWrite { hard_state: Some(HardState { term, vote: drawn.below(5), commit: 0 }), ..LogWrite::default() }),
            1..=3 if next > lowest => {
                let through = next - 1 - drawn.below((next - lowest).min(10));
                lowest = lowest.max(through + 1);
                Step::Compact(through)
            }
            kind => {
                // One in ten cuts off what an earlier leader had written.
                let first = if kind < 6 { next.saturating_sub(drawn.below(6)).max(lowest) } else { next };
                let count = 1 + drawn.below(8);
                Step::Write(entries(first, count, term, drawn.batch_bytes() / count as usize))
            }
        };
        bytes += step.bytes();
        step.on_model(&mut model);
        steps.push(step);
    }
    steps
}

/// Does the steps, and says after each that it is done. Ends only by being killed.
fn write_until_the_power_goes(what: &str) -> ! {
    let mut words = what.split(' ');
    let mut word = || words.next().expect("four words");
    let (folder, backend, seed, skip_sync) = (PathBuf::from(word()), word(), word(), word());
    let backend: Backend = backend.parse().expect("a backend");
    let begin = || open_with(&folder, backend, skip_sync == "true").expect("a sound log opens");
    let mut log = Some(begin());
    let acknowledge = |done: usize| writeln!(std::io::stderr(), "{done}").expect("somebody listens");
    acknowledge(0);
    for (number, step) in (1..).zip(steps(seed.parse().expect("a seed"))) {
        let open = log.as_mut().expect("it is open between steps");
        match step {
            Step::Write(write) => open.write(&write).expect("there is room"),
            Step::Compact(through) => open.compact(through).expect("there is room"),
            Step::Reopen => {
                drop(log.take());
                log = Some(begin());
            }
        }
        acknowledge(number);
    }
    loop {
        std::thread::park();
    }
}

/// A writer that is killed at last.
struct Writer {
    child: Child,
    said: PathBuf,
}

impl Writer {
    fn start(test: &str, folder: &Path, said: PathBuf, backend: Backend, seed: u64, skip_sync: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a test has a program"));
        command.args(["--exact", &format!("log::power_loss::{test}"), "--nocapture", "--test-threads=1"]);
        command.env(WRITER, format!("{} {backend} {seed} {skip_sync}", folder.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).expect("a file for what it says"));
        Self { child: command.spawn().expect("the writer starts"), said }
    }

    /// The last step that it has acknowledged.
    fn acknowledged(&self) -> Option<usize> {
        let said = std::fs::read_to_string(&self.said).expect("it is text");
        said.lines().last()?.parse().ok()
    }

    fn wait_for(&mut self, step: usize) {
        let begun = Instant::now();
        while self.acknowledged().is_none_or(|done| done < step) {
            let ended = self.child.try_wait().expect("it is ours");
            let said = || std::fs::read_to_string(&self.said).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "the writer does not get to step {step} ({ended:?}): {}", said());
            std::thread::yield_now();
        }
    }

    /// Holds it up in whatever it is doing.
    fn hold(&self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::STOP).expect("it lives");
        waitpid(Some(id), WaitOptions::UNTRACED).expect("it is ours").expect("it has stopped");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{} cannot be run: {error}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{} failed: {}", command.get_program().display(), said.trim())) }
}

/// A device (a file) that is mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, at: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        // What is not synced stays in memory: the file system does not commit by itself meanwhile.
        done(Command::new("mount").args(["-t", "ext4", "-o", "loop,commit=300"]).arg(device).arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(why) = done(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("{why}");
        }
    }
}

/// Where devices lie: in memory if possible, because what they are copied from is no disk anyway.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("roadstead-power-").tempdir_in(parent).expect("a temporary folder")
}

/// An empty file system to begin each round with, or why there can be none.
fn template(folder: &Path) -> Result<PathBuf, String> {
    let device = folder.join("template");
    File::create(&device).and_then(|file| file.set_len(DEVICE_BYTES)).map_err(|error| error.to_string())?;
    done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&device))?;
    Mounted::new(&device, folder.join("tried")).map(drop)?;
    Ok(device)
}

fn copy_device(from: &Path, to: &Path) {
    done(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).expect("there is room for a copy");
}

/// Lets the kernel write some pages of the log's file of its own accord, in whatever order.
fn write_back_some(folder: &Path, drawn: &mut Drawn) {
    let names = [folder.join("sled/db"), folder.join("redb/log.redb")];
    let Some(file) = names.iter().find_map(|name| File::open(name).ok()) else { return };
    let pages = file.metadata().expect("it is open").size() / 4096 + 1;
    for _ in 0..drawn.below(20) {
        let at = drawn.below(pages) * 4096;
        let len = std::num::NonZeroU64::new(4096 * (1 + drawn.below(32)));
        rustix::fs::fadvise(&file, at, len, rustix::fs::Advice::DontNeed).expect("advice is taken");
    }
}

/// What the disk had.
#[derive(Debug, PartialEq)]
enum Found {
    /// This many steps, and at least those that were acknowledged.
    Steps(usize),
    /// Less, or something else, or nothing that can be opened.
    Lost(String),
}

/// One loss of power: how many steps were acknowledged before it, and what was found afterwards.
fn lose_power(test: &str, folder: &Path, template: &Path, backend: Backend, seed: u64, skip_sync: bool) -> (usize, Found) {
    let steps = steps(seed);
    let mut drawn = Drawn::new(seed ^ 0x5bd1_e995);
    let (device, after) = (folder.join("device"), folder.join("after"));
    copy_device(template, &device);
    let acknowledged = {
        let mounted = Mounted::new(&device, folder.join("before-loss")).expect("it was possible before");
        let log = mounted.0.join("log");
        let mut writer = Writer::start(test, &log, folder.join("said"), backend, seed, skip_sync);
        writer.wait_for(drawn.below(steps.len() as u64 + 1) as usize);
        // Not a wait for anything: the moment is drawn.
        let delay = Instant::now() + Duration::from_micros(drawn.below(MAX_DELAY_US));
        while Instant::now() < delay {
            std::hint::spin_loop();
        }
        writer.hold();
        let acknowledged = writer.acknowledged().expect("it had acknowledged something");
        write_back_some(&log, &mut drawn);
        copy_device(&device, &after);
        acknowledged
    };
    let mounted = Mounted::new(&after, folder.join("after-loss")).expect("a journal is replayed");
    (acknowledged, look(&mounted.0.join("log"), backend, &steps, acknowledged))
}

fn look(folder: &Path, backend: Backend, steps: &[Step], acknowledged: usize) -> Found {
    let read = open(folder, backend).and_then(|mut log| {
        let read = log.load()?;
        let base = log.base();
        // It has to be of use, too.
        let next = read.1.last().map_or(base.index, |last| last.index) + 1;
        let more = LogWrite { entries: vec![LogEntry { index: next, term: u64::MAX, bytes: vec![7; 9] }], ..LogWrite::default() };
        log.write(&more)?;
        let (_, longer) = log.load()?;
        Ok::<_, LogError>((longer.len() == read.1.len() + 1).then_some((read, base)))
    });
    let (read, base) = match read {
        Ok(Some(read)) => read,
        Ok(None) => return Found::Lost("an entry written afterwards is not there".to_owned()),
        Err(error) => return Found::Lost(error.to_string()),
    };
    // A compaction after the last synced write need not have reached the disk.
    let synced = steps[..acknowledged].iter().rposition(|step| matches!(step, Step::Write(_))).map_or(0, |last| last + 1);
    let mut model = Model::default();
    for count in 0..=(acknowledged + 1).min(steps.len()) {
        if count > 0 {
            steps[count - 1].on_model(&mut model);
        }
        if count >= synced && model.is(&read, base) {
            return Found::Steps(count);
        }
    }
    Found::Lost(format!("entries {:?} after {base:?}", read.1.first().zip(read.1.last()).map(|(first, last)| (first.index, last.index))))
}

/// A line that `cargo xtask test` repeats in its summary; not `println!`, which is shown for tests that fail only.
fn not_run(test: &str, why: &str) {
    writeln!(std::io::stdout(), "\nnot run: {test}: {why}").expect("somebody listens");
}

/// A folder with an empty file system in it; nothing where there can be none, which is said. In a writer's process it does not return.
fn set_up(test: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    if let Ok(what) = std::env::var(WRITER) {
        write_until_the_power_goes(&what);
    }
    let folder = scratch();
    match template(folder.path()) {
        Ok(template) => Some((folder, template)),
        Err(why) => {
            not_run(test, &why);
            None
        }
    }
}

fn survives(test: &str, backend: Backend) {
    let Some((folder, template)) = set_up(test) else { return };
    let (mut sizes, mut further, mut total) = (Vec::new(), 0, 0);
    for seed in 0..ROUNDS {
        let (acknowledged, found) = lose_power(test, folder.path(), &template, backend, seed, false);
        let Found::Steps(count) = found else { panic!("{backend}, seed {seed}, {acknowledged} steps acknowledged: {found:?}") };
        sizes.extend(steps(seed)[..acknowledged].iter().map(Step::bytes).filter(|bytes| *bytes > 0));
        further += usize::from(count > acknowledged);
        total += acknowledged;
    }
    let (smallest, largest) = (sizes.iter().min().copied().unwrap_or(0), sizes.iter().max().copied().unwrap_or(0));
    println!(
        "{backend}: {ROUNDS} losses, {total} steps acknowledged, batches of {smallest} to {largest} bytes; {further} times one more was there"
    );
    assert!(smallest < 2 * MIN_BATCH_BYTES && largest > MAX_BATCH_BYTES - 16, "batches of {smallest} to {largest} bytes were acknowledged");
}

fn finds(test: &str, backend: Backend) {
    let Some((folder, template)) = set_up(test) else { return };
    let lost = (0..ROUNDS).find_map(|seed| match lose_power(test, folder.path(), &template, backend, seed, true) {
        (_, Found::Steps(_)) => None,
        (acknowledged, Found::Lost(what)) => Some((seed, acknowledged, what)),
    });
    let (seed, acknowledged, what) = lost.expect("a log that does not sync loses something");
    println!("{backend}: without syncs, seed {seed} finds after {acknowledged} steps: {what}");
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power_by_sled() {
    survives("nothing_acknowledged_is_lost_with_the_power_by_sled", Backend::Sled);
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power_by_redb() {
    survives("nothing_acknowledged_is_lost_with_the_power_by_redb", Backend::Redb);
}

#[test]
fn a_skipped_sync_of_sled_is_found() {
    finds("a_skipped_sync_of_sled_is_found", Backend::Sled);
}

#[test]
fn a_skipped_sync_of_redb_is_found() {
    finds("a_skipped_sync_of_redb_is_found", Backend::Redb);
}
