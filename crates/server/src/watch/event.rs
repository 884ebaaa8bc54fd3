//! An applied entry as watchers see it: each change is turned into its wire form once, and its bytes are shared.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use roadstead_api::v1::{self, watch_event};
use roadstead_core::apply::{Applied, Change};
use roadstead_core::id::{ClusterId, Name, Owner, Revision, TenantId};
use roadstead_core::observed::TenantFacts;
use roadstead_core::state::State;
use roadstead_core::tenant::Tenant;

use super::ClusterNames;
use super::scope::Scope;
use crate::convert;

/// The largest message of a watch, about: a quarter of what gRPC clients take by default. A revision with more events is split.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Field numbers of `WatchResponse`.
const REVISION: u32 = 1;
const EVENTS: u32 = 2;
const INITIAL_STATE_COMPLETE: u32 = 3;
const PARTIAL: u32 = 4;

/// How an event concerns one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Came into being, or into the scope.
    Added,
    /// Changed.
    Modified,
    /// Went, or left the scope.
    Deleted,
}

/// One applied entry.
#[derive(Debug)]
pub struct Entry {
    /// Its revision.
    pub revision: Revision,
    applied: Arc<Applied>,
    names: ClusterNames,
    /// Clusters and classes, whose wire form needs the state of the time.
    prepared: HashMap<usize, watch_event::Object>,
    wire: Vec<[OnceLock<Bytes>; 3]>,
    whole: OnceLock<Arc<[Bytes]>>,
    /// Which changes concern a cluster, by name.
    pub by_cluster: HashMap<Name, Vec<usize>>,
    /// Which changes concern an owner.
    pub by_owner: HashMap<Owner, Vec<usize>>,
}

impl Entry {
    /// Takes over an applied entry; `state` is needed if clusters or classes have changed.
    #[must_use]
    pub fn new(revision: Revision, applied: Arc<Applied>, names: ClusterNames, state: Option<&State>) -> Self {
        let mut by_cluster = HashMap::<Name, Vec<usize>>::new();
        let mut by_owner = HashMap::<Owner, Vec<usize>>::new();
        let mut prepared = HashMap::new();
        for (position, change) in applied.changes.iter().enumerate() {
            match change {
                Change::Tenant { before, after, .. } => {
                    for tenant in [before, after].into_iter().flatten() {
                        if let Some(name) = tenant.phase.binding().and_then(|binding| names.get(&binding.cluster)) {
                            note(&mut by_cluster, name, position);
                        }
                        note(&mut by_owner, &tenant.spec.owner, position);
                    }
                }
                Change::Cluster { before, after } => {
                    if let Some(cluster) = after.as_ref().or(before.as_ref()) {
                        note(&mut by_cluster, &cluster.spec.name, position);
                    }
                }
                Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => {}
            }
            if let Some(object) = state.and_then(|state| prepare(change, state)) {
                prepared.insert(position, object);
            }
        }
        let wire = applied.changes.iter().map(|_| Default::default()).collect();
        Self { revision, applied, names, prepared, wire, whole: OnceLock::new(), by_cluster, by_owner }
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.applied.changes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.changes.is_empty()
    }

