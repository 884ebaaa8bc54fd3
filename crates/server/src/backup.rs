//! Backups: a consistent copy of the state as one file that ends in its own checksum, and the way back.
//!
//! The file is a snapshot file (see [`crate::snapshots`]) and a trailer: [`MARK`] and the BLAKE3 hash of everything before it. It is written to the
//! data folder first, so that a slow receiver keeps no copy of the state alive.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use roadstead_core::id::Revision;
use roadstead_core::state::State;

use crate::handle::{Handle, ReadError};
use crate::snapshots::{self, Header, SnapshotError};

/// Begins the trailer.
const MARK: &[u8; 8] = b"RSBACKUP";
/// Bytes of the trailer: the mark and a BLAKE3 hash.
const TRAILER_BYTES: u64 = 8 + 32;
/// Bytes of one piece of a backup: below the default limit of a gRPC message.
const PIECE_BYTES: usize = 1 << 20;
/// The largest backup that is taken back: a million tenants take well below 1 GiB.
const MAX_BACKUP_BYTES: u64 = 16 << 30;
/// The folder for backups on their way, within the data folder.
pub(crate) const FOLDER: &str = "backups";

/// Why a backup was not made, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file could not be written or understood.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It is no whole backup.
    #[error("this is no whole backup: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The file system failed.
    #[error("failed to {action} the backup's file: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The task that did it has ended early.
    #[error("the work on the backup was broken off")]
    BrokenOff,
}

/// A file that goes when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Scratch {
    fn new(folder: &Path) -> Result<Self, BackupError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(folder).map_err(io("create the folder of"))?;
        Ok(Self(folder.join(format!("{}.unfinished", COUNT.fetch_add(1, Ordering::Relaxed)))))
    }
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> BackupError {
    move |source| BackupError::Io { action, source }
}

/// A backup that can be sent away.
#[derive(Debug)]
pub struct Backup {
    /// What it reflects.
    pub revision: Revision,
    /// Its size.
    pub total_bytes: u64,
    file: File,
    _scratch: Scratch,
}

impl Backup {
    /// The next piece; `None` at the end. Blocks for a read from the disk.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, BackupError> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut self.file).take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(io("read"))?;
        Ok((read > 0).then(|| Bytes::from(piece)))
    }
}

impl Handle {
    /// Makes a backup of the newest state that was acknowledged.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        let state = self.read(true).await?;
        let role = self.role().borrow().clone();
        let revision = state.revision();
        let header = Header { group: self.group(), term: role.term, index: revision.index, membership: role.membership };
        let folder = self.scratch_folder().to_owned();
        let made = tokio::task::spawn_blocking(move || make(&folder, &header, &state));
        let (file, total_bytes, scratch) = made.await.map_err(|_| BackupError::BrokenOff)??;
        Ok(Backup { revision, total_bytes, file, _scratch: scratch })
    }

    /// Takes a backup in, piece by piece.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn receive_backup(&self) -> Result<Incoming, BackupError> {
        let scratch = Scratch::new(self.scratch_folder())?;
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&scratch.0).map_err(io("create"))?;
        Ok(Incoming { scratch, file, bytes: 0 })
    }
}

fn make(folder: &Path, header: &Header, state: &State) -> Result<(File, u64, Scratch), BackupError> {
    let scratch = Scratch::new(folder)?;
    snapshots::write_backup(&scratch.0, header, state)?;
    let mut file = File::options().read(true).write(true).open(&scratch.0).map_err(io("open"))?;
    let hash = hash(&mut file)?;
    file.write_all(MARK).and_then(|()| file.write_all(hash.as_bytes())).map_err(io("write"))?;
    let total_bytes = file.stream_position().map_err(io("measure"))?;
    file.seek(SeekFrom::Start(0)).map_err(io("rewind"))?;
    Ok((file, total_bytes, scratch))
}

fn hash(reader: &mut impl Read) -> Result<blake3::Hash, BackupError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = reader.read(&mut buffer).map_err(io("read"))?;
        if read == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&buffer[..read]);
    }
}

/// A backup on its way in.
#[derive(Debug)]
pub struct Incoming {
    scratch: Scratch,
    file: File,
    bytes: u64,
}

impl Incoming {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if it grows past any backup, or [`BackupError::Io`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), BackupError> {
        self.bytes += piece.len() as u64;
        if self.bytes > MAX_BACKUP_BYTES {
            return Err(damaged("it is larger than any backup"));
        }
        self.file.write_all(piece).map_err(io("write"))
    }

    /// Verifies and decodes what has come, ready for [`Handle::restore`].
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn finish(self) -> Result<Box<State>, BackupError> {
        tokio::task::spawn_blocking(move || self.verify()).await.map_err(|_| BackupError::BrokenOff)?
    }

    fn verify(mut self) -> Result<Box<State>, BackupError> {
        let content = self.bytes.checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let mut trailer = [0; TRAILER_BYTES as usize];
        self.file.seek(SeekFrom::Start(content)).and_then(|_| self.file.read_exact(&mut trailer)).map_err(io("read"))?;
        let (mark, expected) = trailer.split_at(MARK.len());
        if mark != MARK {
            return Err(damaged("it does not end as a backup does"));
        }
        self.file.set_len(content).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(io("cut"))?;
        if hash(&mut self.file)?.as_bytes() != expected {
            return Err(damaged("its checksum does not match"));
        }
        Ok(Box::new(snapshots::read_backup(&self.scratch.0)?.state))
    }
}

fn damaged(what: &str) -> BackupError {
    BackupError::Damaged { what: what.to_owned() }
}
