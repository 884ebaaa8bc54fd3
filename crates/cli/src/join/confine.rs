//! Where the agent's account may act: in tenants' namespaces and, a little, in its own. Said by ValidatingAdmissionPolicies, because RBAC
//! cannot. Beside them, what keeps the account's requests and everybody else's out of each other's way.
//!
//! There are two. An API server evaluates a policy's conditions for every write that its constraints match, whoever writes, and turns the object into
//! another form for that. What happens within tenants' namespaces is most of a cluster's writes, by the cluster's own controllers above all, and is none
//! of the first policy's concern: its selector leaves those namespaces out before anything is evaluated. The second one is about few kinds, wherever they
//! are.

use roadstead_agent::probe::{DIALER, LISTENER};
use roadstead_class::TENANT_LABEL;
use serde_json::{Value, json};

use super::{AGENT, IDENTITY_SECRET, MANAGER, NAMESPACE, WHY, workload::labels};

/// What the agent writes in its own namespace.
const OWN_RESOURCES: &str = "['leases', 'configmaps']";
/// Of the requests that the API server works on at a time, as shares; system accounts have 30, all others 20 and 100.
const SHARES: u32 = 20;

/// The policy about what is no tenant's; it has the account's name. And the one about namespaces and what binds rights in them.
const OUTSIDE: &str = AGENT;
/// See [`OUTSIDE`].
pub const KINDS: &str = "roadstead-agent-kinds";

/// Pod Security levels that tenants' namespaces may enforce, as an expression has them.
const LEVELS: &str = "['restricted', 'baseline']";
/// The same where classes may have `podSecurity: privileged`.
const ALL_LEVELS: &str = "['restricted', 'baseline', 'privileged']";

/// Whether the policy of this name that is there, [`KINDS`], lets classes have `podSecurity: privileged`.
#[must_use]
pub fn is_privileged(policy: &Value) -> bool {
    policy["spec"]["validations"].to_string().contains(ALL_LEVELS)
}

/// The policies, their bindings, and the account's place in the API server's queues. In this order an earlier version's policy, which was
/// about everything, is narrowed when the other is there.
#[must_use]
pub fn manifests(privileged: bool) -> Vec<Value> {
    vec![policy_of_kinds(privileged), binding(KINDS), policy_outside(), binding(OUTSIDE), priority(), flow(), flow_of_leases()]
}

/// A check: an expression that has to be true, and what to say when it is not.
fn check(expression: &str, message: &str) -> Value {
    json!({"expression": expression, "message": message, "reason": "Forbidden"})
}

/// The label of an object's tenant, empty without one.
fn label_of(object: &str) -> String {
    format!(
        "{object} != null && has({object}.metadata.labels) && '{TENANT_LABEL}' in {object}.metadata.labels ? \
         {object}.metadata.labels['{TENANT_LABEL}'] : ''"
    )
}

/// A policy about the account's requests, of those that the constraints match.
fn policy(name: &str, why: &str, constraints: &Value, variables: &Value, validations: &[Value]) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": labels(), "annotations": {WHY: why}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": constraints,
            "matchConditions": [{
                "name": "only-the-agent",
                "expression": format!("request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{AGENT}'"),
            }],
            "variables": variables,
            "validations": validations,
        },
    })
}

/// Every operation on these resources.
fn rule(group: &str, resources: &[&str]) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["*"], "resources": resources, "operations": ["CREATE", "UPDATE", "DELETE", "CONNECT"]})
}

/// What tenants' namespaces may be, and what rights may be bound in them.
fn policy_of_kinds(privileged: bool) -> Value {
    let levels = if privileged { ALL_LEVELS } else { LEVELS };
    let level = "pod-security.kubernetes.io/enforce";
    let variables = json!([
        {"name": "isNamespace", "expression": "request.resource.group == '' && request.resource.resource == 'namespaces'"},
        {"name": "tenant", "expression": label_of("object")},
        {"name": "tenantBefore", "expression": label_of("oldObject")},
        // A tenant's namespace ends with its number: nobody else's becomes one by a label alone.
        {"name": "isNamedSo", "expression": "variables.tenant.matches('^[0-9a-f]{16}$') && object.metadata.name.endsWith('-' + variables.tenant)"},
        {
            "name": "wasMadeHere",
            "expression": format!(
                "oldObject != null && has(oldObject.metadata.managedFields) && oldObject.metadata.managedFields.exists(f, f.manager == '{MANAGER}')"
            ),
        },
    ]);
    let validations = [
        check(
            "!variables.isNamespace || !has(request.subResource) || request.subResource == ''",
            "The agent leaves the finalizers and the status of namespaces to the cluster: find out what keeps the namespace from ending.",
        ),
        check(
            "!variables.isNamespace || request.operation != 'CREATE' || variables.isNamedSo",
            &format!(
                "The agent creates tenants' namespaces only: with the label {TENANT_LABEL}, the tenant's number, with which the name ends. \
                 Create other namespaces by another account."
            ),
        ),
        // Somebody may have taken the label off a tenant's namespace: only then it is put back.
        check(
            "!variables.isNamespace || request.operation == 'CREATE' || variables.tenantBefore != '' || \
             (request.operation == 'UPDATE' && variables.isNamedSo && variables.wasMadeHere)",
            &format!(
                "This namespace is no tenant's: the agent neither changes nor deletes it. A namespace gets the label {TENANT_LABEL} when it is \
                 created, never later; to take over what runs in it, move it into a tenant."
            ),
        ),
        check(
            "!variables.isNamespace || request.operation != 'UPDATE' || variables.tenantBefore == '' || variables.tenant == variables.tenantBefore",
            &format!(
                "The label {TENANT_LABEL} of a tenant's namespace stays as it is: delete the tenant instead (roadstead delete tenant NAME)."
            ),
        ),
        check(
            &format!(
                "!variables.isNamespace || request.operation == 'DELETE' || (has(object.metadata.labels) && '{level}' in object.metadata.labels \
                 && object.metadata.labels['{level}'] in {levels})"
            ),
            &format!(
                "A tenant's namespace enforces a Pod Security level out of {levels}: set podSecurity in the class; for privileged ones join the \
                 cluster again with --allow-privileged."
            ),
        ),
        check(
            "request.resource.group != 'rbac.authorization.k8s.io' || request.resource.resource != 'rolebindings' || \
             request.operation == 'DELETE' || object.roleRef.kind == 'Role'",
            "The agent binds Roles of the tenant's own namespace only: a ClusterRole is more than a tenant may have. Bring a Role with the class.",
        ),
    ];
    let why =
        format!("this keeps {AGENT} from making tenants' namespaces of others, and from giving tenants more rights than a Role of theirs.");
    let rules = [rule("", &["namespaces", "namespaces/*"]), rule("rbac.authorization.k8s.io", &["rolebindings"])];
    policy(KINDS, &why, &json!({"resourceRules": rules}), &variables, &validations)
}

