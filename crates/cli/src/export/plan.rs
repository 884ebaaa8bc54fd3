//! What is to be done with profiles, from what the placement service and the management cluster have.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_api::v1;

use super::profile::{ClusterProfile, GROUP_LABEL, MANAGER_LABEL, UID, profile, status};

/// Whose profiles ours are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The manager's name.
    pub manager: String,
    /// The placement service's group.
    pub group: String,
}

impl Owner {
    /// Whether a profile names this manager, and no other placement service.
    fn has(&self, profile: &ClusterProfile) -> bool {
        self.manages(profile) && profile.label(GROUP_LABEL) == self.group
    }

    fn manages(&self, profile: &ClusterProfile) -> bool {
        profile.spec.cluster_manager.name == self.manager && profile.label(MANAGER_LABEL) == self.manager
    }

    /// Whether a profile may be written for a cluster. A service that was recovered is another group: it goes on with profiles of the same
    /// clusters, which their UIDs tell.
    fn may_write(&self, profile: &ClusterProfile, cluster: &v1::Cluster) -> bool {
        let uid = cluster.spec.as_ref().map_or("", |spec| spec.uid.as_str());
        self.has(profile) || (self.manages(profile) && !uid.is_empty() && profile.property(UID) == Some(uid))
    }
}

/// What becomes of one profile.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is none: it is made, and must not be there.
    Create(Box<ClusterProfile>),
    /// It is ours and not as it is to be. It has the version of what was seen.
    Change(Box<ClusterProfile>),
    /// It is ours and as it is to be.
    Keep(Box<ClusterProfile>),
    /// It is somebody else's: left alone.
    Foreign {
        /// Its name.
        name: String,
        /// Who says to manage it.
        manager: String,
        /// The placement service that it names, if any.
        group: String,
    },
    /// It is ours, and its cluster is gone. Only what was seen is deleted: nothing that came or changed since.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// Its version.
        version: String,
    },
}

/// What is to be done, by name. `clusters` are all that the placement service has; `profiles` are all in the namespace.
///
/// While the placement service has yet to hear of a cluster since a restore, nothing is deleted: what it does not know may be there.
#[must_use]
pub fn plan(clusters: &[v1::Cluster], profiles: &[ClusterProfile], namespace: &str, owner: &Owner, now: &str) -> Vec<Step> {
    let there: BTreeMap<&str, &ClusterProfile> =
        profiles.iter().map(|profile| (profile.metadata.name.as_deref().unwrap_or_default(), profile)).collect();
    let mut steps: Vec<Step> =
        clusters.iter().map(|cluster| one(cluster, there.get(cluster.name.as_str()).copied(), namespace, owner, now)).collect();
    let fenced = clusters.iter().any(|cluster| cluster.status.as_ref().is_some_and(|status| status.fenced));
    let known: BTreeSet<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let gone = there.iter().filter(|(name, profile)| !fenced && !known.contains(*name) && owner.has(profile));
    steps.extend(gone.map(|(name, profile)| Step::Delete {
        name: (*name).to_owned(),
        uid: profile.metadata.uid.clone().unwrap_or_default(),
        version: profile.metadata.resource_version.clone().unwrap_or_default(),
    }));
    steps
}

