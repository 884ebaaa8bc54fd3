//! The log over any backend: one run per write, verified whole when it is read. It knows no backend.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use roadstead_consensus::door::{HardState, LogEntry, LogWrite};

use super::mark::Mark;
use super::record::{HEAD_KEY, Head, decode_part, decode_run, encode_run, fingerprint, parse_run_key, run_key};
use super::store::{Change, Durability, Store};
use super::{Base, Log, LogError};

/// Runs that one step of a compaction drops: sled gives space back only if it is asked often for a little.
const RUNS_PER_STEP: usize = 64;

/// One run that is kept.
#[derive(Debug)]
struct Run {
    /// Terms of its entries by index, as (first index of a stretch, term).
    terms: Vec<(u64, u64)>,
    /// Its last index, if nothing cut it off.
    last: u64,
    /// Fingerprint of each of its values.
    parts: Vec<u64>,
}

/// The log.
pub(super) struct RunLog<S> {
    folder: PathBuf,
    store: S,
    mark: Mark,
    head: Head,
    runs: BTreeMap<u64, Run>,
    /// What was read when it was opened, till it is loaded or changed.
    opened: Option<Vec<LogEntry>>,
}

impl<S: Store> RunLog<S> {
    /// Takes over an open backend and verifies what is in it; `fresh` if the folder was made just now.
    pub(super) fn open(folder: &Path, mut store: S, fresh: bool) -> Result<Self, LogError> {
        if fresh {
            let change = Change { puts: vec![(HEAD_KEY.to_vec(), Head::default().encode())], deletes: Vec::new() };
            store.commit(change, Durability::Synced)?;
        }
        let mark = Mark::open(folder, fresh)?;
        let mut log = Self { folder: folder.to_owned(), store, mark, head: Head::default(), runs: BTreeMap::new(), opened: None };
        log.opened = Some(log.read()?);
        Ok(log)
    }

    fn damaged(&self, what: impl Into<String>) -> LogError {
        LogError::Damaged { path: self.folder.display().to_string(), what: what.into() }
    }

    fn refused(&self, what: String) -> LogError {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
        LogError::Io { action: "write", path: self.folder.display().to_string(), source }
    }

    /// Reads and verifies everything; fills `head` and `runs`.
    fn read(&mut self) -> Result<Vec<LogEntry>, LogError> {
        let mut scan = Scan::default();
        let folder = self.folder.display().to_string();
        let damaged = |what| LogError::Damaged { path: folder.clone(), what };
        self.store.scan(&mut |key, value| scan.visit(key, value).map_err(damaged))?;
        let (head, runs, entries) = scan.finish().map_err(|what| self.damaged(what))?;
        if head.sequence < self.mark.acknowledged() {
            let lost = self.mark.acknowledged() - head.sequence;
            return Err(self.damaged(format!("its last {lost} acknowledged writes are missing")));
        }
        self.head = head;
        self.runs = runs;
        Ok(entries)
    }

    /// Makes a change with the head that belongs to it.
    fn commit(&mut self, mut change: Change, mut head: Head, durability: Durability) -> Result<(), LogError> {
        for (key, value) in &change.puts {
            head.sum ^= fingerprint(key, value);
            head.values += 1;
        }
        self.opened = None;
        change.puts.push((HEAD_KEY.to_vec(), head.encode()));
        self.store.commit(change, durability)?;
        self.head = head;
        if durability == Durability::Synced {
            self.mark.set(head.sequence)?;
        }
        Ok(())
    }

    /// Takes runs out, by first index; what they were counts no more in `head`.
    fn drop_runs(&mut self, firsts: &[u64], head: &mut Head, change: &mut Change) {
        for first in firsts {
            let Some(run) = self.runs.remove(first) else { continue };
            for (part, print) in (0..).zip(run.parts) {
                head.sum ^= print;
                head.values -= 1;
                change.deletes.push(run_key(*first, part));
            }
        }
    }

