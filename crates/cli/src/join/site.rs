//! How a cluster is furnished: its storage, its entry, its DNS. Flags of `join`, which become flags of its agent.

use clap::Args;
use roadstead_class::{Entry, Site, read_cidr};

use super::added;

/// The namespace of the secrets that classes copy, unless another is named.
const TEMPLATE_NAMESPACE: &str = "roadstead-templates";

/// How a cluster is furnished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cluster")]
pub struct SiteSettings {
    /// Region of the cluster, for expressions of classes.
    #[arg(long)]
    pub region: Option<String>,
    /// Kind of storage, as classes name it, and its StorageClass; repeatable.
    #[arg(long, value_name = "KIND=STORAGECLASS", value_parser = pair)]
    pub storage: Vec<(String, String)>,
    /// StorageClass of every kind of storage that is not mapped.
    #[arg(long, value_name = "STORAGECLASS")]
    pub other_storage: Option<String>,
    /// Hostnames get an Ingress of this class, whose controller lives in that namespace (the class's name if left out).
    #[arg(long, value_name = "CLASS[=NAMESPACE]", conflicts_with = "gateway", value_parser = ingress)]
    pub ingress: Option<(String, String)>,
    /// Hostnames get an HTTPRoute to this Gateway.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = slashed)]
    pub gateway: Option<(String, String)>,
    /// Namespace of the cluster's DNS; kube-system if left out.
    #[arg(long, value_name = "NAMESPACE")]
    pub dns_namespace: Option<String>,
    /// Address at which pods ask for names outside of that namespace, as a CIDR: of NodeLocal DNSCache, say; repeatable.
    #[arg(long = "dns-address", value_name = "CIDR", value_parser = read_cidr)]
    pub dns_addresses: Vec<String>,
    /// Addresses that no tenant may reach, as a CIDR, beside the metadata addresses of the large clouds; repeatable.
    #[arg(long = "deny", value_name = "CIDR", value_parser = read_cidr)]
    pub denied: Vec<String>,
    /// Namespace of the secrets that classes copy; roadstead-templates if left out.
    #[arg(long, value_name = "NAMESPACE")]
    pub template_namespace: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(_, class)| !class.is_empty());
    parts.map(|(kind, class)| (kind.to_owned(), class.to_owned())).ok_or_else(|| "write it as in fast=gp3".to_owned())
}

fn ingress(text: &str) -> Result<(String, String), String> {
    let (class, namespace) = text.split_once('=').unwrap_or((text, text));
    if class.is_empty() || namespace.is_empty() {
        return Err("write it as in nginx, or nginx=ingress-nginx".to_owned());
    }
    Ok((class.to_owned(), namespace.to_owned()))
}

fn slashed(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    parts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).ok_or_else(|| "write it as in gateways/public".to_owned())
}

impl SiteSettings {
    /// What rendering has to know.
    #[must_use]
    pub fn site(&self, cluster: &str) -> Site {
        let entry = match (&self.ingress, &self.gateway) {
            (Some((class, namespace)), _) => Entry::Ingress { class: class.clone(), from_namespace: namespace.clone() },
            (None, Some((namespace, name))) => Entry::Gateway { name: name.clone(), namespace: namespace.clone() },
            (None, None) => Entry::None,
        };
        let mut site = Site {
            cluster: cluster.to_owned(),
            region: self.region.clone().unwrap_or_default(),
            storage: self.storage.iter().cloned().collect(),
            other_storage: self.other_storage.clone(),
            entry,
            dns_namespace: self.dns_namespace.clone().unwrap_or_else(|| Site::default().dns_namespace),
            dns_addresses: self.dns_addresses.clone(),
            ..Site::default()
        };
        let more: Vec<String> = self.denied.iter().filter(|cidr| !site.denied.contains(cidr)).cloned().collect();
        site.denied.extend(more);
        site
    }

    /// The namespace of the secrets that classes copy.
    #[must_use]
    pub fn template_namespace(&self) -> &str {
        self.template_namespace.as_deref().unwrap_or(TEMPLATE_NAMESPACE)
    }

    /// Takes over what was said before and is not said now. Of what may be said several times nothing goes that is not said otherwise: a
    /// kind of storage has one class, a cluster one entry.
    pub fn keep(&mut self, before: Self) {
        let Self { region, storage, other_storage, ingress, gateway, dns_namespace, dns_addresses, denied, template_namespace } = before;
        self.region = self.region.take().or(region);
        self.storage = added(storage, &self.storage, |one, other| one.0 == other.0);
        self.other_storage = self.other_storage.take().or(other_storage);
        if self.ingress.is_none() && self.gateway.is_none() {
            (self.ingress, self.gateway) = (ingress, gateway);
        }
        self.dns_namespace = self.dns_namespace.take().or(dns_namespace);
        self.dns_addresses = added(dns_addresses, &self.dns_addresses, |one, other| one == other);
        self.denied = added(denied, &self.denied, |one, other| one == other);
        self.template_namespace = self.template_namespace.take().or(template_namespace);
    }

