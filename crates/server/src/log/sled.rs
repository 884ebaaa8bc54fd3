//! The default backend: sled 0.34 with a data sync of its own.
//!
//! sled's `flush` writes but never syncs (spacejam/sled#1452), so every synced change ends with `fdatasync` of its `db` file. Pages
//! past a quarter of a segment would go to files under `blobs/` that nobody syncs: values are kept small enough that none does, and a
//! log with such a file is refused. One tree, because batches are atomic per tree. A damaged file makes sled panic: opening is guarded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::store::{Change, Durability, Store, Visit, guarded, io_error};
use super::{LogError, sync_folder};

/// Bytes of a segment of sled's file: 16 values of 64 KiB and some more must be less than a quarter of it.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// Bytes of sled's page cache: a log is written and, at start, read once.
const CACHE_BYTES: u64 = 64 << 20;
/// How long to wait for the threads of a log that this process has just closed to let go of sled's own lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// sled with a data sync.
pub(super) struct SledStore {
    folder: PathBuf,
    db: sled::Db,
    data: File,
    skip_sync: bool,
}

impl SledStore {
    /// Opens or makes `<folder>/db`. `skip_sync` leaves the data sync out, for the test that shows what it is for.
    pub(super) fn open(folder: &Path, skip_sync: bool) -> Result<Self, LogError> {
        refuse_blobs(folder)?;
        remove_unfinished(folder)?;
        let db = guarded(folder, || open_sled(folder))?;
        let data = File::open(folder.join("db")).map_err(|source| io_error("open", folder, source))?;
        let store = Self { folder: folder.to_owned(), db, data, skip_sync };
        store.sync()?;
        if !skip_sync {
            sync_folder(folder)?;
        }
        Ok(store)
    }

    fn sync(&self) -> Result<(), LogError> {
        self.db.flush().map_err(|error| sled_error("flush", &self.folder, error))?;
        if self.skip_sync {
            return Ok(());
        }
        self.data.sync_data().map_err(|source| io_error("sync", &self.folder, source))
    }
}

fn open_sled(folder: &Path) -> Result<sled::Db, LogError> {
    let started = Instant::now();
    loop {
        let opened = sled::Config::new().path(folder).segment_size(SEGMENT_BYTES).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
        match opened {
            Ok(db) => return Ok(db),
            // The folder's lock is ours, so nobody else has it: our own threads have yet to end.
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") && started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(sled_error("open", folder, error)),
        }
    }
}

impl Store for SledStore {
    fn commit(&mut self, change: Change, durability: Durability) -> Result<(), LogError> {
        let mut batch = sled::Batch::default();
        for key in change.deletes {
            batch.remove(key);
        }
        for (key, value) in change.puts {
            batch.insert(key, value);
        }
        let folder = self.folder.clone();
        guarded(&folder, || {
            self.db.apply_batch(batch).map_err(|error| sled_error("write", &self.folder, error))?;
            match durability {
                Durability::Synced => self.sync(),
                Durability::Later => Ok(()),
            }
        })?;
        refuse_blobs(&self.folder)
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<(), LogError> {
        let folder = self.folder.clone();
        guarded(&folder, || {
            for item in self.db.iter() {
                let (key, value) = item.map_err(|error| sled_error("read", &self.folder, error))?;
                visit(&key, &value)?;
            }
            Ok(())
        })
    }
}

/// Removes what sled left of a summary of its own (`snap.LSN`) that it could not finish, because the disk was full or the process died:
/// its next start would take the torn file for the newest summary, and the log for damaged. The one before it is still there.
fn remove_unfinished(folder: &Path) -> Result<(), LogError> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("list", folder, source)),
    };
    for file in files {
        let file = file.map_err(|source| io_error("list", folder, source))?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = file.path();
            std::fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))?;
        }
    }
    Ok(())
}

/// Refuses a log with values in files of their own, which are not synced.
fn refuse_blobs(folder: &Path) -> Result<(), LogError> {
    let blobs = folder.join("blobs");
    match std::fs::read_dir(&blobs).map(|mut files| files.next().is_some()) {
        Ok(true) => {
            Err(LogError::Damaged { path: folder.display().to_string(), what: "blobs/ holds values that sled never syncs".to_owned() })
        }
        Ok(false) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error("list", &blobs, source)),
    }
}

fn sled_error(action: &'static str, folder: &Path, error: sled::Error) -> LogError {
    let damaged = |what: String| LogError::Damaged { path: folder.display().to_string(), what };
    match error {
        sled::Error::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => damaged("a file ends too early".to_owned()),
        sled::Error::Io(source) => io_error(action, folder, source),
        sled::Error::Corruption { .. } => damaged("sled finds a checksum that does not match".to_owned()),
        sled::Error::ReportableBug(what) => damaged(what),
        sled::Error::Unsupported(what) => damaged(what),
        sled::Error::CollectionNotFound(_) => damaged("sled misses its tree".to_owned()),
    }
}
