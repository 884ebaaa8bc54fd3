//! A cluster's agent as a test plays it: it tells what the cluster carries.

use anyhow::{Context, Result, ensure};
use roadstead_api::v1;
use roadstead_api::v1::fleet_service_client::FleetServiceClient;
use tonic::transport::Channel;

/// The agent of one cluster.
#[derive(Clone, Debug)]
pub struct Agent {
    fleet: FleetServiceClient<Channel>,
    facts: v1::ReportCapacityRequest,
}

impl Agent {
    /// Of the cluster that these facts are about, over a connection that may speak for it.
    #[must_use]
    pub fn new(channel: Channel, facts: v1::ReportCapacityRequest) -> Self {
        Self { fleet: FleetServiceClient::new(channel), facts }
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.facts.cluster
    }

    /// Reports these tenants as running under the epochs that they are bound with; `complete_at` says that there are no others.
    ///
    /// # Errors
    /// What the service refused.
    pub async fn report(
        &mut self,
        running: &[v1::Tenant],
        complete_at: Option<v1::Revision>,
    ) -> Result<v1::ReportCapacityResponse, tonic::Status> {
        let seen = |tenant: &v1::Tenant| v1::ObservedTenant {
            uid: tenant.uid.clone(),
            epoch: tenant.status.as_ref().and_then(|status| status.binding.as_ref()).and_then(|binding| binding.epoch),
            observed: v1::observed_tenant::Observed::Running.into(),
        };
        let report = v1::ReportCapacityRequest { tenants: running.iter().map(seen).collect(), complete_at, ..self.facts.clone() };
        Ok(self.fleet.report_capacity(report).await?.into_inner())
    }

    /// Does after a restore what every agent has to: hears that it is to tell everything, and tells it.
    ///
    /// # Errors
    /// If it is not asked to, or still is afterwards.
    pub async fn tell_everything(&mut self, running: &[v1::Tenant]) -> Result<()> {
        let asked = self.report(running, None).await.context("a report was refused")?;
        ensure!(asked.complete_wanted, "{} is not asked to tell everything", self.cluster());
        let told = self.report(running, asked.revision).await.context("a complete report was refused")?;
        ensure!(!told.complete_wanted, "{} has told everything and is asked again", self.cluster());
        Ok(())
    }
}
