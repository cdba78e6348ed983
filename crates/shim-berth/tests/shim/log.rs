//! The CRI log: framing, reopening, what happens when it cannot be written.

use std::fs;

use crate::fixture::{Pod, RUNTIMES, until};

/// Lines of a log as (stream, tag, text).
fn parsed(log: &std::path::Path) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ').map(str::to_owned);
            let time = parts.next().unwrap();
            assert!(time.ends_with('Z') && time.contains('T'), "{time}");
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn every_line_of_a_flood_is_there_once_and_in_order() {
    let pod = Pod::start("crun").await;
    pod.container("c", "seq 1 200000").run().await;
    assert_eq!(pod.wait("c").await, 0);
    let lines = pod.lines("c", "stdout");
    assert_eq!(lines.len(), 200_000);
    assert!(lines.iter().enumerate().all(|(n, line)| *line == (n + 1).to_string()));
}

#[tokio::test]
async fn long_lines_are_cut_and_the_end_without_newline_is_kept() {
    let pod = Pod::start("crun").await;
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf end";
    pod.container("c", script).run().await;
    assert_eq!(pod.wait("c").await, 0);
    let lines = parsed(&pod.log("c"));
    let shape: Vec<_> = lines.iter().map(|(_, tag, text)| (tag.as_str(), text.len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 7232), ("F", 3)]);
}

#[tokio::test]
async fn the_mode_of_a_log_is_0640_and_it_is_appended_to() {
    use std::os::unix::fs::PermissionsExt;
    let pod = Pod::start("crun").await;
    fs::create_dir_all(pod.log("c").parent().unwrap()).unwrap();
    pod.container("c", "echo x").run().await;
    pod.wait("c").await;
    assert_eq!(fs::metadata(pod.log("c")).unwrap().permissions().mode() & 0o777, 0o640);
    fs::copy(pod.log("c"), pod.log("d")).unwrap();
    pod.container("d", "echo y").run().await;
    pod.wait("d").await;
    assert_eq!(pod.lines("d", "stdout"), ["x", "y"]);
}

#[tokio::test]
async fn a_reopened_log_loses_no_line() {
    for runtime in RUNTIMES {
        let pod = Pod::start(runtime).await;
        let script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; done";
        pod.container("c", script).run().await;
        until("the log has lines", || (!pod.lines("c", "stdout").is_empty()).then_some(())).await;
        let old = pod.log("old");
        fs::rename(pod.log("c"), &old).unwrap();
        pod.reopen_log("c").await.unwrap();
        assert!(pod.log("c").exists(), "the new log is open when the call is answered");
        assert_eq!(pod.wait("c").await, 0);
        let mut all = pod.lines("old", "stdout");
        all.extend(pod.lines("c", "stdout"));
        assert_eq!(all.len(), 3000);
        assert!(all.iter().enumerate().all(|(n, line)| *line == (n + 1).to_string()));
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_drops_lines_and_never_the_container() {
    let pod = Pod::start("crun").await;
    pod.container("c", "seq 1 50000; echo done >/tmp/done")
        .request(|request| request.stdout = "berth-log:///dev/full".into())
        .run()
        .await;
    assert_eq!(pod.wait("c").await, 0);
    assert_eq!(pod.exit_facts("c").await.unwrap().dropped_log_lines, 50_000);
    assert!(pod.dir.path().join("image/tmp/done").exists());
}
