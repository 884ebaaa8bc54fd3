//! What comes next for one tenant. It knows no other tenant, and no limits.

use super::{Action, Condition, Home, Part, PartSeen, Step, TenantSeen, VolumeSeen, going};
use crate::intent::{Role, TenantIntent, VolumeIntent};

/// What comes next.
pub(super) fn step(wanted: &TenantIntent, seen: &TenantSeen) -> Step {
    match &seen.home {
        Home::Foreign(what) => idle(Condition::Blocked(format!("the name is taken by {what}"))),
        Home::Ours(epoch) if *epoch > wanted.epoch => {
            idle(Condition::Blocked(format!("it was acted on in epoch {epoch}, which is newer than {}", wanted.epoch)))
        }
        Home::Terminating(held) => {
            let held = held.as_ref().map(|by| format!(": {by}")).unwrap_or_default();
            idle(match wanted.role {
                Role::Absent => Condition::Progressing(format!("its namespace is being deleted{held}")),
                Role::Run | Role::Hold | Role::Receive | Role::Stopped => {
                    Condition::Blocked(format!("its namespace is being deleted, and nothing can be made in it{held}"))
                }
            })
        }
        Home::None | Home::Ours(_) => by_role(wanted, seen),
    }
}

fn by_role(wanted: &TenantIntent, seen: &TenantSeen) -> Step {
    // Nothing is made anew where something was lost: an empty volume in its place would be taken for the data.
    let lost = wanted.volumes.iter().find(|volume| is_lost(volume, seen));
    let goes = wanted.role == Role::Run && going(wanted, seen).is_some();
    if let Some(lost) = lost.filter(|_| wanted.role != Role::Absent) {
        // What runs is all that another one is still kept for.
        let actions = if seen.at_rest || goes { Vec::new() } else { vec![Action::Unroute, Action::Stop] };
        return Step { actions, condition: Condition::VolumeLost(lost.name.clone()) };
    }
    let claim = if seen.home == Home::Ours(wanted.epoch) { Vec::new() } else { vec![Action::Claim] };
    match wanted.role {
        Role::Run => run(wanted, seen, claim),
        // There is nothing to stop or to keep; and what was told of it before may end it any time, which leaves what is made now as an orphan.
        Role::Stopped if is_nothing(seen) => idle(Condition::Stopped),
        Role::Stopped | Role::Hold | Role::Receive => rest(wanted, seen, claim),
        Role::Absent => absent(seen, claim),
    }
}

/// Whether nothing of it is there: neither where its objects would be, nor anything that runs.
fn is_nothing(seen: &TenantSeen) -> bool {
    seen.home == Home::None && seen.at_rest
}

/// Whether a volume that was made is not there any more, or another one is in its place: by what is seen, or by what the intent knows.
fn is_lost(wanted: &VolumeIntent, seen: &TenantSeen) -> bool {
    match (seen.volumes.get(&wanted.name).unwrap_or(&VolumeSeen::Never), wanted.uid) {
        (VolumeSeen::Lost, _) | (VolumeSeen::Never, Some(_)) => true,
        (VolumeSeen::There { uid, .. } | VolumeSeen::Going { uid }, Some(known)) => *uid != known,
        (VolumeSeen::Never | VolumeSeen::There { .. } | VolumeSeen::Going { .. }, None) => false,
    }
}

fn run(wanted: &TenantIntent, seen: &TenantSeen, mut actions: Vec<Action>) -> Step {
    let mut waits_for = None;
    for part in Part::ALL {
        if part == Part::Workloads {
            actions.extend(new_volumes(wanted, seen));
        }
        match put(seen, part, &mut actions) {
            Ok(waits) => waits_for = waits_for.or(waits),
            Err(condition) => return Step { actions, condition },
        }
    }
    // Last: what cannot grow keeps nothing from running.
    actions.extend(grown_volumes(wanted, seen));
    // New pods in their place would end those for which a volume that is being deleted is still kept.
    if going(wanted, seen).is_some() && !seen.at_rest && *of(seen, Part::Workloads) == PartSeen::Differs {
        actions.retain(|action| *action != Action::Put(Part::Workloads));
        waits_for = waits_for.or_else(|| Some("its workloads are left as they are while a volume of it is being deleted".to_owned()));
    }
    let condition = match waits_for {
        _ if !actions.is_empty() => Condition::Progressing("its objects are being made".to_owned()),
        Some(why) => Condition::Progressing(why),
        None => Condition::Running,
    };
    Step { actions, condition }
}

