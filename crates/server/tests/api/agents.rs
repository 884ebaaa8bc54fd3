//! What agents hear and tell.

use roadstead_api::v1;
use roadstead_api::v1::agent_service_client::AgentServiceClient;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_api::v1::network_policies::Upheld;
use roadstead_api::v1::observed_tenant::Observed;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_api::v1::tenant_intent::Role;
use roadstead_api::v1::trouble::Kind;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::harness::{PATIENCE, until};
use crate::world::{World, connect, fields, new_id, next, place, put_class, reason, spec};

type Agent = AgentServiceClient<Channel>;

const DATA: &str = "0c9ee5b2-52b8-4d7c-9a5e-2f3a1b0c4d5e";

async fn agent(world: &World, cluster: &str) -> Agent {
    Agent::new(world.connect("agent", cluster, &[]).await)
}

async fn intents(agent: &mut Agent, cluster: &str) -> Streaming<v1::WatchIntentResponse> {
    agent.watch_intent(v1::WatchIntentRequest { uid: format!("uid-{cluster}") }).await.unwrap().into_inner()
}

/// Until the intent is whole, put together; signs of life are passed over.
async fn whole(stream: &mut Streaming<v1::WatchIntentResponse>) -> v1::WatchIntentResponse {
    let mut all = v1::WatchIntentResponse::default();
    loop {
        let part = next(stream).await;
        all.classes.extend(part.classes);
        all.tenants.extend(part.tenants);
        all.gone.extend(part.gone);
        all.generation = part.generation;
        let said = !(all.classes.is_empty() && all.tenants.is_empty() && all.gone.is_empty());
        if all.generation.is_some() && said {
            return all;
        }
    }
}

fn told(cluster: &str, seen: v1::SeenTenant) -> v1::ObserveRequest {
    v1::ObserveRequest { uid: format!("uid-{cluster}"), tenants: vec![seen], ..Default::default() }
}

