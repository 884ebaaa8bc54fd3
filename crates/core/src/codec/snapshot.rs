//! Snapshots: a frozen state as a sequence of small records, made lazily and put together again.
//!
//! Each chunk's body is `section: u8, continues: u8, number: u32 LE`, then items of one section in postcard. An item that is larger
//! than a chunk goes on in the next ones (`continues` is 1). The last chunk holds the number of items and the state's digest. Tenants
//! come in the order of their names, everything else before them in the order in which it is needed.

use serde::{Deserialize, Serialize};

use super::{CodecError, HEADER, MAX_CHUNK_BYTES, malformed, open, read_prefix, seal, write};
use crate::agreement::Agreement;
use crate::class::ClassVersion;
use crate::cluster::{Cluster, GrowthRoom};
use crate::command::FeatureLevel;
use crate::id::{ClusterId, Revision, TenantId};
use crate::join::JoinToken;
use crate::observed::{ClusterInfo, KnownDetails, TenantFacts};
use crate::policy::Policy;
use crate::pool::Pool;
use crate::request::Principal;
use crate::state::{Builder, Job, KeptRequest, LoadedRequests, LoadedTenants, Packed, RequestKey, State};
use crate::time::Timestamp;

/// Before a chunk's items: section, continues, number.
const CHUNK_HEADER: usize = 6;
/// Room for items in a chunk.
const ROOM: usize = MAX_CHUNK_BYTES - HEADER - CHUNK_HEADER;
/// The largest single thing that is read: a class version with a template and a schema of 1 MiB each is far below.
const MAX_ITEM_BYTES: usize = 16 << 20;

/// What a chunk holds. The numbers are written: they never change. In a snapshot they come in the order of [`Section::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Section {
    Scalars = 1,
    Principals = 2,
    Pools = 3,
    Clusters = 4,
    Classes = 5,
    Tenants = 6,
    Requests = 7,
    End = 8,
    /// Only in a state of a level that knows them.
    TenantFacts = 9,
    /// See `TenantFacts`.
    ClusterInfos = 10,
    /// See `TenantFacts`.
    JoinTokens = 11,
    /// See `TenantFacts`.
    Agreements = 12,
    /// See `TenantFacts`.
    ClusterDetails = 13,
    /// See `TenantFacts`.
    ClusterGrowth = 14,
}

impl Section {
    const ALL: [Self; 14] = [
        Self::Scalars,
        Self::Principals,
        Self::Pools,
        Self::Clusters,
        Self::Classes,
        Self::Tenants,
        Self::Requests,
        Self::TenantFacts,
        Self::ClusterInfos,
        Self::JoinTokens,
        Self::Agreements,
        Self::ClusterDetails,
        Self::ClusterGrowth,
        Self::End,
    ];

    /// Its place in the order of a snapshot.
    fn place(self) -> usize {
        Self::ALL.into_iter().take_while(|other| *other != self).count()
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| *section as u8 == byte)
    }
}

/// All that is neither a map nor derived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scalars {
    pub(crate) revision: Revision,
    pub(crate) time: Timestamp,
    pub(crate) level: FeatureLevel,
    pub(crate) next_tenant: u64,
    pub(crate) next_cluster: u32,
    pub(crate) requests_floor_ms: u64,
    pub(crate) policy: Policy,
}

/// The last chunk's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    items: u64,
    digest: u64,
}

