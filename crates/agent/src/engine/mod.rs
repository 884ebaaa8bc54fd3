//! The agent's loop: hears what is wanted, looks at what is there, asks [`roadstead_core::reconcile`] what comes next, has it carried out, tells.
//!
//! One task owns all of it; workers carry actions out, one tenant each, and report back. It decides nothing itself. Modules in reading order:
//! [`wanted`] (what was heard), [`look`] (what is there), [`told`] (what the placement service knows), [`telling`] (when it is told), [`troubles`] (what is in the log),
//! [`work`] (a tenant that is worked on), this one.

mod wanted;
mod look;
mod told;
mod telling;
mod troubles;
mod work;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use roadstead_api::v1;
use roadstead_class::Site;
use roadstead_core::id::{Name, Revision, TenantId};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, ClusterSeen, Limits, Memory, Round, Step, VolumeSeen, reconcile};
use roadstead_core::time::{Millis, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::diff;
use crate::interpreter::{Changed, Failed, Interpreter, Removals};
use look::look_at;
use told::Told;
use troubles::Troubles;
use wanted::Wanted;
use work::{Begun, Busy, Ended, Places, carry_out, changes_what_is_used};

/// Tenants that are worked on at the same time, each with one request at a time: a new one is a dozen of them, each of which waits for the one before.
const PARALLEL: usize = 128;
/// Of those, tenants that somebody uses already and that are changed, or put right. That takes a request or two each, and the API server is there for
/// others, too.
const PARALLEL_CHANGES: usize = 8;
/// How often it is looked for what has come to be due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often everything is looked at anew although nothing moved.
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(30);
/// How soon after one round the next may follow: what moves while a thousand tenants come up is looked at together.
const TURN_PACE: Duration = Duration::from_millis(50);
/// How soon after one message to the placement service, or after nothing was news, it is looked for news again.
const TELL_PACE: Duration = Duration::from_millis(100);
/// How often everything is told anew: the same words may mean something else after what is wanted has changed, as `Stopped` does of a
/// tenant that was hibernated and is deleted now.
const TELL_ANEW_EVERY: Duration = Duration::from_secs(60);
/// When to tell that all is as before, until the placement service has said.
const TELL_WITHIN: Duration = Duration::from_secs(10);
/// How long a tenant may take to become ready if its class does not say: what is pulled and started for the first time may take minutes.
const READY_WITHIN: Millis = Millis::from_secs(600);
/// How long an agent may look for what is there before that is told of its tenants.
const BLIND_AFTER: Duration = Duration::from_secs(60);
/// Messages that wait to be taken in.
pub const QUEUE: usize = 64;
/// Questions that are answered at a time: each is some requests to the API server for every object of a tenant.
const MAX_QUESTIONS: usize = 4;
/// Orphans that are named in the log.
const MAX_NAMED: usize = 50;
/// How long an answer may take: the placement service waits a little longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What comes from the placement service.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A new stream of intents: what follows is all there is.
    Begins,
    /// A part of the intent.
    Intent(Box<v1::WatchIntentResponse>),
    /// What was told was taken.
    Taken(v1::ObserveResponse),
    /// What was told did not arrive.
    Lost,
    /// What would change of a tenant, if it were as it says there; the answer goes where it came from.
    Question(Box<v1::DiffQuestion>, mpsc::Sender<v1::AnswerDiffRequest>),
}

/// How an agent works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What rendering has to know of the cluster.
    pub site: Site,
    /// How much at a time.
    pub limits: Limits,
    /// Tenants that are worked on at the same time, each with one request at a time. Half as many of one shard: a shard whose tenants all hang leaves
    /// room for the others.
    pub parallel: usize,
    /// Of those, tenants of which is changed, or put right, what is there already.
    pub changes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { site: Site::default(), limits: Limits::default(), parallel: PARALLEL, changes: PARALLEL_CHANGES }
    }
}