    /// The flags that say the same; what is as usual is left out.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: &str| flags.push(format!("--{name}={value}"));
        if let Some(region) = self.region.as_ref().filter(|region| !region.is_empty()) {
            flag("region", region);
        }
        for (kind, class) in &self.storage {
            flag("storage", &format!("{kind}={class}"));
        }
        if let Some(class) = &self.other_storage {
            flag("other-storage", class);
        }
        if let Some((class, namespace)) = &self.ingress {
            flag("ingress", &format!("{class}={namespace}"));
        }
        if let Some((namespace, name)) = &self.gateway {
            flag("gateway", &format!("{namespace}/{name}"));
        }
        if let Some(namespace) = self.dns_namespace.as_ref().filter(|namespace| **namespace != Site::default().dns_namespace) {
            flag("dns-namespace", namespace);
        }
        for cidr in &self.dns_addresses {
            flag("dns-address", cidr);
        }
        for cidr in &self.denied {
            flag("deny", cidr);
        }
        if let Some(namespace) = self.template_namespace.as_ref().filter(|namespace| *namespace != TEMPLATE_NAMESPACE) {
            flag("template-namespace", namespace);
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use roadstead_class::METADATA;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        site: SiteSettings,
    }

    fn read(flags: &[String]) -> SiteSettings {
        Flags::try_parse_from(std::iter::once("agent".to_owned()).chain(flags.iter().cloned())).expect("they are flags").site
    }

    #[test]
    fn an_agent_reads_from_its_flags_what_join_was_told() {
        assert_eq!(read(&[]), SiteSettings::default());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let told = SiteSettings {
            region: Some("eu-central".to_owned()),
            storage: vec![pair("fast", "gp3"), pair("", "usual")],
            other_storage: Some("slow".to_owned()),
            ingress: Some(pair("nginx", "entry")),
            gateway: None,
            dns_namespace: Some("dns".to_owned()),
            dns_addresses: vec!["169.254.20.10/32".to_owned()],
            denied: vec!["10.0.0.0/8".to_owned()],
            template_namespace: Some("shared".to_owned()),
        };
        assert_eq!(read(&told.flags()), told);
        let told = SiteSettings { ingress: None, gateway: Some(pair("gateways", "public")), ..told };
        assert_eq!(read(&told.flags()), told);
        assert_eq!(told.site("eu-1").dns_addresses, ["169.254.20.10/32"]);
        assert_eq!(told.site("eu-1").entry, Entry::Gateway { name: "public".to_owned(), namespace: "gateways".to_owned() });
    }

    #[test]
    fn what_is_not_said_again_stays_and_what_is_said_otherwise_does_not() {
        let read = |flags: &[&str]| read(&flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>());
        let before = [
            "--region=eu",
            "--storage=fast=gp3",
            "--storage=bulk=st1",
            "--ingress=nginx=entry",
            "--dns-namespace=dns",
            "--deny=10.0.0.0/8",
        ];
        let mut same = read(&[]);
        same.keep(read(&before));
        assert_eq!(same, read(&before));
        let now =
            ["--storage=bulk=sc1", "--storage=cold=sc1", "--gateway=gateways/public", "--dns-namespace=kube-system", "--deny=10.1.0.0/16"];
        let mut other = read(&now);
        other.keep(read(&before));
        let stays = [
            "--region=eu",
            "--storage=fast=gp3",
            "--storage=bulk=sc1",
            "--storage=cold=sc1",
            "--gateway=gateways/public",
            "--deny=10.0.0.0/8",
            "--deny=10.1.0.0/16",
        ];
        assert_eq!(other.flags(), stays);
    }

    #[test]
    fn an_address_that_is_no_block_is_refused_before_any_tenant_is_rendered() {
        for flag in ["--dns-address=169.254.20.10", "--deny=10.0.0.1/8"] {
            assert!(Flags::try_parse_from(["agent", flag]).is_err(), "{flag}");
        }
    }

    #[test]
    fn whatever_a_site_denies_of_its_own_it_denies_the_clouds_metadata() {
        assert_eq!(SiteSettings::default().site("eu-1").denied, METADATA);
        let told = read(&["--deny=10.0.0.0/8".to_owned(), "--deny=169.254.0.0/16".to_owned()]);
        assert_eq!(told.site("eu-1").denied, [&METADATA[..], &["10.0.0.0/8"]].concat());
    }
}
