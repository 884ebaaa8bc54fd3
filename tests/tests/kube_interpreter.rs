//! The Kubernetes interpreter against real API servers: what it makes, what it leaves alone, and what it says when it cannot go on.

#[path = "kube/faults.rs"]
#[allow(dead_code)] // it is shared
mod faults;
#[path = "kube/world.rs"]
#[allow(dead_code)] // it is shared
mod world;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use roadstead_agent::interpreter::{Failed, Interpreter};
use roadstead_agent::kube::Drift;
use roadstead_api::v1::ObjectDiff;
use roadstead_api::v1::object_diff::Change;
use roadstead_class::{Ceded, Observe, StopStep};
use roadstead_core::intent::Role;
use roadstead_core::reconcile::{Action, Condition, Home, Part, PartSeen};
use roadstead_tests::testbed::{Kwok, NodeShape, Options};
use serde_json::json;
use world::{Given, SOON, World, deployment, job, manifest, tenant};

#[tokio::test]
async fn a_tenant_comes_up_and_costs_nothing_until_something_changes() -> Result<()> {
    let world = World::start(Options { scheduler: true, ..Options::default() }).await?;
    let kwok = Kwok::start(world.plane()).await?;
    kwok.add_nodes("node", 1, &NodeShape::of(8, 32)).await?;
    let namespace = "acme";
    let mut job = tenant(1, namespace, Role::Run);
    world.settles(&job, &Condition::Running).await?;

    // In step: nothing is asked, nothing is written, with what was found out and without.
    let before = world.requests();
    for _ in 0..3 {
        assert_eq!(world.step(&job).await?, Condition::Running);
        world.kube.forget_comparisons();
    }
    assert_eq!(world.requests(), before);

    // What somebody changes by hand comes back: an edit, a deletion, a label, an object that is deleted with its label gone.
    let client = world.client();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    deployments.patch("web", &by_hand, &Patch::Merge(json!({"spec": {"replicas": 3}}))).await?;
    world
        .comes("the replicas come back", &job, || async {
            Ok(deployments.get("web").await?.spec.context("it has a spec")?.replicas == Some(2))
        })
        .await?;
    deployments.delete("web", &DeleteParams::default()).await?;
    world.comes("the Deployment comes back", &job, || async { Ok(deployments.get_opt("web").await?.is_some()) }).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    maps.patch("settings", &by_hand, &Patch::Merge(json!({"metadata": {"labels": {"roadstead.dev/tenant": null}}}))).await?;
    world
        .comes("the label comes back", &job, || async {
            Ok(maps.get("settings").await?.metadata.labels.unwrap_or_default().contains_key("roadstead.dev/tenant"))
        })
        .await?;
    // The namespace's own label: what is in it says whose it is.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let unlabelled = json!({"metadata": {"labels": {"roadstead.dev/tenant": null, "pod-security.kubernetes.io/enforce": null}}});
    namespaces.patch(namespace, &by_hand, &Patch::Merge(unlabelled)).await?;
    world
        .comes("the namespace's labels come back", &job, || async {
            let labels = namespaces.get(namespace).await?.metadata.labels.unwrap_or_default();
            Ok(labels.get("roadstead.dev/tenant").map(String::as_str) == Some("0000000000000001")
                && labels.contains_key("pod-security.kubernetes.io/enforce"))
        })
        .await?;
    // A copied secret follows its template, and pods that use it are restarted.
    let annotation = || async {
        let template = deployments.get("web").await?.spec.context("it has a spec")?.template;
        Ok::<_, anyhow::Error>(
            template.metadata.and_then(|meta| meta.annotations).unwrap_or_default().get("roadstead.dev/secrets").cloned(),
        )
    };
    world.settles(&job, &Condition::Running).await?;
    let first = annotation().await?.context("a Deployment that uses a secret is marked with it")?;
    let templates: Api<Secret> = Api::namespaced(client.clone(), "templates");
    templates.patch("shared-smtp", &by_hand, &Patch::Merge(json!({"stringData": {"password": "new"}}))).await?;
    world.comes("the Deployment is marked anew", &job, || async { Ok(annotation().await?.is_some_and(|now| now != first)) }).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    assert_eq!(secrets.get("smtp").await?.data.unwrap_or_default()["password"].0, b"new");
    world.settles(&job, &Condition::Running).await?;

    // What is no longer rendered goes when what is new is ready; what others made in the namespace stays.
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "labels": {"roadstead.dev/tenant": "0000000000000001"}}});
    maps.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").retain(|manifest| manifest.id.name != "settings");
    });
    world.comes("the ConfigMap is pruned", &job, || async { Ok(maps.get_opt("settings").await?.is_none()) }).await?;
    world.settles(&job, &Condition::Running).await?;
    assert!(maps.get_opt("theirs").await?.is_some());

    // Stopped: in order, to the last pod; and up again with what was left to others as the class has it.
    job.intent.role = Role::Stopped;
    world.settles(&job, &Condition::Stopped).await?;
    assert_eq!(deployments.get("web").await?.spec.context("it has a spec")?.replicas, Some(0));
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), namespace);
    assert!(pods.list(&ListParams::default()).await?.items.is_empty());
    let before = world.requests();
    assert_eq!(world.step(&job).await?, Condition::Stopped);
    assert_eq!(world.requests(), before);
    job.intent.role = Role::Run;
    world.settles(&job, &Condition::Running).await?;
    assert_eq!(deployments.get("web").await?.spec.context("it has a spec")?.replicas, Some(2));

    // Another agent, started anew, finds all in step without a write.
    let other = world.another().await?;
    other.settles(&job, &Condition::Running).await?;
    assert_eq!(other.writes(), 0);

    // An older epoch does nothing any more, a newer one takes over; then it is gone.
    job.intent.epoch.index += 1;
    world.settles(&job, &Condition::Running).await?;
    let mut old = job.clone();
    old.intent.epoch.index -= 1;
    old.intent.role = Role::Absent;
    assert!(matches!(world.step(&old).await?, Condition::Blocked(why) if why.contains("newer")));
    assert!(matches!(world.kube.act(&old, &Action::Delete).await, Err(Failed::Refused(why)) if why.contains("is not that of tenant")));
    job.intent.role = Role::Absent;
    world.settles(&job, &Condition::Absent).await?;
    assert!(namespaces.get_opt(namespace).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_plain_words() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let client = world.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());

    // A namespace of somebody else.
    let foreign = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "foreign"}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(foreign)?).await?;
    let job = tenant(2, "foreign", Role::Run);
    world.says(&job, "the name is taken by a namespace that is no tenant's").await?;
    assert!(matches!(world.kube.act(&job, &Action::Claim).await, Err(Failed::Refused(why)) if why.contains("no tenant's")));

    // A kind that the cluster does not serve.
    let mut job = tenant(3, "widgets", Role::Run);
    world.change(&mut job, |rendered| {
        let widget = manifest("widgets", 3, "example.com/v1", "Widget", "w", json!({"spec": {"size": 1}}));
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").push(widget);
    });
    world.says(&job, "the cluster serves no Widget (example.com/v1); its CRD is missing or broken").await?;

    // A quota that does not allow the pods: of a Deployment by its condition, of a StatefulSet by its events.
    let mut job = tenant(4, "quota", Role::Run);
    world.change(&mut job, |rendered| {
        let quota = &mut rendered.parts.get_mut(&Part::Bounds).expect("there are bounds")[0];
        quota.body["spec"]["hard"]["pods"] = json!("0");
        rendered.parts.insert(Part::Workloads, vec![deployment("quota", 4)]);
    });
    world.says(&job, "Deployment/web: 0 of 2 pods are ready: pods ").await?;
    world.says(&job, "exceeded quota: bounds").await?;
    world.change(&mut job, |rendered| {
        let set = json!({"spec": {"serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": "db:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}}]}}}});
        rendered.parts.insert(Part::Workloads, vec![manifest("quota", 4, "apps/v1", "StatefulSet", "db", set)]);
    });
    world.says(&job, "StatefulSet/db: 0 of 1 pods are ready; create Pod db-0").await?;

    // A field that cannot change.
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), "quota");
    sets.get("db").await?;
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads")[0].body["spec"]["serviceName"] = json!("other");
    });
    world.fails(&job, "StatefulSet/db cannot be changed as the class wants: a StatefulSet can only change").await?;

    // A field of somebody else's: told with who and which, and left alone; ceded, it is no trouble.
    let mut job = tenant(5, "fields", Role::Run);
    world.change(&mut job, |rendered| drop(rendered.parts.insert(Part::Workloads, vec![deployment("fields", 5)])));
    world.says(&job, "Deployment/web: 0 of 2 pods are ready").await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "fields");
    let scaler = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    deployments.patch("web", &PatchParams::apply("scaler").force(), &Patch::Apply(scaler)).await?;
    world.fails(&job, "Deployment/web: spec.replicas is owned by `scaler`; cede the field in the class").await?;
    world.change(&mut job, |rendered| {
        rendered.ceded = vec![Ceded { object: "Deployment/web".to_owned(), path: vec!["spec".to_owned(), "replicas".to_owned()] }];
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads")[0].body["spec"]["minReadySeconds"] = json!(1);
    });
    world.says(&job, "Deployment/web: 0 of 4 pods are ready").await?;
    let spec = deployments.get("web").await?.spec.context("it has a spec")?;
    assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(4), Some(1)));

    // A field that the API does not know.
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads")[0].body["spec"]["replcas"] = json!(1)
    });
    world.fails(&job, "Deployment/web: the API server does not take it").await?;

    // Admission.
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "no-settings"},
        "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "object.metadata.name != 'settings'", "message": "settings are not welcome"}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "no-settings"},
        "spec": {"policyName": "no-settings", "validationActions": ["Deny"]}});
    world.create("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", &policy).await?;
    world.create("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", &binding).await?;
    let probe: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let refused = json!({"metadata": {"name": "settings"}});
    roadstead_tests::process::until("the policy is in force", SOON, || async {
        let made = probe.create(&PostParams { dry_run: true, ..PostParams::default() }, &serde_json::from_value(refused.clone())?).await;
        ensure!(made.is_err(), "it is not");
        Ok(())
    })
    .await?;
    let job = tenant(6, "policy", Role::Run);
    let refused = "ConfigMap/settings: admission refused it: configmaps \"settings\" is forbidden: \
                   ValidatingAdmissionPolicy 'no-settings' with binding 'no-settings' denied request: settings are not welcome";
    world.fails(&job, refused).await?;

    // A namespace that does not end: nothing is made in it, and no finalizer is taken away.
    let mut job = tenant(7, "stuck", Role::Run);
    world.change(&mut job, |rendered| drop(rendered.parts.insert(Part::Workloads, vec![deployment("stuck", 7)])));
    world.says(&job, "Deployment/web: 0 of 2 pods are ready").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "stuck");
    let kept = json!({"metadata": {"name": "kept", "finalizers": ["example.com/keep"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(kept)?).await?;
    namespaces.delete("stuck", &DeleteParams::default()).await?;
    world.says(&job, "its namespace is being deleted, and nothing can be made in it").await?;
    // What holds it is told, also of one that is to go.
    world.says(&job, "nothing can be made in it: ").await?;
    world.says(&job, "example.com/keep in 1 resource instances").await?;
    job.intent.role = Role::Absent;
    world.says(&job, "example.com/keep in 1 resource instances").await?;
    assert!(maps.get_opt("kept").await?.is_some());
    maps.patch("kept", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    Ok(())
}

#[tokio::test]
async fn a_field_is_compared_as_the_api_server_keeps_it() -> Result<()> {
    let world = World::start(Options { controllers: false, ..Options::default() }).await?;
    let mut odd = tenant(9, "odd", Role::Run);
    let container = |order: [&str; 2]| {
        json!({"name": "web", "image": "shop:1", "command": ["web"], "args": [],
            "ports": [{"containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"}],
            "env": [{"name": order[0], "value": ""}, {"name": order[1], "value": "1"}, {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}}],
            "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"memory": "1.5Gi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "dns", "httpHeaders": []}, "initialDelaySeconds": 0},
            "securityContext": {"privileged": false, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp", "readOnly": false}]})
    };
    let spec = |order: [&str; 2]| {
        json!({"spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}, "annotations": {}}, "spec": {
                "hostNetwork": false, "nodeSelector": {}, "tolerations": [{"key": "a", "operator": "Exists"}], "terminationGracePeriodSeconds": 0,
                "initContainers": [{"name": order[0].to_lowercase(), "image": "i:1"}, {"name": order[1].to_lowercase(), "image": "i:1"}],
                "containers": [container(order)],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}],
                "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1024Mi"}}, {"name": "more", "configMap": {"name": "settings", "optional": false}}]}}}})
    };
    let all = |order: [&str; 2]| {
        vec![
            manifest("odd", 9, "apps/v1", "Deployment", "web", spec(order)),
            manifest(
                "odd",
                9,
                "v1",
                "Service",
                "web",
                json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}),
            ),
            manifest(
                "odd",
                9,
                "networking.k8s.io/v1",
                "NetworkPolicy",
                "deny",
                json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "egress": [{"ports": [{"port": 53}], "to": [{"namespaceSelector": {}}]}]}}),
            ),
            manifest(
                "odd",
                9,
                "v1",
                "LimitRange",
                "limits",
                json!({"spec": {"limits": [{"type": "Container", "default": {"memory": "1024Mi"}, "max": {"cpu": "2000m"}}]}}),
            ),
            manifest(
                "odd",
                9,
                "batch/v1",
                "CronJob",
                "night",
                json!({"spec": {"schedule": "0 3 * * *", "suspend": false, "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "n", "image": "n:1"}]}}}}}}),
            ),
            manifest(
                "odd",
                9,
                "rbac.authorization.k8s.io/v1",
                "Role",
                "r",
                json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
            ),
            manifest(
                "odd",
                9,
                "policy/v1",
                "PodDisruptionBudget",
                "web",
                json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
            ),
            manifest(
                "odd",
                9,
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                "web",
                json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1000m"}}}]}}),
            ),
            manifest(
                "odd",
                9,
                "networking.k8s.io/v1",
                "Ingress",
                "odd",
                json!({"spec": {"ingressClassName": "x", "rules": [{"host": "a.example", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}),
            ),
        ]
    };
    for order in [["A", "B"], ["B", "A"]] {
        world.change(&mut odd, |rendered| drop(rendered.parts.insert(Part::Workloads, all(order))));
        // Nobody looks at the Deployment here: it is as rendered, and waits.
        world.says(&odd, "Deployment/web: has not been looked at by its controller yet").await?;
        let before = world.requests();
        world.kube.forget_comparisons();
        let seen = world.kube.seen(&odd)?;
        assert!(matches!(&seen.parts[&Part::Workloads], PartSeen::Waits(_)), "{order:?}: {:?}", seen.parts);
        assert_eq!(world.requests(), before);
    }
    assert_eq!(world.kube.seen(&odd)?.home, Home::Ours(odd.intent.epoch));
    Ok(())
}

#[tokio::test]
async fn a_tenant_is_stopped_in_the_order_of_its_class() -> Result<()> {
    let world = World::start(Options { scheduler: true, ..Options::default() }).await?;
    let kwok = Kwok::start(world.plane()).await?;
    kwok.add_nodes("node", 1, &NodeShape::of(8, 32)).await?;
    let mut ordered = tenant(10, "ordered", Role::Run);
    world.change(&mut ordered, |rendered| {
        let mut db = deployment("ordered", 10);
        db.id.name = "db".to_owned();
        db.body["metadata"]["name"] = json!("db");
        // The class says nothing of replicas: one.
        db.body["spec"].as_object_mut().expect("it has a spec").remove("replicas");
        let job = job("ordered", 10, "migrate");
        rendered.parts.insert(Part::Workloads, vec![deployment("ordered", 10), db, job]);
        rendered.stop = vec![StopStep::Scale("Deployment/web".to_owned()), StopStep::Scale("Deployment/db".to_owned())];
        rendered.also = vec![Observe { object: "Job/migrate".to_owned(), condition: "Complete".to_owned() }];
    });
    world.says(&ordered, "Job/migrate is not Complete yet").await?;
    world.settles(&ordered, &Condition::Running).await?;
    ordered.intent.role = Role::Stopped;
    let deployments: Api<Deployment> = Api::namespaced(world.client(), "ordered");
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(world.client(), "ordered");
    world
        .comes("the database is stopped", &ordered, || async {
            let stopped = deployments.get("db").await?.spec.context("it has a spec")?.replicas == Some(0);
            let web = pods.list(&ListParams::default().labels("app=web")).await?.items;
            let web = web.iter().filter(|pod| pod.metadata.name.as_deref().unwrap_or_default().starts_with("web")).count();
            ensure!(!stopped || web == 0, "the database is stopped while {web} pods of what uses it are there");
            Ok(stopped)
        })
        .await?;
    world.settles(&ordered, &Condition::Stopped).await?;
    ordered.intent.role = Role::Run;
    world.settles(&ordered, &Condition::Running).await?;
    let replicas = |deployment: Deployment| deployment.spec.and_then(|spec| spec.replicas);
    assert_eq!((replicas(deployments.get("web").await?), replicas(deployments.get("db").await?)), (Some(2), Some(1)));
    Ok(())
}

#[tokio::test]
async fn kinds_of_classes_that_come_later_are_watched_or_it_is_said_which_right_is_missing() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let group = |name: &str| json!({"apiGroups": [name], "resources": ["*"], "verbs": ["*"]});
    let groups = ["", "apps", "batch", "autoscaling", "networking.k8s.io", "policy", "storage.k8s.io"].map(group);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "usual"}, "rules": groups});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "usual"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "usual"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "usual"}]});
    world.create("rbac.authorization.k8s.io", "v1", "ClusterRole", &role).await?;
    world.create("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", &binding).await?;
    let usual = world.another_with(&Given { user: Some("usual".to_owned()), ..Given::default() }).await?;
    let plain = |id, namespace| {
        let mut job = tenant(id, namespace, Role::Run);
        world.change(&mut job, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
        job
    };
    let mut other = plain(40, "plain");
    roadstead_tests::process::until("it has the rights", SOON, || async { usual.kube.seen(&other).map(drop).map_err(Into::into) }).await?;
    usual.settles(&other, &Condition::Running).await?;

    // A class that comes later brings a kind that was not there when the agent began.
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Gadget", "plural": "gadgets"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    world.create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &definition).await?;
    let mut job = plain(41, "gadgets");
    world.change(&mut job, |rendered| {
        let gadget = manifest("gadgets", 41, "example.com/v1", "Gadget", "g", json!({"spec": {"size": 1}}));
        rendered.parts.insert(Part::Workloads, vec![gadget]);
    });
    usual.says(&job, "Gadget objects: the agent has not the right to do this (`roadstead join` again with all classes)").await?;
    usual.says(&job, "cannot list resource \"gadgets\" in API group \"example.com\"").await?;
    // Nobody else is kept from anything by that.
    other.intent.role = Role::Stopped;
    usual.settles(&other, &Condition::Stopped).await?;
    other.intent.role = Role::Absent;
    usual.settles(&other, &Condition::Absent).await?;

    // With the right it goes on, without a restart; and sees what becomes of its objects.
    let rules: Vec<_> = groups.iter().cloned().chain([group("example.com")]).collect();
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(world.client());
    roles.patch("usual", &PatchParams::default(), &Patch::Merge(json!({"rules": rules}))).await?;
    usual.settles(&job, &Condition::Running).await?;
    let (resource, _) = kube::discovery::pinned_kind(&world.client(), &GroupVersionKind::gvk("example.com", "v1", "Gadget")).await?;
    let gadgets: Api<DynamicObject> = Api::namespaced_with(world.client(), "gadgets", &resource);
    gadgets.delete("g", &DeleteParams::default()).await?;
    usual.comes("it is put right", &job, || async { Ok(gadgets.get_opt("g").await?.is_some()) }).await?;
    // An agent that begins anew finds kinds in what was made before, also when no class brings them any more, and takes them away.
    world.change(&mut job, |rendered| drop(rendered.parts.remove(&Part::Workloads)));
    let anew = world.another().await?;
    anew.comes("it is pruned", &job, || async { Ok(gadgets.get_opt("g").await?.is_none()) }).await?;
    Ok(())
}

