//! The users and groups of an image, from its own `/etc/passwd` and `/etc/group`.
//!
//! A user is given as in a Dockerfile: `name`, `uid`, `name:group`, `uid:gid` or any mixture. A name
//! is looked for first, even if it looks like a number; a number needs no entry.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::stack::Stack;

/// More than this of a file is not read: an image must not fill the daemon's memory.
const LIMIT: u64 = 4 << 20;

/// The users and groups that an image defines.
#[derive(Clone, Debug)]
pub struct Users {
    image: Digest,
    users: Vec<User>,
    groups: Vec<Group>,
}

/// One line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The home directory.
    pub home: String,
}

/// One line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a process is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The name, where the image has one for the user id.
    pub name: Option<String>,
    /// The home directory, where the image says one.
    pub home: Option<String>,
    /// The groups that the image lists the user in, sorted, each once.
    pub groups: Vec<u32>,
}

impl Users {
    pub(crate) fn read(image: &Digest, stack: &Stack) -> Result<Self> {
        let read = |path: &str| -> Result<String> {
            let content = stack
                .read(path.as_bytes(), LIMIT)
                .map_err(|e| Error::file("read through the layers", path, e))?;
            Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
        };
        Ok(Self::parse(image, &read("etc/passwd")?, &read("etc/group")?))
    }

    fn parse(image: &Digest, passwd: &str, group: &str) -> Self {
        Self {
            image: image.clone(),
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(self::group).collect(),
        }
    }

    /// The user with this name.
    pub fn by_name(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The first user with this id.
    pub fn by_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    /// The id of a group, given by name or number.
    pub fn group(&self, text: &str) -> Result<u32> {
        if let Some(group) = self.groups.iter().find(|group| group.name == text) {
            return Ok(group.gid);
        }
        text.parse().map_err(|_| self.absent("group", text, "/etc/group"))
    }

    /// The groups that list a user as a member, sorted, each once.
    pub fn groups_of(&self, name: &str) -> Vec<u32> {
        let member = |group: &&Group| group.members.iter().any(|member| member == name);
        let mut groups: Vec<u32> = self.groups.iter().filter(member).map(|g| g.gid).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Resolves a user as an image or a pod names it. Empty means root.
    pub fn resolve(&self, text: &str) -> Result<Identity> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let found = match (self.by_name(user), user.parse::<u32>()) {
            (Some(found), _) => Ok(found.clone()),
            (None, Ok(uid)) => Err(uid),
            (None, Err(_)) => return Err(self.absent("user", user, "/etc/passwd")),
        };
        let mut identity = match found {
            Ok(user) => self.identity(&user),
            Err(uid) => self.resolve_uid(uid),
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            identity.gid = self.group(group)?;
        }
        Ok(identity)
    }

    /// Resolves a number, which need not be in the image: its group is then 0.
    pub fn resolve_uid(&self, uid: u32) -> Identity {
        match self.by_uid(uid) {
            Some(user) => self.identity(user),
            None => Identity { uid, gid: 0, name: None, home: None, groups: Vec::new() },
        }
    }

    fn identity(&self, user: &User) -> Identity {
        Identity {
            uid: user.uid,
            gid: user.gid,
            name: Some(user.name.clone()),
            home: Some(user.home.clone()).filter(|home| !home.is_empty()),
            groups: self.groups_of(&user.name),
        }
    }

    fn absent(&self, what: &'static str, name: &str, file: &'static str) -> Error {
        Error::NoUser { image: self.image.clone(), what, name: name.to_owned(), file }
    }
}

fn user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [name, _, uid, gid, ..] = fields[..] else { return None };
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let home = fields.get(5).copied().unwrap_or_default().to_owned();
    Some(User { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

fn group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [name, _, gid, ..] = fields[..] else { return None };
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let members = fields.get(3).copied().unwrap_or_default();
    let members =
        members.split(',').map(str::trim).filter(|m| !m.is_empty()).map(str::to_owned).collect();
    Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n\
        www-data:x:33:34:w:/var/www:/bin/sh\ndefault-user:x:1000:1000::/home/d:\n7:x:70:71::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50000:default-user,www-data\n\
        also:x:40000:default-user\nagain:x:50000:default-user\n";

    fn users() -> Users {
        Users::parse(&Digest::of(b""), PASSWD, GROUP)
    }

    #[test]
    fn every_form_of_user_is_resolved() {
        for (text, uid, gid) in [
            ("", 0, 0),
            ("root", 0, 0),
            ("www-data", 33, 34),
            ("33", 33, 34),
            ("1002", 1002, 0),
            ("1003:1004", 1003, 1004),
            ("www-data:1004", 33, 1004),
            ("33:www", 33, 34),
            (":extra", 0, 50000),
            ("7", 70, 71),
        ] {
            let identity = users().resolve(text).unwrap();
            assert_eq!((identity.uid, identity.gid), (uid, gid), "{text}");
        }
    }

    #[test]
    fn groups_of_a_user_come_by_name_or_number_and_once() {
        assert_eq!(users().resolve("1000").unwrap().groups, [40000, 50000]);
        assert_eq!(users().resolve_uid(1000).groups, [40000, 50000]);
        assert_eq!(users().resolve("33").unwrap().groups, [50000]);
        assert!(users().resolve("9999").unwrap().groups.is_empty());
    }

    #[test]
    fn unknown_names_are_errors_that_say_where_they_were_looked_for() {
        let error = users().resolve("nobody").unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        assert!(error.to_string().contains("/etc/passwd"), "{error}");
        assert!(users().resolve("root:nogroup").unwrap_err().to_string().contains("/etc/group"));
    }
}
