//! What is written down of a tenant, in its folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use roadstead_core::id::{Epoch, Incarnation, TenantId};
use serde::{Deserialize, Serialize};

use super::process::{Identity, Process, Program};

/// The file.
pub(super) const FILE: &str = "tenant.json";

/// A volume that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    /// Which one; also in a file within its folder.
    pub(super) uid: String,
    /// How large it is called: nothing enforces it here.
    pub(super) bytes: u64,
}

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    /// Program and arguments.
    pub(super) run: Vec<String>,
    /// Added to its environment.
    pub(super) env: BTreeMap<String, String>,
    /// See [`Program`].
    #[serde(default)]
    pub(super) secrets: String,
    /// Which one runs.
    pub(super) identity: Option<Identity>,
}

impl Started {
    /// As it runs now.
    pub(super) fn of(process: &Process) -> Self {
        let Program { run, env, secrets } = process.program.clone();
        Self { run, env, secrets, identity: process.identity() }
    }

    /// What was started.
    pub(super) fn program(&self) -> Program {
        Program { run: self.run.clone(), env: self.env.clone(), secrets: self.secrets.clone() }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// 16 hexadecimal digits.
    pub(super) tenant: String,
    /// Incarnation and index.
    pub(super) epoch: (u16, u64),
    /// Its bounds as they were made: their digest.
    pub(super) bounds: Option<String>,
    /// Its way in as it was made: its digest.
    pub(super) routes: Option<String>,
    /// Secrets that were made.
    pub(super) secrets: Vec<String>,
    /// By name.
    pub(super) volumes: BTreeMap<String, Volume>,
    /// By workload; `None` while nothing is to run.
    pub(super) workloads: Option<BTreeMap<String, Started>>,
}

impl Record {
    pub(super) fn id(&self) -> Option<TenantId> {
        u64::from_str_radix(&self.tenant, 16).ok().map(TenantId)
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch { incarnation: Incarnation(self.epoch.0), index: self.epoch.1 }
    }

    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(FILE))?).map_err(io::Error::other)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        write_whole(&folder.join(FILE), &serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }
}

/// The record that is being written, of a tenant's folder.
pub(super) fn begun(folder: &Path) -> PathBuf {
    beside(&folder.join(FILE))
}

/// Where a file is written before it takes the place of the one before.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a file so that it is there as it was or as it is to be, also after a loss of power.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}
