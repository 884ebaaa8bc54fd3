//! `render`: what tenants become in a cluster, as Kubernetes objects.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use roadstead_api::v1;
use roadstead_class::{Class, Entry, RenderError, Rendered, Site, render};
use roadstead_core::class::VolumeSpec;
use roadstead_core::id::{Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::resources::Bytes;
use serde_json::{Value, json};

use super::apply::Input;
use crate::client::Connection;
use crate::document::Spec;
use crate::document::class::ClassSpec;
use crate::document::files::{BadInput, Loaded, load};
use crate::document::tenant::{ClassRef, TenantSpec};
use crate::failure::Failure;
use crate::output::{Objects, json, out, yaml};

/// Classes of files that a message names.
const MAX_NAMED: usize = 5;

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead render -f acme.yaml                        # class from the service
  roadstead render -f acme.yaml --class shop.yaml      # needs no service
  roadstead render -f acme.yaml --ingress nginx --storage fast=gp3
  roadstead render -f acme.yaml -o json | kubectl diff -f -

Uid, shard and epoch are zeros: a tenant gets its own when it is placed. Secrets are shown
without their data, which is generated or copied in the cluster. A kind of storage that is
not mapped by --storage is taken for a StorageClass of its name.")]
pub struct Render {
    #[command(flatten)]
    input: Input,
    /// File or folder with classes; repeatable. A class that is in no file is asked of the service.
    #[arg(long = "class", value_name = "FILE")]
    classes: Vec<PathBuf>,
    /// How objects are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Objects,
    /// Name of the cluster, for expressions.
    #[arg(long, default_value = "example")]
    cluster: String,
    /// Region of the cluster, for expressions.
    #[arg(long, default_value = "example")]
    region: String,
    /// Kind of storage and its StorageClass; repeatable.
    #[arg(long, value_name = "KIND=STORAGECLASS", value_parser = pair)]
    storage: Vec<(String, String)>,
    /// Hostnames get an Ingress of this class, whose controller lives in the namespace of the same name.
    #[arg(long, value_name = "CLASS", conflicts_with = "gateway")]
    ingress: Option<String>,
    /// Hostnames get an HTTPRoute to this Gateway.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = slashed)]
    gateway: Option<(String, String)>,
    #[command(flatten)]
    connection: Connection,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(_, class)| !class.is_empty());
    parts.map(|(kind, class)| (kind.to_owned(), class.to_owned())).ok_or_else(|| "write it as in fast=gp3".to_owned())
}

fn slashed(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    parts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).ok_or_else(|| "write it as in gateways/public".to_owned())
}

