//! What was measured: rows of figures, one for each subject.

pub(crate) mod document;
mod goals;
pub(crate) mod machine;
mod svg;
pub(crate) mod table;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::samples::{Samples, ratio};

/// Which way a row is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Times, memory.
    Lower,
    /// Rates.
    Higher,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What {
    /// A name that does not change: `GROUP/NAME`.
    pub(crate) key: &'static str,
    /// What people read; `{all}` and `{half}` stand for numbers of pods.
    pub(crate) title: &'static str,
    /// The unit of every figure.
    pub(crate) unit: &'static str,
    /// Which way is good.
    pub(crate) better: Better,
}

/// One measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// The value, or the median of several.
    pub(crate) value: f64,
    /// The 99th percentile, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    /// How many were measured.
    pub(crate) n: usize,
}

/// A row: one thing, of everybody who does it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) figures: BTreeMap<String, Figure>,
}

/// All rows, in the order in which they were declared or first measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) subjects: Vec<String>,
    /// The most pods that are held.
    pub(crate) held: usize,
    pub(crate) rows: Vec<Row>,
}

impl What {
    /// A thing that is better the smaller it is.
    pub(crate) const fn lower(key: &'static str, title: &'static str, unit: &'static str) -> Self {
        Self { key, title, unit, better: Better::Lower }
    }

    /// A thing that is better the larger it is.
    pub(crate) const fn higher(key: &'static str, title: &'static str, unit: &'static str) -> Self {
        Self { key, title, unit, better: Better::Higher }
    }
}

impl Figure {
    /// The median and the 99th percentile of samples; `None` without any.
    pub(crate) fn of(samples: &Samples) -> Option<Self> {
        let p99 = samples.percentile(99.0).filter(|_| samples.len() > 1);
        Some(Self { value: samples.percentile(50.0)?, p99, n: samples.len() })
    }

    /// One value that stands for `n` measured things.
    pub(crate) fn one(value: f64, n: usize) -> Self {
        Self { value, p99: None, n }
    }
}

impl Report {
    /// A report on these subjects, of which each holds so many pods at most.
    pub(crate) fn new(subjects: Vec<String>, held: usize) -> Self {
        Self { subjects, held, rows: Vec::new() }
    }

    /// Adds a row without figures, if it is not there; returns its place. Who declares rows
    /// before he measures says their order.
    pub(crate) fn declare(&mut self, what: What) -> usize {
        let found = self.rows.iter().position(|row| row.key == what.key);
        found.unwrap_or_else(|| {
            let What { key, title, unit, better } = what;
            let half = (self.held / 2).to_string();
            let title = title.replace("{all}", &self.held.to_string()).replace("{half}", &half);
            self.rows.push(Row { key, title, unit, better, figures: BTreeMap::new() });
            self.rows.len() - 1
        })
    }

    /// Adds a figure, and its row if it is the first.
    pub(crate) fn put(&mut self, what: What, subject: &str, figure: Figure) {
        let at = self.declare(what);
        self.rows[at].figures.insert(subject.to_owned(), figure);
    }

    /// Adds the median and the 99th percentile of samples, if there are any.
    pub(crate) fn put_samples(&mut self, what: What, subject: &str, samples: &Samples) {
        if let Some(figure) = Figure::of(samples) {
            self.put(what, subject, figure);
        }
    }

    /// A figure.
    pub(crate) fn get(&self, key: &str, subject: &str) -> Option<Figure> {
        let row = self.rows.iter().find(|row| row.key == key)?;
        row.figures.get(subject).copied()
    }

    /// How many times the figure of `other` that of `subject` is.
    pub(crate) fn ratio(&self, key: &str, subject: &str, other: &str) -> Option<f64> {
        ratio(self.get(key, subject)?.value, self.get(key, other)?.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_thing_share_a_row_and_give_ratios() {
        const WHAT: What = What::lower("rpc/x", "x", "ms");
        let mut report = Report::new(vec!["a".to_owned(), "b".to_owned()], 9);
        report.declare(What::lower("first", "{half} of {all}", "ms"));
        report.put(WHAT, "a", Figure::one(2.0, 1));
        report.put_samples(WHAT, "b", &[3.0, 4.0, 9.0].into_iter().collect());
        report.put_samples(WHAT, "c", &Samples::default());
        assert_eq!(report.rows.len(), 2);
        assert_eq!(report.rows[0].title, "4 of 9");
        assert_eq!(report.get("rpc/x", "b").unwrap().p99, Some(9.0));
        assert_eq!(report.ratio("rpc/x", "a", "b"), Some(0.5));
        assert_eq!(report.ratio("rpc/x", "a", "c"), None);
        assert_eq!(report.ratio("rpc/y", "a", "b"), None);
    }
}
