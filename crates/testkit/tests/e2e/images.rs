//! Images: pulled, listed, removed, and right down to the last file.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{self, Bed, busybox, eventually, on_a_node_with, reference};
use berth_testkit::config::Config;
use berth_testkit::cri::{in_time, refused};
use berth_testkit::gateway::{Gateway, Manner};
use berth_testkit::image::{Compression, Image, Layer, archive, samples};
use berth_testkit::registry::{Access, PASSWORD, Registry, USER};
use berth_testkit::specs::Container;
use tonic::Code;

/// A gateway to the node's registry, and the reference of `busybox` through it.
fn gateway(bed: &mut Bed, manner: Manner) -> Result<(Gateway, String)> {
    bed::push(&mut bed.node, &["busybox"])?;
    let backend = bed.node.registry()?.address();
    let gateway = Gateway::start(bed.node.place()?, backend, manner)?;
    let reference = format!("{}/testing/busybox:latest", gateway.address());
    let hosts = format!("berth/certs.d/{}/hosts.toml", gateway.address());
    let server = format!("server = \"http://{}\"\n", gateway.address());
    bed.node.reconfigure(|config| *config = config.clone().file(&hosts, &server))?;
    Ok((gateway, reference))
}

fn auth(user: &str, password: &str) -> Option<cri::AuthConfig> {
    Some(cri::AuthConfig {
        username: user.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    })
}

#[test]
fn an_image_has_one_id_under_all_its_names() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        bed::push(&mut bed.node, &["tags"])?;
        let sample = samples::one("tags")?;
        let cri = &bed.cri;
        let id = cri.pull(&reference("tags:1")).await?;
        assert_eq!(id, sample.image.id());
        for tag in ["tags:2", "tags:3"] {
            assert_eq!(cri.pull(&reference(tag)).await?, id);
        }
        let images = cri.images().await?;
        assert_eq!(images.len(), 1);
        let image = &images[0];
        assert_eq!(image.id, id);
        assert_eq!(image.size, sample.image.compressed_size());
        let mut tags = image.repo_tags.clone();
        tags.sort();
        assert_eq!(tags, [reference("tags:1"), reference("tags:2"), reference("tags:3")]);
        let digest = sample.image.top().0.digest;
        let by_digest = format!("127.0.0.1:5000/testing/tags@{digest}");
        assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
        for name in [&reference("tags:2"), &id, &id[7..20].to_owned(), &by_digest] {
            let found = cri.image_status(name).await?.with_context(|| format!("find {name}"))?;
            assert_eq!(found.id, id, "{name}");
        }
        assert_eq!(cri.image_status("127.0.0.1:5000/testing/tags:9").await?, None);
        cri.remove_image(&reference("tags:2")).await?;
        assert!(cri.images().await?.is_empty(), "removal by one tag removes all");
        cri.remove_image(&reference("tags:2")).await?;
        Ok(())
    })
}

#[test]
fn layers_replace_hide_link_and_decorate_as_they_say() -> Result<()> {
    on_a_node_with(Config::default(), &["layers"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("layers")).await?;
        let id = cri.launch(&pod, &Container::idle("a", &reference("layers"))).await?;
        let sees = async |line: &str| cri.shell(&id, line).await;
        assert_eq!(sees("cat /t/kept /t/replaced").await?, "keptnew");
        assert_eq!(sees("stat -c %a /t/replaced").await?, "600");
        let names = "fifo implied kept linked linked-too null opaque replaced symlink xattr";
        assert_eq!(sees("cd /t && echo *").await?, names);
        assert_eq!(sees("ls -A /t/opaque; stat -c %a /t/opaque").await?, "new\n700");
        assert_eq!(sees("stat -c '%a %u:%g' /t/implied").await?, "2750 12:34");
        assert_eq!(sees("stat -c %h /t/linked").await?, "2");
        // One inode; writing would part them: overlay copies up one name (index=off, as everywhere).
        assert_eq!(sees("stat -c %i /t/linked /t/linked-too | uniq | wc -l").await?, "1");
        assert_eq!(sees("stat -c '%a %u:%g' /t/xattr").await?, "4755 1000:50000");
        assert_eq!(sees("readlink /t/symlink; cat /t/symlink").await?, "kept\nkept");
        assert_eq!(sees("stat -c '%F %t:%T' /t/null").await?, "character special file 1:3");
        assert_eq!(sees("stat -c %F /t/fifo").await?, "fifo");
        assert_eq!(xattr(bed, &id, "/t/xattr", "user.colour").await?, b"blue");
        Ok(())
    })
}

