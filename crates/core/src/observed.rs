//! What agents tell beyond a phase: which volumes a tenant has, what keeps it from running, what a cluster is made of.
//!
//! Kept apart from tenants and clusters: it is told by agents, decides no placement, and most tenants have none. From feature level
//! [`crate::apply::OBSERVES`] on.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Name, TenantId, VolumeUid};
use crate::resources::{Bytes, MAX_QUANTITY, Millicores, PodSize};
use crate::time::Timestamp;

/// The longest text about what keeps a tenant from running, in bytes.
pub const MAX_WHY_BYTES: usize = 240;
/// Volumes of a tenant whose identity is kept.
pub const MAX_VOLUMES: usize = 64;
/// The longest version text of a cluster or an agent, in bytes.
pub const MAX_VERSION_BYTES: usize = 64;

/// Groups, zones and taints of a cluster that are told: those that come first by name.
pub const MAX_DETAILS: usize = 64;
/// The longest name among them, in bytes.
pub const MAX_DETAIL_BYTES: usize = 256;

/// What kind of thing keeps a tenant from being as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TroubleKind {
    /// It may come by itself: a pod that is not ready yet.
    Waits,
    /// It does not go on until something is changed.
    Blocked,
    /// A volume that was there is not: it stays stopped until somebody decides.
    VolumeLost,
    /// A secret that was generated is not there any more.
    SecretLost,
    /// It is removed only once an operator agrees: there are more removals than an agent carries out by itself. From feature level
    /// [`crate::apply::AGREES`] on.
    HeldBack,
}

/// What keeps a tenant from being as it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind of thing.
    pub kind: TroubleKind,
    /// In plain words, at most [`MAX_WHY_BYTES`].
    pub why: String,
    /// Since when it has been of this kind.
    pub since: Timestamp,
}

/// What is kept of what was told about a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantFacts {
    /// Its volumes as its cluster knows them; each is set once.
    pub volumes: Vec<(Name, VolumeUid)>,
    /// What is wrong, if anything.
    pub trouble: Option<Trouble>,
}

impl TenantFacts {
    /// Which volume of its cluster is the one of this name, once that is known.
    #[must_use]
    pub fn volume(&self, name: &Name) -> Option<VolumeUid> {
        self.volumes.iter().find(|(known, _)| known == name).map(|(_, uid)| *uid)
    }
}

/// What a cluster is made of, as its agent last told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Version of Kubernetes, as in `v1.34.4`; `local` where processes run on one machine.
    pub version: String,
    /// Version of the agent.
    pub agent: String,
    /// All nodes.
    pub nodes: u32,
    /// Those that are ready.
    pub ready_nodes: u32,
    /// What is labelled as a tenant there and named by no intent: left as it is.
    pub orphans: u32,
    /// Tenants that are not removed until an operator agrees.
    pub held_back: u32,
}

/// Whether NetworkPolicies hold in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Upheld {
    /// Nobody has found out.
    #[default]
    Unknown,
    /// What a policy denies does not get through.
    Yes,
    /// What a policy denies gets through: nothing in the cluster enforces policies.
    No,
}

/// Whether a cluster's network keeps to NetworkPolicies, as its agent found by trying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicies {
    /// What comes to pods.
    pub ingress: Upheld,
    /// What pods send.
    pub egress: Upheld,
    /// Why something is unknown, in plain words, at most [`MAX_WHY_BYTES`]; else empty.
    pub why: String,
}

/// One autoscaled group of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthGroup {
    /// Its name.
    pub name: String,
    /// How many nodes it may still get, where it counts nodes.
    pub nodes: Option<u32>,
    /// What they may have together, where that is known.
    pub room: Option<PodSize>,
    /// Whether it cannot grow at the moment.
    pub held_back: bool,
}

/// What autoscaled groups of nodes may still add: it is not there yet, and is no part of the capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Sum over the groups whose room is known and that can grow.
    pub room: PodSize,
    /// By name, at most [`MAX_DETAILS`].
    pub groups: Vec<GrowthGroup>,
}

