//! The matrix of role and RPC over real certificates, and what clients and agents may touch.

use std::fmt::Write;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use roadstead_api::v1;
use roadstead_server::auth::TABLE;
use roadstead_server::identity::Role;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::world::{Fleet, Placement, World, fields, new_id, place, reason, report, spec};

/// Sends and receives messages as they are on the wire.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls an RPC with an empty message, which no RPC that changes something accepts; only whether it was let in counts.
async fn let_in(channel: &tonic::transport::Channel, rpc: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/{rpc}").parse().unwrap();
    let messages = futures::stream::once(async { Bytes::new() });
    match grpc.streaming(Request::new(messages), path, Raw).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::PermissionDenied && reason(&status).1 == "ROLE_NOT_ALLOWED" => Err(status),
        Err(_) => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_of_roles_and_rpcs_is_as_agreed() {
    let world = World::with_clusters(1, 1).await;
    let mut table = format!("{:<60}", "RPC");
    Role::ALL.iter().for_each(|role| write!(table, "{:>10}", role.as_str()).unwrap());
    table.push('\n');
    let mut channels = Vec::new();
    for role in Role::ALL {
        channels.push(world.connect(role.as_str(), "c0", &[]).await);
    }
    for (rpc, roles) in TABLE {
        write!(table, "{rpc:<60}").unwrap();
        for (role, channel) in Role::ALL.into_iter().zip(&channels) {
            let answer = let_in(channel, rpc).await;
            if let Err(status) = &answer {
                let (_, _, details) = reason(status);
                assert_eq!(details.error_info().unwrap().metadata["rpc"], *rpc);
                assert!(status.message().contains(&format!("{role}:c0 has the role {role}")), "{}", status.message());
            }
            assert_eq!(answer.is_ok(), roles.contains(&role), "{rpc} for {role}");
            write!(table, "{:>10}", if answer.is_ok() { "yes" } else { "-" }).unwrap();
        }
        table.push('\n');
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/authorisation.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &table).unwrap();
    }
    let agreed = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(table, agreed, "the matrix has changed; UPDATE_GOLDEN=1 takes the new one over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_table_is_refused() {
    let world = World::empty(1).await;
    let admin = world.connect("admin", "root", &[]).await;
    for rpc in ["roadstead.v1.AdminService/Shutdown", "roadstead.internal.v1.ReplicaService/Exchange", "x.Y/Z"] {
        let mut grpc = tonic::client::Grpc::new(admin.clone());
        grpc.ready().await.unwrap();
        let status = grpc.unary(Request::new(Bytes::new()), format!("/{rpc}").parse().unwrap(), Raw).await.unwrap_err();
        assert_eq!(reason(&status).1, "UNKNOWN_RPC", "{rpc}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_touches_tenants_of_its_owners_only() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("bolts", "bolt").await;
    let mut client = Placement::new(world.connect("client", "portal", &["acme", "acme-eu"]).await);
    client.place_tenant(place("anvils", "acme")).await.unwrap();

    let denied = |status: Status| assert_eq!(reason(&status).1, "OWNER_NOT_ALLOWED", "{status:?}");
    denied(client.place_tenant(place("other", "bolt")).await.unwrap_err());
    let update = |name: &str, owner: &str| v1::UpdateTenantRequest { name: name.into(), spec: Some(spec(owner)), ..Default::default() };
    denied(client.update_tenant(update("anvils", "bolt")).await.unwrap_err());
    denied(client.watch(v1::WatchRequest { owner: "bolt".into(), ..Default::default() }).await.unwrap_err());
    denied(client.list_tenants(v1::ListTenantsRequest { filter: "owner = bolt".into(), ..Default::default() }).await.unwrap_err());

    let listed = client.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert_eq!(listed.iter().map(|tenant| tenant.name.as_str()).collect::<Vec<_>>(), ["anvils"]);
    let mut watch = client.watch(v1::WatchRequest { with_initial_state: true, ..Default::default() }).await.unwrap().into_inner();
    let first = crate::world::next(&mut watch).await;
    assert_eq!(first.events.len(), 1, "only its own tenants, no clusters: {first:?}");
    client.release_tenant(v1::ReleaseTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap();
}

/// What the group has applied.
async fn revision(client: &mut Placement) -> Option<v1::Revision> {
    client.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().revision
}

/// What a client hears of a tenant from every RPC that takes its name.
async fn heard_of(client: &mut Placement, name: &str) -> Vec<(&'static str, Status)> {
    let name = || name.to_owned();
    let update = |owner: &str, paths: &[&str]| v1::UpdateTenantRequest {
        name: name(),
        spec: Some(v1::TenantSpec { priority: 3, ..spec(owner) }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    };
    let release = |dry_run, expected_revision| v1::ReleaseTenantRequest { name: name(), dry_run, expected_revision, ..Default::default() };
    let dry_update = v1::UpdateTenantRequest { dry_run: true, ..update("acme", &[]) };
    let some_revision = Some(v1::Revision { incarnation: 0, index: 5 });
    vec![
        ("get", client.get_tenant(v1::GetTenantRequest { name: name(), ..Default::default() }).await.unwrap_err()),
        (
            "get stale",
            client.get_tenant(v1::GetTenantRequest { name: name(), consistency: v1::Consistency::Stale.into() }).await.unwrap_err(),
        ),
        ("explain", client.explain_tenant(v1::ExplainTenantRequest { name: name(), ..Default::default() }).await.unwrap_err()),
        ("update", client.update_tenant(update("acme", &[])).await.unwrap_err()),
        ("update as another", client.update_tenant(update("bolt", &[])).await.unwrap_err()),
        ("update a field", client.update_tenant(update("", &["priority"])).await.unwrap_err()),
        ("update dry", client.update_tenant(dry_update).await.unwrap_err()),
        ("release", client.release_tenant(release(false, None)).await.unwrap_err()),
        ("release dry", client.release_tenant(release(true, None)).await.unwrap_err()),
        ("release a revision", client.release_tenant(release(false, some_revision)).await.unwrap_err()),
        ("undelete", client.undelete_tenant(v1::UndeleteTenantRequest { name: name(), ..Default::default() }).await.unwrap_err()),
        ("events", client.list_tenant_events(v1::ListTenantEventsRequest { name: name() }).await.unwrap_err()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_owners_tenant_is_no_other_than_one_that_does_not_exist() {
    let mut world = World::with_clusters(1, 1).await;
    let before = world.place("bolts", "bolt").await;
    let mut client = Placement::new(world.connect("client", "portal", &["acme"]).await);
    let (theirs, nobodys) = (heard_of(&mut client, "bolts").await, heard_of(&mut client, "ghost").await);
    for ((rpc, theirs), (_, nobodys)) in theirs.into_iter().zip(nobodys) {
        let (code, why, details) = reason(&theirs);
        let (same_code, same_why, same_details) = reason(&nobodys);
        assert_eq!((code, why), (same_code, same_why), "{rpc}");
        assert_eq!(theirs.message(), nobodys.message().replace("ghost", "bolts"), "{rpc}");
        assert_eq!(format!("{details:?}").len(), format!("{same_details:?}").len(), "{rpc}: {details:?}");
        // Whom the role forbids the whole RPC, it tells nothing of a tenant.
        let by_role = ["undelete", "events"].contains(&rpc);
        assert_eq!(theirs.code(), if by_role { Code::PermissionDenied } else { Code::NotFound }, "{rpc}");
    }
    assert_eq!(world.get("bolts").await, before, "and nothing was done to it");
    // Nothing is remembered of such a release either, and nothing written.
    for name in ["bolts", "ghost"] {
        let revision = revision(&mut client).await;
        let request_id = new_id();
        let release = |purge| v1::ReleaseTenantRequest { name: name.into(), purge, request_id: request_id.clone(), ..Default::default() };
        for purge in [false, true] {
            let refused = client.release_tenant(release(purge)).await.unwrap_err();
            assert_eq!(reason(&refused).1, "NOT_FOUND", "{name}: {refused:?}");
        }
        assert_eq!(self::revision(&mut client).await, revision, "{name}");
    }
    // Where other owners' tenants are is not told either.
    let mut beside = spec("acme");
    let company = Some(v1::company_term::Company::Owner("bolt".into()));
    let term = v1::CompanyTerm { kind: v1::company_term::Kind::Apart.into(), company, topology_key: "cluster".into() };
    beside.constraints.get_or_insert_default().company.push(term);
    let request = v1::PlaceTenantRequest { name: "spy".into(), spec: Some(beside), dry_run: true, ..Default::default() };
    assert_eq!(reason(&client.place_tenant(request).await.unwrap_err()).1, "OWNER_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_release_hears_its_first_answer_though_the_tenant_is_gone_for_its_caller() {
    let world = World::with_clusters(1, 1).await;
    let mut client = Placement::new(world.connect("client", "portal", &["acme"]).await);
    let placed = client.place_tenant(place("anvils", "acme")).await.unwrap().into_inner().tenant.unwrap();
    let request_id = new_id();
    let release = v1::ReleaseTenantRequest { name: "anvils".into(), purge: true, request_id, ..Default::default() };
    let first = client.release_tenant(release.clone()).await.unwrap().into_inner();
    let binding = placed.status.unwrap().binding.unwrap();
    let mut agent = Fleet::new(world.connect("agent", &binding.cluster, &[]).await);
    let observed = v1::observed_tenant::Observed::Absent.into();
    let gone = v1::ObservedTenant { uid: placed.uid, epoch: binding.epoch, observed };
    agent.report_capacity(v1::ReportCapacityRequest { tenants: vec![gone], ..report(&binding.cluster) }).await.unwrap();
    let heard = client.get_tenant(v1::GetTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(heard.code(), Code::NotFound);
    assert_eq!(client.release_tenant(release).await.unwrap().into_inner(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_touches_its_own_cluster_only() {
    let mut world = World::with_clusters(1, 2).await;
    let tenant = world.place("anvils", "acme").await;
    let home = tenant.status.unwrap().binding.unwrap().cluster;
    let other = if home == "c0" { "c1" } else { "c0" };
    let agent = world.connect("agent", other, &[]).await;
    let (mut fleet, mut placement) = (Fleet::new(agent.clone()), Placement::new(agent));

    let denied = |status: Status| assert_eq!(reason(&status).1, "CLUSTER_NOT_ALLOWED", "{status:?}");
    denied(fleet.report_capacity(report(&home)).await.unwrap_err());
    denied(fleet.get_cluster(v1::GetClusterRequest { name: home.clone(), ..Default::default() }).await.unwrap_err());
    let elsewhere = placement.get_tenant(v1::GetTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(reason(&elsewhere).1, "NOT_FOUND", "a tenant of another cluster is no other than one that does not exist");
    denied(placement.watch(v1::WatchRequest { cluster: home.clone(), ..Default::default() }).await.unwrap_err());

    fleet.report_capacity(report(other)).await.unwrap();
    let clusters = fleet.list_clusters(v1::ListClustersRequest::default()).await.unwrap().into_inner().clusters;
    assert_eq!(clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>(), [other]);
    assert!(placement.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().tenants.is_empty());
    let mut own = Placement::new(world.connect("agent", &home, &[]).await);
    let tenants = own.list_tenants(v1::ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert_eq!(tenants.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_caller_is_kept_through_a_follower() {
    let mut world = World::with_clusters(3, 1).await;
    let leader = world.group.leader().await;
    let follower = (leader + 1) % 3;
    let channel = crate::world::connect(&world.group, follower, "client", "portal", &[]).await;
    let mut request = Request::new(place("anvils", "acme"));
    // What looks like another caller is not looked at.
    request.metadata_mut().insert("principal", "admin:root".parse().unwrap());
    Placement::new(channel).place_tenant(request).await.unwrap();
    let request = v1::ListTenantEventsRequest { name: "anvils".into() };
    let events = world.placement.list_tenant_events(request).await.unwrap().into_inner().events;
    assert!(!events.is_empty() && events.iter().all(|event| event.principal == "client:portal"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_wrong_is_refused_before_anything_is_read() {
    let mut world = World::empty(1).await;
    let status = world.placement.get_tenant(v1::GetTenantRequest { name: "No Name".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(fields(&status), ["name"]);
}
