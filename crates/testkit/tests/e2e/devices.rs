//! Devices, plain ones and those of a vendor's specification, as seen from inside.

use anyhow::Result;
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node, on_a_node_with};
use berth_testkit::config::Config;
use berth_testkit::specs::Container;
use tonic::Code;

/// What a vendor's tool writes, in the directory of the system and in the one of this boot.
const SYSTEM: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.example/thing
containerEdits:
  env: [VENDOR=yes]
devices:
  - name: one
    containerEdits:
      env: [THING=one]
      additionalGids: [4711]
      deviceNodes:
        - {path: /dev/thing, hostPath: /dev/fuse, permissions: r}
      mounts:
        - {hostPath: /etc/cdi, containerPath: /opt/vendor, options: [ro, nosuid, nodev]}
      hooks:
        - {hookName: startContainer, path: /bin/touch, args: [touch, /tmp/hooked]}
  - name: two
    containerEdits:
      env: [THING=of-the-system]
  - name: broken
    containerEdits:
      deviceNodes:
        - {path: /dev/never, hostPath: /dev/no-such-device}
"#;
const OF_THIS_BOOT: &str = r#"{"cdiVersion": "1.0.0", "kind": "vendor.example/thing",
    "devices": [{"name": "two", "containerEdits": {"env": ["THING=of-this-boot"]}}]}"#;

fn asks(name: &str, devices: &[&str]) -> Container {
    let devices = devices.iter().map(|&name| cri::CdiDevice { name: name.to_owned() }).collect();
    Container::idle(name, &busybox()).with(|config| config.cdi_devices = devices)
}

#[test]
fn a_vendor_s_device_brings_what_its_specification_says() -> Result<()> {
    let config = Config::default().file("cdi/vendor.yaml", SYSTEM).file("cdi/odd.json", "{}");
    on_a_node_with(config, &["busybox"], async |bed| {
        let write =
            format!("mkdir -p /var/run/cdi && cat > /var/run/cdi/b.json <<'E'\n{OF_THIS_BOOT}\nE");
        bed.node.run("sh", &["-c", &write])?;
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("cdi")).await?;
        let one = asks("one", &["vendor.example/thing=one"]).security(|security| {
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
        });
        let id = cri.launch(&pod, &one).await?;
        assert_eq!(cri.shell(&id, "echo $VENDOR $THING").await?, "yes one");
        assert_eq!(cri.shell(&id, "stat -c '%F %t:%T %u' /dev/thing").await?, {
            "character special file a:e5 1000"
        });
        cri.shell(&id, ": < /dev/thing").await?;
        assert!(cri.shell(&id, ": >> /dev/thing").await.is_err(), "it may only be read");
        assert!(cri.shell(&id, "id -G").await?.split(' ').any(|group| group == "4711"));
        assert_eq!(cri.shell(&id, "ls /opt/vendor").await?, "odd.json\nvendor.yaml");
        assert!(cri.shell(&id, "touch /opt/vendor/x").await.is_err());
        cri.shell(&id, "test -e /tmp/hooked").await?;

        // The directory of this boot has the last word; what all devices bring is not its.
        let id = cri.launch(&pod, &asks("two", &["vendor.example/thing=two"])).await?;
        assert_eq!(cri.shell(&id, "echo $VENDOR $THING").await?, "of-this-boot");

        for (name, words) in [
            ("vendor.example/thing=three", vec!["vendor.example/thing=three", "odd.json"]),
            ("vendor.example/thing=broken", vec!["/dev/no-such-device", "no device"]),
        ] {
            let error = cri.create(&pod, &asks("bad", &[name])).await.expect_err(name);
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            for word in words {
                assert!(error.message().contains(word), "no {word}: {error}");
            }
        }
        bed.node.run("rm", &["-r", "/var/run/cdi"]).map(drop)
    })
}

#[test]
fn a_device_is_used_as_far_as_its_permissions_go() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("devices")).await?;
        let with = |name: &str, permissions: &str| {
            let device = cri::Device {
                container_path: "/dev/own".to_owned(),
                host_path: "/dev/fuse".to_owned(),
                permissions: permissions.to_owned(),
            };
            Container::idle(name, &busybox()).with(|config| config.devices.push(device))
        };
        let read = cri.launch(&pod, &with("r", "r")).await?;
        cri.shell(&read, ": < /dev/own").await?;
        assert!(cri.shell(&read, ": >> /dev/own").await.is_err());
        let both = cri.launch(&pod, &with("rw", "rw")).await?;
        cri.shell(&both, ": < /dev/own && : >> /dev/own").await?;
        // A node that a container makes itself opens nothing that it was not given.
        let none = cri.launch(&pod, &Container::idle("none", &busybox())).await?;
        cri.shell(&none, "mknod /tmp/own c 10 229").await?;
        assert!(cri.shell(&none, ": < /tmp/own").await.is_err());
        Ok(())
    })
}
