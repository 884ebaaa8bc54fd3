//! What every backend has to do, checked against a plain vector.

use std::path::Path;

use proptest::prelude::*;
use roadstead_consensus::door::{HardState, LogEntry, LogWrite};

use super::{Backend, Base, Log, LogError, open};

const BACKENDS: [Backend; 2] = [Backend::Sled, Backend::Redb];

fn entry(index: u64, term: u64, size: usize) -> LogEntry {
    let bytes = (0..size).map(|at| (at as u64 ^ index ^ (term << 3)) as u8).collect();
    LogEntry { index, term, bytes }
}

pub(super) fn entries(first: u64, count: u64, term: u64, size: usize) -> LogWrite {
    LogWrite { entries: (first..first + count).map(|index| entry(index, term, size)).collect(), ..LogWrite::default() }
}

/// What the log should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    hard_state: HardState,
    entries: Vec<LogEntry>,
    base: u64,
    base_term: u64,
}

impl Model {
    pub(super) fn next(&self) -> u64 {
        self.entries.last().map_or(self.base, |entry| entry.index) + 1
    }

    pub(super) fn write(&mut self, write: &LogWrite) {
        let first = write.entries.first().map(|first| first.index);
        let begins_after =
            write.begins_after.or(first.filter(|first| self.entries.is_empty() && *first > self.next()).map(|first| first - 1));
        if let Some(base) = begins_after {
            (self.base, self.base_term) = (base, 0);
            self.entries.clear();
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(write.entries.iter().cloned());
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }

    pub(super) fn compact(&mut self, through: u64) {
        if through > self.base {
            self.base_term = self.entries.iter().find(|entry| entry.index == through).map_or(0, |entry| entry.term);
            self.base = through;
            self.entries.retain(|entry| entry.index > through);
        }
    }

    pub(super) fn check(&self, log: &mut dyn Log) {
        assert_eq!(log.load().expect("a sound log is read"), (self.hard_state, self.entries.clone()));
        assert_eq!(log.base(), Base { index: self.base, term: self.base_term });
    }

    /// Whether this is what was read of a log.
    pub(super) fn is(&self, read: &(HardState, Vec<LogEntry>), base: Base) -> bool {
        (self.hard_state, &self.entries) == (read.0, &read.1) && (self.base, self.base_term) == (base.index, base.term)
    }
}

/// A log and its model, reopened after every step.
struct Pair<'a> {
    folder: &'a Path,
    backend: Backend,
    log: Option<Box<dyn Log>>,
    model: Model,
}

impl<'a> Pair<'a> {
    fn new(folder: &'a Path, backend: Backend) -> Self {
        let log = open(folder, backend).expect("a new log opens");
        Self { folder, backend, log: Some(log), model: Model::default() }
    }

    fn log(&mut self) -> &mut dyn Log {
        self.log.as_mut().expect("it is open between steps").as_mut()
    }

    fn write(&mut self, write: &LogWrite) {
        self.log().write(write).expect("there is room");
        self.model.write(write);
    }

    fn compact(&mut self, through: u64) {
        self.log().compact(through).expect("there is room");
        self.model.compact(through);
    }

    fn check(&mut self) {
        let model = self.model.clone();
        model.check(self.log());
    }

    fn reopen(&mut self) {
        self.check();
        self.log = None;
        self.log = Some(open(self.folder, self.backend).expect("a sound log opens"));
        self.check();
    }
}

fn on_each_backend(test: impl Fn(&mut Pair<'_>)) {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        test(&mut Pair::new(folder.path(), backend));
    }
}

#[test]
fn a_new_log_is_empty() {
    on_each_backend(|pair| pair.reopen());
}

#[test]
fn what_was_appended_is_there_after_every_reopen() {
    on_each_backend(|pair| {
        for (first, count, size) in [(1, 1, 10), (2, 5, 200), (7, 1, 0), (8, 3, 100_000), (11, 1, 4 << 20), (12, 500, 100)] {
            pair.write(&entries(first, count, 1, size));
            pair.reopen();
        }
    });
}

