//! What was said when a cluster joined, read from the Deployment that is there: joining again forgets nothing of it.
//!
//! The objects are handed to it; how they are read from a cluster it does not know.

use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use serde_json::Value;

use super::{Counting, Running, SiteSettings, confine, workload};

/// Flags of the Deployment that say nothing to be kept: they follow from how it joins.
const FOLLOWING: [&str; 6] = ["identity-secret", "token-file", "ca", "cert", "key", "probe-image"];
/// The flag of the cluster's name.
const CLUSTER: &str = "cluster";
/// The flag of the replicas' addresses.
const SERVER: &str = "server";

/// What is said of an agent, now or before; what is left out is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// Whose agent it is.
    pub cluster: Option<String>,
    /// The image with the binary.
    pub image: Option<String>,
    /// Where the agent reaches the replicas.
    pub servers: Vec<String>,
    /// The Secret with a certificate that it does not renew itself.
    pub certificate_secret: Option<String>,
    /// Whether tenants' pods may do anything.
    pub privileged: bool,
    /// How the cluster is furnished.
    pub site: SiteSettings,
    /// What counts there and cannot be seen.
    pub counting: Counting,
    /// How the agent works.
    pub running: Running,
}

impl Stated {
    /// The flags of `join` that say the same.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let one = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("--{name}={value}"));
        let mut flags: Vec<String> =
            one("image", &self.image).into_iter().chain(one("certificate-secret", &self.certificate_secret)).collect();
        flags.extend(self.servers.iter().map(|server| format!("--{SERVER}={server}")));
        flags.extend(self.privileged.then(|| "--allow-privileged".to_owned()));
        flags.extend(self.site.flags());
        flags.extend(self.counting.flags());
        flags.extend(self.running.flags());
        flags
    }

    /// Takes over what was said before and is not said now: those flags.
    pub fn keep(&mut self, before: Self) -> Vec<String> {
        let now = self.flags();
        let Self { cluster: _, image, servers, certificate_secret, privileged, site, counting, running } = before;
        self.image = self.image.take().or(image);
        if self.servers.is_empty() {
            // Not added to: where replicas were is of no use.
            self.servers = servers;
        }
        self.certificate_secret = self.certificate_secret.take().or(certificate_secret);
        self.privileged |= privileged;
        self.site.keep(site);
        self.counting.keep(counting);
        self.running.keep(running);
        self.flags().into_iter().filter(|flag| !now.contains(flag)).collect()
    }

    /// Whether it is said of this cluster's agent.
    ///
    /// # Errors
    /// Plain words about whose it is instead.
    pub fn check_cluster(&self, cluster: &str) -> Result<(), String> {
        match &self.cluster {
            Some(other) if other != cluster => Err(format!("the agent that is there is cluster {other:?}'s, not {cluster:?}'s")),
            Some(_) | None => Ok(()),
        }
    }

    /// What the Deployment that is there says, and the policy about tenants' namespaces.
    ///
    /// # Errors
    /// Plain words about what of it is not as `join` writes it.
    pub fn read(deployment: &Value, policy: Option<&Value>) -> Result<Self, String> {
        let pod = &deployment["spec"]["template"]["spec"];
        let named = |list: &Value, name: &str| list.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned();
        let container = named(&pod["containers"], workload::CONTAINER).ok_or("it has no container `agent`")?;
        let args = container["args"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |error: clap::Error| error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let matches = flags_of_the_agent().try_get_matches_from(args.iter().filter_map(Value::as_str)).map_err(read)?;
        let mounted =
            named(&pod["volumes"], workload::PKI_VOLUME).and_then(|volume| Some(volume["secret"]["secretName"].as_str()?.to_owned()));
        Ok(Self {
            cluster: matches.get_one(CLUSTER).cloned(),
            image: container["image"].as_str().map(str::to_owned),
            servers: matches.get_many(SERVER).into_iter().flatten().cloned().collect(),
            certificate_secret: mounted,
            privileged: policy.is_some_and(confine::is_privileged),
            site: SiteSettings::from_arg_matches(&matches).map_err(read)?,
            counting: Counting::from_arg_matches(&matches).map_err(read)?,
            running: Running::from_arg_matches(&matches).map_err(read)?,
        })
    }
}

