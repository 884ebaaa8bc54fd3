//! One tenant as a folder: what is there, and what is done there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use rand::distr::Alphanumeric;
use roadstead_api::v1::ObjectDiff;
use roadstead_api::v1::object_diff::Change;
use roadstead_class::{LocalProcess, Rendered, SecretPlan, SecretSource};
use roadstead_core::id::{Name, VolumeUid};
use roadstead_core::intent::TenantIntent;
use roadstead_core::reconcile::{Home, Part, PartSeen, TenantSeen, VolumeSeen};

use super::process::{Health, Process, Program};
use super::record::{self, Record, Started, Volume, write_whole};
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
    /// It is being deleted.
    going: bool,
}

/// What is there, apart from what there is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    there: bool,
    going: bool,
    volumes: BTreeMap<String, bool>,
    secrets: BTreeMap<String, bool>,
    health: BTreeMap<String, Health>,
}

fn later(what: &str, error: &io::Error) -> Failed {
    Failed::Later { why: format!("{what}: {error}"), after: None }
}

impl Tenant {
    /// One that is not there yet.
    pub(super) fn new(folder: PathBuf, templates: PathBuf) -> Self {
        Self { folder, templates, record: Record::default(), processes: BTreeMap::new(), going: false }
    }

    /// One that is there, with those of its processes that still run.
    pub(super) fn found(folder: PathBuf, templates: PathBuf) -> io::Result<Self> {
        let record = Record::read(&folder)?;
        let mut tenant = Self { record, ..Self::new(folder, templates) };
        for (name, started) in tenant.record.workloads.iter().flatten() {
            let program = Program { run: started.run.clone(), env: started.env.clone() };
            if let Some(process) = started.identity.and_then(|identity| Process::adopt(program, identity)) {
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
        Look { there, going: self.going, volumes, secrets, health }
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

    /// Compares what is there with what there is to be.
    pub(super) fn seen(&mut self, job: Option<&Job>) -> TenantSeen {
        let look = self.look();
        if look.going {
            return TenantSeen { home: Home::Terminating(None), ..TenantSeen::default() };
        }
        if !look.there {
            let taken = self.folder.exists();
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
        TenantSeen { home: Home::Ours(self.record.epoch()), parts, volumes, at_rest, rendering: None }
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
            match (look.secrets.get(name), &plan.source) {
                (Some(true), _) => {}
                (Some(false), SecretSource::Generate { .. }) => {
                    return Name::new(name).map_or(PartSeen::Blocked(format!("secret {name} is gone")), PartSeen::Lost);
                }
                (Some(false), SecretSource::Copy { .. }) | (None, _) => all = PartSeen::Missing,
            }
        }
        all
    }

    fn workloads_seen(&self, job: &Job, rendered: &Rendered, look: &Look) -> PartSeen {
        let Some(started) = &self.record.workloads else { return PartSeen::Missing };
        let wanted = self.programs(&job.intent, rendered);
        let same = started.len() == wanted.len()
            && wanted.iter().all(|(name, program)| started.get(name).is_some_and(|is| is.run == program.run && is.env == program.env));
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
        rendered.local.iter().map(|(name, process)| (name.clone(), self.program(intent, process))).collect()
    }

    fn program(&self, intent: &TenantIntent, process: &LocalProcess) -> Program {
        let place = |text: &String| {
            intent.volumes.iter().fold(text.clone(), |text, volume| {
                text.replace(&format!("${{volume:{}}}", volume.name), &self.volume(volume.name.as_str()).display().to_string())
            })
        };
        let mut env: BTreeMap<String, String> = process.env.iter().map(|(key, value)| (key.clone(), place(value))).collect();
        env.insert("ROADSTEAD_TENANT".to_owned(), intent.name.to_string());
        env.insert("ROADSTEAD_SECRETS".to_owned(), self.folder.join("secrets").display().to_string());
        Program { run: process.run.iter().map(place).collect(), env }
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
        } else if self.folder.exists() {
            return Err(Failed::Refused(format!("{} is there and not ours", self.folder.display())));
        } else {
            self.record = Record { tenant: intent.id.to_string(), ..Record::default() };
            for folder in ["volumes", "secrets", "logs"] {
                fs::create_dir_all(self.folder.join(folder)).map_err(|error| later("the tenant's folder cannot be made", &error))?;
            }
        }
        self.record.epoch = (intent.epoch.incarnation.0, intent.epoch.index);
        self.keep()
    }

    pub(super) fn put(&mut self, job: &Job, part: Part) -> Result<(), Failed> {
        self.check(&job.intent)?;
        let rendered = job.rendered.as_ref().map_err(|why| Failed::Refused(why.clone()))?;
        match part {
            Part::Bounds => self.record.bounds = Some(digest(rendered, Part::Bounds)),
            Part::Secrets => self.put_secrets(&rendered.secrets)?,
            Part::Workloads => return self.put_workloads(job, rendered),
            Part::Routes => self.record.routes = Some(routes(&job.intent)),
        }
        self.keep()
    }

    fn put_secrets(&mut self, plans: &[SecretPlan]) -> Result<(), Failed> {
        for plan in plans {
            let name = &plan.manifest.id.name;
            let folder = self.secret(name);
            if folder.is_dir() {
                continue;
            }
            let contents = match &plan.source {
                SecretSource::Copy { from } => self.template(from)?,
                SecretSource::Generate { keys } => keys.iter().map(|(key, length)| (key.clone(), random_text(*length))).collect(),
            };
            if self.record.secrets.contains(name) && matches!(plan.source, SecretSource::Generate { .. }) {
                return Err(Failed::Refused(format!("secret {name} was generated once and is gone")));
            }
            write_secret(&folder, &contents).map_err(|error| later("a secret cannot be written", &error))?;
            if !self.record.secrets.contains(name) {
                self.record.secrets.push(name.clone());
            }
        }
        Ok(())
    }

    fn template(&self, from: &str) -> Result<BTreeMap<String, Vec<u8>>, Failed> {
        let folder = self.templates.join(from);
        let read = || -> io::Result<BTreeMap<String, Vec<u8>>> {
            fs::read_dir(&folder)?
                .map(|entry| {
                    let entry = entry?;
                    Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
                })
                .collect()
        };
        read().map_err(|error| Failed::Refused(format!("secret {from} is not in {}: {error}", self.templates.display())))
    }

    fn put_workloads(&mut self, job: &Job, rendered: &Rendered) -> Result<(), Failed> {
        let wanted = self.programs(&job.intent, rendered);
        let mut started = self.record.workloads.take().unwrap_or_default();
        let old: Vec<String> = self
            .processes
            .iter()
            .filter(|(name, process)| wanted.get(*name) != Some(&process.program))
            .map(|(name, _)| name.clone())
            .collect();
        let within = stop_within(rendered);
        for name in old {
            if let Some(mut process) = self.processes.remove(&name) {
                process.stop(within).map_err(|error| later("a process cannot be stopped", &error))?;
            }
            started.remove(&name);
        }
        started.retain(|name, _| wanted.contains_key(name));
        for (name, program) in wanted {
            let Program { run, env } = program.clone();
            if !self.processes.contains_key(&name) {
                let process = Process::start(program, &self.folder, &log(&self.folder, &name));
                let process = process.map_err(|error| Failed::Refused(format!("process {name} cannot be started: {error}")))?;
                self.processes.insert(name.clone(), process);
            }
            let identity = self.processes.get(&name).and_then(Process::identity);
            started.insert(name, Started { run, env, identity });
        }
        self.record.workloads = Some(started);
        self.keep()
    }

    /// Written down before it is made: a volume of which nobody knows whether it was made is looked for, never made twice.
    pub(super) fn make_volume(&mut self, intent: &TenantIntent, name: &Name) -> Result<(), Failed> {
        self.check(intent)?;
        let bytes = intent.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0);
        if self.record.volumes.contains_key(name.as_str()) {
            return Ok(());
        }
        let uid = VolumeUid(rand::rng().random()).to_string();
        let folder = self.volume(name.as_str());
        let make = || {
            fs::create_dir_all(&folder)?;
            write_whole(&folder.join(VOLUME_FILE), uid.as_bytes())
        };
        make().map_err(|error| later("a volume cannot be made", &error))?;
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
            if let Some(mut process) = self.processes.remove(&name) {
                process.stop(within).map_err(|error| later("a process cannot be stopped", &error))?;
            }
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

    /// Deletes the folder, after the record was read once more.
    pub(super) fn delete(&mut self, intent: &TenantIntent) -> Result<(), Failed> {
        self.record = Record::read(&self.folder).map_err(|error| later("the tenant's record cannot be read", &error))?;
        self.check(intent)?;
        if !self.processes.is_empty() {
            return Err(Failed::Refused("its processes still run".to_owned()));
        }
        self.going = true;
        fs::remove_dir_all(&self.folder).map_err(|error| later("the tenant's folder cannot be deleted", &error))?;
        (self.going, self.record) = (false, Record::default());
        Ok(())
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

fn random_text(length: u32) -> Vec<u8> {
    rand::rng().sample_iter(Alphanumeric).take(length as usize).collect()
}

fn write_secret(folder: &Path, contents: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let beside = folder.with_extension("new");
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    fs::create_dir_all(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o700))?;
    for (key, value) in contents {
        let path = beside.join(key);
        write_whole(&path, value)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    fs::rename(&beside, folder)
}
