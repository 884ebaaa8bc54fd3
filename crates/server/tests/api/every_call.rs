//! What an agent's certificate can do with every call of the API: nothing to another cluster's tenants.
//!
//! The calls are taken from the API's own description, and messages are made for each from what is known of the victim, so that a new call
//! is tried without anybody's doing.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use roadstead_api::v1;
use roadstead_server::auth::TABLE;
use roadstead_server::identity::Role;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::authorisation::Raw;
use crate::world::{World, new_id, place, reason, spec};

/// What nobody but the victim's own may ever hear.
const SECRET: &str = "secret-of-the-victim";
/// How deep messages within messages are filled in.
const DEPTH: usize = 4;
/// How long a stream is listened to: what it begins with is there at once.
const LISTEN: Duration = Duration::from_millis(60);

/// What is known of the victim, and what the malicious agent says it is.
struct Victim {
    name: String,
    uid: String,
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
        let mut choices = std::collections::BTreeSet::new();
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
                Type::String => match self.text(field.name(), depth) {
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
                    let number = if field.r#type() == Type::Bool { u64::from(self.fill.yes) } else { 1 };
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

    /// What stands in a field of this name.
    fn text(&self, field: &str, depth: usize) -> Option<String> {
        let (victim, own) = (self.victim, self.fill.own);
        Some(match field {
            "request_id" => new_id(),
            "name" if self.fill.names_cluster => victim.cluster.clone(),
            "name" => victim.name.clone(),
            "cluster" if own => self.own.to_owned(),
            "cluster" => victim.cluster.clone(),
            "uid" if depth > 0 => victim.uid.clone(),
            "uid" if own => format!("uid-{}", self.own),
            "uid" => format!("uid-{}", victim.cluster),
            "owner" | "principal" => "acme".to_owned(),
            "class" => "shop".to_owned(),
            "version" => "1.0.0".to_owned(),
            "values_json" | "template_json" | "values_schema_json" => "{}".to_owned(),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_certificate_reads_and_changes_nothing_of_another_clusters_tenants_by_any_call() {
    let mut world = World::with_clusters(1, 2).await;
    let secret = v1::TenantSpec { hostnames: vec![format!("{SECRET}.example")], ..spec("acme") };
    let request = v1::PlaceTenantRequest { spec: Some(secret), ..place("victim", "acme") };
    let placed = world.placement.place_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    let binding = placed.status.clone().unwrap().binding.unwrap();
    let epoch = binding.epoch.unwrap();
    let own = if binding.cluster == "c0" { "c1" } else { "c0" };
    let victim = Victim { name: placed.name.clone(), uid: placed.uid.clone(), cluster: binding.cluster.clone(), epoch };
    let before = world.get("victim").await;
    let agent = world.connect("agent", own, &[]).await;
    let home = world.connect("agent", &victim.cluster, &[]).await;

    let set = FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    let (mut calls, mut heard_at_home) = (0, false);
    for (package, service) in services {
        for method in &service.method {
            let rpc = format!("{package}.{}/{}", service.name(), method.name());
            let (_, roles) = TABLE.iter().find(|(known, _)| *known == rpc).unwrap_or_else(|| panic!("{rpc} is in no table"));
            for bits in 0..16u8 {
                let bit = |at: u8| bits >> at & 1 == 1;
                let fill = Fill { names_cluster: bit(0), own: bit(1), yes: bit(2), revisions: bit(3) };
                let filler = Filler { set: &set, victim: &victim, own, fill };
                let message = filler.message(method.input_type(), 0);
                match call(&agent, &rpc, message.clone()).await {
                    Err(status) if !roles.contains(&Role::Agent) => assert_eq!(reason(&status).1, "ROLE_NOT_ALLOWED", "{rpc}: {status:?}"),
                    Ok(_) if !roles.contains(&Role::Agent) => panic!("{rpc} lets an agent in"),
                    Ok(heard) => assert!(!has(&heard, SECRET), "{rpc} tells an agent of another cluster's tenant, asked as {fill:?}"),
                    Err(status) => assert!(!format!("{status:?}").contains(SECRET), "{rpc}: {status:?}"),
                }
                calls += 1;
                // The same words say something to the victim's own agent: what is looked for can be found.
                if roles.contains(&Role::Agent) && !heard_at_home {
                    heard_at_home = call(&home, &rpc, message).await.is_ok_and(|heard| has(&heard, SECRET));
                }
            }
            assert_eq!(world.get("victim").await, before, "{rpc} changed another cluster's tenant");
        }
    }
    assert!(heard_at_home, "the victim's own agent hears of it");
    assert_eq!(calls, 16 * TABLE.iter().filter(|(rpc, _)| rpc.starts_with("roadstead.v1.")).count());
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
