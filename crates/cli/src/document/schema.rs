//! JSON Schemas of the documents, made from their types, for editors and for checks elsewhere.

use serde_json::{Value, json};

use super::class::ClassSpec;
use super::fleet::{ClusterSpec, PolicySpec, PoolSpec};
use super::tenant::TenantSpec;
use super::{API_VERSION, Envelope, Kind};

/// The JSON Schema of one kind.
#[must_use]
pub fn of(kind: Kind) -> Value {
    let schema = match kind {
        Kind::Policy => schemars::schema_for!(Envelope<PolicySpec>),
        Kind::Pool => schemars::schema_for!(Envelope<PoolSpec>),
        Kind::Class => schemars::schema_for!(Envelope<ClassSpec>),
        Kind::Cluster => schemars::schema_for!(Envelope<ClusterSpec>),
        Kind::Tenant => schemars::schema_for!(Envelope<TenantSpec>),
    };
    let mut schema = schema.to_value();
    schema["title"] = json!(kind.name());
    schema["$id"] = json!(format!("https://roadstead.dev/schema/v1/{}.json", kind.lower()));
    schema["properties"]["kind"]["const"] = json!(kind.name());
    schema["properties"]["apiVersion"]["const"] = json!(API_VERSION);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_closed_schema() {
        for kind in Kind::ALL {
            let schema = of(kind);
            assert_eq!(schema["additionalProperties"], json!(false), "{kind}");
            assert_eq!(schema["properties"]["kind"]["const"], json!(kind.name()));
            assert!(schema["properties"]["spec"].is_object(), "{kind}");
        }
    }
}