impl Render {
    /// Shows what the tenants of the input become.
    ///
    /// # Errors
    /// Bad documents, a class that there is not, what cannot be rendered.
    pub async fn run(self) -> Result<(), Failure> {
        let mut loaded = self.input.load()?;
        if !self.classes.is_empty() {
            loaded.extend(load(&self.classes)?);
        }
        let mut classes = BTreeMap::new();
        for item in &loaded {
            if let Spec::Class(spec) = &item.document.spec {
                classes.insert(
                    ClassRef { name: item.document.name.clone(), version: spec.version.clone() },
                    understood(spec, &item.document.name)?,
                );
            }
        }
        let mut objects = Vec::new();
        for item in &loaded {
            let Spec::Tenant(spec) = &item.document.spec else { continue };
            let wanted: ClassRef = spec.class.parse().map_err(Failure::usage)?;
            if !classes.contains_key(&wanted) {
                let found = self.asked_of_the_service(&wanted).await.map_err(|failure| self.beside_files(failure, &wanted, &loaded))?;
                classes.insert(wanted.clone(), understood(&ClassSpec::from(&found), &found.name)?);
            }
            let problem = |field: &str, message: String| BadInput(vec![item.problem(field, message)]);
            let class = classes.get(&wanted).ok_or_else(|| problem("spec.class", format!("there is no class `{wanted}`")))?;
            let tenant = tenant(class, &item.document.name, spec).map_err(|(field, message)| problem(field, message))?;
            let rendered = render(class, &tenant, &self.site(class));
            let rendered = rendered.map_err(|error| match error {
                RenderError::Values { field, problem: why } => problem(&field, why),
                other => problem("spec.class", other.to_string()),
            })?;
            if !spec.hostnames.is_empty() && self.ingress.is_none() && self.gateway.is_none() {
                let name = &item.document.name;
                eprintln!(
                    "note: nothing leads the hostnames of {name} in: say how this cluster does, with --ingress CLASS or --gateway NAMESPACE/NAME"
                );
            }
            objects.extend(bodies(&rendered));
        }
        if objects.is_empty() {
            return Err(Failure::usage("there is no tenant in the input")
                .hint("add a document of kind Tenant with `-f`: a class becomes objects only for a tenant")
                .hint("`roadstead apply -f FILE --dry-run` only checks a class, with its defaults and examples"));
        }
        out(&match self.output {
            Objects::Yaml => yaml(&objects)?,
            Objects::Json => json(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?,
        });
        Ok(())
    }

    async fn asked_of_the_service(&self, class: &ClassRef) -> Result<v1::Class, Failure> {
        self.connection.connect()?.class(class, false).await
    }

    /// A failure of the service, which is asked only because the files that were named have other classes.
    fn beside_files(&self, failure: Failure, wanted: &ClassRef, loaded: &[Loaded]) -> Failure {
        if self.classes.is_empty() {
            return failure.hint(format!("or name a file with {wanted}: --class FILE"));
        }
        let class = |item: &Loaded| match &item.document.spec {
            Spec::Class(class) => Some(format!("{} has {}@{}", item.file, item.document.name, class.version)),
            Spec::Policy(_) | Spec::Pool(_) | Spec::Cluster(_) | Spec::Tenant(_) => None,
        };
        let has: Vec<String> = loaded.iter().filter_map(class).take(MAX_NAMED).collect();
        let message = format!("{wanted} is in no file ({}), and of the service: {}", has.join(", "), failure.message);
        Failure { message, ..failure }
    }

    fn site(&self, class: &Class) -> Site {
        let mut storage: BTreeMap<String, String> = class
            .volumes
            .iter()
            .filter(|volume| !volume.storage.is_empty())
            .map(|volume| (volume.storage.clone(), volume.storage.clone()))
            .collect();
        storage.extend(self.storage.iter().cloned());
        let entry = match (&self.ingress, &self.gateway) {
            (Some(class), _) => Entry::Ingress { class: class.clone(), from_namespace: class.clone() },
            (None, Some((namespace, name))) => Entry::Gateway { name: name.clone(), namespace: namespace.clone() },
            (None, None) => Entry::None,
        };
        Site { cluster: self.cluster.clone(), region: self.region.clone(), storage, entry, ..Site::default() }
    }
}

/// A class, or why it cannot be understood.
fn understood(spec: &ClassSpec, name: &str) -> Result<Class, Failure> {
    let class = || format!("class {name}@{}", spec.version);
    match spec.parsed(name) {
        Ok(Some(class)) => Ok(class),
        Ok(None) => Err(Failure::failed(format!("{}: a name in it is none", class()))),
        Err(found) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(Failure::failed(format!("{}: {}", class(), found.join("; "))))
        }
    }
}

fn bodies(rendered: &Rendered) -> Vec<Value> {
    rendered.manifests().map(|manifest| manifest.body.clone()).collect()
}

/// What would be wanted of a tenant, before it is placed; or the field that is wrong and why.
fn tenant(class: &Class, name: &str, spec: &TenantSpec) -> Result<TenantIntent, (&'static str, String)> {
    if let Some(other) = spec.volumes.keys().find(|name| !class.volumes.iter().any(|volume| volume.name.as_str() == **name)) {
        return Err(("spec.volumes", format!("class {} has no volume `{other}`", spec.class)));
    }
    let volume = |volume: &VolumeSpec| {
        let size = spec.volumes.get(volume.name.as_str()).map_or(volume.size, |size| Bytes(size.0));
        VolumeIntent { name: volume.name.clone(), size, storage: volume.storage.clone(), uid: None }
    };
    let volumes: Vec<VolumeIntent> = class.volumes.iter().map(volume).collect();
    let mut requests = class.requests;
    requests.total.storage.0 = volumes.iter().fold(requests.total.storage.0, |sum, volume| sum.saturating_add(volume.size.0));
    requests.total.attachments = requests.total.attachments.saturating_add(volumes.len() as u64);
    Ok(TenantIntent {
        id: TenantId(0),
        epoch: Revision::default(),
        shard: ShardId(0),
        role: Role::Run,
        name: Name::new(name).map_err(|error| ("metadata.name", error.to_string()))?,
        owner: Owner::new(&spec.owner.0).map_err(|error| ("spec.owner", error.to_string()))?,
        class: class.name.clone(),
        version: class.version.clone(),
        values: Value::Object(spec.values.clone()).to_string(),
        hostnames: spec.hostnames.clone(),
        volumes,
        requests,
        removal_agreed: false,
    })
}
