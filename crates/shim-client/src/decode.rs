//! Messages from bytes, for no more memory than they are worth.

use protobuf::{CodedInputStream, Message};

/// Decodes a whole message.
///
/// The library alone believes a field's length up to 10 MB before it looks whether so much is there.
pub(crate) fn decode<M: Message>(bytes: &[u8]) -> protobuf::Result<M> {
    let mut stream = CodedInputStream::from_bytes(bytes);
    stream.push_limit(bytes.len() as u64)?;
    let message = M::parse_from(&mut stream)?;
    stream.check_eof()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::well_known_types::any::Any;

    #[test]
    fn a_field_is_not_longer_than_its_message() {
        let any = Any { type_url: "a".into(), value: vec![1; 300], ..Any::default() };
        let bytes = any.write_to_bytes().unwrap();
        assert_eq!(decode::<Any>(&bytes).unwrap(), any);
        for cut in 1..bytes.len() {
            // Between two fields, it is a message of the first.
            assert_eq!(decode::<Any>(&bytes[..cut]).is_ok(), cut == 3, "{cut}");
        }
        let long = [0x0a, 0xff, 0xff, 0xff, 0x04, b'x'];
        decode::<Any>(&long).unwrap_err();
    }
}
