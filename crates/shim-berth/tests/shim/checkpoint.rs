//! A container is written to disk and made of that again, where a CRIU is that works here.

use berth_proto::runc_options::CheckpointOptions;
use berth_proto::task_types::Status;
use berth_proto::task_v3::CheckpointTaskRequest;
use protobuf::MessageField;
use ttrpc::Code;

use crate::fixture::{Pod, any, code, soon, until};

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";

fn has_criu() -> bool {
    let works = std::process::Command::new("criu").arg("check").output();
    let works = works.is_ok_and(|check| check.status.success());
    if !works {
        eprintln!("skipped: no CRIU on PATH works with this kernel");
    }
    works
}

fn last(pod: &Pod) -> Option<u32> {
    pod.lines("c", "stdout").last()?.parse().ok()
}

#[tokio::test]
async fn a_container_goes_on_where_its_checkpoint_was_written() {
    if !has_criu() {
        return;
    }
    let pod = Pod::start("runc").await;
    pod.container("c", COUNT).run().await;
    until("a number above 3", || last(&pod).filter(|n| *n > 3)).await;
    let images = pod.dir.path().join("images");
    let checkpoint = async |exit: bool, path: &str| {
        let options = CheckpointOptions { exit, file_locks: true, ..Default::default() };
        let request = CheckpointTaskRequest {
            id: "c".into(),
            path: path.into(),
            options: MessageField::some(any("containerd.runc.v1.CheckpointOptions", &options)),
            ..Default::default()
        };
        pod.task.checkpoint(soon(), &request).await
    };
    assert_eq!(code(checkpoint(false, "relative").await), Code::INVALID_ARGUMENT);
    checkpoint(false, &pod.dir.path().join("running").display().to_string()).await.unwrap();
    assert_eq!(pod.state_of("c", "").await.unwrap().status, Status::RUNNING.into());
    checkpoint(true, &images.display().to_string()).await.unwrap();
    assert_eq!(pod.wait("c").await, 137);
    let reached = last(&pod).unwrap();
    pod.delete("c", "").await.unwrap();
    std::fs::remove_file(pod.log("c")).unwrap();
    let again = pod.container("c", COUNT);
    let again = again.request(|request| request.checkpoint = images.display().to_string());
    let pid = again.run().await;
    until("more numbers", || last(&pod).filter(|n| *n > reached + 3)).await;
    let first: u32 = pod.lines("c", "stdout")[0].parse().unwrap();
    assert!(first >= reached, "{first} came after {reached}");
    let state = pod.state_of("c", "").await.unwrap();
    assert_eq!((state.pid, state.status), (pid, Status::RUNNING.into()));
    assert!(!pod.processes("c").is_empty());
    pod.kill("c", "", 9).await.unwrap();
    assert_eq!(pod.wait("c").await, 137);
    pod.delete("c", "").await.unwrap();
    let broken = pod.container("b", COUNT);
    let broken = broken.request(|request| request.checkpoint = "/no/images".into());
    broken.create().await.expect_err("there is nothing to make it of");
    assert_eq!(code(pod.state_of("b", "").await), Code::NOT_FOUND);
}
