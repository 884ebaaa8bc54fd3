//! `watch`: every change once, in order, over failures of replicas.

use clap::Args;
use roadstead_api::v1;
use roadstead_api::v1::watch_event::Object as Changed;

use super::kinds::{Word, kind};
use crate::client::Connection;
use crate::client::follow::{Follow, Heard};
use crate::document::Kind;
use crate::failure::Failure;
use crate::output::objects::Object;
use crate::output::{Format, json, out, status, tell, yaml};

/// See [`super::Cli`].
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  roadstead watch                              # everything, from now on
  roadstead watch tenants --owner acme-gmbh
  roadstead watch clusters --initial -o yaml   # the present state first

Ends with Ctrl-C. When a replica goes away it goes on with the next one, without a gap and without a duplicate.")]
pub struct Watch {
    /// Kinds; all if left out.
    #[arg(value_parser = Word, hide_possible_values = true)]
    kinds: Vec<String>,
    /// Only tenants of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// Only this cluster, and tenants on it.
    #[arg(long)]
    cluster: Option<String>,
    /// The present state first.
    #[arg(long)]
    initial: bool,
    /// How to write it; table is one line a change.
    #[arg(short, long, default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

impl Watch {
    /// Follows until interrupted.
    ///
    /// # Errors
    /// A refusal, or a history that no longer reaches back.
    pub async fn run(self) -> Result<(), Failure> {
        let kinds: Vec<Kind> = self.kinds.iter().map(|text| kind(text)).collect::<Result<_, _>>().map_err(Failure::usage)?;
        self.check_filters(&kinds)?;
        let wire = |kind: &Kind| match kind {
            Kind::Policy => v1::WatchKind::Policy,
            Kind::Pool => v1::WatchKind::Pool,
            Kind::Class => v1::WatchKind::Class,
            Kind::Cluster => v1::WatchKind::Cluster,
            Kind::Tenant => v1::WatchKind::Tenant,
        };
        let request = v1::WatchRequest {
            kinds: kinds.iter().map(|kind| wire(kind).into()).collect(),
            cluster: self.cluster.clone().unwrap_or_default(),
            owner: self.owner.clone().unwrap_or_default(),
            with_initial_state: self.initial,
            ..v1::WatchRequest::default()
        };
        let mut follow = Follow::new(self.connection.connect()?, request);
        loop {
            match follow.next().await? {
                Heard::Event(revision, event) => {
                    if !self.show(&revision, *event)? {
                        return Ok(());
                    }
                }
                Heard::InitialStateBeginsAgain => eprintln!("the replica went away: the state begins again"),
                Heard::InitialStateComplete(revision) => {
                    if self.output == Format::Table {
                        out(&format!("-- the state as of revision {} is complete; changes follow --\n", status::revision(Some(&revision))));
                    }
                }
            }
        }
    }

    /// Refuses a filter that would hide all of a kind that was asked for.
    fn check_filters(&self, kinds: &[Kind]) -> Result<(), Failure> {
        let refused = |filter: &str, kind: &Kind, shows: &str| {
            let kind = kind.plural();
            Err(Failure::usage(format!("{filter} does not apply to {kind}: it shows {shows} only"))
                .hint(format!("watch {kind} without {filter}, in a command of their own")))
        };
        let hidden_by_owner = kinds.iter().find(|kind| **kind != Kind::Tenant).filter(|_| self.owner.is_some());
        if let Some(kind) = hidden_by_owner {
            return refused("--owner", kind, "tenants");
        }
        let hidden_by_cluster = kinds.iter().find(|kind| !matches!(kind, Kind::Tenant | Kind::Cluster)).filter(|_| self.cluster.is_some());
        if let Some(kind) = hidden_by_cluster {
            return refused("--cluster", kind, "that cluster and its tenants");
        }
        Ok(())
    }

    /// Tells whether somebody still reads it.
    fn show(&self, revision: &v1::Revision, event: v1::WatchEvent) -> Result<bool, Failure> {
        let how = match event.r#type() {
            v1::watch_event::Type::Unspecified => "UNKNOWN",
            v1::watch_event::Type::Initial => "INITIAL",
            v1::watch_event::Type::Added => "ADDED",
            v1::watch_event::Type::Modified => "MODIFIED",
            v1::watch_event::Type::Deleted => "DELETED",
        };
        let ordinal = event.ordinal;
        let object = match event.object {
            None => return Ok(true),
            Some(Changed::Tenant(tenant)) => Object::Tenant(Box::new(tenant)),
            Some(Changed::Cluster(cluster)) => Object::Cluster(Box::new(cluster)),
            Some(Changed::Pool(pool)) => Object::Pool(pool),
            Some(Changed::Class(class)) => Object::Class(Box::new(class)),
            Some(Changed::Policy(policy)) => Object::Policy(policy),
        };
        let position = format!("{}/{ordinal}", status::revision(Some(revision)));
        Ok(match self.output {
            Format::Name => tell(&format!("{}\n", object.identity())),
            Format::Yaml => tell(&format!("--- # {how} {position}\n{}", yaml(&[object.document(true)])?)),
            Format::Json => {
                let value = serde_json::json!({ "type": how, "revision": position, "object": object.document(true) });
                tell(&format!("{}\n", serde_json::to_string(&value).unwrap_or(json(&value)?)))
            }
            Format::Table | Format::Wide => {
                let cells = object.cells(self.output == Format::Wide);
                tell(&format!("{position:<12} {how:<8} {:<7} {}\n", object.kind().lower(), cells.join("  ")))
            }
        })
    }
}
