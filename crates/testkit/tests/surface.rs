//! The whole of CRI v1, and for each part of it the tests that prove it.
//!
//! A part whose tests are end-to-end ones (`e2e/…`) is proved by what is seen inside a container, in
//! its cgroup or on the node. Where this kind of machine lacks what a part needs, its specification
//! and its refusals are tested instead. A test is named by its file below `crates` and its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The tests that prove a part.
type Proof = &'static [&'static str];

/// Every call.
const CALLS: &[(&[&str], Proof)] = &[
    (
        &["Version", "Status", "RuntimeConfig"],
        &[
            "e2e/pods.rs version_status_and_runtime_config_tell_the_kubelet_what_it_needs",
            "e2e/network.rs network_ready_tells_the_truth_and_a_new_configuration_is_seen_at_once",
        ],
    ),
    (
        &["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"],
        &[
            "e2e/pods.rs a_pod_is_run_listed_stopped_and_removed",
            "e2e/pods.rs a_pod_of_an_unknown_handler_is_refused_and_leaves_nothing",
            "e2e/joining.rs the_same_pod_run_again_is_the_same_pod",
            "crash.rs crash_run",
            "crash.rs crash_stop_and_remove",
        ],
    ),
    (
        &["PodSandboxStatus"],
        &["e2e/fields.rs a_pod_s_status_has_its_containers_and_the_time_it_is_true_of"],
    ),
    (
        &["ListPodSandbox", "ListContainers"],
        &["e2e/pods.rs lists_are_filtered_by_id_state_pod_and_label"],
    ),
    (
        &[
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "RemoveContainer",
            "ContainerStatus",
        ],
        &[
            "e2e/pods.rs a_container_goes_through_its_states_and_keeps_its_times",
            "e2e/joining.rs the_same_container_created_or_started_again_is_the_same_container",
            "e2e/stop.rs a_container_that_does_not_obey_is_killed_after_its_grace",
            "crash.rs crash_create_and_start",
        ],
    ),
    (
        &["UpdateContainerResources"],
        &[
            "e2e/resources.rs limits_reach_the_kernel_and_updates_too_before_and_after_the_start",
            "e2e/fields.rs every_limit_that_the_kernel_keeps_is_set_and_any_other_refused",
        ],
    ),
    (&["ReopenContainerLog"], &["e2e/logs.rs a_rotated_log_loses_no_line"]),
    (
        &["ExecSync"],
        &[
            "e2e/exec.rs an_exec_returns_streams_and_exit_codes",
            "e2e/exec.rs each_stream_of_an_exec_is_cut_at_16_mib_and_the_command_still_ends",
        ],
    ),
    (
        &["Exec"],
        &[
            "e2e/streaming/exec.rs streams_and_exit_codes",
            "e2e/streaming/exec.rs the_end_of_the_input",
            "e2e/streaming/exec.rs a_terminal_and_its_size",
            "e2e/streaming/exec.rs large_transfers",
            "e2e/streaming/exec.rs fifty_at_once_by_our_shim",
        ],
    ),
    (
        &["Attach"],
        &[
            "e2e/streaming/attach.rs two_at_once_and_the_log",
            "e2e/streaming/attach.rs an_input_for_one",
            "e2e/streaming/attach.rs a_terminal",
        ],
    ),
    (
        &["PortForward"],
        &[
            "e2e/streaming/forward.rs a_pods_loopback_is_reached",
            "e2e/streaming/forward.rs the_nodes_loopback_is_reached_by_a_pod_on_its_network",
            "e2e/streaming/forward.rs large_answers_are_whole",
        ],
    ),
    (
        &["ContainerStats", "ListContainerStats", "PodSandboxStats", "ListPodSandboxStats"],
        &["e2e/resources.rs figures_of_containers_and_pods_are_those_of_the_kernel"],
    ),
    (
        &["UpdateRuntimeConfig"],
        &[
            "e2e/network.rs a_node_that_is_given_its_pod_cidr_makes_its_network_of_the_template",
            "cni/src/template.rs both_families_are_filled_in",
        ],
    ),
    (
        &["CheckpointContainer"],
        &[
            "e2e/checkpoints.rs a_checkpoint_is_an_archive_as_others_write_it",
            "e2e/checkpoints.rs a_checkpoint_that_fails_leaves_nothing_and_the_container_goes_on",
            "e2e/checkpoints.rs what_can_have_no_checkpoint_is_refused_by_its_reason",
            "e2e/checkpoints.rs a_daemon_that_dies_over_a_checkpoint_leaves_no_container_frozen",
        ],
    ),
    (
        &["GetContainerEvents"],
        &[
            "e2e/events.rs every_step_of_a_pod_and_its_containers_is_told_in_order",
            "e2e/events.rs what_is_not_in_the_list_yet_is_told_also_while_everything_happens_at_once",
            "e2e/events.rs an_exit_that_a_dead_daemon_missed_is_in_the_list_or_told",
        ],
    ),
    (
        &["ListMetricDescriptors", "ListPodSandboxMetrics"],
        &[
            "e2e/metrics.rs a_pod_has_every_series_with_the_labels_that_were_described",
            "e2e/metrics.rs the_values_are_what_the_container_does",
        ],
    ),
    (
        &["UpdatePodSandboxResources"],
        &[
            "e2e/resources.rs a_pods_own_resources_are_kept_and_limit_a_cgroup_that_berth_made",
            "e2e/resources.rs a_cgroup_of_the_kubelets_is_not_touched_by_a_pods_resources",
        ],
    ),
    (
        &[
            "StreamPodSandboxes",
            "StreamContainers",
            "StreamContainerStats",
            "StreamPodSandboxStats",
            "StreamPodSandboxMetrics",
            "StreamImages",
        ],
        &[
            "e2e/streams.rs a_stream_has_what_the_list_has_by_the_same_filter",
            "e2e/streams.rs a_list_that_is_too_large_for_one_message_comes_in_several",
        ],
    ),
    (
        &["ListImages", "ImageStatus", "PullImage", "RemoveImage"],
        &[
            "e2e/images.rs an_image_has_one_id_under_all_its_names",
            "e2e/images.rs an_image_stays_whole_while_a_container_needs_it",
            "e2e/images.rs a_registry_with_a_password_lets_in_who_has_it",
        ],
    ),
    (&["ImageFsInfo"], &["e2e/images.rs the_image_file_system_is_measured"]),
];

