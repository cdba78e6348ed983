//! Lists in many messages beside the same lists in one.

use anyhow::{Context as _, Result};
use berth_proto::cri::v1 as cri;
use berth_testkit::bed::{Bed, busybox, on_a_node};
use berth_testkit::cri::in_time;
use berth_testkit::specs::Container;
use prost::Message;
use tonic::{Response, Status, Streaming};

/// No message may be larger: gRPC clients take 4 MiB, and some less.
const LARGEST: usize = 1 << 20;

/// All messages of a stream.
async fn all<M: Message + Default>(
    answer: Result<Response<Streaming<M>>, Status>,
) -> Result<Vec<M>> {
    let mut stream = answer?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        assert!(message.encoded_len() <= LARGEST, "{} bytes", message.encoded_len());
        messages.push(message);
    }
    Ok(messages)
}

#[test]
fn a_stream_has_what_the_list_has_by_the_same_filter() -> Result<()> {
    on_a_node(async |bed| {
        let one = bed.cri.run(&bed.pod("one").label("app", "one")).await?;
        let two = bed.cri.run(&bed.pod("two")).await?;
        let a = bed.cri.launch(&one, &Container::idle("a", &busybox())).await?;
        bed.cri.launch(&two, &Container::idle("b", &busybox())).await?;
        the_lists_of_states(bed, &one.id, &a).await?;
        the_lists_of_figures(bed, &one.id, &a).await?;
        let mut image = bed.cri.image.clone();
        let streamed = all(image.stream_images(in_time(cri::StreamImagesRequest::default())).await);
        let streamed: Vec<_> = streamed.await?.into_iter().flat_map(|m| m.images).collect();
        assert_eq!(streamed, bed.cri.images().await?);
        let filter = cri::ImageFilter { image: Some(berth_testkit::cri::image("no/such:image")) };
        let request = in_time(cri::StreamImagesRequest { filter: Some(filter) });
        assert_eq!(all(image.stream_images(request).await).await?, []);
        Ok(())
    })
}

async fn the_lists_of_states(bed: &Bed, pod: &str, container: &str) -> Result<()> {
    let mut runtime = bed.cri.runtime.clone();
    let all_pods = all(runtime.stream_pod_sandboxes(in_time(Default::default())).await).await?;
    let streamed: Vec<_> = all_pods.into_iter().flat_map(|m| m.pod_sandboxes).collect();
    assert_eq!(streamed, bed.cri.pods().await?);
    let label_selector = [("app".to_owned(), "one".to_owned())].into();
    let filter = cri::PodSandboxFilter { label_selector, ..Default::default() };
    let request = in_time(cri::StreamPodSandboxesRequest { filter: Some(filter) });
    let fitting = all(runtime.stream_pod_sandboxes(request).await).await?;
    let fitting: Vec<_> = fitting.iter().flat_map(|m| &m.pod_sandboxes).map(|p| &p.id).collect();
    assert_eq!(fitting, [pod]);

    let both = all(runtime.stream_containers(in_time(Default::default())).await).await?;
    let streamed: Vec<_> = both.into_iter().flat_map(|m| m.containers).collect();
    assert_eq!(streamed, bed.cri.containers().await?);
    let filter = cri::ContainerFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() };
    let request = in_time(cri::StreamContainersRequest { filter: Some(filter) });
    let fitting = all(runtime.stream_containers(request).await).await?;
    let fitting: Vec<_> = fitting.iter().flat_map(|m| &m.containers).map(|c| &c.id).collect();
    assert_eq!(fitting, [container]);
    Ok(())
}

async fn the_lists_of_figures(bed: &Bed, pod: &str, container: &str) -> Result<()> {
    let mut runtime = bed.cri.runtime.clone();
    let both = all(runtime.stream_container_stats(in_time(Default::default())).await).await?;
    assert_eq!(both.iter().flat_map(|m| &m.container_stats).count(), 2);
    let filter = cri::ContainerStatsFilter { id: container.to_owned(), ..Default::default() };
    let request = in_time(cri::StreamContainerStatsRequest { filter: Some(filter) });
    let own = all(runtime.stream_container_stats(request).await).await?;
    let own = own.iter().flat_map(|m| &m.container_stats).next().context("figures")?;
    let memory = own.memory.as_ref().and_then(|memory| memory.usage_bytes).context("memory")?;
    assert!(own.attributes.as_ref().is_some_and(|of| of.id == container) && memory.value > 0);

    let both = all(runtime.stream_pod_sandbox_stats(in_time(Default::default())).await).await?;
    assert_eq!(both.iter().flat_map(|m| &m.pod_sandbox_stats).count(), 2);
    let filter = cri::PodSandboxStatsFilter { id: pod.to_owned(), ..Default::default() };
    let request = in_time(cri::StreamPodSandboxStatsRequest { filter: Some(filter) });
    let own = all(runtime.stream_pod_sandbox_stats(request).await).await?;
    let own = own.iter().flat_map(|m| &m.pod_sandbox_stats).next().context("figures")?;
    let linux = own.linux.as_ref().context("figures on Linux")?;
    assert!(own.attributes.as_ref().is_some_and(|of| of.id == pod));
    assert_eq!((linux.containers.len(), linux.network.is_some()), (1, true));
    Ok(())
}

#[test]
fn a_list_that_is_too_large_for_one_message_comes_in_several() -> Result<()> {
    on_a_node(async |bed| {
        let pod = bed.cri.run(&bed.pod("large")).await?;
        let note = "n".repeat(200 << 10);
        let noted = |n: usize| {
            Container::idle(&format!("c{n}"), &busybox()).with(|config| {
                config.annotations.insert("note".to_owned(), note.clone());
            })
        };
        let mut ids = Vec::new();
        for n in 0..24 {
            ids.push(bed.cri.create(&pod, &noted(n)).await?);
        }
        ids.sort();
        let mut runtime = bed.cri.runtime.clone();
        let request = in_time(cri::StreamContainersRequest::default());
        let messages = all(runtime.stream_containers(request).await).await?;
        assert!(messages.len() > 4, "{} messages", messages.len());
        let entries = messages.iter().flat_map(|m| &m.containers);
        assert_eq!(entries.map(|c| c.id.clone()).collect::<Vec<_>>(), ids);
        let request = in_time(cri::StreamContainerStatsRequest::default());
        let messages = all(runtime.stream_container_stats(request).await).await?;
        let of = |one: &cri::ContainerStats| one.attributes.as_ref().map(|of| of.id.clone());
        let told: Vec<_> =
            messages.iter().flat_map(|m| &m.container_stats).filter_map(of).collect();
        assert_eq!((messages.len() > 4, told), (true, ids));
        Ok(())
    })
}