#[test]
fn a_write_cuts_off_everything_at_and_above_its_first_entry() {
    on_each_backend(|pair| {
        pair.write(&entries(1, 10, 1, 50));
        pair.write(&entries(11, 10, 1, 90_000));
        pair.write(&entries(15, 2, 2, 10));
        pair.reopen();
        pair.write(&entries(6, 1, 3, 10));
        pair.reopen();
        pair.write(&entries(7, 30, 3, 10));
        pair.write(&entries(1, 1, 4, 200_000));
        pair.reopen();
        pair.write(&entries(1, 1, 5, 1));
        pair.reopen();
    });
}

#[test]
fn the_hard_state_goes_with_the_entries_of_its_write() {
    on_each_backend(|pair| {
        let hard_state = Some(HardState { term: 3, vote: 7, commit: 0 });
        pair.write(&LogWrite { hard_state, ..LogWrite::default() });
        pair.reopen();
        let hard_state = Some(HardState { term: 4, vote: 9, commit: 1 });
        pair.write(&LogWrite { hard_state, ..entries(1, 2, 4, 30) });
        pair.reopen();
        pair.write(&entries(3, 1, 4, 30));
        pair.reopen();
    });
}

#[test]
fn a_compacted_log_begins_after_its_base() {
    on_each_backend(|pair| {
        for first in 1..=300 {
            pair.write(&entries(first, 1, 1 + first / 100, 30));
        }
        pair.compact(0);
        pair.compact(150);
        pair.reopen();
        pair.compact(299);
        pair.reopen();
        pair.write(&entries(301, 20, 5, 80_000));
        pair.compact(310);
        pair.reopen();
        pair.compact(1000);
        pair.reopen();
        pair.write(&entries(1001, 2, 9, 10));
        pair.reopen();
    });
}

#[test]
fn a_log_that_a_snapshot_overtook_begins_anew() {
    on_each_backend(|pair| {
        pair.write(&entries(1, 30, 1, 5_000));
        pair.write(&LogWrite { begins_after: Some(20), ..LogWrite::default() });
        pair.reopen();
        let hard_state = Some(HardState { term: 6, vote: 0, commit: 100 });
        pair.write(&LogWrite { begins_after: Some(100), hard_state, ..entries(101, 3, 6, 90_000) });
        pair.reopen();
    });
}

#[test]
fn an_empty_log_begins_where_its_first_entry_does() {
    on_each_backend(|pair| {
        pair.write(&entries(2, 3, 1, 10));
        pair.reopen();
        pair.compact(4);
        pair.write(&entries(8, 3, 1, 10));
        pair.reopen();
    });
}

#[test]
fn a_gap_or_a_compacted_index_is_refused() {
    on_each_backend(|pair| {
        pair.write(&entries(1, 5, 1, 10));
        pair.compact(3);
        for first in [1, 3, 7] {
            let refused = pair.log().write(&entries(first, 1, 1, 10));
            assert!(matches!(refused, Err(LogError::Io { .. })), "{refused:?}");
        }
        pair.reopen();
    });
}

#[test]
fn two_at_a_time_are_refused() {
    on_each_backend(|pair| {
        let second = open(pair.folder, pair.backend).map(|_| ());
        assert!(matches!(second, Err(LogError::Locked { .. })), "{second:?}");
        pair.write(&entries(1, 5, 1, 10));
        pair.reopen();
    });
}

#[test]
fn another_backend_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open(folder.path(), Backend::Redb).expect("a new log opens"));
    let error = open(folder.path(), Backend::Sled).map(|_| ()).expect_err("made with redb");
    assert!(error.to_string().contains("made with the log backend redb, not sled"), "{error}");
    drop(open(folder.path(), Backend::Redb).expect("it still opens as what it is"));
}