/// Nothing runs; volumes are there, but for one that is only held room for.
fn rest(wanted: &TenantIntent, seen: &TenantSeen, mut actions: Vec<Action>) -> Step {
    let at_rest = seen.at_rest || seen.home == Home::None;
    if *of(seen, Part::Routes) != PartSeen::Missing {
        actions.push(Action::Unroute);
    }
    if !at_rest {
        actions.push(Action::Stop);
    }
    for part in [Part::Bounds, Part::Secrets] {
        if let Err(condition) = put(seen, part, &mut actions) {
            return Step { actions, condition };
        }
    }
    if wanted.role != Role::Hold {
        // They grow when it runs: one that cannot must not keep it from being seen at rest.
        actions.extend(new_volumes(wanted, seen));
    }
    let condition = match (at_rest, actions.is_empty()) {
        (true, true) => Condition::Stopped,
        (true, false) => Condition::Progressing("its objects are being made".to_owned()),
        (false, _) => Condition::Progressing(with_holder("it is being stopped", seen)),
    };
    Step { actions, condition }
}

/// Claimed, so that nobody with an older intent goes on; stopped, so that what ends it in an orderly way can; then deleted.
fn absent(seen: &TenantSeen, mut actions: Vec<Action>) -> Step {
    if seen.home == Home::None {
        return idle(Condition::Absent);
    }
    let goes = seen.at_rest && actions.is_empty();
    if actions.is_empty() {
        if *of(seen, Part::Routes) != PartSeen::Missing {
            actions.push(Action::Unroute);
        }
        actions.push(if seen.at_rest { Action::Delete } else { Action::Stop });
    }
    let words = if goes { "it is being removed".to_owned() } else { with_holder("it is being stopped, and then removed", seen) };
    Step { actions, condition: Condition::Progressing(words) }
}

/// With what keeps it from being at rest behind it, where that is known.
pub(super) fn with_holder(words: &str, seen: &TenantSeen) -> String {
    seen.holds.as_ref().map_or_else(|| words.to_owned(), |what| format!("{words}: {what}"))
}

/// Makes a part if it is not as rendered; what it waits for, if anything.
///
/// # Errors
/// Why it, and all that comes after it, cannot be made.
fn put(seen: &TenantSeen, part: Part, actions: &mut Vec<Action>) -> Result<Option<String>, Condition> {
    match of(seen, part) {
        PartSeen::Missing | PartSeen::Differs => actions.push(Action::Put(part)),
        PartSeen::Waits(why) => return Ok(Some(why.clone())),
        PartSeen::Ready => {}
        PartSeen::Blocked(why) => return Err(Condition::Blocked(why.clone())),
        PartSeen::Lost(which) => return Err(Condition::SecretLost(which.clone())),
    }
    Ok(None)
}

fn new_volumes(wanted: &TenantIntent, seen: &TenantSeen) -> Vec<Action> {
    let is_new = |volume: &&VolumeIntent| matches!(seen.volumes.get(&volume.name), None | Some(VolumeSeen::Never));
    wanted.volumes.iter().filter(is_new).map(|volume| Action::MakeVolume(volume.name.clone())).collect()
}

fn grown_volumes(wanted: &TenantIntent, seen: &TenantSeen) -> Vec<Action> {
    let is_small =
        |volume: &&VolumeIntent| matches!(seen.volumes.get(&volume.name), Some(VolumeSeen::There { bytes, .. }) if *bytes < volume.size.0);
    wanted.volumes.iter().filter(is_small).map(|volume| Action::GrowVolume(volume.name.clone())).collect()
}

fn of(seen: &TenantSeen, part: Part) -> &PartSeen {
    seen.parts.get(&part).unwrap_or(&PartSeen::Missing)
}

fn idle(condition: Condition) -> Step {
    Step { actions: Vec::new(), condition }
}
