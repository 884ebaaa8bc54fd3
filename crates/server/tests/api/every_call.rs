//! What an agent's certificate can do with every call of the API: nothing to another cluster's tenants.
//!
//! The calls are taken from the API's own description, and messages are made for each from what is known of the victim, so that a new call
//! is tried without anybody's doing.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use roadstead_api::v1;
use roadstead_core::command::SUPPORTED_LEVEL;
use roadstead_server::auth::TABLE;
use roadstead_server::identity::Role;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::authorisation::Raw;
use crate::harness::until;
use crate::world::{World, new_id, place, reason, spec};

/// What nobody but the victims' own may ever hear.
const SECRET: &str = "secret-of-the-victim";
/// A volume of a victim's.
const VOLUME: &str = "0c9ee5b2-52b8-4d7c-9a5e-2f3a1b0c4d5e";
/// Values of each enumeration that are tried; of a tenant all that can be observed.
const VALUES: u64 = 3;
/// How deep messages within messages are filled in.
const DEPTH: usize = 4;
/// How long a stream is listened to: what it begins with is there at once.
const LISTEN: Duration = Duration::from_millis(60);

/// What is known of a victim, and what the malicious agent says it is.
struct Victim {
    name: String,
    uid: String,
    /// Where it is; of one that waits, where another one is.
    cluster: String,
    epoch: v1::Revision,
}

/// How a message is filled in.
#[derive(Clone, Copy, Debug)]
struct Fill {
    /// Whether `name` is the victim's cluster, or the victim.
    names_cluster: bool,
    /// Whether `cluster` and `uid` are those of the malicious agent's own cluster.
    own: bool,
    /// What yes-or-no questions say.
    yes: bool,
    /// Whether revisions to begin or to expect are given.
    revisions: bool,
    /// What is said of enumerations that have as many values.
    value: u64,
}

/// All ways.
fn fills() -> impl Iterator<Item = Fill> {
    (0..16u8).flat_map(|bits| {
        let bit = move |at: u8| bits >> at & 1 == 1;
        (1..=VALUES).map(move |value| Fill { names_cluster: bit(0), own: bit(1), yes: bit(2), revisions: bit(3), value })
    })
}

struct Filler<'a> {
    set: &'a FileDescriptorSet,
    victim: &'a Victim,
    own: &'a str,
    fill: Fill,
}

impl Filler<'_> {
    fn message(&self, name: &str, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(message) = find(self.set, name) else { return bytes };
        if name.ends_with(".v1.Revision") {
            return self.victim.epoch.encode_to_vec();
        }
        let mut choices = BTreeSet::new();
        for field in &message.field {
            // Of several alternatives the first is taken.
            let alternative = field.oneof_index.filter(|_| !field.proto3_optional()).is_some_and(|index| !choices.insert(index));
            let is_map =
                find(self.set, field.type_name()).is_some_and(|kind| kind.options.as_ref().is_some_and(|options| options.map_entry()));
            if alternative || is_map {
                continue;
            }
            let tag = field.number() as u32;
            let mut delimited = |value: &[u8]| {
                encode_key(tag, WireType::LengthDelimited, &mut bytes);
                encode_varint(value.len() as u64, &mut bytes);
                bytes.extend_from_slice(value);
            };
            match field.r#type() {
                Type::String => match self.text(name, field.name(), depth) {
                    Some(text) => delimited(text.as_bytes()),
                    None => continue,
                },
                Type::Bytes => delimited(b"x"),
                Type::Message => {
                    let is_revision = field.type_name().ends_with(".v1.Revision") && field.name() != "epoch";
                    if depth < DEPTH && (self.fill.revisions || !is_revision) {
                        delimited(&self.message(field.type_name(), depth + 1));
                    }
                }
                Type::Bool | Type::Enum | Type::Uint32 | Type::Uint64 | Type::Int32 | Type::Int64 | Type::Sint32 | Type::Sint64 => {
                    let number = match field.r#type() {
                        Type::Bool => u64::from(self.fill.yes),
                        Type::Enum if self.fill.value <= values(self.set, field.type_name()) => self.fill.value,
                        _ => 1,
                    };
                    if field.label() == Label::Repeated {
                        delimited(&[number as u8]);
                    } else {
                        encode_key(tag, WireType::Varint, &mut bytes);
                        encode_varint(number, &mut bytes);
                    }
                }
                other => panic!("a field of type {other:?}: say here how it is filled in"),
            }
        }
        bytes
    }

    /// What stands in a field of this name, in such a message.
    fn text(&self, message: &str, field: &str, depth: usize) -> Option<String> {
        let (victim, own) = (self.victim, self.fill.own);
        Some(match field {
            "request_id" => new_id(),
            "name" if self.fill.names_cluster => victim.cluster.clone(),
            "name" => victim.name.clone(),
            "cluster" if own => self.own.to_owned(),
            "cluster" => victim.cluster.clone(),
            "uid" if message.contains("Volume") => VOLUME.to_owned(),
            "uid" if depth > 0 => victim.uid.clone(),
            "uid" if own => format!("uid-{}", self.own),
            "uid" => format!("uid-{}", victim.cluster),
            "owner" | "principal" => "acme".to_owned(),
            "class" => "shop".to_owned(),
            "version" => "1.0.0".to_owned(),
            "values_json" | "template_json" | "values_schema_json" => "{}".to_owned(),
            // What is said to run from another class than the tenant's is not taken for running: it is not said.
            "class_digest" => return None,
            "filter" if own => return None,
            "filter" => format!("cluster = {}", victim.cluster),
            "page_token" => return None,
            _ => "x".to_owned(),
        })
    }
}

