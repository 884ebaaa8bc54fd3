//! A group of replicas with a small fleet, and clients of every role.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use roadstead_api::v1;
use roadstead_api::v1::admin_service_client::AdminServiceClient;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use roadstead_api::v1::placement_service_client::PlacementServiceClient;
use roadstead_server::identity::REPLICA_DNS_NAME;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::harness::{Group, PATIENCE};

pub(crate) type Placement = PlacementServiceClient<Channel>;
pub(crate) type Fleet = FleetServiceClient<Channel>;
pub(crate) type Admin = AdminServiceClient<Channel>;

/// A group with an admin's clients at its first replica.
pub(crate) struct World {
    pub(crate) group: Group,
    pub(crate) placement: Placement,
    pub(crate) fleet: Fleet,
    pub(crate) admin: Admin,
}

impl World {
    /// `replicas` replicas; nothing in the fleet.
    pub(crate) async fn empty(replicas: usize) -> Self {
        Self::of(Group::start(replicas).await).await
    }

    /// Of a group that runs.
    pub(crate) async fn of(group: Group) -> Self {
        let channel = connect(&group, 0, "admin", "root", &[]).await;
        let (placement, fleet, admin) = (Placement::new(channel.clone()), Fleet::new(channel.clone()), Admin::new(channel));
        Self { group, placement, fleet, admin }
    }

    /// The same with a pool, a class `shop@1.0.0` and clusters `c0`, `c1`... of 1000 tenants each, each with capacity.
    pub(crate) async fn with_clusters(replicas: usize, clusters: usize) -> Self {
        let mut world = Self::empty(replicas).await;
        world.fleet.put_pool(put_pool("home")).await.unwrap();
        world.fleet.put_class(put_class("shop", "1.0.0")).await.unwrap();
        for number in 0..clusters {
            let name = format!("c{number}");
            world.fleet.put_cluster(put_cluster(&name, "home")).await.unwrap();
            world.fleet.report_capacity(report(&name)).await.unwrap();
        }
        world
    }

    /// A connection of another caller.
    pub(crate) async fn connect(&self, role: &str, name: &str, owners: &[&str]) -> Channel {
        connect(&self.group, 0, role, name, owners).await
    }

    pub(crate) async fn place(&mut self, name: &str, owner: &str) -> v1::Tenant {
        self.placement.place_tenant(place(name, owner)).await.unwrap().into_inner().tenant.unwrap()
    }

    pub(crate) async fn get(&mut self, name: &str) -> v1::Tenant {
        let request = v1::GetTenantRequest { name: name.into(), ..Default::default() };
        self.placement.get_tenant(request).await.unwrap().into_inner().tenant.unwrap()
    }
}

/// Connects to a replica with a new certificate.
pub(crate) async fn connect(group: &Group, at: usize, role: &str, name: &str, owners: &[&str]) -> Channel {
    static SERIAL: AtomicU64 = AtomicU64::new(10_000);
    let (certificate, key) = group.authority.issue_for(role, name, owners, SERIAL.fetch_add(1, Ordering::Relaxed), true);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(group.authority.pem()))
        .identity(Identity::from_pem(certificate, key))
        .domain_name(REPLICA_DNS_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", group.seats[at].client)).unwrap();
    endpoint.tls_config(tls).unwrap().connect_timeout(PATIENCE).connect().await.unwrap()
}

pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

pub(crate) fn spec(owner: &str) -> v1::TenantSpec {
    v1::TenantSpec { owner: owner.into(), class: "shop".into(), version: "1.0.0".into(), ..Default::default() }
}

pub(crate) fn place(name: &str, owner: &str) -> v1::PlaceTenantRequest {
    v1::PlaceTenantRequest { request_id: new_id(), name: name.into(), spec: Some(spec(owner)), ..Default::default() }
}

pub(crate) fn put_pool(name: &str) -> v1::PutPoolRequest {
    let pool = v1::Pool { name: name.into(), spec: Some(v1::PoolSpec { order: 1, ..Default::default() }), ..Default::default() };
    v1::PutPoolRequest { pool: Some(pool), ..Default::default() }
}

pub(crate) fn requests() -> v1::Requests {
    let total = v1::Resources { cpu_millicores: 200, memory_bytes: 200 << 20, pods: 2, storage_bytes: 1 << 20, attachments: 1 };
    let largest_pod = v1::PodSize { cpu_millicores: 100, memory_bytes: 100 << 20 };
    v1::Requests { total: Some(total), largest_pod: Some(largest_pod) }
}

pub(crate) const SCHEMA: &str =
    r#"{"additionalProperties": false, "properties": {"plan": {"enum": ["small", "large"]}, "web": {"type": "integer", "maximum": 6}}}"#;

pub(crate) fn put_class(name: &str, version: &str) -> v1::PutClassRequest {
    let class = v1::Class {
        name: name.into(),
        version: version.into(),
        requests: Some(requests()),
        values_schema_json: SCHEMA.into(),
        ..Default::default()
    };
    v1::PutClassRequest { class: Some(class), ..Default::default() }
}

pub(crate) fn put_cluster(name: &str, pool: &str) -> v1::PutClusterRequest {
    let spec = v1::ClusterSpec {
        provider: "own".into(),
        region: "eu-1".into(),
        zones: vec!["eu-1a".into()],
        residency: "eu".into(),
        pool: pool.into(),
        ..Default::default()
    };
    v1::PutClusterRequest { cluster: Some(v1::Cluster { name: name.into(), spec: Some(spec), ..Default::default() }), ..Default::default() }
}

pub(crate) fn report(name: &str) -> v1::ReportCapacityRequest {
    let node = v1::PodSize { cpu_millicores: 64_000, memory_bytes: 256 << 30 };
    let allocatable = v1::Resources {
        cpu_millicores: 64_000_000,
        memory_bytes: 1 << 50,
        pods: 1_000_000,
        storage_bytes: 1 << 52,
        attachments: 1_000_000,
    };
    let nodes = vec![v1::NodeSize { allocatable: Some(node), largest_free: Some(node), count: 1000 }];
    let capacity = v1::Capacity { allocatable: Some(allocatable), used_by_others: None, nodes };
    v1::ReportCapacityRequest {
        cluster: name.into(),
        uid: format!("uid-{name}"),
        capacity: Some(capacity),
        ..v1::ReportCapacityRequest::default()
    }
}

/// The machine-readable reason of an error, and its other details.
pub(crate) fn reason(status: &Status) -> (Code, String, ErrorDetails) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "roadstead.dev");
    (status.code(), info.reason.clone(), details.clone())
}

/// The fields that an error complains about, in order.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let (code, _, details) = reason(status);
    assert_eq!(code, Code::InvalidArgument, "{status:?}");
    let violations = &details.bad_request().unwrap_or_else(|| panic!("no BadRequest in {status:?}")).field_violations;
    violations.iter().map(|violation| violation.field.clone()).collect()
}

/// The next message of a stream, which is expected to come.
pub(crate) async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a message comes");
    message.unwrap().expect("the stream goes on")
}

/// As long as a bookmark takes, and some.
pub(crate) const A_WHILE: Duration = Duration::from_secs(15);
