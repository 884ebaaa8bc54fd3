//! Calls that several verbs make: reading everything there is of a kind, page by page.

use roadstead_api::v1;

use super::{Client, Services};
use crate::document::files::Known;
use crate::document::tenant::ClassRef;
use crate::document::{Kind, POLICY_NAME};
use crate::failure::{Exit, Failure};
use crate::output::objects::Object;

/// Things asked for at a time.
const PAGE_SIZE: u32 = 1000;

/// How fresh a read has to be.
#[must_use]
pub fn consistency(stale: bool) -> i32 {
    let consistency = if stale { v1::Consistency::Stale } else { v1::Consistency::Linearizable };
    consistency.into()
}

impl Client {
    /// Tenants that match a filter, at most `limit`.
    ///
    /// # Errors
    /// The call's.
    pub async fn tenants(&self, filter: &str, stale: bool, limit: usize) -> Result<Vec<v1::Tenant>, Failure> {
        let page_size = PAGE_SIZE.min(u32::try_from(limit).unwrap_or(u32::MAX));
        self.tenants_by_page(page_size, filter, stale, limit, |_| true).await
    }

    /// The first `limit` tenants that match a filter and are wanted, which the service cannot judge.
    ///
    /// # Errors
    /// The call's.
    pub async fn tenants_wanted(
        &self,
        filter: &str,
        stale: bool,
        limit: usize,
        is_wanted: impl Fn(&v1::Tenant) -> bool,
    ) -> Result<Vec<v1::Tenant>, Failure> {
        self.tenants_by_page(PAGE_SIZE, filter, stale, limit, is_wanted).await
    }

    async fn tenants_by_page(
        &self,
        page_size: u32,
        filter: &str,
        stale: bool,
        limit: usize,
        is_wanted: impl Fn(&v1::Tenant) -> bool,
    ) -> Result<Vec<v1::Tenant>, Failure> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListTenantsRequest {
                page_size,
                page_token: std::mem::take(&mut page_token),
                filter: filter.to_owned(),
                consistency: consistency(stale),
            };
            let answer = self
                .call("list tenants", |services: Services| {
                    let request = request.clone();
                    async move { services.placement().list_tenants(request).await }
                })
                .await?;
            found.extend(answer.tenants.into_iter().filter(&is_wanted));
            page_token = answer.next_page_token;
            if page_token.is_empty() || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    /// Gives a cluster a token, of which only the digest is told; when it ends.
    ///
    /// # Errors
    /// The call's.
    pub async fn put_token(&self, request: &v1::PutTokenRequest) -> Result<prost_types::Timestamp, Failure> {
        let what = format!("make a token for cluster/{}", request.cluster);
        let answer = self
            .call(&what, |services: Services| {
                let request = request.clone();
                async move { services.join().put_token(request).await }
            })
            .await?;
        Ok(answer.until.unwrap_or_default())
    }

    /// One tenant.
    ///
    /// # Errors
    /// The call's.
    pub async fn tenant(&self, name: &str, stale: bool) -> Result<v1::Tenant, Failure> {
        let request = v1::GetTenantRequest { name: name.to_owned(), consistency: consistency(stale) };
        let answer = self
            .call(&format!("get tenant/{name}"), |services: Services| {
                let request = request.clone();
                async move { services.placement().get_tenant(request).await }
            })
            .await?;
        Ok(answer.tenant.unwrap_or_default())
    }

    /// All clusters.
    ///
    /// # Errors
    /// The call's.
    pub async fn clusters(&self, stale: bool) -> Result<Vec<v1::Cluster>, Failure> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListClustersRequest {
                page_size: PAGE_SIZE,
                page_token: std::mem::take(&mut page_token),
                consistency: consistency(stale),
            };
            let answer = self
                .call("list clusters", |services: Services| {
                    let request = request.clone();
                    async move { services.fleet().list_clusters(request).await }
                })
                .await?;
            found.extend(answer.clusters);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// One cluster.
    ///
    /// # Errors
    /// The call's.
    pub async fn cluster(&self, name: &str, stale: bool) -> Result<v1::Cluster, Failure> {
        let request = v1::GetClusterRequest { name: name.to_owned(), consistency: consistency(stale) };
        let answer = self
            .call(&format!("get cluster/{name}"), |services: Services| {
                let request = request.clone();
                async move { services.fleet().get_cluster(request).await }
            })
            .await?;
        Ok(answer.cluster.unwrap_or_default())
    }

