//! Writing manifests to a cluster, as the caller's kubeconfig allows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use roadstead_agent::identity::{Place, Validity, unix_now_s};
use serde_json::Value;

use super::{IDENTITY_SECRET, Kind, NAMESPACE, furniture::Named, rights::is_foreign};
use crate::apply::Difference;
use crate::failure::{Exit, Failure};
use crate::kube_api;

/// Under which name the API server keeps what was written here.
const MANAGER: &str = "roadstead-join";
/// The namespace whose UID is the cluster's.
const IDENTITY: &str = "kube-system";

/// A cluster that is to be joined.
pub struct KubeCluster {
    client: Client,
}

/// What became of a manifest.
#[derive(Debug)]
pub enum Written {
    /// It was written, or in a dry run accepted.
    As(Difference),
    /// In a dry run: its namespace is not there yet, without which nobody can say.
    Unknown,
}

impl KubeCluster {
    /// The cluster of a kubeconfig file's context; both as kubectl finds them if not given.
    ///
    /// # Errors
    /// A file that is none, a context that is not in it.
    pub async fn connect(file: Option<&PathBuf>, context: Option<&str>) -> Result<Self, Failure> {
        Ok(Self { client: kube_api::connect(file.map(PathBuf::as_path), context).await? })
    }

    /// The UID of `kube-system`, which is the cluster's identity.
    ///
    /// # Errors
    /// The API server's.
    pub async fn uid(&self) -> Result<String, Failure> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.get(IDENTITY).await.map_err(|error| failed("read the cluster's identity", &error))?;
        Ok(found.metadata.uid.unwrap_or_default())
    }

    /// Until when the agent of this cluster has a certificate of its own that is good; `None` if it has none, or who asks may not see it.
    pub async fn certified(&self, cluster: &str) -> Option<Validity> {
        let place = Place::secret(self.client.clone(), NAMESPACE, IDENTITY_SECRET);
        let kept = place.load().await.ok().flatten()?;
        kept.validity(cluster).ok().filter(|validity| !validity.has_ended(unix_now_s()))
    }

    /// Puts in the plurals that the cluster has for kinds of which nobody here knows them; kinds that it does not serve keep none.
    ///
    /// # Errors
    /// The API server's.
    pub async fn find_plurals(&self, kinds: &mut BTreeMap<Kind, Option<String>>) -> Result<(), Failure> {
        for ((api_version, kind), plural) in kinds.iter_mut().filter(|((api_version, _), _)| is_foreign(api_version)) {
            *plural = self.find(api_version, kind).await?.map(|(resource, _)| resource.plural);
        }
        Ok(())
    }

    async fn find(&self, api_version: &str, kind: &str) -> Result<Option<(ApiResource, Scope)>, Failure> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        match pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await {
            Ok((resource, capabilities)) => Ok(Some((resource, capabilities.scope))),
            Err(kube::Error::Discovery(_)) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(failed(&format!("look for {kind}"), &error)),
        }
    }

    /// An object that [`KubeCluster::write`] writes, as it is there.
    ///
    /// # Errors
    /// The API server's.
    pub async fn read(&self, api_version: &str, kind: &str, name: &str) -> Result<Option<Value>, Failure> {
        let Some((resource, scope)) = self.find(api_version, kind).await? else { return Ok(None) };
        let found = self.api(&resource, &scope).get_opt(name).await.map_err(|error| failed(&format!("read {kind}/{name}"), &error))?;
        found.map(serde_json::to_value).transpose().map_err(|error| Failure::failed(format!("cannot read {kind}/{name}: {error}")))
    }

    /// Whether what a flag names is there; nothing of a kind that the cluster does not serve is.
    ///
    /// # Errors
    /// The API server's.
    pub async fn has(&self, named: &Named) -> Result<bool, Failure> {
        let Some((resource, _)) = self.find(named.api_version, named.kind).await? else { return Ok(false) };
        let api: Api<DynamicObject> = match &named.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let found = api.get_opt(&named.name).await.map_err(|error| failed(&format!("look for {} {}", named.kind, named.name), &error))?;
        Ok(found.is_some())
    }

    fn api(&self, resource: &ApiResource, scope: &Scope) -> Api<DynamicObject> {
        match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), NAMESPACE, resource),
        }
    }

    /// Writes a manifest by server-side apply; what somebody else has set in it otherwise is set right. A dry run changes nothing.
    ///
    /// # Errors
    /// A kind that the cluster does not serve; the API server's.
    pub async fn write(&self, manifest: &Value, dry_run: bool) -> Result<Written, Failure> {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let Some((resource, scope)) = self.find(api_version, kind).await? else {
            return Err(Failure::failed(format!("the cluster serves no {kind} ({api_version})"))
                .hint("Kubernetes 1.30 or newer is needed: it is what says where the agent may act"));
        };
        let api = self.api(&resource, &scope);
        let what = format!("write {kind}/{name}");
        let before = api.get_opt(name).await.map_err(|error| failed(&what, &error))?;
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        match api.patch(name, &params, &Patch::Apply(manifest)).await {
            Ok(after) => Ok(Written::As(match before.map(comparable) {
                None => Difference::Created,
                Some(before) if before == comparable(after) => Difference::Unchanged,
                Some(_) => Difference::Configured,
            })),
            Err(kube::Error::Api(status)) if dry_run && status.code == 404 && scope == Scope::Namespaced => Ok(Written::Unknown),
            Err(error) => Err(failed(&what, &error)),
        }
    }
}

/// What of an object is somebody's wish: not what is counted and told about it.
fn comparable(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    object.metadata.generation = None;
    if let Some(fields) = object.data.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// What an API server answered, in the words of this program.
fn failed(what: &str, error: &kube::Error) -> Failure {
    let failure = kube_api::failed(what, error);
    if failure.exit == Exit::Permission {
        failure.hint("joining takes somebody who may make roles and admission policies: use another context with --kube-context")
    } else {
        failure
    }
}
