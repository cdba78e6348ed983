//! The security context, as seen from inside.

use std::fs;

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::cri::RunningPod;
use berth_testkit::specs::Container;
use cri::security_profile::ProfileType;

const CHOWN: u64 = 0;
const NET_RAW: u64 = 13;
const SYS_ADMIN: u64 = 21;

/// Starts an idle container with this security context and returns its id.
async fn secured(
    bed: &Bed,
    pod: &RunningPod,
    name: &str,
    change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> Result<String> {
    Ok(bed.cri.launch(pod, &Container::idle(name, &busybox()).security(change)).await?)
}

/// A field of the first process's status, which an exec could have of its own.
async fn field(bed: &Bed, id: &str, name: &str) -> Result<String> {
    let status = bed.node.path(&format!("/proc/{}/status", bed.pid(id).await?));
    let text = fs::read_to_string(status)?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    Ok(line.with_context(|| format!("a field {name}"))?.trim().to_owned())
}

async fn capabilities(bed: &Bed, id: &str, set: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&field(bed, id, set).await?, 16)?)
}

fn profile(kind: ProfileType, localhost: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: localhost.to_owned() })
}

#[test]
fn capabilities_are_the_default_ones_with_what_is_added_and_dropped() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("caps")).await?;
        let plain = secured(bed, &pod, "plain", |_| ()).await?;
        let set = capabilities(bed, &plain, "CapEff").await?;
        // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW
        // SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
        assert_eq!(set, 0xa804_25fb);
        assert_eq!(capabilities(bed, &plain, "CapBnd").await?, set);
        assert_eq!(capabilities(bed, &plain, "CapInh").await?, 0);

        let changed = secured(bed, &pod, "changed", |security| {
            security.capabilities = Some(cri::Capability {
                add_capabilities: vec!["SYS_ADMIN".to_owned()],
                drop_capabilities: vec!["CHOWN".to_owned()],
                ..Default::default()
            });
        })
        .await?;
        let set = capabilities(bed, &changed, "CapEff").await?;
        assert_eq!(set & (1 << SYS_ADMIN), 1 << SYS_ADMIN);
        assert_eq!(set & (1 << CHOWN), 0);
        assert!(bed.cri.shell(&changed, "chown 1 /tmp").await.is_err());
        assert!(bed.cri.shell(&plain, "chown 1 /tmp").await.is_ok());

        let none = secured(bed, &pod, "none", |security| {
            security.capabilities = Some(cri::Capability {
                add_capabilities: vec!["NET_RAW".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            });
        })
        .await?;
        assert_eq!(capabilities(bed, &none, "CapEff").await?, 1 << NET_RAW);
        Ok(())
    })
}

#[test]
fn ambient_capabilities_reach_a_user_without_any() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("ambient")).await?;
        let id = secured(bed, &pod, "a", |security| {
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
            security.capabilities = Some(cri::Capability {
                add_ambient_capabilities: vec!["NET_RAW".to_owned()],
                ..Default::default()
            });
        })
        .await?;
        assert_eq!(capabilities(bed, &id, "CapAmb").await?, 1 << NET_RAW);
        assert_eq!(capabilities(bed, &id, "CapEff").await?, 1 << NET_RAW);
        Ok(())
    })
}

#[test]
fn a_read_only_root_takes_no_write_and_volumes_do() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("ro")).await?;
        let disk = bed.node.disk().join("volume");
        fs::create_dir_all(&disk)?;
        let container = Container::idle("a", &busybox())
            .mount(&disk, "/volume")
            .security(|security| security.readonly_rootfs = true);
        let id = bed.cri.launch(&pod, &container).await?;
        let refused = bed.cri.exec(&id, &["sh", "-c", "echo x > /tmp/x"]).await?;
        assert!(refused.stderr.contains("Read-only"), "{refused:?}");
        assert!(bed.cri.shell(&id, "echo x >> /etc/hosts").await.is_err());
        bed.cri.shell(&id, "echo x > /volume/x; echo x > /dev/shm/x").await?;
        assert_eq!(fs::read_to_string(disk.join("x"))?, "x\n");
        Ok(())
    })
}

#[test]
fn kernel_files_are_masked_or_read_only_unless_cri_says_otherwise() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("masks")).await?;
        let plain = secured(bed, &pod, "plain", |_| ()).await?;
        let cri = &bed.cri;
        assert_eq!(cri.shell(&plain, "wc -c < /proc/keys").await?, "0");
        assert_eq!(cri.shell(&plain, "ls /sys/firmware | wc -l").await?, "0");
        assert!(cri.shell(&plain, "echo 1 > /proc/sys/kernel/domainname").await.is_err());
        assert!(cri.shell(&plain, "echo h > /proc/sysrq-trigger").await.is_err());

        let own = secured(bed, &pod, "own", |security| {
            security.masked_paths = vec!["/etc/passwd".to_owned()];
            security.readonly_paths = vec!["/tmp".to_owned()];
        })
        .await?;
        assert_eq!(cri.shell(&own, "wc -c < /etc/passwd").await?, "0");
        assert!(cri.shell(&own, "echo x > /tmp/x").await.is_err());
        assert_ne!(cri.shell(&own, "wc -c < /proc/keys").await?, "0");
        Ok(())
    })
}

