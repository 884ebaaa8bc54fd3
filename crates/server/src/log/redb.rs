//! The second backend: redb, every synced change a transaction with durability `Immediate`.

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

use super::store::{Change, Durability, Store, Visit, guarded, io_error};
use super::{LogError, sync_folder};

/// Name of redb's file in the log's folder.
const FILE: &str = "log.redb";
/// Bytes of redb's cache: a log is written and, at start, read once.
const CACHE_BYTES: usize = 64 << 20;
/// The one table.
const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("log");

/// redb.
pub(super) struct RedbStore {
    folder: PathBuf,
    db: Database,
    skip_sync: bool,
}

impl RedbStore {
    /// Opens or makes `<folder>/log.redb`. `skip_sync` leaves the sync out, for the test that shows what it is for.
    pub(super) fn open(folder: &Path, skip_sync: bool) -> Result<Self, LogError> {
        let file = folder.join(FILE);
        let db = guarded(folder, || {
            redb::Builder::new().set_cache_size(CACHE_BYTES).create(&file).map_err(|error| match error {
                DatabaseError::Storage(error) => storage_error("open", folder, error),
                error => damaged(folder, &error),
            })
        })?;
        let mut store = Self { folder: folder.to_owned(), db, skip_sync };
        store.commit(Change::default(), Durability::Synced)?;
        if !skip_sync {
            sync_folder(folder)?;
        }
        Ok(store)
    }

    fn transact(&self, change: &Change, durability: Durability) -> Result<(), redb::Error> {
        let mut transaction = self.db.begin_write()?;
        let later = durability == Durability::Later || self.skip_sync;
        transaction.set_durability(if later { redb::Durability::None } else { redb::Durability::Immediate })?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for key in &change.deletes {
                table.remove(key.as_slice())?;
            }
            for (key, value) in &change.puts {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, visit: &mut Visit<'_>) -> Result<Result<(), LogError>, redb::Error> {
        let transaction = self.db.begin_read()?;
        let table = transaction.open_table(TABLE)?;
        for item in table.iter()? {
            let (key, value) = item?;
            if let Err(error) = visit(key.value(), value.value()) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

impl Store for RedbStore {
    fn commit(&mut self, change: Change, durability: Durability) -> Result<(), LogError> {
        guarded(&self.folder, || self.transact(&change, durability).map_err(|error| redb_error("write", &self.folder, error)))
    }

    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<(), LogError> {
        guarded(&self.folder, || self.read(visit).map_err(|error| redb_error("read", &self.folder, error))?)
    }
}

fn damaged(folder: &Path, error: &dyn std::fmt::Display) -> LogError {
    LogError::Damaged { path: folder.display().to_string(), what: error.to_string() }
}

fn storage_error(action: &'static str, folder: &Path, error: StorageError) -> LogError {
    match error {
        StorageError::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => damaged(folder, &source),
        StorageError::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => damaged(folder, &source),
        StorageError::Io(source) => io_error(action, folder, source),
        error => damaged(folder, &error),
    }
}

fn redb_error(action: &'static str, folder: &Path, error: redb::Error) -> LogError {
    match error {
        redb::Error::Io(source) => storage_error(action, folder, StorageError::Io(source)),
        error => damaged(folder, &error),
    }
}
