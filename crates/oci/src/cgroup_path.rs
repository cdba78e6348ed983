//! Names of control groups, as `linux.cgroupsPath` wants them.

use crate::error::Error;
use crate::facts::CgroupDriver;

/// What the name of a container's scope begins with.
pub const SCOPE_PREFIX: &str = "berth";

const FIELD: &str = "linux.cgroup_parent";

/// The path of `id` below `parent`: `/parent/id` with cgroupfs, `slice:berth:id` with systemd,
/// which systemd turns into `berth-id.scope` in that slice.
///
/// # Errors
/// When `parent` is not of the form that the driver needs.
pub fn cgroups_path(driver: CgroupDriver, parent: &str, id: &str) -> Result<String, Error> {
    if parent.contains('\0') || parent.split('/').any(|part| part == "..") {
        return Err(Error::invalid(FIELD, format!("{parent:?} must not contain `..` or NUL")));
    }
    match driver {
        CgroupDriver::Cgroupfs => {
            let parent = parent.trim_matches('/');
            Ok(if parent.is_empty() { format!("/{id}") } else { format!("/{parent}/{id}") })
        }
        CgroupDriver::Systemd => {
            let slice = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            if !slice.ends_with(".slice") || slice.contains(':') {
                let text = format!(
                    "{parent:?} must end in a `.slice`, because Berth uses the systemd driver; \
                     set the kubelet's cgroupDriver to systemd, or Berth's to cgroupfs"
                );
                return Err(Error::invalid(FIELD, text));
            }
            Ok(format!("{slice}:{SCOPE_PREFIX}:{id}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_has_its_own_form() {
        let cgroupfs = |parent| cgroups_path(CgroupDriver::Cgroupfs, parent, "id").unwrap();
        assert_eq!(cgroupfs("/kubepods/burstable/podX"), "/kubepods/burstable/podX/id");
        assert_eq!(cgroupfs("kubepods/"), "/kubepods/id");
        assert_eq!(cgroupfs("/"), "/id");
        let systemd = |parent| cgroups_path(CgroupDriver::Systemd, parent, "id");
        assert_eq!(
            systemd("/kubepods.slice/kubepods-podX.slice").unwrap(),
            "kubepods-podX.slice:berth:id"
        );
        assert!(systemd("/kubepods/podX").unwrap_err().to_string().contains("cgroupDriver"));
        assert!(cgroups_path(CgroupDriver::Cgroupfs, "/a/../../b", "id").is_err());
    }
}
