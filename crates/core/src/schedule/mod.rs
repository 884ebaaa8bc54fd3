//! Where a tenant goes and why: exact over all clusters, deterministic, integers only.
//!
//! [`place`] decides, [`explain`] tells the whole story of the same decision. What makes one cluster better than another
//! is in `score`; what is kept of a decision in [`Reason`].

mod reason;
mod report;
mod scan;
mod score;
mod scratch;
#[cfg(test)]
mod tests;

use crate::command::Placement;
use crate::constraint::TaintEffect;
use crate::id::{ClusterId, Revision, ShardId};
use crate::ledger::{BLOCK, Ledger, Neighbours, Refusal, taint_text};
use crate::tenant::TenantSpec;

use self::reason::Tally;
pub use self::reason::{Cause, Reason, Shortfall, describe_reason};
pub use self::report::{MAX_EXAMPLES, RefusalGroup, describe_refusal, group};
use self::scan::Ranks;
use self::score::{Candidate, Score, choose_shard, judge, pools, shard_refusals, share};
pub use self::scratch::Scratch;
use self::scratch::node_of;

/// Nothing fits; the encoded reason counts refusals by cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaceable {
    /// At most [`crate::tenant::MAX_REASON_BYTES`].
    pub reason: Vec<u8>,
}

/// What one cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would take the tenant.
    Fits {
        /// The shard that it would enter.
        shard: ShardId,
        /// Score terms in the order in which they decide, each greater-is-better.
        terms: Vec<(&'static str, i64)>,
        /// What speaks against the cluster without refusing it.
        warnings: Vec<String>,
    },
    /// It would not: every refusal, not only the first.
    Refuses(Vec<Refusal>),
}

/// The whole story of one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What `place` answers.
    pub decision: Result<Placement, Unplaceable>,
    /// Every cluster, best candidate first, refusals after them by id.
    pub clusters: Vec<(ClusterId, Verdict)>,
}

/// Chooses a cluster and shard. `policy` of the answer is left at its default: the caller knows which one it decides under.
///
/// # Errors
/// [`Unplaceable`] with the counts of refusals by cause.
pub fn place(scratch: &mut Scratch, ledger: &Ledger, spec: &TenantSpec) -> Result<Placement, Unplaceable> {
    let neighbours = Neighbours::of(ledger, spec);
    scratch.sync(ledger);
    let standing = scratch.find_standing(spec);
    if neighbours.are_wished_for() || scratch.standing(standing).crowded {
        return place_plainly(ledger, spec);
    }
    scratch.prepare_pods(spec.requests.largest_pod);
    scratch.scan(ledger, spec, standing);
    match next_best(scratch, ledger, &neighbours, spec, standing) {
        None => Err(why_not(scratch, ledger, &neighbours, spec, standing)),
        Some(winner) => {
            let runner_up = next_best(scratch, ledger, &neighbours, spec, standing);
            Ok(placement(ledger, &winner, runner_up.as_ref()))
        }
    }
}

/// Clusters that are asked one by one about the tenant's neighbours before all are: asking one costs as much as finding the next best.
const MAX_REFUSED_SINGLY: u32 = 8;

/// Takes the best candidate that holds up to an exact check out of what the scan has found.
fn next_best(scratch: &mut Scratch, ledger: &Ledger, neighbours: &Neighbours<'_>, spec: &TenantSpec, standing: usize) -> Option<Candidate> {
    let wanted = spec.requests.total.to_array();
    let mut refused = 0;
    while let Some(row) = scan::best(&scratch.found, ledger) {
        let rank = std::mem::replace(&mut scratch.found[row / BLOCK][row % BLOCK], scan::NONE);
        let cluster = ClusterId(row as u32);
        let Some(site) = ledger.site(cluster) else { continue };
        if !ledger.has_room(wanted, cluster, site) {
            continue;
        }
        if !neighbours.admits_cluster(site, cluster) {
            refused += 1;
            if refused == MAX_REFUSED_SINGLY {
                ask_neighbours(&mut scratch.found, ledger, neighbours);
            }
            continue;
        }
        let Some((shard, _)) = choose_shard(ledger, neighbours, cluster, site) else { continue };
        let [pool, taints, preferences] = scratch.standing(standing).terms(rank);
        let score = Score([pool, taints, preferences, node_of(rank), share(ledger, cluster, site.policy)]);
        return Some(Candidate { cluster, shard, score });
    }
    None
}