fn find<'a>(set: &'a FileDescriptorSet, name: &str) -> Option<&'a DescriptorProto> {
    let path = name.strip_prefix('.').unwrap_or(name);
    let file = set.file.iter().find(|file| {
        path.strip_prefix(file.package()).is_some_and(|rest| {
            let first = rest.trim_start_matches('.').split('.').next();
            file.message_type.iter().any(|message| first == Some(message.name()))
        })
    })?;
    let mut parts = path.strip_prefix(file.package())?.trim_start_matches('.').split('.');
    let first = parts.next()?;
    let mut found = file.message_type.iter().find(|message| message.name() == first)?;
    for part in parts {
        found = found.nested_type.iter().find(|message| message.name() == part)?;
    }
    Some(found)
}

/// How many values an enumeration has beside the one that says nothing.
fn values(set: &FileDescriptorSet, name: &str) -> u64 {
    let (parent, own) = name.rsplit_once('.').unwrap_or_default();
    let nested = find(set, parent).into_iter().flat_map(|message| &message.enum_type);
    let package = parent.trim_start_matches('.');
    let top = set.file.iter().filter(|file| file.package() == package).flat_map(|file| &file.enum_type);
    let found = nested.chain(top).find(|kind| kind.name() == own).unwrap_or_else(|| panic!("{name} is described nowhere"));
    found.value.len() as u64 - 1
}

/// All that a call answers within a short while.
async fn call(channel: &Channel, rpc: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/{rpc}").parse().unwrap();
    let messages = futures::stream::once(async { Bytes::from(message) });
    let answer = tokio::time::timeout(LISTEN * 20, grpc.streaming(Request::new(messages), path, Raw)).await;
    let Ok(answer) = answer else { return Ok(Vec::new()) };
    let mut stream = answer?.into_inner();
    let mut heard = Vec::new();
    while let Ok(part) = tokio::time::timeout(LISTEN, stream.message()).await {
        match part? {
            Some(part) => heard.extend_from_slice(&part),
            None => break,
        }
    }
    Ok(heard)
}

/// A fleet with two victims: one that is placed, and one that waits for a place.
struct Trial {
    world: World,
    victims: [Victim; 2],
    before: Vec<v1::Tenant>,
    /// The malicious agent's cluster.
    own: String,
    agent: Channel,
    /// The agent of the cluster that the placed one is in.
    home: Channel,
}

