//! Recovering from the loss of a majority: what one member has becomes a new group of one.
//!
//! An offline step, ordered by a person. The new group has its own id, so that members of the old one that come back are not heard.

use roadstead_core::command::{Batch, Command, Envelope, FeatureLevel};
use roadstead_core::id::Incarnation;
use roadstead_core::request::Principal;

use crate::door::{HardState, Restored};
use crate::machine::{Content, Machine};
use crate::member::{GroupId, MemberInfo, Membership};
use crate::replica::decode_entries;

/// Makes a member the only voter of a new group, with everything that it has on disk, as a new incarnation.
///
/// Entries that it cannot know to be committed are taken as committed: what was acknowledged by the lost majority and reached this member is
/// kept, and what was not acknowledged has only become certain. The result is a snapshot without a log: write it, synced, empty the log, and
/// keep the new group's id before the replica starts.
///
/// # Errors
/// Plain words when what was restored does not fit together.
pub fn force_single(restored: Restored, group: GroupId, info: MemberInfo, supported: FeatureLevel) -> Result<Restored, String> {
    let Restored { id, hard_state, snapshot_term, snapshot_index, membership, state, entries, .. } = restored;
    if snapshot_index == 0 {
        return Err("this member never took part: there is nothing to recover".to_owned());
    }
    let mut machine = Machine::new(*state, membership);
    let mut term = hard_state.term.max(snapshot_term);
    let mut last = (snapshot_index, snapshot_term);
    for entry in decode_entries(&entries)? {
        // A log that was overtaken by a snapshot before it could be cut holds nothing more than the snapshot.
        if entry.index <= snapshot_index {
            if entry.index == snapshot_index && entry.term != snapshot_term {
                break;
            }
            continue;
        }
        if entry.index != last.0 + 1 {
            return Err(format!("entry {} is missing", last.0 + 1));
        }
        match machine.read(&entry, supported)? {
            Content::Batch(batch) => drop(machine.apply_batch(entry.index, &batch)),
            content => drop(machine.apply_other(entry.index, content)),
        }
        last = (entry.index, entry.term);
        term = term.max(entry.term);
    }
    let (index, term) = (last.0 + 1, term + 1);
    let incarnation = Incarnation(machine.state.incarnation().0.saturating_add(1));
    let principal = Principal::new(&format!("replica:{id}")).expect("hexadecimal digits are legal in a principal");
    let command = Command::Incarnate { incarnation };
    let batch = Batch { commands: vec![Envelope { principal, retry: None, command }], ..machine.nothing() };
    machine.apply_batch(index, &batch);
    let mut removed = machine.membership.removed.clone();
    removed.extend(machine.membership.ids());
    removed.remove(&id);
    while removed.len() > crate::member::MAX_REMOVED {
        removed.pop_first();
    }
    let membership = Membership { voters: [(id, info)].into(), learners: Default::default(), removed };
    let hard_state = HardState { term, vote: 0, commit: index };
    Ok(Restored {
        group,
        id,
        hard_state,
        snapshot_term: term,
        snapshot_index: index,
        membership,
        state: Box::new(machine.state),
        entries: Vec::new(),
    })
}
