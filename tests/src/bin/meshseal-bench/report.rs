//! Tables of figures with their targets, and their place in docs/performance.md. That file has
//! handwritten prose, and a block between two markers for each part of the bench. A run of a part
//! replaces its block.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::paths;

/// A target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// Returns three cells of a table: the figure, the target, and the result of the comparison.
    pub(crate) fn judge(self, figure: f64) -> [String; 3] {
        let (target, holds) = match self {
            Self::AtMost(most) => (format!("≤ {}", short(most)), figure <= most),
            Self::AtLeast(least) => (format!("≥ {}", short(least)), figure >= least),
        };
        [
            short(figure),
            target,
            if holds { "holds" } else { "**MISSED**" }.to_owned(),
        ]
    }
}

/// Formats a figure with two or three significant digits.
pub(crate) fn short(figure: f64) -> String {
    let decimals = match figure.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{figure:.decimals$}")
}

/// A table with a heading and an optional note.
pub(crate) struct Table {
    title: &'static str,
    note: &'static str,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const COLUMNS: usize>(
        title: &'static str,
        note: &'static str,
        head: [&str; COLUMNS],
    ) -> Self {
        Self {
            title,
            note,
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    pub(crate) fn row<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        self.rows.push(cells.to_vec());
    }

    /// Adds a row that ends with a figure and its target.
    pub(crate) fn judged<const CELLS: usize>(
        &mut self,
        cells: [String; CELLS],
        figure: f64,
        bound: Bound,
    ) {
        self.rows
            .push(cells.into_iter().chain(bound.judge(figure)).collect());
    }

    /// Returns the table as Markdown with aligned columns, which is readable in a terminal too.
    pub(crate) fn markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines = self.rows.iter().map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!(" {cell:<width$} |"));
            format!("|{}\n", cells.collect::<String>())
        });
        let head = lines.next().unwrap_or_default();
        let rule: String = widths
            .iter()
            .map(|width| format!("{}|", "-".repeat(width + 2)))
            .collect();
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!("{}\n\n", self.note)
        };
        format!(
            "### {}\n\n{note}{head}|{rule}\n{}",
            self.title,
            lines.collect::<String>()
        )
    }
}

/// Prints the tables and writes them into the block of a part, except after a quick run, whose
/// figures are too rough to keep.
pub(crate) fn publish(part: &str, versions: &str, tables: &[Table], quick: bool) -> Result<()> {
    let tables = tables
        .iter()
        .map(Table::markdown)
        .collect::<Vec<_>>()
        .join("\n");
    crate::say(&format!("\n{tables}"));
    if quick {
        crate::say("quick run: docs/performance.md is not changed");
        return Ok(());
    }
    let file = paths::root().join("docs").join("performance.md");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = replace_block(
        &text,
        part,
        &format!("\n{}{versions}.\n\n{tables}\n", machine()),
    )
    .with_context(|| format!("{} has no block for {part}", file.display()))?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn replace_block(text: &str, part: &str, block: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- bench {part} -->\n"),
        format!("<!-- end {part} -->\n"),
    );
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{block}{end}{after}"))
}

/// Returns date, CPU, kernel and compiler of this run.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")
                .and_then(|rest| rest.split_once(": "))
        })
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let [date, kernel, compiler] =
        [("date", "+%F"), ("uname", "-r"), ("rustc", "--version")].map(|(program, argument)| {
            said(program, argument).unwrap_or_else(|_| format!("{program} unknown"))
        });
    format!("{date}: {model}, {cores} cores; Linux {kernel}; {compiler}; ")
}

/// Runs a program and returns its trimmed standard output.
pub(crate) fn said(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program} {argument} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_one_block_of_the_report() {
        let text =
            "a\n<!-- bench x -->\nold\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n";
        let new = replace_block(text, "x", "new\n").unwrap();
        assert_eq!(new, text.replace("old", "new"));
        assert_eq!(replace_block(text, "z", "new\n"), None);
    }

    #[test]
    fn compares_figures_with_targets() {
        assert_eq!(Bound::AtMost(0.9).judge(0.9), ["0.90", "≤ 0.90", "holds"]);
        assert_eq!(
            Bound::AtLeast(5_000.0).judge(4_999.0),
            ["4999", "≥ 5000", "**MISSED**"]
        );
    }
}