    /// All pools.
    ///
    /// # Errors
    /// The call's.
    pub async fn pools(&self, stale: bool) -> Result<Vec<v1::Pool>, Failure> {
        let request = v1::ListPoolsRequest { consistency: consistency(stale) };
        let answer = self.call("list pools", |services: Services| async move { services.fleet().list_pools(request).await }).await?;
        Ok(answer.pools)
    }

    /// All class versions, without their templates.
    ///
    /// # Errors
    /// The call's.
    pub async fn classes(&self, stale: bool) -> Result<Vec<v1::Class>, Failure> {
        let request = v1::ListClassesRequest { consistency: consistency(stale) };
        let answer = self.call("list classes", |services: Services| async move { services.fleet().list_classes(request).await }).await?;
        Ok(answer.classes)
    }

    /// One class version, with its template.
    ///
    /// # Errors
    /// The call's.
    pub async fn class(&self, class: &ClassRef, stale: bool) -> Result<v1::Class, Failure> {
        let request = v1::GetClassRequest { name: class.name.clone(), version: class.version.clone(), consistency: consistency(stale) };
        let answer = self
            .call(&format!("get class/{class}"), |services: Services| {
                let request = request.clone();
                async move { services.fleet().get_class(request).await }
            })
            .await?;
        Ok(answer.class.unwrap_or_default())
    }

    /// The policy.
    ///
    /// # Errors
    /// The call's.
    pub async fn policy(&self, stale: bool) -> Result<v1::Policy, Failure> {
        let request = v1::GetPolicyRequest { consistency: consistency(stale) };
        let answer = self.call("get policy", |services: Services| async move { services.fleet().get_policy(request).await }).await?;
        Ok(answer.policy.unwrap_or_default())
    }

    /// How the asked replica and the group are.
    ///
    /// # Errors
    /// The call's.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Failure> {
        self.call("status", |services: Services| async move { services.admin().get_status(v1::GetStatusRequest {}).await }).await
    }

    /// What documents may refer to.
    ///
    /// # Errors
    /// The calls'.
    pub async fn known(&self) -> Result<Known, Failure> {
        let (pools, classes, clusters) = tokio::try_join!(self.pools(false), self.classes(false), self.clusters(false))?;
        let class = |class: v1::Class| (ClassRef { name: class.name, version: class.version }, class.values_schema_json);
        Ok(Known {
            pools: pools.into_iter().map(|pool| pool.name).collect(),
            classes: classes.into_iter().map(class).collect(),
            clusters: clusters.into_iter().map(|cluster| cluster.name).collect(),
        })
    }

    /// The same; `None` for who may not read the fleet, as clients may not: the service judges what their tenants refer to.
    ///
    /// # Errors
    /// The calls'.
    pub async fn known_if_allowed(&self) -> Result<Option<Known>, Failure> {
        match self.known().await {
            Ok(known) => Ok(Some(known)),
            Err(failure) if failure.exit == Exit::Permission => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// One thing by kind and name; a class is named with its version.
    ///
    /// # Errors
    /// The call's, or a class without a version.
    pub async fn object(&self, kind: Kind, name: &str, stale: bool) -> Result<Object, Failure> {
        Ok(match kind {
            Kind::Policy if name != POLICY_NAME => {
                let message = format!("there is no policy `{name}`: there is one, named `{POLICY_NAME}`");
                return Err(Failure::new(Exit::NotFound, message).hint("several kinds are written with commas: `policy,pools,classes`"));
            }
            Kind::Policy => Object::Policy(self.policy(stale).await?),
            Kind::Pool => {
                let pools = self.pools(stale).await?;
                let pool = pools.into_iter().find(|pool| pool.name == name);
                Object::Pool(pool.ok_or_else(|| Failure::new(Exit::NotFound, format!("there is no pool `{name}`")))?)
            }
            Kind::Class => Object::Class(Box::new(self.class(&name.parse().map_err(Failure::usage)?, stale).await?)),
            Kind::Cluster => Object::Cluster(Box::new(self.cluster(name, stale).await?)),
            Kind::Tenant => Object::Tenant(Box::new(self.tenant(name, stale).await?)),
        })
    }
}
