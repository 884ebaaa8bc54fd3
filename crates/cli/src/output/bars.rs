//! Shares as bars of characters.

/// Eighths of a character.
const PARTS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// A bar of `width` characters, `part / whole` of it filled.
#[must_use]
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    let eighths = (u128::from(part.min(whole)) * (width as u128 * 8)).checked_div(u128::from(whole)).unwrap_or(0);
    let eighths = usize::try_from(eighths).unwrap_or(0);
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(PARTS[eighths % 8 - 1]);
    }
    let filled = text.chars().count();
    text.push_str(&"·".repeat(width - filled));
    text
}

/// A share in whole percent, rounded down.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 100).checked_div(u128::from(whole)) {
        Some(share) => format!("{share}%"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_width_whatever_it_shows() {
        for (part, whole) in [(0, 10), (1, 10), (5, 10), (10, 10), (20, 10), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(bar(part, whole, 12).chars().count(), 12, "{part}/{whole}");
        }
        assert_eq!(bar(1, 2, 4), "██··");
        assert_eq!(bar(10, 10, 2), "██");
    }
}
