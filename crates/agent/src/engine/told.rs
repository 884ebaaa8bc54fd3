//! What the placement service was told, and what is news.
//!
//! What is on its way by itself is not news until it has taken a while: a thousand new tenants would otherwise be told a thousand times.

use std::collections::BTreeMap;

use prost::Message;
use roadstead_api::v1;
use roadstead_core::cluster::{Capacity, GrowthRoom};
use roadstead_core::id::{Epoch, Name, Revision, TenantId, VolumeUid};
use roadstead_core::intent::TenantIntent;
use roadstead_core::observed::{ClusterDetails, ClusterInfo, MAX_VOLUMES, SeenTenant, TroubleKind, beginning};
use roadstead_core::reconcile::{self, Condition, Home, TenantSeen, VolumeSeen, going};
use roadstead_core::request::Observed;
use roadstead_core::time::{Millis, Timestamp};

use crate::wire::{self, shortened};

/// How long a tenant is on its way before that is told.
const SETTLES: Millis = Millis::from_secs(5);
/// How often what it waits for is told anew, at most.
const REPEATS: Millis = Millis::from_secs(10);
/// Tenants in one message.
const MAX_TENANTS: usize = 1000;
/// What is told in full in one message, in bytes: a quarter of what the placement service takes. Where all that is carried is told in one, those beyond it
/// take no more than 130 each: there is room for twice the tenants that a cluster may have.
const MAX_FULL_BYTES: usize = 1 << 20;
/// The longest text about a tenant's trouble beyond that, in bytes.
const MAX_SHORT_WHY_BYTES: usize = 32;

/// Why a removal is not carried out, and what lets it go on.
fn held_back(cluster: &str) -> String {
    format!(
        "more are to be removed than go unasked in ten minutes: it goes when an operator agrees (roadstead allow-removals {cluster} --count N), \
         or when its turn comes"
    )
}

/// What is told of one tenant.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    seen: SeenTenant,
    observed: Option<Observed>,
    class_digest: String,
}

impl Said {
    fn wire(&self) -> v1::SeenTenant {
        wire::seen(&self.seen, self.observed, &self.class_digest)
    }

