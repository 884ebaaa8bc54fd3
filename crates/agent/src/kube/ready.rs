//! Whether an object is ready, and whether it is at rest, from the object alone: the rules of kstatus, less what is known to be wrong in
//! them. A Job that runs is ready, and so is a claim that waits for its first consumer; a Service and an Ingress are at once.

use serde_json::Value;

/// What an object that is not ready waits for, in plain words without its name.
pub(super) fn waits(kind: &str, live: &Value) -> Option<String> {
    if !live["metadata"]["deletionTimestamp"].is_null() {
        return Some("is being deleted".to_owned());
    }
    match kind {
        "Deployment" => behind(live).or_else(|| deployment(live)),
        "StatefulSet" => behind(live).or_else(|| stateful_set(live)),
        "DaemonSet" => behind(live).or_else(|| daemon_set(live)),
        "Job" => condition(live, "Failed", "True").map(|why| format!("has failed: {why}")),
        "Pod"
        | "PersistentVolumeClaim"
        | "Service"
        | "Ingress"
        | "ConfigMap"
        | "Secret"
        | "CronJob"
        | "ResourceQuota"
        | "LimitRange"
        | "NetworkPolicy"
        | "ServiceAccount"
        | "Role"
        | "RoleBinding"
        | "HorizontalPodAutoscaler"
        | "PodDisruptionBudget" => None,
        "HTTPRoute" => route(live),
        // Kinds of others: what their conditions say, where they have any.
        _ => behind(live).or_else(|| condition(live, "Ready", "False").map(|why| format!("is not ready: {why}"))),
    }
}

/// Types of the conditions that are true.
pub(super) fn true_conditions(live: &Value) -> Box<[Box<str>]> {
    let conditions = live["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let holds = conditions.iter().filter(|condition| condition["status"] == "True");
    holds.filter_map(|condition| condition["type"].as_str().map(Box::from)).collect()
}

/// Whether nothing can start because of an object: controllers at zero as their controller has seen it, what starts by the clock suspended.
pub(super) fn at_rest(kind: &str, live: &Value) -> bool {
    match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" => {
            number(&live["spec"]["replicas"], 1) == 0 && number(&live["status"]["replicas"], 0) == 0 && behind(live).is_none()
        }
        "CronJob" => live["spec"]["suspend"] == true && live["status"]["active"].as_array().is_none_or(Vec::is_empty),
        "Job" => {
            let ended = ["Complete", "Failed"].iter().any(|kind| condition(live, kind, "True").is_some());
            ended || (live["spec"]["suspend"] == true && number(&live["status"]["active"], 0) == 0)
        }
        // They scale what is at rest up again, and run on every node; they are deleted.
        "HorizontalPodAutoscaler" | "DaemonSet" => false,
        _ => true,
    }
}

fn number(value: &Value, otherwise: i64) -> i64 {
    value.as_i64().unwrap_or(otherwise)
}

/// Set while its controller has not looked at the newest version.
fn behind(live: &Value) -> Option<String> {
    let generation = number(&live["metadata"]["generation"], 0);
    let observed = live["status"]["observedGeneration"].as_i64();
    // Kinds without the field have nothing to say; a workload that nobody has looked at yet has no status at all.
    let known = observed.is_some() || live["status"].as_object().is_none_or(serde_json::Map::is_empty);
    let late = observed.unwrap_or(0) < generation;
    (known && late && has_controller(live)).then(|| "has not been looked at by its controller yet".to_owned())
}

/// A kind whose status is empty for good is not waited for: only workloads are sure to get one.
fn has_controller(live: &Value) -> bool {
    live["status"]["observedGeneration"].is_i64() || !live["spec"]["template"].is_null()
}

/// What a condition of this type and status says.
fn condition(live: &Value, kind: &str, status: &str) -> Option<String> {
    let conditions = live["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == status)?;
    let text = |field: &str| found[field].as_str().filter(|text| !text.is_empty());
    Some(text("message").or_else(|| text("reason")).unwrap_or("no reason is given").to_owned())
}

fn deployment(live: &Value) -> Option<String> {
    let wanted = number(&live["spec"]["replicas"], 1);
    let status = &live["status"];
    let (updated, available) = (number(&status["updatedReplicas"], 0), number(&status["availableReplicas"], 0));
    if updated >= wanted && available >= wanted {
        // Those that are available may be the old ones: where there is one pod, its controller keeps it until the new one is ready.
        let old = number(&status["replicas"], 0).saturating_sub(updated);
        return (old > 0).then(|| format!("pods of the old version that are still there: {old}"));
    }
    let refused = condition(live, "ReplicaFailure", "True").map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("{} of {wanted} pods are ready{refused}", updated.min(available)))
}