/// The agent of one cluster.
pub struct Engine<I: Interpreter> {
    interpreter: I,
    limits: Limits,
    parallel: usize,
    changes: usize,
    wanted: Wanted,
    seen: ClusterSeen,
    /// To be looked at again.
    dirty: BTreeSet<TenantId>,
    /// Of whom it is not known what is there, as of those who were worked on since they were looked at: looked at again within a second, and nothing is
    /// done or told of them.
    unknown: BTreeSet<TenantId>,
    /// Since when nothing can be said of what is there, and why.
    blind: Option<(Instant, Failed)>,
    memory: Memory,
    /// Removals of late, as they are kept in the cluster.
    kept: Removals,
    round: Round,
    /// Of which intent the round is.
    decided: Revision,
    /// It was said which of what is there nobody counts: what the cluster has left is known.
    is_counted: bool,
    busy: BTreeMap<TenantId, Busy>,
    begun: Begun,
    work: JoinSet<(TenantId, Result<Ended, Failed>)>,
    /// Being answered; those that are left are given up with the agent.
    questions: JoinSet<()>,
    /// Worked on just now: what was made is given so long to be seen.
    settling: BTreeMap<TenantId, Instant>,
    /// Why the last attempt failed, in plain words.
    reasons: BTreeMap<TenantId, Failed>,
    told: Told,
    troubles: Troubles,
    /// Not before this it is looked for news.
    next_tell: Instant,
    /// At this it is told that all is as before, if nothing is news.
    alive_at: Instant,
    tell_within: Duration,
    /// At this everything is told anew.
    anew_at: Instant,
    /// Not before this is the next round.
    next_turn: Instant,
    /// At this everything is looked at anew.
    look_at_all_at: Instant,
    /// When to go on with what came too soon after the last time.
    wake_at: Option<Instant>,
    /// A worker has come free.
    finished: bool,
    began: Instant,
    /// The wall time then. Only what other processes of this cluster are to understand is compared with theirs: when removals were begun.
    began_at: Timestamp,
}

impl<I: Interpreter> Engine<I> {
    /// An agent that has heard and seen nothing yet.
    ///
    /// # Errors
    /// The generation that was acted on last, or what was removed of late, cannot be read: nothing may be acted on.
    pub async fn begin(interpreter: I, settings: Settings) -> Result<Self, Failed> {
        let generation = interpreter.generation().await?;
        let removals = interpreter.removals().await?;
        let (now, began_at) = (Instant::now(), wall_time());
        let mut memory = Memory::default();
        memory.removals_are(removals, began_at);
        Ok(Self {
            interpreter,
            limits: settings.limits,
            parallel: settings.parallel.max(2),
            changes: settings.changes.max(1),
            wanted: Wanted::new(settings.site),
            seen: ClusterSeen { generation, tenants: BTreeMap::new() },
            dirty: BTreeSet::new(),
            unknown: BTreeSet::new(),
            blind: None,
            kept: memory.removals().clone(),
            memory,
            round: Round::default(),
            decided: Revision::default(),
            is_counted: false,
            busy: BTreeMap::new(),
            begun: Begun::default(),
            work: JoinSet::new(),
            questions: JoinSet::new(),
            settling: BTreeMap::new(),
            reasons: BTreeMap::new(),
            told: Told::default(),
            troubles: Troubles::default(),
            next_tell: now,
            alive_at: now + TELL_WITHIN,
            tell_within: TELL_WITHIN,
            anew_at: now + TELL_ANEW_EVERY,
            next_turn: now,
            look_at_all_at: now + LOOK_AT_ALL_EVERY,
            wake_at: None,
            finished: true,
            began: now,
            began_at,
        })
    }

    /// Works until nobody listens any more. What is being carried out then is carried to its end.
    pub async fn run(&mut self, mut heard: mpsc::Receiver<Heard>, tell: mpsc::Sender<v1::ObserveRequest>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let interpreter = self.interpreter.clone();
        loop {
            tokio::select! {
                message = heard.recv() => match message {
                    Some(message) => self.hear(message),
                    None => break,
                },
                changed = interpreter.changed() => self.changed(changed),
                Some(done) = self.work.join_next() => match done {
                    Ok((id, result)) => self.done(id, result),
                    Err(error) => error!(%error, "a worker died"),
                },
                _ = look.tick() => self.look_again(),
                () = until(self.wake_at) => self.wake_at = None,
            }
            while let Ok(message) = heard.try_recv() {
                self.hear(message);
            }
            if self.due() {
                self.turn().await;
            }
            if self.tell(&tell).is_err() {
                break;
            }
        }
        while self.work.join_next().await.is_some() {}
    }

