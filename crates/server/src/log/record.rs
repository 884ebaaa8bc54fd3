//! How a log is laid out in a backend: runs of entries and one head, each value with a checksum.
//!
//! A write is one *run*: all of its entries, encoded together and split into values small enough for the backend. The *head* is
//! rewritten in the same batch and says what must be there: the hard state, the first and last index, and a sum over the checksums of
//! all values, so that one that is missing, old or left over is noticed.

use roadstead_consensus::door::{HardState, LogEntry};

use super::store::{Key, MAX_VALUE_BYTES};

/// Format of every value.
const FORMAT: u8 = 1;
/// Key of the head: before all runs.
pub(super) const HEAD_KEY: &[u8] = b"h";
/// First byte of the key of a value of a run.
const RUN_PREFIX: u8 = b'r';
/// Bytes of a part before its payload: checksum, format, sequence, parts.
const PART_HEADER_BYTES: usize = 4 + 1 + 8 + 4;
/// Bytes of an encoded head.
const HEAD_BYTES: usize = 4 + 1 + 8 * 9;

/// What must be there, and the hard state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Counts changes; the same in every value written by one change.
    pub(super) sequence: u64,
    /// Raft's hard state.
    pub(super) hard_state: HardState,
    /// Entries up to here are gone, or no longer to be read.
    pub(super) compacted: u64,
    /// Term of the entry at `compacted`; 0 if it was not known.
    pub(super) compacted_term: u64,
    /// Index of the last entry; `compacted` if there is none.
    pub(super) last: u64,
    /// Number of values.
    pub(super) values: u64,
    /// Exclusive or of [`fingerprint`] over all values.
    pub(super) sum: u64,
}

impl Head {
    /// As a value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEAD_BYTES);
        body.extend_from_slice(&[0; 4]);
        body.push(FORMAT);
        let HardState { term, vote, commit } = self.hard_state;
        for number in [self.sequence, term, vote, commit, self.compacted, self.compacted_term, self.last, self.values, self.sum] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        seal(HEAD_KEY, &mut body);
        body
    }

    /// From a value.
    pub(super) fn decode(value: &[u8]) -> Result<Self, String> {
        let body = unseal(HEAD_KEY, value)?;
        if body.len() != HEAD_BYTES - 5 {
            return Err("the head has a wrong length".to_owned());
        }
        let mut numbers = body.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes")));
        let mut next = || numbers.next().expect("the length was checked");
        Ok(Self {
            sequence: next(),
            hard_state: HardState { term: next(), vote: next(), commit: next() },
            compacted: next(),
            compacted_term: next(),
            last: next(),
            values: next(),
            sum: next(),
        })
    }
}

/// One value of a run, decoded.
pub(super) struct Part<'a> {
    /// Of the change that wrote it.
    pub(super) sequence: u64,
    /// How many values the run has.
    pub(super) parts: u32,
    /// Its share of the run's bytes.
    pub(super) payload: &'a [u8],
}

/// Encodes a run as values, each with its key.
pub(super) fn encode_run(sequence: u64, entries: &[LogEntry]) -> Vec<(Key, Vec<u8>)> {
    let size: usize = entries.iter().map(|entry| entry.bytes.len() + 12).sum();
    let mut payload = Vec::with_capacity(size);
    for entry in entries {
        let len = u32::try_from(entry.bytes.len()).expect("an entry is far below 4 GiB");
        payload.extend_from_slice(&entry.term.to_le_bytes());
        payload.extend_from_slice(&len.to_le_bytes());
        payload.extend_from_slice(&entry.bytes);
    }
    let first = entries.first().map_or(0, |entry| entry.index);
    let chunks = payload.chunks(MAX_VALUE_BYTES - PART_HEADER_BYTES);
    let parts = u32::try_from(chunks.len()).expect("a run is far below 2^32 parts");
    let mut values = Vec::with_capacity(chunks.len());
    for (part, chunk) in (0..).zip(chunks) {
        let key = run_key(first, part);
        let mut value = Vec::with_capacity(PART_HEADER_BYTES + chunk.len());
        value.extend_from_slice(&[0; 4]);
        value.push(FORMAT);
        value.extend_from_slice(&sequence.to_le_bytes());
        value.extend_from_slice(&parts.to_le_bytes());
        value.extend_from_slice(chunk);
        seal(&key, &mut value);
        values.push((key, value));
    }
    values
}

/// Decodes one value of a run.
pub(super) fn decode_part<'a>(key: &[u8], value: &'a [u8]) -> Result<Part<'a>, String> {
    let body = unseal(key, value)?;
    let (sequence, rest) = body.split_first_chunk::<8>().ok_or("a value is too short")?;
    let (parts, payload) = rest.split_first_chunk::<4>().ok_or("a value is too short")?;
    Ok(Part { sequence: u64::from_le_bytes(*sequence), parts: u32::from_le_bytes(*parts), payload })
}

/// Decodes a whole run that begins at index `first`.
pub(super) fn decode_run(first: u64, mut payload: &[u8]) -> Result<Vec<LogEntry>, String> {
    let mut entries = Vec::new();
    let mut index = first;
    while !payload.is_empty() {
        let (term, rest) = payload.split_first_chunk::<8>().ok_or("a run ends within an entry")?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or("a run ends within an entry")?;
        let len = u32::from_le_bytes(*len) as usize;
        if rest.len() < len {
            return Err("a run ends within an entry".to_owned());
        }
        let (bytes, rest) = rest.split_at(len);
        entries.push(LogEntry { index, term: u64::from_le_bytes(*term), bytes: bytes.to_vec() });
        index += 1;
        payload = rest;
    }
    Ok(entries)
}

/// The key of a part.
pub(super) fn run_key(first: u64, part: u32) -> Key {
    let mut key = Vec::with_capacity(13);
    key.push(RUN_PREFIX);
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// First index and part of a key.
pub(super) fn parse_run_key(key: &[u8]) -> Result<(u64, u32), String> {
    let [RUN_PREFIX, rest @ ..] = key else { return Err("there is a value of an unknown kind".to_owned()) };
    let (first, rest) = rest.split_first_chunk::<8>().ok_or("a key is too short")?;
    let part = <[u8; 4]>::try_from(rest).map_err(|_| "a key has a wrong length")?;
    Ok((u64::from_be_bytes(*first), u32::from_be_bytes(part)))
}

/// What one value adds to the head's sum: its key and checksum, well mixed (splitmix64's finaliser).
pub(super) fn fingerprint(key: &[u8], value: &[u8]) -> u64 {
    let checksum = value.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mut mixed = u64::from(checksum) << 32 | u64::from(crc32fast::hash(key));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

/// Fills in the checksum over the key and everything after it.
fn seal(key: &[u8], value: &mut [u8]) {
    let sum = checksum(key, &value[4..]);
    value[..4].copy_from_slice(&sum);
}

/// Checks checksum and format; returns what is after them.
fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (found, rest) = value.split_first_chunk::<4>().ok_or("a value is too short")?;
    if checksum(key, rest) != *found {
        return Err("a value fails its checksum".to_owned());
    }
    match rest.split_first() {
        Some((&FORMAT, body)) => Ok(body),
        Some((format, _)) => Err(format!("written in format {format}; this build reads format {FORMAT}: upgrade it")),
        None => Err("a value is too short".to_owned()),
    }
}
