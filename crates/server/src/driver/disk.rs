//! The threads that wait for the disk in the driver's stead: one for the log, one for snapshots.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use roadstead_consensus::door::LogWrite;
use roadstead_consensus::member::Membership;
use roadstead_core::state::State;

use super::message::ToDriver;
use crate::log::Log;
use crate::metrics::Metrics;

/// Bytes that the log thread syncs together at most: what a slow disk writes in some ten milliseconds.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// What the log thread is asked to do.
enum LogJob {
    Write { number: u64, write: LogWrite },
    Compact { through: u64 },
}

/// A snapshot that is to be written.
pub(super) struct SnapshotJob {
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) membership: Membership,
    pub(super) state: Box<State>,
}

/// Writes a snapshot file, synced, and drops all but the two newest; the file's size.
pub type SnapshotWriter = Box<dyn FnMut(u64, u64, &Membership, &State) -> Result<u64, String> + Send>;

/// Both threads, and how far the log's writes are.
pub(super) struct Disk {
    log: Option<Sender<LogJob>>,
    snapshots: Option<Sender<SnapshotJob>>,
    threads: Vec<JoinHandle<()>>,
    written: u64,
    persisted: u64,
}

impl Disk {
    pub(super) fn start(
        log: Box<dyn Log>,
        snapshots: SnapshotWriter,
        driver: &Sender<ToDriver>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (log_jobs, log_queue) = channel();
        let (snapshot_jobs, snapshot_queue) = channel();
        let threads = vec![
            spawn("log", {
                let (driver, metrics) = (driver.clone(), Arc::clone(metrics));
                move || keep_log(log, &log_queue, &driver, &metrics)
            })?,
            spawn("snapshots", {
                let driver = driver.clone();
                move || keep_snapshots(snapshots, &snapshot_queue, &driver)
            })?,
        ];
        Ok(Self { log: Some(log_jobs), snapshots: Some(snapshot_jobs), threads, written: 0, persisted: 0 })
    }

    /// Writes that are not on disk yet.
    pub(super) fn in_flight(&self) -> u64 {
        self.written - self.persisted
    }

    pub(super) fn persist(&mut self, number: u64, write: LogWrite) {
        self.written = self.written.max(number);
        self.tell_log(LogJob::Write { number, write });
    }

    pub(super) fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
    }

    pub(super) fn compact(&self, through: u64) {
        self.tell_log(LogJob::Compact { through });
    }

    pub(super) fn take_snapshot(&self, job: SnapshotJob) {
        if let Some(snapshots) = &self.snapshots {
            // A thread that has failed has told the driver so.
            let _ = snapshots.send(job);
        }
    }

    fn tell_log(&self, job: LogJob) {
        if let Some(log) = &self.log {
            // A thread that has failed has told the driver so.
            let _ = log.send(job);
        }
    }

    /// Lets both threads finish what they have begun.
    pub(super) fn stop(&mut self) {
        self.log = None;
        self.snapshots = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread has panicked");
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Syncs everything that waits as one write.
fn keep_log(mut log: Box<dyn Log>, jobs: &Receiver<LogJob>, driver: &Sender<ToDriver>, metrics: &Metrics) {
    let mut waiting: Option<LogJob> = None;
    while let Some(job) = waiting.take().or_else(|| jobs.recv().ok()) {
        let result = match job {
            LogJob::Compact { through } => log.compact(through),
            LogJob::Write { mut number, mut write } => {
                let mut bytes = size(&write);
                while bytes < MAX_GROUP_BYTES {
                    match jobs.try_recv() {
                        Ok(LogJob::Write { number: next, write: more }) => {
                            bytes += size(&more);
                            number = next;
                            merge(&mut write, more);
                        }
                        Ok(other @ LogJob::Compact { .. }) => {
                            waiting = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let began = Instant::now();
                let result = log.write(&write);
                metrics.log_synced(began.elapsed(), bytes);
                if result.is_ok() && driver.send(ToDriver::Persisted(number)).is_err() {
                    return;
                }
                result
            }
        };
        if let Err(error) = result {
            // The driver has stopped already if it does not hear this.
            let _ = driver.send(ToDriver::Failed(error.to_string()));
            return;
        }
    }
}

fn size(write: &LogWrite) -> usize {
    write.entries.iter().map(|entry| entry.bytes.len()).sum()
}

/// Adds a later write to an earlier one, so that writing the sum is the same as writing both.
fn merge(earlier: &mut LogWrite, later: LogWrite) {
    if later.begins_after.is_some() {
        earlier.begins_after = later.begins_after;
        earlier.entries.clear();
    }
    if let Some(first) = later.entries.first() {
        let kept = earlier.entries.partition_point(|entry| entry.index < first.index);
        earlier.entries.truncate(kept);
    }
    earlier.entries.extend(later.entries);
    earlier.hard_state = later.hard_state.or(earlier.hard_state);
}

fn keep_snapshots(mut write: SnapshotWriter, jobs: &Receiver<SnapshotJob>, driver: &Sender<ToDriver>) {
    while let Ok(SnapshotJob { term, index, membership, state }) = jobs.recv() {
        let began = Instant::now();
        let message = match write(term, index, &membership, &state) {
            Ok(bytes) => ToDriver::SnapshotTaken { index, took: began.elapsed(), bytes },
            Err(error) => ToDriver::Failed(error),
        };
        if driver.send(message).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_consensus::door::{HardState, LogEntry};

    fn write(indexes: &[u64], term: u64) -> LogWrite {
        let entries = indexes.iter().map(|&index| LogEntry { index, term, bytes: vec![] }).collect();
        LogWrite { begins_after: None, entries, hard_state: None }
    }

    fn positions(write: &LogWrite) -> Vec<(u64, u64)> {
        write.entries.iter().map(|entry| (entry.index, entry.term)).collect()
    }

    #[test]
    fn a_merged_write_cuts_off_what_the_later_one_cuts_off() {
        let mut sum = write(&[5, 6, 7], 1);
        merge(&mut sum, write(&[6], 2));
        assert_eq!(positions(&sum), [(5, 1), (6, 2)]);
        merge(&mut sum, write(&[3], 3));
        assert_eq!(positions(&sum), [(3, 3)]);
    }

    #[test]
    fn a_merged_write_keeps_the_last_hard_state_and_begins_where_a_snapshot_ends() {
        let mut sum = write(&[5], 1);
        sum.hard_state = Some(HardState { term: 1, vote: 1, commit: 4 });
        merge(&mut sum, LogWrite { begins_after: Some(9), ..write(&[10], 2) });
        assert_eq!((sum.begins_after, positions(&sum)), (Some(9), vec![(10, 2)]));
        assert_eq!(sum.hard_state.map(|state| state.term), Some(1));
    }
}