fn one(cluster: &v1::Cluster, there: Option<&ClusterProfile>, namespace: &str, owner: &Owner, now: &str) -> Step {
    let mut wanted = profile(cluster, namespace, owner);
    wanted.status = Some(status(cluster, there.and_then(|there| there.status.as_ref()), now));
    let Some(there) = there else { return Step::Create(Box::new(wanted)) };
    if !owner.may_write(there, cluster) {
        let manager = there.spec.cluster_manager.name.clone();
        return Step::Foreign { name: cluster.name.clone(), manager, group: there.label(GROUP_LABEL).to_owned() };
    }
    let labelled = [MANAGER_LABEL, GROUP_LABEL].iter().all(|label| there.label(label) == wanted.label(label));
    wanted.metadata.resource_version.clone_from(&there.metadata.resource_version);
    let same = labelled && there.spec == wanted.spec && there.status == wanted.status;
    if same { Step::Keep(Box::new(wanted)) } else { Step::Change(Box::new(wanted)) }
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::{cluster, owner, written};
    use super::*;

    const NOW: &str = "2026-06-06T00:00:00Z";

    fn steps(clusters: &[v1::Cluster], profiles: &[ClusterProfile]) -> Vec<Step> {
        plan(clusters, profiles, "clusters", &owner(), NOW)
    }

    #[test]
    fn a_new_cluster_is_written_and_then_left_alone() {
        let steps_at_first = steps(&[cluster("eu-1")], &[]);
        let [Step::Create(made)] = &steps_at_first[..] else { panic!("{steps_at_first:?}") };
        assert_eq!((made.label(MANAGER_LABEL), made.healthy()), ("roadstead", "True"));
        let after = steps(&[cluster("eu-1")], &[written("eu-1")]);
        assert!(matches!(&after[..], [Step::Keep(_)]), "{after:?}");
    }

    #[test]
    fn what_somebody_changed_is_put_right_and_only_what_was_seen() {
        let mut edited = written("eu-1");
        edited.spec.display_name = "mine".into();
        let changed = steps(&[cluster("eu-1")], &[edited]);
        let [Step::Change(wanted)] = &changed[..] else { panic!("{changed:?}") };
        assert_eq!((wanted.metadata.resource_version.as_deref(), wanted.spec.display_name.as_str()), (Some("7"), "eu-1"));
    }

    #[test]
    fn profiles_of_others_are_neither_written_nor_deleted() {
        let other = |name: &str, change: &dyn Fn(&mut ClusterProfile)| {
            let mut profile = written(name);
            change(&mut profile);
            profile.status = None;
            profile
        };
        let labels = |profile: &mut ClusterProfile, label: &str, value: &str| {
            profile.metadata.labels.get_or_insert_default().insert(label.into(), value.into());
        };
        let others: [&dyn Fn(&mut ClusterProfile); 4] = [
            &|profile| profile.spec.cluster_manager.name = "karmada".into(),
            &|profile| labels(profile, MANAGER_LABEL, "karmada"),
            &|profile| labels(profile, GROUP_LABEL, "another"),
            &|profile| profile.metadata.labels = None,
        ];
        for change in others {
            let (same_name, another_name) = (other("eu-1", change), other("eu-9", change));
            let found = steps(&[cluster("eu-1")], &[same_name, another_name]);
            assert!(matches!(&found[..], [Step::Foreign { name, .. }] if name == "eu-1"), "{found:?}");
        }
    }

    #[test]
    fn a_profile_is_deleted_as_it_was_seen_when_its_cluster_is_gone() {
        let found = steps(&[cluster("eu-1")], &[written("eu-1"), written("eu-2")]);
        let delete = Step::Delete { name: "eu-2".into(), uid: "profile-eu-2".into(), version: "7".into() };
        assert!(found.contains(&delete) && found.len() == 2, "{found:?}");
    }

    #[test]
    fn nothing_is_deleted_while_a_restored_service_waits_for_a_cluster() {
        let mut waits = cluster("eu-1");
        waits.status.as_mut().unwrap().fenced = true;
        let found = steps(&[waits], &[written("eu-1"), written("eu-2")]);
        let [Step::Change(wanted)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(wanted.healthy(), "Unknown");
    }

    #[test]
    fn a_recovered_service_goes_on_with_the_profiles_of_the_same_clusters() {
        let mut recovered = owner();
        recovered.group = "new".into();
        let found = plan(&[cluster("eu-1")], &[written("eu-1"), written("eu-2")], "clusters", &recovered, NOW);
        let [Step::Change(wanted)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(wanted.label(GROUP_LABEL), "new");
        // Another cluster of the same name is another's.
        let mut another = cluster("eu-1");
        another.spec.as_mut().unwrap().uid = "another".into();
        let found = plan(&[another], &[written("eu-1")], "clusters", &recovered, NOW);
        assert!(matches!(&found[..], [Step::Foreign { .. }]), "{found:?}");
    }
}
