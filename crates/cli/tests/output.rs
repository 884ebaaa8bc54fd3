//! What people and programs see, format by format.

use roadstead_api::v1;
use roadstead_cli::output::Format;
use roadstead_cli::output::objects::{Object, render};
use roadstead_cli::verbs::insight::{explained, fill};

const GIB: u64 = 1 << 30;

fn revision(index: u64) -> Option<v1::Revision> {
    Some(v1::Revision { incarnation: 1, index })
}

fn tenant(name: &str, phase: v1::Phase, cluster: Option<&str>) -> v1::Tenant {
    let binding = cluster.map(|cluster| v1::Binding { cluster: cluster.to_owned(), shard: 2, epoch: revision(17) });
    let total = v1::Resources { cpu_millicores: 2500, memory_bytes: 3 * GIB, pods: 9, storage_bytes: 10 * GIB, attachments: 1 };
    let requests = v1::Requests { total: Some(total), largest_pod: Some(v1::PodSize { cpu_millicores: 500, memory_bytes: GIB }) };
    v1::Tenant {
        name: name.to_owned(),
        uid: "0001000000000011".to_owned(),
        spec: Some(v1::TenantSpec {
            owner: "acme-gmbh".to_owned(),
            class: "shop".to_owned(),
            version: "3.2.0".to_owned(),
            values_json: r#"{"plan":"large"}"#.to_owned(),
            ..v1::TenantSpec::default()
        }),
        status: Some(v1::TenantStatus {
            phase: phase.into(),
            reason: if binding.is_some() { "emptiest of 3 that fit".to_owned() } else { "no cluster has 2500m of cpu left".to_owned() },
            binding,
            requests: Some(requests),
            ..v1::TenantStatus::default()
        }),
        revision: revision(17),
        create_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
    }
}

fn cluster(name: &str, tenants: u32, state: v1::ClusterState) -> v1::Cluster {
    let used = v1::Resources {
        cpu_millicores: u64::from(tenants) * 1000,
        memory_bytes: u64::from(tenants) * GIB,
        pods: 4000,
        ..Default::default()
    };
    let free = v1::Resources { cpu_millicores: 1_000_000 - used.cpu_millicores, memory_bytes: 4000 * GIB, pods: 0, ..Default::default() };
    v1::Cluster {
        name: name.to_owned(),
        spec: Some(v1::ClusterSpec {
            provider: "own".to_owned(),
            region: "eu-central".to_owned(),
            zones: vec!["a".to_owned(), "b".to_owned()],
            residency: "eu".to_owned(),
            pool: "home".to_owned(),
            tenant_cap: 1000,
            ..v1::ClusterSpec::default()
        }),
        status: Some(v1::ClusterStatus {
            state: state.into(),
            tenants,
            used: Some(used),
            free: Some(free),
            shards: tenants.div_ceil(100),
            dominant_share_ppm: tenants * 1000,
            ..v1::ClusterStatus::default()
        }),
        revision: revision(9),
    }
}

/// With an agent that has told what it is made of; when it was last heard of is known, or not.
fn with_agent(mut cluster: v1::Cluster, age: Option<i64>) -> v1::Cluster {
    let status = cluster.status.as_mut().expect("a status");
    let (version, agent_version) = ("v1.34.4".to_owned(), "0.1.0".to_owned());
    status.info = Some(v1::ClusterInfo { version, agent_version, nodes: 40, ready_nodes: 39, ..Default::default() });
    status.has_agent = true;
    status.last_contact = age.map(|seconds| v1::Contact {
        time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
        age: Some(prost_types::Duration { seconds, nanos: 0 }),
    });
    cluster
}

fn objects() -> Vec<Object> {
    vec![
        Object::Cluster(Box::new(with_agent(cluster("eu-1", 612, v1::ClusterState::Active), Some(7)))),
        Object::Cluster(Box::new(with_agent(cluster("eu-3", 3, v1::ClusterState::Silent), None))),
        Object::Cluster(Box::new(cluster("a-longer-name", 1000, v1::ClusterState::Overfull))),
        Object::Tenant(Box::new(tenant("acme", v1::Phase::Running, Some("eu-1")))),
        Object::Tenant(Box::new(tenant("latecomer", v1::Phase::Pending, None))),
        Object::Pool(v1::Pool {
            name: "home".to_owned(),
            spec: Some(v1::PoolSpec {
                kind: v1::pool_spec::Kind::Home.into(),
                order: 1,
                price_micros: 4000,
                policy: v1::pool_spec::Policy::Spread.into(),
            }),
            revision: revision(2),
        }),
    ]
}