    /// Without what can be told right after: its volumes, and most words about its trouble.
    fn shorten(&mut self) {
        self.seen.volumes.clear();
        if let Some((_, why)) = &mut self.seen.trouble {
            *why = beginning(why, MAX_SHORT_WHY_BYTES);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Told {
    said: BTreeMap<TenantId, Said>,
    /// Since when each is on its way, and when that was told last.
    waits: BTreeMap<TenantId, (Timestamp, Timestamp)>,
    capacity: Option<Capacity>,
    growth: Option<GrowthRoom>,
    info: Option<ClusterInfo>,
    details: Option<ClusterDetails>,
    /// All that is carried is to be told, as of this revision.
    complete: Option<Revision>,
    /// What is under way.
    sent: Option<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    said: BTreeMap<TenantId, Said>,
    capacity: Option<Capacity>,
    growth: Option<GrowthRoom>,
    info: Option<ClusterInfo>,
    details: Option<ClusterDetails>,
    complete: bool,
}

/// How a tenant is.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) wanted: &'a TenantIntent,
    pub(crate) seen: &'a TenantSeen,
    pub(crate) condition: &'a Condition,
    /// Of the class that it was rendered from; empty if it was not.
    pub(crate) class_digest: &'a str,
}

/// How things are now.
pub(crate) struct Now<'a> {
    /// What was kept as acted on: only what is carried under it is all that is carried.
    pub(crate) generation: Revision,
    /// Nobody is being worked on, and what was decided last is of what is wanted: what is seen is what is there.
    pub(crate) idle: bool,
    /// All that are wanted, by id; and those of them of whom it is known how they are.
    pub(crate) wanted: &'a [TenantIntent],
    pub(crate) tenants: Vec<Known<'a>>,
    /// Labelled as tenants, named by nobody.
    pub(crate) orphans: Vec<(TenantId, &'a TenantSeen)>,
    pub(crate) uid: &'a str,
    /// The cluster's name.
    pub(crate) cluster: &'a str,
    /// Not while it is not known what of it is used by those whom nobody counts.
    pub(crate) capacity: Option<&'a Capacity>,
    pub(crate) growth: Option<&'a GrowthRoom>,
    pub(crate) info: ClusterInfo,
    pub(crate) details: &'a ClusterDetails,
    pub(crate) time: Timestamp,
}

impl Told {
    /// Nothing that was told can be taken for known: another replica, or another agent, may have told something else since.
    pub(crate) fn forget(&mut self) {
        *self = Self { waits: std::mem::take(&mut self.waits), ..Self::default() };
    }

    /// Every tenant is told of anew, in as many messages as that takes: something may have been dropped on the way, or mean something else
    /// by now.
    pub(crate) fn anew(&mut self) {
        // Below some feature level they are taken and not kept.
        (self.details, self.growth) = (None, None);
        self.said.clear();
    }

    /// What is wrong with those tenants that are being told of.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (TenantId, Option<&(TroubleKind, String)>)> {
        let said = self.sent.iter().flat_map(|sent| &sent.said);
        said.map(|(id, said)| (*id, said.seen.trouble.as_ref()))
    }

    /// Whether an answer is awaited.
    pub(crate) fn is_telling(&self) -> bool {
        self.sent.is_some()
    }

    /// The last message did not arrive, or nobody knows whether it did.
    pub(crate) fn lost(&mut self) {
        self.sent = None;
    }

    /// The last message was taken.
    pub(crate) fn taken(&mut self, answer: &v1::ObserveResponse) {
        let Some(Sent { said, capacity, growth, info, details, complete }) = self.sent.take() else { return };
        self.said.extend(said);
        self.capacity = capacity.or(self.capacity.take());
        self.growth = growth.or(self.growth.take());
        self.info = info.or(self.info.take());
        self.details = details.or(self.details.take());
        if complete {
            self.complete = None;
        }
        if answer.complete_wanted {
            self.complete = answer.revision.as_ref().and_then(wire::revision);
        }
    }

    /// What there is to be told. `None` if nothing is news, unless `anyway`.
    pub(crate) fn news(&mut self, now: &Now<'_>, anyway: bool) -> Option<v1::ObserveRequest> {
        // All that is carried can be told only by who has kept an intent of that incarnation: until then an older one may be acted on.
        let complete = self.complete.filter(|at| now.idle && now.generation.incarnation == at.incarnation);
        let mut said = BTreeMap::new();
        let (mut more, mut bytes) = (false, 0);
        for known in &now.tenants {
            let mut one = self.say(known, now);
            let id = known.wanted.id;
            if complete.is_none() && self.said.get(&id) == Some(&one) {
                continue;
            }
            let is_full = bytes >= MAX_FULL_BYTES;
            if (is_full || said.len() >= MAX_TENANTS) && complete.is_none() {
                more = true;
                break;
            }
            if is_full {
                one.shorten();
            }
            bytes += one.wire().encoded_len();
            said.insert(id, one);
        }
        if !more {
            let named = |id: &TenantId| now.tenants.binary_search_by_key(id, |known| known.wanted.id).is_ok();
            self.said.retain(|id, _| named(id));
            // One that is tried again is still waited for.
            self.waits.retain(|id, _| now.wanted.binary_search_by_key(id, |wanted| wanted.id).is_ok());
        }
        if complete.is_some() {
            said.extend(now.orphans.iter().filter_map(|(id, seen)| Some((*id, orphan(*id, seen)?))));
        }
        let capacity = now.capacity.filter(|has| self.capacity.as_ref() != Some(*has)).cloned();
        let growth = now.growth.filter(|may| self.growth.as_ref() != Some(*may)).cloned();
        let info = (self.info.as_ref() != Some(&now.info)).then(|| now.info.clone());
        let details = (self.details.as_ref() != Some(now.details)).then(|| now.details.clone());
        let is_news =
            !said.is_empty() || capacity.is_some() || growth.is_some() || info.is_some() || details.is_some() || complete.is_some();
        if !is_news && !anyway {
            return None;
        }
        let message = v1::ObserveRequest {
            uid: now.uid.to_owned(),
            capacity: capacity.as_ref().map(wire::wire_capacity),
            info: info.as_ref().map(wire::wire_info),
            tenants: said.values().map(Said::wire).collect(),
            complete_at: complete.map(wire::wire_revision),
            details: details.as_ref().map(wire::wire_details),
            growth: growth.as_ref().map(wire::wire_growth),
        };
        self.sent = Some(Sent { said, capacity, growth, info, details, complete: complete.is_some() });
        Some(message)
    }

    fn say(&mut self, known: &Known<'_>, now: &Now<'_>) -> Said {
        let Known { wanted, seen, condition, class_digest } = *known;
        let observed = match condition {
            // Acted on in a newer epoch, which a restore has undone: what is there is told as of that epoch, and it is bound anew.
            Condition::Blocked(_) if self::newer(wanted, seen).is_some() => Some(presence(seen)),
            condition => reconcile::observed(wanted, seen, condition),
        };
        let trouble = match condition {
            Condition::Running | Condition::Stopped | Condition::Absent => None,
            Condition::Progressing(why) => self.waits_for(wanted.id, why, now.time),
            Condition::Late(why) => Some(self.paced(wanted.id, TroubleKind::Blocked, why, now.time)),
            Condition::VolumeLost(name) => Some((
                TroubleKind::VolumeLost,
                format!(
                    "volume {name} was there and is not: the tenant stays stopped, and nothing is made in its place; delete it with --purge, or restore its data into a new one"
                ),
            )),
            Condition::SecretLost(name) => Some((
                TroubleKind::SecretLost,
                format!("secret {name} was generated here and is gone: put the same one back, since what it protects is still there"),
            )),
            Condition::HeldBack => Some((TroubleKind::HeldBack, held_back(now.cluster))),
            Condition::Blocked(why) => Some((TroubleKind::Blocked, why.clone())),
        };
        let going = going(wanted, seen).filter(|_| !matches!(condition, Condition::VolumeLost(_)));
        let trouble = going.map(|name| (TroubleKind::VolumeLost, will_be_lost(name))).or(trouble);
        if !matches!(condition, Condition::Progressing(_) | Condition::Late(_)) {
            self.waits.remove(&wanted.id);
        }
        let trouble = trouble.map(|(kind, why)| (kind, shortened(&why)));
        let epoch = self::newer(wanted, seen).unwrap_or(wanted.epoch);
        Said {
            seen: SeenTenant { id: wanted.id, epoch, volumes: volumes(wanted, seen), trouble },
            observed,
            class_digest: class_digest.to_owned(),
        }
    }

    /// What it waits for, once that has taken a while.
    fn waits_for(&mut self, id: TenantId, why: &str, now: Timestamp) -> Option<(TroubleKind, String)> {
        let (since, _) = *self.waits.entry(id).or_insert((now, Timestamp::default()));
        (now.since(since) >= SETTLES).then(|| self.paced(id, TroubleKind::Waits, why, now))
    }

    /// What it waits for; what was told last, while it is too early to tell anew.
    fn paced(&mut self, id: TenantId, kind: TroubleKind, why: &str, now: Timestamp) -> (TroubleKind, String) {
        let (_, last) = self.waits.entry(id).or_insert((now, Timestamp::default()));
        let before = self.said.get(&id).and_then(|said| said.seen.trouble.clone()).filter(|(known, _)| *known == kind);
        match before {
            Some(before) if now.since(*last) < REPEATS => before,
            Some(_) | None => {
                if before.is_none_or(|(_, before)| before != shortened(why)) {
                    *last = now;
                }
                (kind, why.to_owned())
            }
        }
    }
}

/// The epoch in which it was acted on, if that is newer than the intent's.
fn newer(wanted: &TenantIntent, seen: &TenantSeen) -> Option<Epoch> {
    match seen.home {
        Home::Ours(epoch) if epoch > wanted.epoch => Some(epoch),
        Home::Ours(_) | Home::None | Home::Terminating(_) | Home::Foreign(_) => None,
    }
}

/// As many of its volumes as are taken: those that are wanted before those that its class has dropped over time.
fn volumes(wanted: &TenantIntent, seen: &TenantSeen) -> Vec<(Name, VolumeUid)> {
    let mut volumes: Vec<_> = seen.volumes.iter().filter_map(|(name, volume)| Some((name.clone(), uid_of(volume)?))).collect();
    if volumes.len() > MAX_VOLUMES {
        volumes.sort_by_key(|(name, _)| !wanted.volumes.iter().any(|volume| volume.name == *name));
        volumes.truncate(MAX_VOLUMES);
    }
    volumes
}

/// What is said of a volume whose deletion has been accepted.
fn will_be_lost(name: &Name) -> String {
    format!(
        "volume {name} is being deleted, which nothing takes back: its data is there only for as long as the pods that use it run; copy it out of them before they are stopped or restarted"
    )
}

fn presence(seen: &TenantSeen) -> Observed {
    if seen.at_rest { Observed::Stopped } else { Observed::Running }
}

/// What is told of something that no intent names: only where a restore asks for all that is there.
fn orphan(id: TenantId, seen: &TenantSeen) -> Option<Said> {
    let Home::Ours(epoch) = seen.home else { return None };
    let observed = Some(presence(seen));
    Some(Said { seen: SeenTenant { id, epoch, volumes: Vec::new(), trouble: None }, observed, class_digest: String::new() })
}

fn uid_of(volume: &VolumeSeen) -> Option<VolumeUid> {
    match volume {
        VolumeSeen::There { uid, .. } | VolumeSeen::Going { uid } => Some(*uid),
        VolumeSeen::Never | VolumeSeen::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use roadstead_core::id::{Owner, ShardId};
    use roadstead_core::intent::{Role, VolumeIntent};
    use roadstead_core::observed::MAX_WHY_BYTES;
    use roadstead_core::resources::{Bytes, Requests};

    use super::*;
    use crate::interpreter::ClusterFacts;

    /// More than fit into two messages.
    const COUNT: u64 = 2 * MAX_TENANTS as u64 + 7;

    fn tenant(id: u64) -> TenantIntent {
        let name = |text: &str| Name::new(text).expect("it is a name");
        TenantIntent {
            id: TenantId(id),
            epoch: Epoch::default(),
            shard: ShardId(0),
            role: Role::Run,
            name: name("acme"),
            owner: Owner::new("acme").expect("it is an owner"),
            class: name("shop"),
            version: "1".to_owned(),
            values: "{}".to_owned(),
            hostnames: Vec::new(),
            volumes: Vec::new(),
            requests: Requests::default(),
            removal_agreed: false,
        }
    }

    fn known<'a>(wanted: &'a TenantIntent, seen: &'a TenantSeen, condition: &'a Condition) -> Known<'a> {
        Known { wanted, seen, condition, class_digest: "c1a55" }
    }

