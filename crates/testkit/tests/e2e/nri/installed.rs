//! Plugins that the daemon starts itself.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::eventually;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::paths;
use berth_testkit::specs::Container;

#[test]
fn an_installed_plugin_is_started_configured_and_ends_with_the_daemon() -> Result<()> {
    on_a_node(async |bed| {
        let (dir, calls) = (bed.node.disk().join("plugins"), bed.node.disk().join("calls"));
        std::fs::create_dir(&dir)?;
        let testkit = paths::testkit()?;
        let script = format!(
            "#!/bin/sh\nexec {} nri-plugin {} <&$NRI_PLUGIN_SOCKET\n",
            testkit.display(),
            calls.display()
        );
        std::fs::write(dir.join("10-installed"), script)?;
        std::fs::set_permissions(dir.join("10-installed"), PermissionsExt::from_mode(0o755))?;
        // It fails, and holds nothing up.
        std::fs::write(dir.join("20-fails"), "#!/bin/sh\nexit 3\n")?;
        std::fs::set_permissions(dir.join("20-fails"), PermissionsExt::from_mode(0o755))?;
        let text = format!("[nri]\nplugins_dir = \"{}\"\n", dir.display());
        bed.node.reconfigure(|config| {
            *config = config
                .clone()
                .drop_in("nri-a.toml", &text)
                .file("nri/conf.d/installed.conf", "how");
        })?;
        bed.node.stop_daemon()?;
        bed.start().await?;

        // It was there before CRI was served.
        let said = std::fs::read_to_string(&calls).context("it has not been called")?;
        assert_eq!(said, "Configure how\nSynchronize \n");
        let status = bed.berth(&["status"])?;
        ensure!(status.contains("nri plugin    10-installed\n"), "{status}");
        ensure!(status.contains("20-fails: gone: "), "{status}");
        let pod = bed.cri.run(&bed.pod("installed")).await?;
        bed.cri.launch(&pod, &Container::idle("a", &busybox())).await?;
        let asked = std::fs::read_to_string(&calls)?;
        ensure!(asked.contains("RunPodSandbox") && asked.contains("CreateContainer"), "{asked}");

        let runs = |bed: &berth_testkit::bed::Bed| -> Result<bool> {
            Ok(bed.node.run("ps", &["-e", "-o", "args"])?.contains("nri-plugin"))
        };
        ensure!(runs(bed)?);
        bed.node.stop_daemon()?;
        ensure!(!runs(bed)?, "it goes on without a daemon");
        ensure!(std::fs::read_to_string(&calls)?.ends_with("Shutdown \n"));

        // Nor does it outlive a daemon that is killed: its connection ends.
        bed.start().await?;
        bed.node.kill_daemon()?;
        let gone = async || Ok((!runs(bed)?).then_some(()));
        eventually(|| "it outlives its daemon".to_owned(), gone).await?;
        bed.node.reconfigure(|config| {
            *config =
                config.clone().drop_in("nri-b.toml", "[nri]\nplugins_dir = \"/nonexistent\"\n");
        })?;
        bed.start().await
    })
}
