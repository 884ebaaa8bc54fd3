//! Many placements over one stream.

use std::collections::BTreeMap;

use futures::stream;
use roadstead_api::v1;
use roadstead_api::v1::place_tenants_response::Result as Answer;
use tonic::Code;

use crate::world::{World, new_id, place, spec};

fn item(sequence: u64, place: v1::PlaceTenantRequest) -> v1::PlaceTenantsRequest {
    v1::PlaceTenantsRequest { sequence, place: Some(place) }
}

async fn send(world: &mut World, items: Vec<v1::PlaceTenantsRequest>) -> BTreeMap<u64, Answer> {
    let mut answers = world.placement.place_tenants(stream::iter(items)).await.unwrap().into_inner();
    let mut all = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(all.insert(answer.sequence, answer.result.unwrap()).is_none(), "{} was answered twice", answer.sequence);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_acknowledged_by_itself() {
    let mut world = World::with_clusters(3, 8).await;
    let items: Vec<_> = (0..5000).map(|number| item(number, place(&format!("t{number}"), "acme"))).collect();
    let answers = send(&mut world, items.clone()).await;
    assert_eq!(answers.len(), 5000);
    for (sequence, answer) in &answers {
        let Answer::Acknowledgement(done) = answer else { panic!("{sequence}: {answer:?}") };
        assert_eq!(done.phase(), v1::Phase::Placed);
        assert!(done.binding.as_ref().unwrap().cluster.starts_with('c'));
    }
    assert_eq!(send(&mut world, items).await, answers, "a retry of the whole stream gets the first answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_does_not_end_the_stream() {
    let mut world = World::with_clusters(1, 1).await;
    let first = place("anvils", "acme");
    let far = v1::TenantSpec { constraints: Some(v1::Constraints { regions: vec!["mars".into()], ..Default::default() }), ..spec("acme") };
    let items = vec![
        item(1, first.clone()),
        item(2, v1::PlaceTenantRequest { name: "Bad".into(), ..place("x", "acme") }),
        item(3, v1::PlaceTenantRequest { dry_run: true, ..place("dry", "acme") }),
        v1::PlaceTenantsRequest { sequence: 4, place: None },
        item(5, v1::PlaceTenantRequest { spec: Some(far.clone()), wait: Some(false), ..place("rover", "acme") }),
        item(6, v1::PlaceTenantRequest { spec: Some(far), ..place("rover", "acme") }),
        item(
            7,
            v1::PlaceTenantRequest {
                request_id: new_id(),
                spec: Some(v1::TenantSpec { version: "9".into(), ..spec("acme") }),
                ..place("y", "acme")
            },
        ),
        item(8, v1::PlaceTenantRequest { request_id: String::new(), ..place("hammers", "acme") }),
    ];
    let answers = send(&mut world, items).await;
    let told: Vec<(u64, String)> = answers
        .iter()
        .map(|(sequence, answer)| {
            let told = match answer {
                Answer::Acknowledgement(done) => done.phase().as_str_name().to_owned(),
                Answer::Error(error) => format!("{} {:?}", error.reason, Code::from(error.code)),
            };
            (*sequence, told)
        })
        .collect();
    let expected = [
        (1, "PHASE_PLACED"),
        (2, "INVALID_FIELD InvalidArgument"),
        (3, "INVALID_FIELD InvalidArgument"),
        (4, "INVALID_FIELD InvalidArgument"),
        (5, "UNPLACEABLE FailedPrecondition"),
        (6, "PHASE_PENDING"),
        (7, "NOT_FOUND NotFound"),
        (8, "PHASE_PLACED"),
    ];
    assert_eq!(told, expected.map(|(sequence, told)| (sequence, told.to_owned())));
    // A retry may change over to a call of its own.
    let again = world.placement.place_tenant(first).await.unwrap().into_inner().tenant.unwrap();
    let Answer::Acknowledgement(done) = &answers[&1] else { panic!("acknowledged above") };
    assert_eq!((again.uid, again.status.unwrap().binding), (done.uid.clone(), done.binding.clone()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_streams_place_more_than_may_be_in_flight() {
    let world = World::with_clusters(1, 16).await;
    let mut streams = tokio::task::JoinSet::new();
    for part in 0..4 {
        let mut client = world.placement.clone();
        streams.spawn(async move {
            let items: Vec<_> = (0..3000).map(|number| item(number, place(&format!("t{part}-{number}"), "acme"))).collect();
            let mut answers = client.place_tenants(stream::iter(items)).await.unwrap().into_inner();
            let mut done = 0;
            while let Some(answer) = answers.message().await.unwrap() {
                assert!(matches!(answer.result, Some(Answer::Acknowledgement(_))), "{answer:?}");
                done += 1;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = streams.join_next().await {
        total += done.unwrap();
    }
    assert_eq!(total, 12_000);
}
