#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::DynamicObject;
use roadstead_class::{Manifest, SecretPlan, SecretSource};
use roadstead_core::intent::TenantIntent;
use serde_json::{Value, json};

use super::holds::{Holder, holder, is_written, vanished};
use super::pods::SlimPod;
use super::record::{Record, Vanished, core};
use super::store::{ANSWER_HOLDS, Confirmed, Home, Inner, KindId, NO_NAMESPACE_HOLDS, Served};
use super::watch::vanishes;
use super::*;

const HOME: &str = "acme";
const SECRET: KindId = 1;
const CLAIM: KindId = 2;
const DEPLOYMENT: KindId = 3;

/// A store of some kinds in which nothing is.
fn store() -> Store {
    let store = Store::new("templates");
    for (api_version, kind) in [("v1", "Namespace"), ("v1", "Secret"), ("v1", "PersistentVolumeClaim"), ("apps/v1", "Deployment")] {
        let kind = store.add(Kind { api_version: api_version.to_owned(), kind: kind.to_owned() }).unwrap();
        store.served(kind, Served::Listed);
    }
    store
}

fn put(store: &Store, kind: KindId, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    store.put(kind, object, false);
}

fn pod(owner: &str, node: &str, deleting: bool) -> SlimPod {
    let uid = format!("uid-of-a-pod-of-{owner}").into();
    SlimPod { uid, ended: false, succeeded: false, deleting, node: Some(node.into()), owner: owner.into(), trouble: None }
}

