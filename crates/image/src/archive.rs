//! Reads tar archives as layers are written: ustar, GNU and pax (POSIX.1-2017, "pax", "ustar
//! Interchange Format"; GNU tar manual, "Basic Tar Format").
//!
//! Values of pax records are bytes and may hold newlines (a file capability can); readers that split
//! records at newlines lose them, and with them the long names that follow. And what stands before
//! an entry's content is kept in memory, so there is a limit to it.

use std::io::{self, Read};

use rustix::fs::Timespec;

use crate::confined::invalid;

const BLOCK: usize = 512;
/// What may stand before the content of an entry: long names, pax records, maps of holes.
const EXTENSIONS: u64 = 4 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Link,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// One entry; its content is read from the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Timespec,
    pub(crate) device: (u32, u32),
    /// Extended attributes, under the names that the kernel has for them.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// Where the content of a sparse file belongs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The size of the file with its holes.
    pub(crate) size: u64,
    /// Position and length of each part, in the order of the content.
    pub(crate) parts: Vec<(u64, u64)>,
}

/// An archive that is read from the beginning to the end.
pub(crate) struct Archive<R> {
    from: R,
    /// What is unread of the entry's content, and the padding after it.
    content: u64,
    padding: u64,
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.iter().rev().find(|(k, _)| k == key).map(|(_, value)| &value[..])
    }

    fn number(&self, key: &[u8]) -> io::Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| invalid("a pax record is not a number"))
    }
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, content: 0, padding: 0 }
    }

    /// The next entry, or none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut left = EXTENSIONS;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.0[156];
            if !matches!(kind, b'x' | b'L' | b'K' | b'g') {
                return self.entry(&header, &extensions).map(Some);
            }
            let size = header.number(124, 12)?;
            self.expect(size);
            left = left.checked_sub(size).ok_or_else(|| invalid("headers of more than 4 MiB"))?;
            let mut value = Vec::new();
            self.by_ref().take(size).read_to_end(&mut value)?;
            if value.len() as u64 != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match kind {
                b'x' => parse_records(&value, &mut extensions.records)?,
                b'L' => extensions.name = Some(until_nul(&value).to_vec()),
                b'K' => extensions.target = Some(until_nul(&value).to_vec()),
                // Global records are comments in practice (git archive writes the commit).
                _ => {}
            }
        }
    }

    fn by_ref(&mut self) -> &mut Self {
        self
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.content.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.from).take(rest), &mut io::sink())?;
        (self.content, self.padding) = (0, 0);
        if skipped == rest { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The next header; none at a block of zeros, or where the archive simply stops.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK];
        let count = crate::apply::fill(&mut self.from, &mut block)?;
        match count {
            0 => return Ok(None),
            BLOCK if block == [0; BLOCK] => return Ok(None),
            BLOCK => {}
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        let header = Header(block);
        header.check()?;
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, extensions: &Extensions) -> io::Result<Entry> {
        let size = match extensions.number(b"size")? {
            Some(size) => size,
            None => header.number(124, 12)?,
        };
        if extensions.records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            return Err(invalid("pax sparse files are not supported"));
        }
        let name = extensions.get(b"path").map(<[u8]>::to_vec);
        let name = name.or_else(|| extensions.name.clone()).unwrap_or_else(|| header.name());
        let target = extensions.get(b"linkpath").map(<[u8]>::to_vec);
        let target = target.or_else(|| extensions.target.clone());
        let kind = header.kind(&name)?;
        // Only files have content; some writers give links the size of what they link to.
        let size = if kind == Kind::File { size } else { 0 };
        let sparse = match header.0[156] {
            b'S' => Some(self.holes(header)?),
            _ => None,
        };
        self.expect(size);
        let mtime = extensions.get(b"mtime").and_then(parse_time);
        let seconds = header.signed(136, 12)?;
        let id = |key: &[u8], at| match extensions.number(key)? {
            Some(id) => Ok(id),
            None => header.number(at, 8),
        };
        let device = |at| header.number(at, 8).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let devices = matches!(kind, Kind::Char | Kind::Block);
        Ok(Entry {
            kind,
            name,
            target: target.unwrap_or_else(|| until_nul(&header.0[157..257]).to_vec()),
            mode: u32::try_from(header.number(100, 8)? & 0o7777).unwrap_or(0),
            uid: id(b"uid", 108)?,
            gid: id(b"gid", 116)?,
            mtime: mtime.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }),
            device: if devices { (device(329)?, device(337)?) } else { (0, 0) },
            xattrs: extensions.records.iter().filter_map(xattr).collect(),
            sparse,
        })
    }

    /// The map of an old GNU sparse file: four parts in the header, 21 in each block that follows.
    fn holes(&mut self, header: &Header) -> io::Result<Sparse> {
        let mut sparse = Sparse { size: header.number(483, 12)?, parts: Vec::new() };
        let mut add = |block: &Header, at: usize, count: usize| -> io::Result<()> {
            for part in (0..count).map(|i| at + i * 24) {
                if block.0[part] != 0 {
                    let (position, length) =
                        (block.number(part, 12)?, block.number(part + 12, 12)?);
                    sparse.parts.push((position, length));
                }
            }
            Ok(())
        };
        add(header, 386, 4)?;
        let mut more = header.0[482] != 0;
        let mut left = EXTENSIONS / BLOCK as u64;
        while more {
            left = left.checked_sub(1).ok_or_else(|| invalid("headers of more than 4 MiB"))?;
            let mut block = Header([0; BLOCK]);
            self.from.read_exact(&mut block.0)?;
            add(&block, 0, 21)?;
            more = block.0[504] != 0;
        }
        Ok(sparse)
    }
}

