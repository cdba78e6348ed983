//! Pods: from run to remove, and what lists say meanwhile.

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{busybox, on_a_node};
use berth_testkit::cri::{in_time, refused};
use berth_testkit::guest::Driver;
use berth_testkit::specs::{Container, Pod};
use cri::{ContainerState, PodSandboxState};
use tonic::Code;

#[test]
fn a_pod_is_run_listed_stopped_and_removed() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&Pod::new("web").label("app", "web")).await?;
        assert_eq!(pod.id.len(), 64);
        assert!(pod.id.bytes().all(|byte| byte.is_ascii_hexdigit()));

        let status = cri.pod_status(&pod.id).await?;
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status.metadata, pod.config.metadata);
        assert!(status.network.context("a network status")?.ip.starts_with("198.18."));

        let listed = cri.pods().await?;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].labels["app"], "web");

        cri.stop_pod(&pod.id).await?;
        let status = cri.pod_status(&pod.id).await?;
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        assert_eq!(cri.pods().await?.len(), 1);

        cri.remove_pod(&pod.id).await?;
        assert!(cri.pods().await?.is_empty());
        assert_eq!(refused(cri.pod_status(&pod.id).await), Code::NotFound);
        // Both are done already, and say so to a caller that missed the first answer.
        cri.stop_pod(&pod.id).await?;
        cri.remove_pod(&pod.id).await?;
        Ok(())
    })
}

/// What lies below /run is memory that the kernel cannot take back.
#[test]
fn a_running_pod_has_two_files_below_run() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("small").await?;
        let files = |directory: String| {
            let full = ["-xdev", "-type", "f", "-size", "+0", "-printf", "%f\n"];
            bed.node.run("find", &[&[directory.as_str()][..], &full].concat())
        };
        assert_eq!(files(format!("/run/berth/bundles/{}", pod.id))?, "");
        assert_eq!(files(format!("/run/berth/bundles/{id}"))?, "config.json\n");
        assert_eq!(files(format!("/run/berth/sandboxes/{}", pod.id))?, "record.json.gz\n");
        // What it needs is on the disk for as long as it lives.
        let hosts = format!("/var/lib/berth/files/{}/hosts", &pod.id[..32]);
        let seen = bed.cri.shell(&id, "cat /etc/hosts").await?;
        assert_eq!(bed.node.run("cat", &[&hosts])?.trim_end(), seen);
        Ok(())
    })
}

#[test]
fn a_container_goes_through_its_states_and_keeps_its_times() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("states")).await?;
        let id = cri.create(&pod, &Container::new("a", &busybox()).shell("exit 3")).await?;
        let status = cri.container(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerCreated);
        assert_eq!((status.started_at, status.finished_at), (0, 0));

        cri.start(&id).await?;
        let status = cri.exited(&id).await?;
        assert_eq!(status.exit_code, 3);
        assert_eq!(status.reason, "Error");
        assert!(status.created_at > 0);
        assert!(status.created_at <= status.started_at);
        assert!(status.started_at <= status.finished_at);

        let done = cri.launch(&pod, &Container::new("b", &busybox()).command(&["true"])).await?;
        let status = cri.exited(&done).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));

        // What has exited is not started again, and its exit stays what it was.
        assert_eq!(refused(cri.start(&id).await), Code::FailedPrecondition);
        assert_eq!(cri.container(&id).await?.exit_code, 3);
        cri.remove(&id).await?;
        cri.remove(&id).await?;
        assert_eq!(refused(cri.container(&id).await), Code::NotFound);
        Ok(())
    })
}

#[test]
fn a_command_that_does_not_exist_leaves_a_container_that_says_so() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("missing")).await?;
        let container = Container::new("a", &busybox()).command(&["/no/such/program"]);
        let id = cri.create(&pod, &container).await?;
        let error = cri.start(&id).await.expect_err("the program does not exist");
        assert!(error.message().contains("/no/such/program"), "{error}");
        let status = cri.container(&id).await?;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains("/no/such/program"), "{}", status.message);
        Ok(())
    })
}

#[test]
fn two_containers_share_the_network_and_the_host_name_but_not_files_and_processes() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("pair")).await?;
        let server = Container::new("server", &busybox())
            .shell("echo secret > /tmp/mine; exec httpd -f -p 127.0.0.1:8080 -h /www");
        let server = cri.launch(&pod, &server).await?;
        let client = cri.launch(&pod, &Container::idle("client", &busybox())).await?;
        let wait = "until wget -q -O - http://127.0.0.1:8080/; do usleep 10000; done";
        assert_eq!(cri.shell(&client, wait).await?, "hello from berth");
        assert_eq!(cri.shell(&client, "hostname").await?, "pair");
        assert_eq!(cri.shell(&server, "hostname").await?, "pair");
        assert_eq!(cri.shell(&client, "cat /tmp/mine || echo none").await?, "none");
        assert!(!cri.shell(&client, "ps").await?.contains("httpd"));
        Ok(())
    })
}

