//! When the placement service is told, and what is gathered for it: [`super::told`] knows which of it is news.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_core::id::TenantId;
use roadstead_core::observed::ClusterInfo;
use roadstead_core::reconcile::{Condition, Step, TenantSeen};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::told::{Known, Now};
use super::{BLIND_AFTER, Engine, READY_WITHIN, TELL_ANEW_EVERY, TELL_PACE, troubles};
use crate::interpreter::{ClusterFacts, Failed, Interpreter};

impl<I: Interpreter> Engine<I> {
    /// Tells what is news, or that all is as before when that is due.
    pub(super) fn tell(&mut self, tell: &mpsc::Sender<v1::ObserveRequest>) -> Result<(), ()> {
        let now = Instant::now();
        // What was decided under an intent that is not kept yet is not told: whoever comes after this process might act on an older one.
        if self.wanted.intent.generation > self.seen.generation {
            return Ok(());
        }
        if self.told.is_telling() || self.is_early(self.next_tell) {
            return Ok(());
        }
        self.next_tell = now + TELL_PACE;
        let facts = match self.interpreter.facts() {
            Ok(facts) => facts,
            Err(error) => {
                debug!(%error, "nothing is told before the cluster has been looked at");
                return Ok(());
            }
        };
        // Not while something is on its way: what was said before must not be taken for said again.
        if now >= self.anew_at {
            self.told.anew();
            self.anew_at = now + TELL_ANEW_EVERY;
        }
        let Some(message) = self.news(&facts, now >= self.alive_at) else { return Ok(()) };
        self.log_troubles();
        self.alive_at = now + self.tell_within;
        match tell.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.told.lost();
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(()),
        }
    }

    /// What there is to be told, if any of it is news, or it is due anyway.
    fn news(&mut self, facts: &ClusterFacts, due: bool) -> Option<v1::ObserveRequest> {
        let blind = self.blind.as_ref().filter(|(since, _)| since.elapsed() >= BLIND_AFTER);
        let (nothing, cannot_look) = (TenantSeen::default(), blind.map(|(_, why)| Condition::Blocked(why.to_string())));
        let conditions: BTreeMap<TenantId, Condition> =
            self.round.steps.iter().map(|(id, step)| (*id, self.condition(*id, step))).collect();
        let seen_of = |id: &TenantId| if blind.is_some() { Some(&nothing) } else { self.seen.tenants.get(id) };
        // What was seen to be lost is so whether it can be looked at or not.
        let lost = |id: &TenantId| conditions.get(id).filter(|known| is_lost(known) && self.seen.tenants.contains_key(id));
        let condition_of = |id: &TenantId| match &cannot_look {
            Some(cannot_look) => Some(lost(id).unwrap_or(cannot_look)),
            None => conditions.get(id),
        };
        // That nobody can look is said of all.
        let is_known = |id: &TenantId| blind.is_some() || self.is_decided() && !self.unknown.contains(id);
        let known = self.wanted.intent.tenants.iter().filter(|wanted| is_known(&wanted.id));
        let tenants = known
            .filter_map(|wanted| {
                let (seen, condition) = (seen_of(&wanted.id)?, condition_of(&wanted.id)?);
                // One that is being worked on is told of when that is done: what was seen of it may be over. What it has lost stays lost.
                if self.busy.contains_key(&wanted.id) && (seen.at_rest || !is_lost(condition)) {
                    return None;
                }
                let rendered = self.wanted.jobs.get(&wanted.id).and_then(|job| job.rendered.as_deref().ok());
                Some(Known { wanted, seen, condition, class_digest: rendered.map_or("", |rendered| &rendered.class_digest) })
            })
            .collect();
        let orphans: Vec<_> = self.round.orphans.iter().filter_map(|id| Some((*id, seen_of(id)?))).collect();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let info = ClusterInfo {
            version: facts.version.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            nodes: facts.nodes,
            ready_nodes: facts.ready_nodes,
            orphans: count(orphans.len()),
            held_back: count(self.round.held_back.len()),
        };
        let idle = self.is_decided() && self.busy.is_empty() && self.unknown.is_empty() && self.blind.is_none();
        let now = Now {
            generation: self.seen.generation,
            idle,
            wanted: &self.wanted.intent.tenants,
            tenants,
            orphans,
            uid: &facts.uid,
            cluster: self.wanted.cluster(),
            capacity: self.is_counted.then_some(&facts.capacity),
            growth: self.is_counted.then_some(&facts.growth),
            info,
            details: &facts.details,
            time: self.now(),
        };
        self.told.news(&now, due)
    }

    /// Whether the last round decided about what is wanted now. One of an intent that is older than what was acted on decided nothing, and knows of nobody.
    fn is_decided(&self) -> bool {
        !self.round.stale && self.decided == self.wanted.intent.generation
    }

    /// The log says what the placement service is told, also while that is not reached.
    fn log_troubles(&mut self) {
        let jobs = &self.wanted.jobs;
        self.troubles.keep(|id| jobs.contains_key(&id));
        for (id, trouble) in self.told.troubles() {
            let Some(job) = jobs.get(&id) else { continue };
            if let Some(turn) = self.troubles.turn(id, trouble) {
                troubles::log(job.intent.name.as_str(), id, &turn);
            }
        }
    }

    /// What is seen of a tenant, or what failed when something was done about it; and whether that is over its time.
    fn condition(&self, id: TenantId, step: &Step) -> Condition {
        let condition = match (&step.condition, self.reasons.get(&id)) {
            (Condition::Progressing(_), Some(Failed::Refused(why))) => Condition::Blocked(why.clone()),
            (Condition::Progressing(_), Some(Failed::Later { why, .. } | Failed::TooMany { why, .. })) => {
                Condition::Progressing(why.clone())
            }
            (condition, _) => condition.clone(),
        };
        if !matches!(condition, Condition::Progressing(_)) {
            return condition;
        }
        let rendered = self.wanted.jobs.get(&id).and_then(|job| job.rendered.as_deref().ok());
        let within = rendered.and_then(|rendered| rendered.ready_within).unwrap_or(READY_WITHIN);
        self.memory.judged(id, condition, within, self.now())
    }
}

/// Whether something of it is gone for good.
fn is_lost(condition: &Condition) -> bool {
    matches!(condition, Condition::VolumeLost(_) | Condition::SecretLost(_))
}