    fn now(&self) -> Timestamp {
        self.began_at.after(Millis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Begins => {
                self.wanted.begins();
                self.told.forget();
            }
            Heard::Intent(message) => {
                let before = self.wanted.intent.generation;
                let Some(changed) = self.wanted.take(&message) else { return };
                if changed.is_empty() && self.wanted.intent.generation != before {
                    // Something moved there that changes nothing here: what was told may mean something else now.
                    self.anew_at = Instant::now();
                }
                for id in changed {
                    self.memory.try_again(id);
                    self.reasons.remove(&id);
                    self.begun.forget(id);
                    self.dirty.insert(id);
                    if let Some(busy) = self.busy.get(&id) {
                        busy.outdate();
                    }
                }
            }
            Heard::Taken(answer) => {
                self.told.taken(&answer);
                let within = answer.tell_within.and_then(|within| Duration::try_from(within).ok());
                self.tell_within = within.unwrap_or(TELL_WITHIN);
                self.next_tell = Instant::now() + TELL_PACE;
                self.alive_at = self.next_tell + self.tell_within;
            }
            Heard::Lost => self.told.lost(),
            Heard::Question(question, answer) => self.ask(&question, answer),
        }
    }

    /// Has a question answered beside all else: nothing waits for it.
    fn ask(&mut self, question: &v1::DiffQuestion, answer: mpsc::Sender<v1::AnswerDiffRequest>) {
        while self.questions.try_join_next().is_some() {}
        let uid = self.interpreter.facts().map(|facts| facts.uid).unwrap_or_default();
        let (id, interpreter) = (question.id.clone(), self.interpreter.clone());
        let busy = self.questions.len() >= MAX_QUESTIONS;
        let job = match self.wanted.supposed(question) {
            _ if busy => Err("this agent has as many questions to answer as it takes at a time: ask again".to_owned()),
            job => job,
        };
        self.questions.spawn(async move {
            let found = match job {
                Err(why) => Err(Failed::Refused(why)),
                Ok(job) => match tokio::time::timeout(ANSWER_WITHIN, interpreter.diff(&job)).await {
                    Ok(found) => found,
                    Err(_) => Err(Failed::Later { why: "the cluster did not answer in time".to_owned(), after: None }),
                },
            };
            // Whoever asked may have gone away.
            let _ = answer.send(diff::answer(&uid, id, found)).await;
        });
    }

    fn changed(&mut self, changed: Changed) {
        for id in changed.tenants {
            self.memory.try_again(id);
            self.dirty.insert(id);
        }
    }

