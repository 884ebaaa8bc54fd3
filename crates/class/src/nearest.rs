//! Which known name somebody may have meant. It knows neither schemas nor documents.

/// The longest name that is compared with others, in bytes.
const MAX_COMPARED_BYTES: usize = 40;
/// In so many letters a name may differ from the one that was meant.
const MAX_EDITS: usize = 2;

/// The known name that differs from `name` in at most two letters, and in fewer than either has.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let alike = known.into_iter().filter(|known| known.len().abs_diff(name.len()) <= MAX_EDITS);
    let measured = alike.map(|known| (distance(name, known), known));
    measured.filter(|(edits, known)| *edits <= MAX_EDITS && *edits < known.len().min(name.len())).min().map(|(_, known)| known)
}

/// Levenshtein's distance, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_two_letters_is_taken_for_the_name_that_was_meant_and_another_word_is_not() {
        let known = ["web", "theme", "up"];
        assert_eq!(nearest("wbe", known), Some("web"));
        assert_eq!(nearest("Themes", known), Some("theme"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("db", known), None, "too short to be a slip");
        assert_eq!(nearest(&"w".repeat(41), known), None);
    }
}
