//! Ids of sandboxes and containers: 64 hexadecimal digits, as the kubelet and its tools expect.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What is wrong with a string that should have been an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not a {what} id: it must be 64 lower-case hexadecimal digits")]
pub struct IdError {
    what: &'static str,
    given: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes an id from 32 random bytes, which the caller supplies: this crate is pure.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into())
            }

            /// Parses a full id; prefixes are resolved by whoever holds the list.
            ///
            /// # Errors
            /// When the text is not 64 lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 64 && text.bytes().all(hex) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError { what: $what, given: text.to_owned() })
                }
            }

            /// The 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits: enough for people, as crictl prints them.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id!(
    /// The id of a pod sandbox.
    SandboxId,
    "sandbox"
);
id!(
    /// The id of a container.
    ContainerId,
    "container"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_lower_case_hex_digits() {
        let id = SandboxId::from_random([0xab; 32]);
        assert_eq!(SandboxId::parse(id.as_str()).unwrap(), id);
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert!(SandboxId::parse(bad).is_err(), "{bad}");
        }
    }
}
