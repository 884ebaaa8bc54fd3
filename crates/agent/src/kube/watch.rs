//! The watches that feed the store. Each lists again by itself when it fell too far behind, and goes on from where it was after any other
//! error, later and later; what it had told stays true until then.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::pods::SlimPod;
use super::record::Vanished;
use super::secrets::SlimSecret;
use super::store::{Home, Inner, KindId, Served, Store, version};
use super::{Kind, TENANT_LABEL, secrets, words};
use crate::watching;

/// What is watched beside the kinds of tenants' objects.
pub(super) const LISTS: [&str; 4] = ["pods", "nodes", "volume attachments", "secrets to copy"];
/// How often it is looked whether a kind that was not served is now.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// The longest pause between two tries of a watch: a right that was given, or an API server that is back, is noticed so soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Starts to watch kinds of tenants' objects; those that are watched already are left as they are.
pub(super) fn add(store: &Arc<Store>, client: &Client, kinds: impl IntoIterator<Item = Kind>, tasks: &mut JoinSet<()>) {
    for kind in kinds {
        if let Some(kind) = store.add(kind) {
            tasks.spawn(follow_kind(store.clone(), client.clone(), kind));
        }
    }
}

/// Starts all other watches; they end with what they are added to.
pub(super) fn start(store: &Arc<Store>, client: &Client, templates: &str, tasks: &mut JoinSet<()>) {
    let on_pod = |store: &Store, pod: Pod| pod_is(store, &pod);
    tasks.spawn(follow(store.clone(), Api::all(client.clone()), LISTS[0], on_pod, pod_is_gone, pods_there));
    tasks.spawn(follow(store.clone(), Api::all(client.clone()), LISTS[1], node_is, node_is_gone, nodes_there));
    tasks.spawn(follow(store.clone(), Api::all(client.clone()), LISTS[2], attachment_is, attachment_is_gone, attachments_there));
    let from = Api::namespaced(client.clone(), templates);
    tasks.spawn(follow(store.clone(), from, LISTS[3], template_is, template_is_gone, templates_there));
}

/// Namespace and name.
type Place = (String, String);

fn place<K: Resource>(object: &K) -> Place {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Follows a kind that is known when this is compiled. Events are carried out at once, also while a list is read: what is not in it is
/// taken away at its end.
async fn follow<K>(
    store: Arc<Store>,
    api: Api<K>,
    list: &'static str,
    is: impl Fn(&Store, K) + Send,
    is_gone: impl Fn(&Store, &Place) + Send,
    all: impl Fn(&Inner) -> Vec<Place> + Send,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut there = BTreeSet::new();
    let mut stream = watching::events(api, watcher::Config::default(), LONGEST_PAUSE).boxed();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => there.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                there.insert(place(&object));
                is(&store, object);
            }
            Ok(watcher::Event::InitDone) => {
                let before = all(&store.read());
                before.iter().filter(|place| !there.contains(*place)).for_each(|place| is_gone(&store, place));
                there = BTreeSet::new();
                if !store.read().listed.contains(list) {
                    store.shared(|inner| {
                        inner.listed.insert(list);
                    });
                }
            }
            Ok(watcher::Event::Apply(object)) => is(&store, object),
            Ok(watcher::Event::Delete(object)) => is_gone(&store, &place(&object)),
            Err(error) => debug!(%list, %error, "a watch goes on after an error"),
        }
    }
}

/// How a kind is served.
enum Found {
    Not,
    InNamespaces(ApiResource),
    /// One for the whole cluster, which is no tenant's.
    OfTheCluster,
}

/// Finds out how a kind is served.
async fn discover(client: &Client, store: &Store, kind: KindId) -> Result<Found, kube::Error> {
    let wanted = store.read().kinds[kind].kind.clone();
    let (group, version) = wanted.api_version.split_once('/').unwrap_or(("", &wanted.api_version));
    let found = kube::discovery::pinned_kind(client, &GroupVersionKind::gvk(group, version, &wanted.kind)).await;
    match found {
        // The first is the namespaces themselves.
        Ok((_, capabilities)) if kind != 0 && capabilities.scope == Scope::Cluster => Ok(Found::OfTheCluster),
        Ok((resource, _)) => Ok(Found::InNamespaces(resource)),
        Err(kube::Error::Discovery(_)) => Ok(Found::Not),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Found::Not),
        Err(error) => Err(error),
    }
}

