//! CRI messages as JSON, by the field names of the .proto file, as crictl takes and shows them.

use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"))[..]).ok()
});

/// Reads a message of this name, as `PodSandboxConfig`, from JSON; unknown keys are refused.
///
/// # Errors
/// If the text is no such message.
pub fn read<M: Message + Default>(name: &str, text: &str) -> Result<M> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor(name)?, &mut reader)
        .with_context(|| format!("read a {name} from JSON"))?;
    dynamic.transcode_to().with_context(|| format!("understand a {name}"))
}

/// Shows a message of this name as JSON, absent fields with their defaults.
///
/// # Errors
/// If the message is not of that name.
pub fn show<M: Message>(name: &str, message: &M) -> Result<Value> {
    let mut dynamic = DynamicMessage::new(descriptor(name)?);
    dynamic.transcode_from(message).with_context(|| format!("understand a {name}"))?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .with_context(|| format!("show a {name}"))
}

/// The descriptors of CRI.
pub(crate) fn pool() -> Result<&'static DescriptorPool> {
    POOL.as_ref().context("CRI's descriptors do not decode")
}

/// The descriptor of a message of CRI, by its name.
///
/// # Errors
/// If CRI has none of that name.
pub fn descriptor(name: &str) -> Result<MessageDescriptor> {
    pool()?
        .get_message_by_name(&format!("runtime.v1.{name}"))
        .with_context(|| format!("CRI has no message {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::cri::v1 as cri;

    #[test]
    fn crictl_style_json_becomes_a_config_and_back() {
        let text = r#"{"metadata": {"name": "a", "uid": "u", "namespace": "n"},
            "linux": {"security_context": {"namespace_options": {"network": 2}}}}"#;
        let config: cri::PodSandboxConfig = read("PodSandboxConfig", text).unwrap();
        let options = config.linux.clone().unwrap().security_context.unwrap();
        assert_eq!(options.namespace_options.unwrap().network, cri::NamespaceMode::Node as i32);
        let shown = show("PodSandboxConfig", &config).unwrap();
        assert_eq!(shown["metadata"]["name"], "a");
        assert!(read::<cri::PodSandboxConfig>("PodSandboxConfig", r#"{"nmae": 1}"#).is_err());
    }
}
