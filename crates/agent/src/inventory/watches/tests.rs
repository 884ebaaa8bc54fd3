//! What is told while a kind cannot be listed, of an API server that is made up: of each kind there is nothing, or its list fails.

use std::convert::Infallible;
use std::sync::Mutex;

use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::{Bytes, http};
use tower::service_fn;

use super::*;
use crate::inventory::telling::GRACE;

/// Longer than anything is waited for.
const HOUR: Duration = Duration::from_secs(3600);

/// Which kind fails with which code, and how often it was asked for.
#[derive(Debug, Default)]
struct Broken {
    plural: &'static str,
    code: u16,
    lists: u32,
}

fn answer(code: u16, body: &Value) -> http::Response<Full<Bytes>> {
    http::Response::builder().status(code).body(Full::from(body.to_string())).expect("it is a response")
}

/// What a list of a kind is answered, or the question for the version.
fn listed(path: &str, broken: &Mutex<Broken>) -> http::Response<Full<Bytes>> {
    let mut broken = broken.lock().expect("nobody panics with it");
    if path == "/version" {
        let [text, none] = ["v1.34.4", ""];
        let version = json!({"gitVersion": text, "major": none, "minor": none, "buildDate": none, "compiler": none, "gitCommit": none,
            "gitTreeState": none, "goVersion": none, "platform": none});
        return answer(200, &version);
    }
    if path.ends_with(broken.plural) {
        broken.lists += 1;
        if broken.code != 200 {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "conversion webhook failed", "reason": "",
                "code": broken.code});
            return answer(broken.code, &status);
        }
    }
    let items = if path.ends_with("/namespaces") { json!([{"metadata": {"name": "kube-system", "uid": "uid"}}]) } else { json!([]) };
    answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
}

/// An inventory of an API server that fails for one kind; nothing changes there.
fn start(plural: &'static str, code: u16) -> (Inventory, Arc<Mutex<Broken>>) {
    let broken = Arc::new(Mutex::new(Broken { plural, code, lists: 0 }));
    let known = broken.clone();
    let serve = service_fn(move |request: http::Request<Body>| {
        let broken = known.clone();
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                future::pending::<()>().await;
            }
            Ok::<_, Infallible>(listed(request.uri().path(), &broken))
        }
    });
    (Inventory::start(Client::new(serve, "default"), Options::default()), broken)
}

/// After how long something is told.
async fn told(inventory: &Inventory, within: Duration) -> Option<Duration> {
    let start = Instant::now();
    let told = tokio::time::timeout(within, async { inventory.held().wait_for(Option::is_some).await.map(drop) }).await;
    told.ok().map(|told| {
        told.expect("the inventory goes on");
        start.elapsed()
    })
}

#[tokio::test(start_paused = true)]
async fn what_autoscalers_say_keeps_nothing_from_being_told() {
    for kind in ["/nodepools", "/configmaps"] {
        for code in [500, 503, 429] {
            let (inventory, _) = start(kind, code);
            let after = told(&inventory, HOUR).await.expect("it is told without");
            assert!(after >= GRACE && after < GRACE + Duration::from_secs(1), "{kind} {code}: {after:?}");
        }
    }
    let (inventory, broken) = start("/nodepools", 500);
    assert_eq!(told(&inventory, GRACE / 2).await, None);
    broken.lock().expect("nobody panics with it").code = 200;
    assert!(told(&inventory, LONGEST_PAUSE).await.is_some_and(|after| after < GRACE / 2), "as soon as all is known");
}

#[tokio::test(start_paused = true)]
async fn what_would_be_told_untrue_is_waited_for_and_listed_soon_after_it_can_be() {
    for kind in ["/pods", "/storageclasses", "/csistoragecapacities", "/csinodes", "/volumeattachments"] {
        let (inventory, broken) = start(kind, 500);
        assert_eq!(told(&inventory, HOUR).await, None, "{kind}");
        broken.lock().expect("nobody panics with it").code = 200;
        assert!(told(&inventory, HOUR).await.is_some_and(|after| after <= LONGEST_PAUSE), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_done_without_at_once_and_asked_for_seldom() {
    for (kind, code) in [("/nodepools", 404), ("/configmaps", 403), ("/csinodes", 403), ("/csistoragecapacities", 404)] {
        let (inventory, broken) = start(kind, code);
        assert!(told(&inventory, HOUR).await.is_some_and(|after| after < Duration::from_secs(1)), "{kind} {code}");
        sleep(10 * HOUR).await;
        let lists = broken.lock().expect("nobody panics with it").lists;
        assert!((60..=75).contains(&lists), "{kind}: {lists} times");
        drop(inventory);
    }
}
