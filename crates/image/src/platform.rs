//! Which entry of an image index is for this machine.

use std::fmt;

use serde::Deserialize;

/// An operating system, a processor architecture and its variant, in the words of Go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, ...
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`, ... where the architecture has variants.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was built for.
    pub fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `offered` runs here: none if not at all, else higher is better.
    ///
    /// ARM runs every earlier variant; arm64 without a variant is v8; amd64 levels (`v2`, `v3`) are
    /// not detected, so only the plain one is taken.
    pub(crate) fn fit(&self, offered: &Platform) -> Option<u8> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let level = |platform: &Platform| -> Option<u8> {
            match (platform.architecture.as_str(), platform.variant.as_deref()) {
                ("arm64", None | Some("")) => Some(8),
                ("arm", None | Some("")) => Some(7),
                (_, None | Some("")) => Some(1),
                (_, Some(variant)) => variant.strip_prefix('v')?.parse().ok(),
            }
        };
        let (here, there) = (level(self)?, level(offered)?);
        (there <= here).then_some(there)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next(),
        }
    }

    #[test]
    fn earlier_arm_variants_fit_and_the_nearest_fits_best() {
        let here = platform("linux/arm/v7");
        assert!(here.fit(&platform("linux/arm/v7")) > here.fit(&platform("linux/arm/v6")));
        assert!(here.fit(&platform("linux/arm/v6")).is_some());
        assert!(platform("linux/arm/v6").fit(&platform("linux/arm/v7")).is_none());
    }

    #[test]
    fn others_do_not_fit() {
        let here = platform("linux/amd64");
        assert!(here.fit(&platform("linux/amd64")).is_some());
        for other in ["linux/arm64", "windows/amd64", "unknown/unknown", "linux/amd64/v3", ""] {
            assert!(here.fit(&platform(other)).is_none(), "{other}");
        }
        assert!(platform("linux/arm64/v8").fit(&platform("linux/arm64")).is_some());
    }
}