#[tokio::test]
async fn where_damage_is_only_told_nothing_is_put_right_until_something_else_is_wanted() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let mut job = tenant(60, "told", Role::Run);
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads").retain(|manifest| manifest.id.kind != "Deployment");
    });
    // Made by an agent that would put it right; it is found in step, and that is noted.
    world.settles(&job, &Condition::Running).await?;
    let reports = world.another_with(&Given { drift: Drift::Report, ..Given::default() }).await?;
    reports.settles(&job, &Condition::Running).await?;
    let (requests, writes) = (reports.requests(), reports.writes());
    reports.kube.forget_comparisons();
    reports.settles(&job, &Condition::Running).await?;
    assert_eq!(reports.requests(), requests, "in step it asks nobody");

    let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    let left = |what: &str| format!("changed by hand, and left as it is (--on-drift report): {what}");
    let client = world.client();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "told");
    let quotas: Api<k8s_openapi::api::core::v1::ResourceQuota> = Api::namespaced(client.clone(), "told");
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client.clone(), "told");
    let routes: Api<k8s_openapi::api::networking::v1::Ingress> = Api::namespaced(client.clone(), "told");
    routes.delete("web", &DeleteParams::default()).await?;
    reports.says(&job, &left("Ingress/web is not there")).await?;
    services.delete("web", &DeleteParams::default()).await?;
    reports.says(&job, &left("Service/web is not there")).await?;
    maps.patch("settings", &by_hand, &Patch::Merge(json!({"data": {"requests": "9"}}))).await?;
    reports.says(&job, &left("ConfigMap/settings: data")).await?;
    quotas.patch("bounds", &by_hand, &Patch::Merge(json!({"spec": {"hard": {"pods": "99"}}}))).await?;
    reports.says(&job, &left("ResourceQuota/bounds: spec.hard.pods")).await?;
    // Also by an agent that begins anew.
    let anew = world.another_with(&Given { drift: Drift::Report, ..Given::default() }).await?;
    anew.says(&job, &left("ResourceQuota/bounds: spec.hard.pods")).await?;
    assert_eq!((reports.writes(), anew.writes()), (writes, 0));
    assert!(services.get_opt("web").await?.is_none() && routes.get_opt("web").await?.is_none());
    assert_eq!(maps.get("settings").await?.data.unwrap_or_default()["requests"], "9");

    // Who puts it right does so; and what is stopped and woken is no damage.
    world.settles(&job, &Condition::Running).await?;
    assert_eq!(maps.get("settings").await?.data.unwrap_or_default()["requests"], "1000m");
    reports.settles(&job, &Condition::Running).await?;
    job.intent.role = Role::Stopped;
    reports.settles(&job, &Condition::Stopped).await?;
    job.intent.role = Role::Run;
    reports.settles(&job, &Condition::Running).await?;
    // Something else is wanted: that is made, over whatever is there.
    services.delete("web", &DeleteParams::default()).await?;
    reports.says(&job, &left("Service/web is not there")).await?;
    world.change(&mut job, |rendered| {
        rendered.parts.get_mut(&Part::Workloads).expect("there are workloads")[0].body["data"]["requests"] = json!("2");
    });
    reports.settles(&job, &Condition::Running).await?;
    services.get("web").await?;
    Ok(())
}

