//! Fields of CRI that belong to no other file: all limits at once, images by handler, pinned images,
//! confinement that this node does not have.

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::cri::{in_time, refused};
use berth_testkit::specs::Container;
use tonic::Code;

#[test]
fn every_limit_that_the_kernel_keeps_is_set_and_any_other_refused() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("limits")).await?;
        let pages = |limit| vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit }];
        let container = Container::idle("a", &busybox()).resources(|limits| {
            limits.memory_limit_in_bytes = 64 << 20;
            limits.memory_swap_limit_in_bytes = 96 << 20;
            limits.cpuset_mems = "0".to_owned();
            limits.hugepage_limits = pages(0);
        });
        let id = cri.launch(&pod, &container).await?;
        // The container's own view of its cgroup.
        let read = async |file: &str| cri.shell(&id, &format!("cat /sys/fs/cgroup/{file}")).await;
        assert_eq!(read("memory/memory.memsw.limit_in_bytes").await?, (96 << 20).to_string());
        assert_eq!(read("cpuset/cpuset.mems").await?, "0");
        let update = async |change: &dyn Fn(&mut cri::LinuxContainerResources)| {
            let mut linux = cri::LinuxContainerResources::default();
            change(&mut linux);
            let request = cri::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            cri.runtime.clone().update_container_resources(in_time(request)).await
        };
        update(&|limits| {
            limits.memory_limit_in_bytes = 80 << 20;
            limits.memory_swap_limit_in_bytes = 128 << 20;
            limits.hugepage_limits = pages(0);
        })
        .await?;
        assert_eq!(read("memory/memory.memsw.limit_in_bytes").await?, (128 << 20).to_string());
        assert_eq!(read("memory/memory.limit_in_bytes").await?, (80 << 20).to_string());

        let request = in_time(cri::ContainerStatsRequest { container_id: id.clone() });
        let told = cri.runtime.clone().container_stats(request).await?.into_inner().stats;
        let swap = told.and_then(|stats| stats.swap).context("swap in the figures")?;
        let [used, left] = [swap.swap_usage_bytes, swap.swap_available_bytes]
            .map(|value| value.unwrap_or_default().value);
        assert_eq!(used + left, (128 - 80) << 20);

        // This node counts no huge pages in cgroups, and cgroup v2's files are not there.
        assert!(
            !bed.node.path("/sys/fs/cgroup/hugetlb").exists(),
            "then this would be another test"
        );
        let huge =
            |limits: &mut cri::LinuxContainerResources| limits.hugepage_limits = pages(4 << 20);
        let unified = |limits: &mut cri::LinuxContainerResources| {
            limits.unified.insert("memory.high".to_owned(), "1000000".to_owned());
        };
        for (word, change) in [
            ("hugepage_limits", &huge as &dyn Fn(&mut cri::LinuxContainerResources)),
            ("unified", &unified),
        ] {
            let error = update(change).await.expect_err(word);
            assert!(error.message().contains(word), "{error}");
            let container = Container::idle("b", &busybox()).resources(change);
            let error = cri.create(&pod, &container).await.expect_err(word);
            assert!(error.message().contains(word), "{error}");
        }
        Ok(())
    })
}

#[test]
fn an_image_serves_every_handler_and_no_unknown_one() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox"], async |bed| {
        let pull = async |handler: &str| {
            let mut image = berth_testkit::cri::image(&busybox());
            image.runtime_handler = handler.to_owned();
            let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
            bed.cri.image.clone().pull_image(in_time(request)).await
        };
        let own = bed.cri.status().await?.runtime_handlers;
        let own = own.iter().map(|handler| &*handler.name).find(|name| !name.is_empty());
        let own = own.context("a handler")?;
        let id = pull(own).await?.into_inner().image_ref;
        assert_eq!(pull("").await?.into_inner().image_ref, id);
        let error = pull("no-such-handler").await.expect_err("no such handler");
        assert!(error.message().contains("no-such-handler"), "{error}");
        assert_eq!(error.code(), Code::InvalidArgument);

        // By its id and its handler the kubelet finds out whether an image is in use.
        let pod = bed.cri.run(&bed.pod("by").by(own)).await?;
        let container = Container::idle("a", &busybox()).with(|config| {
            config.image.get_or_insert_default().runtime_handler = own.to_owned();
        });
        let id = bed.cri.launch(&pod, &container).await?;
        let used = bed.cri.container(&id).await?;
        let listed = bed.cri.images().await?;
        let key = |image: &cri::Image| {
            (image.id.clone(), image.spec.clone().unwrap_or_default().runtime_handler)
        };
        let used = (used.image_id, used.image.context("an image")?.runtime_handler);
        assert!(listed.iter().any(|image| key(image) == used), "{used:?}");
        Ok(())
    })
}

#[test]
fn an_image_that_the_operator_pins_is_said_to_be() -> Result<()> {
    let pinned = format!("[images]\npinned = [\"{}\"]\n", reference("differs:a"));
    let config = Config::default().drop_in("pinned.toml", &pinned);
    on_a_node_with(config, &["differs:a", "differs:b"], async |bed| {
        let image = async |name: &str| {
            let found = bed.cri.image_status(&reference(name)).await?;
            found.with_context(|| name.to_owned())
        };
        assert!(image("differs:a").await?.pinned);
        assert!(!image("differs:b").await?.pinned);
        Ok(())
    })
}

#[test]
fn confinement_that_this_node_lacks_is_refused_or_means_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("confined")).await?;
        let apparmor = cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost as i32,
            localhost_ref: "my-profile".to_owned(),
        };
        assert!(!bed.node.path("/sys/kernel/security/apparmor").exists(), "AppArmor is here");
        let default = cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
            ..Default::default()
        };
        for profile in [apparmor, default] {
            let container = Container::idle("a", &busybox())
                .security(|security| security.apparmor = Some(profile));
            let answer = bed.cri.create(&pod, &container).await;
            assert_eq!(refused(answer), Code::Unimplemented, "it must not be less confined");
        }
        // Where SELinux is off, a label confines nobody anywhere: as with other runtimes.
        let volume = bed.node.disk().join("volume");
        std::fs::create_dir_all(&volume)?;
        let container = Container::idle("b", &busybox())
            .mount_with(&volume, "/v", |mount| mount.selinux_relabel = true)
            .security(|security| {
                let level = "s0:c1,c2".to_owned();
                let options = cri::SeLinuxOption { level, ..Default::default() };
                security.selinux_options = Some(options);
            });
        let id = bed.cri.launch(&pod, &container).await?;
        bed.cri.shell(&id, "touch /v/x").await?;
        // Of a kernel without either, a process has no label to show.
        let label = bed.node.path(&format!("/proc/{}/attr/current", bed.pid(&id).await?));
        let label = std::fs::read_to_string(label).unwrap_or_default();
        assert!(!label.contains("container_t") && !label.contains("s0:c1,c2"), "{label}");
        Ok(())
    })
}

#[test]
fn a_pod_s_status_has_its_containers_and_the_time_it_is_true_of() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("whole").await?;
        let before = bed.cri.pod_details(&pod.id).await?;
        assert_eq!(before.containers_statuses, [bed.cri.container(&id).await?]);
        bed.cri.stop(&id, 5).await?;
        let after = bed.cri.pod_details(&pod.id).await?;
        assert_eq!(after.containers_statuses[0].state(), cri::ContainerState::ContainerExited);
        assert!(after.timestamp > before.timestamp);
        Ok(())
    })
}