    /// Of a cluster in which nobody is worked on.
    fn now<'a>(facts: &'a ClusterFacts, wanted: &'a [TenantIntent], tenants: Vec<Known<'a>>) -> Now<'a> {
        Now {
            generation: Revision::default(),
            idle: true,
            wanted,
            tenants,
            orphans: Vec::new(),
            uid: "uid",
            cluster: "eu-1",
            capacity: Some(&facts.capacity),
            growth: Some(&facts.growth),
            info: ClusterInfo::default(),
            details: &facts.details,
            time: Timestamp::default(),
        }
    }

    #[test]
    fn who_is_held_back_is_told_how_it_goes_on_whatever_the_cluster_is_called() {
        assert!(held_back("eu-1").contains("roadstead allow-removals eu-1 --count N"));
        assert!(held_back(&"c".repeat(63)).len() <= MAX_WHY_BYTES);
    }

    #[test]
    fn everything_is_told_anew_in_as_many_messages_as_that_takes_and_what_was_lost_again() {
        let (intents, seen): (Vec<_>, _) = ((1..=COUNT).map(tenant).collect(), TenantSeen::default());
        let facts = ClusterFacts::default();
        let all = || intents.iter().map(|intent| known(intent, &seen, &Condition::Running)).collect();
        let now = || now(&facts, &intents, all());
        let mut told = Told::default();
        for _ in 0..2 {
            let first = told.news(&now(), false).expect("all is news");
            told.lost();
            assert_eq!(told.news(&now(), false).as_ref(), Some(&first), "what was lost is told again");
            told.taken(&v1::ObserveResponse::default());
            let mut uids: Vec<String> = first.tenants.into_iter().map(|tenant| tenant.uid).collect();
            while let Some(message) = told.news(&now(), false) {
                uids.extend(message.tenants.into_iter().map(|tenant| tenant.uid));
                told.taken(&v1::ObserveResponse::default());
            }
            assert_eq!(uids.len() as u64, COUNT);
            uids.dedup();
            assert_eq!(uids.len() as u64, COUNT, "each once");
            told.anew();
        }
    }

    /// A tenant of whose class there were that many volumes, and what was seen of it.
    fn with_volumes(id: u64, count: usize, wanted: &[&str]) -> (TenantIntent, TenantSeen) {
        let name = |text: &str| Name::new(text).expect("it is a name");
        let volume = |text: &&str| VolumeIntent { name: name(text), size: Bytes(1), storage: "fast".to_owned(), uid: None };
        let there = |number: usize| VolumeSeen::There { bytes: 1, uid: VolumeUid(number as u128) };
        let old = (0..count).map(|number| (name(&format!("{}-{number:02}", "volume".repeat(9))), there(number)));
        let all = old.chain(wanted.iter().zip(count..).map(|(text, number)| (name(text), there(number))));
        let seen = TenantSeen { home: Home::Ours(Epoch::default()), volumes: all.collect(), ..TenantSeen::default() };
        (TenantIntent { volumes: wanted.iter().map(volume).collect(), ..tenant(id) }, seen)
    }

    #[test]
    fn of_more_volumes_than_are_taken_those_that_are_wanted_are_told() {
        let ((intent, seen), facts) = (with_volumes(1, 70, &["z"]), ClusterFacts::default());
        let intents = [intent];
        let tenants = vec![known(&intents[0], &seen, &Condition::Running)];
        let message = Told::default().news(&now(&facts, &intents, tenants), false).expect("it is news");
        let told = &message.tenants[0].volumes;
        assert_eq!((told.len(), told[0].name.as_str()), (MAX_VOLUMES, "z"));
    }

    #[test]
    fn all_that_is_carried_is_one_message_that_is_taken_however_much_there_is_to_say() {
        /// What the placement service takes.
        const TAKEN: usize = 4 << 20;
        let (intents, seen): (Vec<_>, Vec<_>) = (1..=10_000).map(|id| with_volumes(id, 12, &[])).unzip();
        let (facts, blocked) = (ClusterFacts::default(), Condition::Blocked("no room ".repeat(40)));
        let incarnation = roadstead_core::id::Incarnation(300);
        let revision = Revision { incarnation, index: u64::MAX };
        let intents: Vec<_> = intents.into_iter().map(|intent| TenantIntent { epoch: revision, ..intent }).collect();
        let digest = "c1a55c1a55c1a55c1a55c1a55c1a55c1";
        let all =
            || intents.iter().zip(&seen).map(|(wanted, seen)| Known { wanted, seen, condition: &blocked, class_digest: digest }).collect();
        let now = || Now { generation: revision, ..now(&facts, &intents, all()) };
        let mut told = Told::default();
        let first = told.news(&now(), false).expect("all is news");
        assert!(first.encoded_len() < TAKEN / 3, "{}", first.encoded_len());
        told.taken(&v1::ObserveResponse { revision: Some(wire::wire_revision(revision)), complete_wanted: true, ..Default::default() });

        let whole = told.news(&now(), false).expect("it is asked for");
        assert!(whole.complete_at.is_some() && whole.encoded_len() < TAKEN * 3 / 4, "{}", whole.encoded_len());
        assert_eq!(whole.tenants.len(), intents.len());
        assert!(
            whole.tenants.iter().all(|tenant| tenant.trouble.as_ref().is_some_and(|trouble| trouble.kind() == v1::trouble::Kind::Blocked))
        );
        let is_full = |tenant: &&v1::SeenTenant| tenant.volumes.len() == 12;
        let mut full = whole.tenants.iter().filter(is_full).count();
        told.taken(&v1::ObserveResponse::default());
        while let Some(message) = told.news(&now(), false) {
            assert!(message.tenants.iter().all(|tenant| is_full(&tenant)), "the rest of what there is to say");
            full += message.tenants.len();
            told.taken(&v1::ObserveResponse::default());
        }
        assert_eq!(full, intents.len(), "each once");
    }

    #[test]
    fn a_volume_that_is_being_deleted_is_told_while_its_tenant_runs_and_one_that_is_gone_with_what_to_do() {
        let (data, uid) = (Name::new("data").expect("it is a name"), VolumeUid(7));
        let volume = VolumeIntent { name: data.clone(), size: Bytes(1), storage: "fast".to_owned(), uid: Some(uid) };
        let intents = [TenantIntent { volumes: vec![volume], ..tenant(1) }];
        let home = Home::Ours(Epoch::default());
        let seen = TenantSeen { home, volumes: [(data.clone(), VolumeSeen::Going { uid })].into(), ..TenantSeen::default() };
        let mut told = Told::default();
        let mut news = |condition: &Condition| {
            let facts = ClusterFacts::default();
            let now = now(&facts, &intents, vec![known(&intents[0], &seen, condition)]);
            let tenant = told.news(&now, false).expect("it is news").tenants.remove(0);
            told.taken(&v1::ObserveResponse::default());
            let trouble = tenant.trouble.clone().expect("it is told");
            (tenant.observed(), trouble.kind(), trouble.why)
        };
        use v1::trouble::Kind;
        let going = "volume data is being deleted, which nothing takes back: its data is there only for as long as the pods that use it run; \
                     copy it out of them before they are stopped or restarted";
        assert_eq!(news(&Condition::Running), (v1::observed_tenant::Observed::Running, Kind::VolumeLost, going.to_owned()));
        let gone = "volume data was there and is not: the tenant stays stopped, and nothing is made in its place; \
                    delete it with --purge, or restore its data into a new one";
        let (_, kind, why) = news(&Condition::VolumeLost(data));
        assert_eq!((kind, why.as_str()), (Kind::VolumeLost, gone));
    }

    #[test]
    fn what_is_late_is_told_at_once_and_in_other_words_only_now_and_then() {
        let (intents, seen, facts) = ([tenant(1)], TenantSeen::default(), ClusterFacts::default());
        let mut told = Told::default();
        let mut news = |condition: &Condition, seconds: u64, busy: bool| {
            let known = intents.iter().filter(|_| !busy).map(|intent| known(intent, &seen, condition)).collect();
            let time = Timestamp(1_800_000_000_000 + seconds * 1000);
            let now = Now { idle: !busy, time, ..now(&facts, &intents, known) };
            let message = told.news(&now, false)?;
            told.taken(&v1::ObserveResponse::default());
            let trouble = message.tenants.into_iter().next()?.trouble;
            Some(trouble.map(|trouble| (trouble.kind(), trouble.why)))
        };
        let waits = |why: &str| Condition::Progressing(why.to_owned());
        let late = |why: &str| Condition::Late(why.to_owned());
        let is = |kind, why: &str| Some(Some((kind, why.to_owned())));
        use v1::trouble::Kind;
        assert_eq!(news(&waits("a"), 0, false), Some(None), "on its way");
        assert_eq!(news(&waits("a"), 4, false), None);
        assert_eq!(news(&waits("a"), 5, false), is(Kind::Waits, "a"));
        assert_eq!(news(&waits("b"), 9, false), None, "too soon in other words");
        assert_eq!(news(&late("b"), 10, false), is(Kind::Blocked, "b"));
        assert_eq!(news(&late("c"), 15, false), None, "too soon in other words");
        assert_eq!(news(&late("c"), 20, false), is(Kind::Blocked, "c"));
        // It is tried again, and still as it was.
        assert_eq!(news(&late("c"), 21, true), None);
        assert_eq!(news(&waits("d"), 22, false), is(Kind::Waits, "d"), "it is waited for since the beginning");
        assert_eq!(news(&Condition::Running, 23, false), Some(None));
        assert_eq!(news(&waits("e"), 24, false), Some(None));
        assert_eq!(news(&waits("e"), 29, false), is(Kind::Waits, "e"));
    }

    #[test]
    fn who_is_to_be_stopped_and_is_is_told_so_whatever_else_is_in_its_way() {
        let intents = [TenantIntent { role: Role::Stopped, ..tenant(1) }];
        let facts = ClusterFacts::default();
        let why = || "a quota is not taken".to_owned();
        let in_its_way = [Condition::Blocked(why()), Condition::Late(why()), Condition::Progressing(why())];
        let news = |wanted: &[TenantIntent], at_rest: bool, home: Home| {
            let seen = TenantSeen { home, at_rest, ..TenantSeen::default() };
            let observed = in_its_way.each_ref().map(|condition| {
                let told = Told::default().news(&now(&facts, wanted, vec![known(&wanted[0], &seen, condition)]), false);
                let tenant = told.expect("it is news").tenants.remove(0);
                let is_told = tenant.trouble.as_ref().map(v1::Trouble::kind) == Some(v1::trouble::Kind::Blocked);
                assert!(is_told || matches!(condition, Condition::Progressing(_)), "that is told, too");
                tenant.observed()
            });
            assert!(observed.iter().all(|one| *one == observed[0]), "{observed:?}");
            observed[0]
        };
        use v1::observed_tenant::Observed;
        let ours = || Home::Ours(Epoch::default());
        assert_eq!(news(&intents, true, ours()), Observed::Stopped);
        assert_eq!(news(&intents, false, ours()), Observed::Unspecified);
        assert_eq!(news(&intents, true, Home::Foreign("somebody".to_owned())), Observed::Unspecified);
        assert_eq!(news(&[tenant(1)], true, ours()), Observed::Unspecified, "it is to run");
    }

    #[test]
    fn what_may_be_added_is_told_with_the_capacity_and_only_when_it_is_another() {
        let mut facts = ClusterFacts::default();
        let mut told = Told::default();
        let mut news = |facts: &ClusterFacts| {
            let message = told.news(&now(facts, &[], Vec::new()), false)?;
            told.taken(&v1::ObserveResponse::default());
            Some((message.capacity.is_some(), message.growth.map(|room| room.total.unwrap_or_default().pods)))
        };
        assert_eq!(news(&facts), Some((true, Some(0))));
        facts.growth.total.pods = 110;
        facts.capacity.allocatable.pods = 10;
        assert_eq!(news(&facts), Some((true, Some(110))));
        assert_eq!(news(&facts), None);
    }
}