/// Follows a kind that classes name, from when the cluster serves it and for as long.
async fn follow_kind(store: Arc<Store>, client: Client, kind: KindId) {
    loop {
        match discover(&client, &store, kind).await {
            Ok(Found::InNamespaces(resource)) => {
                store.shared(|inner| inner.kinds[kind].resource = Some(resource.clone()));
                match watch_kind(&store, &client, kind, &resource).await {
                    Ok(()) => {}
                    Err(error) => debug!(kind = %resource.kind, %error, "a kind is not served any more"),
                }
            }
            Ok(Found::Not) => not_served(&store, kind, Served::Missing),
            Ok(Found::OfTheCluster) => {
                let Kind { api_version, kind: what } = store.read().kinds[kind].kind.clone();
                let why = format!(
                    "{what} ({api_version}) objects are in no namespace here, so none can be a tenant's: have them made by the cluster's operators"
                );
                not_served(&store, kind, Served::Broken(why));
            }
            Err(error) => {
                let what = store.read().kinds[kind].kind.kind.clone();
                if store.read().kinds[kind].served != Served::Listed {
                    not_served(&store, kind, Served::Broken(words::failed(error, &what).to_string()));
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn not_served(store: &Store, kind: KindId, served: Served) {
    if store.read().kinds[kind].served == served {
        return;
    }
    if served == Served::Missing {
        store.listed(kind, &BTreeSet::new());
    }
    store.served(kind, served);
}

/// Follows a kind until the cluster does not serve it any more.
async fn watch_kind(store: &Store, client: &Client, kind: KindId, resource: &ApiResource) -> Result<(), watcher::Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    // A namespace that was here before us must be seen, too, and so must a claim whose label somebody took away.
    let all = matches!(resource.kind.as_str(), "Namespace" | "PersistentVolumeClaim");
    let config = if all { watcher::Config::default() } else { watcher::Config::default().labels(TENANT_LABEL) };
    let mut there = BTreeSet::new();
    let mut stream = watching::events(api, config, LONGEST_PAUSE).boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => there.clear(),
            Ok(Some(watcher::Event::InitApply(object))) => {
                there.insert(place(&object));
                store.put(kind, object, false);
            }
            Ok(Some(watcher::Event::InitDone)) => store.listed(kind, &std::mem::take(&mut there)),
            Ok(Some(watcher::Event::Apply(object))) => store.put(kind, object, false),
            Ok(Some(watcher::Event::Delete(object))) => {
                let version = version(object.metadata.resource_version.as_deref());
                store.remove(kind, object.metadata.namespace.as_deref(), object.name_any().as_str(), version);
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                let status = match &error {
                    watcher::Error::InitialListFailed(kube::Error::Api(status))
                    | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.clone()),
                    watcher::Error::InitialListFailed(_)
                    | watcher::Error::WatchStartFailed(_)
                    | watcher::Error::WatchError(_)
                    | watcher::Error::WatchFailed(_)
                    | watcher::Error::NoResourceVersion => None,
                };
                if status.as_ref().is_some_and(|status| status.code == 404) {
                    return Err(error);
                }
                if store.read().kinds[kind].served != Served::Listed {
                    let objects = format!("{} objects", resource.kind);
                    let why = match status {
                        Some(status) => words::failed(kube::Error::Api(status), &objects).to_string(),
                        None => format!("{objects} cannot be listed: {error}"),
                    };
                    // Each try may say it in other words; the first is logged.
                    if !matches!(store.read().kinds[kind].served, Served::Broken(_)) {
                        warn!(kind = %resource.kind, why, "a kind cannot be listed");
                    }
                    not_served(store, kind, Served::Broken(why));
                }
            }
        }
    }
}

fn pod_is(store: &Store, pod: &Pod) {
    let (namespace, name) = place(pod);
    let slim = SlimPod::of(pod);
    let known = store.read().homes.get(&namespace).and_then(|home| home.pods.get(name.as_str())).is_some_and(|known| *known == slim);
    if known {
        return;
    }
    store.some(|inner| {
        let Inner { homes, nodes, .. } = inner;
        let (home, uid) = (homes.entry(namespace.clone()).or_default(), slim.uid.clone());
        home.has_no_pods = false;
        // Another one of its name: what became of the one before was not told.
        if let Some(before) = home.pods.insert(name.as_str().into(), slim).filter(|before| before.uid != uid) {
            vanishes(nodes, home, &name, before);
        }
        vec![namespace]
    });
}

/// A pod is not in the API any more: whoever took it out did not ask its node. One that has ended well needs no asking.
pub(super) fn vanishes(nodes: &HashMap<String, bool>, home: &mut Home, name: &str, pod: SlimPod) {
    if pod.succeeded {
        return;
    }
    if let Some(node) = pod.node.filter(|node| nodes.get(&**node) == Some(&false)) {
        home.vanished.insert(pod.uid.into(), Vanished { pod: name.to_owned(), node: node.into() });
    }
}

fn pod_is_gone(store: &Store, (namespace, name): &Place) {
    store.some(|inner| {
        let Inner { homes, nodes, .. } = inner;
        let Some(home) = homes.get_mut(namespace) else { return Vec::new() };
        if let Some(pod) = home.pods.remove(name.as_str()) {
            vanishes(nodes, home, name, pod);
        }
        vec![namespace.clone()]
    });
}

fn pods_there(inner: &Inner) -> Vec<Place> {
    let names =
        |(namespace, home): (&String, &Home)| home.pods.keys().map(|name| (namespace.clone(), name.to_string())).collect::<Vec<_>>();
    inner.homes.iter().flat_map(names).collect()
}

fn node_is(store: &Store, node: Node) {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    node_changes(store, &node.name_any(), Some(ready));
}

fn node_is_gone(store: &Store, (_, name): &Place) {
    node_changes(store, name, None);
}

/// A node that is ready has ended whatever was taken from it; one that is gone has nothing.
fn node_changes(store: &Store, name: &str, ready: Option<bool>) {
    store.some(|inner| {
        let before = match ready {
            Some(ready) => inner.nodes.insert(name.to_owned(), ready),
            None => inner.nodes.remove(name),
        };
        if before == ready || ready == Some(false) {
            return Vec::new();
        }
        let recorded =
            |home: &Home| home.record.as_ref().is_some_and(|record| record.vanished.values().any(|vanished| vanished.node == name));
        let on_it = |home: &Home| recorded(home) || home.vanished.values().any(|vanished| vanished.node == name);
        let homes = inner.homes.iter_mut().filter(|(_, home)| on_it(home));
        homes.map(|(namespace, home)| (namespace.clone(), home.vanished.retain(|_, vanished| vanished.node != name)).0).collect()
    });
}

fn nodes_there(inner: &Inner) -> Vec<Place> {
    inner.nodes.keys().map(|name| (String::new(), name.clone())).collect()
}

fn attachment_is(store: &Store, attachment: VolumeAttachment) {
    let Some(volume) = attachment.spec.source.persistent_volume_name.clone() else { return };
    let name = attachment.name_any();
    if store.read().attachments.get(&name) != Some(&volume) {
        store.some(|inner| {
            inner.attachments.insert(name, volume.clone());
            inner.with_volume(&volume)
        });
    }
}

fn attachment_is_gone(store: &Store, (_, name): &Place) {
    store.some(|inner| inner.attachments.remove(name).map(|volume| inner.with_volume(&volume)).unwrap_or_default());
}

fn attachments_there(inner: &Inner) -> Vec<Place> {
    inner.attachments.keys().map(|name| (String::new(), name.clone())).collect()
}

fn template_is(store: &Store, secret: Secret) {
    let data = serde_json::to_value(secret.data.clone().unwrap_or_default()).unwrap_or_default();
    let (name, slim) = (secret.name_any(), SlimSecret::new(secret.type_.as_deref(), secrets::hashes(&data)));
    if store.read().templates.get(&name) != Some(&slim) {
        store.shared(|inner| drop(inner.templates.insert(name, slim)));
    }
}

fn template_is_gone(store: &Store, (_, name): &Place) {
    store.shared(|inner| drop(inner.templates.remove(name)));
}

fn templates_there(inner: &Inner) -> Vec<Place> {
    // All are in one namespace, whose name a place carries and this map does not.
    inner.templates.keys().map(|name| (inner.templates_from.clone(), name.clone())).collect()
}
