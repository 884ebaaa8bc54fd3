//! `roadstead pki`: makes, renews, revokes and shows certificates.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::authority::CERTIFICATE_DAYS;
use super::store::Issued;
use super::{Role, Store, Subject, show};
use crate::failure::Failure;
use crate::output::{Cells, Table};

/// Certificates for a trial or a small installation.
#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Make an authority in a folder.
    #[command(after_help = "Examples:\n  roadstead pki init --dir pki")]
    Init(Folder),
    /// Issue a certificate for a role.
    #[command(after_help = "Examples:
  roadstead pki issue replica r1 --dir pki --host r1.example.com
  roadstead pki issue admin alice --dir pki
  roadstead pki issue client shop-portal --owner acme-gmbh --dir pki
  roadstead pki issue issuer r1 --dir pki           # r1 lets agents in
  roadstead pki issue agent eu-1 --dir pki          # the name is the cluster's")]
    Issue(Issue),
    /// Issue certificates again before they end; running replicas take them up without a restart.
    #[command(after_help = "Examples:\n  roadstead pki renew admin-alice --dir pki\n  roadstead pki renew --all --dir pki")]
    Renew(Renew),
    /// Revoke a certificate: give crl.pem to every replica.
    #[command(after_help = "Examples:\n  roadstead pki revoke client-shop-portal --dir pki")]
    Revoke(Revoke),
    /// Show what was issued, or what a certificate file says.
    #[command(after_help = "Examples:\n  roadstead pki show --dir pki\n  roadstead pki show --file pki/admin-alice.crt")]
    Show(Show),
    /// Replace the authority without an outage: both are trusted until --finish.
    #[command(after_help = "Examples:
  roadstead pki rotate-ca --dir pki           # 1. hand out bundle and crl.pem
  roadstead pki renew --all --dir pki         # 2. hand out the new certificates
  roadstead pki rotate-ca --finish --dir pki  # 3. hand out ca-bundle.crt again")]
    RotateCa(Rotate),
}

/// The folder of the authority.
#[derive(Debug, Args)]
pub struct Folder {
    /// Folder of the authority.
    #[arg(long, default_value = "pki", env = "ROADSTEAD_PKI")]
    dir: PathBuf,
}

/// The roles, each with what it may do.
fn roles() -> impl TypedValueParser<Value = Role> {
    let value = |role: Role| {
        PossibleValue::new(role.as_str()).help(match role {
            Role::Replica => "A member of the placement service",
            Role::Admin => "Everything, members and restores included",
            Role::Operator => "Fleet and tenants",
            Role::Viewer => "Reads",
            Role::Client => "Places tenants, perhaps only of certain owners",
            Role::Agent => "The agent of one cluster; its name is the cluster's",
            Role::Issuer => "Signs agents' certificates, for `roadstead server run --issuer-cert`",
        })
    };
    PossibleValuesParser::new(Role::ALL.map(value)).try_map(|text| text.parse::<Role>())
}

/// See [`Pki::Issue`].
#[derive(Debug, Args)]
pub struct Issue {
    /// What its holder may do.
    #[arg(value_parser = roles())]
    role: Role,
    /// Its name; an agent's is its cluster's.
    name: String,
    /// Restrict a client to this owner; repeatable.
    #[arg(long = "owner")]
    owners: Vec<String>,
    /// A further DNS name or address of a replica; repeatable.
    #[arg(long = "host")]
    hosts: Vec<String>,
    /// Days that it is valid.
    #[arg(long, default_value_t = CERTIFICATE_DAYS, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    #[command(flatten)]
    folder: Folder,
}

/// See [`Pki::Renew`].
#[derive(Debug, Args)]
pub struct Renew {
    /// Which, as in admin-alice.
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All that are not revoked.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// With a new key, too.
    #[arg(long)]
    new_key: bool,
    /// Days that it is valid; as before if left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: Option<u64>,
    #[command(flatten)]
    folder: Folder,
}

/// See [`Pki::Revoke`].
#[derive(Debug, Args)]
pub struct Revoke {
    /// Which, as in client-shop-portal.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    folder: Folder,
}

/// See [`Pki::Show`].
#[derive(Debug, Args)]
pub struct Show {
    /// A certificate file instead of the folder.
    #[arg(long)]
    file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

/// See [`Pki::RotateCa`].
#[derive(Debug, Args)]
pub struct Rotate {
    /// End the trust in the previous authority.
    #[arg(long)]
    finish: bool,
    /// Finish although certificates by the previous authority are in use.
    #[arg(long, requires = "finish")]
    force: bool,
    #[command(flatten)]
    folder: Folder,
}

impl Pki {
    /// Carries the verb out.
    ///
    /// # Errors
    /// What failed, and what to do.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init(folder) => init(&folder),
            Self::Issue(issue) => issue.run(),
            Self::Renew(renew) => renew.run(),
            Self::Revoke(revoke) => revoke.run(),
            Self::Show(show) => show.run(),
            Self::RotateCa(rotate) => rotate.run(),
        }
    }
}