/// An extended attribute of a container's file.
async fn xattr(bed: &Bed, id: &str, path: &str, name: &str) -> Result<Vec<u8>> {
    let file = bed.node.path(&format!("/proc/{}/root{path}", bed.pid(id).await?));
    let mut buffer = [0; 64];
    let length = rustix::fs::getxattr(&file, name, &mut buffer[..])?;
    Ok(buffer[..length].to_vec())
}

#[test]
fn extended_attributes_keep_every_byte() -> Result<()> {
    on_a_node_with(Config::default(), &["xattr"], async |bed| {
        let pod = bed.cri.run(&bed.pod("xattr")).await?;
        let id = bed.cri.launch(&pod, &Container::idle("a", &reference("xattr"))).await?;
        assert_eq!(xattr(bed, &id, "/xattr", "user.binary").await?, b"a\nb\0c");
        Ok(())
    })
}

#[test]
fn indexes_and_docker_manifests_lead_to_images() -> Result<()> {
    on_a_node_with(Config::default(), &["index", "docker"], async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("kinds")).await?;
        for name in ["index", "docker"] {
            let image = cri.image_status(&reference(name)).await?.context("it was pulled")?;
            assert_eq!(image.id, samples::one(name)?.image.id());
            let id = cri.launch(&pod, &Container::idle(name, &reference(name))).await?;
            assert_eq!(cri.shell(&id, "cat /www/index.html").await?, "hello from berth");
        }
        Ok(())
    })
}

#[test]
fn a_registry_with_a_password_lets_in_who_has_it() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let dir = bed.node.disk().join("locked");
        let registry = Registry::start(bed.node.place()?, &dir, 5001, Access::Basic)?;
        let push = registry.push();
        let sample = samples::one("busybox")?;
        bed.node.place()?.visit(|| push.sample(&sample))?;
        let hosts = "server = \"http://127.0.0.1:5001\"\n";
        bed.node.reconfigure(|config| {
            *config = config.clone().file("berth/certs.d/127.0.0.1:5001/hosts.toml", hosts);
        })?;
        let reference = registry.reference(&sample);
        for auth in [None, auth(USER, "wrong"), auth("", "")] {
            let error = bed.cri.pull_as(&reference, auth).await.expect_err("it wants a password");
            assert_eq!(error.code(), Code::PermissionDenied, "{error}");
            for part in [&*reference, "http://127.0.0.1:5001", "credentials"] {
                assert!(error.message().contains(part), "no {part}: {error}");
            }
        }
        let absent = reference.replace("busybox", "absent");
        let error = bed.cri.pull_as(&absent, auth(USER, PASSWORD)).await.expect_err("it is absent");
        assert_eq!(error.code(), Code::NotFound, "{error}");
        bed.is_clean()?;
        let id = bed.cri.pull_as(&reference, auth(USER, PASSWORD)).await?;
        assert_eq!(id, sample.image.id());
        bed.settle()
    })
}

#[test]
fn tokens_are_fetched_where_the_registry_says() -> Result<()> {
    for (manner, auth) in [(Manner::Token, None), (Manner::TokenForUser, auth(USER, PASSWORD))] {
        on_a_node_with(Config::default(), &[], async |bed| {
            let (gateway, reference) = gateway(bed, manner)?;
            let id = bed.cri.pull_as(&reference, auth).await?;
            assert_eq!(id, samples::one("busybox")?.image.id());
            let requests = gateway.requests();
            let tokens = requests.iter().filter(|line| line.contains("/token?")).count();
            assert_eq!(tokens, 1, "one token serves a whole pull: {requests:?}");
            if manner == Manner::TokenForUser {
                bed.cri.remove_image(&reference).await?;
                assert!(bed.cri.pull(&reference).await.is_err());
            } else {
                bed.settle()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_mirror_is_asked_first_and_the_server_when_it_fails() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        bed::push(&mut bed.node, &["busybox"])?;
        let backend = bed.node.registry()?.address();
        let broken = Gateway::start(bed.node.place()?, backend, Manner::Unavailable)?;
        let mirror = Gateway::start(bed.node.place()?, backend, Manner::Plain)?;
        let hosts = format!(
            "server = \"http://127.0.0.1:9\"\n[host.\"http://{}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}\"]\n",
            broken.address(),
            mirror.address()
        );
        bed.node.reconfigure(|config| {
            *config = config.clone().file("berth/certs.d/registry.example/hosts.toml", &hosts);
        })?;
        let id = bed.cri.pull("registry.example/testing/busybox:latest").await?;
        assert_eq!(id, samples::one("busybox")?.image.id());
        assert!(!broken.requests().is_empty());
        let requests = mirror.requests();
        assert!(requests.iter().all(|line| line.contains("ns=registry.example")), "{requests:?}");
        let image = bed.cri.image_status(&id).await?.context("it was pulled")?;
        assert_eq!(image.repo_tags, ["registry.example/testing/busybox:latest"]);
        bed.settle()
    })
}

#[test]
fn wrong_or_cut_blobs_are_refused_and_leave_nothing() -> Result<()> {
    let manners = [
        (Manner::Corrupt, Code::InvalidArgument),
        (Manner::Truncate, Code::Unavailable),
        (Manner::Unavailable, Code::Unavailable),
    ];
    for (manner, code) in manners {
        on_a_node_with(Config::default(), &[], async |bed| {
            let (_gateway, reference) = gateway(bed, manner)?;
            let error = bed.cri.pull(&reference).await.expect_err("the blobs are not right");
            assert!(error.message().contains("busybox"), "{manner:?}: {error}");
            assert_eq!(error.code(), code, "{manner:?}: {error}");
            // The kubelet knows this beginning, and says so to whoever asks about the pod.
            let known = error.message().starts_with("RegistryUnavailable: ");
            assert_eq!(known, code == Code::Unavailable, "{manner:?}: {error}");
            assert!(bed.cri.images().await?.is_empty());
            bed.is_clean()
        })?;
    }
    Ok(())
}

#[test]
fn a_registry_that_fails_twice_is_asked_again() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let (_gateway, reference) = gateway(bed, Manner::Flaky)?;
        bed.cri.pull(&reference).await?;
        bed.settle()
    })
}

