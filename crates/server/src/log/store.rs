//! What a backend has to be: an ordered map of small values with atomic, synced batches. It knows nothing of entries.

use super::LogError;

/// A key: at most 16 bytes, ordered as bytes.
pub(super) type Key = Vec<u8>;

/// Values must stay below this: sled moves larger pages into files that it never syncs. A page of sled holds up to 16 values
/// and one being added, and must stay below a quarter of a segment ([`super::sled::SEGMENT_BYTES`]).
pub(super) const MAX_VALUE_BYTES: usize = 64 << 10;

/// One atomic change.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Keys to set.
    pub(super) puts: Vec<(Key, Vec<u8>)>,
    /// Keys to remove; none of them is in `puts`.
    pub(super) deletes: Vec<Key>,
}

/// Whether a change must be on disk when `commit` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Survives a power loss from now on.
    Synced,
    /// May be lost with the power, together with everything after it.
    Later,
}

/// What is called with every key and value of a [`Store`]; its error ends the visit.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), LogError> + 'a;

/// An ordered map on disk. Changes are atomic, and those before a synced one are on disk when it is.
pub(super) trait Store: Send {
    /// Makes one change, whole or not at all.
    fn commit(&mut self, change: Change, durability: Durability) -> Result<(), LogError>;

    /// Visits everything in ascending order of keys.
    fn scan(&mut self, visit: &mut Visit<'_>) -> Result<(), LogError>;
}

/// Whether an error says that no space is left.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge)
}

/// Sorts an I/O error into full and other.
pub(super) fn io_error(action: &'static str, path: &std::path::Path, source: std::io::Error) -> LogError {
    let path = path.display().to_string();
    if is_full(&source) { LogError::Full { path } } else { LogError::Io { action, path, source } }
}

/// Runs `work` and turns a panic (backends panic on some damaged files) into `Damaged`.
pub(super) fn guarded<T>(path: &std::path::Path, work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "the backend gave up".to_owned());
            Err(LogError::Damaged { path: path.display().to_string(), what })
        }
    }
}
