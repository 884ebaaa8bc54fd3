//! The public API on one replica: five services, health and reflection behind one gate.
//!
//! A service checks and converts, asks the replica through its [`Handle`], and converts the answer back; it decides nothing. Modules in
//! reading order: [`gate`] (who may call, how much at a time, how long), [`context`] (what all services share), [`dry`] (what would be
//! done), [`placement`], [`stream`] (many placements over one stream), [`reads`] (get, list, explain, simulate, watch), `diff` (what would change in a cluster), [`fleet`], `reports` (facts on their way in), `intents` (what is wanted of a
//! cluster, as a stream), [`agent`], [`join`] (how agents are let in), [`admin`].

pub mod gate;
pub mod context;
pub mod dry;
pub mod placement;
pub mod stream;
pub mod reads;
mod diff;
pub mod fleet;
mod reports;
mod intents;
pub mod agent;
pub mod join;
pub mod admin;
mod raw_watch;

use std::sync::Arc;

use axum::middleware;
use roadstead_api::v1;
use roadstead_api::v1::admin_service_server::AdminServiceServer;
use roadstead_api::v1::agent_service_server::AgentServiceServer;
use roadstead_api::v1::fleet_service_server::FleetServiceServer;
use roadstead_api::v1::join_service_server::JoinServiceServer;
use roadstead_api::v1::placement_service_server::PlacementServiceServer;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::handle::Handle;
use crate::issuer::Issuer;
use crate::watch;
use crate::watch::history::History;
use admin::Admin;
use agent::Agents;
use context::Context;
use fleet::Fleet;
use gate::Gate;
use join::Joins;
use placement::Placement;

/// The largest message that is accepted: gRPC's own default, and some 2,000 reports' worth.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The largest message by which somebody is let in, who may be anybody: a token and a request for a certificate.
const MAX_JOIN_BYTES: usize = 16 << 10;
/// The largest message that is sent: answers are kept well below the 4 MiB that clients accept by default.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// The public API, and the tasks that it lives on; they end when the replica stops.
#[derive(Debug)]
pub struct Services {
    /// To be served on the client address.
    pub routes: Routes,
    /// What watches follow.
    pub history: Arc<History>,
    /// Ends only with the replica.
    pub tasks: Vec<JoinHandle<()>>,
}

/// Puts the public API of a replica together.
///
/// # Panics
/// If the descriptors that were compiled in cannot be read, which a test would have shown.
#[must_use]
pub fn router(handle: &Handle, issuer: Option<Issuer>) -> Services {
    let (history, hub) = watch::start(handle.clone());
    let context = Arc::new(Context::new(handle.clone(), Arc::clone(&history)));
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by the same build");
    let placement = Arc::new(Placement::new(Arc::clone(&context)));
    let issues = issuer.is_some();
    let mut routes = Routes::new(health)
        .add_service(reflection)
        .add_service(limited_placement(Arc::clone(&placement)))
        .add_service(
            FleetServiceServer::new(Fleet::new(Arc::clone(&context)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_ANSWER_BYTES),
        )
        .add_service(
            AgentServiceServer::new(Agents::new(Arc::clone(&context)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_ANSWER_BYTES),
        )
        .add_service(JoinServiceServer::new(Joins::new(Arc::clone(&context), issuer)).max_decoding_message_size(MAX_JOIN_BYTES))
        .add_service(
            AdminServiceServer::new(Admin::new(context, issues))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_ANSWER_BYTES),
        );
    let router = std::mem::take(routes.axum_router_mut());
    let router = router
        .route_service(raw_watch::PATH, raw_watch::RawWatch::new(placement))
        .layer(middleware::from_fn_with_state(Arc::new(Gate::default()), gate::pass));
    let readiness = tokio::spawn(follow_readiness(handle.clone(), reporter));
    Services { routes: Routes::from(router), history, tasks: vec![hub, readiness] }
}

fn limited_placement(placement: Arc<Placement>) -> PlacementServiceServer<Placement> {
    PlacementServiceServer::from_arc(placement).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_ANSWER_BYTES)
}

/// Keeps the health service in step with the replica: serving while it knows a leader and does not stop.
async fn follow_readiness(handle: Handle, reporter: HealthReporter) {
    let (mut role, stopping) = (handle.role(), handle.stopping());
    loop {
        let ready = !stopping.is_cancelled() && role.borrow_and_update().leader.is_some();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in [
            "",
            "roadstead.v1.PlacementService",
            "roadstead.v1.FleetService",
            "roadstead.v1.AgentService",
            "roadstead.v1.JoinService",
            "roadstead.v1.AdminService",
        ] {
            reporter.set_service_status(service, status).await;
        }
        if stopping.is_cancelled() {
            return;
        }
        tokio::select! {
            changed = role.changed() => if changed.is_err() { stopping.cancelled().await },
            () = stopping.cancelled() => {}
        }
    }
}
