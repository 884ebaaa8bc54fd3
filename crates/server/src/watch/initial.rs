//! The full state that a watch may begin with: from one frozen copy, in a fixed order, a message at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use roadstead_api::v1::{self, watch_event};
use roadstead_core::id::Name;
use roadstead_core::state::State;
use roadstead_core::tenant::Tenant;

use super::event::{self, Frames, wire_tenant};
use super::scope::Scope;
use super::{ClusterNames, cluster_names};
use crate::convert;

/// Tenants put into one message, about: far below the largest message.
const TENANTS_A_MESSAGE: usize = 256;

/// A full state that is being sent: pools, classes, the policy and clusters, then tenants by name.
#[derive(Debug)]
pub struct Initial {
    state: Arc<State>,
    names: ClusterNames,
    scope: Scope,
    next: Next,
}

#[derive(Debug)]
enum Next {
    Fleet,
    /// Tenants of a cluster or of owners: few enough to be sorted first.
    Listed(VecDeque<Tenant>),
    /// All tenants, from the one after this on.
    After(Option<Name>),
    Complete,
    Over,
}

impl Initial {
    /// Begins a full state.
    #[must_use]
    pub fn new(state: Arc<State>, scope: Scope) -> Self {
        let names = cluster_names(&state);
        Self { state, names, scope, next: Next::Fleet }
    }

    /// The next messages; `None` after the last.
    pub fn step(&mut self) -> Option<Vec<Bytes>> {
        let revision = self.state.revision();
        match std::mem::replace(&mut self.next, Next::Over) {
            Next::Over => None,
            Next::Complete => Some(vec![event::initial_state_complete(revision)]),
            Next::Fleet => {
                self.next = self.tenants();
                Some(self.fleet())
            }
            Next::Listed(mut tenants) => {
                let mut frames = Frames::new(revision);
                for tenant in tenants.drain(..tenants.len().min(TENANTS_A_MESSAGE)) {
                    frames.add(&self.tenant(&tenant));
                }
                self.next = if tenants.is_empty() { Next::Complete } else { Next::Listed(tenants) };
                Some(frames.finish_partial())
            }
            Next::After(after) => Some(self.page(after)),
        }
    }

    fn tenants(&self) -> Next {
        if !self.scope.kinds().tenants {
            return Next::Complete;
        }
        let mut listed: Vec<Tenant> = match (self.scope.owners(), self.scope.cluster()) {
            (None, None) => return Next::After(None),
            (Some(owners), _) => owners.iter().flat_map(|owner| self.state.tenants_of_owner(owner)).collect(),
            (None, Some(cluster)) => match self.state.cluster(cluster.as_str()) {
                Some(cluster) => self.state.tenants_of_cluster(cluster.id).collect(),
                None => Vec::new(),
            },
        };
        listed.retain(|tenant| self.scope.sees_tenant(tenant, &self.names));
        listed.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Next::Listed(listed.into())
    }

    fn page(&mut self, after: Option<Name>) -> Vec<Bytes> {
        let mut frames = Frames::new(self.state.revision());
        let mut last = None;
        let mut count = 0;
        for tenant in self.state.tenants_after(after.as_ref().map(Name::as_str)).take(TENANTS_A_MESSAGE) {
            frames.add(&self.tenant(&tenant));
            last = Some(tenant.spec.name);
            count += 1;
        }
        self.next = if count < TENANTS_A_MESSAGE { Next::Complete } else { Next::After(last) };
        frames.finish_partial()
    }

    fn fleet(&self) -> Vec<Bytes> {
        let (state, kinds) = (&*self.state, self.scope.kinds());
        let mut frames = Frames::new(state.revision());
        if kinds.pools {
            state.pools().for_each(|pool| frames.add(&initial(watch_event::Object::Pool(convert::cluster::wire_pool(pool)))));
        }
        if kinds.classes {
            for class in state.classes() {
                let tenants = state.class_use(class.name.as_str(), &class.version);
                frames.add(&initial(watch_event::Object::Class(convert::class::wire_without_template(class, tenants))));
            }
        }
        if kinds.policy {
            frames.add(&initial(watch_event::Object::Policy(convert::policy::wire(state.policy()))));
        }
        for cluster in state.clusters().filter(|cluster| self.scope.sees_cluster(cluster)) {
            frames.add(&initial(watch_event::Object::Cluster(convert::cluster::wire(state, cluster))));
        }
        frames.finish_partial()
    }

    fn tenant(&self, tenant: &Tenant) -> Bytes {
        initial(watch_event::Object::Tenant(wire_tenant(tenant, self.state.facts_of(tenant.id), &self.names)))
    }
}

fn initial(object: watch_event::Object) -> Bytes {
    event::encode(&v1::WatchEvent { r#type: watch_event::Type::Initial.into(), ordinal: 0, object: Some(object) })
}