/// What is written where no tenant is: nothing, but for a little in the account's own namespace.
fn policy_outside() -> Value {
    let variables = json!([
        // By its type it is none that would make a token for an account.
        {
            "name": "isOwnCertificate",
            "expression": format!(
                "request.namespace == '{NAMESPACE}' && request.resource.group == '' && request.resource.resource == 'secrets' && \
                 request.operation in ['CREATE', 'UPDATE'] && request.name == '{IDENTITY_SECRET}' && object.type == 'kubernetes.io/tls'"
            ),
        },
        // Nothing may be mounted into them, least of all the Secrets that are beside them; they are nobody's account.
        {
            "name": "isOwnProbe",
            "expression": format!(
                "request.namespace == '{NAMESPACE}' && request.resource.group == '' && request.resource.resource == 'pods' && \
                 (!has(request.subResource) || request.subResource == '') && request.name in ['{LISTENER}', '{DIALER}'] && \
                 (request.operation == 'DELETE' || (request.operation == 'CREATE' && !has(object.spec.volumes) && \
                 has(object.spec.automountServiceAccountToken) && !object.spec.automountServiceAccountToken && \
                 object.spec.containers.all(c, !has(c.env) && !has(c.envFrom)) && !has(object.spec.initContainers)))"
            ),
        },
    ]);
    let validations = [
        check("namespaceObject != null", "The agent writes nothing that is outside of namespaces: have it made by another account."),
        check(
            &format!(
                "namespaceObject == null || (request.namespace == '{NAMESPACE}' && request.resource.resource in {OWN_RESOURCES}) || \
                 variables.isOwnCertificate || variables.isOwnProbe"
            ),
            &format!(
                "This namespace is no tenant's: the agent writes in namespaces with the label {TENANT_LABEL}, which they get when they are \
                 created. Have this written by another account."
            ),
        ),
    ];
    let why = format!(
        "RBAC cannot be scoped by a namespace's label: this keeps {AGENT} to namespaces with the label {TENANT_LABEL}, and to its own."
    );
    let constraints = json!({
        "resourceRules": [rule("*", &["*/*"])],
        // Those are the other policy's.
        "excludeResourceRules": [rule("", &["namespaces", "namespaces/*"])],
        // What is in no namespace is matched, whatever is selected.
        "namespaceSelector": {"matchExpressions": [{"key": TENANT_LABEL, "operator": "DoesNotExist"}]},
    });
    policy(OUTSIDE, &why, &constraints, &variables, &validations)
}

fn binding(policy: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": policy, "labels": labels()},
        "spec": {"policyName": policy, "validationActions": ["Deny"]},
    })
}

fn priority() -> Value {
    let why = "a thousand tenants' requests wait among themselves, and half of the room is lent to others while it is free";
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": AGENT, "labels": labels(), "annotations": {WHY: why}},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": SHARES,
            "lendablePercent": 50,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 32, "handSize": 4, "queueLengthLimit": 50}},
        }},
    })
}

fn flow_schema(name: &str, why: &str, level: &str, precedence: u32, rule: &Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": name, "labels": labels(), "annotations": {WHY: why}},
        "spec": {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            // One tenant's requests do not wait behind another's.
            "distinguisherMethod": {"type": "ByNamespace"},
            "rules": [{
                "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": AGENT, "namespace": NAMESPACE}}],
                "resourceRules": [rule],
            }],
        },
    })
}

fn flow() -> Value {
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
    flow_schema(AGENT, "clients cannot choose their priority: this does", AGENT, 1000, &all)
}

fn flow_of_leases() -> Value {
    let leases = json!({"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": [NAMESPACE]});
    let why = "a busy agent does not lose its Lease to its own requests";
    flow_schema(&format!("{AGENT}-leases"), why, "leader-election", 900, &leases)
}
