//! What is wanted here, as it was heard, and what there is to be for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roadstead_api::v1;
use roadstead_class::{Class, Site, render};
use roadstead_core::class::ClassVersion;
use roadstead_core::id::{Name, TenantId};
use roadstead_core::intent::{ClusterIntent, TenantIntent};
use tracing::{info, warn};

use crate::interpreter::Job;
use crate::wire;

/// A class as it was heard: or why nothing can be rendered from it.
type Known = Result<Arc<Class>, String>;

/// See the module.
#[derive(Default)]
pub(crate) struct Wanted {
    site: Site,
    /// Whole as of its generation.
    pub(crate) intent: ClusterIntent,
    /// By tenant, for all that the intent names.
    pub(crate) jobs: BTreeMap<TenantId, Job>,
    classes: BTreeMap<(Name, String), Known>,
    /// What was heard since the intent was whole last.
    heard: Heard,
    /// What is heard is all there is: whom it does not name is dropped.
    begins: bool,
}

#[derive(Default)]
struct Heard {
    tenants: BTreeMap<TenantId, TenantIntent>,
    gone: BTreeSet<TenantId>,
    classes: BTreeSet<(Name, String)>,
}

impl Wanted {
    pub(crate) fn new(site: Site) -> Self {
        Self { site, ..Self::default() }
    }

    /// The cluster's name.
    pub(crate) fn cluster(&self) -> &str {
        &self.site.cluster
    }

    /// A new stream: what comes is all there is. Nothing changes until it is whole.
    pub(crate) fn begins(&mut self) {
        (self.heard, self.begins) = (Heard::default(), true);
    }

    /// Takes a message in. When the intent is whole by it: whose intent has changed.
    pub(crate) fn take(&mut self, message: &v1::WatchIntentResponse) -> Option<BTreeSet<TenantId>> {
        for class in &message.classes {
            self.class(class);
        }
        for tenant in &message.tenants {
            match wire::intent(tenant) {
                Ok(intent) => drop(self.heard.tenants.insert(intent.id, intent)),
                Err(unknown) => warn!(tenant = tenant.name, uid = tenant.uid, %unknown, "left as it is: what is wanted is not understood"),
            }
        }
        self.heard.gone.extend(message.gone.iter().filter_map(|uid| wire::tenant_id(uid)));
        let generation = message.generation.as_ref().and_then(wire::revision)?;
        let Heard { tenants, mut gone, classes } = std::mem::take(&mut self.heard);
        if std::mem::take(&mut self.begins) {
            gone.extend(self.jobs.keys().filter(|id| !tenants.contains_key(id)));
        }
        let mut changed = gone.clone();
        changed.retain(|id| self.jobs.remove(id).is_some());
        // A class may be heard anew with every stream: only what it changes is rendered again.
        let of_classes: Vec<TenantIntent> = self
            .jobs
            .values()
            .map(|job| &job.intent)
            .filter(|intent| !tenants.contains_key(&intent.id) && classes.contains(&(intent.class.clone(), intent.version.clone())))
            .cloned()
            .collect();
        for intent in tenants.into_values().chain(of_classes) {
            let job = self.job(intent);
            let id = job.intent.id;
            if !self.jobs.get(&id).is_some_and(|known| known.intent == job.intent && known.rendered == job.rendered) {
                changed.insert(id);
                self.jobs.insert(id, job);
            }
        }
        if !changed.is_empty() || self.intent.generation != generation {
            let tenants = self.jobs.values().map(|job| job.intent.clone()).collect();
            self.intent = ClusterIntent { generation, tenants };
        }
        Some(changed)
    }

    /// A tenant as it would be, which is kept nowhere.
    ///
    /// # Errors
    /// Why it cannot be said, in plain words.
    pub(crate) fn supposed(&self, question: &v1::DiffQuestion) -> Result<Job, String> {
        let (Some(class), Some(tenant)) = (&question.class, &question.tenant) else { return Err("the question is not whole".to_owned()) };
        let intent = wire::intent(tenant).map_err(|unknown| unknown.to_string())?;
        let version = wire::class(class).map_err(|unknown| unknown.to_string())?;
        let class = understood(&version)?;
        let rendered = render(&class, &intent, &self.site).map(Arc::new).map_err(|error| error.to_string());
        Ok(Job { intent, rendered })
    }

    fn class(&mut self, class: &v1::Class) {
        let version = match wire::class(class) {
            Ok(version) => version,
            Err(unknown) => return warn!(class = class.name, version = class.version, %unknown, "this class is not understood"),
        };
        let known = understood(&version).map(Arc::new);
        let key = (version.name, version.version);
        info!(class = %key.0, version = key.1, ok = known.is_ok(), "class heard");
        self.heard.classes.insert(key.clone());
        self.classes.insert(key, known);
    }

    /// What there is to be of a tenant.
    fn job(&self, intent: TenantIntent) -> Job {
        let key = (intent.class.clone(), intent.version.clone());
        let rendered = match self.classes.get(&key) {
            None => Err(format!("class {}@{} has not been heard yet", key.0, key.1)),
            Some(Err(why)) => Err(why.clone()),
            Some(Ok(class)) => render(class, &intent, &self.site).map(Arc::new).map_err(|error| error.to_string()),
        };
        Job { intent, rendered }
    }
}

fn understood(version: &ClassVersion) -> Result<Class, String> {
    Class::parse(version).map_err(|findings| {
        let words: Vec<String> = findings.iter().map(ToString::to_string).collect();
        format!("class {}@{} cannot be rendered: {}", version.name, version.version, words.join("; "))
    })
}
