//! What is taken to be in a cluster: the storage that classes want, and what flags name.
//!
//! What is to be said if it is not; whether it is there it does not know.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_api::v1;

use super::{Counting, SiteSettings};

/// The kinds of storage that classes want, each with those classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storages(BTreeMap<String, BTreeSet<String>>);

impl Storages {
    /// Takes note of what a class wants.
    pub fn add(&mut self, class: &v1::Class) {
        for volume in &class.volumes {
            self.0.entry(volume.storage.clone()).or_default().insert(format!("{}@{}", class.name, class.version));
        }
    }

    /// One sentence for each kind of storage that would keep tenants from running, because a cluster that is furnished so has none of it.
    #[must_use]
    pub fn unmapped(&self, site: &SiteSettings) -> Vec<String> {
        // Without a kind it is the cluster's default StorageClass.
        let is_mapped =
            |kind: &str| kind.is_empty() || site.other_storage.is_some() || site.storage.iter().any(|(mapped, _)| mapped == kind);
        let sentence = |(kind, classes): (&String, &BTreeSet<String>)| {
            let first = classes.first().map(String::as_str).unwrap_or_default();
            let who = match classes.len() {
                0 | 1 => format!("class {first} wants"),
                several => format!("class {first} and {} more want", several - 1),
            };
            format!("{who} storage {kind:?}, which is not mapped: --storage {kind}=STORAGECLASS")
        };
        self.0.iter().filter(|(kind, _)| !is_mapped(kind)).map(sentence).collect()
    }
}

/// An object of the cluster that a flag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As in `storage.k8s.io/v1`.
    pub api_version: &'static str,
    /// As in `StorageClass`.
    pub kind: &'static str,
    /// The namespace that it is in.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The flag with its value.
    pub flag: String,
}

impl Named {
    /// What is said if it is not there.
    #[must_use]
    pub fn is_absent(&self) -> String {
        let Self { kind, namespace, name, flag, .. } = self;
        let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        format!("the cluster has no {kind} {namespace}{name}, which {flag} names; it may be made later")
    }
}

/// All that flags name, each once.
#[must_use]
pub fn named(site: &SiteSettings, counting: &Counting) -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    let mut name = |(api_version, kind): (&'static str, &'static str), namespace: Option<&String>, name: &str, flag: String| {
        if !all.iter().any(|named| named.kind == kind && named.name == name) {
            all.push(Named { api_version, kind, namespace: namespace.cloned(), name: name.to_owned(), flag });
        }
    };
    let storage = ("storage.k8s.io/v1", "StorageClass");
    for (kind, class) in &site.storage {
        name(storage, None, class, format!("--storage {kind}={class}"));
    }
    if let Some(class) = &site.other_storage {
        name(storage, None, class, format!("--other-storage {class}"));
    }
    for (class, size) in &counting.storage_sizes {
        name(storage, None, class, format!("--storage-size {class}={size}"));
    }
    if let Some((class, namespace)) = &site.ingress {
        let flag = format!("--ingress {class}={namespace}");
        name(("networking.k8s.io/v1", "IngressClass"), None, class, flag.clone());
        name(("v1", "Namespace"), None, namespace, flag);
    }
    if let Some((namespace, gateway)) = &site.gateway {
        name(("gateway.networking.k8s.io/v1", "Gateway"), Some(namespace), gateway, format!("--gateway {namespace}/{gateway}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::quantity::Bytes;

    fn class(version: &str, storages: &[&str]) -> v1::Class {
        let volumes = storages.iter().map(|&storage| v1::VolumeSpec { storage: storage.to_owned(), ..v1::VolumeSpec::default() });
        v1::Class { name: "blog".to_owned(), version: version.to_owned(), volumes: volumes.collect(), ..v1::Class::default() }
    }

    fn pair(one: &str, other: &str) -> (String, String) {
        (one.to_owned(), other.to_owned())
    }

    #[test]
    fn storage_that_is_not_mapped_is_said_once_for_each_kind() {
        let mut wanted = Storages::default();
        wanted.add(&class("1.0.2", &["fast", "fast", ""]));
        let site = SiteSettings::default();
        assert_eq!(wanted.unmapped(&site), ["class blog@1.0.2 wants storage \"fast\", which is not mapped: --storage fast=STORAGECLASS"]);
        for version in ["1.0.3", "1.0.4"] {
            wanted.add(&class(version, &["fast", "bulk"]));
        }
        let said = wanted.unmapped(&site);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("class blog@1.0.3 and 1 more want storage \"bulk\""), "{said:?}");
        assert!(said[1].starts_with("class blog@1.0.2 and 2 more want storage \"fast\""), "{said:?}");
        let mapped = SiteSettings { storage: vec![pair("fast", "gp3")], ..SiteSettings::default() };
        assert!(wanted.unmapped(&mapped).iter().all(|said| said.contains("\"bulk\"")));
        let other = SiteSettings { other_storage: Some("slow".to_owned()), ..SiteSettings::default() };
        assert_eq!(wanted.unmapped(&other), Vec::<String>::new());
    }

    #[test]
    fn what_flags_name_is_looked_for_once_and_told_with_the_flag() {
        let site = SiteSettings {
            storage: vec![pair("fast", "nosuch"), pair("bulk", "nosuch")],
            other_storage: Some("slow".to_owned()),
            ingress: Some(pair("foo", "entry")),
            ..SiteSettings::default()
        };
        let counting = Counting { storage_sizes: vec![("gp3".to_owned(), Bytes(1 << 40))], ..Counting::default() };
        let said: Vec<String> = named(&site, &counting).iter().map(Named::is_absent).collect();
        assert_eq!(
            said,
            [
                "the cluster has no StorageClass nosuch, which --storage fast=nosuch names; it may be made later",
                "the cluster has no StorageClass slow, which --other-storage slow names; it may be made later",
                "the cluster has no StorageClass gp3, which --storage-size gp3=1Ti names; it may be made later",
                "the cluster has no IngressClass foo, which --ingress foo=entry names; it may be made later",
                "the cluster has no Namespace entry, which --ingress foo=entry names; it may be made later",
            ]
        );
        let gateway = SiteSettings { gateway: Some(pair("gateways", "public")), ..SiteSettings::default() };
        let said: Vec<String> = named(&gateway, &Counting::default()).iter().map(Named::is_absent).collect();
        assert_eq!(said, ["the cluster has no Gateway gateways/public, which --gateway gateways/public names; it may be made later"]);
        assert_eq!(named(&SiteSettings::default(), &Counting::default()), []);
    }
}