/// Masks out every cluster that the neighbours refuse.
fn ask_neighbours(found: &mut Ranks, ledger: &Ledger, neighbours: &Neighbours<'_>) {
    for (row, rank) in found.as_flattened_mut().iter_mut().enumerate().filter(|(_, rank)| **rank != scan::NONE) {
        let cluster = ClusterId(row as u32);
        if ledger.site(cluster).is_none_or(|site| !neighbours.admits_cluster(site, cluster)) {
            *rank = scan::NONE;
        }
    }
}

/// Says why nothing fits: counts what the constraints refuse, and asks the clusters that they allow.
fn why_not(scratch: &Scratch, ledger: &Ledger, neighbours: &Neighbours<'_>, spec: &TenantSpec, standing: usize) -> Unplaceable {
    let standing = scratch.standing(standing);
    let (mut tally, mut refusals) = (standing.tally(), Vec::new());
    for row in standing.allowed() {
        let cluster = ClusterId(row as u32);
        let Some(site) = ledger.site(cluster) else { continue };
        refusals.clear();
        site.pod_refusal(spec, &mut refusals);
        ledger.later_refusals(neighbours, spec, cluster, site, &mut refusals);
        // What the shards refuse comes last: it matters if nothing else does, or if a shortfall would otherwise stand alone.
        if refusals.len() <= 1 {
            refusals.extend(shard_refusals(ledger, neighbours, cluster, site));
        }
        tally.add_cluster(cluster, &refusals);
    }
    Unplaceable { reason: tally.into_reason().encode() }
}

/// Decides by judging one cluster after the other: for what the scan cannot rank.
fn place_plainly(ledger: &Ledger, spec: &TenantSpec) -> Result<Placement, Unplaceable> {
    let (fits, refuses) = judge_all(ledger, spec);
    decide(ledger, &fits, &refuses)
}

/// Tells the whole story; its decision is `place`'s.
#[must_use]
pub fn explain(ledger: &Ledger, spec: &TenantSpec) -> Explanation {
    let (mut fits, refuses) = judge_all(ledger, spec);
    fits.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.key()));
    let decision = decide(ledger, &fits, &refuses);
    let mut clusters: Vec<_> = fits.into_iter().map(|candidate| (candidate.cluster, fits_verdict(ledger, spec, candidate))).collect();
    clusters.extend(refuses.into_iter().map(|(cluster, refusals)| (cluster, Verdict::Refuses(refusals))));
    Explanation { decision, clusters }
}

type Refusing = Vec<(ClusterId, Vec<Refusal>)>;

fn judge_all(ledger: &Ledger, spec: &TenantSpec) -> (Vec<Candidate>, Refusing) {
    let (neighbours, pools) = (Neighbours::of(ledger, spec), pools(ledger));
    let (mut fits, mut refuses) = (Vec::new(), Vec::new());
    for (cluster, site) in ledger.sites() {
        match judge(ledger, &neighbours, &pools, spec, cluster, site) {
            Ok(candidate) => fits.push(candidate),
            Err(refusals) => refuses.push((cluster, refusals)),
        }
    }
    (fits, refuses)
}

fn decide(ledger: &Ledger, fits: &[Candidate], refuses: &Refusing) -> Result<Placement, Unplaceable> {
    let Some(winner) = fits.iter().max_by_key(|candidate| candidate.key()) else {
        let mut tally = Tally::default();
        refuses.iter().for_each(|(cluster, refusals)| tally.add_cluster(*cluster, refusals));
        return Err(Unplaceable { reason: tally.into_reason().encode() });
    };
    let runner_up = fits.iter().filter(|candidate| candidate.cluster != winner.cluster).max_by_key(|candidate| candidate.key());
    Ok(placement(ledger, winner, runner_up))
}

fn placement(ledger: &Ledger, winner: &Candidate, runner_up: Option<&Candidate>) -> Placement {
    Placement {
        cluster: winner.cluster,
        shard: winner.shard,
        reason: Reason::placed(ledger.cluster_count(), winner, runner_up).encode(),
        policy: Revision::default(),
        cluster_changed: ledger.cluster_changed(winner.cluster),
    }
}

fn fits_verdict(ledger: &Ledger, spec: &TenantSpec, candidate: Candidate) -> Verdict {
    let terms = Score::NAMES.into_iter().zip(candidate.score.0).collect();
    let mut warnings = Vec::new();
    if let Some(site) = ledger.site(candidate.cluster) {
        let taints = site.untolerated(spec, TaintEffect::PreferNoSchedule);
        warnings.extend(taints.map(|taint| format!("does not tolerate {}", taint_text(taint))));
        if !site.has_room_for_pod(spec.requests.largest_pod) {
            warnings.push("no node has room for the largest pod at the moment".to_owned());
        }
    }
    Verdict::Fits { shard: candidate.shard, terms, warnings }
}
