//! The server's things as documents and as rows.

use roadstead_api::v1;
use serde::Serialize;

use super::status;
use super::table::{Cells, Table};
use crate::document::class::ClassSpec;
use crate::document::fleet::{ClusterSpec, PolicySpec, PoolKind, PoolPolicy, PoolSpec};
use crate::document::quantity::{Bytes, Cpu, Label, Span};
use crate::document::tenant::{TenantSpec, timestamp_from_wire};
use crate::document::{Envelope, Kind, Metadata, POLICY_NAME, duration_from_wire};
use crate::failure::Failure;
use crate::output::{Format, dash_or, json, yaml};

/// One thing of any kind, as the server has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// The policy.
    Policy(v1::Policy),
    /// A pool.
    Pool(v1::Pool),
    /// A class version.
    Class(Box<v1::Class>),
    /// A cluster.
    Cluster(Box<v1::Cluster>),
    /// A tenant.
    Tenant(Box<v1::Tenant>),
}

/// A document of any kind on the way out.
#[derive(Serialize)]
#[serde(untagged)]
pub enum AnyDocument {
    /// The policy.
    Policy(Envelope<PolicySpec>),
    /// A pool.
    Pool(Envelope<PoolSpec>),
    /// A class version.
    Class(Box<Envelope<ClassSpec>>),
    /// A cluster.
    Cluster(Box<Envelope<ClusterSpec>>),
    /// A tenant.
    Tenant(Box<Envelope<TenantSpec>>),
}

fn metadata(name: &str, revision: Option<&v1::Revision>) -> Metadata {
    Metadata { name: Label(name.to_owned()), revision: revision.map(|r| status::revision(Some(r))), ..Metadata::default() }
}

impl Object {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::Policy,
            Self::Pool(_) => Kind::Pool,
            Self::Class(_) => Kind::Class,
            Self::Cluster(_) => Kind::Cluster,
            Self::Tenant(_) => Kind::Tenant,
        }
    }

    /// Kind and name, as in `tenant/acme`.
    #[must_use]
    pub fn identity(&self) -> String {
        let kind = self.kind().lower();
        match self {
            Self::Policy(_) => format!("{kind}/{POLICY_NAME}"),
            Self::Pool(pool) => format!("{kind}/{}", pool.name),
            Self::Class(class) => format!("{kind}/{}@{}", class.name, class.version),
            Self::Cluster(cluster) => format!("{kind}/{}", cluster.name),
            Self::Tenant(tenant) => format!("{kind}/{}", tenant.name),
        }
    }

    /// As a document that `apply` takes back; `status` only if wanted.
    #[must_use]
    pub fn document(&self, with_status: bool) -> AnyDocument {
        let shown = |value: serde_json::Value| with_status.then_some(value);
        match self {
            Self::Policy(policy) => {
                let spec = policy.spec.as_ref().map(Into::into).unwrap_or_default();
                AnyDocument::Policy(Envelope::new(self.kind(), metadata(POLICY_NAME, policy.revision.as_ref()), spec, None))
            }
            Self::Pool(pool) => {
                let spec = pool.spec.unwrap_or_default();
                AnyDocument::Pool(Envelope::new(self.kind(), metadata(&pool.name, pool.revision.as_ref()), (&spec).into(), None))
            }
            Self::Class(class) => {
                let metadata = metadata(&class.name, class.revision.as_ref());
                AnyDocument::Class(Box::new(Envelope::new(self.kind(), metadata, (&**class).into(), shown(status::class(class)))))
            }
            Self::Cluster(cluster) => {
                let spec = cluster.spec.as_ref().map(Into::into).unwrap_or_default();
                let metadata = metadata(&cluster.name, cluster.revision.as_ref());
                let status = cluster.status.as_ref().map(status::cluster).and_then(shown);
                AnyDocument::Cluster(Box::new(Envelope::new(self.kind(), metadata, spec, status)))
            }
            Self::Tenant(tenant) => {
                let spec = tenant.spec.clone().unwrap_or_default();
                let metadata = Metadata {
                    uid: Some(tenant.uid.clone()).filter(|uid| !uid.is_empty()),
                    created: tenant.create_time.as_ref().map(timestamp_from_wire),
                    ..metadata(&tenant.name, tenant.revision.as_ref())
                };
                let status = status::tenant(tenant).and_then(shown);
                AnyDocument::Tenant(Box::new(Envelope::new(self.kind(), metadata, (&spec).into(), status)))
            }
        }
    }

    /// Cells of its kind's table.
    #[must_use]
    pub fn cells(&self, wide: bool) -> Cells {
        match self {
            Self::Policy(policy) => policy_cells(policy),
            Self::Pool(pool) => pool_cells(pool),
            Self::Class(class) => class_cells(class, wide),
            Self::Cluster(cluster) => cluster_cells(cluster, wide),
            Self::Tenant(tenant) => tenant_cells(tenant, wide),
        }
    }
}