#[test]
fn a_log_without_its_backend_file_is_not_taken_for_a_new_one() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut log = open(folder.path(), backend).expect("a new log opens");
        log.write(&entries(1, 1, 1, 1)).expect("there is room");
        drop(log);
        std::fs::remove_file(folder.path().join("BACKEND")).expect("it was there");
        let refused = open(folder.path(), backend).map(|_| ());
        assert!(matches!(refused, Err(LogError::Damaged { .. })), "{refused:?}");
    }
}

#[test]
fn a_summary_that_sled_did_not_finish_does_no_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut pair = Pair::new(folder.path(), Backend::Sled);
    for first in 1..=20 {
        pair.write(&entries(first, 1, 1, 50_000));
    }
    pair.reopen();
    pair.log = None;
    // As it is left when there is no room for it; the number is that of a later place in the log.
    let torn = folder.path().join("sled/snap.0000000000FFFFFF.generating");
    std::fs::write(&torn, b"torn").expect("there is room");
    pair.log = Some(open(folder.path(), Backend::Sled).expect("a sound log opens"));
    pair.check();
    assert!(!torn.exists(), "what was not finished is left");
    pair.reopen();
}

#[test]
fn compacting_gives_space_back() {
    for backend in BACKENDS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut pair = Pair::new(folder.path(), backend);
        for first in 1..=6000 {
            pair.write(&entries(first, 1, 1, 20_000));
            if first % 50 == 0 {
                pair.compact(first - 20);
            }
        }
        pair.reopen();
        let bytes = bytes_of(folder.path());
        assert!(bytes < 48 << 20, "{backend}: {bytes} bytes on disk for 20 live entries of 20 kB, 120 MB were written");
    }
}

fn bytes_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).expect("a folder");
    files
        .map(|file| {
            let file = file.expect("a file");
            let about = file.metadata().expect("a file");
            if about.is_dir() { bytes_of(&file.path()) } else { about.blocks() * 512 }
        })
        .sum()
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, size: usize },
    Overwrite { back: u64, count: u64, size: usize },
    Vote { vote: u64 },
    Compact { back: u64 },
    Beyond,
    Overtaken { by: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 0usize..2_000, 2 => 50_000usize..150_000, 1 => 300_000usize..1_000_000];
    prop_oneof![
        6 => (1u64..40, size.clone()).prop_map(|(count, size)| Step::Append { count: if size > 10_000 { 1 + count % 4 } else { count }, size }),
        3 => (1u64..30, 1u64..20, 0usize..3_000).prop_map(|(back, count, size)| Step::Overwrite { back, count, size }),
        2 => (0u64..5).prop_map(|vote| Step::Vote { vote }),
        3 => (0u64..40).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Beyond),
        1 => (0u64..60).prop_map(|by| Step::Overtaken { by }),
        2 => Just(Step::Reopen),
    ]
}

fn play(pair: &mut Pair<'_>, steps: &[Step]) {
    for (term, step) in (1..).zip(steps) {
        let next = pair.model.next();
        match *step {
            Step::Append { count, size } => pair.write(&entries(next, count, term, size)),
            Step::Overwrite { back, count, size } => {
                let first = next.saturating_sub(back).max(pair.model.base + 1);
                pair.write(&entries(first, count, term, size));
            }
            Step::Vote { vote } => {
                pair.write(&LogWrite { hard_state: Some(HardState { term, vote, commit: next - 1 }), ..LogWrite::default() });
            }
            Step::Compact { back } => pair.compact((next - 1).saturating_sub(back)),
            Step::Beyond => pair.compact(next + 10),
            Step::Overtaken { by } => {
                let begins_after = Some((next + by).saturating_sub(30));
                pair.write(&LogWrite { begins_after, ..LogWrite::default() });
            }
            Step::Reopen => pair.reopen(),
        }
    }
    pair.reopen();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_history_reads_back_as_a_vector_would(steps in prop::collection::vec(step(), 1..40)) {
        on_each_backend(|pair| play(pair, &steps));
    }
}
