//! The difference of two texts, line by line, as `diff -u` shows it.

use similar::{ChangeTag, TextDiff};

use super::{Paint, paint};

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;
/// How long a better difference is searched for; after that any is shown.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The lines that differ with those around them; empty if nothing does.
#[must_use]
pub fn lines(old: &str, new: &str, colour: bool) -> String {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    let mut text = String::new();
    for (index, hunk) in diff.grouped_ops(CONTEXT).iter().enumerate() {
        if index > 0 {
            text.push_str("...\n");
        }
        for change in hunk.iter().flat_map(|op| diff.iter_changes(op)) {
            let (sign, shade) = match change.tag() {
                ChangeTag::Equal => (' ', None),
                ChangeTag::Delete => ('-', Some(Paint::Red)),
                ChangeTag::Insert => ('+', Some(Paint::Green)),
            };
            let line = format!("{sign} {}", change.value().trim_end_matches('\n'));
            text.push_str(&shade.map_or_else(|| line.clone(), |shade| paint(&line, shade, colour)));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_and_their_surroundings_are_shown() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        let new = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\n";
        assert_eq!(lines(old, new, false), "  a\n- b\n+ B\n  c\n  d\n  e\n...\n  h\n  i\n  j\n+ k\n");
        assert_eq!(lines(old, old, false), "");
    }
}
