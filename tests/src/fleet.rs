//! A fleet to place tenants in, declared over the API as an operator would, and the requests that fill it.

use anyhow::{Context, Result};
use futures::StreamExt;
use prost::Message;
use roadstead_api::v1;
use tonic::transport::Channel;
use uuid::Uuid;

/// Declarations in flight at a time.
const DECLARED_AT_A_TIME: usize = 32;
/// Clusters of these benchmarks and tests have no agents: the longest silence that a policy allows.
const SILENT_AFTER_SECONDS: i64 = 24 * 3600;
/// Owners that tenants are spread over.
const OWNERS: u64 = 1_000;
/// Bytes of one encoded placement, as of the value that the benchmarks' peer puts: filled up with a template's value.
pub const REQUEST_BYTES: usize = 200;
/// Of what a filled-up request spends on the filling's own tags and quotes.
const FILLING_OVERHEAD: usize = 12;
/// The one class here.
pub const CLASS: &str = "shop";
/// Its version.
pub const VERSION: &str = "1.0.0";
const GIB: u64 = 1 << 30;

/// How large a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Clusters, named `c0000` and so on.
    pub clusters: u32,
    /// Regions that they are spread over, named `region-0` and so on.
    pub regions: u32,
    /// Tenants that each takes at most.
    pub tenant_cap: u32,
}

/// Everything that a fleet is declared with.
#[derive(Clone, Debug)]
pub struct Declarations {
    /// The one pool.
    pub pool: v1::PutPoolRequest,
    /// The classes.
    pub classes: Vec<v1::PutClassRequest>,
    /// The policy.
    pub policy: v1::PutPolicyRequest,
    /// Each cluster and what its agent reports.
    pub clusters: Vec<(v1::PutClusterRequest, v1::ReportCapacityRequest)>,
}

impl Fleet {
    /// What it is declared with.
    #[must_use]
    pub fn declarations(self) -> Declarations {
        let spec =
            v1::PolicySpec { silent_after: Some(prost_types::Duration { seconds: SILENT_AFTER_SECONDS, nanos: 0 }), ..Default::default() };
        let policy = v1::Policy { spec: Some(spec), ..Default::default() };
        Declarations {
            pool: v1::PutPoolRequest { request_id: request_id(), pool: Some(pool()), ..Default::default() },
            classes: vec![v1::PutClassRequest { request_id: request_id(), class: Some(class()), dry_run: false }],
            policy: v1::PutPolicyRequest { request_id: request_id(), policy: Some(policy), ..Default::default() },
            clusters: (0..self.clusters).map(|number| self.cluster(number)).collect(),
        }
    }

    fn cluster(self, number: u32) -> (v1::PutClusterRequest, v1::ReportCapacityRequest) {
        let name = cluster_name(number);
        let uid = Uuid::from_u128(0x726f_6164_7374_6561_8000_0000_0000_0000 + u128::from(number)).to_string();
        let spec = v1::ClusterSpec {
            uid: uid.clone(),
            provider: "own".to_owned(),
            region: format!("region-{}", number % self.regions.max(1)),
            pool: "home".to_owned(),
            tenant_cap: self.tenant_cap,
            ..Default::default()
        };
        let cluster = v1::Cluster { name: name.clone(), spec: Some(spec), ..Default::default() };
        let put = v1::PutClusterRequest { request_id: request_id(), cluster: Some(cluster), ..Default::default() };
        let tenants = u64::from(self.tenant_cap);
        let allocatable = v1::Resources {
            cpu_millicores: 500 * tenants,
            memory_bytes: GIB * tenants,
            pods: 4 * tenants,
            // A class's volumes count beside what it asks for.
            storage_bytes: 10 * GIB * tenants,
            attachments: 2 * tenants,
        };
        let capacity = v1::Capacity { allocatable: Some(allocatable), used_by_others: Some(v1::Resources::default()), nodes: Vec::new() };
        (put, v1::ReportCapacityRequest { cluster: name, uid, capacity: Some(capacity), ..Default::default() })
    }

    /// Declares pool, class, policy and clusters over the API, and reports each cluster's capacity: enough for its cap of tenants.
    ///
    /// # Errors
    /// What the service refused.
    pub async fn declare(self, channel: &Channel) -> Result<()> {
        self.declarations().declare(channel).await
    }
}

