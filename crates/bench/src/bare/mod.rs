//! The bare commands: what a pod costs when nobody but the CNI plugins and the OCI runtime works
//! for it. One small program in the node runs them; nothing in it is Berth's but config.json.

pub(crate) mod driver;
pub(crate) mod orders;
mod plugins;
mod pod;
