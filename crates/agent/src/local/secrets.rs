//! Secrets as folders with a file for each key, and what is copied: folders of the same shape in the cluster's folder of templates.
//!
//! It knows neither tenants nor classes, and keeps nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rand::RngExt;
use rand::distr::Alphanumeric;

use super::record::write_whole;

/// Key to value.
pub(super) type Contents = BTreeMap<String, Vec<u8>>;

/// Bytes of a hash that are written down: enough to tell two contents apart, too few to say anything about one.
const HASH_BYTES: usize = 8;

/// What is in a secret's folder.
pub(super) fn read(folder: &Path) -> io::Result<Contents> {
    let value = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
    };
    fs::read_dir(folder)?.map(value).collect()
}

/// Why a secret cannot be copied.
pub(super) fn no_original(from: &str, copy: &str, templates: &Path, error: &io::Error) -> String {
    format!("the secret `{from}`, which `{copy}` is copied from, is not in {}: {error}", templates.display())
}

/// New contents: each key a random text of so many characters.
pub(super) fn generate(keys: &BTreeMap<String, u32>) -> Contents {
    let text = |length: u32| rand::rng().sample_iter(Alphanumeric).take(length as usize).collect();
    keys.iter().map(|(key, length)| (key.clone(), text(*length))).collect()
}

/// One hash over several secrets; of one that is not there, that it is not. Of none it is empty.
pub(super) fn digest<'a>(secrets: impl Iterator<Item = (&'a str, Option<Contents>)>) -> String {
    let all: Vec<(&str, Option<Contents>)> = secrets.collect();
    if all.is_empty() {
        return String::new();
    }
    let hash = blake3::hash(serde_json::to_string(&all).unwrap_or_default().as_bytes());
    hash.as_bytes()[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a secret's folder, which is there with all of its keys or not at all; or gives one that is there other contents, key by key, so that whoever
/// reads it finds each as it was or as it is to be.
pub(super) fn write(folder: &Path, contents: &Contents) -> io::Result<()> {
    if folder.is_dir() {
        for (key, value) in contents {
            write_key(folder, key, value)?;
        }
        for key in read(folder)?.keys().filter(|key| !contents.contains_key(*key)) {
            fs::remove_file(folder.join(key))?;
        }
        return Ok(());
    }
    let beside = folder.with_extension("new");
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    fs::create_dir_all(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o700))?;
    for (key, value) in contents {
        write_key(&beside, key, value)?;
    }
    fs::rename(&beside, folder)
}

fn write_key(folder: &Path, key: &str, value: &[u8]) -> io::Result<()> {
    let path = folder.join(key);
    write_whole(&path, value)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
}