#[test]
fn lists_are_filtered_by_id_state_pod_and_label() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let one = cri.run(&bed.pod("one").label("n", "1")).await?;
        let two = cri.run(&bed.pod("two").label("n", "2")).await?;
        let running = cri.launch(&one, &Container::idle("a", &busybox())).await?;
        let created = cri.create(&two, &Container::idle("b", &busybox())).await?;
        cri.stop_pod(&two.id).await?;

        let pods = async |filter| {
            let request = cri::ListPodSandboxRequest { filter: Some(filter) };
            let answer = cri.runtime.clone().list_pod_sandbox(in_time(request)).await?;
            anyhow::Ok(answer.into_inner().items.into_iter().map(|pod| pod.id).collect::<Vec<_>>())
        };
        let ready = PodSandboxState::SandboxReady as i32;
        let by_state = cri::PodSandboxFilter {
            state: Some(cri::PodSandboxStateValue { state: ready }),
            ..Default::default()
        };
        assert_eq!(pods(by_state).await?, std::slice::from_ref(&one.id));
        let by_label = cri::PodSandboxFilter {
            label_selector: [("n".to_owned(), "2".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(pods(by_label).await?, std::slice::from_ref(&two.id));
        let by_id = cri::PodSandboxFilter { id: two.id[..12].to_owned(), ..Default::default() };
        assert_eq!(pods(by_id).await?, std::slice::from_ref(&two.id));

        let containers = async |filter| {
            let request = cri::ListContainersRequest { filter: Some(filter) };
            let answer = cri.runtime.clone().list_containers(in_time(request)).await?;
            let found = answer.into_inner().containers;
            anyhow::Ok(found.into_iter().map(|container| container.id).collect::<Vec<_>>())
        };
        let by_pod = cri::ContainerFilter { pod_sandbox_id: two.id.clone(), ..Default::default() };
        assert_eq!(containers(by_pod).await?, [created]);
        let state = ContainerState::ContainerRunning as i32;
        let by_state = cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state }),
            ..Default::default()
        };
        assert_eq!(containers(by_state).await?, [running]);
        Ok(())
    })
}

#[test]
fn removing_a_running_pod_stops_it_first() -> Result<()> {
    on_a_node(async |bed| {
        let (pod, id) = bed.idle("busy").await?;
        let pid = bed.pid(&id).await?;
        bed.cri.remove_pod(&pod.id).await?;
        assert!(!bed.node.path(&format!("/proc/{pid}")).exists());
        assert!(bed.cri.containers().await?.is_empty());
        bed.is_clean()
    })
}

#[test]
fn a_pod_of_an_unknown_handler_is_refused_and_leaves_nothing() -> Result<()> {
    on_a_node(async |bed| {
        let answer = bed.cri.run(&Pod::new("odd").by("no-such-handler")).await;
        let error = answer.expect_err("no such handler is configured");
        assert!(error.message().contains("no-such-handler"), "{error}");
        assert!(bed.cri.pods().await?.is_empty());
        bed.is_clean()
    })
}

#[test]
fn version_status_and_runtime_config_tell_the_kubelet_what_it_needs() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let version = cri.version().await?;
        assert_eq!(version.runtime_name, "berth");
        assert_eq!(version.runtime_api_version, "v1");
        let status = cri.status().await?;
        let conditions = status.status.context("a status")?.conditions;
        for kind in ["RuntimeReady", "NetworkReady"] {
            let condition = conditions.iter().find(|condition| condition.r#type == kind);
            let condition = condition.with_context(|| format!("the condition {kind}"))?;
            assert!(condition.status, "{condition:?}");
        }
        assert!(status.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
        let request = in_time(cri::RuntimeConfigRequest {});
        let config = cri.runtime.clone().runtime_config(request).await?.into_inner();
        let linux = config.linux.context("a Linux configuration")?;
        let driver = match Driver::of_tests() {
            Driver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
            Driver::Systemd => cri::CgroupDriver::Systemd,
        };
        assert_eq!(linux.cgroup_driver(), driver);
        Ok(())
    })
}

#[test]
fn standard_input_is_open_only_where_the_config_asks_for_it() -> Result<()> {
    on_a_node(async |bed| {
        let cri = &bed.cri;
        let pod = cri.run(&bed.pod("stdin")).await?;
        let reader = |name: &str, open: bool| {
            Container::new(name, &busybox())
                .shell("cat; echo ended")
                .with(|config| config.stdin = open)
        };
        let open = cri.launch(&pod, &reader("open", true)).await?;
        let closed = cri.launch(&pod, &reader("closed", false)).await?;
        assert_eq!(cri.exited(&closed).await?.exit_code, 0);
        bed.file_says(&bed.logs("stdin").join("closed.0.log"), "ended").await?;
        // The other one was started first, and still reads.
        assert_eq!(cri.container(&open).await?.state(), ContainerState::ContainerRunning);
        bed.crash().await?;
        let status = bed.cri.container(&open).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning, "without a daemon, too");
        Ok(())
    })
}
