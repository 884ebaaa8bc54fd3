//! The management cluster: reading all profiles, and carrying steps out.

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::plan::Step;
use super::profile::{ClusterProfile, GROUP_LABEL};
use crate::failure::{Exit, Failure};
use crate::kube_api::failed;

/// Under which name the API server keeps what was written here.
const MANAGER: &str = "roadstead-export";
/// Profiles read at a time.
const PAGE: u32 = 500;

/// All profiles of a namespace, or of all.
///
/// # Errors
/// The API server's; that it serves no profiles.
pub async fn profiles(client: &Client, namespace: Option<&str>) -> Result<Vec<ClusterProfile>, Failure> {
    let api = namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace));
    let (mut all, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = api.list(&page).await.map_err(|error: kube::Error| match &error {
            kube::Error::Api(status) if status.code == 404 => Failure::new(Exit::NotFound, "the cluster serves no ClusterProfile")
                .hint("install the definition of clusterprofiles.multicluster.x-k8s.io, or use another context with --kube-context"),
            _ => refused(failed("list ClusterProfiles", &error)),
        })?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(all),
        }
    }
}

/// Says where the rights that are missing are written down.
fn refused(failure: Failure) -> Failure {
    if failure.exit == Exit::Permission {
        failure.hint("the Role in deploy/kubernetes/cluster-profiles.yaml is what it takes; or use another context with --kube-context")
    } else {
        failure
    }
}

/// Carries a step out; what became of it, in a word or some.
///
/// # Errors
/// The API server's. Whatever has come or changed since it was seen is a conflict, and is left alone.
pub async fn carry_out(client: &Client, namespace: &str, step: &Step) -> Result<&'static str, Failure> {
    let api: Api<ClusterProfile> = Api::namespaced(client.clone(), namespace);
    match step {
        // Without force: if somebody was faster, their fields are not ours.
        Step::Create(profile) => write(&api, profile, false).await.map(|()| "created"),
        Step::Change(profile) => write(&api, profile, true).await.map(|()| "configured"),
        Step::Keep(_) => Ok("unchanged"),
        Step::Foreign { .. } => Ok("left alone"),
        Step::Delete { name, uid, version } => {
            let seen = Preconditions { uid: Some(uid.clone()), resource_version: Some(version.clone()) };
            let deleted = api.delete(name, &DeleteParams::default().preconditions(seen)).await;
            match deleted {
                Ok(_) => Ok("deleted"),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok("deleted"),
                Err(error) => Err(refused(failed(&format!("delete {}", identity(name)), &error))),
            }
        }
    }
}

/// Writes a profile, and then its status to what came of it. Whatever has another version by then is a conflict.
async fn write(api: &Api<ClusterProfile>, profile: &ClusterProfile, force: bool) -> Result<(), Failure> {
    let name = profile.metadata.name.as_deref().unwrap_or_default();
    let error = |error: kube::Error| refused(failed(&format!("write {}", identity(name)), &error));
    let params = PatchParams { force, ..PatchParams::apply(MANAGER) };
    let written = api.patch(name, &params, &Patch::Apply(manifest(profile))).await.map_err(error)?;
    let mut status = json!({
        "apiVersion": ClusterProfile::api_version(&()), "kind": ClusterProfile::kind(&()),
        "metadata": {"name": name, "resourceVersion": written.metadata.resource_version},
    });
    status["status"] = json!(profile.status);
    api.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(status)).await.map_err(error)?;
    Ok(())
}

/// What is ours of a profile, without its status.
fn manifest(profile: &ClusterProfile) -> Value {
    let mut manifest = json!(profile);
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("status");
    }
    manifest
}

/// How a profile is called in messages.
#[must_use]
pub fn identity(name: &str) -> String {
    format!("clusterprofile/{name}")
}

/// A step in a line, with what became of it.
#[must_use]
pub fn line(step: &Step, word: &str) -> String {
    match step {
        Step::Create(profile) | Step::Change(profile) | Step::Keep(profile) => {
            format!("{} {word}", identity(profile.metadata.name.as_deref().unwrap_or_default()))
        }
        Step::Delete { name, .. } => format!("{} {word}", identity(name)),
        Step::Foreign { name, manager, group } => {
            let whose = match (manager.as_str(), group.as_str()) {
                ("", _) => "nobody says to manage it".to_owned(),
                (manager, "") => format!("{manager} manages it"),
                (manager, group) => format!("{manager} manages it, with {GROUP_LABEL}={group}"),
            };
            format!("{} {word}: {whose}", identity(name))
        }
    }
}
