//! One tenant as a folder: what is there, and what is done there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use roadstead_api::v1::ObjectDiff;
use roadstead_api::v1::object_diff::Change;
use roadstead_class::{LocalProcess, Rendered, SecretPlan, SecretSource};
use roadstead_core::id::{Name, VolumeUid};
use roadstead_core::intent::{Role, TenantIntent};
use roadstead_core::reconcile::{Home, Part, PartSeen, TenantSeen, VolumeSeen};

use super::process::{Health, Process, Program};
use super::record::{self, Record, Started, Volume, write_whole};
use super::secrets;
use crate::diff::yaml;
use crate::interpreter::{Failed, Job};

/// Names a volume within its folder.
const VOLUME_FILE: &str = ".roadstead-volume";
/// How long processes may take to end unless the class says otherwise.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Tenant {
    folder: PathBuf,
    templates: PathBuf,
    record: Record,
    processes: BTreeMap<String, Process>,
    /// What its secrets are copied from, as it was compared last.
    originals: BTreeSet<String>,
}

/// What is there, apart from what there is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    there: bool,
    volumes: BTreeMap<String, bool>,
    secrets: BTreeMap<String, bool>,
    /// A hash of each, if it is there.
    originals: BTreeMap<String, Option<String>>,
    health: BTreeMap<String, Health>,
}

fn later(what: &str, error: &io::Error) -> Failed {
    Failed::Later { why: format!("{what}: {error}"), after: None }
}

impl Tenant {
    /// One that is not there yet.
    pub(super) fn new(folder: PathBuf, templates: PathBuf) -> Self {
        Self { folder, templates, record: Record::default(), processes: BTreeMap::new(), originals: BTreeSet::new() }
    }

