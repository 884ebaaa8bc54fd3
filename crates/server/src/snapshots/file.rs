//! One snapshot file: a header (group, membership, term, index) and the chunks of [`roadstead_core::codec::snapshot`], each with its
//! length in front, then an empty chunk. What is in a chunk is the codec's business, its checksums included.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use roadstead_consensus::member::{GroupId, Membership};
use roadstead_core::codec::{self, DecodedChunk, SnapshotReader};
use roadstead_core::state::{Job, State};
use serde::{Deserialize, Serialize};

use super::{SnapshotError, SnapshotId, damaged, io_error, remove, sync_folder};

/// First bytes of every file; the last one is the format.
const MAGIC: &[u8; 8] = b"RSSNAP\0\x01";
/// The longest header in bytes: some hundred members with their addresses.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// The longest chunk in bytes that a reader takes: far above what the codec makes.
const MAX_CHUNK_BYTES: u32 = 16 << 20;
/// Bytes of the buffers for reading and writing.
const BUFFER_BYTES: usize = 1 << 20;
/// Threads that decode chunks: more than this many outrun the one that puts them together.
const MAX_DECODERS: usize = 4;
/// Chunks (of some 100 KiB) that wait at each of them, and after it.
const CHUNKS_AHEAD: usize = 8;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The group that it belongs to.
    pub group: GroupId,
    /// Term of the last entry that it contains.
    pub term: u64,
    /// Index of the last entry that it contains.
    pub index: u64,
    /// Members as of that entry.
    pub membership: Membership,
}

impl Header {
    /// Which snapshot it is.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        SnapshotId { index: self.index, term: self.term }
    }
}

/// A snapshot that was read.
#[derive(Debug)]
pub struct Snapshot {
    /// What it says of itself.
    pub header: Header,
    /// The state.
    pub state: State,
}

/// Writes a snapshot to any file (a backup), synced.
///
/// # Errors
/// [`SnapshotError::Full`] or [`SnapshotError::Io`]; then no file is left behind.
pub fn write_backup(path: &Path, header: &Header, state: &State) -> Result<(), SnapshotError> {
    let written = write_file(path, header, codec::snapshot(state));
    if let Err(source) = written {
        remove(path)?;
        return Err(io_error("write", path, source));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
        Some(_) | None => Ok(()),
    }
}

/// Reads a backup, of whatever group.
///
/// # Errors
/// [`SnapshotError`].
pub fn read_backup(path: &Path) -> Result<Snapshot, SnapshotError> {
    let mut file = Reading::open(path)?;
    let header = file.header()?;
    Ok(Snapshot { header, state: file.state()? })
}

pub(super) fn write_file(path: &Path, header: &Header, chunks: impl Iterator<Item = Vec<u8>>) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
    let encoded = postcard::to_allocvec(header).map_err(std::io::Error::other)?;
    file.write_all(MAGIC)?;
    file.write_all(&length(&encoded)?)?;
    file.write_all(&crc32fast::hash(&encoded).to_le_bytes())?;
    file.write_all(&encoded)?;
    for chunk in chunks {
        file.write_all(&length(&chunk)?)?;
        file.write_all(&chunk)?;
    }
    file.write_all(&length(&[])?)?;
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

fn length(bytes: &[u8]) -> std::io::Result<[u8; 4]> {
    let len = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    Ok(len.to_le_bytes())
}

pub(super) fn read_file(path: &Path, group: GroupId) -> Result<Snapshot, SnapshotError> {
    let mut file = Reading::open(path)?;
    let header = file.header()?;
    if header.group != group {
        return Err(SnapshotError::OtherGroup { path: path.display().to_string(), found: header.group, expected: group });
    }
    Ok(Snapshot { header, state: file.state()? })
}

/// A file that is read from its beginning.
struct Reading<'a> {
    path: &'a Path,
    file: BufReader<File>,
}

impl<'a> Reading<'a> {
    fn open(path: &'a Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(|source| io_error("open", path, source))?;
        Ok(Self { path, file: BufReader::with_capacity(BUFFER_BYTES, file) })
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.file.read_exact(bytes).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(self.path, "it ends too early"),
            _ => io_error("read", self.path, source),
        })
    }

    fn number(&mut self) -> Result<u32, SnapshotError> {
        let mut bytes = [0; 4];
        self.exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn header(&mut self) -> Result<Header, SnapshotError> {
        let mut magic = [0; MAGIC.len()];
        self.exact(&mut magic)?;
        if magic[..7] != MAGIC[..7] {
            return Err(damaged(self.path, "it is no snapshot"));
        }
        if magic != *MAGIC {
            return Err(damaged(self.path, "written in a newer format: upgrade this build"));
        }
        let (len, checksum) = (self.number()?, self.number()?);
        if len > MAX_HEADER_BYTES {
            return Err(damaged(self.path, "its header is too long"));
        }
        let mut encoded = vec![0; len as usize];
        self.exact(&mut encoded)?;
        if crc32fast::hash(&encoded) != checksum {
            return Err(damaged(self.path, "its header fails its checksum"));
        }
        postcard::from_bytes(&encoded).map_err(|error| damaged(self.path, &format!("its header: {error}")))
    }

    fn chunk(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let len = self.number()?;
        if len == 0 {
            return Ok(None);
        }
        if len > MAX_CHUNK_BYTES {
            return Err(damaged(self.path, "a chunk is too long"));
        }
        let mut chunk = vec![0; len as usize];
        self.exact(&mut chunk)?;
        Ok(Some(chunk))
    }

    /// Reads, decodes and puts together at the same time, each in its own threads.
    fn state(mut self) -> Result<State, SnapshotError> {
        let path = self.path;
        let decoders = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_DECODERS);
        let reader = std::thread::scope(|scope| {
            // Chunks go round all decoders, and come back in the same order.
            let (mut to, mut from) = (Vec::new(), Vec::new());
            for _ in 0..decoders {
                let (chunks, raw) = sync_channel::<Vec<u8>>(CHUNKS_AHEAD);
                let (decoded, done) = sync_channel(CHUNKS_AHEAD);
                scope.spawn(move || raw.into_iter().map(DecodedChunk::new).try_for_each(|chunk| decoded.send(chunk)));
                to.push(chunks);
                from.push(done);
            }
            let reading = scope.spawn(move || {
                for decoder in to.iter().cycle() {
                    // One that takes no more has failed, and says so.
                    let Some(chunk) = self.chunk()? else { break };
                    if decoder.send(chunk).is_err() {
                        break;
                    }
                }
                Ok::<_, SnapshotError>(self)
            });
            let mut reader = SnapshotReader::default();
            let mut taken = Ok(());
            for decoder in from.iter().cycle() {
                let Ok(chunk) = decoder.recv() else { break };
                taken = chunk.and_then(|chunk| reader.take(chunk));
                if taken.is_err() {
                    break;
                }
            }
            drop(from);
            let file = reading.join().map_err(|_| damaged(path, "a thread that read it has panicked"))?;
            taken.map_err(|error| damaged(path, &error.to_string()))?;
            Ok::<_, SnapshotError>((file?, reader))
        });
        let (mut file, reader) = reader?;
        let mut rest = [0; 1];
        match file.file.read(&mut rest) {
            Ok(0) => {}
            Ok(_) => return Err(damaged(path, "it goes on after its end")),
            Err(source) => return Err(io_error("read", path, source)),
        }
        let at_once = |one: Job<'_>, other: Job<'_>| {
            std::thread::scope(|scope| {
                scope.spawn(one);
                other();
            });
        };
        reader.finish_with(at_once).map_err(|error| damaged(path, &error.to_string()))
    }
}