/// One thing of a snapshot, borrowed from the frozen copy.
enum Item<'a> {
    Scalars(Box<Scalars>),
    Principal(&'a Principal),
    Pool(&'a Pool),
    Cluster(&'a Cluster, Revision),
    Class(&'a ClassVersion),
    Tenant(&'a Packed),
    Request(&'a RequestKey, &'a KeptRequest),
    TenantFacts(TenantId, &'a TenantFacts),
    ClusterInfo(ClusterId, &'a ClusterInfo),
    JoinToken(ClusterId, &'a JoinToken),
    Agreement(TenantId, Agreement),
    ClusterDetails(ClusterId, &'a KnownDetails),
    ClusterGrowth(ClusterId, &'a GrowthRoom),
    End(End),
}

impl Item<'_> {
    fn section(&self) -> Section {
        match self {
            Self::Scalars(_) => Section::Scalars,
            Self::Principal(_) => Section::Principals,
            Self::Pool(_) => Section::Pools,
            Self::Cluster(..) => Section::Clusters,
            Self::Class(_) => Section::Classes,
            Self::Tenant(_) => Section::Tenants,
            Self::Request(..) => Section::Requests,
            Self::TenantFacts(..) => Section::TenantFacts,
            Self::ClusterInfo(..) => Section::ClusterInfos,
            Self::JoinToken(..) => Section::JoinTokens,
            Self::Agreement(..) => Section::Agreements,
            Self::ClusterDetails(..) => Section::ClusterDetails,
            Self::ClusterGrowth(..) => Section::ClusterGrowth,
            Self::End(_) => Section::End,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Scalars(scalars) => write(&**scalars, bytes),
            Self::Principal(principal) => write(principal, bytes),
            Self::Pool(pool) => write(pool, bytes),
            Self::Cluster(cluster, generation) => write(&(cluster, generation), bytes),
            Self::Class(class) => write(class, bytes),
            Self::Tenant(packed) => bytes.extend_from_slice(packed.as_bytes()),
            Self::Request(key, kept) => write(&(key, kept), bytes),
            Self::TenantFacts(id, facts) => write(&(id, facts), bytes),
            Self::ClusterInfo(id, info) => write(&(id, info), bytes),
            Self::JoinToken(id, token) => write(&(id, token), bytes),
            Self::Agreement(id, agreement) => write(&(id, agreement), bytes),
            Self::ClusterDetails(id, known) => write(&(id, known), bytes),
            Self::ClusterGrowth(id, room) => write(&(id, room), bytes),
            Self::End(end) => write(end, bytes),
        }
    }
}

/// A snapshot as chunks of at most [`MAX_CHUNK_BYTES`], each checksummed, the last one with the count and the state's digest; made lazily
/// from a frozen copy.
#[must_use]
pub fn snapshot(state: &State) -> Box<dyn Iterator<Item = Vec<u8>> + Send + '_> {
    let scalars = Scalars {
        revision: state.revision,
        time: state.time,
        level: state.level,
        next_tenant: state.next_tenant,
        next_cluster: state.next_cluster,
        requests_floor_ms: state.requests.floor_ms(),
        policy: (**state.policy()).clone(),
    };
    let clusters: Vec<_> = state.generations().filter_map(|(id, revision)| Some((state.cluster_by_id(id)?, revision))).collect();
    let items = std::iter::once(Item::Scalars(Box::new(scalars)))
        .chain(state.principals.iter().map(Item::Principal))
        .chain(state.pools_by_name().map(|pool| Item::Pool(pool)))
        .chain(clusters.into_iter().map(|(cluster, generation)| Item::Cluster(cluster, generation)))
        .chain(state.classes_by_name().map(|class| Item::Class(class)))
        .chain(state.tenants.names_after(None).map(Item::Tenant))
        .chain(state.requests.iter().map(|(key, kept)| Item::Request(key, kept)))
        .chain(state.observed.tenants().map(|(id, facts)| Item::TenantFacts(*id, facts)))
        .chain(state.observed.clusters().map(|(id, info)| Item::ClusterInfo(*id, info)))
        .chain(state.tokens.iter().map(|(id, token)| Item::JoinToken(*id, token)))
        .chain(state.agreements.iter().map(|(id, agreement)| Item::Agreement(id, agreement)))
        .chain(state.observed.details().iter().map(|(id, known)| Item::ClusterDetails(*id, known)))
        .chain(state.growing().map(|cluster| Item::ClusterGrowth(cluster.id, &cluster.growth)));
    Box::new(Chunks { state, items: Box::new(items), body: Body::default(), ready: Vec::new(), number: 0, count: 0, ended: false })
}

/// Items of one section that wait to become a chunk.
#[derive(Default)]
struct Body {
    section: Option<Section>,
    bytes: Vec<u8>,
}

struct Chunks<'a> {
    state: &'a State,
    items: Box<dyn Iterator<Item = Item<'a>> + Send + 'a>,
    body: Body,
    /// Finished, the next one last.
    ready: Vec<Vec<u8>>,
    number: u32,
    count: u64,
    ended: bool,
}

impl Chunks<'_> {
    fn emit(&mut self, section: Section, items: &[u8], continues: bool) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(HEADER + CHUNK_HEADER + items.len());
        chunk.extend_from_slice(&[0; HEADER]);
        chunk.extend_from_slice(&[section as u8, u8::from(continues)]);
        chunk.extend_from_slice(&self.number.to_le_bytes());
        chunk.extend_from_slice(items);
        seal(&mut chunk);
        self.number += 1;
        chunk
    }

    /// Turns what has been written into chunks, all but the last full.
    fn flush(&mut self) {
        let Body { section, bytes } = std::mem::take(&mut self.body);
        let Some(section) = section else { return };
        let mut chunks = Vec::new();
        let pieces = bytes.chunks(ROOM).count();
        for (piece, items) in bytes.chunks(ROOM).enumerate() {
            chunks.push(self.emit(section, items, piece + 1 < pieces));
        }
        self.ready.extend(chunks.into_iter().rev());
    }

    /// Adds an item; whatever was there before it goes out if it does not fit beside it.
    fn add(&mut self, item: &Item<'_>) {
        let section = item.section();
        let before = self.body.bytes.len();
        if self.body.section == Some(section) {
            item.write(&mut self.body.bytes);
            if self.body.bytes.len() <= ROOM || before == 0 {
                return;
            }
            let last = self.body.bytes.split_off(before);
            self.flush();
            self.body = Body { section: Some(section), bytes: last };
        } else {
            self.flush();
            self.body.section = Some(section);
            item.write(&mut self.body.bytes);
        }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while self.ready.is_empty() && !self.ended {
            match self.items.next() {
                Some(item) => {
                    self.count += 1;
                    self.add(&item);
                }
                None => {
                    let end = Item::End(End { items: self.count, digest: self.state.digest() });
                    let rest = std::mem::take(&mut self.ready);
                    self.add(&end);
                    self.flush_after(rest);
                    self.ended = true;
                }
            }
        }
        self.ready.pop()
    }
}

impl Chunks<'_> {
    /// Flushes the very last chunk behind everything that is ready.
    fn flush_after(&mut self, earlier: Vec<Vec<u8>>) {
        let before = std::mem::take(&mut self.ready);
        self.flush();
        self.ready.extend(before);
        self.ready.extend(earlier);
    }
}

/// A chunk that was checked and, where that takes no other chunk, decoded: the larger part of reading a snapshot, and no matter in which
/// order or on how many cores it is done.
pub struct DecodedChunk {
    section: Section,
    continues: bool,
    number: u32,
    chunk: Vec<u8>,
    items: Items,
}

/// What a chunk holds, if it is tenants or requests (nearly all chunks are) and whole.
enum Items {
    Tenants(LoadedTenants),
    Requests(LoadedRequests),
    /// Still as bytes: something else, or a part of an item.
    Bytes,
}

impl DecodedChunk {
    /// Checks a chunk and decodes what it holds.
    ///
    /// # Errors
    /// When it is damaged or of a newer version.
    pub fn new(chunk: Vec<u8>) -> Result<Self, CodecError> {
        if chunk.len() > MAX_CHUNK_BYTES {
            return Err(malformed(format!("a chunk of {} bytes, at most {MAX_CHUNK_BYTES} are written", chunk.len())));
        }
        let body = open(&chunk)?;
        let [section, continues, n0, n1, n2, n3, bytes @ ..] = body else {
            return Err(malformed("a chunk without a header"));
        };
        let section = Section::from_byte(*section).ok_or_else(|| malformed(format!("unknown section {section}")))?;
        let continues = *continues != 0;
        // The end of an item that began in another chunk fails here, or comes out as anything: the reader knows, and looks at the bytes.
        let items = match section {
            Section::Tenants if !continues => LoadedTenants::read(bytes).map_or(Items::Bytes, Items::Tenants),
            Section::Requests if !continues => read_requests(bytes).map_or(Items::Bytes, Items::Requests),
            Section::Scalars
            | Section::Principals
            | Section::Pools
            | Section::Clusters
            | Section::Classes
            | Section::Tenants
            | Section::Requests
            | Section::TenantFacts
            | Section::ClusterInfos
            | Section::JoinTokens
            | Section::Agreements
            | Section::ClusterDetails
            | Section::ClusterGrowth
            | Section::End => Items::Bytes,
        };
        Ok(Self { section, continues, number: u32::from_le_bytes([*n0, *n1, *n2, *n3]), chunk, items })
    }
}

fn read_requests(mut bytes: &[u8]) -> Result<LoadedRequests, CodecError> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (entry, rest) = read_prefix::<(RequestKey, KeptRequest)>(bytes)?;
        entries.push(entry);
        bytes = rest;
    }
    Ok(LoadedRequests::new(entries))
}

/// Puts a snapshot together again. Chunks come in their order; everything is verified.
#[derive(Default)]
pub struct SnapshotReader {
    builder: Builder,
    partial: Vec<u8>,
    section: Option<Section>,
    number: u32,
    items: u64,
    end: Option<End>,
}

impl SnapshotReader {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// When the chunk is damaged, out of order, of a newer version, or what it holds does not fit together.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), CodecError> {
        self.take(DecodedChunk::new(chunk.to_vec())?)
    }

    /// Takes the next chunk, decoded.
    ///
    /// # Errors
    /// When the chunk is out of order, or what it holds does not fit together.
    pub fn take(&mut self, chunk: DecodedChunk) -> Result<(), CodecError> {
        let DecodedChunk { section, continues, number, chunk, items } = chunk;
        let bytes = &chunk[HEADER + CHUNK_HEADER..];
        if number != self.number {
            return Err(malformed(format!("chunk {number} where chunk {} was expected", self.number)));
        }
        self.enter(section)?;
        self.number += 1;
        if !continues && self.partial.is_empty() {
            return self.take_items(section, items, bytes);
        }
        if self.partial.len() + bytes.len() > MAX_ITEM_BYTES {
            return Err(malformed(format!("an item of more than {MAX_ITEM_BYTES} bytes")));
        }
        self.partial.extend_from_slice(bytes);
        if !continues {
            let whole = std::mem::take(&mut self.partial);
            self.read_items(section, &whole)?;
        }
        Ok(())
    }

    fn enter(&mut self, section: Section) -> Result<(), CodecError> {
        if self.end.is_some() {
            return Err(malformed("a chunk after the last one"));
        }
        let first = self.section.is_none();
        if first && section != Section::Scalars {
            return Err(malformed("the first chunk does not hold the scalars"));
        }
        if self.section.is_some_and(|before| before.place() > section.place() || (before != section && !self.partial.is_empty())) {
            return Err(malformed("sections out of order"));
        }
        self.section = Some(section);
        Ok(())
    }

    fn take_items(&mut self, section: Section, items: Items, bytes: &[u8]) -> Result<(), CodecError> {
        match items {
            Items::Tenants(tenants) => self.take_tenants(tenants),
            Items::Requests(requests) => {
                self.take_requests(requests);
                Ok(())
            }
            Items::Bytes => self.read_items(section, bytes),
        }
    }

    fn read_items(&mut self, section: Section, mut bytes: &[u8]) -> Result<(), CodecError> {
        while !bytes.is_empty() {
            bytes = self.read_item(section, bytes)?;
            // Tenants and requests are read all at once, and counted then.
            if !matches!(section, Section::End | Section::Tenants | Section::Requests) {
                self.items += 1;
            }
        }
        Ok(())
    }

    fn take_tenants(&mut self, tenants: LoadedTenants) -> Result<(), CodecError> {
        self.items += tenants.len() as u64;
        self.builder.tenants(tenants).map_err(malformed)
    }

    fn take_requests(&mut self, requests: LoadedRequests) {
        self.items += requests.len() as u64;
        self.builder.requests(requests);
    }

    fn read_item<'a>(&mut self, section: Section, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
        match section {
            Section::Scalars => {
                let (scalars, rest) = read_prefix::<Scalars>(bytes)?;
                self.builder.scalars(scalars);
                Ok(rest)
            }
            Section::Principals => {
                let (principal, rest) = read_prefix::<Principal>(bytes)?;
                self.builder.principal(&principal);
                Ok(rest)
            }
            Section::Pools => {
                let (pool, rest) = read_prefix::<Pool>(bytes)?;
                self.builder.pool(pool);
                Ok(rest)
            }
            Section::Clusters => {
                let ((cluster, generation), rest) = read_prefix::<(Cluster, Revision)>(bytes)?;
                check_cluster_id(cluster.id)?;
                self.builder.cluster(cluster, generation);
                Ok(rest)
            }
            Section::Classes => {
                let (class, rest) = read_prefix::<ClassVersion>(bytes)?;
                self.builder.class(class);
                Ok(rest)
            }
            Section::Tenants => {
                self.take_tenants(LoadedTenants::read(bytes)?)?;
                Ok(&[])
            }
            Section::Requests => {
                self.take_requests(read_requests(bytes)?);
                Ok(&[])
            }
            Section::TenantFacts => {
                let ((id, facts), rest) = read_prefix::<(TenantId, TenantFacts)>(bytes)?;
                self.builder.tenant_facts(id, facts);
                Ok(rest)
            }
            Section::ClusterInfos => {
                let ((id, info), rest) = read_prefix::<(ClusterId, ClusterInfo)>(bytes)?;
                self.builder.cluster_info(id, info);
                Ok(rest)
            }
            Section::JoinTokens => {
                let ((id, token), rest) = read_prefix::<(ClusterId, JoinToken)>(bytes)?;
                self.builder.token(id, token);
                Ok(rest)
            }
            Section::Agreements => {
                let ((id, agreement), rest) = read_prefix::<(TenantId, Agreement)>(bytes)?;
                self.builder.agreement(id, agreement);
                Ok(rest)
            }
            Section::ClusterDetails => {
                let ((id, known), rest) = read_prefix::<(ClusterId, KnownDetails)>(bytes)?;
                self.builder.cluster_details(id, known);
                Ok(rest)
            }
            Section::ClusterGrowth => {
                let ((id, room), rest) = read_prefix::<(ClusterId, GrowthRoom)>(bytes)?;
                self.builder.cluster_growth(id, room).map_err(malformed)?;
                Ok(rest)
            }
            Section::End => {
                let (end, rest) = read_prefix::<End>(bytes)?;
                self.end = Some(end);
                Ok(rest)
            }
        }
    }

    /// Builds every index and compares the digest.
    ///
    /// # Errors
    /// When chunks are missing, or the state is not the one that was written.
    pub fn finish(self) -> Result<State, CodecError> {
        self.finish_with(|one, other| {
            one();
            other();
        })
    }

    /// The same; `both` has to run two jobs to their end, and may do so at the same time.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_with(self, both: impl FnOnce(Job<'_>, Job<'_>)) -> Result<State, CodecError> {
        let Some(end) = self.end else {
            return Err(malformed(format!("the snapshot ends after chunk {}, before its last one", self.number)));
        };
        if end.items != self.items {
            return Err(malformed(format!("{} things where {} were written", self.items, end.items)));
        }
        let state = self.builder.finish(both).map_err(malformed)?;
        if state.digest() != end.digest {
            return Err(malformed(format!("the state's digest is {:016x}, written was {:016x}", state.digest(), end.digest)));
        }
        Ok(state)
    }
}

/// Numbers are rows of dense arrays: a damaged one must not ask for all memory.
fn check_cluster_id(id: ClusterId) -> Result<(), CodecError> {
    /// Far more clusters than a fleet ever numbers.
    const MAX_CLUSTER_ID: u32 = 1 << 24;
    if id.0 > MAX_CLUSTER_ID { Err(malformed(format!("cluster number {}", id.0))) } else { Ok(()) }
}
