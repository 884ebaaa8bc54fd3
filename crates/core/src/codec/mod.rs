//! How entries, requests and snapshots are written: versioned, checksummed, apart from the wire's schema.
//!
//! Every record is `version: u16 LE, crc32: u32 LE over the body, body: postcard`. Enum variants are only ever added at the end;
//! a struct never changes: a changed one is a new variant of its enum (docs/decisions/0002-postcard-formats.md).

mod snapshot;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::command::{Batch, Outcome};
use crate::request::Request;

pub(crate) use snapshot::Scalars;
pub use snapshot::{DecodedChunk, SnapshotReader, snapshot};

/// The largest chunk of a snapshot in bytes: below what the log and the wire take as one value.
pub const MAX_CHUNK_BYTES: usize = 96 << 10;

/// The newest format that this build writes and reads.
const VERSION: u16 = 1;
/// Bytes before the body: version and checksum.
const HEADER: usize = 6;

/// Why bytes were not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not match: damaged.
    #[error("damaged: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Of the bytes.
        found: u32,
        /// As written beside them.
        expected: u32,
    },
    /// Written by a newer version.
    #[error("written in format {found}; this build reads up to {supported}: upgrade it")]
    Version {
        /// As written.
        found: u16,
        /// The newest that is understood.
        supported: u16,
    },
    /// Anything else.
    #[error("damaged: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}

pub(crate) fn malformed(what: impl Into<String>) -> CodecError {
    CodecError::Malformed { what: what.into() }
}

/// One entry as bytes.
#[must_use]
pub fn encode_batch(batch: &Batch) -> Vec<u8> {
    record(batch, 64 + batch.commands.len() * 320)
}

/// One entry from bytes.
///
/// # Errors
/// When the bytes are not exactly what [`encode_batch`] of this or an older version made.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    read_record(bytes)
}

/// A request, as replicas forward it to their leader.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    record(request, 512)
}

/// A request from bytes.
///
/// # Errors
/// When the bytes are not exactly what [`encode_request`] of this or an older version made.
pub fn decode_request(bytes: &[u8]) -> Result<Request, CodecError> {
    read_record(bytes)
}

/// An outcome, as a leader sends it back.
#[must_use]
pub fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    record(outcome, 64)
}

/// An outcome from bytes.
///
/// # Errors
/// When the bytes are not exactly what [`encode_outcome`] of this or an older version made.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, CodecError> {
    read_record(bytes)
}

/// A whole record.
pub(crate) fn record<T: Serialize>(thing: &T, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + capacity);
    bytes.extend_from_slice(&[0; HEADER]);
    write(thing, &mut bytes);
    seal(&mut bytes);
    bytes
}

/// Fills the header of a record whose body is complete.
fn seal(bytes: &mut [u8]) {
    let checksum = crc32fast::hash(&bytes[HEADER..]);
    bytes[..2].copy_from_slice(&VERSION.to_le_bytes());
    bytes[2..HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// Checks a record's header and gives its body.
fn open(bytes: &[u8]) -> Result<&[u8], CodecError> {
    let [v0, v1, c0, c1, c2, c3, body @ ..] = bytes else {
        return Err(malformed(format!("{} bytes are too few for a record", bytes.len())));
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    if version > VERSION {
        return Err(CodecError::Version { found: version, supported: VERSION });
    }
    if version == 0 {
        return Err(malformed("format 0 was never written"));
    }
    let expected = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let found = crc32fast::hash(body);
    if found != expected {
        return Err(CodecError::Checksum { found, expected });
    }
    Ok(body)
}

fn read_record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (thing, rest) = read_prefix(open(bytes)?)?;
    if rest.is_empty() { Ok(thing) } else { Err(malformed(format!("{} bytes too many", rest.len()))) }
}

/// Appends one thing in postcard.
pub(crate) fn write<T: Serialize + ?Sized>(thing: &T, bytes: &mut Vec<u8>) {
    postcard::serialize_with_flavor(thing, Append(bytes)).expect("our own types always encode");
}

/// Reads one thing in postcard, and what follows it.
pub(crate) fn read_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    postcard::take_from_bytes(bytes).map_err(|error| malformed(error.to_string()))
}

/// The same for what borrows from the bytes.
pub(crate) fn read_prefix_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    postcard::take_from_bytes(bytes).map_err(|error| malformed(error.to_string()))
}

/// Lets postcard write to the end of a vector.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
