//! The outcome of each spec, from the report that ginkgo writes as JSON.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// A spec and what came of it. Shown as a line of a table: outcome, name, and why it did not pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spec {
    /// In ginkgo's words: `passed`, `skipped`, `failed`, `panicked`, ...
    pub(super) state: String,
    /// Its containers' texts and its own.
    pub(super) name: String,
    /// The first line of what was said of a spec that did not pass.
    pub(super) why: String,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}", self.state, self.name, self.why)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    leaf_node_type: String,
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Every spec of a report, and whatever else of it failed, in the order of outcome and name.
///
/// # Errors
/// If it is not such a report, or has no spec.
pub(super) fn read(report: &str) -> Result<Vec<Spec>> {
    let suites: Vec<Suite> = serde_json::from_str(report).context("ginkgo's report")?;
    let nodes = suites.into_iter().flat_map(|suite| suite.spec_reports);
    let mut specs: Vec<_> = nodes
        .filter(|node| node.leaf_node_type == "It" || node.state != "passed")
        .map(|node| {
            let mut words = node.container_hierarchy_texts.unwrap_or_default();
            words.push(if node.leaf_node_text.is_empty() {
                node.leaf_node_type
            } else {
                node.leaf_node_text
            });
            let said = node.failure.map(|failure| failure.message).unwrap_or_default();
            let why = said.lines().next().unwrap_or_default().replace('\t', " ");
            Spec { state: node.state, name: words.join(" "), why }
        })
        .collect();
    specs.sort();
    anyhow::ensure!(!specs.is_empty(), "the report has no spec");
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_table_in_which_no_failure_is_lost() {
        let report = r#"[{"SuitePath": "/", "SpecReports": [
            {"LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"ContainerHierarchyTexts": ["Pods", "that run"], "LeafNodeType": "It",
             "LeafNodeText": "run", "State": "passed"},
            {"ContainerHierarchyTexts": ["Pods"], "LeafNodeType": "It", "LeafNodeText": "stop",
             "State": "failed", "Failure": {"Message": "Expected\n\t<nil>"}},
            {"ContainerHierarchyTexts": null, "LeafNodeType": "AfterSuite", "LeafNodeText": "",
             "State": "panicked", "Failure": {"Message": "a\tb"}}
        ]}]"#;
        let lines: Vec<_> = read(report).unwrap().iter().map(Spec::to_string).collect();
        assert_eq!(
            lines,
            [
                "failed\tPods stop\tExpected",
                "panicked\tAfterSuite\ta b",
                "passed\tPods that run run\t"
            ]
        );
        assert!(read("[]").is_err());
    }
}