impl Declarations {
    /// Declares all of it over the API.
    ///
    /// # Errors
    /// What the service refused.
    pub async fn declare(self, channel: &Channel) -> Result<()> {
        let mut fleet = v1::fleet_service_client::FleetServiceClient::new(channel.clone());
        fleet.put_pool(self.pool).await.context("failed to declare a pool")?;
        for class in self.classes {
            fleet.put_class(class).await.context("failed to declare a class")?;
        }
        fleet.put_policy(self.policy).await.context("failed to set a policy")?;
        let mut declared = futures::stream::iter(self.clusters)
            .map(|(put, report)| {
                let mut fleet = fleet.clone();
                async move {
                    let name = report.cluster.clone();
                    fleet.put_cluster(put).await.with_context(|| format!("failed to declare {name}"))?;
                    fleet.report_capacity(report).await.with_context(|| format!("failed to report the capacity of {name}"))?;
                    Ok::<_, anyhow::Error>(())
                }
            })
            .buffer_unordered(DECLARED_AT_A_TIME);
        while let Some(result) = declared.next().await {
            result?;
        }
        Ok(())
    }
}

/// The name of a cluster.
#[must_use]
pub fn cluster_name(number: u32) -> String {
    format!("c{number:04}")
}

/// A new request id.
#[must_use]
pub fn request_id() -> String {
    Uuid::now_v7().to_string()
}

fn pool() -> v1::Pool {
    let spec = v1::PoolSpec { kind: v1::pool_spec::Kind::Home.into(), policy: v1::pool_spec::Policy::Spread.into(), ..Default::default() };
    v1::Pool { name: "home".to_owned(), spec: Some(spec), revision: None }
}

fn class() -> v1::Class {
    let total = v1::Resources { cpu_millicores: 500, memory_bytes: GIB, pods: 4, storage_bytes: 5 * GIB, attachments: 1 };
    let largest_pod = v1::PodSize { cpu_millicores: 250, memory_bytes: GIB / 2 };
    v1::Class {
        name: CLASS.to_owned(),
        version: VERSION.to_owned(),
        requests: Some(v1::Requests { total: Some(total), largest_pod: Some(largest_pod) }),
        volumes: vec![v1::VolumeSpec { name: "data".to_owned(), size_bytes: 5 * GIB, storage: "fast".to_owned(), grow: true }],
        retain: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        // Values that a class does not name are refused.
        values_schema_json: r#"{"properties": {"note": {"type": "string"}}}"#.to_owned(),
        ..Default::default()
    }
}

/// Placements by number: the same number is always the same tenant with the same request id, so that a retry is one.
#[derive(Clone, Debug)]
pub struct Placements {
    /// When they were thought up, in milliseconds since 1970: goes into the request ids.
    born_ms: u64,
    prefix: String,
}

impl Placements {
    /// Tenants whose names begin with the prefix.
    ///
    /// # Panics
    /// If the clock stands before 1970.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let born = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is past 1970");
        Self { born_ms: u64::try_from(born.as_millis()).expect("milliseconds since 1970 fit in 64 bits"), prefix: prefix.to_owned() }
    }

    /// The tenant's name.
    #[must_use]
    pub fn name(&self, number: u64) -> String {
        format!("{}-{number:08}", self.prefix)
    }

    /// The tenant's request.
    #[must_use]
    pub fn request(&self, number: u64) -> v1::PlaceTenantRequest {
        // Ids made by different runs or clients must differ; the prefix tells them apart.
        let salt = self.prefix.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(u16::from(byte)));
        let mut random = [0; 10];
        random[..2].copy_from_slice(&salt.to_be_bytes());
        random[2..].copy_from_slice(&number.to_be_bytes());
        let id = uuid::Builder::from_unix_timestamp_millis(self.born_ms, &random).into_uuid();
        let spec = v1::TenantSpec {
            owner: format!("owner-{:03}", number % OWNERS),
            class: CLASS.to_owned(),
            version: VERSION.to_owned(),
            hostnames: vec![format!("{}.shop.example", self.name(number))],
            ..Default::default()
        };
        let mut request =
            v1::PlaceTenantRequest { request_id: id.to_string(), name: self.name(number), spec: Some(spec), ..Default::default() };
        let missing = REQUEST_BYTES.saturating_sub(request.encoded_len() + FILLING_OVERHEAD);
        if let Some(spec) = request.spec.as_mut() {
            spec.values_json = format!("{{\"note\":\"{}\"}}", "x".repeat(missing));
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_as_large_as_its_peers_value() {
        let request = Placements::new("bench").request(7);
        assert!(request.encoded_len().abs_diff(REQUEST_BYTES) <= 4, "{} bytes", request.encoded_len());
    }

    #[test]
    fn the_same_number_is_the_same_request_and_another_is_another() {
        let placements = Placements::new("bench");
        assert_eq!(placements.request(7), placements.request(7));
        assert_ne!(placements.request(7).request_id, placements.request(8).request_id);
        assert_eq!(Uuid::parse_str(&placements.request(7).request_id).unwrap().get_version_num(), 7);
    }
}
