//! Joining again: what is read of the agent that is there, and what is told of what stays and what goes.
//!
//! Which flags there are to say it with it does not know.

use super::cluster::KubeCluster;
use super::furniture::named;
use super::needs::Known;
use super::rights::{Beyond, Rule, about};
use super::{AGENT, Stated, confine, is_loopback};
use crate::failure::Failure;

/// What to do where classes are not named.
const NAME_CLASSES: &str = "name all classes with -f, or ask the service with --from-service";
/// What to do where classes are named and one of them is of a later version.
const NAME_READABLE: &str = "use a newer `roadstead`, or name the classes with -f";

/// What was said of the agent that is there; `None` if there is none.
///
/// # Errors
/// The API server's; what is not as joining writes it.
pub async fn read(kube: &KubeCluster) -> Result<Option<Stated>, Failure> {
    let Some(deployment) = kube.read("apps/v1", "Deployment", AGENT).await? else { return Ok(None) };
    let policy = kube.read("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", confine::KINDS).await?;
    let read = Stated::read(&deployment, policy.as_ref()).map_err(|why| {
        Failure::failed(format!("the Deployment that is there is not as `join` writes it: {why}"))
            .hint("take out what was put in by hand: kubectl -n roadstead-system edit deployment roadstead-agent")
            .hint("or take nothing over from it, and say all flags: --anew")
    });
    read.map(Some)
}

/// Refuses to take over what was said of another cluster's agent.
///
/// # Errors
/// Whose it is.
pub fn check_cluster(before: &Stated, cluster: &str) -> Result<(), Failure> {
    before.check_cluster(cluster).map_err(|why| Failure::failed(why).hint("is --kube-context the right one? --anew replaces it"))
}

/// Rights for classes that nobody named now, as far as they are kept; and what is to be said of it.
#[must_use]
pub fn keep_rights(beyond: Beyond, known: Known, anew: bool) -> (Vec<Rule>, Vec<String>) {
    let Beyond { kept, refused } = beyond;
    if known == Known::All || anew {
        let all = about(&[kept, refused].concat());
        let said = format!("the agent loses its rights for {all}, which no class that is named needs; if tenants do, {NAME_CLASSES}");
        return (Vec::new(), if all.is_empty() { Vec::new() } else { vec![said] });
    }
    let (what, to_do) = (about(&kept), if known == Known::Some { NAME_READABLE } else { NAME_CLASSES });
    let mut said = Vec::new();
    if !refused.is_empty() {
        let lost = about(&refused);
        said.push(format!("the agent loses its rights for {lost}, which no class should bring; if one that is in use does, {to_do}"));
    }
    match known {
        Known::Nothing if kept.is_empty() => said.push(no_class()),
        Known::Some if !kept.is_empty() => said.push(format!(
            "the agent keeps its rights for {what}, because this version cannot read one of the classes that are named: {to_do}"
        )),
        Known::Nothing => said.push(format!("the agent keeps its rights for {what}; to have them follow from classes, {to_do}")),
        Known::Some | Known::All => {}
    }
    (kept, said)
}

/// What is said where no class is named.
#[must_use]
pub fn no_class() -> String {
    format!("no class is named, so that the agent has rights for what every class may bring only; {NAME_CLASSES}")
}

/// What is said where the agent is to look for replicas elsewhere than before.
#[must_use]
pub fn moved(before: &[String], now: &[String]) -> Option<String> {
    let is_moved = !before.is_empty() && before != now;
    is_moved.then(|| format!("the agent is to look for replicas at {}, and no more at {}", now.join(", "), before.join(", ")))
}

/// The region is that of the cluster's document, unless it is said now or was when the cluster joined.
pub fn take_region(stated: &mut Stated, kept: &mut Vec<String>, declared: String) {
    match &stated.site.region {
        None => stated.site.region = Some(declared),
        Some(region) if *region == declared => kept.retain(|flag| *flag != format!("--region={region}")),
        Some(region) if kept.contains(&format!("--region={region}")) && !declared.is_empty() => {
            eprintln!("note: the cluster's document has another region: --region {declared} takes it over");
        }
        Some(_) => {}
    }
}

/// One line with all that was taken over.
pub fn tell_kept(kept: &[String]) {
    if !kept.is_empty() {
        let flags: Vec<String> = kept.iter().map(|flag| flag.replacen('=', " ", 1)).collect();
        eprintln!("note: kept from the Deployment that is there: {} (--anew keeps nothing)", flags.join(", "));
    }
}

/// What flags name and the cluster does not have: nothing is wrong with that as long as it comes before tenants do.
pub async fn tell_absent(kube: &KubeCluster, stated: &Stated) {
    for named in named(&stated.site, &stated.counting) {
        match kube.has(&named).await {
            Ok(true) => {}
            Ok(false) => eprintln!("note: {}", named.is_absent()),
            Err(failure) => eprintln!("note: {}; {} is taken to be right", failure.message, named.flag),
        }
    }
}

