//! What is broken, too large, too late or too early gets an error that says so.

use std::time::Duration;

use bytes::Bytes;
use roadstead_api::v1;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

use crate::harness::until;
use crate::world::{World, place, spec};

/// Sends bytes as they are in the place of a message.
async fn send(world: &World, bytes: &[u8]) -> tonic::Status {
    let mut grpc = tonic::client::Grpc::new(world.connect("admin", "root", &[]).await);
    grpc.ready().await.unwrap();
    let path = "/roadstead.v1.PlacementService/PlaceTenant".parse().unwrap();
    let codec = RawOut(Bytes::copy_from_slice(bytes));
    grpc.unary(Request::new(()), path, codec).await.map(drop).unwrap_err()
}

#[derive(Clone)]
struct RawOut(Bytes);

impl tonic::codec::Codec for RawOut {
    type Encode = ();
    type Decode = v1::PlaceTenantResponse;
    type Encoder = Self;
    type Decoder = <ProstCodec<v1::PlaceTenantResponse, v1::PlaceTenantResponse> as tonic::codec::Codec>::Decoder;
    fn encoder(&mut self) -> Self {
        self.clone()
    }
    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<v1::PlaceTenantResponse, v1::PlaceTenantResponse>::default().decoder()
    }
}

impl tonic::codec::Encoder for RawOut {
    type Item = ();
    type Error = tonic::Status;
    fn encode(&mut self, (): (), into: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(into, self.0.clone());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_refused_and_the_server_goes_on() {
    let mut world = World::with_clusters(1, 1).await;
    for bytes in [&b"\xff\xff\xff\xff\xff"[..], b"\x12\x7fshort", b"\x12\x04\xff\xfe\xfd\xfc", b"\x0a\xff\xff\xff\xff\x0f"] {
        let status = send(&world, bytes).await;
        assert_eq!(crate::world::reason(&status).1, "MALFORMED_MESSAGE", "{bytes:?}: {status:?}");
    }
    world.place("anvils", "acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_and_names_are_refused() {
    let mut world = World::with_clusters(1, 1).await;
    let long = v1::PlaceTenantRequest { name: "x".repeat(1 << 20), ..place("x", "acme") };
    let status = world.placement.place_tenant(long).await.unwrap_err();
    assert_eq!(crate::world::fields(&status), ["name"]);
    assert!(status.message().contains("1048576 characters, at most 63"), "{}", status.message());
    let huge = v1::TenantSpec { values_json: "x".repeat(5 << 20), ..spec("acme") };
    let huge = v1::PlaceTenantRequest { spec: Some(huge), ..place("x", "acme") };
    let status = world.placement.place_tenant(huge).await.unwrap_err();
    assert_eq!(crate::world::reason(&status).1, "MESSAGE_TOO_LARGE", "{status:?}");
    assert!(status.message().contains("4194304"), "{}", status.message());
    world.place("anvils", "acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_of_the_caller_is_kept() {
    let mut world = World::with_clusters(3, 1).await;
    // Two of three are gone: nothing can be decided.
    let leader = world.group.leader().await;
    let channel = crate::world::connect(&world.group, leader, "admin", "root", &[]).await;
    for at in (0..3).filter(|at| *at != leader) {
        world.group.kill(at).await;
    }
    let client = crate::world::Placement::new(channel);
    let status = until("the service answers before the client's own timer ends", || async {
        let mut request = Request::new(place("anvils", "acme"));
        request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
        let began = std::time::Instant::now();
        let status = client.clone().place_tenant(request).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        // On a busy machine the client, which also reads the header, is faster.
        (status.code() != Code::Cancelled).then_some(status)
    })
    .await;
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_replica_and_reflection_tells_the_services() {
    let world = World::empty(1).await;
    let viewer = world.connect("viewer", "v", &[]).await;
    let mut health = HealthClient::new(viewer.clone());
    for service in ["", "roadstead.v1.PlacementService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(viewer);
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut answers = reflection.server_reflection_info(futures::stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) = crate::world::next(&mut answers).await.message_response else {
        panic!("no list of services")
    };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for expected in ["roadstead.v1.PlacementService", "roadstead.v1.FleetService", "roadstead.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
}