fn stateful_set(live: &Value) -> Option<String> {
    let wanted = number(&live["spec"]["replicas"], 1);
    let status = &live["status"];
    let ready = number(&status["availableReplicas"], number(&status["readyReplicas"], 0));
    if ready < wanted {
        return Some(format!("{ready} of {wanted} pods are ready"));
    }
    let strategy = &live["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return None;
    }
    let to_update = wanted - number(&strategy["rollingUpdate"]["partition"], 0).min(wanted);
    let done = status["currentRevision"] == status["updateRevision"];
    let updated = if done { wanted } else { number(&status["updatedReplicas"], 0) };
    (updated < to_update).then(|| format!("{updated} of {to_update} pods are of the new version"))
}

fn daemon_set(live: &Value) -> Option<String> {
    let status = &live["status"];
    let wanted = number(&status["desiredNumberScheduled"], 0);
    let ready = number(&status["updatedNumberScheduled"], 0).min(number(&status["numberAvailable"], 0));
    (ready < wanted).then(|| format!("{ready} of {wanted} pods are ready"))
}

/// A route that its gateway has refused; one that no gateway has looked at is as good as a Service.
fn route(live: &Value) -> Option<String> {
    let parents = live["status"]["parents"].as_array()?;
    parents.iter().find_map(|parent| {
        let refused = condition(&serde_json::json!({ "status": parent }), "Accepted", "False")?;
        Some(format!("was refused by its gateway: {refused}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: Value, status: Value) -> Value {
        json!({"metadata": {"generation": 2}, "spec": {"replicas": spec, "template": {}}, "status": status})
    }

    #[test]
    fn a_deployment_is_ready_when_its_newest_version_is_available() {
        let waits = |status| waits("Deployment", &super::tests::deployment(json!(2), status));
        assert_eq!(waits(json!({})).as_deref(), Some("has not been looked at by its controller yet"));
        let stale = json!({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2});
        assert_eq!(waits(stale).as_deref(), Some("has not been looked at by its controller yet"));
        let old_pods = json!({"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2});
        assert_eq!(waits(old_pods).as_deref(), Some("1 of 2 pods are ready"));
        let surge = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2});
        assert_eq!(waits(surge).as_deref(), Some("pods of the old version that are still there: 1"));
        assert_eq!(waits(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})), None);
        let quota =
            json!({"observedGeneration": 2, "conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: q"}]});
        assert_eq!(waits(quota).as_deref(), Some("0 of 2 pods are ready: exceeded quota: q"));
    }

    #[test]
    fn a_running_job_is_ready_and_a_failed_one_is_not() {
        assert_eq!(waits("Job", &json!({"status": {"active": 1}})), None);
        let failed = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}});
        assert_eq!(waits("Job", &failed).as_deref(), Some("has failed: BackoffLimitExceeded"));
        assert!(at_rest("Job", &failed));
        assert!(!at_rest("Job", &json!({"status": {"active": 1}})));
    }

    #[test]
    fn a_stateful_set_is_ready_when_its_partition_is_updated() {
        let set = |partition: u32, updated: u32| {
            json!({
                "metadata": {"generation": 1},
                "spec": {"replicas": 3, "template": {}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}},
                "status": {"observedGeneration": 1, "availableReplicas": 3, "updatedReplicas": updated, "currentRevision": "a", "updateRevision": "b"},
            })
        };
        assert_eq!(waits("StatefulSet", &set(0, 1)).as_deref(), Some("1 of 3 pods are of the new version"));
        assert_eq!(waits("StatefulSet", &set(2, 1)), None);
    }

    #[test]
    fn at_rest_is_only_what_its_controller_has_seen_at_zero() {
        let zero = deployment(json!(0), json!({"observedGeneration": 2}));
        assert!(at_rest("Deployment", &zero));
        assert!(!at_rest("Deployment", &deployment(json!(0), json!({"observedGeneration": 1}))));
        assert!(!at_rest("Deployment", &deployment(json!(0), json!({"observedGeneration": 2, "replicas": 1}))));
        assert!(!at_rest("CronJob", &json!({"spec": {"suspend": true}, "status": {"active": [{}]}})));
        assert!(at_rest("CronJob", &json!({"spec": {"suspend": true}})));
        assert!(!at_rest("HorizontalPodAutoscaler", &json!({})));
    }

    #[test]
    fn a_thing_of_others_is_as_its_conditions_say() {
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no issuer"}]}});
        assert_eq!(waits("Certificate", &not_ready).as_deref(), Some("is not ready: no issuer"));
        assert_eq!(waits("Certificate", &json!({"metadata": {"generation": 1}})), None);
    }
}