#[tokio::test]
async fn what_would_change_is_tried_by_the_api_server_and_nothing_is_written() -> Result<()> {
    let world = World::start(Options { scheduler: true, ..Options::default() }).await?;
    let kwok = Kwok::start(world.plane()).await?;
    kwok.add_nodes("node", 1, &NodeShape::of(8, 32)).await?;
    let namespace = "acme";
    let mut job = tenant(1, namespace, Role::Run);
    let changes = |diffs: &[ObjectDiff]| diffs.iter().map(|diff| (diff.object.clone(), diff.change())).collect::<Vec<_>>();
    let first = world.kube.diff(&job).await?;
    assert!(!first.is_empty() && first.iter().all(|diff| diff.change() == Change::Created && diff.before.is_empty()), "{first:?}");
    let namespaces: Api<Namespace> = Api::all(world.client());
    assert!(namespaces.get_opt(namespace).await?.is_none(), "nothing was made");

    world.settles(&job, &Condition::Running).await?;
    let in_step = world.kube.diff(&job).await?;
    assert!(in_step.is_empty(), "{in_step:?}");

    let secrets: Api<Secret> = Api::namespaced(world.client(), namespace);
    let data: Vec<String> = secrets
        .list(&ListParams::default())
        .await?
        .items
        .into_iter()
        .flat_map(|secret| secret.data.unwrap_or_default())
        .filter_map(|(_, value)| String::from_utf8(value.0).ok())
        .collect();
    assert!(!data.is_empty());
    let deployments: Api<Deployment> = Api::namespaced(world.client(), namespace);
    let before = deployments.get("web").await?;
    world.change(&mut job, |rendered| {
        let workloads = rendered.parts.get_mut(&Part::Workloads).expect("there are workloads");
        workloads.retain(|manifest| manifest.id.name != "settings");
        let web = workloads.iter_mut().find(|manifest| manifest.id.to_string() == "Deployment/web").expect("it is rendered");
        web.body["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:other");
    });
    let diffs = world.kube.diff(&job).await?;
    assert_eq!(
        changes(&diffs),
        [("Deployment/web".to_owned(), Change::Changed), ("ConfigMap/settings".to_owned(), Change::Deleted)],
        "{diffs:?}"
    );
    assert!(diffs[0].after.contains("web:other") && !diffs[0].before.contains("web:other"), "{diffs:?}");
    assert!(diffs[0].after.contains("terminationGracePeriodSeconds"), "what the API server fills in is in the answer: {diffs:?}");
    assert!(diffs[0].after.lines().count() < 200 && !diffs[0].after.contains("managedFields"));
    let told = format!("{diffs:?}{first:?}");
    assert!(data.iter().all(|value| !told.contains(value.as_str())), "no secret's data is told");
    let after = deployments.get("web").await?;
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "nothing was written");

    // What the API server refuses is told with its words.
    world.change(&mut job, |rendered| {
        let workloads = rendered.parts.get_mut(&Part::Workloads).expect("there are workloads");
        let web = workloads.iter_mut().find(|manifest| manifest.id.to_string() == "Deployment/web").expect("it is rendered");
        web.body["spec"]["selector"]["matchLabels"]["app"] = json!("another");
    });
    let diffs = world.kube.diff(&job).await?;
    let web = diffs.iter().find(|diff| diff.object == "Deployment/web").context("it is told")?;
    assert_eq!(web.change(), Change::Refused);
    assert!(web.note.contains("selector"), "{web:?}");
    Ok(())
}