    /// The tenants that it changed and that are, or were, in a cluster.
    pub fn tenants_of(&self, cluster: &Name) -> impl Iterator<Item = TenantId> {
        let positions = self.by_cluster.get(cluster).into_iter().flatten();
        positions.filter_map(|position| match &self.applied.changes[*position] {
            Change::Tenant { before, after, .. } => after.as_ref().or(before.as_ref()).map(|tenant| tenant.id),
            Change::Cluster { .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => None,
        })
    }

    /// A tenant as this entry left it.
    #[must_use]
    pub fn tenant(&self, owner: &Owner, name: &Name) -> Option<v1::Tenant> {
        let changes = self.by_owner.get(owner)?.iter().rev().map(|position| &self.applied.changes[*position]);
        let mut tenants = changes.filter_map(|change| match change {
            Change::Tenant { after, facts, .. } => after.as_ref().map(|tenant| (tenant, facts)),
            Change::Cluster { .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => None,
        });
        tenants.find(|(tenant, _)| tenant.spec.name == *name).map(|(tenant, facts)| wire_tenant(tenant, facts.as_deref(), &self.names))
    }

    /// The messages for a watcher: events past `after_ordinal` that concern its scope, together, or in parts if they are large.
    #[must_use]
    pub fn messages(&self, scope: &Scope, after_ordinal: u32) -> Arc<[Bytes]> {
        if scope.is_everything() && after_ordinal == 0 {
            return Arc::clone(self.whole.get_or_init(|| self.frame(scope, 0..self.len(), 0)));
        }
        let none = Vec::new();
        match scope.keys(self) {
            None => self.frame(scope, 0..self.len(), after_ordinal),
            Some(positions) => self.frame(scope, positions.unwrap_or(&none).iter().copied(), after_ordinal),
        }
    }

    fn frame(&self, scope: &Scope, positions: impl Iterator<Item = usize>, after_ordinal: u32) -> Arc<[Bytes]> {
        let mut frames = Frames::new(self.revision);
        for position in positions {
            if ordinal(position) > after_ordinal
                && let Some(concern) = scope.concern(&self.applied.changes[position], &self.names)
            {
                frames.add(&self.event(position, concern));
            }
        }
        frames.finish().into()
    }

    /// One event in its wire form, made at the first asking.
    fn event(&self, position: usize, concern: Concern) -> Bytes {
        self.wire[position][concern as usize].get_or_init(|| self.encode(position, concern)).clone()
    }

    fn encode(&self, position: usize, concern: Concern) -> Bytes {
        let kind = match concern {
            Concern::Added => watch_event::Type::Added,
            Concern::Modified => watch_event::Type::Modified,
            Concern::Deleted => watch_event::Type::Deleted,
        };
        let change = &self.applied.changes[position];
        let object = match self.prepared.get(&position) {
            Some(object) if concern != Concern::Deleted => object.clone(),
            Some(_) | None => self.object(change, concern),
        };
        encode(&v1::WatchEvent { r#type: kind.into(), ordinal: ordinal(position), object: Some(object) })
    }

    /// The object of an event: as it is now, or, if it is gone for this watcher, as it was last.
    fn object(&self, change: &Change, concern: Concern) -> watch_event::Object {
        fn pick<T>(before: &Option<Arc<T>>, after: &Option<Arc<T>>, concern: Concern) -> Arc<T> {
            let (first, second) = if concern == Concern::Deleted { (before, after) } else { (after, before) };
            first.clone().or_else(|| second.clone()).expect("a change has a before or an after")
        }
        match change {
            Change::Tenant { before, after, facts } => {
                watch_event::Object::Tenant(wire_tenant(&pick(before, after, concern), facts.as_deref(), &self.names))
            }
            Change::Cluster { before, after } => {
                watch_event::Object::Cluster(convert::cluster::wire_without_status(&pick(before, after, concern).spec))
            }
            Change::Pool { before, after } => watch_event::Object::Pool(convert::cluster::wire_pool(&pick(before, after, concern))),
            Change::Class { before, after } => {
                watch_event::Object::Class(convert::class::wire_without_template(&pick(before, after, concern), 0))
            }
            Change::Policy { after } => watch_event::Object::Policy(convert::policy::wire(after)),
        }
    }
}

/// A tenant with the names of clusters as of its entry.
#[must_use]
pub fn wire_tenant(tenant: &Tenant, facts: Option<&TenantFacts>, names: &HashMap<ClusterId, Name>) -> v1::Tenant {
    convert::tenant::wire(tenant, facts, &|id| names.get(&id).map_or_else(|| format!("#{}", id.0), ToString::to_string))
}

/// What can only be told with the state at hand.
fn prepare(change: &Change, state: &State) -> Option<watch_event::Object> {
    match change {
        Change::Cluster { after: Some(cluster), .. } => {
            // Its counts are the state's of now; what was declared is the entry's.
            Some(watch_event::Object::Cluster(convert::cluster::wire(state, cluster)))
        }
        Change::Class { after: Some(class), .. } => {
            let tenants = state.class_use(class.name.as_str(), &class.version);
            Some(watch_event::Object::Class(convert::class::wire_without_template(class, tenants)))
        }
        Change::Cluster { after: None, .. }
        | Change::Class { after: None, .. }
        | Change::Tenant { .. }
        | Change::Pool { .. }
        | Change::Policy { .. } => None,
    }
}

fn note<K: Clone + Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<usize>>, key: &K, position: usize) {
    match index.get_mut(key) {
        // Before and after are often of the same cluster and owner.
        Some(positions) if positions.last() == Some(&position) => {}
        Some(positions) => positions.push(position),
        None => drop(index.insert(key.clone(), vec![position])),
    }
}

/// Ordinals count the events of a revision from 1, before filtering.
fn ordinal(position: usize) -> u32 {
    u32::try_from(position + 1).expect("an entry holds fewer than 2^32 changes")
}

/// An event as an element of `WatchResponse.events`.
#[must_use]
pub fn encode(event: &v1::WatchEvent) -> Bytes {
    let length = event.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + encoded_len_varint(length as u64) + 1);
    encode_key(EVENTS, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    event.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Puts events together to messages of a bounded size.
#[derive(Debug)]
pub struct Frames {
    revision: Bytes,
    open: BytesMut,
    done: Vec<Bytes>,
}

impl Frames {
    /// Messages of this revision.
    #[must_use]
    pub fn new(revision: Revision) -> Self {
        Self { revision: encode_revision(revision), open: BytesMut::new(), done: Vec::new() }
    }

    /// Adds an event, as [`encode`] made it.
    pub fn add(&mut self, event: &[u8]) {
        if !self.open.is_empty() && self.open.len() + event.len() > MAX_MESSAGE_BYTES {
            self.close(true);
        }
        if self.open.is_empty() {
            self.open.put_slice(&self.revision);
        }
        self.open.put_slice(event);
    }

    fn close(&mut self, partial: bool) {
        if partial {
            encode_flag(PARTIAL, &mut self.open);
        }
        self.done.push(self.open.split().freeze());
    }

    /// All messages; each but the last says that it is partial.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.close(false);
        }
        self.done
    }

    /// The messages so far, each of which says that more follows.
    #[must_use]
    pub fn finish_partial(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.close(true);
        }
        self.done
    }
}

/// A message without events: nothing was missed up to this revision.
#[must_use]
pub fn bookmark(revision: Revision) -> Bytes {
    encode_revision(revision)
}

/// The last message of an initial state.
#[must_use]
pub fn initial_state_complete(revision: Revision) -> Bytes {
    let mut bytes = BytesMut::from(&encode_revision(revision)[..]);
    encode_flag(INITIAL_STATE_COMPLETE, &mut bytes);
    bytes.freeze()
}

fn encode_revision(revision: Revision) -> Bytes {
    let mut bytes = BytesMut::new();
    prost::encoding::message::encode(REVISION, &convert::wire_revision(revision), &mut bytes);
    bytes.freeze()
}

fn encode_flag(field: u32, bytes: &mut BytesMut) {
    prost::encoding::bool::encode(field, &true, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_decode_to_what_was_put_in() {
        let revision = Revision { index: 7, ..Revision::default() };
        let event = v1::WatchEvent { r#type: watch_event::Type::Added.into(), ordinal: 3, object: None };
        let mut frames = Frames::new(revision);
        frames.add(&encode(&event));
        frames.add(&encode(&event));
        let messages = frames.finish();
        let response = v1::WatchResponse::decode(messages[0].clone()).unwrap();
        assert_eq!(response.revision.unwrap().index, 7);
        assert_eq!(response.events, [event.clone(), event]);
        assert!(!response.partial && messages.len() == 1);
        let bookmark = v1::WatchResponse::decode(bookmark(revision)).unwrap();
        assert!(bookmark.events.is_empty() && bookmark.revision.is_some());
        assert!(v1::WatchResponse::decode(initial_state_complete(revision)).unwrap().initial_state_complete);
    }

    #[test]
    fn a_large_revision_is_split_and_says_so() {
        let tenant = v1::Tenant { name: "x".repeat(MAX_MESSAGE_BYTES / 3), ..v1::Tenant::default() };
        let event = encode(&v1::WatchEvent { object: Some(watch_event::Object::Tenant(tenant)), ..v1::WatchEvent::default() });
        let mut frames = Frames::new(Revision::default());
        (0..5).for_each(|_| frames.add(&event));
        let partial: Vec<(bool, usize)> = frames
            .finish()
            .into_iter()
            .map(|bytes| v1::WatchResponse::decode(bytes).unwrap())
            .map(|response| (response.partial, response.events.len()))
            .collect();
        assert_eq!(partial, [(true, 2), (true, 2), (false, 1)]);
    }
}
