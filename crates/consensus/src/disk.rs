//! What is on its way to disk, and the messages that may leave only once it is there.
//!
//! It numbers the writes, and remembers which of raft-rs's readies each of them completes.

use std::collections::VecDeque;

use raft::eraftpb::Message;

/// A write that the driver has not yet confirmed.
#[derive(Debug)]
struct Write {
    number: u64,
    /// raft-rs's number of the newest ready that this write completes.
    ready: u64,
    /// Whether it holds a new term or vote.
    promises: bool,
    /// The snapshot that it installs.
    snapshot: Option<u64>,
    messages: Vec<Message>,
}

/// What a confirmed write sets free.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// Messages that waited for it.
    pub(crate) messages: Vec<Message>,
    /// raft-rs's ready that is now on disk.
    pub(crate) ready: Option<u64>,
    /// The snapshot that is now installed.
    pub(crate) snapshot: Option<u64>,
}

/// Writes on their way, in order.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    last: u64,
    writes: VecDeque<Write>,
}

impl Disk {
    /// A write begins; its number.
    pub(crate) fn begin(&mut self, ready: u64, promises: bool, snapshot: Option<u64>) -> u64 {
        self.last += 1;
        self.writes.push_back(Write { number: self.last, ready, promises, snapshot, messages: Vec::new() });
        self.last
    }

    /// A ready that had nothing to write is complete when everything before it is; `true` if that is now.
    pub(crate) fn join(&mut self, ready: u64) -> bool {
        match self.writes.back_mut() {
            Some(write) => {
                write.ready = ready;
                false
            }
            None => true,
        }
    }

    /// Keeps messages back until everything begun so far is on disk; gives them back if it is.
    pub(crate) fn hold(&mut self, mut messages: Vec<Message>) -> Vec<Message> {
        match self.writes.back_mut() {
            Some(write) => {
                write.messages.append(&mut messages);
                Vec::new()
            }
            None => messages,
        }
    }

    /// Whether a term or vote is on its way.
    pub(crate) fn promises_pending(&self) -> bool {
        self.writes.iter().any(|write| write.promises)
    }

    /// Whether a snapshot is being installed: raft-rs must not campaign until it is.
    pub(crate) fn snapshot_pending(&self) -> bool {
        self.writes.iter().any(|write| write.snapshot.is_some())
    }

    /// The write of this number and all before it are on disk.
    pub(crate) fn finish(&mut self, number: u64) -> Done {
        let mut done = Done::default();
        while let Some(write) = self.writes.pop_front_if(|write| write.number <= number) {
            done.messages.extend(write.messages);
            done.ready = Some(write.ready);
            done.snapshot = write.snapshot.or(done.snapshot);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_for_every_write_before_them() {
        let mut disk = Disk::default();
        assert_eq!(disk.hold(vec![Message::default()]).len(), 1, "nothing is on its way");
        assert_eq!((disk.begin(1, true, None), disk.begin(2, false, None)), (1, 2));
        assert!(disk.hold(vec![Message::default()]).is_empty());
        assert_eq!(disk.finish(1), Done { ready: Some(1), ..Done::default() });
        assert!(!disk.promises_pending());
        assert_eq!(disk.finish(2).messages.len(), 1);
    }

    #[test]
    fn a_ready_without_a_write_ends_with_the_one_before() {
        let mut disk = Disk::default();
        assert!(disk.join(1));
        disk.begin(2, false, Some(9));
        assert!(!disk.join(3));
        assert!(disk.snapshot_pending());
        assert_eq!(disk.finish(1), Done { ready: Some(3), snapshot: Some(9), ..Done::default() });
    }
}
