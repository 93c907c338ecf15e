//! Tables on standard output.

use super::print;

/// Prints rows under headings. Each column is as wide as its longest cell.
pub(super) fn print_table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
) {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows);
    // Find the width of each column, in characters.
    let mut widths = [0; COLUMNS];
    for cells in &lines {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    for cells in &lines {
        // Pad all cells to the width of their column.
        let cells: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        print(cells.join("  ").trim_end());
    }
}
