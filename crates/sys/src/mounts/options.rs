//! Mount options as fstab, OCI bundles and shim requests write them.

use std::path::Path;

use super::{Attributes, Flags, Propagation};
use crate::error::{Error, Result};

/// A list of options, sorted into what each is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2).
    pub flags: Flags,
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`: with what is mounted below.
    pub recursive: bool,
    /// `rro`: read-only with all below.
    pub recursive_read_only: bool,
    /// Propagation, and whether it goes for all below (`rslave` and its like), in order.
    pub propagation: Vec<(Propagation, bool)>,
    /// What is left: the file system's own, joined by commas.
    pub data: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: Flags::empty(),
            bind: false,
            recursive: false,
            recursive_read_only: false,
            propagation: Vec::new(),
            data: String::new(),
        }
    }
}

/// Option, flag, and whether the option sets it or clears it (mount(8)).
const FLAGS: [(&str, Flags, bool); 24] = [
    ("ro", Flags::RDONLY, true),
    ("rw", Flags::RDONLY, false),
    ("nosuid", Flags::NOSUID, true),
    ("suid", Flags::NOSUID, false),
    ("nodev", Flags::NODEV, true),
    ("dev", Flags::NODEV, false),
    ("noexec", Flags::NOEXEC, true),
    ("exec", Flags::NOEXEC, false),
    ("sync", Flags::SYNCHRONOUS, true),
    ("async", Flags::SYNCHRONOUS, false),
    ("dirsync", Flags::DIRSYNC, true),
    ("mand", Flags::PERMIT_MANDATORY_FILE_LOCKING, true),
    ("nomand", Flags::PERMIT_MANDATORY_FILE_LOCKING, false),
    ("noatime", Flags::NOATIME, true),
    ("atime", Flags::NOATIME, false),
    ("nodiratime", Flags::NODIRATIME, true),
    ("diratime", Flags::NODIRATIME, false),
    ("relatime", Flags::RELATIME, true),
    ("norelatime", Flags::RELATIME, false),
    ("strictatime", Flags::STRICTATIME, true),
    ("nostrictatime", Flags::STRICTATIME, false),
    ("lazytime", Flags::LAZYTIME, true),
    ("nolazytime", Flags::LAZYTIME, false),
    ("silent", Flags::SILENT, true),
];

impl Options {
    /// Sorts a list of options; a later one wins over an earlier one.
    pub fn parse(list: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut options = Self::default();
        let mut data = Vec::new();
        for option in list {
            let option = option.as_ref();
            if let Some((_, flag, set)) = FLAGS.iter().find(|(name, _, _)| *name == option) {
                options.flags.set(*flag, *set);
            } else if !options.take_special(option) {
                data.push(option.to_owned());
            }
        }
        options.data = data.join(",");
        options
    }

    fn take_special(&mut self, option: &str) -> bool {
        let (name, recursive) = match option {
            "rprivate" | "rslave" | "rshared" | "runbindable" => (&option[1..], true),
            other => (other, false),
        };
        match name {
            "defaults" | "" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "rro" => {
                self.flags |= Flags::RDONLY;
                self.recursive_read_only = true;
            }
            "private" => self.propagation.push((Propagation::Private, recursive)),
            "slave" => self.propagation.push((Propagation::Slave, recursive)),
            "shared" => self.propagation.push((Propagation::Shared, recursive)),
            "unbindable" => self.propagation.push((Propagation::Unbindable, recursive)),
            _ => return false,
        }
        true
    }
}

/// Mounts as a list of options asks: a bind, its flags by a second call, then the propagation.
///
/// On failure of a later step what was mounted is detached again.
pub fn mount_as(
    kind: &str,
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    options: &Options,
) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let bind = options.bind || kind == "bind";
    if bind && !options.data.is_empty() {
        return Err(Error::Argument {
            what: "options of a bind mount",
            value: options.data.clone(),
            reason: "a bind mount knows no options of a file system",
        });
    }
    match (bind, options.recursive) {
        (true, true) => super::bind_recursive(source, target)?,
        (true, false) => super::bind(source, target)?,
        (false, _) => super::mount(source, target, kind, options.flags, &options.data)?,
    }
    finish(target, bind, options).inspect_err(|_| {
        // Best effort: the error of the step is the one to report.
        let _ = super::detach(target);
    })
}

fn finish(target: &Path, bind: bool, options: &Options) -> Result<()> {
    if bind && !options.flags.is_empty() {
        super::remount_bind(target, options.flags)?;
    }
    if options.recursive_read_only {
        let attributes = Attributes { read_only: Some(true), ..Attributes::default() };
        super::set_attributes(rustix::fs::CWD, target, &attributes, true)?;
    }
    for (propagation, recursive) in &options.propagation {
        super::set_propagation(target, *propagation, *recursive)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_and_later_ones_win() {
        let options =
            Options::parse(["ro", "nosuid", "rw", "mode=755", "size=64k", "rslave", "defaults"]);
        assert_eq!(options.flags, Flags::NOSUID);
        assert_eq!(options.data, "mode=755,size=64k");
        assert_eq!(options.propagation, [(Propagation::Slave, true)]);
        assert!(!options.bind);
    }

    #[test]
    fn rbind_and_rro_are_recursive() {
        let options = Options::parse(["rbind", "rro", "private"]);
        assert!(options.bind && options.recursive && options.recursive_read_only);
        assert_eq!(options.flags, Flags::RDONLY);
        assert_eq!(options.propagation, [(Propagation::Private, false)]);
    }
}