    fn check_order(&self, head: &Head, write: &LogWrite) -> Result<(), LogError> {
        let Some(first) = write.entries.first() else { return Ok(()) };
        if first.index <= head.compacted {
            return Err(self.refused(format!("entry {} is at or below {}, which was compacted", first.index, head.compacted)));
        }
        if first.index > head.last + 1 {
            return Err(self.refused(format!("entry {} would leave a gap after {}", first.index, head.last)));
        }
        let ascending = write.entries.windows(2).all(|pair| pair[1].index == pair[0].index + 1);
        if ascending { Ok(()) } else { Err(self.refused("entries are not in order".to_owned())) }
    }
}

impl<S: Store> Log for RunLog<S> {
    fn write(&mut self, write: &LogWrite) -> Result<(), LogError> {
        let mut head = self.head;
        head.sequence += 1;
        if let Some(hard_state) = write.hard_state {
            head.hard_state = hard_state;
        }
        let newly_based = match (write.begins_after, write.entries.first()) {
            (Some(base), _) => Some(base),
            // A log without entries begins where its first one does.
            (None, Some(first)) if head.last == head.compacted && first.index > head.last + 1 => Some(first.index - 1),
            (None, _) => None,
        };
        if let Some(base) = newly_based {
            head = Head { compacted: base, compacted_term: 0, last: base, ..head };
        }
        self.check_order(&head, write)?;
        let mut change = Change::default();
        let mut written = None;
        if newly_based.is_some() {
            let all: Vec<u64> = self.runs.keys().copied().collect();
            self.drop_runs(&all, &mut head, &mut change);
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            let cut: Vec<u64> = self.runs.range(first.index..).map(|(first, _)| *first).collect();
            self.drop_runs(&cut, &mut head, &mut change);
            change.puts = encode_run(head.sequence, &write.entries);
            let put: BTreeSet<&[u8]> = change.puts.iter().map(|(key, _)| key.as_slice()).collect();
            change.deletes.retain(|key| !put.contains(key.as_slice()));
            head.last = last.index;
            let parts = change.puts.iter().map(|(key, value)| fingerprint(key, value)).collect();
            written = Some((first.index, Run { terms: terms_of(&write.entries), last: last.index, parts }));
        }
        self.commit(change, head, Durability::Synced)?;
        self.runs.extend(written);
        Ok(())
    }

    fn load(&mut self) -> Result<(HardState, Vec<LogEntry>), LogError> {
        let entries = match self.opened.take() {
            Some(entries) => entries,
            None => self.read()?,
        };
        Ok((self.head.hard_state, entries))
    }

    fn base(&self) -> Base {
        Base { index: self.head.compacted, term: self.head.compacted_term }
    }

    fn compact(&mut self, through: u64) -> Result<(), LogError> {
        while self.head.compacted < through {
            let target = self.head.last.min(through);
            let mut covered: Vec<(u64, u64)> = Vec::new();
            for (first, end) in visible(&self.runs) {
                if end > target || covered.len() == RUNS_PER_STEP {
                    break;
                }
                covered.push((first, end));
            }
            let full_step = covered.len() == RUNS_PER_STEP;
            let step_end = match covered.last() {
                Some((_, end)) if full_step => *end,
                Some(_) | None => through,
            };
            let mut head = self.head;
            head.sequence += 1;
            head.compacted_term = self.term_at(step_end);
            head.compacted = step_end;
            head.last = head.last.max(step_end);
            let mut change = Change::default();
            let firsts: Vec<u64> = covered.into_iter().map(|(first, _)| first).collect();
            self.drop_runs(&firsts, &mut head, &mut change);
            self.commit(change, head, Durability::Later)?;
        }
        Ok(())
    }
}

impl<S> RunLog<S> {
    /// The term of a kept entry; 0 if there is none.
    fn term_at(&self, index: u64) -> u64 {
        let run = self.runs.range(..=index).next_back();
        match run {
            Some((_, run)) if run.last >= index => {
                run.terms.iter().take_while(|(from, _)| *from <= index).last().map_or(0, |(_, term)| *term)
            }
            Some(_) | None => 0,
        }
    }
}