fn init(folder: &Folder) -> Result<(), Failure> {
    let store = Store::init(&folder.dir)?;
    let dir = folder.dir.display();
    println!("authority made in {dir}; keep {dir}/ca.key to yourself, give {} to everybody", store.ca_bundle().display());
    println!("\nNext, for each replica and for yourself:");
    println!("  roadstead pki issue replica r1 --dir {dir}\n  roadstead pki issue issuer r1 --dir {dir}    # with it r1 lets agents in");
    println!("  roadstead pki issue admin me --dir {dir}");
    Ok(())
}

impl Issue {
    fn run(self) -> Result<(), Failure> {
        let subject = Subject { role: self.role, name: self.name, owners: self.owners, hosts: self.hosts };
        let mut store = Store::open(&self.folder.dir)?;
        let files = store.issue(&subject, self.days)?;
        println!("{}", files.certificate.display());
        println!("{}", files.key.display());
        if subject.role == Role::Client && subject.owners.is_empty() {
            eprintln!("note: it may place and change the tenants of every owner; --owner restricts it");
        }
        Ok(())
    }
}

impl Renew {
    fn run(self) -> Result<(), Failure> {
        let mut store = Store::open(&self.folder.dir)?;
        let names = if self.all {
            store.current().into_iter().filter(|issued| issued.revoked.is_none()).map(|issued| issued.subject.file_stem()).collect()
        } else {
            self.names
        };
        for name in names {
            let issued = store.renew(&name, self.days, self.new_key)?;
            println!("{} renewed until {}", store.files(&issued.subject).certificate.display(), date(issued.not_after));
        }
        Ok(())
    }
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        let mut store = Store::open(&self.folder.dir)?;
        for name in &self.names {
            let revoked = store.revoke(name)?;
            println!("{name} revoked ({} certificate{})", revoked.len(), if revoked.len() == 1 { "" } else { "s" });
        }
        println!("\nNext: give {}/crl.pem to every replica; they take it up without a restart.", self.folder.dir.display());
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        if let Some(file) = self.file {
            for shown in show::read(&file)? {
                println!("subject     {}", shown.subject);
                println!("issuer      {}", shown.issuer);
                println!("serial      {}", shown.serial);
                println!("valid       {} to {}", shown.not_before, shown.not_after);
                println!("authority   {}", shown.authority);
                for name in &shown.names {
                    println!("name        {name}");
                }
            }
            return Ok(());
        }
        let store = Store::open(&self.folder.dir)?;
        let mut table = Table::new(&["NAME", "ROLE", "OWNERS", "VALID UNTIL", "STATE", "SERIAL"]);
        for issued in store.issued() {
            table.row(row(&store, issued));
        }
        table.print();
        Ok(())
    }
}

fn row(store: &Store, issued: &Issued) -> Cells {
    let state = match issued.revoked {
        Some(at) => format!("revoked {}", date(at)),
        None if issued.not_after <= super::authority::now() => "expired".to_owned(),
        None if store.is_by_previous(issued) => "by the previous authority".to_owned(),
        None => "valid".to_owned(),
    };
    let owners = if issued.subject.owners.is_empty() { "-".to_owned() } else { issued.subject.owners.join(",") };
    vec![issued.subject.file_stem(), issued.subject.role.to_string(), owners, date(issued.not_after), state, issued.serial.clone()]
}

fn date(seconds: u64) -> String {
    i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()).map_or_else(|| seconds.to_string(), |t| t.to_string())
}

impl Rotate {
    fn run(self) -> Result<(), Failure> {
        let mut store = Store::open(&self.folder.dir)?;
        let dir = self.folder.dir.display();
        if self.finish {
            store.finish_rotation(self.force)?;
            println!("the previous authority is no longer trusted\n\nNext: give {dir}/ca-bundle.crt and {dir}/crl.pem to everybody.");
        } else {
            store.begin_rotation()?;
            println!("a new authority signs from now on; {dir}/ca-bundle.crt trusts both");
            println!("\nNext:\n  1. give {dir}/ca-bundle.crt and {dir}/crl.pem to every replica, agent and client");
            println!("  2. roadstead pki renew --all --dir {dir}, and hand out the new certificates");
            println!("  3. roadstead pki rotate-ca --finish --dir {dir}, and hand out ca-bundle.crt again");
        }
        Ok(())
    }
}
