//! Who may call what: one table of RPC and roles, denied unless listed; and what a client or an agent may touch.
//!
//! The table is checked before a message is decoded. What it cannot know (whose tenant, which cluster) the services check with
//! [`Reach`].

use std::sync::Arc;

use roadstead_core::constraint::{Company, Wish};
use roadstead_core::id::{Name, Owner};
use roadstead_core::tenant::TenantSpec;
use tonic::Code;

use crate::errors::Fault;
use crate::identity::{Caller, Role};

use Role::{Admin, Agent, Client, Operator, Replica, Viewer};

/// Everybody with a certificate of this group; issuers call nothing.
const ANYBODY: &[Role] = &[Replica, Admin, Operator, Viewer, Client, Agent];
/// Those who read the whole fleet.
const READERS: &[Role] = &[Admin, Operator, Viewer];
/// Those who look after the fleet.
const KEEPERS: &[Role] = &[Admin, Operator];
/// Those who place tenants.
const PLACERS: &[Role] = &[Admin, Operator, Client];

/// The one RPC that takes no certificate, where a replica issues them: its token says who calls.
pub const WITHOUT_CERTIFICATE: &str = "roadstead.v1.JoinService/Enrol";

/// Every public RPC and the roles that may call it. What is not here is refused.
pub const TABLE: &[(&str, &[Role])] = &[
    ("roadstead.v1.PlacementService/PlaceTenant", PLACERS),
    ("roadstead.v1.PlacementService/PlaceTenants", PLACERS),
    ("roadstead.v1.PlacementService/GetTenant", &[Admin, Operator, Viewer, Client, Agent]),
    ("roadstead.v1.PlacementService/ListTenants", &[Admin, Operator, Viewer, Client, Agent]),
    ("roadstead.v1.PlacementService/UpdateTenant", PLACERS),
    ("roadstead.v1.PlacementService/ReleaseTenant", PLACERS),
    ("roadstead.v1.PlacementService/UndeleteTenant", KEEPERS),
    ("roadstead.v1.PlacementService/AdoptTenant", KEEPERS),
    ("roadstead.v1.PlacementService/ExplainTenant", &[Admin, Operator, Viewer, Client]),
    ("roadstead.v1.PlacementService/SimulatePlacement", READERS),
    ("roadstead.v1.PlacementService/ListTenantEvents", READERS),
    ("roadstead.v1.PlacementService/Watch", &[Admin, Operator, Viewer, Client, Agent]),
    ("roadstead.v1.PlacementService/DiffTenant", KEEPERS),
    ("roadstead.v1.FleetService/PutCluster", KEEPERS),
    ("roadstead.v1.FleetService/GetCluster", &[Admin, Operator, Viewer, Agent]),
    ("roadstead.v1.FleetService/ListClusters", &[Admin, Operator, Viewer, Agent]),
    ("roadstead.v1.FleetService/DeleteCluster", KEEPERS),
    ("roadstead.v1.FleetService/CordonCluster", KEEPERS),
    ("roadstead.v1.FleetService/UncordonCluster", KEEPERS),
    ("roadstead.v1.FleetService/AllowRemovals", KEEPERS),
    ("roadstead.v1.FleetService/ReportCapacity", &[Admin, Operator, Agent]),
    ("roadstead.v1.FleetService/PutPool", KEEPERS),
    ("roadstead.v1.FleetService/ListPools", READERS),
    ("roadstead.v1.FleetService/DeletePool", KEEPERS),
    ("roadstead.v1.FleetService/PutClass", KEEPERS),
    ("roadstead.v1.FleetService/GetClass", READERS),
    ("roadstead.v1.FleetService/ListClasses", READERS),
    ("roadstead.v1.FleetService/DeleteClass", KEEPERS),
    ("roadstead.v1.FleetService/PutPolicy", KEEPERS),
    ("roadstead.v1.FleetService/GetPolicy", READERS),
    ("roadstead.v1.AgentService/WatchIntent", &[Agent]),
    ("roadstead.v1.AgentService/Observe", &[Agent]),
    ("roadstead.v1.AgentService/AnswerDiff", &[Agent]),
    ("roadstead.v1.JoinService/PutToken", KEEPERS),
    (WITHOUT_CERTIFICATE, ANYBODY),
    ("roadstead.v1.JoinService/Renew", &[Agent]),
    ("roadstead.v1.AdminService/GetStatus", READERS),
    ("roadstead.v1.AdminService/AddMember", &[Replica, Admin]),
    ("roadstead.v1.AdminService/RemoveMember", &[Admin]),
    ("roadstead.v1.AdminService/TransferLeadership", KEEPERS),
    ("roadstead.v1.AdminService/Backup", KEEPERS),
    ("roadstead.v1.AdminService/Restore", &[Admin]),
    ("roadstead.v1.AdminService/WaiveFence", KEEPERS),
    ("grpc.health.v1.Health/Check", ANYBODY),
    ("grpc.health.v1.Health/List", ANYBODY),
    ("grpc.health.v1.Health/Watch", ANYBODY),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANYBODY),
];

