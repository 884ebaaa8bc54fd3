//! Clusters, pools, classes, policy, status, backups.

use futures::stream;
use roadstead_api::v1;
use tonic::Code;

use crate::world::{World, fields, put_class, put_cluster, put_pool, reason, report};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_is_read_back_with_its_defaults() {
    let mut world = World::with_clusters(1, 1).await;
    let read = world.fleet.get_cluster(v1::GetClusterRequest { name: "c0".into(), ..Default::default() }).await.unwrap().into_inner();
    let cluster = read.cluster.unwrap();
    let spec = cluster.spec.clone().unwrap();
    assert_eq!((spec.tenant_cap, spec.high_water, spec.shard_cap, spec.max_shards), (1000, 900, 100, 10));
    let status = cluster.status.unwrap();
    assert_eq!(status.state(), v1::ClusterState::Active);
    assert_eq!(status.free.unwrap().cpu_millicores, 64_000_000);
    assert!(status.report_time.is_some());

    // As a document goes: what was read can be put again, and changes nothing.
    let again = v1::Cluster { name: "c0".into(), spec: Some(spec), ..Default::default() };
    let put = v1::PutClusterRequest { cluster: Some(again), expected_revision: cluster.revision, ..Default::default() };
    assert_eq!(world.fleet.put_cluster(put.clone()).await.unwrap().into_inner().cluster.unwrap().revision, cluster.revision);
    let stale = Some(v1::Revision { incarnation: 0, index: 1 });
    let status = world.fleet.put_cluster(v1::PutClusterRequest { expected_revision: stale, ..put }).await.unwrap_err();
    assert_eq!(reason(&status).1, "REVISION_CONFLICT");

    let class = v1::GetClassRequest { name: "shop".into(), version: "1.0.0".into(), ..Default::default() };
    let class = world.fleet.get_class(class).await.unwrap().into_inner().class.unwrap();
    assert_eq!((class.tenants, class.values_schema_json.as_str()), (0, crate::world::SCHEMA));
    let pools = world.fleet.list_pools(v1::ListPoolsRequest::default()).await.unwrap().into_inner().pools;
    assert_eq!(pools.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn violations_of_a_cluster_are_reported_together() {
    let mut world = World::empty(1).await;
    let mut request = put_cluster("c0", "No Pool");
    let spec = request.cluster.as_mut().unwrap().spec.as_mut().unwrap();
    spec.provider = String::new();
    spec.taints = vec![v1::Taint::default()];
    spec.overcommit_percent = [("gpu".to_owned(), 200)].into();
    spec.tenant_cap = 10_001;
    let status = world.fleet.put_cluster(request).await.unwrap_err();
    let expected = [
        "cluster.spec.provider",
        "cluster.spec.taints[0].key",
        "cluster.spec.taints[0].effect",
        "cluster.spec.pool",
        "cluster.spec.overcommit_percent[\"gpu\"]",
        "cluster.spec.tenant_cap",
    ];
    assert_eq!(fields(&status), expected);
    let mut report = report("c0");
    report.tenants = vec![v1::ObservedTenant { uid: "XYZ".into(), epoch: None, observed: 0 }];
    assert_eq!(
        fields(&world.fleet.report_capacity(report).await.unwrap_err()),
        ["tenants[0].uid", "tenants[0].epoch", "tenants[0].observed"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_are_immutable_checked_and_kept_while_in_use() {
    let mut world = World::with_clusters(1, 1).await;
    let mut other = put_class("shop", "1.0.0");
    other.class.as_mut().unwrap().requests.as_mut().unwrap().total.as_mut().unwrap().pods = 99;
    assert!(world.fleet.put_class(other).await.is_err(), "a version is immutable");
    world.fleet.put_class(put_class("shop", "1.0.0")).await.unwrap();

    let mut unsupported = put_class("shop", "2.0.0");
    unsupported.class.as_mut().unwrap().values_schema_json = r#"{"oneOf": []}"#.into();
    let status = world.fleet.put_class(unsupported).await.unwrap_err();
    assert_eq!(fields(&status), ["class.values_schema_json"]);
    assert!(status.message().contains("\"oneOf\""), "{}", status.message());

    world.place("anvils", "acme").await;
    let delete = v1::DeleteClassRequest { name: "shop".into(), version: "1.0.0".into(), ..Default::default() };
    assert_eq!(reason(&world.fleet.delete_class(delete).await.unwrap_err()).1, "IN_USE");
    let status = world.fleet.delete_pool(v1::DeletePoolRequest { name: "home".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(reason(&status).1, "IN_USE");
    let delete = || v1::DeleteClusterRequest { name: "c0".into(), ..Default::default() };
    let status = world.fleet.delete_cluster(delete()).await.unwrap_err();
    assert_eq!(reason(&status).1, "IN_USE");
    assert!(!status.message().contains("--purge"), "{}", status.message());

    world.placement.release_tenant(v1::ReleaseTenantRequest { name: "anvils".into(), ..Default::default() }).await.unwrap();
    for dry_run in [true, false] {
        let status = world.fleet.delete_cluster(v1::DeleteClusterRequest { dry_run, ..delete() }).await.unwrap_err();
        assert_eq!(reason(&status).1, "IN_USE");
        let says = "tenants bound to it: 1, deleted and kept: 1 (roadstead delete tenant NAME --purge, or wait";
        assert!(status.message().contains(says), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_of_the_fleet_change_nothing() {
    let mut world = World::with_clusters(1, 1).await;
    let cluster = v1::PutClusterRequest { dry_run: true, ..put_cluster("c9", "home") };
    assert_eq!(world.fleet.put_cluster(cluster).await.unwrap().into_inner().cluster.unwrap().name, "c9");
    world.fleet.put_pool(v1::PutPoolRequest { dry_run: true, ..put_pool("burst") }).await.unwrap();
    world.fleet.put_class(v1::PutClassRequest { dry_run: true, ..put_class("shop", "2.0.0") }).await.unwrap();
    world.fleet.delete_cluster(v1::DeleteClusterRequest { name: "c0".into(), dry_run: true, ..Default::default() }).await.unwrap();
    let spec = v1::PolicySpec { max_pending: Some(1), ..Default::default() };
    let policy = Some(v1::Policy { spec: Some(spec), revision: None });
    let answer = world.fleet.put_policy(v1::PutPolicyRequest { policy, dry_run: true, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(answer.policy.unwrap().spec.unwrap().max_pending, Some(1));

    let clusters = world.fleet.list_clusters(v1::ListClustersRequest::default()).await.unwrap().into_inner().clusters;
    assert_eq!(clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>(), ["c0"]);
    assert_eq!(world.fleet.list_pools(v1::ListPoolsRequest::default()).await.unwrap().into_inner().pools.len(), 1);
    assert_eq!(world.fleet.list_classes(v1::ListClassesRequest::default()).await.unwrap().into_inner().classes.len(), 1);
    let policy = world.fleet.get_policy(v1::GetPolicyRequest::default()).await.unwrap().into_inner().policy.unwrap();
    assert_ne!(policy.spec.unwrap().max_pending, Some(1));
    let wrong = v1::PutPoolRequest { dry_run: true, expected_revision: Some(v1::Revision::default()), ..put_pool("home") };
    assert_eq!(reason(&world.fleet.put_pool(wrong).await.unwrap_err()).1, "REVISION_CONFLICT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_refuse_with_their_numbers() {
    let mut world = World::with_clusters(1, 1).await;
    let quota = v1::Quota { tenants: Some(1), ..Default::default() };
    let spec = v1::PolicySpec { quotas: [("acme".to_owned(), quota)].into(), ..Default::default() };
    let policy = Some(v1::Policy { spec: Some(spec), revision: None });
    world.fleet.put_policy(v1::PutPolicyRequest { policy, ..Default::default() }).await.unwrap();
    world.place("anvils", "acme").await;
    let status = world.placement.place_tenant(crate::world::place("hammers", "acme")).await.unwrap_err();
    let (code, why, details) = reason(&status);
    assert_eq!((code, why.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!((metadata["limit"].as_str(), metadata["wanted"].as_str()), ("1", "2"));
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "owner:acme");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_members_and_counts() {
    let mut world = World::with_clusters(3, 2).await;
    world.place("anvils", "acme").await;
    let status = world.admin.get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.members.iter().filter(|member| member.leader).count(), 1);
    assert!(status.members.iter().all(|member| member.voter));
    assert_eq!((status.tenants, status.clusters, status.pending), (1, 2, 0));
    let status = world.admin.remove_member(v1::RemoveMemberRequest { id: "nobody".into() }).await.unwrap_err();
    assert_eq!(fields(&status), ["id"]);

    let before = world.group.leader().await;
    let answer = world.admin.transfer_leadership(v1::TransferLeadershipRequest::default()).await.unwrap().into_inner();
    let after = world.group.leader().await;
    assert_ne!(before, after);
    assert_eq!(answer.leader_id, world.group.seats[after].server().id().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restores_as_a_new_incarnation_that_waits_for_agents() {
    let mut world = World::with_clusters(1, 1).await;
    world.place("kept", "acme").await;
    let mut stream = world.admin.backup(v1::BackupRequest::default()).await.unwrap().into_inner();
    let (mut chunks, mut revision) = (Vec::new(), None);
    while let Some(message) = stream.message().await.unwrap() {
        revision = revision.or(message.revision);
        chunks.push(message.chunk);
    }
    world.place("lost", "acme").await;
    let mut watch = world.placement.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let seen = crate::world::next(&mut watch).await.revision.unwrap();

    let unsure = stream::iter([v1::RestoreRequest { chunk: chunks[0].clone(), i_know: false }]);
    assert_eq!(fields(&world.admin.restore(unsure).await.unwrap_err()), ["i_know"]);
    let cut = stream::iter([v1::RestoreRequest { chunk: chunks[0].slice(..20), i_know: true }]);
    assert_eq!(reason(&world.admin.restore(cut).await.unwrap_err()).1, "BAD_BACKUP");
    let whole: Vec<_> = chunks.into_iter().map(|chunk| v1::RestoreRequest { chunk, i_know: true }).collect();
    let restored = world.admin.restore(stream::iter(whole)).await.unwrap().into_inner();
    assert_eq!((restored.tenants, restored.revision.unwrap().incarnation), (1, seen.incarnation + 1));

    let ended = tokio::time::timeout(crate::world::A_WHILE, async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(reason(&ended.await.expect("an old watch ends")).1, "COMPACTED");
    let get = |name: &str| v1::GetTenantRequest { name: name.into(), ..Default::default() };
    world.placement.get_tenant(get("kept")).await.unwrap();
    assert_eq!(world.placement.get_tenant(get("lost")).await.unwrap_err().code(), Code::NotFound);

    let status = world.placement.place_tenant(crate::world::place("new", "acme")).await.unwrap_err();
    let (code, why, details) = reason(&status);
    assert_eq!((code, why.as_str()), (Code::Unavailable, "FENCED"));
    assert!(details.retry_info().is_some());
    let status = world.admin.get_status(v1::GetStatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.fenced_clusters, ["c0"]);
    world.admin.waive_fence(v1::WaiveFenceRequest::default()).await.unwrap();
    world.place("new", "acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_of_which_nothing_could_be_rendered_is_refused_by_field() {
    let mut world = World::with_clusters(1, 0).await;
    let with = |version: &str, template: &str| {
        let mut request = put_class("shop", version);
        let class = request.class.as_mut().unwrap();
        class.template_json = template.into();
        (class.values_schema_json, request.dry_run) = (String::new(), false);
        request
    };
    let manifest =
        |text: &str| serde_json::json!({ "podSecurity": "privileged", "manifests": [{ "file": "web.yaml", "content": text }] }).to_string();
    let deployment = |claim: &str| {
        let pod = "{containers: [{name: web, image: web, resources: {requests: {cpu: 100m, memory: 100Mi}}}]}";
        manifest(&format!(
            "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: web}}, spec: {{replicas: 1, serviceName: {claim}, \
             selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {pod}}}}}}}"
        ))
    };
    for (what, template) in [
        ("an unknown field", r#"{"no": 1}"#.to_owned()),
        ("an unfinished expression", manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: web}, data: {a: \"{{ values.\"}}")),
        ("a value that is not there", manifest("{apiVersion: v1, kind: ConfigMap, metadata: {name: web}, data: {a: \"{{ values.no }}\"}}")),
        ("a kind beyond the namespace", manifest("{apiVersion: v1, kind: Namespace, metadata: {name: other}}")),
    ] {
        let refused = world.fleet.put_class(with("2.0.0", &template)).await.expect_err(what);
        assert_eq!(fields(&refused), ["class.template_json"], "{what}: {refused:?}");
        assert!(refused.message().contains("spec.") || format!("{refused:?}").contains("spec."), "{what}: {refused:?}");
        let dry = v1::PutClassRequest { dry_run: true, ..with("2.0.0", &template) };
        assert_eq!(fields(&world.fleet.put_class(dry).await.expect_err(what)), ["class.template_json"], "{what}, only checked");
    }
    world.fleet.put_class(with("2.0.0", &deployment("web"))).await.unwrap();
    let refused = world.fleet.put_class(with("3.0.0", &deployment("other"))).await.unwrap_err();
    assert_eq!(fields(&refused), ["class.template_json"], "tenants of the version before could never be given this one: {refused:?}");
    world.fleet.put_class(with("2.0.0", &deployment("web"))).await.unwrap();
}
