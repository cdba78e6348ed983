//! The digest by which two requests are known to be the same.

use prost::Message;
use sha2::{Digest, Sha256};

/// Hex SHA-256 over a context and a message.
///
/// The encoding is canonical: fields go out in the order of their numbers and maps sorted, since
/// the generated types hold them in `BTreeMap`s. Fields that we do not know are not in it.
pub(super) fn digest<M: Message>(context: &str, message: &M) -> String {
    let mut hash = Sha256::new();
    hash.update((context.len() as u64).to_le_bytes());
    hash.update(context);
    hash.update(message.encode_to_vec());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