/// Refuses a caller whose role may not call this RPC. `rpc` is the path without its leading slash.
///
/// # Errors
/// `UNIMPLEMENTED` for an RPC that is not in the table, `PERMISSION_DENIED` with caller, role, RPC and the roles that may.
pub fn may_call(caller: &Caller, rpc: &str) -> Result<(), Fault> {
    let Some((rpc, roles)) = TABLE.iter().find(|(known, _)| *known == rpc) else {
        let shown = crate::convert::excerpt(rpc);
        return Err(Fault::new(Code::Unimplemented, "UNKNOWN_RPC", format!("there is no RPC {shown:?} here")));
    };
    if roles.contains(&caller.role) {
        return Ok(());
    }
    let may: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let (may, role, principal) = (may.join(", "), caller.role, &caller.principal);
    Err(Fault::new(
        Code::PermissionDenied,
        "ROLE_NOT_ALLOWED",
        format!("{principal} has the role {role}, which may not call {rpc}; these may: {may}"),
    )
    .with("caller", principal)
    .with("role", role)
    .with("rpc", rpc)
    .with("allowed_roles", may))
}

/// What a caller may touch, beyond which RPCs.
#[derive(Clone, Debug)]
pub struct Reach {
    caller: Arc<Caller>,
}

impl Reach {
    /// The reach of a caller.
    #[must_use]
    pub fn of(caller: Arc<Caller>) -> Self {
        Self { caller }
    }

    /// Who it is.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The only cluster that may be touched, if there is such a limit.
    #[must_use]
    pub fn only_cluster(&self) -> Option<&str> {
        (self.caller.role == Agent).then_some(self.caller.name.as_str())
    }

    /// The only owners whose tenants may be touched, if there is such a limit.
    #[must_use]
    pub fn only_owners(&self) -> Option<&[Owner]> {
        (self.caller.role == Client && !self.caller.owners.is_empty()).then_some(&self.caller.owners[..])
    }

