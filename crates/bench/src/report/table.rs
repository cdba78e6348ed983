//! The report as a table: for a terminal, or in Markdown.

use super::{Report, Row};

/// Cells of a table, the head first.
pub(crate) type Cells = Vec<Vec<String>>;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Columns of one width.
    Plain,
    /// A Markdown table.
    Markdown,
}

impl Report {
    /// A line for each row: what, its unit, each subject, and the first Berth's ratio to each other.
    pub(crate) fn cells(&self, own: &str) -> Cells {
        let others: Vec<_> = self.subjects.iter().filter(|name| *name != own).collect();
        let compared = self.subjects.iter().any(|name| name == own);
        let mut head = vec![String::new(), "unit".to_owned()];
        head.extend(self.subjects.iter().cloned());
        if compared {
            head.extend(others.iter().map(|other| format!("{own} : {other}")));
        }
        let line = |row: &Row| {
            let mut line = vec![row.title.clone(), row.unit.to_owned()];
            line.extend(self.subjects.iter().map(|subject| cell(row, subject)));
            if compared {
                line.extend(others.iter().map(|other| {
                    let ratio = self.ratio(row.key, own, other);
                    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
                }));
            }
            line
        };
        let measured = self.rows.iter().filter(|row| !row.figures.is_empty());
        std::iter::once(head).chain(measured.map(line)).collect()
    }
}

fn cell(row: &Row, subject: &str) -> String {
    let Some(figure) = row.figures.get(subject) else { return "–".to_owned() };
    match figure.p99 {
        Some(p99) => format!("{} / {}", number(figure.value), number(p99)),
        None => number(figure.value),
    }
}

/// A number with as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 99.95 => format!("{value:.0}"),
        middle if middle >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes cells as a table.
pub(crate) fn write(cells: &Cells, style: Style) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let widths = cells.iter().filter_map(|line| line.get(column));
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (number, line) in cells.iter().enumerate() {
        let padded = widths.iter().enumerate().map(|(column, width)| {
            let cell = line.get(column).map_or("", String::as_str);
            let space = " ".repeat(width - cell.chars().count());
            if column < 2 { format!("{cell}{space}") } else { format!("{space}{cell}") }
        });
        let padded: Vec<_> = padded.collect();
        match style {
            Style::Plain => out.push_str(padded.join("  ").trim_end()),
            Style::Markdown => out.push_str(&format!("| {} |", padded.join(" | "))),
        }
        out.push('\n');
        if number == 0 && style == Style::Markdown {
            let rule = widths.iter().enumerate().map(|(column, width)| {
                let dashes = "-".repeat((*width).max(2) - 1);
                if column < 2 { format!("{dashes}-") } else { format!("{dashes}:") }
            });
            out.push_str(&format!("| {} |\n", rule.collect::<Vec<_>>().join(" | ")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, What};
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(["bare", "berth", "other"].map(str::to_owned).to_vec(), 100);
        report.declare(What::lower("not/measured", "nothing", "ms"));
        let running = What::lower("rpc/running", "a running pod", "ms");
        report.put(running, "berth", Figure { value: 80.0, p99: Some(101.4), n: 50 });
        report.put(running, "other", Figure::one(160.0, 50));
        report.put(What::higher("rate/pods", "pods", "/s"), "berth", Figure::one(16.04, 1));
        report
    }

    #[test]
    fn a_table_has_every_subject_and_a_ratio_to_every_other() {
        let cells = report().cells("berth");
        let heads = ["", "unit", "bare", "berth", "other", "berth : bare", "berth : other"];
        assert_eq!(cells[0], heads);
        let running = ["a running pod", "ms", "–", "80.0 / 101", "160", "", "0.50"];
        assert_eq!(cells[1], running);
        assert_eq!(cells[2], ["pods", "/s", "–", "16.0", "–", "", ""]);
        // Without the subject that is compared there is nothing to compare.
        assert_eq!(report().cells("absent")[0].len(), 5);
    }

    #[test]
    fn tables_line_up_in_both_styles() {
        let cells = report().cells("berth");
        let plain = write(&cells, Style::Plain);
        assert!(plain.lines().any(|line| line.starts_with("pods           /s  ")), "{plain}");
        let markdown = write(&cells, Style::Markdown);
        let lines: Vec<_> = markdown.lines().collect();
        assert!(lines[1].starts_with("| ------------- | ---- | ---: | "), "{markdown}");
        let lengths = lines.iter().map(|line| line.chars().count());
        assert_eq!(lengths.clone().min(), lengths.max());
    }

    #[test]
    fn numbers_have_three_digits() {
        let all = [0.0, 0.044, 9.99, 9.996, 99.94, 99.96, 616.2, 85_000_000.0];
        let said = ["0.00", "0.04", "9.99", "10.0", "99.9", "100", "616", "85000000"];
        assert_eq!(all.map(number), said);
    }
}