#[test]
fn a_pull_that_is_given_up_leaves_nothing() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let (gateway, reference) = gateway(bed, Manner::Stall)?;
        let image = Some(berth_testkit::cri::image(&reference));
        let mut request = in_time(cri::PullImageRequest { image, ..Default::default() });
        request.set_timeout(Duration::from_secs(1));
        let code = refused(bed.cri.image.clone().pull_image(request).await);
        assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
        assert!(gateway.requests().iter().any(|line| line.contains("/blobs/")));
        assert!(bed.cri.images().await?.is_empty());
        bed.is_clean()
    })
}

#[test]
fn a_daemon_killed_in_a_pull_leaves_nothing_and_pulls_again() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let (gateway, reference) = gateway(bed, Manner::Stall)?;
        let (cri, pulled) = (bed.cri.clone(), reference.clone());
        let pull = tokio::spawn(async move { cri.pull(&pulled).await });
        eventually(
            || "no blob was asked for".to_owned(),
            async || {
                let asked = gateway.requests().iter().any(|line| line.contains("/blobs/"));
                Ok(asked.then_some(()))
            },
        )
        .await?;
        bed.crash().await?;
        assert!(pull.await?.is_err());
        assert!(bed.cri.images().await?.is_empty());
        eventually(
            || "what the dead daemon unpacked is still there".to_owned(),
            async || {
                let store = bed.node.path("/var/lib/berth/images");
                let left = ["staging", "trash", "l"].iter().any(|place| {
                    std::fs::read_dir(store.join(place))
                        .is_ok_and(|mut found| found.next().is_some())
                });
                Ok((!left).then_some(()))
            },
        )
        .await?;
        bed.is_clean()?;
        drop(gateway);
        bed.cri.pull(&berth_testkit::bed::busybox()).await?;
        bed.settle()
    })
}

#[test]
fn an_image_stays_whole_while_a_container_needs_it() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox"], async |bed| {
        let (pod, id) = bed.idle("user").await?;
        bed.cri.remove_image(&busybox()).await?;
        assert_eq!(bed.cri.image_status(&busybox()).await?, None);
        assert_eq!(bed.cri.shell(&id, "cat /www/index.html").await?, "hello from berth");
        bed.crash().await?;
        assert_eq!(bed.cri.shell(&id, "cat /www/index.html").await?, "hello from berth");
        bed.cri.clear(&pod.id).await?;
        let layers = bed.node.path("/var/lib/berth/images");
        eventually(
            || "the image's files are still there".to_owned(),
            async || Ok((bytes_below(&layers) < 1 << 20).then_some(())),
        )
        .await?;
        bed.settle()
    })
}

/// What the regular files below a directory take.
fn bytes_below(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => bytes_below(&entry.path()),
            Ok(facts) if !entry.file_name().to_string_lossy().contains(".db") => facts.len(),
            _ => 0,
        })
        .sum()
}

