//! The tenants of the demo: a realistic mix, the same for every run of the same seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::document::constraint::{Company, Constraints, LimitScope, OwnerLimit, Preference};
use crate::document::quantity::{Bytes, Label, OwnerName};
use crate::document::tenant::{Desired, TenantSpec};
use crate::output::objects::rounded;

/// Of 100 tenants; the classes are those of examples/classes.yaml.
pub const MIX: [(&str, u32); 5] = [("shop-small", 62), ("shop-large", 10), ("sqldb", 12), ("devices", 10), ("timeseries", 6)];
/// The version of all example classes.
const VERSION: &str = "1.0.0";
/// Any number; the run is the same for the same one.
const SEED: u64 = 20_261_121;
/// Tenants of one owner, on average.
const TENANTS_PER_OWNER: usize = 4;

/// A tenant to place.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// Spec.
    pub spec: TenantSpec,
}

/// The tenants, in the order in which they come.
#[must_use]
pub fn tenants(count: usize) -> Vec<Wanted> {
    let mut random = StdRng::seed_from_u64(SEED);
    let owners = (count / TENANTS_PER_OWNER).max(1);
    (0..count).map(|number| one(number, owners, &mut random)).collect()
}

fn one(number: usize, owners: usize, random: &mut StdRng) -> Wanted {
    let class = drawn(random.random_range(0..100));
    let owner = OwnerName(format!("owner-{:05}", random.random_range(0..owners)));
    let name = format!("{class}-{number:05}");
    let mut spec = TenantSpec {
        owner: owner.clone(),
        class: format!("{class}@{VERSION}"),
        desired: Desired::Running,
        values: serde_json::Map::new(),
        hostnames: Vec::new(),
        volumes: std::collections::BTreeMap::new(),
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Constraints::default(),
    };
    if class.starts_with("shop") {
        spec.values.insert("theme".to_owned(), ["plain", "summer", "winter"][random.random_range(0..3)].into());
        spec.hostnames = vec![format!("{name}.shops.example")];
    }
    if class == "sqldb" && random.random_range(0..4) == 0 {
        spec.volumes.insert("data".to_owned(), Bytes(random.random_range(2..=6) * (100 << 30)));
    }
    spec.constraints = constraints(&owner, random);
    Wanted { name, spec }
}

fn drawn(mut ticket: u32) -> &'static str {
    for (class, share) in MIX {
        if ticket < share {
            return class;
        }
        ticket -= share;
    }
    MIX[0].0
}

fn constraints(owner: &OwnerName, random: &mut StdRng) -> Constraints {
    let mut constraints = Constraints::default();
    match random.random_range(0..100) {
        0..33 => constraints.residency = Some("eu".to_owned()),
        33..38 => constraints.residency = Some("ch".to_owned()),
        38..43 => constraints.providers = vec!["own".to_owned(), "azure".to_owned()],
        43..46 => constraints.pool = Some(Label("aws".to_owned())),
        46..56 => {
            let region = ["eu-central", "eu-west", "us-east"][random.random_range(0..3)].to_owned();
            constraints.preferences = vec![Preference { weight: 50, region: Some(region), ..Preference::default() }];
        }
        56..59 => {
            let company =
                Company { tenant: None, owner: Some(OwnerName(format!("{}-rival", owner.0))), topology_key: "cluster".to_owned() };
            constraints.apart = vec![company];
        }
        59..64 => constraints.owner_limits = vec![OwnerLimit { scope: LimitScope::Shard, max: 2 }],
        _ => {}
    }
    constraints
}

/// What the mix comes to, in a line.
#[must_use]
pub fn described(wanted: &[Wanted]) -> String {
    let share = |class: &str| wanted.iter().filter(|tenant| tenant.spec.class.starts_with(&format!("{class}@"))).count();
    let classes: Vec<String> = MIX.iter().map(|(class, _)| format!("{} {class}", share(class))).collect();
    let grown: u64 = wanted.iter().flat_map(|tenant| tenant.spec.volumes.values()).map(|size| size.0).sum();
    format!("{}; {} of grown volumes", classes.join(", "), rounded(grown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_the_same_every_time_and_names_are_unique() {
        let (a, b) = (tenants(2000), tenants(2000));
        assert!(a.iter().zip(&b).all(|(a, b)| a.name == b.name && a.spec == b.spec));
        let names: std::collections::BTreeSet<&str> = a.iter().map(|tenant| tenant.name.as_str()).collect();
        assert_eq!(names.len(), 2000);
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u32>(), 100);
    }
}
