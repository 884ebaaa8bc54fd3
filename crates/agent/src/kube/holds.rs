//! Whether nothing of a tenant can write any more, and what keeps it from that: what runs, what may run on where nobody can look, and volumes
//! that are attached. All kinds that run anything have been listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::pods::SlimPod;
use super::record::Vanished;
use super::store::{Extra, Home, Inner, Live};

/// What keeps a tenant from being at rest. As text: what people have to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    /// A pod that was taken out of the API while its node was not ready.
    Vanished(&'a Vanished),
    /// That one has vanished is written down, and is over.
    Written,
    /// A pod that nothing looks after and that nobody has asked to end.
    Stray(&'a str),
    /// Another pod: its name, what made it (empty if nothing did), whether it is ending.
    Pod(&'a str, &'a str, bool),
    /// Something that starts pods: kind and name.
    Object(&'a str, &'a str),
    /// A claim that is attached: its name, and that of the VolumeAttachment.
    Attached(&'a str, &'a str),
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vanished(Vanished { pod, node }) => write!(
                f,
                "pod {pod} was deleted while its node {node} was not ready, and may still run there; bring it back, or delete the Node once its machine is off"
            ),
            Self::Written => write!(f, "the node of a pod that had vanished is back, or gone for good; that is being written down"),
            Self::Stray(pod) => write!(f, "pod {pod} still runs, and no controller will end it; delete it"),
            Self::Pod(pod, _, true) => write!(f, "pod {pod} is ending"),
            Self::Pod(pod, "", false) => write!(f, "pod {pod} has not ended"),
            Self::Pod(pod, owner, false) => write!(f, "pod {pod} of {owner} has not ended"),
            Self::Object(kind, name) => write!(f, "{kind}/{name} is not at rest"),
            Self::Attached(claim, attachment) => write!(f, "volume {claim} is still attached to a node (VolumeAttachment/{attachment})"),
        }
    }
}

/// The pods of a namespace that vanished and may run on, by UID: those that were seen to, and those that were written down. A node that is ready has
/// ended what was taken from it; one that is gone has nothing.
pub(super) fn vanished(inner: &Inner, home: &Home) -> BTreeMap<String, Vanished> {
    may_run(inner, home).map(|(uid, vanished)| (uid.clone(), vanished.clone())).collect()
}

fn may_run<'a>(inner: &Inner, home: &'a Home) -> impl Iterator<Item = (&'a String, &'a Vanished)> {
    let recorded = home.record.iter().flat_map(|record| &record.vanished);
    recorded.chain(&home.vanished).filter(|(_, vanished)| inner.nodes.get(&vanished.node) == Some(&false))
}

/// Whether it is written down which pods vanished, for whoever comes after this process.
pub(super) fn is_written(inner: &Inner, home: &Home) -> bool {
    let recorded = home.record.as_ref().map(|record| &record.vanished);
    recorded.map_or_else(|| may_run(inner, home).next().is_none(), |recorded| *recorded == vanished(inner, home))
}

/// What keeps what is in a namespace from being at rest, if anything: first what does not end by itself.
pub(super) fn holder<'a>(inner: &'a Inner, home: &'a Home) -> Option<Holder<'a>> {
    let vanished = may_run(inner, home).next().map(|(_, vanished)| Holder::Vanished(vanished));
    vanished.or_else(|| running(inner, home)).or_else(|| attached(inner, home)).or_else(|| {
        let is_over = home.record.as_ref().is_some_and(|record| !record.vanished.is_empty());
        is_over.then_some(Holder::Written)
    })
}

/// A pod, or what starts pods.
fn running<'a>(inner: &'a Inner, home: &'a Home) -> Option<Holder<'a>> {
    let objects = || {
        home.objects
            .iter()
            .flat_map(|(kind, objects)| objects.iter().map(move |(name, live)| (&*inner.kinds[*kind].kind.kind, &**name, live)))
    };
    if home.pods.is_empty() {
        return objects().find(|(.., live)| !live.at_rest).map(|(kind, name, _)| Holder::Object(kind, name));
    }
    let known: BTreeSet<(&str, &str)> = objects().map(|(kind, name, _)| (kind, name)).collect();
    let rank = |name: &str, pod: &SlimPod| {
        let is_known = match pod.owner.split_once('/') {
            Some(owner) => known.contains(&owner),
            None => known.contains(&("Pod", name)),
        };
        // What somebody has asked to end most likely will; so will what is scaled to nothing.
        (pod.deleting, is_known)
    };
    let (name, pod) = home.pods.iter().min_by_key(|(name, pod)| rank(name, pod))?;
    let is_stray = pod.owner.is_empty() && !pod.ended && rank(name, pod) == (false, false);
    Some(if is_stray { Holder::Stray(name) } else { Holder::Pod(name, &pod.owner, pod.deleting) })
}

fn attached<'a>(inner: &'a Inner, home: &'a Home) -> Option<Holder<'a>> {
    let attachment = |live: &Live| match &live.extra {
        Extra::Claim { volume, .. } => {
            inner.attachments.iter().find(|(_, attached)| ***attached == **volume).map(|(name, _)| name.as_str())
        }
        Extra::Nothing | Extra::Secret(_) => None,
    };
    home.objects.values().flatten().find_map(|(name, live)| Some(Holder::Attached(name, attachment(live)?)))
}