#[test]
fn archives_are_imported() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let image = samples::one("differs:a")?.image;
        let layout = bed.node.disk().join("layout.tar");
        archive::oci_layout(&image, "example.org/imported:1", &layout)?;
        let docker = bed.node.disk().join("docker.tar");
        archive::docker_archive(&image, &["example.org/saved:2"], &docker)?;
        for (path, name) in [(&layout, "example.org/imported:1"), (&docker, "example.org/saved:2")]
        {
            bed.berth(&["image", "import", &path.display().to_string()])?;
            let found = bed.cri.image_status(name).await?.with_context(|| name.to_owned())?;
            assert_eq!(found.id, image.id());
        }
        assert_eq!(bed.cri.images().await?.len(), 1);
        let pod = bed.cri.run(&bed.pod("imported")).await?;
        let container = Container::idle("a", "example.org/imported:1");
        let id = bed.cri.launch(&pod, &container).await?;
        assert_eq!(bed.cri.shell(&id, "cat /differs").await?, "a");
        bed.cri.clear(&pod.id).await?;
        bed.settle()
    })
}

#[test]
fn a_damaged_layer_is_found_on_demand_and_the_next_pull_repairs_it() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox"], async |bed| {
        assert_eq!(bed.berth(&["image", "verify"])?, "every layer is whole\n");
        let damage = "file=$(find /var/lib/berth/images/l -type f -size +0 | head -n 1); : >$file";
        bed.node.run("sh", &["-c", damage])?;
        let told = bed.berth(&["image", "verify"]).expect_err("a layer is damaged");
        let told = format!("{told:#}");
        assert!(told.contains("damaged: sha256:"), "{told}");
        assert!(told.contains(&format!("pull again: {}", busybox())), "{told}");
        assert!(bed.cri.image_status(&busybox()).await?.is_none());
        bed.cri.pull(&busybox()).await?;
        assert_eq!(bed.berth(&["image", "verify"])?, "every layer is whole\n");
        let trash = bed.node.path("/var/lib/berth/images/trash");
        eventually(
            || "the damaged layer stays on the disk".to_owned(),
            async || Ok(std::fs::read_dir(&trash)?.next().is_none().then_some(())),
        )
        .await?;
        bed.settle()?;
        let (pod, id) = bed.idle("repaired").await?;
        assert_eq!(bed.cri.shell(&id, "echo works").await?, "works");
        Ok(bed.cri.clear(&pod.id).await?)
    })
}

#[test]
fn no_path_of_a_layer_leaves_its_root() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let target = bed.node.disk().join("outside");
        std::fs::create_dir_all(&target)?;
        let outside = target.display().to_string();
        let evil = Layer::new()
            .file("../../../../../../../../tmp/berth-escaped-1", 0o644, "x")
            .symlink("link", &outside)
            .file("link/escaped", 0o644, "x")
            .symlink("up", "../../../../../../../..")
            .file(&format!("up{outside}/escaped"), 0o644, "x")
            .hard_link("stolen", "../../../../../../../../etc/shadow")
            .pack(Compression::Gzip);
        let image = Image::new(vec![evil]);
        let path = bed.node.disk().join("evil.tar");
        archive::oci_layout(&image, "example.org/evil:1", &path)?;
        // Refused or confined: both are safe, and nothing outside may change.
        let imported = bed.berth(&["image", "import", &path.display().to_string()]);
        assert_eq!(std::fs::read_dir(&target)?.count(), 0, "{imported:?}");
        assert!(!bed.node.path("/tmp/berth-escaped-1").exists());
        if imported.is_ok() {
            bed.cri.remove_image("example.org/evil:1").await?;
        }
        assert!(bed.cri.images().await?.is_empty());
        Ok(())
    })
}

#[test]
fn two_callers_of_one_pull_fetch_each_blob_once() -> Result<()> {
    on_a_node_with(Config::default(), &[], async |bed| {
        let (gateway, reference) = gateway(bed, Manner::Plain)?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (cri, reference) = (bed.cri.clone(), reference.clone());
            calls.spawn(async move { cri.pull(&reference).await });
        }
        for answer in calls.join_all().await {
            answer?;
        }
        let layer = samples::one("busybox")?.image.layers()[0].blob.digest.clone();
        let fetched = gateway.requests().iter().filter(|line| line.contains(&layer)).count();
        assert_eq!(fetched, 1);
        bed.settle()
    })
}

#[test]
fn the_image_file_system_is_measured() -> Result<()> {
    on_a_node_with(Config::default(), &["busybox"], async |bed| {
        let request = in_time(cri::ImageFsInfoRequest {});
        let start = Instant::now();
        let info = bed.cri.image.clone().image_fs_info(request).await?.into_inner();
        assert!(start.elapsed() < Duration::from_secs(1));
        for usage in info.image_filesystems.iter().chain(&info.container_filesystems) {
            let mount = usage.fs_id.as_ref().context("a mount point")?.mountpoint.clone();
            assert!(bed.node.path(&mount).exists(), "{mount}");
        }
        assert!(!info.image_filesystems.is_empty() && !info.container_filesystems.is_empty());
        Ok(())
    })
}
