//! Resolves a tenant's requests from its class and checks everything that needs no other tenant.

use crate::class::ClassVersion;
use crate::command::{Kind, Rejection};
use crate::constraint::{Constraints, Operator, Preference, Requirement, Wish, limits};
use crate::resources::{MAX_QUANTITY, Requests};
use crate::state::State;
use crate::tenant::{MAX_HOSTNAMES, MAX_VALUES_BYTES, TenantSpec};

/// The longest hostname (RFC 1035).
const MAX_HOSTNAME_LEN: usize = 253;

/// Resolves a spec's requests from its class and checks everything that needs no other tenant (names, sizes, values' length, constraints' limits).
///
/// Storage is what the class states plus the sizes of its volumes, each as large as the tenant asks for; attachments likewise.
///
/// # Errors
/// `NotFound` for the class, `Invalid` with the field.
pub fn resolve(state: &State, spec: &mut TenantSpec) -> Result<(), Rejection> {
    let Some(class) = state.class(spec.class.as_str(), &spec.version) else {
        return Err(Rejection::NotFound { kind: Kind::Class, name: format!("{}@{}", spec.class, spec.version) });
    };
    if spec.values.len() > MAX_VALUES_BYTES {
        return Err(invalid("spec.values", format!("has {} bytes, at most {MAX_VALUES_BYTES} are allowed", spec.values.len())));
    }
    if spec.hostnames.len() > MAX_HOSTNAMES {
        return Err(invalid("spec.hostnames", format!("has {} entries, at most {MAX_HOSTNAMES} are allowed", spec.hostnames.len())));
    }
    for (position, hostname) in spec.hostnames.iter().enumerate() {
        if hostname.is_empty() || hostname.len() > MAX_HOSTNAME_LEN {
            let problem = format!("has {} characters, 1 to {MAX_HOSTNAME_LEN} are allowed", hostname.len());
            return Err(invalid(&format!("spec.hostnames[{position}]"), problem));
        }
    }
    check_constraints(&spec.constraints)?;
    spec.requests = requests_of(class, spec)?;
    Ok(())
}

fn requests_of(class: &ClassVersion, spec: &TenantSpec) -> Result<Requests, Rejection> {
    for (position, (name, size)) in spec.volumes.iter().enumerate() {
        let field = format!("spec.volumes[{position}]");
        if spec.volumes[..position].iter().any(|(other, _)| other == name) {
            return Err(invalid(&field, format!("volume {:?} is named twice", name.as_str())));
        }
        let Some(volume) = class.volumes.iter().find(|volume| volume.name == *name) else {
            return Err(invalid(&field, format!("class {}@{} has no volume {:?}", class.name, class.version, name.as_str())));
        };
        if *size < volume.size {
            return Err(invalid(&field, format!("{} bytes are less than the class's {}", size.0, volume.size.0)));
        }
    }
    let mut requests = class.requests;
    let storage = class.volumes.iter().try_fold(requests.total.storage.0, |sum, volume| sum.checked_add(spec.size_of(volume).0));
    let attachments = requests.total.attachments.checked_add(class.volumes.len() as u64);
    let (Some(storage), Some(attachments)) = (storage, attachments) else {
        return Err(invalid("spec.volumes", "the sum of all sizes is too large"));
    };
    requests.total.storage.0 = storage;
    requests.total.attachments = attachments;
    if requests.total.to_array().iter().any(|amount| *amount > MAX_QUANTITY) {
        return Err(invalid("spec.volumes", format!("no amount may be more than {MAX_QUANTITY}")));
    }
    Ok(requests)
}

fn check_constraints(constraints: &Constraints) -> Result<(), Rejection> {
    let count = |field: &str, len: usize, max: usize| {
        let field = format!("spec.constraints.{field}");
        if len > max { Err(invalid(&field, format!("has {len} entries, at most {max} are allowed"))) } else { Ok(()) }
    };
    count("providers", constraints.providers.len(), limits::MAX_VALUES)?;
    count("regions", constraints.regions.len(), limits::MAX_VALUES)?;
    count("zones", constraints.zones.len(), limits::MAX_VALUES)?;
    count("labels", constraints.labels.len(), limits::MAX_TERMS)?;
    count("tolerations", constraints.tolerations.len(), limits::MAX_TERMS)?;
    count("company", constraints.company.len(), limits::MAX_TERMS)?;
    count("owner_limits", constraints.owner_limits.len(), limits::MAX_TERMS)?;
    count("preferences", constraints.preferences.len(), limits::MAX_TERMS)?;
    for (position, requirement) in constraints.labels.iter().enumerate() {
        check_requirement(&format!("spec.constraints.labels[{position}]"), requirement)?;
    }
    if let Some(position) = constraints.owner_limits.iter().position(|limit| limit.max == 0) {
        return Err(invalid(&format!("spec.constraints.owner_limits[{position}].max"), "must be at least 1"));
    }
    for (position, preference) in constraints.preferences.iter().enumerate() {
        check_preference(&format!("spec.constraints.preferences[{position}]"), preference)?;
    }
    Ok(())
}

fn check_requirement(field: &str, requirement: &Requirement) -> Result<(), Rejection> {
    let too_long = |text: &String| text.len() > limits::MAX_LABEL_LEN;
    if requirement.key.is_empty() || too_long(&requirement.key) || requirement.values.iter().any(too_long) {
        return Err(invalid(field, format!("a key has 1 to {} characters, a value at most that", limits::MAX_LABEL_LEN)));
    }
    let count = requirement.values.len();
    let (legal, rule) = match requirement.operator {
        Operator::In | Operator::NotIn => ((1..=limits::MAX_VALUES).contains(&count), "needs 1 to 64 values"),
        Operator::Exists | Operator::DoesNotExist => (count == 0, "takes no values"),
        Operator::Gt | Operator::Lt => (count == 1 && requirement.values[0].parse::<i64>().is_ok(), "needs exactly one value, an integer"),
    };
    if legal { Ok(()) } else { Err(invalid(field, format!("operator {:?} {rule}", requirement.operator))) }
}

fn check_preference(field: &str, preference: &Preference) -> Result<(), Rejection> {
    if preference.weight == 0 || preference.weight > limits::MAX_WEIGHT {
        return Err(invalid(&format!("{field}.weight"), format!("must be from 1 to {}", limits::MAX_WEIGHT)));
    }
    match &preference.wish {
        Wish::Label(requirement) => check_requirement(field, requirement),
        Wish::Region(_) | Wish::Zone(_) | Wish::Provider(_) | Wish::Company(_) => Ok(()),
    }
}

fn invalid(field: &str, problem: impl Into<String>) -> Rejection {
    Rejection::Invalid { field: field.to_owned(), problem: problem.into() }
}
