//! The mark: how far the log was acknowledged, kept outside the backend.
//!
//! A backend that finds its newest records damaged may take them for writes that were never finished, and drop them in silence. The
//! mark, written after every synced write, tells that they had been acknowledged. It is not synced itself: after a power loss it
//! may be older than the log, never newer. Two slots in two disk sectors are written in turns, so that one is always whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::store::io_error;
use super::{LogError, sync_folder};

/// Name of the file in the log's folder.
const FILE: &str = "MARK";
/// Bytes between the slots: a disk writes a sector of 512 bytes whole or not at all.
const SLOT_BYTES: u64 = 512;
/// Bytes of a slot that are used: sequence number, checksum.
const USED_BYTES: usize = 12;

/// The mark of one open log.
pub(super) struct Mark {
    path: PathBuf,
    file: File,
    acknowledged: u64,
}

impl Mark {
    /// Opens the mark; `fresh` makes one for a log that has none yet.
    pub(super) fn open(folder: &Path, fresh: bool) -> Result<Self, LogError> {
        let path = folder.join(FILE);
        let damaged = |what: &str| LogError::Damaged { path: folder.display().to_string(), what: what.to_owned() };
        if fresh {
            let file = File::create(&path).map_err(|source| io_error("create", &path, source))?;
            let mut bytes = vec![0; 2 * SLOT_BYTES as usize];
            for slot in 0..2 {
                let at = slot * SLOT_BYTES as usize;
                bytes[at..at + USED_BYTES].copy_from_slice(&encode(0));
            }
            file.write_all_at(&bytes, 0).map_err(|source| io_error("write", &path, source))?;
            file.sync_all().map_err(|source| io_error("sync", &path, source))?;
            sync_folder(folder)?;
        }
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(damaged("MARK is missing")),
            Err(source) => return Err(io_error("open", &path, source)),
        };
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        let acknowledged = slots.into_iter().flatten().max().ok_or_else(|| damaged("both slots of MARK fail their checksum"))?;
        Ok(Self { path, file, acknowledged })
    }

    /// The sequence number of the last write that is known to have been acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Marks a synced write.
    pub(super) fn set(&mut self, sequence: u64) -> Result<(), LogError> {
        let offset = (sequence % 2) * SLOT_BYTES;
        self.file.write_all_at(&encode(sequence), offset).map_err(|source| io_error("write", &self.path, source))?;
        self.acknowledged = sequence;
        Ok(())
    }
}

fn encode(sequence: u64) -> [u8; USED_BYTES] {
    let mut slot = [0; USED_BYTES];
    slot[..8].copy_from_slice(&sequence.to_le_bytes());
    slot[8..].copy_from_slice(&crc32fast::hash(&sequence.to_le_bytes()).to_le_bytes());
    slot
}

fn read_slot(file: &File, slot: u64) -> Option<u64> {
    let mut bytes = [0; USED_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (sequence, _) = bytes.split_first_chunk::<8>()?;
    let sequence = u64::from_le_bytes(*sequence);
    (encode(sequence) == bytes).then_some(sequence)
}