    /// One that is there, with those of its processes that still run.
    pub(super) fn found(folder: PathBuf, templates: PathBuf) -> io::Result<Self> {
        let record = Record::read(&folder)?;
        let mut tenant = Self { record, ..Self::new(folder, templates) };
        for (name, started) in tenant.record.workloads.iter().flatten() {
            if let Some(process) = started.identity.and_then(|identity| Process::adopt(started.program(), identity)) {
                tenant.processes.insert(name.clone(), process);
            }
        }
        Ok(tenant)
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Looks at files and processes; starts processes again that have ended and rested.
    pub(super) fn look(&mut self) -> Look {
        let (folder, logs) = (&self.folder, &self.folder);
        let health = self.processes.iter_mut().map(|(name, process)| (name.clone(), process.look(folder, &log(logs, name)))).collect();
        let before = self.record.workloads.clone();
        for (name, process) in &self.processes {
            if let Some(started) = self.record.workloads.as_mut().and_then(|workloads| workloads.get_mut(name)) {
                started.identity = process.identity();
            }
        }
        let there = self.folder.join(record::FILE).exists();
        if there && self.record.workloads != before {
            let _written_with_the_next_action = self.record.write(&self.folder);
        }
        let volumes = self.record.volumes.iter().map(|(name, volume)| (name.clone(), self.volume_is(name, volume))).collect();
        let secrets = self.record.secrets.iter().map(|name| (name.clone(), self.secret(name).is_dir())).collect();
        let hash = |from: &String| {
            secrets::read(&self.templates.join(from)).ok().map(|is| secrets::digest([(from.as_str(), Some(is))].into_iter()))
        };
        let originals = self.originals.iter().map(|from| (from.clone(), hash(from))).collect();
        Look { there, volumes, secrets, originals, health }
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.folder.join("secrets").join(name)
    }

    fn volume_is(&self, name: &str, volume: &Volume) -> bool {
        fs::read_to_string(self.volume(name).join(VOLUME_FILE)).is_ok_and(|uid| uid.trim() == volume.uid)
    }

    /// Whether there is nothing in its folder but what an agent leaves there that ends before it has written the record, or after it has deleted it.
    fn is_bare(&self) -> bool {
        let begun = record::begun(&self.folder);
        fs::read_dir(&self.folder).is_ok_and(|entries| entries.flatten().all(|entry| entry.path() == begun))
    }

    /// Compares what is there with what there is to be.
    ///
    /// Of one whose folder somebody removed, processes are ended that this agent has started or found; an agent that begins without the folder knows of
    /// none.
    pub(super) fn seen(&mut self, job: Option<&Job>) -> TenantSeen {
        if let Some(rendered) = job.and_then(|job| job.rendered.as_ref().ok()) {
            self.originals = rendered.secrets.iter().filter_map(original).map(str::to_owned).collect();
        }
        let look = self.look();
        let to_end = job.is_some_and(|job| job.intent.role == Role::Absent) && !self.processes.is_empty() && !self.folder.exists();
        if !look.there && !to_end {
            let taken = self.folder.exists() && !self.is_bare();
            let home = if taken { Home::Foreign(format!("{}, which is not ours", self.folder.display())) } else { Home::None };
            return TenantSeen { home, at_rest: self.processes.is_empty(), ..TenantSeen::default() };
        }
        if let Some(job) = job
            && self.record.id() != Some(job.intent.id)
        {
            return TenantSeen { home: Home::Foreign(format!("tenant {}", self.record.tenant)), ..TenantSeen::default() };
        }
        let volumes =
            look.volumes.iter().filter_map(|(name, there)| Some((Name::new(name).ok()?, self.volume_seen(name, *there)))).collect();
        let at_rest = self.processes.is_empty();
        let parts = job.map(|job| self.parts(job, &look)).unwrap_or_default();
        TenantSeen { home: Home::Ours(self.record.epoch()), parts, volumes, at_rest, ..TenantSeen::default() }
    }

    fn volume_seen(&self, name: &str, there: bool) -> VolumeSeen {
        match self.record.volumes.get(name) {
            None => VolumeSeen::Never,
            Some(volume) => match volume.uid.parse::<VolumeUid>() {
                Ok(uid) if there => VolumeSeen::There { bytes: volume.bytes, uid },
                Ok(_) | Err(_) => VolumeSeen::Lost,
            },
        }
    }

    fn parts(&self, job: &Job, look: &Look) -> BTreeMap<Part, PartSeen> {
        let rendered = match &job.rendered {
            Ok(rendered) => rendered,
            Err(why) => {
                let made = self.record.workloads.is_some();
                let blocked = |part: &Part| *part != Part::Routes || made;
                return Part::ALL.into_iter().filter(blocked).map(|part| (part, PartSeen::Blocked(why.clone()))).collect();
            }
        };
        let compare = |is: Option<&String>, wanted: String| match is {
            None => PartSeen::Missing,
            Some(is) if *is == wanted => PartSeen::Ready,
            Some(_) => PartSeen::Differs,
        };
        BTreeMap::from([
            (Part::Bounds, compare(self.record.bounds.as_ref(), digest(rendered, Part::Bounds))),
            (Part::Secrets, self.secrets_seen(&rendered.secrets, look)),
            (Part::Workloads, self.workloads_seen(job, rendered, look)),
            (Part::Routes, compare(self.record.routes.as_ref(), routes(&job.intent))),
        ])
    }

    fn secrets_seen(&self, plans: &[SecretPlan], look: &Look) -> PartSeen {
        let mut all = PartSeen::Ready;
        for plan in plans {
            let name = &plan.manifest.id.name;
            let made = look.secrets.get(name);
            match (made, &plan.source) {
                (Some(true), SecretSource::Generate { .. }) => {}
                (Some(false), SecretSource::Generate { .. }) => {
                    return Name::new(name).map_or(PartSeen::Blocked(format!("secret {name} is gone")), PartSeen::Lost);
                }
                (None, SecretSource::Generate { .. }) => all = PartSeen::Missing,
                (_, SecretSource::Copy { from }) => match secrets::read(&self.templates.join(from)) {
                    Err(error) => return PartSeen::Blocked(secrets::no_original(from, name, &self.templates, &error)),
                    Ok(_) if made != Some(&true) => all = PartSeen::Missing,
                    Ok(original) if secrets::read(&self.secret(name)).is_ok_and(|copy| copy == original) => {}
                    Ok(_) if all == PartSeen::Ready => all = PartSeen::Differs,
                    Ok(_) => {}
                },
            }
        }
        all
    }

    fn workloads_seen(&self, job: &Job, rendered: &Rendered, look: &Look) -> PartSeen {
        let Some(started) = &self.record.workloads else { return PartSeen::Missing };
        let wanted = self.programs(&job.intent, rendered);
        let same = started.len() == wanted.len()
            && wanted.iter().all(|(name, program)| started.get(name).is_some_and(|is| is.program() == *program));
        if !same {
            return PartSeen::Differs;
        }
        for name in wanted.keys() {
            match look.health.get(name) {
                Some(Health::Runs) => {}
                Some(Health::Starts) => return PartSeen::Waits(format!("process {name} is starting")),
                Some(Health::Ended(why)) => return PartSeen::Waits(format!("process {name}: {why}")),
                None => return PartSeen::Missing,
            }
        }
        PartSeen::Ready
    }

    fn programs(&self, intent: &TenantIntent, rendered: &Rendered) -> BTreeMap<String, Program> {
        // Each process is told where all of its tenant's secrets are, so that any of them may be one's own.
        let restarts = rendered.secrets.iter().filter(|plan| plan.restart_on_change).map(|plan| plan.manifest.id.name.as_str());
        let secrets = secrets::digest(restarts.map(|name| (name, secrets::read(&self.secret(name)).ok())));
        let program = |process| self.program(intent, process, secrets.clone());
        rendered.local.iter().map(|(name, process)| (name.clone(), program(process))).collect()
    }

    fn program(&self, intent: &TenantIntent, process: &LocalProcess, secrets: String) -> Program {
        let place = |text: &String| {
            intent.volumes.iter().fold(text.clone(), |text, volume| {
                text.replace(&format!("${{volume:{}}}", volume.name), &self.volume(volume.name.as_str()).display().to_string())
            })
        };
        let mut env: BTreeMap<String, String> = process.env.iter().map(|(key, value)| (key.clone(), place(value))).collect();
        env.insert("ROADSTEAD_TENANT".to_owned(), intent.name.to_string());
        env.insert("ROADSTEAD_SECRETS".to_owned(), self.folder.join("secrets").display().to_string());
        Program { run: process.run.iter().map(place).collect(), env, secrets }
    }

    /// What would change of what is written down.
    pub(super) fn diff(&self, job: &Job) -> Result<Vec<ObjectDiff>, Failed> {
        let rendered = job.rendered.as_deref().map_err(|why| Failed::Refused(why.clone()))?;
        let program = |run: &[String], env: &BTreeMap<String, String>| yaml(&serde_json::json!({ "run": run, "env": env }));
        let started = self.record.workloads.iter().flatten();
        let mut before: BTreeMap<String, String> =
            started.map(|(name, started)| (format!("Process/{name}"), program(&started.run, &started.env))).collect();
        let mut after: BTreeMap<String, String> = self
            .programs(&job.intent, rendered)
            .iter()
            .map(|(name, wanted)| (format!("Process/{name}"), program(&wanted.run, &wanted.env)))
            .collect();
        let volume = |bytes: u64| yaml(&serde_json::json!({ "bytes": bytes }));
        before.extend(self.record.volumes.iter().map(|(name, made)| (format!("Volume/{name}"), volume(made.bytes))));
        for wanted in &job.intent.volumes {
            // It only grows, and one that the class drops stays.
            let made = self.record.volumes.get(wanted.name.as_str()).map_or(0, |made| made.bytes);
            after.insert(format!("Volume/{}", wanted.name), volume(made.max(wanted.size.0)));
        }
        for (name, text) in before.iter().filter(|(name, _)| name.starts_with("Volume/")) {
            after.entry(name.clone()).or_insert_with(|| text.clone());
        }
        let hosts = |names: &str| yaml(&serde_json::json!({ "hostnames": names.split_whitespace().collect::<Vec<_>>() }));
        before
            .extend(self.record.routes.iter().filter(|names| !names.is_empty()).map(|names| ("Routes/hostnames".to_owned(), hosts(names))));
        after.extend((!job.intent.hostnames.is_empty()).then(|| ("Routes/hostnames".to_owned(), hosts(&routes(&job.intent)))));
        let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let diff = |object: &String| {
            let change = match (before.get(object), after.get(object)) {
                (None, _) => Change::Created,
                (Some(_), None) => Change::Deleted,
                (Some(before), Some(after)) if before != after => Change::Changed,
                (Some(_), Some(_)) => return None,
            };
            let text = |of: &BTreeMap<String, String>| of.get(object).cloned().unwrap_or_default();
            let (before, after) = (text(&before), text(&after));
            Some(ObjectDiff { object: object.clone(), change: change.into(), before, after, note: String::new() })
        };
        Ok(all.into_iter().filter_map(diff).collect())
    }

    /// Where the folder is gone there is nothing to keep it in.
    fn keep(&self) -> Result<(), Failed> {
        if !self.folder.exists() {
            return Ok(());
        }
        self.record.write(&self.folder).map_err(|error| later("the tenant's record cannot be written", &error))
    }

    fn check(&self, intent: &TenantIntent) -> Result<(), Failed> {
        if self.record.id() == Some(intent.id) && self.record.epoch() <= intent.epoch {
            return Ok(());
        }
        Err(Failed::Refused(format!("{} is tenant {} in epoch {}", self.folder.display(), self.record.tenant, self.record.epoch())))
    }

    pub(super) fn claim(&mut self, intent: &TenantIntent) -> Result<(), Failed> {
        if self.folder.join(record::FILE).exists() {
            self.check(intent)?;
        } else if self.folder.exists() && !self.is_bare() {
            return Err(Failed::Refused(format!("{} is there and not ours", self.folder.display())));
        } else {
            self.record = Record { tenant: intent.id.to_string(), ..Record::default() };
            fs::create_dir_all(&self.folder).map_err(|error| later("the tenant's folder cannot be made", &error))?;
        }
        self.record.epoch = (intent.epoch.incarnation.0, intent.epoch.index);
        // Before anything else is in the folder: it says whose that is.
        self.keep()?;
        self.make_folders()
    }

    /// What is in each tenant's folder; where that is gone none is made without a record.
    fn make_folders(&self) -> Result<(), Failed> {
        let make = |folder| match fs::create_dir(self.folder.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        ["volumes", "secrets", "logs"].into_iter().try_for_each(make).map_err(|error| later("the tenant's folder cannot be made", &error))
    }

    pub(super) fn put(&mut self, job: &Job, part: Part) -> Result<(), Failed> {
        self.check(&job.intent)?;
        let rendered = job.rendered.as_ref().map_err(|why| Failed::Refused(why.clone()))?;
        self.make_folders()?;
        match part {
            Part::Bounds => self.record.bounds = Some(digest(rendered, Part::Bounds)),
            Part::Secrets => self.put_secrets(&rendered.secrets)?,
            Part::Workloads => return self.put_workloads(job, rendered),
            Part::Routes => self.record.routes = Some(routes(&job.intent)),
        }
        self.keep()
    }

    /// Makes those that are not there, and copies anew what is not as its original. One that is there and not written down was made by an agent that ended
    /// right after: nothing has run with it, since what runs comes after it was written down, and with all of its keys it is as good as a new one.
    fn put_secrets(&mut self, plans: &[SecretPlan]) -> Result<(), Failed> {
        for plan in plans {
            let name = &plan.manifest.id.name;
            let folder = self.secret(name);
            let (is_there, is_known) = (folder.is_dir(), self.record.secrets.contains(name));
            let contents = match &plan.source {
                SecretSource::Copy { from } => {
                    let original = secrets::read(&self.templates.join(from));
                    let original = original.map_err(|error| Failed::Refused(secrets::no_original(from, name, &self.templates, &error)))?;
                    let is_same = is_there && secrets::read(&folder).is_ok_and(|copy| copy == original);
                    (!is_same).then_some(original)
                }
                SecretSource::Generate { .. } if is_there && is_known => None,
                SecretSource::Generate { keys } if is_there && has_all(&folder, keys) => None,
                SecretSource::Generate { .. } if is_known => {
                    return Err(Failed::Refused(format!("secret {name} was generated once and is gone")));
                }
                SecretSource::Generate { keys } => Some(secrets::generate(keys)),
            };
            if let Some(contents) = contents {
                secrets::write(&folder, &contents).map_err(|error| later("a secret cannot be written", &error))?;
            }
            if !is_known {
                self.record.secrets.push(name.clone());
            }
        }
        Ok(())
    }

    fn put_workloads(&mut self, job: &Job, rendered: &Rendered) -> Result<(), Failed> {
        let done = self.change_processes(self.programs(&job.intent, rendered), stop_within(rendered));
        // Whatever came of it: a process that is not written down is found by no agent that begins later.
        self.record.workloads = Some(self.processes.iter().map(|(name, process)| (name.clone(), Started::of(process))).collect());
        self.keep().and(done)
    }

    /// Ends what is not to run, starts what does not run. One that cannot be started keeps none of the others from it.
    fn change_processes(&mut self, wanted: BTreeMap<String, Program>, within: Duration) -> Result<(), Failed> {
        let old = self.processes.iter().filter(|(name, process)| wanted.get(*name) != Some(&process.program));
        for name in old.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.end_process(&name, within)?;
        }
        let mut done = Ok(());
        for (name, program) in wanted {
            if self.processes.contains_key(&name) {
                continue;
            }
            match Process::start(program, &self.folder, &log(&self.folder, &name)) {
                Ok(process) => drop(self.processes.insert(name, process)),
                Err(error) => done = done.and(Err(Failed::Refused(format!("process {name} cannot be started: {error}")))),
            }
        }
        done
    }

    /// Ends one, if there is one of this name.
    fn end_process(&mut self, name: &str, within: Duration) -> Result<(), Failed> {
        if let Some(process) = self.processes.get_mut(name) {
            process.stop(within).map_err(|error| later("a process cannot be stopped", &error))?;
            self.processes.remove(name);
        }
        Ok(())
    }

    /// Made before it is written down: one that is written down and not there is lost, and never made anew. One that is there and not written down was
    /// made by an agent that ended right after, and is taken over: nothing has run with it.
    pub(super) fn make_volume(&mut self, intent: &TenantIntent, name: &Name) -> Result<(), Failed> {
        self.check(intent)?;
        let bytes = intent.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0);
        if self.record.volumes.contains_key(name.as_str()) {
            return Ok(());
        }
        self.make_folders()?;
        let file = self.volume(name.as_str()).join(VOLUME_FILE);
        let made = fs::read_to_string(&file).ok().and_then(|uid| uid.trim().parse::<VolumeUid>().ok());
        let uid = made.unwrap_or_else(|| VolumeUid(rand::rng().random())).to_string();
        let make = || {
            fs::create_dir_all(self.volume(name.as_str()))?;
            write_whole(&file, uid.as_bytes())
        };
        if made.is_none() {
            make().map_err(|error| later("a volume cannot be made", &error))?;
        }
        self.record.volumes.insert(name.to_string(), Volume { uid, bytes });
        self.keep()
    }

