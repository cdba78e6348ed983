//! A row as bars: one for each subject, written by hand so that nothing else is needed.

use std::fmt::Write as _;

use super::table::number;
use super::{Better, Row};

const WIDTH: f64 = 640.0;
const BAR: f64 = 22.0;
const GAP: f64 = 10.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 44.0;
/// Readable on white and on black.
const OWN: &str = "#2f81f7";
const OTHER: &str = "#8b949e";

/// Draws a row; the bar of `own` stands out. `None` without a figure.
pub(crate) fn bars(row: &Row, subjects: &[String], own: &str) -> Option<String> {
    let figures: Vec<_> = subjects
        .iter()
        .filter_map(|subject| Some((subject, row.figures.get(subject)?.value)))
        .collect();
    let most = figures.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let height = TOP + figures.len() as f64 * (BAR + GAP) + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    let good = match row.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let title = escape(&row.title);
    let unit = escape(row.unit);
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"20\" font-size=\"15\" fill=\"{OTHER}\">{title}, {unit} ({good})</text>"
    );
    for (place, (subject, value)) in figures.into_iter().enumerate() {
        let y = TOP + place as f64 * (BAR + GAP);
        let length = (value / most * (WIDTH - LEFT - RIGHT)).max(1.0);
        let colour = if subject == own { OWN } else { OTHER };
        let (middle, end) = (y + BAR * 0.7, LEFT + length + 6.0);
        let (name, value) = (escape(subject), number(value));
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{end:.1}\" y=\"{middle:.1}\" fill=\"{colour}\">{value}</text>",
            LEFT - 8.0
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Figure;
    use super::*;

    fn row(figures: &[(&str, f64)]) -> Row {
        let figures =
            figures.iter().map(|(name, value)| ((*name).to_owned(), Figure::one(*value, 1)));
        let figures: BTreeMap<_, _> = figures.collect();
        Row { key: "a/b", title: "a < b".to_owned(), unit: "ms", better: Better::Lower, figures }
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_text_is_escaped() {
        let subjects = ["berth", "other", "absent"].map(str::to_owned);
        let svg = bars(&row(&[("berth", 40.0), ("other", 80.0)]), &subjects, "berth").unwrap();
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("width=\"220.0\""), "{svg}");
        assert!(svg.contains("width=\"440.0\""), "{svg}");
        assert!(svg.contains("a &lt; b, ms (less is better)"), "{svg}");
        assert!(!svg.contains("absent"));
        assert_eq!(svg.matches(OWN).count(), 3);
    }

    #[test]
    fn nothing_measured_draws_nothing() {
        assert!(bars(&row(&[]), &["berth".to_owned()], "berth").is_none());
    }
}
