//! The difference of two texts, line by line.

use super::{Paint, paint};

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;
/// Lines past which texts are shown whole instead of compared: the comparison takes their product.
const MAX_LINES: usize = 4000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Same,
    Gone,
    New,
}

/// The lines that differ with those around them; empty if nothing does.
#[must_use]
pub fn lines(old: &str, new: &str, colour: bool) -> String {
    if old == new {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let marked = if old.len().max(new.len()) > MAX_LINES { replaced(&old, &new) } else { compared(&old, &new) };
    let near = |index: usize| {
        let from = index.saturating_sub(CONTEXT);
        let to = (index + CONTEXT + 1).min(marked.len());
        marked[from..to].iter().any(|(mark, _)| *mark != Mark::Same)
    };
    let mut text = String::new();
    let mut skipped = false;
    for (index, (mark, line)) in marked.iter().enumerate() {
        if !near(index) {
            skipped = true;
            continue;
        }
        if std::mem::take(&mut skipped) && !text.is_empty() {
            text.push_str("...\n");
        }
        let (sign, shade) = match mark {
            Mark::Same => (' ', None),
            Mark::Gone => ('-', Some(Paint::Red)),
            Mark::New => ('+', Some(Paint::Green)),
        };
        let line = format!("{sign} {line}");
        text.push_str(&shade.map_or_else(|| line.clone(), |shade| paint(&line, shade, colour)));
        text.push('\n');
    }
    text
}

fn replaced<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Mark, &'a str)> {
    old.iter().map(|line| (Mark::Gone, *line)).chain(new.iter().map(|line| (Mark::New, *line))).collect()
}

/// By the longest common subsequence.
fn compared<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Mark, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut marked = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            marked.push((Mark::Same, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            marked.push((Mark::Gone, old[i]));
            i += 1;
        } else {
            marked.push((Mark::New, new[j]));
            j += 1;
        }
    }
    marked
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