    pub(super) fn grow_volume(&mut self, intent: &TenantIntent, name: &Name) -> Result<(), Failed> {
        self.check(intent)?;
        let bytes = intent.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0);
        if let Some(volume) = self.record.volumes.get_mut(name.as_str()) {
            volume.bytes = volume.bytes.max(bytes);
        }
        self.keep()
    }

    pub(super) fn unroute(&mut self, intent: &TenantIntent) -> Result<(), Failed> {
        self.check(intent)?;
        self.record.routes = None;
        self.keep()
    }

    /// Ends the processes in the class's order, then all others.
    pub(super) fn stop(&mut self, job: &Job) -> Result<(), Failed> {
        self.check(&job.intent)?;
        let within = job.rendered.as_ref().map_or(STOP_WITHIN, |rendered| stop_within(rendered));
        let order = job.rendered.iter().flat_map(|rendered| &rendered.stop).filter_map(|step| match step {
            roadstead_class::StopStep::Scale(target) => target.split_once('/').map(|(_, name)| name.to_owned()),
            roadstead_class::StopStep::Exec(_) => None,
        });
        let mut names: Vec<String> = order.collect();
        names.extend(self.processes.keys().cloned());
        for name in names {
            self.end_process(&name, within)?;
        }
        self.record.workloads = None;
        self.keep()
    }

    /// Ends everything, whatever is wanted: this machine's user goes home.
    pub(super) fn end(&mut self) {
        for process in self.processes.values_mut() {
            let _ended_below = process.stop(STOP_WITHIN);
        }
        self.processes.clear();
    }

    /// Deletes the folder, after the record was read once more. Where that fails the rest is as it was: the tenant's, and deleted with the next try.
    pub(super) fn delete(&mut self, intent: &TenantIntent) -> Result<(), Failed> {
        self.record = Record::read(&self.folder).map_err(|error| later("the tenant's record cannot be read", &error))?;
        self.check(intent)?;
        if !self.processes.is_empty() {
            return Err(Failed::Refused("its processes still run".to_owned()));
        }
        let delete = || -> io::Result<()> {
            self.doomed()?.iter().try_for_each(|path| remove(path))?;
            fs::remove_dir(&self.folder)
        };
        delete().map_err(|error| later("the tenant's folder cannot be deleted", &error))?;
        self.record = Record::default();
        Ok(())
    }

    /// All that is in the folder, in the order in which it is deleted. First what makes a volume known as the one that it is: what is left of one whose
    /// data is half gone is never taken for it. Last what says whose folder it is.
    pub(super) fn doomed(&self) -> io::Result<Vec<PathBuf>> {
        let file = self.folder.join(record::FILE);
        let mut paths: Vec<PathBuf> = self.record.volumes.keys().map(|name| self.volume(name).join(VOLUME_FILE)).collect();
        for entry in fs::read_dir(&self.folder)? {
            paths.extend(Some(entry?.path()).filter(|path| *path != file));
        }
        paths.push(file);
        Ok(paths)
    }
}

/// Removes a file, or a folder with all that is in it, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(is) if is.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Whether a secret has all that is generated for it.
fn has_all(folder: &Path, keys: &BTreeMap<String, u32>) -> bool {
    secrets::read(folder).is_ok_and(|is| keys.keys().all(|key| is.contains_key(key)))
}

/// The name of what a secret is copied from, if it is a copy.
fn original(plan: &SecretPlan) -> Option<&str> {
    match &plan.source {
        SecretSource::Copy { from } => Some(from),
        SecretSource::Generate { .. } => None,
    }
}

fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join("logs").join(format!("{name}.log"))
}

fn stop_within(rendered: &Rendered) -> Duration {
    rendered.stop_within.map_or(STOP_WITHIN, |within| Duration::from_millis(within.0))
}

/// Of what a part was rendered to.
fn digest(rendered: &Rendered, part: Part) -> String {
    let mut hasher = blake3::Hasher::new();
    for manifest in rendered.parts.get(&part).into_iter().flatten() {
        hasher.update(manifest.body.to_string().as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn routes(intent: &TenantIntent) -> String {
    intent.hostnames.join(" ")
}
