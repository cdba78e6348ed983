//! One node, pods of every kind at once.

use anyhow::Result;
use berth_testkit::bed::on_a_node_with;
use berth_testkit::kinds;

#[test]
fn pods_of_every_kind_run_side_by_side() -> Result<()> {
    let kinds = kinds::all()?;
    on_a_node_with(kinds::config(&kinds), &["busybox", "wasm"], async |bed| {
        // The first pod of a handler makes what stays as long as the node: directories, the pause.
        kinds::side_by_side(bed, &kinds, |_| Ok(())).await?;
        bed.settle()?;
        kinds::side_by_side(bed, &kinds, |_| Ok(())).await
    })
}