/// Headings of a kind's table.
#[must_use]
pub fn headings(kind: Kind, wide: bool) -> Vec<&'static str> {
    let (narrow, more): (&[&str], &[&str]) = match kind {
        Kind::Policy => (&["NAME", "QUOTAS", "MAX PENDING", "SILENT AFTER"], &[]),
        Kind::Pool => (&["NAME", "KIND", "ORDER", "PRICE", "POLICY"], &[]),
        Kind::Class => (&["NAME", "VERSION", "CPU", "MEMORY", "PODS", "VOLUMES", "TENANTS"], &["LARGEST POD", "RETAIN"]),
        Kind::Cluster => (
            &["NAME", "STATE", "POOL", "PROVIDER", "REGION", "TENANTS", "CAP", "SHARDS", "FULLEST", "LAST CONTACT"],
            &["CPU FREE", "MEMORY FREE", "STORAGE FREE", "VERSION", "NODES", "AGENT", "RESIDENCY", "ZONES", "REVISION"],
        ),
        Kind::Tenant => (
            &["NAME", "PHASE", "OWNER", "CLASS", "CLUSTER", "SHARD"],
            &["CPU", "MEMORY", "EPOCH", "UID", "NAMESPACE", "REVISION", "REASON"],
        ),
    };
    narrow.iter().chain(more.iter().filter(|_| wide)).copied().collect()
}

fn policy_cells(policy: &v1::Policy) -> Cells {
    let spec: PolicySpec = policy.spec.as_ref().map(Into::into).unwrap_or_default();
    vec![
        POLICY_NAME.to_owned(),
        spec.quotas.len().to_string(),
        spec.max_pending.map_or_else(|| "-".to_owned(), |max| max.to_string()),
        spec.silent_after.map_or_else(|| "-".to_owned(), |span| span.to_string()),
    ]
}

fn pool_cells(pool: &v1::Pool) -> Cells {
    let spec: PoolSpec = (&pool.spec.unwrap_or_default()).into();
    let kind = match spec.kind {
        PoolKind::Home => "home",
        PoolKind::Burst => "burst",
    };
    let policy = match spec.policy {
        PoolPolicy::Spread => "spread",
        PoolPolicy::Pack => "pack",
    };
    vec![pool.name.clone(), kind.to_owned(), spec.order.to_string(), spec.price.to_string(), policy.to_owned()]
}

fn class_cells(class: &v1::Class, wide: bool) -> Cells {
    let spec: ClassSpec = class.into();
    let volumes: u64 = spec.volumes.iter().map(|volume| volume.size.0).fold(0, u64::saturating_add);
    let mut cells = vec![
        class.name.clone(),
        class.version.clone(),
        spec.requests.cpu.to_string(),
        spec.requests.memory.to_string(),
        spec.requests.pods.to_string(),
        Bytes(volumes).to_string(),
        class.tenants.to_string(),
    ];
    if wide {
        cells.push(format!("{}/{}", spec.requests.largest_pod.cpu, spec.requests.largest_pod.memory));
        cells.push(class.retain.as_ref().map(duration_from_wire).unwrap_or(Span(0)).to_string());
    }
    cells
}