/// Nodes that are short of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// Of memory.
    pub memory: u32,
    /// Of disk.
    pub disk: u32,
    /// Of process ids.
    pub pids: u32,
}

/// Details of a cluster that decide no placement: for people, and for what buys capacity. From feature level
/// [`crate::apply::DETAILS`] on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDetails {
    /// Whether its network keeps to NetworkPolicies.
    pub policies: NetworkPolicies,
    /// What may still be added to it.
    pub growth: Growth,
    /// Nodes that take tenants' pods: ready, not cordoned, without taints that tenants do not tolerate.
    pub open_nodes: u32,
    /// Open nodes by zone, at most [`MAX_DETAILS`]; empty for those that name none.
    pub zones: Vec<(String, u32)>,
    /// Taints as `key=value:Effect`, and how many nodes have each, at most [`MAX_DETAILS`].
    pub taints: Vec<(String, u32)>,
    /// Nodes that are short of something.
    pub pressure: Pressure,
}

impl ClusterDetails {
    /// The same within the bounds of what is kept, for whoever tells them and for whoever is told. What then has the same name is added up.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self { policies, growth, open_nodes, zones, taints, pressure } = self;
        let policies = NetworkPolicies { why: beginning(&policies.why, MAX_WHY_BYTES), ..policies };
        let growth = Growth { groups: merged_groups(growth.groups), ..growth };
        Self { policies, growth, open_nodes, zones: merged_counts(zones), taints: merged_counts(taints), pressure }
    }
}

fn merged_counts(counts: Vec<(String, u32)>) -> Vec<(String, u32)> {
    let mut kept = Vec::<(String, u32)>::new();
    for (name, nodes) in counts {
        let name = ending(&name, MAX_DETAIL_BYTES);
        if let Some((_, sum)) = kept.iter_mut().find(|(known, _)| *known == name) {
            *sum = sum.saturating_add(nodes);
        } else if kept.len() < MAX_DETAILS {
            kept.push((name, nodes));
        }
    }
    kept
}

/// Groups of one name are one if they are alike: what one of them may have is not told of another that cannot grow.
fn merged_groups(groups: Vec<GrowthGroup>) -> Vec<GrowthGroup> {
    let likeness = |group: &GrowthGroup| (group.held_back, group.nodes.is_some(), group.room.is_some());
    let sum = |a: PodSize, b: PodSize| PodSize {
        cpu: Millicores(a.cpu.0.saturating_add(b.cpu.0).min(MAX_QUANTITY)),
        memory: Bytes(a.memory.0.saturating_add(b.memory.0).min(MAX_QUANTITY)),
    };
    let mut kept = Vec::<GrowthGroup>::new();
    for group in groups {
        let group = GrowthGroup { name: ending(&group.name, MAX_DETAIL_BYTES), ..group };
        if let Some(known) = kept.iter_mut().find(|known| known.name == group.name && likeness(known) == likeness(&group)) {
            known.nodes = known.nodes.zip(group.nodes).map(|(a, b)| a.saturating_add(b));
            known.room = known.room.zip(group.room).map(|(a, b)| sum(a, b));
        } else if kept.len() < MAX_DETAILS {
            kept.push(group);
        }
    }
    kept
}

/// Text for people as it is kept: one line without control characters, and the beginning of what is longer than `most` bytes.
#[must_use]
pub fn beginning(text: &str, most: usize) -> String {
    const LEFT_OUT: &str = " ...";
    // Each word has a byte at least: so many are too long already.
    let mut line = words(text).take(most + 1).collect::<Vec<_>>().join(" ");
    if line.len() > most {
        let end = line.floor_char_boundary(most.saturating_sub(LEFT_OUT.len()));
        line.truncate(line[..end].trim_end().len());
        line.push_str(LEFT_OUT);
    }
    line
}

