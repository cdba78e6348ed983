//! What an image says about the process to run from it.

use std::collections::BTreeMap;

use crate::manifest;

/// The defaults that an image's config has for its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The entry point; the command is its arguments.
    pub entrypoint: Vec<String>,
    /// The command, or the arguments of the entry point.
    pub cmd: Vec<String>,
    /// The environment, each `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; empty means `/`.
    pub working_dir: String,
    /// The user as written: `name`, `uid`, `user:group`; empty means root.
    pub user: String,
    /// The signal that asks the process to stop; empty means SIGTERM.
    pub stop_signal: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The user of an image as CRI reports it: a number or a name, never both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A numeric user id.
    Uid(i64),
    /// A name, to be looked up in the image.
    Name(String),
}

impl Facts {
    pub(crate) fn of(config: &manifest::Config) -> Self {
        let process = config.config.clone().unwrap_or_default();
        Self {
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            env: process.env.unwrap_or_default(),
            working_dir: process.working_dir.unwrap_or_default(),
            user: process.user.unwrap_or_default(),
            stop_signal: process.stop_signal.unwrap_or_default(),
            volumes: process.volumes.unwrap_or_default().into_keys().collect(),
            labels: process
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.unwrap_or_default()))
                .collect(),
        }
    }

    /// The user alone, without a group. An empty user is uid 0.
    pub fn image_user(&self) -> ImageUser {
        let user = self.user.split(':').next().unwrap_or_default();
        match user.parse() {
            Ok(uid) => ImageUser::Uid(uid),
            Err(_) if user.is_empty() => ImageUser::Uid(0),
            Err(_) => ImageUser::Name(user.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_a_number_or_a_name() {
        let user = |text: &str| Facts { user: text.to_owned(), ..Facts::default() }.image_user();
        assert_eq!(user(""), ImageUser::Uid(0));
        assert_eq!(user("1002"), ImageUser::Uid(1002));
        assert_eq!(user("1003:1004"), ImageUser::Uid(1003));
        assert_eq!(user("www-data:1004"), ImageUser::Name("www-data".to_owned()));
        assert_eq!(user("www-data"), ImageUser::Name("www-data".to_owned()));
    }
}