#[test]
fn a_secret_that_is_being_deleted_is_not_taken_for_one_that_stays() {
    let store = store();
    let metadata = json!({"name": "db", "namespace": HOME, "labels": {TENANT_LABEL: "0000000000000001"}});
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"});
    let source = SecretSource::Generate { keys: BTreeMap::from([("password".to_owned(), 8)]) };
    let plan = SecretPlan { manifest: Manifest { id: core("Secret", "db"), body: body.clone() }, source, restart_on_change: false };
    let fields = json!({"f:data": {"f:password": {}}, "f:type": {}, "f:metadata": {"f:labels": {format!("f:{TENANT_LABEL}"): {}}}});
    let ours = json!([{"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let mut there = body;
    there["data"] = json!({"password": "c2VjcmV0"});
    there["metadata"]["managedFields"] = ours;
    there["metadata"]["resourceVersion"] = json!("7");
    put(&store, SECRET, there.clone());
    assert!(seen::has_secret(&store.read(), HOME, &plan));
    there["metadata"]["resourceVersion"] = json!("8");
    there["metadata"]["deletionTimestamp"] = json!("2026-03-01T12:00:00Z");
    put(&store, SECRET, there);
    assert!(!seen::has_secret(&store.read(), HOME, &plan));
}

#[tokio::test(start_paused = true)]
async fn that_there_is_no_namespace_is_known_until_something_is_seen_in_one_of_its_name() {
    let store = store();
    let question = |kind: &'static str, namespace: &str, name: &str| {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Question { tenant: TenantId(1), namespace, kind, name }
    };
    let (none, lost) = (question("Namespace", "", HOME), question("Secret", HOME, "db"));
    let asks = || {
        store.answered(none.clone(), 0, None);
        store.answered(lost.clone(), SECRET, None);
    };
    let holds = |question: &Question, within| store.read().confirmed(question, None, within);
    let known = || (holds(&none, NO_NAMESPACE_HOLDS), holds(&lost, ANSWER_HOLDS));
    asks();
    assert_eq!(known(), (Confirmed::AsSeen, Confirmed::AsSeen));
    // All are looked at every half a minute: of whom nothing is there nobody is asked each time.
    tokio::time::advance(Duration::from_secs(120)).await;
    assert_eq!(known(), (Confirmed::AsSeen, Confirmed::NotYet));
    assert_eq!(holds(&none, ANSWER_HOLDS), Confirmed::NotYet, "to be told as gone it is asked for anew");
    store.of_home("other", |home| drop(home.pods.insert("web-0".into(), pod("", "node", false))));
    assert_eq!(known().0, Confirmed::AsSeen);
    store.of_home(HOME, |home| drop(home.pods.insert("web-0".into(), pod("", "node", false))));
    assert_eq!(known().0, Confirmed::NotYet);
    asks();
    store.forget_namespace(HOME);
    assert_eq!(known().0, Confirmed::NotYet, "it is being made");
    asks();
    put(&store, 0, json!({"metadata": {"name": HOME, "resourceVersion": "7"}}));
    assert_eq!(known().0, Confirmed::NotYet);
    asks();
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(known().0, Confirmed::NotYet);
}

/// What keeps a namespace from being at rest, in words.
fn words_of(store: &Store) -> Option<String> {
    let inner = store.read();
    holder(&inner, &inner.homes[HOME]).map(|holder| holder.to_string())
}

#[test]
fn what_does_not_end_by_itself_is_named_before_what_does() {
    let store = store();
    let metadata = |name: &str| json!({"name": name, "namespace": HOME, "generation": 1, "resourceVersion": "7"});
    let zero = json!({"replicas": 0, "template": {}});
    put(&store, DEPLOYMENT, json!({"metadata": metadata("web"), "spec": zero, "status": {"observedGeneration": 1}}));
    put(&store, CLAIM, json!({"metadata": metadata("data"), "spec": {"volumeName": "v"}}));
    assert_eq!(words_of(&store), None);
    store.shared(|inner| drop(inner.attachments.insert("attached".to_owned(), "v".to_owned())));
    assert_eq!(words_of(&store).unwrap(), "volume data is still attached to a node (VolumeAttachment/attached)");
    let mut runs = metadata("web");
    runs["resourceVersion"] = json!("8");
    put(&store, DEPLOYMENT, json!({"metadata": runs, "spec": {"replicas": 1, "template": {}}, "status": {"observedGeneration": 1}}));
    assert_eq!(words_of(&store).unwrap(), "Deployment/web is not at rest");
    let add = |name: &str, pod: SlimPod| store.of_home(HOME, |home| drop(home.pods.insert(name.into(), pod)));
    add("a", pod("Deployment/web", "node", true));
    assert_eq!(words_of(&store).unwrap(), "pod a is ending");
    add("b", pod("Deployment/web", "node", false));
    assert_eq!(words_of(&store).unwrap(), "pod b of Deployment/web has not ended");
    add("c", pod("Deployment/stray", "node", false));
    assert_eq!(words_of(&store).unwrap(), "pod c of Deployment/stray has not ended");
    store.of_home(HOME, |home| drop(home.pods.remove("c")));
    add("d", pod("", "node", false));
    assert_eq!(words_of(&store).unwrap(), "pod d still runs, and no controller will end it; delete it");
}

/// A tenant that is to be stopped.
pub(super) fn stopped_tenant() -> TenantIntent {
    let intent = roadstead_api::v1::TenantIntent {
        uid: "0000000000000001".to_owned(),
        epoch: Some(roadstead_api::v1::Revision { incarnation: 0, index: 3 }),
        role: roadstead_api::v1::tenant_intent::Role::Stopped.into(),
        name: "acme".to_owned(),
        owner: "acme-gmbh".to_owned(),
        class: "shop".to_owned(),
        version: "1".to_owned(),
        ..Default::default()
    };
    crate::wire::intent(&intent).unwrap()
}

#[test]
fn what_is_at_rest_is_asked_once_whether_it_has_no_pods() {
    // Of its class nothing is known.
    let (store, job) = (store(), Job { intent: stopped_tenant(), rendered: Err("nothing".to_owned()) });
    let labels = json!({TENANT_LABEL: "0000000000000001", EPOCH_LABEL: "0.3"});
    put(&store, 0, json!({"metadata": {"name": HOME, "uid": "u", "resourceVersion": "5", "labels": labels}}));
    let deployment = |version: &str, replicas: u32| {
        let metadata = json!({"name": "web", "namespace": HOME, "generation": 1, "resourceVersion": version});
        json!({"metadata": metadata, "spec": {"replicas": replicas, "template": {}}, "status": {"observedGeneration": 1}})
    };
    put(&store, DEPLOYMENT, deployment("6", 0));
    let look = || seen::seen(&store.read(), &job, HOME, Drift::Repair).map(|seen| seen.at_rest);
    let asked = Question::of_pods(TenantId(1), HOME);
    assert_eq!(look(), Err(vec![asked.clone()]));
    let before = store.changes(HOME);
    put(&store, DEPLOYMENT, deployment("6", 0));
    put(&store, CLAIM, json!({"metadata": {"name": "data", "namespace": HOME, "resourceVersion": "6"}}));
    store.has_no_pods(&asked, before);
    assert_eq!(look(), Err(vec![asked.clone()]), "the answer may be older than what has changed since");
    store.has_no_pods(&asked, store.changes(HOME));
    assert_eq!(look(), Ok(true));
    // What it runs was scaled up and down again: it may have pods that were not seen.
    put(&store, DEPLOYMENT, deployment("7", 1));
    assert_eq!(look(), Ok(false));
    put(&store, DEPLOYMENT, deployment("8", 0));
    assert_eq!(look(), Err(vec![asked.clone()]));
    store.has_no_pods(&asked, store.changes(HOME));
    // Another one of its name.
    put(&store, 0, json!({"metadata": {"name": HOME, "uid": "v", "resourceVersion": "9", "labels": labels}}));
    assert_eq!(look(), Err(vec![asked]));
}

#[test]
fn an_object_that_was_made_anew_is_not_taken_out_by_the_end_of_the_one_before() {
    let store = store();
    let object = |version: &str| json!({"metadata": {"name": "web", "namespace": HOME, "uid": "u", "resourceVersion": version}});
    let space = |version: &str| json!({"metadata": {"name": HOME, "uid": "u", "resourceVersion": version}});
    let there = || {
        let inner = store.read();
        let home = inner.homes.get(HOME);
        (home.is_some_and(|home| home.space.is_some()), home.is_some_and(|home| home.objects[&DEPLOYMENT].contains_key("web")))
    };
    put(&store, 0, space("9"));
    put(&store, DEPLOYMENT, object("9"));
    store.remove(DEPLOYMENT, Some(HOME), "web", 8);
    store.remove(0, None, HOME, 8);
    assert_eq!(there(), (true, true));
    store.remove(DEPLOYMENT, Some(HOME), "web", 10);
    store.remove(0, None, HOME, 10);
    assert_eq!(there(), (false, false));
}

#[test]
fn a_pod_that_its_node_has_said_to_have_ended_well_does_not_vanish() {
    let nodes = HashMap::from([("node".to_owned(), false), ("other".to_owned(), true)]);
    let gone = |pod: SlimPod| {
        let mut home = Home::default();
        vanishes(&nodes, &mut home, "job-0", pod);
        home.vanished.len()
    };
    assert_eq!(gone(pod("Job/job", "node", false)), 1);
    // Its node's last word may have been written by somebody else.
    assert_eq!(gone(SlimPod { ended: true, ..pod("Job/job", "node", false) }), 1);
    assert_eq!(gone(SlimPod { ended: true, succeeded: true, ..pod("Job/job", "node", false) }), 0);
    assert_eq!(gone(pod("Job/job", "other", false)), 0);
}

#[test]
fn a_pod_that_vanished_holds_until_that_is_over_and_nothing_is_written_down_of_it_any_more() {
    let (mut inner, mut home) = (Inner::default(), Home::default());
    let gone = Vanished { pod: "db-0".to_owned(), node: "far".to_owned() };
    let recorded = |gone: &[&Vanished]| {
        let vanished = gone.iter().map(|gone| (format!("uid-of-{}", gone.pod), (*gone).clone())).collect();
        Some(Record { vanished, ..Record::default() })
    };
    inner.nodes.insert("far".to_owned(), false);
    assert_eq!((holder(&inner, &home), is_written(&inner, &home)), (None, true));
    home.vanished.insert("uid-of-db-0".to_owned(), gone.clone());
    assert_eq!((holder(&inner, &home), is_written(&inner, &home)), (Some(Holder::Vanished(&gone)), false));
    home.record = recorded(&[]);
    assert!(!is_written(&inner, &home));
    // As it is for an agent that begins anew.
    (home.record, home.vanished) = (recorded(&[&gone]), BTreeMap::new());
    assert_eq!((holder(&inner, &home), is_written(&inner, &home)), (Some(Holder::Vanished(&gone)), true));
    let text = serde_json::to_string(&home.record).unwrap();
    assert_eq!(serde_json::from_str::<Option<Record>>(&text).unwrap(), home.record);

    // Its node is back, or was taken away.
    for ready in [Some(true), None] {
        inner.nodes.clear();
        inner.nodes.extend(ready.map(|ready| ("far".to_owned(), ready)));
        assert_eq!((holder(&inner, &home), is_written(&inner, &home)), (Some(Holder::Written), false));
        assert!(vanished(&inner, &home).is_empty());
    }
    home.record = recorded(&[]);
    assert_eq!((holder(&inner, &home), is_written(&inner, &home)), (None, true));
    assert!(!serde_json::to_string(&home.record).unwrap().contains("vanished"));
}
