//! Users, privileges and confinement.

// Older kubelets still fill the deprecated profile fields.
#![allow(deprecated)]

use berth_pod::spec::{GroupsPolicy, Profile, RunAs, SandboxSpec, Security, Selinux};
use berth_proto::cri::v1 as cri;
use berth_proto::cri::v1::security_profile::ProfileType;

use super::{Refusal, check, namespaces};

const AT: &str = "config.linux.security_context";

/// Checks what a sandbox says of users and profiles: its containers say it again, for themselves.
pub(super) fn check_sandbox(given: &cri::LinuxSandboxSecurityContext) -> Result<(), Refusal> {
    let group = given.run_as_group.as_ref();
    run_as(given.run_as_user.as_ref(), "", group)?;
    groups(&given.supplemental_groups)?;
    groups_policy(given.supplemental_groups_policy)?;
    let seccomp = (given.seccomp.as_ref(), given.seccomp_profile_path.as_str());
    profile(SECCOMP, seccomp)?;
    profile(APPARMOR, (given.apparmor.as_ref(), ""))?;
    Ok(())
}

/// Parses the security context of a container of that pod.
pub(super) fn admit(
    given: &cri::LinuxContainerSecurityContext,
    pod: &SandboxSpec,
) -> Result<Security, Refusal> {
    if given.privileged && !pod.privileged {
        let advice = "the sandbox was run without it: set it in the sandbox's security context too";
        return Err(Refusal::new(format!("{AT}.privileged"), true, advice));
    }
    let (user, group) = (given.run_as_user.as_ref(), given.run_as_group.as_ref());
    let capabilities = given.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged: given.privileged,
        add_capabilities: names("add_capabilities", &capabilities.add_capabilities)?,
        drop_capabilities: names("drop_capabilities", &capabilities.drop_capabilities)?,
        add_ambient_capabilities: names(
            "add_ambient_capabilities",
            &capabilities.add_ambient_capabilities,
        )?,
        pid: namespaces::of_container(given.namespace_options.as_ref(), pod)?,
        run_as: run_as(user, &given.run_as_username, group)?,
        supplemental_groups: groups(&given.supplemental_groups)?,
        groups_policy: groups_policy(given.supplemental_groups_policy)?,
        readonly_rootfs: given.readonly_rootfs,
        no_new_privs: given.no_new_privs,
        masked_paths: paths("masked_paths", &given.masked_paths)?,
        readonly_paths: paths("readonly_paths", &given.readonly_paths)?,
        seccomp: profile(SECCOMP, (given.seccomp.as_ref(), &given.seccomp_profile_path))?,
        apparmor: profile(APPARMOR, (given.apparmor.as_ref(), &given.apparmor_profile))?,
        selinux: selinux(given.selinux_options.as_ref()),
    })
}

/// A label, when any of its parts is given.
pub(super) fn selinux(given: Option<&cri::SeLinuxOption>) -> Option<Selinux> {
    let given = given?;
    let label = Selinux {
        user: given.user.clone(),
        role: given.role.clone(),
        kind: given.r#type.clone(),
        level: given.level.clone(),
    };
    (label != Selinux::default()).then_some(label)
}

fn run_as(
    user: Option<&cri::Int64Value>,
    name: &str,
    group: Option<&cri::Int64Value>,
) -> Result<RunAs, Refusal> {
    let field = |name: &str| format!("{AT}.{name}");
    let gid = group.map(|group| check::id(&field("run_as_group"), group.value)).transpose()?;
    match (user, name) {
        (Some(user), "") => {
            Ok(RunAs::Ids { uid: check::id(&field("run_as_user"), user.value)?, gid })
        }
        (Some(_), _) => {
            let advice = "give run_as_user or run_as_username, not both";
            Err(Refusal::new(field("run_as_username"), name, advice))
        }
        (None, "") if gid.is_some() => {
            let advice = "it needs run_as_user or run_as_username beside it";
            Err(Refusal::new(field("run_as_group"), gid, advice))
        }
        (None, "") => Ok(RunAs::Image),
        (None, name) => {
            if name.chars().any(|c| c.is_control() || c == ':') {
                let advice = "give a user's name or id, without ':' and control characters";
                return Err(Refusal::new(field("run_as_username"), name, advice));
            }
            Ok(RunAs::Name { user: name.to_owned(), gid })
        }
    }
}

fn groups(given: &[i64]) -> Result<Vec<u32>, Refusal> {
    let at = |i| format!("{AT}.supplemental_groups[{i}]");
    given.iter().enumerate().map(|(i, gid)| check::id(&at(i), *gid)).collect()
}

fn groups_policy(given: i32) -> Result<GroupsPolicy, Refusal> {
    let field = format!("{AT}.supplemental_groups_policy");
    Ok(match check::known(&field, given)? {
        cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn names(part: &str, given: &[String]) -> Result<Vec<String>, Refusal> {
    let one = |(i, name): (usize, &String)| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let advice = "give a capability's name, such as NET_ADMIN, or ALL";
            return Err(Refusal::new(format!("{AT}.capabilities.{part}[{i}]"), name, advice));
        }
        Ok(name.clone())
    };
    given.iter().enumerate().map(one).collect()
}

fn paths(part: &str, given: &[String]) -> Result<Vec<String>, Refusal> {
    let one = |(i, path): (usize, &String)| {
        let clean = check::in_container(&format!("{AT}.{part}[{i}]"), path)?;
        Ok(clean.to_string_lossy().into_owned())
    };
    given.iter().enumerate().map(one).collect()
}

/// The two fields that a profile may stand in, and what a local one must look like.
struct ProfileFields {
    current: &'static str,
    deprecated: &'static str,
    /// A local profile is a file, given by its absolute path; otherwise a name.
    file: bool,
}

const SECCOMP: ProfileFields =
    ProfileFields { current: "seccomp", deprecated: "seccomp_profile_path", file: true };
const APPARMOR: ProfileFields =
    ProfileFields { current: "apparmor", deprecated: "apparmor_profile", file: false };

/// A profile from the current field, or else from the deprecated one.
fn profile(
    fields: ProfileFields,
    (current, deprecated): (Option<&cri::SecurityProfile>, &str),
) -> Result<Profile, Refusal> {
    if let Some(given) = current {
        let field = format!("{AT}.{}", fields.current);
        return match check::known(&format!("{field}.profile_type"), given.profile_type)? {
            ProfileType::RuntimeDefault => Ok(Profile::RuntimeDefault),
            ProfileType::Unconfined => Ok(Profile::Unconfined),
            ProfileType::Localhost => {
                local(&format!("{field}.localhost_ref"), &given.localhost_ref, fields.file)
            }
        };
    }
    let field = format!("{AT}.{}", fields.deprecated);
    match deprecated {
        "" => Ok(Profile::Unset),
        "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        other if other.starts_with("localhost/") => local(&field, other, fields.file),
        other => {
            let advice = "give runtime/default, unconfined or localhost/<profile>";
            Err(Refusal::new(field, other, advice))
        }
    }
}

fn local(field: &str, given: &str, file: bool) -> Result<Profile, Refusal> {
    let name = given.strip_prefix("localhost/").unwrap_or(given);
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Refusal::new(field, given, "a Localhost profile needs its name"));
    }
    if file && !name.starts_with('/') {
        return Err(Refusal::new(field, given, "give the profile's absolute path"));
    }
    Ok(Profile::Localhost(name.to_owned()))
}