#[test]
fn users_and_groups_come_from_the_config_or_the_image() -> Result<()> {
    let images =
        ["busybox", "user:uid", "user:name", "user:name-gid", "user:uid-gid", "user:grouped"];
    on_a_node_with(Config::default(), &images, async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("users")).await?;
        for (tag, expected) in [
            ("uid", "1002 0 0"),
            ("name", "33 33 33"),
            ("name-gid", "33 1004 1004"),
            ("uid-gid", "1003 1004 1004"),
            ("grouped", "1000 1000 1000 50000"),
        ] {
            let image = reference(&format!("user:{tag}"));
            let id = cri.launch(&pod, &Container::idle(tag, &image)).await?;
            assert_eq!(cri.shell(&id, "echo $(id -u) $(id -g) $(id -G)").await?, expected, "{tag}");
        }
        let id = secured(bed, &pod, "config", |security| {
            security.run_as_username = "default-user".to_owned();
            security.run_as_group = Some(cri::Int64Value { value: 7 });
            security.supplemental_groups = vec![1234];
        })
        .await?;
        assert_eq!(field(bed, &id, "Groups").await?, "7 1234 50000");
        let user = cri.container(&id).await?.user.context("a user in the status")?;
        let linux = user.linux.context("a Linux user")?;
        assert_eq!((linux.uid, linux.gid), (1000, 7));

        let strict = secured(bed, &pod, "strict", |security| {
            security.run_as_username = "default-user".to_owned();
            security.supplemental_groups = vec![1234];
            security.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict as i32;
        })
        .await?;
        assert_eq!(field(bed, &strict, "Groups").await?, "1000 1234");

        let lonely = Container::idle("lonely", &busybox()).security(|security| {
            security.run_as_group = Some(cri::Int64Value { value: 7 });
        });
        assert!(cri.create(&pod, &lonely).await.is_err(), "a group needs a user");
        let nobody = Container::idle("nobody", &busybox())
            .security(|security| security.run_as_username = "nobody-here".to_owned());
        let error = cri.create(&pod, &nobody).await.expect_err("no such user in the image");
        assert!(error.message().contains("nobody-here"), "{error}");
        Ok(())
    })
}

#[test]
fn no_new_privs_and_seccomp_hold_where_they_were_asked_for() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("seccomp")).await?;
        let plain = secured(bed, &pod, "plain", |_| ()).await?;
        assert_eq!(field(bed, &plain, "NoNewPrivs").await?, "0");
        let bound = secured(bed, &pod, "bound", |security| {
            security.no_new_privs = true;
            security.seccomp = profile(ProfileType::RuntimeDefault, "");
        })
        .await?;
        assert_eq!(field(bed, &bound, "NoNewPrivs").await?, "1");
        assert_eq!(field(bed, &bound, "Seccomp").await?, "2");
        // unshare of a user namespace is what the default profile refuses first of all.
        assert!(cri.shell(&bound, "unshare -U true").await.is_err());
        let free = secured(bed, &pod, "free", |security| {
            security.seccomp = profile(ProfileType::Unconfined, "");
        })
        .await?;
        assert_eq!(field(bed, &free, "Seccomp").await?, "0");

        let own = bed.node.disk().join("profile.json");
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
        fs::write(&own, text)?;
        let localhost = secured(bed, &pod, "localhost", |security| {
            security.seccomp = profile(ProfileType::Localhost, &own.display().to_string());
        })
        .await?;
        assert!(cri.shell(&localhost, "mkdir /tmp/d").await.is_err());
        cri.shell(&localhost, "touch /tmp/f").await?;
        let absent = Container::idle("absent", &busybox()).security(|security| {
            security.seccomp = profile(ProfileType::Localhost, "/no/such/profile.json");
        });
        let error = cri.create(&pod, &absent).await.expect_err("the profile does not exist");
        assert!(error.message().contains("/no/such/profile.json"), "{error}");
        Ok(())
    })
}

#[test]
fn a_privileged_container_has_everything() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("all").security(|security| security.privileged = true)).await?;
        let id = secured(bed, &pod, "a", |security| security.privileged = true).await?;
        let own = fs::read_to_string("/proc/self/status")?;
        let bound = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("CapBnd")?;
        assert_eq!(field(bed, &id, "CapEff").await?, bound.trim());
        assert_eq!(field(bed, &id, "Seccomp").await?, "0");
        cri.shell(&id, "mkdir /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m").await?;
        assert!(
            cri.shell(&id, "ls /dev").await?.contains("loop-control")
                || !bed.node.path("/dev/loop-control").exists()
        );
        // Privileged in a pod that is not would be more than the pod was given.
        let poor = cri.run(&bed.pod("poor")).await?;
        let container =
            Container::idle("a", &busybox()).security(|security| security.privileged = true);
        assert!(cri.create(&poor, &container).await.is_err());
        Ok(())
    })
}

#[test]
fn users_of_the_node_neither_read_what_a_pod_was_given_nor_reach_its_files() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("secret").await?;
        let nobody = |args: &[&str]| {
            let who = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            bed.node.run("setpriv", &[&who[..], args].concat())
        };
        nobody(&["test", "-d", "/run/berth/bundles"])?;
        let config = format!("/run/berth/bundles/{id}/config.json");
        let program = format!("/run/berth/bundles/{id}/rootfs/bin/busybox");
        let record = format!("/run/berth/sandboxes/{}/record.json.gz", pod.id);
        // The pod's root may leave a program with set-uid bits in the files that the node gave it.
        bed.cri.shell(&id, "cp /bin/busybox /etc/hostname && chmod 4755 /etc/hostname").await?;
        let found = bed.node.run("find", &["/var/lib/berth/files", "-perm", "4755"])?;
        let planted = found.trim().to_owned();
        assert!(planted.ends_with("/hostname"), "{found:?}");
        for file in [&config, &program, &record, &planted] {
            bed.node.run("head", &["-c1", file])?;
            assert!(nobody(&["head", "-c1", file]).is_err(), "nobody reads {file}");
        }
        for directory in ["/run/berth/bundles", "/run/berth/sandboxes"] {
            assert!(nobody(&["ls", directory]).is_err(), "nobody lists {directory}");
        }
        Ok(())
    })
}