/// Addresses that are other ones in each pod.
pub fn warn_of_loopback(servers: &[String]) {
    let own: Vec<&str> = servers.iter().map(String::as_str).filter(|server| is_loopback(server)).collect();
    if !own.is_empty() {
        eprintln!(
            "warning: the agent will look for replicas at {}, which from within a pod is that pod itself: name them as pods reach \
             them, with --server HOST:PORT",
            own.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::join::tests::example;
    use crate::join::{SiteSettings, WHY, rights};

    fn beyond() -> Beyond {
        let verbs = ["get", "list", "watch", "create", "patch", "delete"];
        let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let why = "dbs of db.example.com: a kind that classes bring\nhelmcharts of helm.cattle.io: a kind that classes bring\n";
        let rules = [rule("db.example.com", "dbs"), rule("helm.cattle.io", "helmcharts")];
        rights::beyond(&example(), &json!({"metadata": {"annotations": {WHY: why}}, "rules": rules}))
    }

    #[test]
    fn rights_are_kept_where_not_all_classes_are_known_and_it_is_said_what_to_do_about_it() {
        let (kept, said) = keep_rights(beyond(), Known::Nothing, false);
        assert_eq!(about(&kept), "dbs.db.example.com");
        assert!(said[0].starts_with("the agent loses its rights for helmcharts.helm.cattle.io, which no class should bring;"), "{said:?}");
        assert!(said[1].starts_with("the agent keeps its rights for dbs.db.example.com;") && said[1].ends_with(NAME_CLASSES), "{said:?}");

        let (kept, said) = keep_rights(beyond(), Known::Some, false);
        assert_eq!(about(&kept), "dbs.db.example.com");
        assert!(said[1].contains("this version cannot read one of the classes"), "{said:?}");
        assert!(said.iter().all(|said| said.ends_with(NAME_READABLE)), "the service was asked already: {said:?}");

        for (known, anew) in [(Known::All, false), (Known::Nothing, true)] {
            let (kept, said) = keep_rights(beyond(), known, anew);
            assert_eq!((kept, said.len()), (Vec::new(), 1));
            assert!(said[0].contains("loses its rights for dbs.db.example.com, helmcharts.helm.cattle.io"), "{said:?}");
        }
        assert_eq!(keep_rights(Beyond::default(), Known::All, false), (Vec::new(), Vec::new()));
        assert_eq!(keep_rights(Beyond::default(), Known::Nothing, false), (Vec::new(), vec![no_class()]));
    }

    #[test]
    fn the_agent_of_another_cluster_is_not_taken_over() {
        let before = Stated { cluster: Some("eu-2".to_owned()), ..Stated::default() };
        assert!(check_cluster(&before, "eu-2").is_ok());
        let refused = check_cluster(&before, "eu-1").expect_err("it is another one");
        assert_eq!(refused.message, "the agent that is there is cluster \"eu-2\"'s, not \"eu-1\"'s");
        assert!(refused.hints.iter().any(|hint| hint.contains("--kube-context")), "{refused:?}");
    }

    #[test]
    fn addresses_that_take_the_place_of_others_are_told() {
        let at = |servers: &[&str]| servers.iter().map(|&server| server.to_owned()).collect::<Vec<_>>();
        let said = moved(&at(&["r1:7420", "r2:7420"]), &at(&["r3:7420"]));
        assert_eq!(said.as_deref(), Some("the agent is to look for replicas at r3:7420, and no more at r1:7420, r2:7420"));
        assert_eq!((moved(&at(&["r1:7420"]), &at(&["r1:7420"])), moved(&[], &at(&["r1:7420"]))), (None, None));
    }

    #[test]
    fn the_region_is_the_documents_unless_it_was_said() {
        let with = |region: Option<&str>| {
            let site = SiteSettings { region: region.map(str::to_owned), ..SiteSettings::default() };
            Stated { site, ..Stated::default() }
        };
        let taken = |region: Option<&str>, kept: &[&str]| {
            let (mut stated, mut kept) = (with(region), kept.iter().map(|&flag| flag.to_owned()).collect());
            take_region(&mut stated, &mut kept, "eu".to_owned());
            (stated.site.region.unwrap_or_default(), kept)
        };
        let flag = |region: &str| vec![format!("--region={region}")];
        assert_eq!(taken(None, &[]), ("eu".to_owned(), Vec::new()));
        assert_eq!(taken(Some("eu"), &["--region=eu"]), ("eu".to_owned(), Vec::new()), "nothing to tell");
        assert_eq!(taken(Some("fra"), &["--region=fra"]), ("fra".to_owned(), flag("fra")));
        assert_eq!(taken(Some("fra"), &[]), ("fra".to_owned(), Vec::new()));
    }
}
