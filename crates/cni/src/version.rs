//! The versions of the CNI specification that Berth speaks.

use std::fmt;

/// A version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0: results list interfaces and addresses.
    V0_3_0,
    /// 0.3.1: the `interface` index of an address is clarified.
    V0_3_1,
    /// 0.4.0: CHECK, and the cached result given to DEL.
    V0_4_0,
    /// 1.0.0: addresses no longer say which family they are of.
    V1_0_0,
    /// 1.1.0: STATUS, GC, `cniVersions`.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// As configuration and plugins spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Parses what a configuration says; none for a version that Berth does not speak.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// May plugins of this version be asked to CHECK, and does DEL get the earlier result?
    #[must_use]
    pub fn has_check(self) -> bool {
        self >= Version::V0_4_0
    }

    /// May plugins of this version be asked for STATUS and GC?
    #[must_use]
    pub fn has_status(self) -> bool {
        self >= Version::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The versions as one line, for messages.
pub(crate) fn spoken() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_parses_back_and_order_is_age() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Some(version));
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::parse("0.2.0"), None);
        assert_eq!(Version::parse(""), None);
    }
}
