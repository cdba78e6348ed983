//! Who a container's first process is: the request, what the image knows, and the policy.

use berth_pod::spec::{GroupsPolicy, ResolvedUser, RunAs, Security};

/// Whom to look for in the image's passwd and group files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUp<'a> {
    /// As a Dockerfile names users: `name`, `uid`, `name:group`, …; "" is root.
    Text(&'a str),
    /// A number, which need not be there.
    Uid(u32),
}

/// Whom to look for, given what the image declares as its user.
pub fn look_up<'a>(security: &'a Security, image_user: &'a str) -> LookUp<'a> {
    match &security.run_as {
        RunAs::Image => LookUp::Text(image_user),
        RunAs::Ids { uid, .. } => LookUp::Uid(*uid),
        RunAs::Name { user, .. } => LookUp::Text(user),
    }
}

/// The ids to run with. `found` is what the look-up gave, its groups those that the image lists
/// the user in.
///
/// The primary group is one of the supplemental ones too: otherwise a process that changes its
/// group would lose it, and with it what a mode like 0705 denies to that group.
pub fn resolve(security: &Security, found: ResolvedUser) -> ResolvedUser {
    let gid = match &security.run_as {
        RunAs::Ids { gid: Some(gid), .. } | RunAs::Name { gid: Some(gid), .. } => *gid,
        RunAs::Image | RunAs::Ids { .. } | RunAs::Name { .. } => found.gid,
    };
    let mut groups = match security.groups_policy {
        GroupsPolicy::Merge => found.groups,
        GroupsPolicy::Strict => Vec::new(),
    };
    groups.extend(&security.supplemental_groups);
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    ResolvedUser { uid: found.uid, gid, groups, home: found.home }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(run_as: RunAs, groups_policy: GroupsPolicy) -> Security {
        Security {
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            add_ambient_capabilities: Vec::new(),
            pid: berth_pod::spec::PidMode::Container,
            run_as,
            supplemental_groups: vec![2000, 50],
            groups_policy,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: berth_pod::spec::Profile::Unset,
            apparmor: berth_pod::spec::Profile::Unset,
            selinux: None,
        }
    }

    fn found() -> ResolvedUser {
        ResolvedUser { uid: 1000, gid: 100, groups: vec![50, 50000], home: Some("/h".to_owned()) }
    }

    #[test]
    fn merge_adds_the_groups_of_the_image() {
        let user = resolve(&security(RunAs::Image, GroupsPolicy::Merge), found());
        assert_eq!((user.uid, user.gid), (1000, 100));
        assert_eq!(user.groups, [50, 100, 2000, 50000]);
        assert_eq!(user.home.as_deref(), Some("/h"));
    }

    #[test]
    fn strict_leaves_them_out_and_an_asked_group_replaces_the_primary_one() {
        let run_as = RunAs::Ids { uid: 1000, gid: Some(7) };
        let user = resolve(&security(run_as, GroupsPolicy::Strict), found());
        assert_eq!((user.gid, user.groups), (7, vec![7, 50, 2000]));
    }

    #[test]
    fn the_request_decides_whom_to_look_for() {
        let by = |run_as| security(run_as, GroupsPolicy::Merge);
        assert_eq!(look_up(&by(RunAs::Image), "www:www"), LookUp::Text("www:www"));
        let ids = by(RunAs::Ids { uid: 5, gid: None });
        assert_eq!(look_up(&ids, "www"), LookUp::Uid(5));
        let name = by(RunAs::Name { user: "db".to_owned(), gid: None });
        assert_eq!(look_up(&name, "www"), LookUp::Text("db"));
    }
}