fn roles(intent: &v1::WatchIntentResponse) -> Vec<(&str, Role)> {
    intent.tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.role())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_hears_the_whole_intent_and_then_what_changes() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("anvils", "acme").await;
    let mut agent = agent(&world, "c0").await;
    let mut stream = intents(&mut agent, "c0").await;
    let first = whole(&mut stream).await;
    assert_eq!(roles(&first), [("anvils", Role::Run)]);
    assert_eq!(first.classes.iter().map(|class| class.version.as_str()).collect::<Vec<_>>(), ["1.0.0"]);

    world.place("bolts", "acme").await;
    let second = whole(&mut stream).await;
    assert_eq!(roles(&second), [("bolts", Role::Run)], "what was sent is not sent again");
    assert!(second.classes.is_empty());
    let index = |intent: &v1::WatchIntentResponse| intent.generation.map(|generation| (generation.incarnation, generation.index));
    assert!(index(&second) > index(&first));

    world.placement.release_tenant(v1::ReleaseTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap();
    assert_eq!(roles(&whole(&mut stream).await), [("anvils", Role::Stopped)], "its volumes are kept");
    let purge = v1::ReleaseTenantRequest { name: "anvils".into(), purge: true, ..Default::default() };
    world.placement.release_tenant(purge).await.unwrap();
    let last = whole(&mut stream).await;
    assert_eq!(roles(&last), [("anvils", Role::Absent)]);
    let anvils = &last.tenants[0];
    let absent = v1::SeenTenant { uid: anvils.uid.clone(), epoch: anvils.epoch, observed: Observed::Absent.into(), ..Default::default() };
    agent.observe(told("c0", absent)).await.unwrap();
    assert_eq!(whole(&mut stream).await.gone, std::slice::from_ref(&anvils.uid));

    // A version that nobody uses any more is made anew, with other contents.
    let purge = v1::ReleaseTenantRequest { name: "bolts".into(), purge: true, ..Default::default() };
    world.placement.release_tenant(purge).await.unwrap();
    let bolts = whole(&mut stream).await.tenants.remove(0);
    let absent = v1::SeenTenant { uid: bolts.uid, epoch: bolts.epoch, observed: Observed::Absent.into(), ..Default::default() };
    agent.observe(told("c0", absent)).await.unwrap();
    let delete = v1::DeleteClassRequest { name: "shop".into(), version: "1.0.0".into(), ..Default::default() };
    world.fleet.delete_class(delete).await.unwrap();
    let mut other = put_class("shop", "1.0.0");
    let requests = other.class.as_mut().unwrap().requests.as_mut().unwrap().total.as_mut().unwrap();
    requests.pods += 1;
    world.fleet.put_class(other).await.unwrap();
    world.place("coils", "acme").await;
    let heard = loop {
        let heard = whole(&mut stream).await;
        if !heard.tenants.is_empty() {
            break heard;
        }
    };
    assert_eq!(roles(&heard), [("coils", Role::Run)]);
    assert_eq!(heard.classes.len(), 1, "the class is another one than was sent before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_tells_stands_with_the_tenant_and_its_cluster() {
    let mut world = World::with_clusters(1, 1).await;
    let placed = world.place("anvils", "acme").await;
    let mut agent = agent(&world, "c0").await;
    let mut stream = intents(&mut agent, "c0").await;
    whole(&mut stream).await;
    let seen = v1::SeenTenant {
        uid: placed.uid.clone(),
        epoch: placed.status.and_then(|status| status.binding).and_then(|binding| binding.epoch),
        volumes: vec![v1::TenantVolume { name: "data".into(), uid: DATA.into() }],
        trouble: Some(v1::Trouble { kind: Kind::Waits.into(), why: "an image cannot be pulled".into(), since: None }),
        ..Default::default()
    };
    let info = v1::ClusterInfo { version: "v1.34.4".into(), nodes: 3, ready_nodes: 2, ..Default::default() };
    let policies = v1::NetworkPolicies { ingress: Upheld::Yes.into(), egress: Upheld::No.into(), ..Default::default() };
    let group = v1::GrowthGroup { name: "spare".into(), nodes: Some(3), room: None, held_back: true };
    let details = v1::ClusterDetails {
        network_policies: Some(policies.clone()),
        growth: Some(v1::Growth { room: Some(v1::PodSize { cpu_millicores: 8000, memory_bytes: 1 << 34 }), groups: vec![group] }),
        open_nodes: 2,
        zones: vec![v1::NodeCount { name: "a".into(), nodes: 2 }],
        ..Default::default()
    };
    let message = v1::ObserveRequest { info: Some(info.clone()), details: Some(details.clone()), ..told("c0", seen.clone()) };
    agent.observe(message).await.unwrap();
    let status = world.get("anvils").await.status.unwrap();
    let trouble = status.trouble.expect("told");
    assert_eq!((trouble.kind(), trouble.why.as_str()), (Kind::Waits, "an image cannot be pulled"));
    assert!(trouble.since.is_some());
    assert_eq!(status.volumes, [v1::TenantVolume { name: "data".into(), uid: DATA.into() }]);
    let request = v1::GetClusterRequest { name: "c0".into(), ..Default::default() };
    let cluster = world.fleet.get_cluster(request).await.unwrap().into_inner().cluster.unwrap();
    let mut status = cluster.status.unwrap();
    assert_eq!(status.info, Some(info.clone()));
    let since = status.details.as_mut().and_then(|details| details.network_policies.as_mut()?.since.take());
    assert!(since.is_some());
    assert_eq!(status.details, Some(details.clone()));
    // What others have named or written is kept as far as it can be, and is never a reason not to hear of the rest.
    let zones = vec![v1::NodeCount { name: "a\n".into(), nodes: 1 }; 65];
    let trouble = Some(v1::Trouble { kind: Kind::Blocked.into(), why: "denied:\n\nno".into(), since: None });
    let info = v1::ClusterInfo { version: "v".repeat(65), ..info };
    let told_so = told("c0", v1::SeenTenant { trouble, ..seen.clone() });
    let details = v1::ClusterDetails { zones, ..details };
    agent.observe(v1::ObserveRequest { info: Some(info), details: Some(details), ..told_so }).await.unwrap();
    assert_eq!(world.get("anvils").await.status.and_then(|status| status.trouble).expect("told").why, "denied: no");
    let request = v1::GetClusterRequest { name: "c0".into(), ..Default::default() };
    let status = world.fleet.get_cluster(request).await.unwrap().into_inner().cluster.and_then(|cluster| cluster.status).unwrap();
    assert_eq!(status.details.expect("told").zones, [v1::NodeCount { name: "a".into(), nodes: 65 }]);
    assert_eq!(status.info.expect("told").version.len(), 64);

    let running = v1::SeenTenant { observed: Observed::Running.into(), trouble: None, ..seen };
    let of_another = v1::SeenTenant { class_digest: "0".repeat(32), ..running.clone() };
    agent.observe(told("c0", of_another)).await.unwrap();
    assert_eq!(world.get("anvils").await.status.unwrap().phase(), v1::Phase::Placed, "what runs is of another class");
    let class = v1::GetClassRequest { name: "shop".into(), version: "1.0.0".into(), ..Default::default() };
    let class = world.fleet.get_class(class).await.unwrap().into_inner().class.unwrap();
    let running = v1::SeenTenant { class_digest: class.digest, ..running };
    let first = agent.observe(told("c0", running.clone())).await.unwrap().into_inner();
    let status = world.get("anvils").await.status.unwrap();
    assert_eq!((status.phase(), status.trouble), (v1::Phase::Running, None));
    let again = agent.observe(told("c0", running)).await.unwrap().into_inner();
    assert!(again.revision.unwrap().index <= first.revision.unwrap().index, "told again it has no effect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_added_to_a_cluster_is_free_and_shown_apart() {
    let mut world = World::with_clusters(1, 1).await;
    let mut agent = agent(&world, "c0").await;
    let size = v1::PodSize { cpu_millicores: 4000, memory_bytes: 1 << 34 };
    let total = v1::Resources { cpu_millicores: 12_000, memory_bytes: 3 << 34, pods: 330, storage_bytes: 0, attachments: 75 };
    let node = v1::NodeSize { allocatable: Some(size), largest_free: Some(size), count: 3 };
    let room = v1::GrowthRoom { total: Some(total), nodes: vec![node] };
    let growing = |room: v1::GrowthRoom| v1::ObserveRequest { uid: "uid-c0".into(), growth: Some(room), ..Default::default() };
    let request = v1::GetClusterRequest { name: "c0".into(), ..Default::default() };
    let before = world.fleet.get_cluster(request.clone()).await.unwrap().into_inner().cluster.unwrap().status.unwrap();
    assert_eq!(before.growth, None);
    agent.observe(growing(room.clone())).await.unwrap();
    let after = world.fleet.get_cluster(request).await.unwrap().into_inner().cluster.unwrap().status.unwrap();
    assert_eq!(after.growth, Some(room.clone()));
    assert_eq!(after.capacity, before.capacity, "it is not there");
    assert_eq!(after.free.unwrap().cpu_millicores, before.free.unwrap().cpu_millicores + 12_000);
    let wrong = v1::NodeSize { count: 0, ..node };
    let refused = agent.observe(growing(v1::GrowthRoom { nodes: vec![wrong], ..room })).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("growth.nodes[0].count"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_tells_nothing_of_another_clusters_tenants() {
    let mut world = World::with_clusters(1, 2).await;
    let placed = world.place("anvils", "acme").await;
    let binding = placed.status.clone().unwrap().binding.unwrap();
    let other = if binding.cluster == "c0" { "c1" } else { "c0" };
    let before = world.get("anvils").await;
    let mut agent = agent(&world, other).await;
    for observed in [Observed::Running, Observed::Stopped, Observed::Absent] {
        let seen = v1::SeenTenant {
            uid: placed.uid.clone(),
            epoch: binding.epoch,
            observed: observed.into(),
            volumes: vec![v1::TenantVolume { name: "data".into(), uid: DATA.into() }],
            trouble: Some(v1::Trouble { kind: Kind::VolumeLost.into(), why: "a lie".into(), since: None }),
            ..Default::default()
        };
        agent.observe(told(other, seen)).await.unwrap();
    }
    assert_eq!(world.get("anvils").await, before);
    let mut stream = intents(&mut agent, other).await;
    world.place("bolts", "acme").await;
    world.placement.place_tenant(v1::PlaceTenantRequest { request_id: new_id(), ..place("nuts", "acme") }).await.unwrap();
    let heard = whole(&mut stream).await;
    assert!(heard.tenants.iter().all(|tenant| tenant.name != "anvils"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_cluster_is_refused() {
    let world = World::with_clusters(1, 1).await;
    let mut agent = agent(&world, "c0").await;
    let copy = agent.watch_intent(v1::WatchIntentRequest { uid: "uid-of-a-copy".into() }).await.map(drop).unwrap_err();
    assert_eq!(copy.code(), Code::InvalidArgument);
    assert!(copy.message().contains("is a copy"), "{}", copy.message());
    let told = agent.observe(v1::ObserveRequest { uid: "uid-of-a-copy".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(fields(&told), ["uid"]);
    let nobody = AgentServiceClient::new(world.connect("agent", "c9", &[]).await).watch_intent(v1::WatchIntentRequest::default()).await;
    assert_eq!(reason(&nobody.map(drop).unwrap_err()).1, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_wrong_with_what_an_agent_tells_is_told_by_field() {
    let world = World::with_clusters(1, 1).await;
    let mut agent = agent(&world, "c0").await;
    let seen =
        v1::SeenTenant { uid: "x".into(), volumes: vec![v1::TenantVolume { name: "Data".into(), uid: "no".into() }], ..Default::default() };
    let refused = agent.observe(v1::ObserveRequest { tenants: vec![seen], ..Default::default() }).await.unwrap_err();
    let expected = ["uid", "tenants[0].uid", "tenants[0].epoch", "tenants[0].volumes[0].name", "tenants[0].volumes[0].uid"];
    assert_eq!(fields(&refused), expected);
}

async fn status_at(world: &World, at: usize, consistency: v1::Consistency) -> Option<v1::ClusterStatus> {
    let mut fleet = FleetServiceClient::new(connect(&world.group, at, "viewer", "v", &[]).await);
    let request = v1::GetClusterRequest { name: "c0".into(), consistency: consistency.into() };
    fleet.get_cluster(request).await.ok()?.into_inner().cluster?.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_tells_when_an_agent_was_last_heard_of_or_that_it_is_not_known() {
    let mut world = World::with_clusters(3, 1).await;
    let leader = world.group.leader().await;
    let follower = (leader + 1) % 3;
    let before = status_at(&world, leader, v1::Consistency::Linearizable).await.unwrap();
    assert_eq!((before.has_agent, before.last_contact), (false, None), "an operator's report is no agent's");

    let mut agent = Agent::new(connect(&world.group, follower, "agent", "c0", &[]).await);
    agent.observe(v1::ObserveRequest { uid: "uid-c0".into(), ..Default::default() }).await.unwrap();
    let stale = status_at(&world, follower, v1::Consistency::Stale).await.unwrap();
    assert_eq!(stale.last_contact, None, "a stale read asks nobody else");
    for at in 0..3 {
        let known =
            until("a replica knows of the contact", || async { status_at(&world, at, v1::Consistency::Linearizable).await?.last_contact });
        let contact = known.await;
        assert!(contact.time.is_some_and(|time| time.seconds > 0), "{contact:?}");
        assert!(contact.age.is_some_and(|age| (0..PATIENCE.as_secs() as i64).contains(&age.seconds)), "{contact:?}");
    }

    world.group.kill(leader).await;
    let leader = world.group.leader().await;
    for at in (0..3).filter(|at| world.group.seats[*at].running.is_some()) {
        until("what only the old leader had heard is not known any more", || async {
            let status = status_at(&world, at, v1::Consistency::Linearizable).await?;
            (status.has_agent && status.last_contact.is_none()).then_some(())
        })
        .await;
    }
    let mut agent = Agent::new(connect(&world.group, leader, "agent", "c0", &[]).await);
    agent.observe(v1::ObserveRequest { uid: "uid-c0".into(), ..Default::default() }).await.unwrap();
    until("the new leader knows", || async { status_at(&world, leader, v1::Consistency::Linearizable).await?.last_contact }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_that_wait_are_told_agreed_to_by_an_operator_and_heard_by_the_agent() {
    let mut world = World::with_clusters(1, 1).await;
    let mut agent = agent(&world, "c0").await;
    let mut seen = Vec::new();
    for name in ["anvils", "bolts", "cogs"] {
        let placed = world.place(name, "acme").await;
        let purge = v1::ReleaseTenantRequest { name: name.into(), purge: true, ..Default::default() };
        world.placement.release_tenant(purge).await.unwrap();
        seen.push(v1::SeenTenant {
            uid: placed.uid,
            epoch: placed.status.and_then(|status| status.binding).and_then(|binding| binding.epoch),
            trouble: Some(v1::Trouble { kind: Kind::HeldBack.into(), why: "too many at once".into(), since: None }),
            ..Default::default()
        });
    }
    let allow = |count, dry_run| v1::AllowRemovalsRequest { request_id: new_id(), cluster: "c0".into(), count, dry_run };
    assert_eq!(fields(&world.fleet.allow_removals(allow(0, false)).await.unwrap_err()), ["count"]);
    let early = world.fleet.allow_removals(allow(1, false)).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "nothing waits: {early:?}");
    // The agent says so itself: what may be removed is told by it, and counted by nobody else.
    let told = |held_back| v1::ObserveRequest {
        uid: "uid-c0".into(),
        info: Some(v1::ClusterInfo { held_back, ..Default::default() }),
        tenants: seen.clone(),
        ..Default::default()
    };
    agent.observe(told(3)).await.unwrap();
    let status = status_at(&world, 0, v1::Consistency::Linearizable).await.unwrap();
    let waiting = status.removals.expect("they wait");
    assert_eq!((waiting.waiting, waiting.first, waiting.agreed), (3, ["anvils", "bolts", "cogs"].map(str::to_owned).to_vec(), 0));

    let mut stream = intents(&mut agent, "c0").await;
    assert!(whole(&mut stream).await.tenants.iter().all(|tenant| !tenant.removal_agreed));
    let dry = world.fleet.allow_removals(allow(2, true)).await.unwrap().into_inner();
    assert_eq!((dry.tenants, dry.waiting), (vec!["anvils".to_owned(), "bolts".to_owned()], 1));
    let request = allow(2, false);
    let given = world.fleet.allow_removals(request.clone()).await.unwrap().into_inner();
    assert_eq!((&given.tenants[..], given.waiting), (&["anvils".to_owned(), "bolts".to_owned()][..], 1));
    assert_eq!(world.fleet.allow_removals(request).await.unwrap().into_inner(), given, "asked again it is the same agreement");
    let heard = whole(&mut stream).await;
    let agreed: Vec<&str> = heard.tenants.iter().filter(|tenant| tenant.removal_agreed).map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(agreed, ["anvils", "bolts"]);
    let removals = status_at(&world, 0, v1::Consistency::Linearizable).await.unwrap().removals.unwrap();
    assert_eq!((removals.waiting, removals.agreed, removals.agreed_until), (1, 2, given.until));
    let events =
        world.placement.list_tenant_events(v1::ListTenantEventsRequest { name: "bolts".into() }).await.unwrap().into_inner().events;
    let last = events.last().unwrap();
    assert_eq!((last.kind.as_str(), last.principal.as_str()), ("removal-allowed", "admin:root"));
}

/// The next question to an agent.
async fn question(stream: &mut Streaming<v1::WatchIntentResponse>) -> v1::DiffQuestion {
    loop {
        if let Some(question) = next(stream).await.questions.pop() {
            return question;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_change_is_asked_of_the_clusters_own_agent_at_whatever_replica_it_is() {
    let mut world = World::with_clusters(3, 2).await;
    let placed = world.place("anvils", "acme").await;
    let own = placed.status.unwrap().binding.unwrap().cluster;
    let other = if own == "c0" { "c1" } else { "c0" };
    let spec = v1::TenantSpec { values_json: r#"{"web": 3}"#.into(), ..spec("acme") };
    let request = v1::DiffTenantRequest { name: "anvils".into(), spec: Some(spec), class: None };
    let mut asks = PlacementServiceClient::new(connect(&world.group, 2, "operator", "o", &[]).await);
    let nobody = asks.diff_tenant(request.clone()).await.unwrap_err();
    assert_eq!(reason(&nobody).1, "AGENT_SILENT", "{nobody:?}");
    assert!(nobody.message().contains("connected to no replica"), "{nobody:?}");

    let mut agent = Agent::new(connect(&world.group, 1, "agent", &own, &[]).await);
    let mut stream = intents(&mut agent, &own).await;
    let mut stranger = Agent::new(connect(&world.group, 1, "agent", other, &[]).await);
    let mut strangers = intents(&mut stranger, other).await;
    let diff = v1::ObjectDiff {
        object: "Deployment/web".into(),
        change: v1::object_diff::Change::Changed.into(),
        before: "replicas: 2\n".into(),
        after: "replicas: 3\n".into(),
        ..Default::default()
    };
    let answers = async {
        let asked = question(&mut stream).await;
        let tenant = asked.tenant.clone().unwrap();
        assert_eq!((tenant.name.as_str(), tenant.values_json.as_str()), ("anvils", r#"{"web":3}"#));
        assert_eq!(asked.class.unwrap().version, "1.0.0");
        let answer = |cluster: &str| v1::AnswerDiffRequest {
            uid: format!("uid-{cluster}"),
            id: asked.id.clone(),
            objects: vec![diff.clone()],
            ..Default::default()
        };
        let lie = stranger.answer_diff(answer(other)).await.unwrap_err();
        assert_eq!(reason(&lie).1, "NOT_ASKED", "another cluster's agent is not heard");
        agent.answer_diff(answer(&own)).await.unwrap();
        assert_eq!(reason(&agent.answer_diff(answer(&own)).await.unwrap_err()).1, "NOT_ASKED", "it is answered once");
    };
    let (answered, ()) = tokio::join!(asks.diff_tenant(request), answers);
    let answered = answered.unwrap().into_inner();
    assert_eq!((answered.cluster, answered.objects), (own.clone(), vec![diff]));
    assert_eq!(world.get("anvils").await.spec.unwrap().values_json, "", "nothing was changed");

    let refused = async {
        let asked = question(&mut stream).await;
        let error = "the API server does not answer".to_owned();
        agent.answer_diff(v1::AnswerDiffRequest { uid: format!("uid-{own}"), id: asked.id, error, ..Default::default() }).await.unwrap();
    };
    let as_it_is = v1::DiffTenantRequest { name: "anvils".into(), ..Default::default() };
    let (answered, ()) = tokio::join!(asks.diff_tenant(as_it_is), refused);
    let refused = answered.unwrap_err();
    assert_eq!(reason(&refused).1, "AGENT_REFUSES");
    assert!(refused.message().contains("the API server does not answer"), "{refused:?}");
    let heard = tokio::time::timeout(std::time::Duration::from_millis(50), question(&mut strangers)).await;
    assert!(heard.is_err(), "another cluster's agent was asked: {heard:?}");
}