/// The content of the entry that was read last.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

struct Header([u8; BLOCK]);

impl Header {
    /// The sum of all bytes, its own field taken as spaces; some writers summed signed bytes.
    fn check(&self) -> io::Result<()> {
        let bytes = || {
            let field = |at: usize| (148..156).contains(&at);
            self.0.iter().enumerate().map(move |(at, b)| if field(at) { b' ' } else { *b })
        };
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        let expected = self.signed(148, 8)?;
        match expected == unsigned || expected == signed {
            true => Ok(()),
            false => Err(invalid("not a tar archive: the checksum of a header is wrong")),
        }
    }

    fn number(&self, at: usize, length: usize) -> io::Result<u64> {
        u64::try_from(self.signed(at, length)?).map_err(|_| invalid("a number is negative"))
    }

    /// Octal digits, or with the highest bit set, a number of base 256; empty is zero.
    fn signed(&self, at: usize, length: usize) -> io::Result<i64> {
        let field = &self.0[at..at + length];
        let too_large = || invalid("a number is too large");
        if field[0] & 0x80 != 0 {
            // The second bit is the sign.
            let start = if field[0] & 0x40 != 0 { -1 } else { 0 };
            let first = i64::from(field[0] & 0x3f) | (start << 6);
            return field[1..].iter().try_fold(first, |sum, byte| {
                let shifted = sum.checked_mul(256).ok_or_else(too_large)?;
                shifted.checked_add(i64::from(*byte)).ok_or_else(too_large)
            });
        }
        let text = std::str::from_utf8(until_nul(field)).map_err(|_| invalid("not a number"))?;
        match text.trim_matches(' ') {
            "" => Ok(0),
            digits => i64::from_str_radix(digits, 8).map_err(|_| invalid("not a number")),
        }
    }

    fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        // GNU has other things where ustar has the prefix.
        let prefix = match &self.0[257..263] {
            b"ustar\0" => until_nul(&self.0[345..500]),
            _ => b"",
        };
        match prefix {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn kind(&self, name: &[u8]) -> io::Result<Kind> {
        Ok(match self.0[156] {
            // Before ustar, a directory was a file with a slash.
            0 | b'0' if name.last() == Some(&b'/') => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let name = String::from_utf8_lossy(name);
                let reason = format!("{name:?}: entry type {:?} is unknown", char::from(other));
                return Err(invalid(&reason));
            }
        })
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// `LENGTH KEY=VALUE\n` each, where the length counts the whole record.
fn parse_records(mut text: &[u8], records: &mut Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<()> {
    let broken = || invalid("a pax record is malformed");
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let digits = std::str::from_utf8(&text[..space]).map_err(|_| broken())?;
        let length: usize = digits.parse().map_err(|_| broken())?;
        let record = text.get(space + 1..length).ok_or_else(broken)?;
        let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length..];
    }
    Ok(())
}

fn xattr((key, value): &(Vec<u8>, Vec<u8>)) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone()))
}

/// Seconds with a fraction, as pax writes them.
fn parse_time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        let tv_sec = tv_sec.checked_sub(1)?;
        return Some(Timespec { tv_sec, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec, tv_nsec: nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction_before_and_after_1970() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("x"), None);
        assert_eq!(time("-9223372036854775808.5"), None);
    }

    #[test]
    fn pax_values_are_bytes() {
        let mut records = Vec::new();
        parse_records(b"9 a=\nb\0c\n18 path=long/name\n", &mut records).unwrap();
        assert_eq!(records[0], (b"a".to_vec(), b"\nb\0c".to_vec()));
        assert_eq!(records[1].1, b"long/name");
        for bad in [&b"5 a=b"[..], b"99 a=b\n", b"x a=b\n", b"4 ab\n", b"0 \n", b"6 ab\n\n"] {
            assert!(parse_records(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_come_in_octal_and_in_base_256() {
        let number = |field: &[u8]| {
            let mut header = Header([0; BLOCK]);
            header.0[..field.len()].copy_from_slice(field);
            header.signed(0, field.len()).ok()
        };
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b"    755 "), Some(0o755));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"0000789\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x81; 12]), None);
    }

    #[test]
    fn archives_of_another_writer_are_read_alike() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(3_000_000);
        header.set_gid(7);
        header.set_mtime(99);
        header.set_size(3);
        builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "p".repeat(80) + "/l", "target").unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut archive = Archive::new(&bytes[..]);
        let first = archive.next().unwrap().unwrap();
        assert_eq!((first.kind, &first.name[..]), (Kind::File, long.as_bytes()));
        assert_eq!((first.mode, first.uid, first.gid), (0o640, 3_000_000, 7));
        assert_eq!(first.mtime.tv_sec, 99);
        let mut content = String::new();
        archive.read_to_string(&mut content).unwrap();
        assert_eq!(content, "abc");
        let second = archive.next().unwrap().unwrap();
        assert_eq!((second.kind, &second.target[..]), (Kind::Symlink, &b"target"[..]));
        assert!(archive.next().unwrap().is_none());
    }

    #[test]
    fn what_is_no_archive_is_an_error_and_never_a_panic() {
        let mut seed = 7u64;
        for _ in 0..2000 {
            let mut bytes = vec![0u8; 1024];
            for byte in &mut bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = if seed >> 60 < 12 {
                    b'0' + (seed >> 40) as u8 % 10
                } else {
                    (seed >> 33) as u8
                };
            }
            // With a right checksum, so that the fields themselves are read.
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut archive = Archive::new(&bytes[..]);
            while let Ok(Some(_)) = archive.next() {}
        }
    }
}