#[test]
fn every_format_is_as_it_was() {
    let mut text = String::new();
    for format in [Format::Table, Format::Wide, Format::Name, Format::Yaml, Format::Json] {
        text.push_str(&format!("==== {format:?} ====\n{}\n", render(&objects(), format, true, false).expect("text")));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_misplaced_tenant_is_so_in_every_format_and_keeps_its_phase() {
    let mut misplaced = tenant("acme", v1::Phase::Running, Some("eu-1"));
    misplaced.status.as_mut().expect("a status").misplaced = true;
    let answer = v1::ExplainTenantResponse { tenant: Some(misplaced.clone()), ..Default::default() };
    assert!(explained("acme", &answer, false).starts_with("tenant/acme Running,Misplaced on eu-1"));
    let objects = [Object::Tenant(Box::new(misplaced))];
    let text = |format| render(&objects, format, true, false).expect("text");
    assert!(text(Format::Table).contains(" Running,Misplaced "));
    assert!(render(&objects, Format::Table, true, true).expect("text").contains("\u{1b}[31mRunning,Misplaced\u{1b}[0m"));
    assert!(text(Format::Yaml).contains("phase: Running\n") && text(Format::Yaml).contains("misplaced: true\n"));
    let json: serde_json::Value = serde_json::from_str(&text(Format::Json)).expect("JSON");
    assert_eq!((&json["status"]["phase"], &json["status"]["misplaced"]), (&"Running".into(), &true.into()));
}

#[test]
fn an_unknown_last_contact_is_shown_as_unknown_and_none_as_no_agent() {
    let shown = |cluster: v1::Cluster| {
        let text = |format| render(&[Object::Cluster(Box::new(cluster.clone()))], format, true, false).expect("text");
        (text(Format::Table), text(Format::Yaml))
    };
    let plain = cluster("eu-1", 3, v1::ClusterState::Silent);
    let (table, yaml) = shown(with_agent(plain.clone(), None));
    assert!(table.contains(" unknown") && yaml.contains("lastContact: unknown\n") && !yaml.contains("lastContactAge"), "{table}{yaml}");
    let (table, yaml) = shown(with_agent(plain.clone(), Some(0)));
    assert!(table.contains(" 0s ago") && yaml.contains("lastContactAge: 0s\n"), "{table}{yaml}");
    let (table, yaml) = shown(plain);
    assert!(table.contains(" no agent") && !yaml.contains("lastContact"), "{table}{yaml}");
}

#[test]
fn one_thing_in_json_is_no_list() {
    let text = render(&objects()[..1], Format::Json, true, false).expect("JSON");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["kind"], "Cluster");
}

#[test]
fn without_colour_there_is_no_escape_and_with_it_the_text_is_the_same() {
    let plain = render(&objects(), Format::Wide, true, false).expect("text");
    assert!(!plain.contains('\u{1b}'));
    let coloured = render(&objects(), Format::Wide, true, true).expect("text");
    assert!(coloured.contains("\u{1b}[32mRunning\u{1b}[0m"));
    let mut bare = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        bare.push_str(before);
        rest = after.split_once('m').expect("an escape ends with m").1;
    }
    assert_eq!(bare + rest, plain);
}

#[test]
fn fill_and_explanation_are_as_they_were() {
    let eu_1 = with_agent(cluster("eu-1", 612, v1::ClusterState::Active), Some(7));
    let clusters = [eu_1, cluster("eu-2", 0, v1::ClusterState::Cordoned)];
    let term = |name: &str, value| v1::ScoreTerm { name: name.to_owned(), value };
    let candidate = v1::Candidate {
        cluster: "eu-1".to_owned(),
        rank: 1,
        terms: vec![term("pool_order", 1), term("share", 612_000)],
        warnings: vec!["above the high-water mark".to_owned()],
    };
    let refusal = |cause: &str, message: &str, count, numbers: Option<(u64, u64, u64)>| v1::Refusal {
        cause: cause.to_owned(),
        message: message.to_owned(),
        count,
        clusters: (1..=count.min(6)).map(|number| format!("{cause}-{number}")).collect(),
        wanted: numbers.map(|numbers| numbers.0),
        free: numbers.map(|numbers| numbers.1),
        limit: numbers.map(|numbers| numbers.2),
    };
    let answer = v1::ExplainTenantResponse {
        tenant: Some(tenant("acme", v1::Phase::Running, Some("eu-1"))),
        kept_reason: "emptiest of 3 that fit".to_owned(),
        now: Some(v1::Explanation {
            summary: "would stay on eu-1".to_owned(),
            candidates: vec![candidate],
            candidate_count: 3,
            refusals: vec![
                refusal("region", "is not in us-east", 12, None),
                refusal("memory", "has too little memory left", 1, Some((3 * GIB, GIB, 4096 * GIB))),
            ],
            would_bind: None,
        }),
        revision: revision(40),
    };
    insta::assert_snapshot!(format!("{}\n{}", fill(&clusters, false), explained("acme", &answer, false)));
}

#[test]
fn a_tenant_that_is_to_rest_is_shown_as_at_rest_or_stopping() {
    use v1::trouble::Kind;
    let shown = |desired: v1::Desired, phase: v1::Phase, trouble: Option<Kind>| {
        let mut tenant = tenant("acme", phase, Some("eu-1"));
        tenant.spec.as_mut().expect("a spec").desired = desired.into();
        tenant.status.as_mut().expect("a status").trouble =
            trouble.map(|kind| v1::Trouble { kind: kind.into(), why: "why".to_owned(), since: None });
        let answer = v1::ExplainTenantResponse { tenant: Some(tenant.clone()), ..Default::default() };
        let text = render(&[Object::Tenant(Box::new(tenant))], Format::Table, false, false).expect("text");
        let word = text.split_whitespace().nth(1).expect("a phase").to_owned();
        assert!(explained("acme", &answer, false).starts_with(&format!("tenant/acme {word} on eu-1")), "{word}");
        word
    };
    let (hibernated, archived) = (v1::Desired::Hibernated, v1::Desired::Archived);
    assert_eq!(shown(hibernated, v1::Phase::Running, None), "Stopping");
    assert_eq!(shown(hibernated, v1::Phase::Placed, Some(Kind::Waits)), "Stopping,Waits");
    assert_eq!(shown(hibernated, v1::Phase::Placed, None), "Hibernated");
    assert_eq!(shown(archived, v1::Phase::Placed, None), "Archived");
    assert_eq!(shown(archived, v1::Phase::Placed, Some(Kind::VolumeLost)), "Archived,VolumeLost");
    assert_eq!(shown(hibernated, v1::Phase::Releasing, None), "Releasing");
    assert_eq!(shown(v1::Desired::Running, v1::Phase::Placed, None), "Placed");
    assert_eq!(shown(v1::Desired::Unspecified, v1::Phase::Running, None), "Running");
}
