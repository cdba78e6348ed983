//! The calls of crictl, repeated by the testkit's own command-line client.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use berth_testkit::bed::{Bed, busybox, on_a_node_with, push};
use berth_testkit::config::Config;

/// Runs the client; an exit code that is not 0 is an error with what it wrote.
fn cri(bed: &Bed, words: &[&str]) -> Result<String> {
    let output = Command::new(berth_testkit::paths::testkit()?)
        .arg("cri")
        .arg("--runtime-endpoint")
        .arg(bed.node.socket())
        .args(words)
        .output()
        .context("run the client")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("cri {words:?}: {}: {said}{error}", output.status);
    }
    Ok(said)
}

#[test]
fn crictl_s_calls_work_one_after_another() -> Result<()> {
    on_a_node_with(Config::default(), &["differs:a"], async |bed| {
        push(&mut bed.node, &["busybox"])?;
        let dir = bed.node.disk().join("cli");
        fs::create_dir_all(&dir)?;
        let write = |name: &str, value: serde_json::Value| {
            let path = dir.join(name);
            fs::write(&path, value.to_string())?;
            anyhow::Ok(path.display().to_string())
        };
        let pod_file = write(
            "pod.json",
            serde_json::json!({
                "metadata": {"name": "cli", "uid": "u", "namespace": "default", "attempt": 1},
                "log_directory": dir, "linux": {},
            }),
        )?;
        let container_file = write(
            "container.json",
            serde_json::json!({
                "metadata": {"name": "main"}, "image": {"image": busybox()},
                "command": ["sh", "-c", "echo from the log; sleep 1000"],
                "log_path": "main.log", "linux": {},
            }),
        )?;
        assert!(cri(bed, &["version"])?.contains("RuntimeName:  berth"));
        assert!(cri(bed, &["info"])?.contains("RuntimeReady"));
        cri(bed, &["pull", &busybox()])?;
        assert!(cri(bed, &["images"])?.contains("testing/busybox:latest"));
        assert!(cri(bed, &["inspecti", &busybox()])?.contains("repo_digests"));
        assert!(cri(bed, &["imagefsinfo"])?.contains("mountpoint"));

        let pod = cri(bed, &["runp", &pod_file])?.trim().to_owned();
        assert!(cri(bed, &["pods"])?.contains(&pod[..13]));
        assert!(cri(bed, &["inspectp", &pod])?.contains("SANDBOX_READY"));
        let id = cri(bed, &["create", &pod, &container_file, &pod_file])?.trim().to_owned();
        assert!(!cri(bed, &["ps"])?.contains(&id[..13]));
        assert!(cri(bed, &["ps", "-a"])?.contains(&id[..13]));
        cri(bed, &["start", &id])?;
        assert!(cri(bed, &["ps"])?.contains(&id[..13]));
        assert!(cri(bed, &["inspect", &id])?.contains("CONTAINER_RUNNING"));
        assert_eq!(cri(bed, &["exec", "-s", &id, "echo", "from exec"])?, "from exec\n");
        bed.file_says(&dir.join("main.log"), "from the log").await?;
        assert_eq!(cri(bed, &["logs", &id])?, "from the log\n");
        assert!(cri(bed, &["stats"])?.contains(&id));
        assert!(cri(bed, &["statsp"])?.contains(&pod));
        cri(bed, &["stop", &id])?;
        cri(bed, &["rm", &id])?;
        cri(bed, &["stopp", &pod])?;
        cri(bed, &["rmp", &pod])?;
        assert!(!cri(bed, &["pods"])?.contains(&pod[..13]));
        cri(bed, &["rmi", &busybox()])?;
        assert!(!cri(bed, &["images"])?.contains("busybox"));
        Ok(())
    })
}
