//! Snapshot files: written whole or not at all, two kept, the newest valid one loaded, served in ranges and fetched piece by piece.
//!
//! How a file is laid out is `file`'s business.

mod file;

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use roadstead_consensus::member::{GroupId, Membership};
use roadstead_core::codec;
use roadstead_core::state::State;

pub use self::file::{Header, Snapshot, read_backup, write_backup};
use self::file::{read_file, write_file};

/// Files that are kept.
const KEPT: usize = 2;
/// End of the name of a finished file.
const FINISHED: &str = ".snapshot";
/// End of the name of a file that this replica writes.
const UNFINISHED: &str = ".unfinished";
/// End of the name of a file that is fetched from a peer.
const FETCHED: &str = ".fetched";

/// Which snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// Index of the last entry that it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No such file; it was replaced by newer ones.
    #[error("the snapshot at index {} (term {}) is not kept any more", id.index, id.term)]
    Gone {
        /// Which one.
        id: SnapshotId,
    },
    /// The disk is full; nothing is kept of the file.
    #[error("no space left on the disk of {path}: free some; the snapshots before are kept")]
    Full {
        /// The file.
        path: String,
    },
    /// What is there is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        what: String,
    },
    /// It belongs to another group of replicas.
    #[error("{path} belongs to group {:032x}, this replica to {:032x}: it is another fleet's", found.0, expected.0)]
    OtherGroup {
        /// The file.
        path: String,
        /// Whose it is.
        found: GroupId,
        /// Ours.
        expected: GroupId,
    },
    /// No file can be used, or none that the log reaches.
    #[error("{path}: {what}: do not start this replica from it; remove its data folder, and join it again as a new member")]
    Unusable {
        /// The folder.
        path: String,
        /// What was found, of each file.
        what: String,
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

/// The folder of a replica's snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    folder: PathBuf,
    group: GroupId,
}

impl Snapshots {
    /// Opens the folder, or makes it. What was left unfinished by a process that ended is removed, except what was being fetched.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] or [`SnapshotError::Full`].
    pub fn open(folder: &Path, group: GroupId) -> Result<Self, SnapshotError> {
        std::fs::create_dir_all(folder).map_err(|source| io_error("create", folder, source))?;
        let snapshots = Self { folder: folder.to_owned(), group };
        for (_, path) in snapshots.files(UNFINISHED)? {
            remove(&path)?;
        }
        Ok(snapshots)
    }

    /// Writes a snapshot and syncs it; afterwards the two newest are kept.
    ///
    /// # Errors
    /// [`SnapshotError::Full`] or [`SnapshotError::Io`]; the snapshots before are as they were.
    pub fn write(&self, term: u64, index: u64, membership: &Membership, state: &State) -> Result<(), SnapshotError> {
        let header = Header { group: self.group, term, index, membership: membership.clone() };
        self.write_chunks(&header, codec::snapshot(state))
    }

    fn write_chunks(&self, header: &Header, chunks: impl Iterator<Item = Vec<u8>>) -> Result<(), SnapshotError> {
        let unfinished = self.path(header.id(), UNFINISHED);
        let written = write_file(&unfinished, header, chunks);
        if let Err(source) = written {
            remove(&unfinished)?;
            return Err(io_error("write", &unfinished, source));
        }
        self.finish(&unfinished, header.id())
    }

    /// Gives a synced file its name for good, and drops the oldest ones.
    fn finish(&self, unfinished: &Path, id: SnapshotId) -> Result<(), SnapshotError> {
        let path = self.path(id, FINISHED);
        std::fs::rename(unfinished, &path).map_err(|source| io_error("rename", unfinished, source))?;
        sync_folder(&self.folder)?;
        let mut files = self.files(FINISHED)?;
        files.truncate(files.len().saturating_sub(KEPT));
        for (_, old) in files {
            remove(&old)?;
        }
        Ok(())
    }

    /// The snapshots that are kept, oldest first. Whether they are sound is not known.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn list(&self) -> Result<Vec<SnapshotId>, SnapshotError> {
        Ok(self.files(FINISHED)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Reads one snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(&self, id: SnapshotId) -> Result<Snapshot, SnapshotError> {
        let path = self.path(id, FINISHED);
        let snapshot = read_file(&path, self.group)?;
        if snapshot.header.id() == id {
            return Ok(snapshot);
        }
        Err(damaged(&path, "its header is that of another snapshot"))
    }

    /// Reads the newest sound snapshot that the log reaches: the log must begin at or below the entry after it. `log_begins_after` is
    /// [`crate::log::Base::index`]. `None` if there are no files at all and the log was never compacted. What was wrong with newer files is told,
    /// for the log of the process; they are left in place until newer ones replace them.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] if there are files and none can be used.
    pub fn load(&self, log_begins_after: u64) -> Result<(Option<Snapshot>, Vec<String>), SnapshotError> {
        self.load_after(self.newest()?, log_begins_after)
    }

    /// Reads the newest snapshot, if there is one: for [`Self::load_after`], before it is known where the log begins.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn newest(&self) -> Result<Option<Newest>, SnapshotError> {
        Ok(self.list()?.pop().map(|id| Newest { id, read: self.read(id) }))
    }