    fn done(&mut self, id: TenantId, result: Result<Ended, Failed>) {
        let shard = self.busy.remove(&id).map(|busy| busy.shard);
        self.finished = true;
        self.settling.insert(id, Instant::now() + I::SETTLES);
        self.dirty.insert(id);
        // What was seen of it is older than what was done since.
        self.unknown.insert(id);
        match result {
            Ok(Ended::Whole) => {
                self.memory.succeeded(id);
                self.reasons.remove(&id);
            }
            Ok(Ended::Outdated) => {}
            Err(failed) => {
                let (now, millis) = (self.now(), |after: Duration| Millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
                match (&failed, shard) {
                    (Failed::TooMany { after, .. }, Some(shard)) => self.memory.shard_rests(shard, now, millis(*after)),
                    (Failed::TooMany { after, .. }, None) => self.memory.failed(id, now, Some(millis(*after))),
                    (Failed::Later { after, .. }, _) => self.memory.failed(id, now, after.map(millis)),
                    (Failed::Refused(_), _) => self.memory.failed(id, now, None),
                }
                debug!(tenant = %id, %failed, times = self.memory.failures(id), "an action failed; it is tried again");
                self.reasons.insert(id, failed);
            }
        }
    }

    /// Whether there is anything to decide: something moved, somebody has rested, or it is time to look at everything anew.
    fn due(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.look_at_all_at {
            self.look_at_all_at = now + LOOK_AT_ALL_EVERY;
            self.dirty.extend(self.wanted.jobs.keys());
        }
        if !self.dirty.is_empty() || self.wanted.intent.generation != self.decided || self.finished {
            return !self.is_early(self.next_turn);
        }
        // Who rests need not be woken to the millisecond.
        now >= self.next_turn && self.memory.next_try().is_some_and(|at| at <= self.now())
    }

    /// Whether it is not time yet: the loop wakes by itself when it is.
    fn is_early(&mut self, time: Instant) -> bool {
        let early = Instant::now() < time;
        if early {
            self.wake_at = Some(self.wake_at.map_or(time, |at| at.min(time)));
        }
        early
    }

    /// A full sync: looks at every tenant, decides, and hands out what there is to be done. How many are known and in step.
    pub async fn sync(&mut self) -> usize {
        self.dirty.extend(self.wanted.jobs.keys());
        self.turn().await;
        let in_step = |(id, step): &&(TenantId, Step)| step.actions.is_empty() && !self.unknown.contains(id);
        self.round.steps.iter().filter(in_step).count()
    }

    /// What no event tells of: those that settled.
    fn look_again(&mut self) {
        let now = Instant::now();
        let settled: Vec<TenantId> = self.settling.iter().filter(|(_, until)| **until <= now).map(|(id, _)| *id).collect();
        for id in settled {
            self.settling.remove(&id);
            self.dirty.insert(id);
        }
        self.dirty.extend(&self.unknown);
    }

    /// One round: looks at what changed, decides, hands out work.
    async fn turn(&mut self) {
        self.next_turn = Instant::now() + TURN_PACE;
        self.finished = false;
        if self.wanted.intent.generation > self.seen.generation {
            // Kept before anything of it is acted on: whoever comes after this process acts on nothing older.
            if let Err(error) = self.interpreter.keep_generation(self.wanted.intent.generation).await {
                self.next_turn = Instant::now() + LOOK_EVERY;
                return warn!(%error, "the intent's generation cannot be kept; nothing is acted on until it can");
            }
            self.seen.generation = self.wanted.intent.generation;
        }
        if let Err(error) = self.look() {
            debug!(%error, "not everything was looked at yet");
            let since = self.blind.take().map_or_else(Instant::now, |(since, _)| since);
            self.blind = Some((since, error));
            return;
        }
        self.blind = None;
        let now = self.now();
        self.decided = self.wanted.intent.generation;
        let mut round = reconcile(&self.wanted.intent, &self.seen, &self.limits, &mut self.memory, now);
        if round.stale {
            // It says nothing of what is there: what nobody counts is as it was.
            round.orphans = std::mem::take(&mut self.round.orphans);
            let began = !std::mem::replace(&mut self.round, round).stale;
            let (heard, known) = (self.wanted.intent.generation, self.seen.generation);
            if began {
                warn!(%heard, %known, "what was heard is older than what was acted on: nothing is done and little is told until that is over");
            }
            return;
        }
        if self.round.stale {
            info!(heard = %self.wanted.intent.generation, "what is heard is not older any more than what was acted on");
        }
        if round.orphans != self.round.orphans {
            let homes: Vec<String> = round.orphans.iter().map(|id| self.interpreter.home_of(*id)).collect();
            if homes.is_empty() {
                info!("nothing is labelled as a tenant any more that no intent names");
            } else {
                warn!(
                    count = homes.len(),
                    homes = homes[..homes.len().min(MAX_NAMED)].join(", "),
                    "labelled as tenants and named by no intent: left as they are"
                );
            }
            self.interpreter.orphans(&round.orphans);
        }
        self.round = round;
        self.tell_detached();
        self.is_counted = true;
        self.keep_removals().await;
        self.hand_out();
    }

    /// What a class has dropped is kept, and in no requests any more: it is to be counted all the same.
    fn tell_detached(&mut self) {
        let mut detached = BTreeSet::new();
        for wanted in self.wanted.intent.tenants.iter().filter(|wanted| wanted.role != Role::Absent) {
            let Some(seen) = self.seen.tenants.get(&wanted.id) else { continue };
            let is_wanted = |name: &Name| wanted.volumes.iter().any(|volume| volume.name == *name);
            let is_there = |volume: &VolumeSeen| matches!(volume, VolumeSeen::There { .. } | VolumeSeen::Going { .. });
            let others = seen.volumes.iter().filter(|(name, volume)| is_there(volume) && !is_wanted(name));
            detached.extend(others.map(|(name, _)| (wanted.id, name.clone())));
        }
        self.interpreter.detached(&detached);
    }

    /// Keeps new removals before they are begun; those that are not kept are not begun.
    async fn keep_removals(&mut self) {
        if self.memory.removals().iter().all(|(id, begun)| self.kept.get(id) == Some(begun)) {
            return;
        }
        match self.interpreter.keep_removals(self.memory.removals()).await {
            Ok(kept) => self.kept = kept,
            Err(error) => warn!(%error, "what is to be removed cannot be kept; none of it is removed until it can"),
        }
        let begun = self.memory.removals();
        if self.kept == *begun {
            return;
        }
        let is_new = |id: &TenantId| begun.contains_key(id) && self.kept.get(id) != begun.get(id);
        for (_, step) in self.round.steps.iter_mut().filter(|(id, _)| is_new(id)) {
            step.actions.retain(|action| *action != Action::Delete);
        }
        // Also those that another agent has begun count before the next is decided.
        self.memory.removals_are(self.kept.clone(), self.now());
        (self.finished, self.next_turn) = (true, Instant::now() + LOOK_EVERY);
    }

    /// Looks at those of which something changed; at whatever else is labelled, too, so that nothing is overlooked.
    fn look(&mut self) -> Result<(), Failed> {
        let jobs = &self.wanted.jobs;
        let strangers = self.interpreter.labelled(|id| jobs.contains_key(&id))?;
        let mut dirty = std::mem::take(&mut self.dirty);
        self.seen.tenants.retain(|id, _| jobs.contains_key(id));
        dirty.extend(jobs.keys().filter(|id| !self.seen.tenants.contains_key(id)));
        self.seen.tenants.extend(strangers);
        // One that is worked on is looked at when that is done.
        let dirty: Vec<TenantId> = dirty.into_iter().filter(|id| !self.busy.contains_key(id)).collect();
        for (id, seen) in look_at(&self.interpreter, &self.wanted.jobs, &dirty) {
            match seen {
                Ok(seen) => {
                    self.unknown.remove(&id);
                    self.seen.tenants.insert(id, seen);
                }
                Err(error) => {
                    debug!(tenant = %id, %error, "it is not known yet what is there; nothing is done about it");
                    self.unknown.insert(id);
                }
            }
        }
        self.unknown.retain(|id| self.wanted.jobs.contains_key(id));
        self.begun.keep(|id| self.wanted.jobs.contains_key(&id));
        Ok(())
    }

    /// Has what is to be done begun, of as many tenants as there are places.
    fn hand_out(&mut self) {
        let now = Instant::now();
        let mut places = Places::left(self.parallel, self.changes, self.busy.values());
        for (id, step) in &self.round.steps {
            let is_free = !self.busy.contains_key(id) && !self.unknown.contains(id);
            let has_settled = self.settling.get(id).is_none_or(|until| *until <= now);
            if step.actions.is_empty() {
                self.begun.forget(*id);
                continue;
            }
            if !is_free || !has_settled {
                continue;
            }
            if places.is_none() {
                break;
            }
            let Some(job) = self.wanted.jobs.get(id) else { continue };
            let in_use = self.seen.tenants.get(id).is_some_and(|seen| changes_what_is_used(seen, step));
            let Some(busy) = places.take(job.intent.shard, in_use) else { continue };
            let is_new = self.begun.is_new(*id, &step.actions);
            self.work.spawn(carry_out(self.interpreter.clone(), job.clone(), step.actions.clone(), busy.clone(), is_new));
            self.busy.insert(*id, busy);
        }
    }
}

/// In milliseconds since 1970.
fn wall_time() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Until then; for ever without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