    /// Refuses a cluster that is not the caller's.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn cluster(&self, cluster: &str) -> Result<(), Fault> {
        match self.only_cluster() {
            Some(own) if own != cluster => {
                let shown = crate::convert::excerpt(cluster);
                let words = format!("{} may only touch its own cluster {own:?}, not {shown:?}", self.caller.principal);
                Err(self.denied("CLUSTER_NOT_ALLOWED", words).with("cluster", own))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses an owner that the caller may not act for.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn owner(&self, owner: &Owner) -> Result<(), Fault> {
        match self.only_owners() {
            Some(owners) if !owners.contains(owner) => {
                let may: Vec<&str> = owners.iter().map(Owner::as_str).collect();
                let may = may.join(", ");
                let words = format!("{} may only touch tenants of {may}", self.caller.principal);
                Err(self.denied("OWNER_NOT_ALLOWED", words).with("allowed_owners", may))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the caller may want such a tenant: its owner's, and beside or apart from its own owners' only, since where others are is none of
    /// its business.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn spec(&self, spec: &TenantSpec) -> Result<(), Fault> {
        self.owner(&spec.owner)?;
        let wishes = spec.constraints.preferences.iter().filter_map(|preference| match &preference.wish {
            Wish::Company(term) => Some(term),
            Wish::Label(_) | Wish::Region(_) | Wish::Zone(_) | Wish::Provider(_) => None,
        });
        for term in spec.constraints.company.iter().chain(wishes) {
            match &term.company {
                Company::Owner(owner) => self.owner(owner)?,
                Company::Tenant(_) => {}
            }
        }
        Ok(())
    }

    /// Whether a tenant is of the caller's owners and in its cluster, as far as it is limited to some. One that is not does not exist for
    /// the caller: a refusal would tell which names others use.
    #[must_use]
    pub fn sees(&self, owner: &Owner, cluster: Option<&Name>) -> bool {
        let of_owner = self.only_owners().is_none_or(|owners| owners.contains(owner));
        let in_cluster = self.only_cluster().is_none_or(|own| cluster.is_some_and(|cluster| cluster.as_str() == own));
        of_owner && in_cluster
    }

    fn denied(&self, reason: &'static str, words: String) -> Fault {
        Fault::new(Code::PermissionDenied, reason, words).with("caller", &self.caller.principal).with("role", self.caller.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, owners: &[&str]) -> Arc<Caller> {
        let owners = owners.iter().map(|owner| Owner::new(owner).unwrap()).collect();
        Arc::new(Caller::new(role, "eu-1", owners).unwrap())
    }

    #[test]
    fn every_public_rpc_is_in_the_table_once() {
        let set = <prost_types::FileDescriptorSet as prost::Message>::decode(roadstead_api::v1::DESCRIPTORS).unwrap();
        let mut rpcs = Vec::new();
        for service in set.file.iter().flat_map(|file| &file.service) {
            rpcs.extend(service.method.iter().map(|method| format!("roadstead.v1.{}/{}", service.name(), method.name())));
        }
        let listed: Vec<&str> = TABLE.iter().map(|(rpc, _)| *rpc).filter(|rpc| rpc.starts_with("roadstead")).collect();
        assert_eq!(rpcs, listed);
    }

    #[test]
    fn what_is_not_listed_is_refused_even_for_an_admin() {
        let fault = may_call(&caller(Admin, &[]), "roadstead.v1.AdminService/Shutdown").unwrap_err();
        assert_eq!(fault.code(), Code::Unimplemented);
        assert!(may_call(&caller(Admin, &[]), "roadstead.internal.v1.ReplicaService/Exchange").is_err());
    }

    #[test]
    fn a_refusal_names_caller_role_rpc_and_who_may() {
        let fault = may_call(&caller(Viewer, &[]), "roadstead.v1.AdminService/AddMember").unwrap_err();
        let words = tonic::Status::from(fault).message().to_owned();
        assert_eq!(
            words,
            "viewer:eu-1 has the role viewer, which may not call roadstead.v1.AdminService/AddMember; these may: replica, admin"
        );
    }

    #[test]
    fn owners_and_clusters_limit_clients_and_agents_only() {
        let acme = Owner::new("acme").unwrap();
        let bolt = Owner::new("bolt").unwrap();
        let client = Reach::of(caller(Client, &["acme"]));
        assert!(client.owner(&acme).is_ok() && client.owner(&bolt).is_err());
        assert!(Reach::of(caller(Client, &[])).owner(&bolt).is_ok());
        assert!(Reach::of(caller(Operator, &["acme"])).owner(&bolt).is_ok());
        let agent = Reach::of(caller(Agent, &[]));
        assert!(agent.cluster("eu-1").is_ok() && agent.cluster("eu-2").is_err());
        assert!(!agent.sees(&acme, None), "a waiting tenant is in no cluster");
        assert!(client.sees(&acme, None) && !client.sees(&bolt, None));
    }
}