/// Groups of fields.
const FIELDS: &[(&str, Proof)] = &[
    (
        "namespaces of the pod, the container, the node and another container",
        &[
            "e2e/namespaces.rs containers_of_a_pod_share_what_they_should",
            "e2e/namespaces.rs node_modes_are_the_node_s_own_namespaces",
            "e2e/namespaces.rs a_shared_pid_namespace_outlives_its_containers_and_dies_with_its_pause",
            "e2e/namespaces.rs a_debug_container_joins_its_target",
        ],
    ),
    ("user namespaces", &["e2e/namespaces.rs a_user_namespace_makes_root_nobody_outside"]),
    (
        "user namespaces with the node's network",
        &["e2e/volumes.rs a_user_namespace_goes_with_the_network_of_the_node"],
    ),
    (
        "users by id, by name and by image; supplemental groups and their policy; the user in the status",
        &["e2e/security.rs users_and_groups_come_from_the_config_or_the_image"],
    ),
    (
        "capabilities added and dropped",
        &["e2e/security.rs capabilities_are_the_default_ones_with_what_is_added_and_dropped"],
    ),
    ("ambient capabilities", &["e2e/security.rs ambient_capabilities_reach_a_user_without_any"]),
    (
        "seccomp profiles; no new privileges",
        &["e2e/security.rs no_new_privs_and_seccomp_hold_where_they_were_asked_for"],
    ),
    (
        "AppArmor profiles (no kernel here has them: the refusal is seen on a node, what they do in the spec)",
        &[
            "oci/tests/rules.rs apparmor_profiles",
            "oci/src/process.rs an_apparmor_profile_is_loaded_if_the_kernel_lists_it",
            "e2e/fields.rs confinement_that_this_node_lacks_is_refused_or_means_nothing",
        ],
    ),
    (
        "SELinux labels and relabelled volumes (off here: a node ignores them, what they do is in the spec)",
        &[
            "oci/tests/rules.rs selinux_labels_are_left_out_where_selinux_is_off",
            "helper/tests/helper.rs a_volume_is_relabelled_and_nothing_that_its_links_lead_to",
            "e2e/fields.rs confinement_that_this_node_lacks_is_refused_or_means_nothing",
        ],
    ),
    (
        "masked and read-only paths",
        &["e2e/security.rs kernel_files_are_masked_or_read_only_unless_cri_says_otherwise"],
    ),
    ("a read-only root", &["e2e/security.rs a_read_only_root_takes_no_write_and_volumes_do"]),
    ("privileged", &["e2e/security.rs a_privileged_container_has_everything"]),
    (
        "kernel parameters, and which are refused",
        &[
            "e2e/namespaces.rs sysctls_are_set_before_anything_runs",
            "e2e/badinput/sandboxes.rs a_pod_that_cannot_be_as_it_is_asked_for_is_refused_by_its_field",
        ],
    ),
    (
        "DNS, the host name and host ports",
        &[
            "e2e/network.rs a_pod_has_a_loopback_a_name_hosts_and_a_resolver_of_its_own",
            "e2e/network.rs a_pod_answers_another_pod_and_the_node_over_http",
        ],
    ),
    (
        "propagation of mounts, with the check of the source",
        &[
            "e2e/mounts.rs propagation_goes_as_far_as_was_asked_for",
            "e2e/mounts.rs bidirectional_needs_a_shared_source",
        ],
    ),
    (
        "a path of the node that is not there",
        &["e2e/mounts.rs a_missing_host_path_is_an_error_and_nothing_is_created"],
    ),
    (
        "recursively read-only mounts",
        &[
            "e2e/mounts.rs read_only_mounts_are_so_and_recursively_where_asked",
            "oci/tests/rules.rs recursive_read_only_is_never_silently_less",
        ],
    ),
    (
        "id-mapped mounts",
        &["e2e/volumes.rs volumes_of_a_user_namespace_are_id_mapped_whatever_the_runtime_can"],
    ),
    (
        "image volumes",
        &[
            "e2e/volumes.rs an_image_is_a_volume_that_nobody_can_change",
            "e2e/volumes.rs the_image_of_a_volume_stays_whole_while_the_container_needs_it",
            "e2e/volumes.rs image_volumes_of_a_user_namespace_belong_to_its_ids",
        ],
    ),
    (
        "sub paths of image volumes, and the word for what cannot be mounted",
        &["e2e/volumes.rs a_sub_path_is_found_in_the_image_and_nowhere_else"],
    ),
    (
        "the handler of an image",
        &["e2e/fields.rs an_image_serves_every_handler_and_no_unknown_one"],
    ),
    ("CDI devices", &["e2e/devices.rs a_vendor_s_device_brings_what_its_specification_says"]),
    ("devices", &["e2e/devices.rs a_device_is_used_as_far_as_its_permissions_go"]),
    (
        "limits of CPU, memory, swap, CPU sets, huge pages, at create and at update",
        &[
            "e2e/resources.rs limits_reach_the_kernel_and_updates_too_before_and_after_the_start",
            "e2e/fields.rs every_limit_that_the_kernel_keeps_is_set_and_any_other_refused",
            "oci/tests/rules.rs an_update_changes_what_it_names_and_nothing_else",
        ],
    ),
    (
        "a container made of a checkpoint",
        &[
            "e2e/restores.rs a_container_made_of_a_checkpoint_goes_on_where_that_was_written",
            "e2e/restores.rs a_container_is_made_of_a_checkpoint_more_than_once",
            "e2e/restores.rs a_container_is_made_of_an_image_of_a_checkpoint_and_its_own_image_is_pulled",
            "e2e/restores.rs an_image_of_a_checkpoint_is_restored_only_where_that_is_allowed",
            "e2e/restores.rs what_would_not_be_what_was_asked_for_is_not_restored",
            "e2e/restores.rs a_restore_that_fails_or_hangs_leaves_nothing",
            "e2e/restores.rs a_daemon_that_dies_while_criu_restores_goes_on_with_the_next_call",
        ],
    ),
    (
        "files of cgroup v2 by name",
        &["e2e/cgroup2.rs files_are_written_by_name_at_create_and_at_update"],
    ),
    (
        "swap in figures",
        &["e2e/fields.rs every_limit_that_the_kernel_keeps_is_set_and_any_other_refused"],
    ),
    (
        "pressure and IO in figures",
        &["e2e/cgroup2.rs pressure_and_io_are_told_as_the_kernel_counts_them"],
    ),
    (
        "the OOM score",
        &["e2e/resources.rs limits_reach_the_kernel_and_updates_too_before_and_after_the_start"],
    ),
    (
        "OOMKilled exactly when the kernel says so",
        &[
            "e2e/resources.rs a_container_that_eats_too_much_is_reported_as_oom_killed",
            "e2e/resources.rs an_oom_kill_that_the_daemon_missed_is_still_told",
            "e2e/cgroup2.rs a_want_of_memory_ends_one_process_or_with_oom_group_all_of_them",
        ],
    ),
    (
        "limits and overhead of a pod when it is run",
        &[
            "e2e/resources.rs a_pods_own_resources_are_kept_and_limit_a_cgroup_that_berth_made",
            "e2e/resources.rs a_cgroup_of_the_kubelets_is_not_touched_by_a_pods_resources",
        ],
    ),
    (
        "the stop signal, set and told",
        &[
            "e2e/stop.rs the_stop_signal_is_the_image_s_or_the_container_s",
            "cri/src/describe/tests.rs the_containers_own_signal_wins_and_sigterm_is_the_last_resort",
        ],
    ),
    (
        "the log, its lines, tags and parts, and its rotation",
        &[
            "e2e/logs.rs both_streams_are_written_with_time_stream_and_tag",
            "e2e/logs.rs a_line_of_forty_kilobytes_is_cut_into_parts_that_make_it_again",
            "e2e/logs.rs a_rotated_log_loses_no_line",
        ],
    ),
    (
        "handlers and what they can do",
        &[
            "e2e/handlers.rs a_broken_handler_is_shown_and_refuses_its_pods_and_the_others_go_on",
            "e2e/volumes.rs volumes_of_a_user_namespace_are_id_mapped_whatever_the_runtime_can",
        ],
    ),
    ("pinned images", &["e2e/fields.rs an_image_that_the_operator_pins_is_said_to_be"]),
    (
        "one identity of an image everywhere",
        &["e2e/images.rs an_image_has_one_id_under_all_its_names"],
    ),
];

