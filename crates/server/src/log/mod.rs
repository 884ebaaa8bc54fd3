//! The Raft log on disk: one trait, two backends, one conformance suite.
//!
//! It knows entries and a hard state as bytes; what they mean is Raft's business. Modules in reading order: `record` (layout and
//! checksums), `store` (what a backend has to be), `sled`, `redb`, `mark` (what was acknowledged), `runs` (the log over any backend).

mod record;
mod store;
mod sled;
mod redb;
mod mark;
mod runs;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod power_loss;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roadstead_consensus::door::{HardState, LogEntry, LogWrite};
use serde::{Deserialize, Serialize};

use self::runs::RunLog;
use self::store::io_error;

/// What a replica needs of its log. One writer, no reader beside it.
pub trait Log: Send {
    /// Puts entries and hard state on disk in one step: when it returns, they survive a power loss; when it fails or the power
    /// goes in the middle, either all or nothing of it is there.
    ///
    /// # Errors
    /// [`LogError`]; after one, the log must not be used any more and the replica stops.
    fn write(&mut self, write: &LogWrite) -> Result<(), LogError>;

    /// Everything that is kept: the hard state and the entries by ascending index without a gap.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if anything is missing or fails its checksum.
    fn load(&mut self) -> Result<(HardState, Vec<LogEntry>), LogError>;

    /// Drops entries up to and including `through`, in small steps. Need not be synced. Past the last entry, the log is empty
    /// and goes on after `through`: so it does when a snapshot of a peer was installed.
    ///
    /// # Errors
    /// [`LogError`].
    fn compact(&mut self, through: u64) -> Result<(), LogError>;

    /// Where the log begins: the last entry that was dropped.
    fn base(&self) -> Base;
}

/// The last entry that was dropped from a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Its index; 0 if none was dropped.
    pub index: u64,
    /// Its term; 0 if it is not known.
    pub term: u64,
}

/// What keeps the log on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// sled 0.34 with a data sync of its own.
    #[default]
    Sled,
    /// redb.
    Redb,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        })
    }
}

impl std::str::FromStr for Backend {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sled" => Ok(Self::Sled),
            "redb" => Ok(Self::Redb),
            other => Err(format!("unknown log backend {other:?}: use sled or redb")),
        }
    }
}

/// Name of the file that says which backend a log was made with; the last one to be written when a log is made.
const BACKEND_FILE: &str = "BACKEND";
/// Name of the file that is locked while a log is open.
const LOCK_FILE: &str = "LOCK";
/// How long a lock is waited for: one who was killed a moment ago, or a process that it was about to start, may hold it still.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens the log in `folder`, or makes one, and verifies it. The folder stays locked until the log is dropped.
///
/// # Errors
/// [`LogError`]: locked by another process, made with another backend, damaged, no space, no right.
pub fn open(folder: &Path, backend: Backend) -> Result<Box<dyn Log>, LogError> {
    open_with(folder, backend, false)
}

fn open_with(folder: &Path, backend: Backend, skip_sync: bool) -> Result<Box<dyn Log>, LogError> {
    std::fs::create_dir_all(folder).map_err(|source| io_error("create", folder, source))?;
    let lock = lock(folder)?;
    let fresh = match recorded_backend(folder)? {
        Some(recorded) if recorded == backend => false,
        Some(recorded) => return Err(LogError::Backend { path: folder.display().to_string(), recorded, wanted: backend }),
        None => true,
    };
    if fresh {
        remove_unfinished(folder)?;
    }
    let data = folder.join(backend.to_string());
    std::fs::create_dir_all(&data).map_err(|source| io_error("create", &data, source))?;
    let log: Box<dyn Log> = match backend {
        Backend::Sled => Box::new(RunLog::open(folder, self::sled::SledStore::open(&data, skip_sync)?, fresh)?),
        Backend::Redb => Box::new(RunLog::open(folder, self::redb::RedbStore::open(&data, skip_sync)?, fresh)?),
    };
    if fresh {
        record_backend(folder, backend)?;
    }
    Ok(Box::new(Locked { log, _lock: lock }))
}

/// A log together with the lock on its folder, which goes last.
struct Locked {
    log: Box<dyn Log>,
    _lock: File,
}

impl Log for Locked {
    fn write(&mut self, write: &LogWrite) -> Result<(), LogError> {
        self.log.write(write)
    }
    fn load(&mut self) -> Result<(HardState, Vec<LogEntry>), LogError> {
        self.log.load()
    }
    fn compact(&mut self, through: u64) -> Result<(), LogError> {
        self.log.compact(through)
    }
    fn base(&self) -> Base {
        self.log.base()
    }
}

fn lock(folder: &Path) -> Result<File, LogError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|source| io_error("open", &path, source))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < patience => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LogError::Locked { path: folder.display().to_string() }),
            Err(error) => return Err(io_error("lock", &path, error.into())),
        }
    }
}

fn recorded_backend(folder: &Path) -> Result<Option<Backend>, LogError> {
    let path = folder.join(BACKEND_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let damaged = |what| LogError::Damaged { path: folder.display().to_string(), what };
            text.trim().parse().map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(LogError::Damaged { path: folder.display().to_string(), what: "BACKEND is not text".to_owned() })
        }
        Err(source) => Err(io_error("read", &path, source)),
    }
}

/// Removes what is left of a log that was never made to its end. Refuses to if it may have been one: a log that was acknowledged
/// to anybody has its BACKEND, and a mark past 0.
fn remove_unfinished(folder: &Path) -> Result<(), LogError> {
    if self::mark::Mark::open(folder, false).is_ok_and(|mark| mark.acknowledged() > 0) {
        return Err(LogError::Damaged { path: folder.display().to_string(), what: "BACKEND is missing".to_owned() });
    }
    for backend in [Backend::Sled, Backend::Redb] {
        let data = folder.join(backend.to_string());
        match std::fs::remove_dir_all(&data) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("remove", &data, source)),
        }
    }
    Ok(())
}

fn record_backend(folder: &Path, backend: Backend) -> Result<(), LogError> {
    let path = folder.join(BACKEND_FILE);
    let unfinished: PathBuf = folder.join(format!("{BACKEND_FILE}.new"));
    std::fs::write(&unfinished, format!("{backend}\n")).map_err(|source| io_error("write", &unfinished, source))?;
    let synced = File::open(&unfinished).and_then(|file| file.sync_all());
    synced.map_err(|source| io_error("sync", &unfinished, source))?;
    std::fs::rename(&unfinished, &path).map_err(|source| io_error("rename", &unfinished, source))?;
    sync_folder(folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        Some(_) | None => Ok(()),
    }
}

/// Syncs a folder, so that the names in it survive a power loss.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|source| io_error("sync", folder, source))
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk is full: nothing of the write is there.
    #[error("no space left on the disk of {path}: free some, then start the replica again; nothing acknowledged is lost")]
    Full {
        /// The log's folder.
        path: String,
    },
    /// What is there is not what was written.
    #[error("{path} is damaged ({what}): do not start this replica from it; remove the folder, and join it again as a new member")]
    Damaged {
        /// The log's folder.
        path: String,
        /// What was found.
        what: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process: only one replica may run on a data folder")]
    Locked {
        /// The log's folder.
        path: String,
    },
    /// It was made with another backend.
    #[error(
        "{path} was made with the log backend {recorded}, not {wanted}: start with {recorded}, or join as a new member with an empty folder"
    )]
    Backend {
        /// The log's folder.
        path: String,
        /// What it was made with.
        recorded: Backend,
        /// What was asked for.
        wanted: Backend,
    },
    /// Anything else.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
