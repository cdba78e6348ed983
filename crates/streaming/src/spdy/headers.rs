//! Header blocks: names and values, compressed with one zlib stream for each direction of a session.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// The largest header block, inflated. Those of Kubernetes have some hundred bytes.
pub(crate) const BLOCK: usize = 16 << 10;

/// Why a header block cannot be read. The compression of what follows is lost with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadersError {
    #[error("its header block is no zlib data")]
    Zlib,
    #[error("its header block wants another dictionary than SPDY/3's")]
    Dictionary,
    #[error("its header block ends the compression")]
    Ended,
    #[error("its header block has more than {BLOCK} bytes")]
    Large,
    #[error("its header block ends in the middle")]
    Short,
    #[error("its header block goes on after the last header")]
    Long,
    #[error("a header's name is empty, not in lower case, or not ASCII")]
    Name,
    #[error("a header stands twice")]
    Twice,
    #[error("a header's value is not UTF-8")]
    Value,
}

/// Names and values, in the order of the block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The value of a header; `name` in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(other, _)| other == name)?;
        Some(value)
    }

    /// Reads an inflated block.
    pub(crate) fn parse(mut block: &[u8]) -> Result<Self, HeadersError> {
        let count = number(&mut block)?;
        let mut headers = Self::default();
        for _ in 0..count {
            let name = text(&mut block)?;
            let named = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            if name.is_empty() || !name.iter().all(named) {
                return Err(HeadersError::Name);
            }
            let name = String::from_utf8_lossy(name).into_owned();
            if headers.get(&name).is_some() {
                return Err(HeadersError::Twice);
            }
            let value = std::str::from_utf8(text(&mut block)?).map_err(|_| HeadersError::Value)?;
            headers.0.push((name, value.to_owned()));
        }
        match block {
            [] => Ok(headers),
            _ => Err(HeadersError::Long),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for part in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(part.len() as u32).to_be_bytes());
            block.extend_from_slice(part.as_bytes());
        }
        block
    }
}

fn number(block: &mut &[u8]) -> Result<u32, HeadersError> {
    let (bytes, rest) = block.split_first_chunk().ok_or(HeadersError::Short)?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], HeadersError> {
    let length = number(block)? as usize;
    let (bytes, rest) = block.split_at_checked(length).ok_or(HeadersError::Short)?;
    *block = rest;
    Ok(bytes)
}

/// Reads the peer's header blocks.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block.
    pub(crate) fn headers(&mut self, block: &[u8]) -> Result<Headers, HeadersError> {
        let before = self.0.total_in();
        let mut plain = Vec::new();
        loop {
            if plain.len() == plain.capacity() {
                plain.reserve(1024);
            }
            let (consumed, length) = ((self.0.total_in() - before) as usize, plain.len());
            let rest = block.get(consumed..).unwrap_or_default();
            match self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(HeadersError::Ended),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.0.set_dictionary(&dictionary());
                    set.map_err(|_| HeadersError::Dictionary)?;
                    continue;
                }
                Err(_) => return Err(HeadersError::Zlib),
            }
            if plain.len() > BLOCK {
                return Err(HeadersError::Large);
            }
            let still = (self.0.total_in() - before) as usize == consumed && plain.len() == length;
            // With room left in `plain`, nothing more is to come.
            if still || plain.len() < plain.capacity() {
                break;
            }
        }
        match (self.0.total_in() - before) as usize == block.len() {
            true => Headers::parse(&plain),
            false => Err(HeadersError::Zlib),
        }
    }
}

/// Writes our header blocks.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        // The smallest window: what we send is a few bytes a stream.
        let mut compress = Compress::new_with_window_bits(Compression::fast(), true, 9);
        let set = compress.set_dictionary(&dictionary());
        debug_assert!(set.is_ok(), "a fresh stream takes a dictionary");
        Self(compress)
    }

    /// Appends the next block.
    pub(crate) fn append(&mut self, headers: &Headers, out: &mut Vec<u8>) {
        let plain = headers.encode();
        let before = self.0.total_in();
        loop {
            out.reserve(256);
            let consumed = (self.0.total_in() - before) as usize;
            let rest = plain.get(consumed..).unwrap_or_default();
            let done = self.0.compress_vec(rest, out, FlushCompress::Sync);
            if done.is_err() || out.len() < out.capacity() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(pairs: &[(&str, &str)]) -> Headers {
        Headers(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        assert_eq!(dictionary().len(), 1423);
        let mut compress = Compress::new(Compression::fast(), true);
        assert_eq!(compress.set_dictionary(&dictionary()).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let long = "x".repeat(5000);
        for headers in [
            some(&[]),
            some(&[("streamtype", "stdin")]),
            some(&[("streamtype", "data"), ("port", "80"), ("requestid", "7")]),
            some(&[("long", &long)]),
            some(&[]),
        ] {
            let mut block = Vec::new();
            deflater.append(&headers, &mut block);
            assert_eq!(inflater.headers(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_block_may_not_be_large() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let mut block = Vec::new();
        deflater.append(&some(&[("long", &"x".repeat(1 << 20))]), &mut block);
        assert!(block.len() < BLOCK);
        assert_eq!(inflater.headers(&block), Err(HeadersError::Large));
    }

    #[test]
    fn bad_compression_is_an_error() {
        assert_eq!(Inflater::new().headers(&[0; 9]), Err(HeadersError::Zlib));
        let mut block = Vec::new();
        let mut other = Compress::new(Compression::fast(), true);
        other.set_dictionary(b"another").unwrap();
        block.reserve(64);
        other.compress_vec(&[0; 4], &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Inflater::new().headers(&block), Err(HeadersError::Dictionary));
        let mut ended = Vec::with_capacity(64);
        let mut once = Compress::new(Compression::fast(), true);
        once.compress_vec(&[0; 4], &mut ended, FlushCompress::Finish).unwrap();
        assert_eq!(Inflater::new().headers(&ended), Err(HeadersError::Ended));
    }

    #[test]
    fn bad_blocks_are_errors() {
        let block = |count: u32, parts: &[&[u8]]| {
            let mut block = count.to_be_bytes().to_vec();
            for part in parts {
                block.extend_from_slice(&(part.len() as u32).to_be_bytes());
                block.extend_from_slice(part);
            }
            Headers::parse(&block)
        };
        assert_eq!(Headers::parse(&[0; 3]), Err(HeadersError::Short));
        assert_eq!(block(2, &[b"a", b"b"]), Err(HeadersError::Short));
        assert_eq!(block(u32::MAX, &[b"a", b"b"]), Err(HeadersError::Short));
        assert_eq!(Headers::parse(&[0, 0, 0, 1, 255, 255, 255, 255, 1]), Err(HeadersError::Short));
        assert_eq!(block(0, &[b"a"]), Err(HeadersError::Long));
        assert_eq!(block(1, &[b"", b"b"]), Err(HeadersError::Name));
        assert_eq!(block(1, &[b"Port", b"b"]), Err(HeadersError::Name));
        assert_eq!(block(1, &[b"\xff", b"b"]), Err(HeadersError::Name));
        assert_eq!(block(2, &[b"a", b"b", b"a", b"c"]), Err(HeadersError::Twice));
        assert_eq!(block(1, &[b"a", b"\xff"]), Err(HeadersError::Value));
    }
}
