//! Columns of text, as kubectl lays them out: no lines, two spaces between columns.

use super::{Paint, colour, out, paint};

/// One row.
pub type Cells = Vec<String>;

/// Space between columns.
const GAP: usize = 2;

/// Columns with a heading.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Cells>,
    show_headings: bool,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new(), show_headings: true }
    }

    /// Leaves the headings away.
    #[must_use]
    pub fn without_headings(mut self, without: bool) -> Self {
        self.show_headings = !without;
        self
    }

    /// Adds a row of as many cells as there are headings.
    pub fn row(&mut self, cells: Cells) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text; states are coloured if `colour`.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
            let heading = if self.show_headings { self.headings[column].chars().count() } else { 0 };
            cells.max().unwrap_or(0).max(heading)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        if self.show_headings {
            let headings: Cells = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
            text.push_str(&line(&headings, &widths, |_| None));
        }
        for row in &self.rows {
            text.push_str(&line(row, &widths, |cell| if colour { state_paint(cell) } else { None }));
        }
        text
    }

    /// Writes the table to stdout.
    pub fn print(&self) {
        out(&self.render(colour()));
    }
}

fn line(cells: &[String], widths: &[usize], painted: impl Fn(&str) -> Option<Paint>) -> String {
    let mut text = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let shown = painted(cell).map_or_else(|| cell.clone(), |colour| paint(cell, colour, true));
        text.push_str(&shown);
        if index + 1 < cells.len() {
            text.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// What stands behind the phase of a tenant whose constraints no longer hold where it is.
pub const MISPLACED: &str = "Misplaced";

/// The colour of a word that tells a state.
fn state_paint(cell: &str) -> Option<Paint> {
    match cell {
        "Running" | "Active" | "valid" | "yes" => Some(Paint::Green),
        "Pending" | "Placed" | "Releasing" | "Cordoned" | "Draining" | "Retained" | "Purging" => Some(Paint::Yellow),
        "Silent" | "Overfull" | "Fenced" | "expired" => Some(Paint::Red),
        _ if cell.split_once(',').is_some_and(|(_, more)| more == MISPLACED) => Some(Paint::Red),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".into(), "Running".into()]);
        table.row(vec!["ü".into(), String::new()]);
        assert_eq!(table.render(false), "NAME         STATE\na-long-name  Running\nü\n");
        assert!(table.render(true).contains("\u{1b}[32mRunning\u{1b}[0m"));
    }
}