    /// As [`Self::load`], with the newest one read already.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_after(&self, newest: Option<Newest>, log_begins_after: u64) -> Result<(Option<Snapshot>, Vec<String>), SnapshotError> {
        let mut wrong = Vec::new();
        let mut newest = newest;
        let mut files = self.files(FINISHED)?;
        files.reverse();
        for (id, _) in &files {
            if id.index < log_begins_after {
                wrong.push(format!("the log begins after {log_begins_after} and does not reach back to the snapshot at {}", id.index));
                continue;
            }
            let read = newest.take_if(|newest| newest.id == *id).map_or_else(|| self.read(*id), |newest| newest.read);
            match read {
                Ok(snapshot) => return Ok((Some(snapshot), wrong)),
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Gone { .. })) => wrong.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if files.is_empty() && log_begins_after == 0 {
            return Ok((None, wrong));
        }
        if files.is_empty() {
            wrong.push(format!("there is no snapshot, and the log begins after {log_begins_after}"));
        }
        Err(SnapshotError::Unusable { path: self.folder.display().to_string(), what: wrong.join("; ") })
    }

    /// Opens a snapshot's file to be served to a peer; it can be read to its end even when newer ones replace it meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`] if it is not kept any more.
    pub fn serve(&self, id: SnapshotId) -> Result<Served, SnapshotError> {
        let path = self.path(id, FINISHED);
        let file = File::open(&path).map_err(|source| open_error(&path, id, source))?;
        let total_bytes = file.metadata().map_err(|source| io_error("read", &path, source))?.len();
        Ok(Served { path, file, total_bytes })
    }

    /// Goes on with fetching a snapshot, from where it was left.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn fetch(&self, id: SnapshotId) -> Result<Fetch, SnapshotError> {
        for (other, path) in self.files(FETCHED)? {
            if other != id {
                remove(&path)?;
            }
        }
        let path = self.path(id, FETCHED);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|source| io_error("create", &path, source))?;
        let received = file.metadata().map_err(|source| io_error("read", &path, source))?.len();
        Ok(Fetch { snapshots: self.clone(), id, path, file, received })
    }

    fn path(&self, id: SnapshotId, end: &str) -> PathBuf {
        self.folder.join(format!("{:016x}-{:016x}{end}", id.index, id.term))
    }

    /// Files whose name ends so, oldest first.
    fn files(&self, end: &str) -> Result<Vec<(SnapshotId, PathBuf)>, SnapshotError> {
        let mut found = Vec::new();
        let list = std::fs::read_dir(&self.folder).map_err(|source| io_error("list", &self.folder, source))?;
        for file in list {
            let file = file.map_err(|source| io_error("list", &self.folder, source))?;
            let name = file.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(end)).and_then(parse_name);
            found.extend(id.map(|id| (id, file.path())));
        }
        found.sort();
        Ok(found)
    }
}

fn parse_name(name: &str) -> Option<SnapshotId> {
    let (index, term) = name.split_once('-')?;
    let number = |text: &str| if text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None };
    Some(SnapshotId { index: number(index)?, term: number(term)? })
}

/// The newest snapshot, or why it could not be read.
#[derive(Debug)]
pub struct Newest {
    id: SnapshotId,
    read: Result<Snapshot, SnapshotError>,
}

/// A snapshot's file while a peer fetches it.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    file: File,
    total_bytes: u64,
}

impl Served {
    /// Size of the whole file.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// At most `max` bytes from `offset`; none at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn range(&self, offset: u64, max: usize) -> Result<Vec<u8>, SnapshotError> {
        let left = usize::try_from(self.total_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(max)];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| io_error("read", &self.path, source))?;
        Ok(bytes)
    }
}

/// A snapshot that is being fetched from a peer.
#[derive(Debug)]
pub struct Fetch {
    snapshots: Snapshots,
    id: SnapshotId,
    path: PathBuf,
    file: File,
    received: u64,
}

impl Fetch {
    /// How many bytes are there: the offset to ask for next.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Keeps the next bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Full`] or [`SnapshotError::Io`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all_at(bytes, self.received).map_err(|source| io_error("write", &self.path, source))?;
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// Syncs, verifies and decodes what was fetched, and keeps it as a snapshot of this replica.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::OtherGroup`]: then what was fetched is thrown away, to be fetched anew.
    pub fn finish(self) -> Result<Snapshot, SnapshotError> {
        self.file.sync_all().map_err(|source| io_error("sync", &self.path, source))?;
        let checked = read_file(&self.path, self.snapshots.group).and_then(|snapshot| {
            let right = snapshot.header.id() == self.id;
            if right { Ok(snapshot) } else { Err(damaged(&self.path, "it is another snapshot than was asked for")) }
        });
        if checked.is_err() {
            remove(&self.path)?;
        }
        let snapshot = checked?;
        self.snapshots.finish(&self.path, self.id)?;
        Ok(snapshot)
    }
}

fn damaged(path: &Path, what: &str) -> SnapshotError {
    SnapshotError::Damaged { path: path.display().to_string(), what: what.to_owned() }
}

fn open_error(path: &Path, id: SnapshotId, source: std::io::Error) -> SnapshotError {
    if source.kind() == std::io::ErrorKind::NotFound { SnapshotError::Gone { id } } else { io_error("open", path, source) }
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> SnapshotError {
    let path = path.display().to_string();
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => SnapshotError::Full { path },
        _ => SnapshotError::Io { action, path, source },
    }
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error("remove", path, source)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), SnapshotError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|source| io_error("sync", folder, source))
}
