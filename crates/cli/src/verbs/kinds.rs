//! Kinds and names on the command line, as kubectl takes them: `tenants`, `tenant acme`, `tenant/acme`, `cl`.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

use crate::document::Kind;
use crate::failure::Failure;

/// One thing that was named, or a whole kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Kind.
    pub kind: Kind,
    /// Name; `None` is all of them.
    pub name: Option<String>,
}

/// Takes any word, and offers the kinds to shells that complete words.
#[derive(Clone, Copy, Debug)]
pub struct Word;

impl TypedValueParser for Word {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.into_iter().map(|kind| PossibleValue::new(kind.plural()))))
    }
}

/// Reads a kind in singular, plural or short.
///
/// # Errors
/// The kinds that there are.
pub fn kind(text: &str) -> Result<Kind, String> {
    match text.to_ascii_lowercase().as_str() {
        "tenant" | "tenants" | "t" => Ok(Kind::Tenant),
        "cluster" | "clusters" | "cl" => Ok(Kind::Cluster),
        "pool" | "pools" => Ok(Kind::Pool),
        "class" | "classes" => Ok(Kind::Class),
        "policy" | "policies" => Ok(Kind::Policy),
        _ => Err(format!("`{text}` is not a kind: use tenants, clusters, pools, classes or policy")),
    }
}

/// Reads `KIND`, `KIND NAME...` or `KIND/NAME...`.
///
/// # Errors
/// A kind that there is not, a name without one.
pub fn targets(words: &[String]) -> Result<Vec<Target>, Failure> {
    let [first, rest @ ..] = words else { return Err(Failure::usage("name a kind: tenants, clusters, pools, classes or policy")) };
    if first.contains('/') {
        return words.iter().map(|word| slashed(word)).collect();
    }
    let kinds: Vec<Kind> = first.split(',').map(kind).collect::<Result<_, _>>().map_err(Failure::usage)?;
    if rest.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Target { kind, name: None }).collect());
    }
    let [kind] = kinds[..] else { return Err(Failure::usage("names can be given for one kind only; write KIND/NAME for several")) };
    Ok(rest.iter().map(|name| Target { kind, name: Some(name.clone()) }).collect())
}

/// Reads things that must be named.
///
/// # Errors
/// As [`targets`], and a kind without a name.
pub fn named(words: &[String]) -> Result<Vec<(Kind, String)>, Failure> {
    targets(words)?
        .into_iter()
        .map(|target| match (target.kind, target.name) {
            (kind, Some(name)) => Ok((kind, name)),
            (Kind::Policy, None) => Ok((Kind::Policy, crate::document::POLICY_NAME.to_owned())),
            (kind, None) => Err(Failure::usage(format!("name the {}, as in `{}/NAME`", kind.lower(), kind.lower()))),
        })
        .collect()
}

/// Reads things of the only kind that a verb takes, with or without the kind before them. A single word is a name: a tenant may be called
/// `tenant`.
///
/// # Errors
/// As [`named`], and another kind.
pub fn of_kind(only: Kind, words: &[String]) -> Result<Vec<String>, Failure> {
    let with_kind = words.iter().any(|word| word.contains('/')) || words.len() > 1 && kind(&words[0]).is_ok();
    if !with_kind {
        return Ok(words.to_vec());
    }
    let name = |(kind, name): (Kind, String)| {
        if kind == only {
            return Ok(name);
        }
        let only = only.lower();
        Err(Failure::usage(format!("{}/{name}: only a {only} can be named here", kind.lower())).hint(format!("write NAME or {only}/NAME")))
    };
    named(words)?.into_iter().map(name).collect()
}

/// Reads the one thing that a verb takes, as [`of_kind`] does.
///
/// # Errors
/// As [`of_kind`], and more than one.
pub fn one_of_kind(only: Kind, words: &[String]) -> Result<String, Failure> {
    match &of_kind(only, words)?[..] {
        [one] => Ok(one.clone()),
        several => {
            let only = only.lower();
            Err(Failure::usage(format!("{}: one {only} can be named here, as in NAME or {only} NAME", several.join(" "))))
        }
    }
}

fn slashed(word: &str) -> Result<Target, Failure> {
    let (before, name) = word.split_once('/').ok_or_else(|| Failure::usage(format!("`{word}`: write KIND/NAME like the others")))?;
    if name.is_empty() {
        return Err(Failure::usage(format!("`{word}` has no name")));
    }
    Ok(Target { kind: kind(before).map_err(Failure::usage)?, name: Some(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Vec<Target>, Failure> {
        targets(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn kinds_and_names_are_read_as_kubectl_reads_them() {
        let one = |kind, name: Option<&str>| Target { kind, name: name.map(str::to_owned) };
        assert_eq!(read(&["tenants"]).expect("kind"), [one(Kind::Tenant, None)]);
        assert_eq!(read(&["cl", "a", "b"]).expect("names"), [one(Kind::Cluster, Some("a")), one(Kind::Cluster, Some("b"))]);
        assert_eq!(read(&["pools,classes"]).expect("kinds"), [one(Kind::Pool, None), one(Kind::Class, None)]);
        assert_eq!(read(&["class/shop@1", "pool/home"]).expect("names"), [one(Kind::Class, Some("shop@1")), one(Kind::Pool, Some("home"))]);
        let tenants = |words: &[&str]| of_kind(Kind::Tenant, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(tenants(&["a", "b"]).expect("names"), ["a", "b"]);
        assert_eq!(tenants(&["tenant", "a", "b"]).expect("a kind and names"), ["a", "b"]);
        assert_eq!(tenants(&["tenant/a", "t/b"]).expect("both in one"), ["a", "b"]);
        assert_eq!(tenants(&["tenant"]).expect("a tenant with an odd name"), ["tenant"]);
        assert!(tenants(&["cluster", "a"]).is_err() && tenants(&["pool/a"]).is_err());
        let one = |words: &[&str]| one_of_kind(Kind::Cluster, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        for words in [&["a"][..], &["cluster", "a"], &["cl", "a"], &["clusters/a"]] {
            assert_eq!(one(words).expect("one cluster"), "a");
        }
        assert!(one(&["a", "b"]).is_err() && one(&["cluster", "a", "b"]).is_err() && one(&["tenant", "a"]).is_err());
        for wrong in [&["pods"][..], &["tenant/"], &["tenant/a", "b"], &["pools,classes", "a"], &[]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
