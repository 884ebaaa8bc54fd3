//! The files that a class's `manifests` name: a relative path whose last part may hold `*`.

use std::path::{Component, Path};

/// The largest manifest file.
const MAX_FILE_BYTES: u64 = roadstead_core::class::MAX_TEMPLATE_BYTES as u64;

/// Reads the files that match `pattern` below `folder`, by name; each with its path relative to `folder`.
///
/// # Errors
/// Nothing matches, a path that leads out of the folder, a file that cannot be read.
pub fn read(folder: &Path, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let path = Path::new(pattern);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("`{pattern}` must be a path below the document's own folder"));
    }
    let (parent, last) = match pattern.rsplit_once('/') {
        Some((parent, last)) => (parent, last),
        None => ("", pattern),
    };
    if parent.contains('*') {
        return Err(format!("`{pattern}`: `*` may stand in the file name only"));
    }
    let directory = folder.join(parent);
    let listing = std::fs::read_dir(&directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let mut names: Vec<String> = listing
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| matches(last, name) && (last.starts_with('.') || !name.starts_with('.')))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("no file matches `{pattern}` in {}", folder.display()));
    }
    names
        .into_iter()
        .map(|name| {
            let relative = if parent.is_empty() { name } else { format!("{parent}/{name}") };
            read_file(&folder.join(&relative)).map(|content| (relative, content))
        })
        .collect()
}

fn read_file(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("{} has {size} bytes, at most {MAX_FILE_BYTES} are allowed", path.display()));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("*.yaml", "web.yaml", true),
            ("*.yaml", "web.yml", false),
            ("web.yaml", "web.yaml", true),
            ("web.yaml", "web.yaml2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("*", "x", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn no_pattern_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().expect("folder");
        for pattern in ["../x.yaml", "/etc/hostname", "a/../../b"] {
            assert!(read(folder.path(), pattern).expect_err("refused").contains("below"), "{pattern}");
        }
    }
}
