//! Text tables in the manner of `ss` and `chronyc`: columns two spaces apart, no lines.

use std::fmt;

/// Rows of text under a header.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    most: usize,
}

impl Table {
    /// A table without rows.
    pub(super) fn new<S: AsRef<str>>(header: &[S]) -> Self {
        let header: Vec<String> = header.iter().map(|h| h.as_ref().to_owned()).collect();
        Self { right: vec![false; header.len()], header, rows: Vec::new(), most: usize::MAX }
    }

    /// Aligns these columns to the right.
    pub(super) fn right(mut self, columns: &[usize]) -> Self {
        for column in columns {
            if let Some(right) = self.right.get_mut(*column) {
                *right = true;
            }
        }
        self
    }

    /// Shows no more than the first `most` rows, and how many others there are.
    pub(super) fn most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Adds a row. Names and values come from other nodes: control characters are shown escaped, so that
    /// nobody can draw on the reader's terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The text with its control characters escaped.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // U+202E and its like turn the direction of a line around.
        let turns = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = || std::iter::once(&self.header).chain(self.rows.iter().take(self.most));
        let width = |i: usize| all().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for row in all() {
            let mut line = String::new();
            for (i, width) in widths.iter().enumerate() {
                let cell = row.get(i).map_or("", String::as_str);
                let gap = if i == 0 { "" } else { "  " };
                line += &if self.right[i] {
                    format!("{gap}{cell:>width$}")
                } else {
                    format!("{gap}{cell:<width$}")
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(others @ 1..) = self.rows.len().checked_sub(self.most) {
            writeln!(f, "and {others} more (--json has all)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_can_draw_on_the_terminal() {
        let mut table = Table::new(&["NAME", "N"]).right(&[1]);
        table.row(["a".into(), "1".into()]);
        table.row(["evil\u{1b}[2J\u{202e}".into(), "22".into()]);
        let text = table.to_string();
        assert_eq!(
            text,
            "NAME                    N\na                       1\nevil\\u{1b}[2J\\u{202e}  22\n"
        );
    }
}
