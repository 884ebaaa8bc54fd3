//! A tenant's secrets, copied or generated, as actions.

use std::sync::PoisonError;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::GetParams;
use roadstead_class::{SecretPlan, SecretSource};
use roadstead_core::intent::Role;
use serde_json::{Value, json};

use super::act::{Original, Work, call_opt};
use super::known::{self, is_ours_to_delete};
use super::owned::MANAGER;
use super::secrets::{self, SlimSecret};
use super::seen;
use super::store::Extra;
use super::words;
use crate::interpreter::Failed;

impl Work<'_> {
    /// Makes the secrets, and puts those right that are not as they are to be. Data that exists nowhere else is read before it is written again.
    pub(super) async fn put_secrets(&self) -> Result<(), Failed> {
        self.record(false).await?;
        let (rendered, mut in_step) = (self.rendered()?, true);
        for plan in &rendered.secrets {
            if self.look(|inner| seen::has_secret(inner, &self.namespace, plan)) {
                continue;
            }
            let body = match &plan.source {
                SecretSource::Copy { from } => {
                    let Original { data, of_type, .. } = self.template(from, &plan.manifest.id.name).await?;
                    self.make_way(plan, &of_type).await?;
                    secrets::body(plan, data, Some(&of_type))
                }
                SecretSource::Generate { keys } => match self.existing(plan).await? {
                    Some(data) => secrets::body(plan, data, None),
                    None => secrets::body(plan, secrets::generate(keys), None),
                },
            };
            let id = &plan.manifest.id;
            self.writer.apply(id, &self.namespace, &body, MANAGER).await?;
            in_step = false;
        }
        if in_step {
            self.prune_secrets(rendered).await?;
        }
        if self.job.intent.role == Role::Run { Ok(()) } else { self.record(true).await }
    }

    /// A secret that is copied. It is read again when a watch tells that it is another one.
    async fn template(&self, from: &str, copy: &str) -> Result<Original, Failed> {
        let (namespace, seen) = self.look(|inner| (inner.templates_from.clone(), inner.templates.get(from).cloned()));
        let originals = || self.writer.originals.lock().unwrap_or_else(PoisonError::into_inner);
        let known = originals().get(from).filter(|known| Some(&known.slim) == seen.as_ref()).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let api: Api<Secret> = Api::namespaced(self.writer.client.clone(), &namespace);
        // Out of the API server's cache: if it lags, the watch tells of the newer one, and it is copied again.
        let secret = call_opt(&format!("Secret/{from}"), api.get_with(from, &GetParams::any())).await?;
        let secret = secret.ok_or_else(|| Failed::Refused(secrets::no_original(from, copy)))?;
        let of_type = secret.type_.unwrap_or_else(|| secrets::OPAQUE.to_owned());
        if let Some(why) = secrets::not_copied(from, &of_type) {
            return Err(Failed::Refused(why));
        }
        let data = json!(secret.data.unwrap_or_default());
        let original = Original { slim: SlimSecret::new(Some(&of_type), secrets::hashes(&data)), data, of_type };
        originals().insert(from.to_owned(), original.clone());
        Ok(original)
    }

    /// No Secret ever changes its type: a copy of another one than its original goes, to be made anew. What was generated is nowhere else
    /// and stays; the API server says then why it cannot be what it is to be.
    async fn make_way(&self, plan: &SecretPlan, of_type: &str) -> Result<(), Failed> {
        let id = &plan.manifest.id;
        let Some(live) = self.live(id) else { return Ok(()) };
        let is_so = match &live.extra {
            Extra::Secret(slim) => *slim.of_type == *of_type,
            Extra::Nothing | Extra::Claim { .. } => false,
        };
        let was_generated = self.look(|inner| {
            let record = inner.homes.get(&self.namespace).and_then(|home| home.recorded());
            record.is_none_or(|record| record.secrets.get(&id.name).is_some_and(|made| made.generated))
        });
        if is_so || was_generated || !is_ours_to_delete(id, &live) {
            return Ok(());
        }
        self.writer.delete(id, &self.namespace, &live).await
    }

    /// The data of a secret that was generated; `None` if it never was, as far as its record and the volumes that it protects tell.
    async fn existing(&self, plan: &SecretPlan) -> Result<Option<Value>, Failed> {
        let name = &plan.manifest.id.name;
        let lost = |what: &str| Failed::Refused(format!("the secret `{name}` was generated once and {what} is gone: it is not made again"));
        let api: Api<Secret> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        let made =
            self.look(|inner| inner.homes.get(&self.namespace).is_some_and(|home| known::was_generated(inner, home, self.job, name)));
        let Some(there) = call_opt(&format!("Secret/{name}"), api.get(name)).await? else {
            return if made { Err(lost("it")) } else { Ok(None) };
        };
        if there.metadata.deletion_timestamp.is_some() {
            return Err(words::again(format!("Secret/{name} is being deleted")));
        }
        let data = json!(there.data.unwrap_or_default());
        match secrets::missing_key(plan, &secrets::hashes(&data)) {
            Some(key) => Err(lost(&format!("its key `{key}`"))),
            None => Ok(Some(data)),
        }
    }
}
