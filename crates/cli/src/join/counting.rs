//! What counts in a cluster that cannot be seen in it. Flags of `join`, which become flags of its agent.

use clap::Args;
use roadstead_agent::inventory::Options;
use roadstead_core::constraint::{TaintEffect, Toleration};

use super::added;
use crate::document::quantity::Bytes;

/// What counts in a cluster that cannot be seen in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Capacity")]
pub struct Counting {
    /// Taint of nodes that tenants run on all the same, because the pods of all classes tolerate it; repeatable.
    #[arg(long = "tolerated-taint", value_name = "KEY[=VALUE][:EFFECT]", value_parser = toleration)]
    pub tolerated: Vec<Toleration>,
    /// How much there is of a StorageClass whose driver does not say so, as in gp3=20Ti; repeatable.
    #[arg(long = "storage-size", value_name = "STORAGECLASS=SIZE", value_parser = size)]
    pub storage_sizes: Vec<(String, Bytes)>,
}

fn toleration(text: &str) -> Result<Toleration, String> {
    let (taint, effect) = match text.split_once(':') {
        // To what may still come, NoExecute is as NoSchedule.
        Some((taint, "NoSchedule" | "NoExecute")) => (taint, Some(TaintEffect::NoSchedule)),
        Some((taint, "PreferNoSchedule")) => (taint, Some(TaintEffect::PreferNoSchedule)),
        Some((_, effect)) => {
            return Err(format!("`{effect}` is no effect of a taint: NoSchedule, NoExecute or PreferNoSchedule"));
        }
        None => (text, None),
    };
    let (key, value) = taint.split_once('=').map_or((taint, None), |(key, value)| (key, Some(value.to_owned())));
    if key.is_empty() {
        return Err("write it as in pool, pool=tenants or pool=tenants:NoSchedule".to_owned());
    }
    Ok(Toleration { key: Some(key.to_owned()), value, effect })
}

fn size(text: &str) -> Result<(String, Bytes), String> {
    let (class, size) = text.split_once('=').filter(|(class, _)| !class.is_empty()).ok_or("write it as in gp3=20Ti")?;
    Ok((class.to_owned(), Bytes::parse(size)?))
}

impl Counting {
    /// What an inventory has to know.
    #[must_use]
    pub fn options(&self) -> Options {
        let storage = self.storage_sizes.iter().map(|(class, size)| (class.clone(), size.0)).collect();
        Options { tolerations: self.tolerated.clone(), storage }
    }

    /// Takes over what was said before and is not said now; nothing goes that is not said otherwise.
    pub fn keep(&mut self, before: Self) {
        let Self { tolerated, storage_sizes } = before;
        self.tolerated = added(tolerated, &self.tolerated, |one, other| one == other);
        self.storage_sizes = added(storage_sizes, &self.storage_sizes, |one, other| one.0 == other.0);
    }

    /// The flags that say the same.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let taint = |Toleration { key, value, effect }: &Toleration| {
            let value = value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
            let effect = effect.map_or("", |effect| match effect {
                TaintEffect::NoSchedule => ":NoSchedule",
                TaintEffect::PreferNoSchedule => ":PreferNoSchedule",
            });
            format!("--tolerated-taint={}{value}{effect}", key.as_deref().unwrap_or_default())
        };
        let size = |(class, size): &(String, Bytes)| format!("--storage-size={class}={size}");
        self.tolerated.iter().map(taint).chain(self.storage_sizes.iter().map(size)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        counting: Counting,
    }

    fn read(flags: &[String]) -> Result<Counting, clap::Error> {
        Flags::try_parse_from(std::iter::once("agent".to_owned()).chain(flags.iter().cloned())).map(|flags| flags.counting)
    }

    #[test]
    fn an_agent_reads_from_its_flags_what_join_was_told() {
        let toleration =
            |key: &str, value: Option<&str>, effect| Toleration { key: Some(key.to_owned()), value: value.map(str::to_owned), effect };
        let told = Counting {
            tolerated: vec![
                toleration("pool", None, None),
                toleration("pool", Some("tenants"), Some(TaintEffect::NoSchedule)),
                toleration("spot", Some(""), Some(TaintEffect::PreferNoSchedule)),
            ],
            storage_sizes: vec![("gp3".to_owned(), Bytes(20 << 40))],
        };
        assert_eq!(
            told.flags()[1..],
            ["--tolerated-taint=pool=tenants:NoSchedule", "--tolerated-taint=spot=:PreferNoSchedule", "--storage-size=gp3=20Ti"]
        );
        assert_eq!(read(&told.flags()).unwrap(), told);
        assert_eq!(told.options().storage["gp3"], 20 << 40);
        assert_eq!(read(&[]).unwrap(), Counting::default());
    }

    #[test]
    fn what_is_not_said_again_stays() {
        let read = |flags: &[&str]| read(&flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>()).unwrap();
        let mut told = read(&["--tolerated-taint=spot", "--storage-size=gp3=30Ti"]);
        told.keep(read(&["--tolerated-taint=pool=tenants", "--storage-size=gp3=20Ti", "--storage-size=st1=1Ti"]));
        assert_eq!(
            told.flags(),
            ["--tolerated-taint=pool=tenants", "--tolerated-taint=spot", "--storage-size=gp3=30Ti", "--storage-size=st1=1Ti"]
        );
    }

    #[test]
    fn what_says_nothing_that_counts_is_refused() {
        for flag in
            ["--tolerated-taint=", "--tolerated-taint==x", "--tolerated-taint=pool:Never", "--storage-size=gp3", "--storage-size=gp3=much"]
        {
            assert!(read(&[flag.to_owned()]).is_err(), "{flag}");
        }
    }
}
