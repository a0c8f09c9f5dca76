//! Tables for people: columns as wide as their contents, two blanks between them.

/// Writes a table to standard output.
pub(super) fn print_table(headings: &[&str], rows: &[Vec<String>]) {
    print!("{}", table(headings, rows));
}

/// The table as text.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["10.96.0.10:80".to_owned(), "web".to_owned()],
            vec!["[fd00::1]:53".to_owned(), "dns".to_owned()],
        ];
        let text = super::table(&["FRONTEND", "SERVICE"], &rows);
        assert_eq!(text, "FRONTEND       SERVICE\n10.96.0.10:80  web\n[fd00::1]:53   dns\n");
    }
}