/// The flags that `join` writes, by the definitions that `join` and `agent` have; what an environment says is of no matter for them.
fn flags_of_the_agent() -> Command {
    let command = Command::new("agent").no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
    let servers = Arg::new(SERVER).long(SERVER).action(ArgAction::Append).value_delimiter(',');
    let command = command.args(FOLLOWING.map(|name| Arg::new(name).long(name))).args([Arg::new(CLUSTER).long(CLUSTER), servers]);
    Running::augment_args(Counting::augment_args(SiteSettings::augment_args(command)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::running::OnDrift;
    use super::*;
    use crate::join::tests::{example, with_token};
    use crate::join::{Certificate, Joining};

    fn furnished() -> Stated {
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        Stated {
            cluster: Some("eu-1".to_owned()),
            image: Some("registry/roadstead:1".to_owned()),
            servers: vec!["r1:7420".to_owned(), "r2:7420".to_owned()],
            certificate_secret: None,
            privileged: true,
            site: SiteSettings {
                region: Some("eu".to_owned()),
                storage: vec![pair("fast", "gp3")],
                other_storage: Some("slow".to_owned()),
                ingress: Some(pair("nginx", "entry")),
                dns_addresses: vec!["169.254.20.10/32".to_owned()],
                denied: vec!["10.0.0.0/8".to_owned()],
                ..SiteSettings::default()
            },
            counting: Counting {
                storage_sizes: vec![("gp3".to_owned(), crate::document::quantity::Bytes(1 << 40))],
                ..Counting::default()
            },
            running: Running { on_drift: Some(OnDrift::Report), ..Running::default() },
        }
    }

    fn joining(stated: Stated) -> Joining {
        let Stated { cluster, image, servers, certificate_secret, privileged, site, counting, running } = stated;
        let cluster = cluster.unwrap_or_default();
        let joining = Joining { cluster, image: image.unwrap_or_default(), servers, privileged, site, counting, running, ..with_token() };
        let certificate = certificate_secret.map_or(joining.certificate.clone(), Certificate::Secret);
        Joining { certificate, ..joining }
    }

    /// What is read of a cluster that has joined so.
    fn read(stated: Stated) -> Result<Stated, String> {
        let manifests = joining(stated).manifests();
        let policy = manifests.iter().find(|manifest| manifest["metadata"]["name"] == confine::KINDS);
        Stated::read(manifests.last().expect("there are some"), policy)
    }

    #[test]
    fn what_a_cluster_joined_with_is_read_back_from_it() {
        assert_eq!(read(furnished()), Ok(furnished()));
        let given = Stated { certificate_secret: Some("agent-pki".to_owned()), privileged: false, ..furnished() };
        assert_eq!(read(given.clone()), Ok(given));
    }

    #[test]
    fn joining_again_with_no_flag_writes_what_is_there_and_tells_what_it_took_over() {
        let mut again = Stated { cluster: Some("eu-1".to_owned()), ..Stated::default() };
        let kept = again.keep(read(furnished()).expect("it is ours"));
        assert_eq!(joining(again).manifests(), joining(furnished()).manifests());
        for flag in ["--ingress=nginx=entry", "--storage=fast=gp3", "--deny=10.0.0.0/8", "--allow-privileged", "--on-drift=report"] {
            assert!(kept.contains(&flag.to_owned()), "{flag}: {kept:?}");
        }
    }

    #[test]
    fn what_is_said_again_is_not_told_as_taken_over() {
        let mut same = furnished();
        assert_eq!(same.keep(furnished()), Vec::<String>::new());
        let mut moved = Stated { servers: vec!["r3:7420".to_owned()], ..Stated::default() };
        moved.keep(furnished());
        assert_eq!(moved.servers, ["r3:7420"]);
    }

    #[test]
    fn an_agent_of_another_cluster_is_known_for_what_it_is() {
        let stated = read(furnished()).expect("it is ours");
        assert_eq!(stated.check_cluster("eu-1"), Ok(()));
        assert_eq!(stated.check_cluster("eu-2"), Err("the agent that is there is cluster \"eu-1\"'s, not \"eu-2\"'s".to_owned()));
    }

    #[test]
    fn what_join_does_not_write_is_told_and_not_dropped() {
        let mut deployment = joining(furnished()).manifests().pop().expect("there are some");
        let args = &mut deployment["spec"]["template"]["spec"]["containers"][0]["args"];
        args.as_array_mut().expect("it has arguments").push(json!("--lease=by-hand"));
        assert!(Stated::read(&deployment, None).expect_err("it is unknown").contains("--lease"));
        assert!(Stated::read(&json!({}), None).expect_err("it is none").contains("no container"));
        let plain = example().manifests().pop().expect("there are some");
        assert_eq!(Stated::read(&plain, None).map(|stated| stated.certificate_secret), Ok(Some("given".to_owned())));
    }
}
