//! docs/bench.md and its plots.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::machine::Machine;
use super::table::{Style, write};
use super::{Report, goals, svg};
use crate::rows::Amount;

/// The rows that are drawn.
const DRAWN: [&str; 8] = [
    "rpc/running",
    "rate/pods",
    "rpc/ExecSync",
    "rpc/stop + remove",
    "memory/pod",
    "memory/daemon all",
    "logs/seconds",
    "restart/listed",
];

/// Writes the document into this file and the plots into a directory of its name beside it.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn publish(
    path: &Path,
    report: &Report,
    machine: &Machine,
    amount: &Amount,
) -> Result<()> {
    let plots = path.with_extension("");
    fs::create_dir_all(&plots).with_context(|| format!("create {}", plots.display()))?;
    let mut images = String::new();
    for key in DRAWN {
        let Some(row) = report.rows.iter().find(|row| row.key == key) else { continue };
        let Some(drawing) = svg::bars(row, &report.subjects, "berth") else { continue };
        let file = format!("{}.svg", key.replace(['/', ' ', '+'], "-").replace("---", "-"));
        fs::write(plots.join(&file), drawing).with_context(|| format!("write {file}"))?;
        let name = plots.file_name().unwrap_or_default().to_string_lossy();
        images.push_str(&format!("![{}]({name}/{file})\n", row.title));
    }
    let text = text(report, machine, amount, &images);
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn text(report: &Report, machine: &Machine, amount: &Amount, images: &str) -> String {
    let Amount { calls, pods, workers, turns, held, restarts, polling, pulls, .. } = amount;
    let versions = machine.versions.iter().map(|line| format!("- {line}\n")).collect::<String>();
    format!(
        "# Berth beside others\n\n\
         Written by `make bench`, in one run of {seconds:.0} s; [how it measures, and how to repeat a \
         part](benchmark.md).\n\n\
         - {hardware}; {kernel}\n- load before {before}, after {after}\n{versions}\
         - {calls} lives of a pod for the RPCs, {pods} pods for each rate, {workers} at a time, in \
         {turns} turns over all subjects; {held} pods held at most; {restarts} restarts; {polling} s of \
         polling; {pulls} pulls\n\n\
         ## Asked and seen\n\n{goals}\n\
         ## Every figure\n\n\
         p50 / p99 where there are two figures; \u{201c}berth : X\u{201d} is Berth's figure divided by \
         X's. “bare” is the CNI plugins and the OCI runtime alone.\n\n{table}\n\
         ## Plots\n\n{images}",
        seconds = machine.seconds,
        hardware = machine.hardware,
        kernel = machine.kernel,
        before = machine.load_before,
        after = machine.load_after,
        goals = write(&goals::cells(report), Style::Markdown),
        table = write(&report.cells("berth"), Style::Markdown),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, What};
    use super::*;

    #[test]
    fn the_document_shows_figures_goals_and_plots_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench.md");
        let mut report = Report::new(vec!["bare".to_owned(), "berth".to_owned()], 100);
        let stop = What::lower("rpc/stop + remove", "stop + remove", "ms");
        report.put(stop, "berth", Figure::one(80.0, 50));
        let rate = What::higher("rate/pods", "running pods", "/s");
        report.put(rate, "berth", Figure::one(16.0, 150));
        report.put(rate, "bare", Figure::one(20.0, 150));
        let machine = Machine { hardware: "2 × slow".to_owned(), ..Machine::default() };
        publish(&path, &report, &machine, &Amount::default()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("at least 75 % of the bare commands' | yes |"), "{text}");
        assert!(text.contains("2 × slow"), "{text}");
        let links = text.matches("](bench/").count();
        assert_eq!(links, 2, "{text}");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(link == "benchmark.md" || dir.path().join(link).exists(), "{link}");
        }
    }
}
