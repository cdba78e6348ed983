//! The node under test, tested by itself: no daemon is needed here.

use std::process::Command;

use anyhow::Result;
use berth_testkit::config::Config;
use berth_testkit::http::Request;
use berth_testkit::image::samples;
use berth_testkit::network;
use berth_testkit::node::Node;

#[test]
fn a_node_has_its_own_network_processes_and_files_and_leaves_nothing() -> Result<()> {
    let node = Node::prepare(Config::default())?;
    let links = node.run("ip", &["-o", "link"])?;
    assert!(links.contains("lo:") && links.contains("cni0"), "{links}");
    assert!(!links.contains("eth0"), "{links}");
    let processes = node.run("ps", &["-e", "-o", "pid,comm"])?;
    assert!(processes.contains("1 berth-testkit"), "{processes}");
    let disk = node.disk().to_owned();
    let parent = node.parent().dir("memory");
    assert!(parent.exists());
    assert!(node.path("/etc/cni/net.d/10-testnet.conflist").exists());
    assert!(node.run("cat", &["/proc/self/mountinfo"])?.contains("/run rw"));
    drop(node);
    assert!(!disk.exists() && !parent.exists());
    assert!(!std::path::Path::new("/etc/cni/net.d/10-testnet.conflist").exists());
    Ok(())
}

#[test]
fn a_reboot_keeps_the_disk_and_changes_the_boot_id() -> Result<()> {
    let mut node = Node::prepare(Config::default())?;
    let boot_id = "/proc/sys/kernel/random/boot_id";
    node.run("sh", &["-c", "echo kept > /var/lib/berth/kept; echo lost > /run/lost"])?;
    let before = node.run("cat", &[boot_id])?;
    node.reboot()?;
    assert_ne!(node.run("cat", &[boot_id])?, before);
    assert_eq!(node.run("cat", &["/var/lib/berth/kept"])?, "kept\n");
    assert!(node.run("cat", &["/run/lost"]).is_err());
    Ok(())
}

#[test]
fn both_runtimes_run_a_container_inside() -> Result<()> {
    let node = Node::prepare(Config::default())?;
    for runtime in ["crun", "runc"] {
        let bundle = node.disk().join(runtime);
        std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
        std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/sh"))?;
        node.place()?
            .visit(|| network::run(Command::new(runtime).arg("spec").current_dir(&bundle), b""))?;
        let file = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = serde_json::json!(["sh", "-c", "echo inside"]);
        spec["linux"]["cgroupsPath"] = format!("{}/{runtime}", node.parent().path()).into();
        std::fs::write(&file, spec.to_string())?;
        let bundle = bundle.display().to_string();
        let said = node.run(runtime, &["run", "--bundle", &bundle, "test"])?;
        assert_eq!(said, "inside\n", "{runtime}");
    }
    Ok(())
}

#[test]
fn the_registry_serves_what_was_pushed() -> Result<()> {
    let mut node = Node::prepare(Config::default())?;
    let push = node.registry()?.push();
    let samples = samples::all()?;
    node.place()?.visit(|| samples.iter().try_for_each(|sample| push.sample(sample)))?;
    let list = Request::new("GET", "/v2/testing/tags/tags/list");
    let address = node.registry()?.address();
    let tags = node.place()?.visit(|| list.send(address))?.text();
    assert!(["\"1\"", "\"2\"", "\"3\""].iter().all(|tag| tags.contains(tag)), "{tags}");
    Ok(())
}
