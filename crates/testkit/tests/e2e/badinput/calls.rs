//! Every call of CRI with nothing in it, and with bytes that are no message.

use anyhow::{Context as _, Result, ensure};
use berth_testkit::bed::on_a_node;
use berth_testkit::raw::methods;
use tonic::Code;

use super::{refuses, the_next_pod_is_fine};

/// The calls that need nothing.
const NEED_NOTHING: [&str; 12] = [
    "Version",
    "Status",
    "RuntimeConfig",
    "UpdateRuntimeConfig",
    "ListPodSandbox",
    "ListContainers",
    "ListContainerStats",
    "ListPodSandboxStats",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "ListImages",
    "ImageFsInfo",
];

#[test]
fn every_call_with_nothing_in_it_says_what_it_lacks() -> Result<()> {
    on_a_node(async |bed| {
        let methods = methods()?;
        assert_eq!(methods.len(), 41, "CRI has 35 calls about pods and 6 about images");
        for method in &methods {
            let name = method.name.as_str();
            if method.streams {
                let answer = bed.cri.send_for_many(method, Vec::new()).await;
                answer.with_context(|| format!("{name} needs nothing"))?;
                continue;
            }
            let answer = bed.cri.send(method, Vec::new()).await;
            if NEED_NOTHING.contains(&name) {
                answer.with_context(|| format!("{name} needs nothing"))?;
            } else {
                refuses(name, answer, (Code::InvalidArgument, &["missing"]))?;
            }
        }
        the_next_pod_is_fine(bed).await
    })
}

#[test]
fn bytes_that_are_no_message_end_their_own_call_and_nothing_else() -> Result<()> {
    let garbled: [&[u8]; 6] = [
        // A varint without an end.
        &[0xff; 16],
        // Field 1 of 127 bytes, of which two are there.
        &[0x0a, 0x7f, b'a', b'b'],
        // The wire types 6 and 7, which do not exist.
        &[0x0e, 0x0f],
        // A group without an end.
        &[0x0b, 0x0b, 0x0b],
        // Field 0.
        &[0x02, 0x00],
        // Field 1 longer than anything can be.
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    ];
    on_a_node(async |bed| {
        let (_, id) = bed.idle("bystander").await?;
        for method in &methods()? {
            for bytes in garbled {
                let answer = bed.cri.send(method, bytes.to_vec()).await;
                let case = format!("{} of {bytes:x?}", method.name);
                let Err(status) = answer else { anyhow::bail!("{case} was answered") };
                // gRPC servers answer Internal to what they cannot decode.
                let code = status.code();
                let fits = matches!(code, Code::Internal | Code::InvalidArgument);
                ensure!(fits, "{case}: {code:?}: {}", status.message());
                ensure!(status.message().contains("decode"), "{case}: {}", status.message());
            }
        }
        // The same connection goes on, and so does what ran.
        assert_eq!(bed.cri.shell(&id, "echo unimpressed").await?, "unimpressed");
        the_next_pod_is_fine(bed).await
    })
}
