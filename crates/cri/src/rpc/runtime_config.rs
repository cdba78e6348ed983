//! RuntimeConfig: which cgroup driver the kubelet must use.

use berth_proto::cri::v1 as cri;

use crate::Cri;

pub(crate) fn runtime_config(
    cri: &Cri,
    _request: &cri::RuntimeConfigRequest,
) -> cri::RuntimeConfigResponse {
    let driver = match cri.parts.systemd_cgroups {
        true => cri::CgroupDriver::Systemd,
        false => cri::CgroupDriver::Cgroupfs,
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: driver as i32 }),
    }
}