fn cluster_cells(cluster: &v1::Cluster, wide: bool) -> Cells {
    let spec = cluster.spec.clone().unwrap_or_default();
    let status = cluster.status.clone().unwrap_or_default();
    let mut cells = vec![
        cluster.name.clone(),
        status::cluster_standing(&status),
        spec.pool.clone(),
        spec.provider.clone(),
        spec.region.clone(),
        status.tenants.to_string(),
        spec.tenant_cap.to_string(),
        status.shards.to_string(),
        format!("{}.{}%", status.dominant_share_ppm / 10_000, status.dominant_share_ppm / 1_000 % 10),
        status::contact(&status),
    ];
    if wide {
        let free = status.free.unwrap_or_default();
        cells.push(Cpu(free.cpu_millicores).to_string());
        cells.push(rounded(free.memory_bytes));
        cells.push(rounded(free.storage_bytes));
        cells.extend(status::made_of(&status));
        cells.push(dash_or(&spec.residency).to_owned());
        cells.push(dash_or(&spec.zones.join(",")).to_owned());
        cells.push(status::revision(cluster.revision.as_ref()));
    }
    cells
}

fn tenant_cells(tenant: &v1::Tenant, wide: bool) -> Cells {
    let spec = tenant.spec.clone().unwrap_or_default();
    let status = tenant.status.clone().unwrap_or_default();
    let binding = status.binding.as_ref();
    let mut cells = vec![
        tenant.name.clone(),
        status::standing(tenant),
        spec.owner,
        format!("{}@{}", spec.class, spec.version),
        binding.map_or_else(|| "-".to_owned(), |binding| binding.cluster.clone()),
        binding.map_or_else(|| "-".to_owned(), |binding| binding.shard.to_string()),
    ];
    if wide {
        let total = status.requests.as_ref().and_then(|requests| requests.total).unwrap_or_default();
        cells.push(Cpu(total.cpu_millicores).to_string());
        cells.push(Bytes(total.memory_bytes).to_string());
        cells.push(status::revision(binding.and_then(|binding| binding.epoch.as_ref())));
        cells.push(tenant.uid.clone());
        cells.push(status::namespace(tenant).unwrap_or_else(|| "-".to_owned()));
        cells.push(status::revision(tenant.revision.as_ref()));
        // What is wrong now is asked for more often than why it is there.
        cells.push(dash_or(status.trouble.as_ref().map_or(&status.reason, |trouble| &trouble.why)).to_owned());
    }
    cells
}

/// Bytes in whole units of about their size, for people.
#[must_use]
pub fn rounded(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let (mut value, mut unit) = (bytes, 0);
    while value != 0 && (value >= 10_000 || value.is_multiple_of(1024)) && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value}{}", units[unit])
}

/// Several things in one format; `one` says that exactly one was asked for by name.
///
/// # Errors
/// The serializers'.
pub fn render(objects: &[Object], format: Format, headings_too: bool, colour: bool) -> Result<String, Failure> {
    match format {
        Format::Name => Ok(objects.iter().map(|object| object.identity() + "\n").collect()),
        Format::Yaml => yaml(&documents(objects)),
        Format::Json => match objects {
            [one] => json(&one.document(true)),
            _ => json(
                &serde_json::json!({ "apiVersion": crate::document::API_VERSION, "kind": crate::document::LIST_KIND, "items": documents(objects) }),
            ),
        },
        Format::Table | Format::Wide => {
            let wide = format == Format::Wide;
            let mut text = String::new();
            for kind in Kind::ALL {
                let mut table = Table::new(&headings(kind, wide)).without_headings(!headings_too);
                objects.iter().filter(|object| object.kind() == kind).for_each(|object| table.row(object.cells(wide)));
                if !table.is_empty() {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(&table.render(colour));
                }
            }
            Ok(text)
        }
    }
}

fn documents(objects: &[Object]) -> Vec<AnyDocument> {
    objects.iter().map(|object| object.document(true)).collect()
}
