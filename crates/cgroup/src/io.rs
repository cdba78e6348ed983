//! Block I/O and pressure.

use crate::files::lines;

/// What a cgroup read from and wrote to one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// How much work waited for a resource (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a processor.
    pub cpu: Pressure,
    /// Waiting for memory.
    pub memory: Pressure,
    /// Waiting for block I/O.
    pub io: Pressure,
}

/// Pressure of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that could have run waited.
    pub full: Stall,
}

/// Shares of time in percent over the last 10, 60 and 300 seconds, and the total.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

impl Pressure {
    /// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and its `full` line.
    pub(crate) fn parse(text: &str) -> Self {
        let mut pressure = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let stall = match words.next() {
                Some("some") => &mut pressure.some,
                Some("full") => &mut pressure.full,
                _ => continue,
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "avg10" => stall.avg10 = value.parse().unwrap_or_default(),
                    "avg60" => stall.avg60 = value.parse().unwrap_or_default(),
                    "avg300" => stall.avg300 = value.parse().unwrap_or_default(),
                    "total" => stall.total_us = value.parse().unwrap_or_default(),
                    _ => {}
                }
            }
        }
        pressure
    }
}

/// Reads io.stat of v2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(crate) fn parse_v2(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut io = DeviceIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..DeviceIo::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or_default();
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// Reads a pair of v1's blkio.throttle files, lines of `8:0 Read 4096`: bytes and operations.
pub(crate) fn parse_v1(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let Some((device, rest)) = line.split_once(' ') else { continue };
            let Some((major, minor)) = device.split_once(':') else { continue };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
            let Some((direction, value)) = lines(rest).next() else { continue };
            let known = devices.iter().position(|io| (io.major, io.minor) == (major, minor));
            let at = known.unwrap_or_else(|| {
                devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
                devices.len() - 1
            });
            let io = &mut devices[at];
            match (direction, counts_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_lines() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.01 total=12345\n\
                    full avg10=0.50 avg60=0.00 avg300=0.00 total=42\n";
        let pressure = Pressure::parse(text);
        assert_eq!(pressure.some.avg10, 1.5);
        assert_eq!((pressure.some.total_us, pressure.full.total_us), (12345, 42));
    }

    #[test]
    fn io_of_both_generations_says_the_same() {
        let expected = [DeviceIo {
            major: 254,
            minor: 1,
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
        }];
        let v2 = parse_v2("254:1 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n");
        let v1 = parse_v1(
            "254:1 Read 4096\n254:1 Write 8192\n254:1 Sync 0\n254:1 Total 12288\nTotal 12288\n",
            "254:1 Read 1\n254:1 Write 2\n254:1 Total 3\nTotal 3\n",
        );
        assert_eq!(v2, expected);
        assert_eq!(v1, expected);
    }
}
