//! What is read of each kind of object, straight from the API server's JSON: everything else, `managedFields` above all, is skipped while
//! it is parsed and never held.

use std::borrow::Cow;
use std::fmt::Debug;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use roadstead_core::constraint::Taint;
use roadstead_core::resources::PodSize;
use serde::{Deserialize, Deserializer};

mod wire;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Whether its kubelet says that it is ready.
    pub(crate) ready: bool,
    /// Whether it is not cordoned.
    pub(crate) schedulable: bool,
    /// What keeps pods away, or makes them prefer another.
    pub(crate) taints: Vec<Taint>,
    /// What pods may ask for together.
    pub(crate) allocatable: PodSize,
    /// Pods that it takes.
    pub(crate) pods: u64,
    /// Volumes that may be attached, where the node itself says so.
    pub(crate) attachable: Option<u64>,
    /// Zone.
    pub(crate) zone: Option<Box<str>>,
    /// Group that it was made for, as its provider labels it.
    pub(crate) pool: Option<Box<str>>,
    /// Short of memory, of disk, of process ids.
    pub(crate) pressure: [bool; 3],
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its UID.
    pub(crate) uid: u128,
    /// Its namespace.
    pub(crate) namespace: Box<str>,
    /// The node that it is bound to.
    pub(crate) node: Option<Box<str>>,
    /// What it asks for.
    pub(crate) size: PodSize,
    /// Whether it has come to its end: it holds nothing any more.
    pub(crate) ended: bool,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Its UID.
    pub(crate) uid: Box<str>,
    /// The tenant that it is labelled with, if it has the name of that one's namespace and is no copy of it.
    pub(crate) tenant: Option<Box<str>>,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Bytes.
    pub(crate) size: u64,
    /// Its StorageClass; empty without one.
    pub(crate) class: Box<str>,
    /// Namespace of the claim that it belongs, or belonged, to.
    pub(crate) claimed_in: Option<Box<str>>,
    /// The one node that it can be used on.
    pub(crate) host: Option<Box<str>>,
}

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StorageClass {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Whether somebody makes volumes of it.
    pub(crate) provisioned: bool,
    /// Equal for classes of one provisioner with the same parameters: they share what there is.
    pub(crate) pool: u64,
}

/// What a driver says is left in one part of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StorageLeft {
    /// Its UID.
    pub(crate) uid: u128,
    /// StorageClass.
    pub(crate) class: Box<str>,
    /// Bytes.
    pub(crate) left: u64,
}

/// What may be attached to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeDrivers {
    /// The node's name.
    pub(crate) node: Box<str>,
    /// Sum over its drivers that have a limit; `None` if none has.
    pub(crate) attachable: Option<u64>,
}

/// A volume that is, or is being, attached to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Its name.
    pub(crate) name: Box<str>,
    /// The node's name.
    pub(crate) node: Box<str>,
    /// The volume's name; empty for one that is written inline.
    pub(crate) volume: Box<str>,
}

/// A kind of object: its names, what is written and what is read of it.
pub(crate) trait Kind: Clone + Debug + Send + Sync + 'static {
    /// Group, version, kind, plural.
    const NAMES: [&'static str; 4];
    type Wire<'de>: Deserialize<'de>;
    /// Its resourceVersion and what is kept.
    fn read(wire: Self::Wire<'_>) -> (String, Self);
}

/// An object as kube's watcher wants it: with metadata, of which only the resourceVersion is filled in.
#[derive(Clone, Debug)]
pub(crate) struct Slim<K> {
    meta: ObjectMeta,
    pub(crate) object: K,
}

impl<'de, K: Kind> Deserialize<'de> for Slim<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (version, object) = K::read(K::Wire::deserialize(deserializer)?);
        Ok(Self { meta: ObjectMeta { resource_version: Some(version), ..ObjectMeta::default() }, object })
    }
}

impl<K: Kind> Resource for Slim<K> {
    type DynamicType = ();
    // Most are listed over all namespaces, one in a namespace.
    type Scope = DynamicResourceScope;

    fn group((): &()) -> Cow<'_, str> {
        K::NAMES[0].into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::NAMES[1].into()
    }

    fn kind((): &()) -> Cow<'_, str> {
        K::NAMES[2].into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::NAMES[3].into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