/// Every run's first index and the last one that no later run has cut off.
fn visible(runs: &BTreeMap<u64, Run>) -> impl Iterator<Item = (u64, u64)> + '_ {
    runs.iter().map(|(first, run)| {
        let next = runs.range(first + 1..).next().map(|(next, _)| *next);
        (*first, next.map_or(run.last, |next| run.last.min(next - 1)))
    })
}

fn terms_of(entries: &[LogEntry]) -> Vec<(u64, u64)> {
    let mut terms: Vec<(u64, u64)> = Vec::new();
    for entry in entries {
        if terms.last().is_none_or(|(_, term)| *term != entry.term) {
            terms.push((entry.index, entry.term));
        }
    }
    terms
}

/// Puts the log together from everything that is in a backend, in order of keys.
#[derive(Default)]
struct Scan {
    head: Option<Head>,
    values: u64,
    sum: u64,
    runs: BTreeMap<u64, Run>,
    entries: Vec<LogEntry>,
    open: Option<OpenRun>,
}

/// A run of which not all parts were seen yet.
struct OpenRun {
    first: u64,
    sequence: u64,
    parts: u32,
    prints: Vec<u64>,
    payload: Vec<u8>,
}

impl Scan {
    fn visit(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if key == HEAD_KEY {
            self.head = Some(Head::decode(value)?);
            return Ok(());
        }
        let (first, number) = parse_run_key(key)?;
        let part = decode_part(key, value)?;
        self.values += 1;
        let print = fingerprint(key, value);
        self.sum ^= print;
        if number == 0 {
            self.close_run()?;
            self.open = Some(OpenRun { first, sequence: part.sequence, parts: part.parts, prints: Vec::new(), payload: Vec::new() });
        }
        let open = self.open.as_mut().ok_or("a run misses its first part")?;
        let expected = (open.first, open.prints.len() as u64, open.sequence, open.parts);
        if expected != (first, u64::from(number), part.sequence, part.parts) {
            return Err(format!("the run at {} misses a part", open.first));
        }
        open.prints.push(print);
        open.payload.extend_from_slice(part.payload);
        Ok(())
    }

    fn close_run(&mut self) -> Result<(), String> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.prints.len() != open.parts as usize {
            return Err(format!("the run at {} misses a part", open.first));
        }
        let entries = decode_run(open.first, &open.payload)?;
        let last = entries.last().ok_or_else(|| format!("the run at {} is empty", open.first))?.index;
        // A later run has a greater first index than every run that it left in place.
        let keep = self.entries.partition_point(|entry| entry.index < open.first);
        self.entries.truncate(keep);
        if self.entries.last().is_some_and(|entry| entry.index + 1 != open.first) {
            return Err(format!("entries before {} are missing", open.first));
        }
        self.runs.insert(open.first, Run { terms: terms_of(&entries), last, parts: open.prints });
        self.entries.extend(entries);
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "taken apart where it is called, once")]
    fn finish(mut self) -> Result<(Head, BTreeMap<u64, Run>, Vec<LogEntry>), String> {
        self.close_run()?;
        let head = self.head.ok_or("its head is missing")?;
        if (self.values, self.sum) != (head.values, head.sum) {
            return Err(format!("its {} values are not the {} that were written", self.values, head.values));
        }
        let first = self.entries.first().map_or(head.last + 1, |entry| entry.index);
        let last = self.entries.last().map_or(head.compacted, |entry| entry.index.max(head.compacted));
        if first > head.compacted + 1 || last != head.last {
            return Err(format!("entries {} to {} were written, {first} to {last} are there", head.compacted + 1, head.last));
        }
        self.entries.retain(|entry| entry.index > head.compacted);
        Ok((head, self.runs, self.entries))
    }
}