fn proofs() -> impl Iterator<Item = Proof> {
    CALLS.iter().map(|(_, proof)| *proof).chain(FIELDS.iter().map(|(_, proof)| *proof))
}

/// The file of a test that is named `FILE NAME`, and its name.
fn place(test: &str) -> (std::path::PathBuf, &str) {
    let (file, name) = test.split_once(' ').expect("a file and a name");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let own = tests.join(file);
    match own.exists() {
        true => (own, name),
        false => (tests.join("../..").join(file), name),
    }
}

/// Is there a test of this name in the text of a file, or a check that is one with each of the shims.
fn has(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let checks = lines.iter().skip_while(|line| **line != "with_each_shim! {").skip(1);
    if checks.take_while(|line| **line != "}").any(|line| *line == name) {
        return true;
    }
    let begin = [format!("fn {name}("), format!("async fn {name}(")];
    let at = lines.iter().position(|line| begin.iter().any(|begin| line.starts_with(begin)));
    at.is_some_and(|at| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        above.clone().any(|line| matches!(*line, "#[test]" | "#[tokio::test]"))
    })
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut texts = BTreeMap::new();
    for tests in proofs() {
        assert!(!tests.is_empty(), "nothing proves a part");
        for test in tests {
            let (file, name) = place(test);
            let text = texts.entry(file.clone()).or_insert_with(|| {
                std::fs::read_to_string(&file).unwrap_or_else(|why| panic!("{test}: {why}"))
            });
            assert!(has(text, name), "there is no test {test}");
        }
    }
}

#[test]
fn every_call_is_in_the_table_once() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto/runtime/v1/api.proto");
    let text = std::fs::read_to_string(proto).unwrap();
    let calls = text.lines().filter_map(|line| line.trim().strip_prefix("rpc "));
    let calls: BTreeSet<&str> = calls.filter_map(|line| line.split('(').next()).collect();
    let all: Vec<&str> = CALLS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), calls);
    assert_eq!(all.len(), calls.len(), "one is in it twice");
    assert_eq!(calls.len(), 41);
}

#[test]
fn a_test_is_found_by_its_attribute_and_name() {
    let text = "#[test]\nfn one() {}\n\nfn two() {}\n#[tokio::test]\n#[allow(unused)]\nasync fn three() {}\n";
    assert!(has(text, "one") && has(text, "three"));
    assert!(!has(text, "two") && !has(text, "on") && !has(text, "four"));
}
