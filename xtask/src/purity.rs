//! Which crate may depend on what, and that the pure crates stay pure: no I/O, clock or chance, in their dependencies or their text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use crate::run::{Outcome, Step, packages, root};

/// Everything that a pure crate may depend on outside its tests. A new name here needs a reason in its commit.
const PURE: [(&str, &[&str]); 3] = [
    ("roadstead-core", &["arrayvec", "crc32fast", "hashbrown", "imbl", "postcard", "serde", "thiserror"]),
    ("roadstead-consensus", &["roadstead-core", "bytes", "postcard", "protobuf", "raft", "serde", "slog", "thiserror", "tracing"]),
    ("roadstead-class", &["roadstead-core", "blake3", "minijinja", "serde", "serde-saphyr", "serde_json", "thiserror"]),
];

/// Which of our own crates each may use; arrows point down only.
const DIRECTION: [(&str, &[&str]); 10] = [
    ("roadstead-core", &[]),
    ("roadstead-consensus", &["roadstead-core"]),
    ("roadstead-api", &[]),
    ("roadstead-class", &["roadstead-core"]),
    ("roadstead-agent", &["roadstead-api", "roadstead-class", "roadstead-core"]),
    ("roadstead-server", &["roadstead-api", "roadstead-class", "roadstead-consensus", "roadstead-core"]),
    (
        "roadstead-cli",
        &["roadstead-agent", "roadstead-api", "roadstead-class", "roadstead-consensus", "roadstead-core", "roadstead-server"],
    ),
    ("roadstead-simulations", &["roadstead-consensus", "roadstead-core"]),
    (
        "roadstead-tests",
        &[
            "roadstead-agent",
            "roadstead-api",
            "roadstead-class",
            "roadstead-cli",
            "roadstead-consensus",
            "roadstead-core",
            "roadstead-server",
        ],
    ),
    ("xtask", &[]),
];

/// What the text of a pure crate must not name, and why.
const FORBIDDEN: [(&str, &str); 19] = [
    ("std::fs", "files belong to the server"),
    ("std::net", "sockets belong to the server"),
    ("std::env", "configuration is an argument"),
    ("std::process", "processes belong to the server"),
    ("std::thread", "threads belong to the server"),
    ("std::time::Instant", "time is an argument"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("tokio", "no async runtime"),
    ("async fn", "no async runtime"),
    (".await", "no async runtime"),
    ("rand::", "chance is a seed that is handed in"),
    ("thread_rng", "chance is a seed that is handed in"),
    ("Uuid::new", "ids are handed in"),
    ("RandomState", "the order of a map must be the same on every replica"),
    ("collections::HashMap", "the order of a map must be the same on every replica"),
    ("collections::HashSet", "the order of a set must be the same on every replica"),
    ("f32", "integers only: replicas must agree to the bit"),
    ("f64", "integers only: replicas must agree to the bit"),
];

/// The step.
pub(crate) fn check(step: &mut Step) -> Result<Outcome> {
    let mut problems = dependencies(&metadata()?);
    for folder in ["crates/core/src", "crates/consensus/src"] {
        scan(&root().join(folder), &mut problems)?;
    }
    for problem in &problems {
        step.say(problem)?;
    }
    Ok(if problems.is_empty() { Outcome::ok("") } else { Outcome::failed(format!("{} places break the rules", problems.len())) })
}

/// The direct dependencies (not those of tests or builds) of each of our crates.
fn metadata() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(packages()?
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().into_iter().flatten();
            (
                text(&package["name"]),
                all.filter(|dependency| dependency["kind"].is_null()).map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect())
}

fn dependencies(crates: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut problems = Vec::new();
    let allowed = |table: &[(&str, &'static [&'static str])], name: &str| table.iter().find(|(own, _)| *own == name).map(|(_, list)| *list);
    for (name, used) in crates {
        if let Some(list) = allowed(&PURE, name) {
            problems.extend(
                used.iter().filter(|other| !list.contains(&other.as_str())).map(|other| format!("{name} is pure and must not use {other}")),
            );
        }
        let Some(list) = allowed(&DIRECTION, name) else {
            problems.push(format!("{name} is not in the table of directions (xtask/src/purity.rs)"));
            continue;
        };
        let ours = used.iter().filter(|other| crates.contains_key(*other));
        problems.extend(
            ours.filter(|other| !list.contains(&other.as_str()))
                .map(|other| format!("{name} must not depend on {other}: arrows point down")),
        );
    }
    problems
}

fn scan(folder: &Path, problems: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("failed to list {}", folder.display()))?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for path in entries.iter().map(std::fs::DirEntry::path) {
        // Tests may use what they like.
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            scan(&path, problems)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            let code = without_tests(&code_only(&text));
            for (number, line) in code.lines().enumerate() {
                for (word, why) in FORBIDDEN.iter().filter(|(word, _)| names(line, word)) {
                    problems.push(format!("{}:{}: `{word}` in a pure crate: {why}", path.display(), number + 1));
                }
            }
        }
    }
    Ok(())
}

/// Whether a line contains the word, not as a part of a longer identifier.
fn names(line: &str, word: &str) -> bool {
    let is_identifier = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_identifier) && word.starts_with(is_identifier);
        let after = line[at + word.len()..].chars().next().is_some_and(is_identifier) && word.ends_with(is_identifier);
        !before && !after
    })
}

/// The text with comments and strings blanked, line by line.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else {
            0
        };
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    out
}

/// Bytes of the string literal that `text` begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The code without items marked `#[cfg(test)]`, line numbers kept.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let (mut depth, mut end) = (0usize, item.len());
        for (at, c) in item.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == ';' || c == '}') {
                end = at + 1;
                break;
            }
        }
        out.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        let code = without_tests(&code_only(text));
        code.lines().flat_map(|line| FORBIDDEN.iter().filter(move |(word, _)| names(line, word))).count()
    }

    #[test]
    fn a_clock_in_code_is_found() {
        assert_eq!(found("let now = SystemTime::now();"), 1);
        assert_eq!(found("use std::collections::HashMap;"), 1);
    }

    #[test]
    fn comments_strings_and_tests_are_free() {
        assert_eq!(
            found("// tokio is not here\nlet a = \"std::fs \\\" tokio\";\n#[cfg(test)]\nmod tests { fn f() { rand::random() } }\n"),
            0
        );
        assert_eq!(found("#[cfg(test)]\nmod tests { fn f() {} }\nuse std::fs;"), 1);
    }

    #[test]
    fn longer_identifiers_are_not_taken_for_a_forbidden_word() {
        assert_eq!(found("let operand::x = my_f64_ish;"), 0);
    }

    #[test]
    fn a_pure_crate_with_io_is_refused() {
        let crates = |name: &str, used: &str| BTreeMap::from([(name.to_owned(), BTreeSet::from([used.to_owned()]))]);
        assert_eq!(dependencies(&crates("roadstead-core", "tokio")).len(), 1);
        assert_eq!(dependencies(&crates("roadstead-core", "imbl")).len(), 0);
    }

    #[test]
    fn an_arrow_that_points_up_is_refused() {
        let crates = BTreeMap::from([
            ("roadstead-server".to_owned(), BTreeSet::from(["roadstead-cli".to_owned()])),
            ("roadstead-cli".to_owned(), BTreeSet::from(["roadstead-server".to_owned()])),
        ]);
        assert_eq!(dependencies(&crates).len(), 1);
    }
}
