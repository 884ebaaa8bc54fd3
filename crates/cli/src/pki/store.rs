//! The folder of an authority: its keys, what it issued, and the files that replicas and clients are given.
//!
//! ```text
//! ca.crt, ca.key          the authority that signs
//! previous.crt, .key      the one before it, while a rotation is under way
//! ca-bundle.crt           all authorities to trust: give this to everybody
//! crl.pem                 what was revoked, one list an authority
//! index.json              what was issued
//! {role}-{name}.crt, .key
//! ```
//! Files are replaced by renaming, so that a reader never sees half of one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::authority::{self, Authority, Pair, Revoked};
use super::{Error, Subject};

/// Private keys are for their owner only.
const KEY_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// For whom.
    #[serde(flatten)]
    pub subject: Subject,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// The authority's serial number.
    pub authority: String,
    /// Seconds since 1970 at which it ends.
    pub not_after: u64,
    /// Days that it is renewed for.
    pub days: u64,
    /// Seconds since 1970 at which it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Index {
    authority: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    crl_number: u64,
    issued: Vec<Issued>,
}

/// The paths of a certificate and what it is used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificate.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities to trust.
    pub ca_bundle: PathBuf,
    /// What was revoked.
    pub crl: PathBuf,
}

/// The folder of an authority.
pub struct Store {
    folder: PathBuf,
    index: Index,
}

impl Store {
    /// Makes an authority in a folder that has none.
    ///
    /// # Errors
    /// [`Error::Exists`], files, cryptography.
    pub fn init(folder: &Path) -> Result<Self, Error> {
        if folder.join("ca.key").exists() {
            return Err(Error::Exists(folder.display().to_string()));
        }
        fs::create_dir_all(folder).map_err(|source| file_error("create", folder, source))?;
        let pair = authority::new_authority()?;
        let mut store = Self { folder: folder.to_owned(), index: Index { authority: pair.serial.clone(), ..Index::default() } };
        store.write_pair("ca", &pair)?;
        store.write_trust()?;
        Ok(store)
    }