/// A name as it is kept: as [`beginning`], but of what is longer the end, at which names differ.
#[must_use]
pub fn ending(name: &str, most: usize) -> String {
    const LEFT_OUT: &str = "...";
    let line = words(name).collect::<Vec<_>>().join(" ");
    if line.len() <= most {
        return line;
    }
    let start = line.ceil_char_boundary(line.len() - most.saturating_sub(LEFT_OUT.len()));
    format!("{LEFT_OUT}{}", &line[start..])
}

/// What stands between white space and control characters: of Kubernetes' messages some have several lines.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| letter.is_whitespace() || letter.is_control()).filter(|word| !word.is_empty())
}

/// What is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDetails {
    /// As last told.
    pub details: ClusterDetails,
    /// Since when the same has been told of NetworkPolicies.
    pub policies_since: Timestamp,
}

/// What an agent tells of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenTenant {
    /// Which.
    pub id: TenantId,
    /// The epoch that the agent acts on; another one than the binding's is ignored.
    pub epoch: Epoch,
    /// Its volumes.
    pub volumes: Vec<(Name, VolumeUid)>,
    /// What is wrong, if anything.
    pub trouble: Option<(TroubleKind, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_people_is_one_line_that_is_cut_behind() {
        let denial =
            "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\nresource Pod/a was blocked\r\n\tlatest:\u{1b}[0m no\n";
        let line = "admission webhook \"validate.kyverno.svc-fail\" denied the request: resource Pod/a was blocked latest: [0m no";
        assert_eq!(beginning(denial, MAX_WHY_BYTES), line);
        assert_eq!(beginning(&"ü".repeat(200), MAX_WHY_BYTES), format!("{} ...", "ü".repeat(118)));
        assert_eq!(beginning("one two three", 12), "one two ...");
        assert_eq!(beginning(&"x \n".repeat(1000), 9), "x x x ...");
        assert_eq!([beginning("", 9), beginning(" \n", 9), beginning("a\0", 9)], ["", "", "a"]);
    }

    #[test]
    fn names_are_cut_in_front() {
        assert_eq!(ending("projects/p/zones/b", 18), "projects/p/zones/b");
        assert_eq!(ending("projects/p/zones/b", 10), "...zones/b");
        assert_eq!(ending("üüüüü", 8), "...üü", "whole letters");
        assert_eq!(ending("a\nb", 8), "a b");
    }

    #[test]
    fn of_details_those_of_one_name_are_added_up_and_the_first_are_kept() {
        let long = |start: &str| format!("{start}{}", "x".repeat(MAX_DETAIL_BYTES));
        let size = |cpu| PodSize { cpu: Millicores(cpu), memory: Bytes(cpu) };
        let group = |name: &str, nodes, room, held_back| GrowthGroup { name: name.to_owned(), nodes: Some(nodes), room, held_back };
        let several = vec![
            group(&long("a"), 3, Some(size(10)), false),
            group(&long("b"), 3, Some(size(20)), false),
            group(&long("c"), 9, Some(size(MAX_QUANTITY)), true),
            group("d", 1, None, false),
        ];
        let numbered = (0..2 * MAX_DETAILS).map(|number| (number.to_string(), 1));
        let details = ClusterDetails {
            policies: NetworkPolicies { why: "two\nlines".to_owned(), ..NetworkPolicies::default() },
            growth: Growth { room: size(30), groups: several },
            zones: numbered.collect(),
            taints: vec![(long("a"), 1), (long("b"), u32::MAX), ("c".to_owned(), 1)],
            ..ClusterDetails::default()
        };
        let kept = details.bounded();
        let name = format!("...{}", "x".repeat(MAX_DETAIL_BYTES - 3));
        let groups = [group(&name, 6, Some(size(30)), false), group(&name, 9, Some(size(MAX_QUANTITY)), true), group("d", 1, None, false)];
        assert_eq!((kept.policies.why.as_str(), &kept.growth.groups[..]), ("two lines", &groups[..]));
        assert_eq!(kept.taints, [(name, u32::MAX), ("c".to_owned(), 1)]);
        assert_eq!((kept.zones.len(), &kept.zones[63]), (MAX_DETAILS, &("63".to_owned(), 1)));
        assert_eq!(kept.clone().bounded(), kept);
    }
}