impl Trial {
    async fn begin() -> Self {
        let mut world = World::with_clusters(1, 2).await;
        // What is allowed depends on the level that is agreed, which it is soon after the start.
        let admin = &world.admin;
        until("the newest level is agreed", || async {
            let status = admin.clone().get_status(v1::GetStatusRequest::default()).await.ok()?.into_inner();
            (status.feature_level == u32::from(SUPPORTED_LEVEL.0)).then_some(())
        })
        .await;
        let secret = |label: &str| v1::TenantSpec { hostnames: vec![format!("{label}.{SECRET}.example")], ..spec("acme") };
        let request = v1::PlaceTenantRequest { spec: Some(secret("placed")), ..place("placed", "acme") };
        world.placement.place_tenant(request).await.unwrap();
        let nowhere = v1::Constraints { regions: vec!["mars".into()], ..Default::default() };
        let waits = v1::TenantSpec { constraints: Some(nowhere), ..secret("waiting") };
        world.placement.place_tenant(v1::PlaceTenantRequest { spec: Some(waits), ..place("waiting", "acme") }).await.unwrap();
        let before = vec![world.get("placed").await, world.get("waiting").await];
        assert_eq!(before[1].status.as_ref().unwrap().phase(), v1::Phase::Pending);
        let binding = before[0].status.clone().unwrap().binding.unwrap();
        let victim = |tenant: &v1::Tenant| Victim {
            name: tenant.name.clone(),
            uid: tenant.uid.clone(),
            cluster: binding.cluster.clone(),
            epoch: binding.epoch.unwrap(),
        };
        let victims = [victim(&before[0]), victim(&before[1])];
        let own = if binding.cluster == "c0" { "c1" } else { "c0" }.to_owned();
        let agent = world.connect("agent", &own, &[]).await;
        let home = world.connect("agent", &binding.cluster, &[]).await;
        Self { world, victims, before, own, agent, home }
    }

    /// Tries all that can be asked by a call; whether the same words told the agent at home anything, where that is asked.
    async fn rpc(&mut self, set: &FileDescriptorSet, rpc: &str, input: &str, ask_at_home: bool) -> bool {
        let (_, roles) = TABLE.iter().find(|(known, _)| *known == rpc).unwrap_or_else(|| panic!("{rpc} is in no table"));
        let may_call = roles.contains(&Role::Agent);
        let (mut messages, mut well_formed, mut heard_at_home) = (BTreeSet::new(), false, false);
        for (victim, fill) in self.victims.iter().flat_map(|victim| fills().map(move |fill| (victim, fill))) {
            let message = Filler { set, victim, own: &self.own, fill }.message(input, 0);
            if !messages.insert(message.clone()) {
                continue;
            }
            match call(&self.agent, rpc, message.clone()).await {
                Err(status) if !may_call => assert_eq!(reason(&status).1, "ROLE_NOT_ALLOWED", "{rpc}: {status:?}"),
                Ok(_) if !may_call => panic!("{rpc} lets an agent in"),
                Ok(heard) => {
                    assert!(!has(&heard, SECRET), "{rpc} tells an agent of another cluster's tenant, asked as {fill:?}");
                    well_formed = true;
                }
                Err(status) => {
                    assert!(!format!("{status:?}").contains(SECRET), "{rpc}: {status:?}");
                    well_formed |= status.code() != Code::InvalidArgument;
                }
            }
            if may_call && ask_at_home && !heard_at_home {
                heard_at_home = call(&self.home, rpc, message).await.is_ok_and(|heard| has(&heard, SECRET));
            }
        }
        // Else it is refused for its form whoever asks, and nothing is known of who may. Without an issuer no request for a certificate is looked at.
        assert!(well_formed || !may_call, "no message for {rpc} is well formed: say above how its fields are filled in");
        for before in &self.before {
            assert_eq!(self.world.get(&before.name).await, *before, "{rpc} changed another cluster's tenant");
        }
        heard_at_home
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_certificate_reads_and_changes_nothing_of_another_clusters_tenants_by_any_call() {
    let mut trial = Trial::begin().await;
    let set = FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    let (mut tried, mut heard_at_home) = (0, false);
    for (package, service) in services {
        for method in &service.method {
            let rpc = format!("{package}.{}/{}", service.name(), method.name());
            heard_at_home |= trial.rpc(&set, &rpc, method.input_type(), !heard_at_home).await;
            tried += 1;
        }
    }
    // What is looked for can be found.
    assert!(heard_at_home, "the victim's own agent hears of it");
    assert_eq!(tried, TABLE.iter().filter(|(rpc, _)| rpc.starts_with("roadstead.v1.")).count());
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