    /// Opens a folder that has an authority.
    ///
    /// # Errors
    /// [`Error::NotInitialised`], files.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("index.json");
        if !path.exists() {
            return Err(Error::NotInitialised(folder.display().to_string()));
        }
        let text = read(&path)?;
        let index =
            serde_json::from_str(&text).map_err(|error| Error::Damaged { path: path.display().to_string(), reason: error.to_string() })?;
        Ok(Self { folder: folder.to_owned(), index })
    }

    /// Opens a folder, or makes an authority in it.
    ///
    /// # Errors
    /// Those of [`Self::open`] and [`Self::init`].
    pub fn open_or_init(folder: &Path) -> Result<Self, Error> {
        match Self::open(folder) {
            Err(Error::NotInitialised(_)) => Self::init(folder),
            other => other,
        }
    }

    /// What was issued and not replaced.
    #[must_use]
    pub fn issued(&self) -> &[Issued] {
        &self.index.issued
    }

    /// Whether a rotation is under way.
    #[must_use]
    pub fn rotating(&self) -> bool {
        self.index.previous.is_some()
    }

    /// Whether a certificate was issued by the authority before the present one.
    #[must_use]
    pub fn is_by_previous(&self, issued: &Issued) -> bool {
        issued.authority != self.index.authority
    }

    /// Where a subject's files are.
    #[must_use]
    pub fn files(&self, subject: &Subject) -> Files {
        let stem = subject.file_stem();
        Files {
            certificate: self.folder.join(format!("{stem}.crt")),
            key: self.folder.join(format!("{stem}.key")),
            ca_bundle: self.ca_bundle(),
            crl: self.folder.join("crl.pem"),
        }
    }

    /// Where the bundle of authorities to trust is.
    #[must_use]
    pub fn ca_bundle(&self) -> PathBuf {
        self.folder.join("ca-bundle.crt")
    }

    /// Issues a certificate with a new key. One for the same role and name is replaced; the old one stays valid until it ends or is revoked.
    ///
    /// # Errors
    /// A bad name, files, cryptography.
    pub fn issue(&mut self, subject: &Subject, days: u64) -> Result<Files, Error> {
        let pair = self.authority("ca")?.issue(subject, days, None)?;
        self.keep(subject, days, &pair)
    }

    /// Issues a certificate unless one is there.
    ///
    /// # Errors
    /// Those of [`Self::issue`].
    pub fn ensure(&mut self, subject: &Subject, days: u64) -> Result<Files, Error> {
        let files = self.files(subject);
        let valid = |issued: &&Issued| issued.subject == *subject && issued.revoked.is_none() && issued.not_after > authority::now();
        if self.index.issued.iter().any(|issued| valid(&issued)) && files.certificate.exists() && files.key.exists() {
            return Ok(files);
        }
        self.issue(subject, days)
    }

    /// Issues a certificate again for the same subject, by the present authority, with the same key unless `new_key`.
    ///
    /// # Errors
    /// [`Error::NotIssued`], files, cryptography.
    pub fn renew(&mut self, stem: &str, days: Option<u64>, new_key: bool) -> Result<Issued, Error> {
        let old = self.find(stem)?.clone();
        let key = if new_key { None } else { Some(read(&self.files(&old.subject).key)?) };
        let days = days.unwrap_or(old.days);
        let pair = self.authority("ca")?.issue(&old.subject, days, key.as_deref())?;
        self.keep(&old.subject, days, &pair)?;
        Ok(self.find(stem)?.clone())
    }

    /// Revokes a certificate and writes the list anew.
    ///
    /// # Errors
    /// [`Error::NotIssued`], files, cryptography.
    pub fn revoke(&mut self, stem: &str) -> Result<Vec<Issued>, Error> {
        self.find(stem)?;
        let now = authority::now();
        let mut revoked = Vec::new();
        // Earlier certificates of the same subject go with it: their holder is the same.
        for issued in &mut self.index.issued {
            if issued.subject.file_stem() == stem && issued.revoked.is_none() {
                issued.revoked = Some(now);
                revoked.push(issued.clone());
            }
        }
        self.write_trust()?;
        Ok(revoked)
    }

    /// Makes a new authority that signs from now on; both are trusted until [`Self::finish_rotation`].
    ///
    /// # Errors
    /// [`Error::Rotation`] if one is under way, files, cryptography.
    pub fn begin_rotation(&mut self) -> Result<(), Error> {
        if self.rotating() {
            return Err(Error::Rotation(
                "a rotation is under way: renew what the previous authority issued, then `roadstead pki rotate-ca --finish`",
            ));
        }
        let pair = authority::new_authority()?;
        for end in ["crt", "key"] {
            let text = read(&self.folder.join(format!("ca.{end}")))?;
            write(&self.folder.join(format!("previous.{end}")), &text, if end == "key" { KEY_MODE } else { PUBLIC_MODE })?;
        }
        self.index.previous = Some(std::mem::replace(&mut self.index.authority, pair.serial.clone()));
        self.write_pair("ca", &pair)?;
        self.write_trust()
    }

    /// Ends the trust in the previous authority. `force` drops certificates that were not renewed, too.
    ///
    /// # Errors
    /// [`Error::Rotation`] if none is under way or certificates still depend on it.
    pub fn finish_rotation(&mut self, force: bool) -> Result<(), Error> {
        if !self.rotating() {
            return Err(Error::Rotation("no rotation is under way; begin one with `roadstead pki rotate-ca`"));
        }
        let now = authority::now();
        let current = self.current();
        let depends = current.iter().any(|issued| self.is_by_previous(issued) && issued.revoked.is_none() && issued.not_after > now);
        if depends && !force {
            return Err(Error::Rotation(
                "certificates by the previous authority are in use: `roadstead pki renew --all` first, or --force",
            ));
        }
        let authority = self.index.authority.clone();
        self.index.issued.retain(|issued| issued.authority == authority);
        self.index.previous = None;
        self.write_trust()?;
        for end in ["crt", "key"] {
            let path = self.folder.join(format!("previous.{end}"));
            fs::remove_file(&path).map_err(|source| file_error("remove", &path, source))?;
        }
        Ok(())
    }

    /// The newest certificate of each subject.
    #[must_use]
    pub fn current(&self) -> Vec<Issued> {
        let mut newest = std::collections::BTreeMap::new();
        for issued in &self.index.issued {
            newest.insert(issued.subject.file_stem(), issued.clone());
        }
        newest.into_values().collect()
    }

    fn find(&self, stem: &str) -> Result<&Issued, Error> {
        let found = self.index.issued.iter().rev().find(|issued| issued.subject.file_stem() == stem);
        found.ok_or_else(|| Error::NotIssued(stem.to_owned()))
    }

    fn authority(&self, stem: &str) -> Result<Authority, Error> {
        let certificate = read(&self.folder.join(format!("{stem}.crt")))?;
        Authority::load(&certificate, &read(&self.folder.join(format!("{stem}.key")))?)
    }

    fn keep(&mut self, subject: &Subject, days: u64, pair: &Pair) -> Result<Files, Error> {
        self.write_pair(&subject.file_stem(), pair)?;
        let now = authority::now();
        self.index.issued.retain(|issued| issued.not_after > now || issued.subject.file_stem() != subject.file_stem());
        self.index.issued.push(Issued {
            subject: subject.clone(),
            serial: pair.serial.clone(),
            authority: self.index.authority.clone(),
            not_after: pair.not_after,
            days,
            revoked: None,
        });
        self.write_index()?;
        Ok(self.files(subject))
    }

    fn write_pair(&self, stem: &str, pair: &Pair) -> Result<(), Error> {
        write(&self.folder.join(format!("{stem}.key")), &pair.key, KEY_MODE)?;
        write(&self.folder.join(format!("{stem}.crt")), &pair.certificate, PUBLIC_MODE)
    }

    /// Writes bundle, revocation lists and index.
    fn write_trust(&mut self) -> Result<(), Error> {
        self.index.crl_number += 1;
        let mut authorities = vec![("ca", self.index.authority.clone())];
        authorities.extend(self.index.previous.clone().map(|serial| ("previous", serial)));
        let (mut bundle, mut lists) = (String::new(), String::new());
        for (stem, serial) in authorities {
            bundle.push_str(&read(&self.folder.join(format!("{stem}.crt")))?);
            let by_it = self.index.issued.iter().filter(|issued| issued.authority == serial);
            let revoked: Vec<Revoked> = by_it.filter_map(|i| Some(Revoked { serial: i.serial.clone(), at: i.revoked? })).collect();
            lists.push_str(&self.authority(stem)?.revocations(&revoked, self.index.crl_number)?);
        }
        write(&self.ca_bundle(), &bundle, PUBLIC_MODE)?;
        write(&self.folder.join("crl.pem"), &lists, PUBLIC_MODE)?;
        self.write_index()
    }

    fn write_index(&self) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.index).expect("an index of text and numbers is JSON");
        write(&self.folder.join("index.json"), &text, PUBLIC_MODE)
    }
}

fn file_error(verb: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { verb, path: path.display().to_string(), source }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| file_error("read", path, source))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let part = path.with_extension(format!("{}.part", path.extension().and_then(|end| end.to_str()).unwrap_or("")));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    })();
    written.map_err(|source| file_error("write", path, source))
}
