//! Tenants as an agent has them: of a class that is parsed and rendered as every class is.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use roadstead_agent::interpreter::Job;
use roadstead_class::{Class, Site, namespace_of, render};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::id::{Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::time::Millis;
use serde_json::{Value, json};

use crate::world::name;

/// In which tenants are unless another is said.
const EPOCH: u64 = 3;
/// Of each volume.
const GIB: u64 = 1 << 30;

/// A version of a class without pods, by what of it matters to a test.
pub(crate) struct Shop {
    pub(crate) secrets: Value,
    /// Names, each of one GiB.
    pub(crate) volumes: &'static [&'static str],
    /// Beside a ConfigMap.
    pub(crate) manifests: &'static str,
    pub(crate) network: Value,
    pub(crate) site: Site,
}

impl Default for Shop {
    fn default() -> Self {
        let site = Site { other_storage: Some("fast".to_owned()), ..Site::default() };
        Self { secrets: json!([]), volumes: &[], manifests: "", network: json!({}), site }
    }
}

fn tenant_name(id: u64) -> Name {
    name(&format!("tenant-{id}"))
}

/// The namespace of a tenant.
pub(crate) fn namespace(id: u64) -> String {
    namespace_of(&tenant_name(id), TenantId(id))
}

impl Shop {
    fn version(&self) -> ClassVersion {
        let settings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {theme: plain}}\n---\n";
        let content = format!("{settings}{}", self.manifests);
        let template = json!({"manifests": [{"file": "shop.yaml", "content": content}], "secrets": self.secrets, "network": self.network});
        let storage = Bytes(GIB * self.volumes.len() as u64);
        let total = Resources { cpu: Millicores(1000), memory: Bytes(GIB), pods: 4, storage, attachments: self.volumes.len() as u64 };
        let volume = |volume: &&str| VolumeSpec { name: name(volume), size: Bytes(GIB), storage: "fast".to_owned(), grow: true };
        ClassVersion {
            name: name("shop"),
            version: "1".to_owned(),
            requests: Requests { total, largest_pod: PodSize { cpu: Millicores(100), memory: Bytes(GIB / 8) } },
            volumes: self.volumes.iter().map(volume).collect(),
            retain: Millis(0),
            values_schema: String::new(),
            template: template.to_string(),
            created: Revision::default(),
        }
    }

    /// A tenant of it that is to run.
    pub(crate) fn tenant(&self, id: u64) -> Result<Job> {
        self.tenant_with(id, EPOCH, &[])
    }

    /// As [`Shop::tenant`], in another epoch.
    pub(crate) fn tenant_in(&self, id: u64, epoch: u64) -> Result<Job> {
        self.tenant_with(id, epoch, &[])
    }

    /// As [`Shop::tenant`], with hostnames.
    pub(crate) fn tenant_called(&self, id: u64, hostnames: &[String]) -> Result<Job> {
        self.tenant_with(id, EPOCH, hostnames)
    }

    fn tenant_with(&self, id: u64, epoch: u64, hostnames: &[String]) -> Result<Job> {
        let class = Class::parse(&self.version()).map_err(|findings| anyhow!("{findings:?}"))?;
        let volume =
            |spec: &VolumeSpec| VolumeIntent { name: spec.name.clone(), size: spec.size, storage: spec.storage.clone(), uid: None };
        let intent = TenantIntent {
            id: TenantId(id),
            epoch: Revision { index: epoch, ..Revision::default() },
            shard: ShardId(0),
            role: Role::Run,
            name: tenant_name(id),
            owner: Owner::new("acme").expect("it is an owner"),
            class: class.name.clone(),
            version: class.version.clone(),
            values: "{}".to_owned(),
            hostnames: hostnames.to_vec(),
            volumes: class.volumes.iter().map(volume).collect(),
            requests: class.requests,
            removal_agreed: false,
        };
        let rendered = render(&class, &intent, &self.site)?;
        Ok(Job { intent, rendered: Ok(Arc::new(rendered)) })
    }
}
