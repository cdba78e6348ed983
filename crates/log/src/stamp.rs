//! RFC 3339 with nanoseconds, in UTC, without a calendar library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of what [`append`] writes.
const LENGTH: usize = "2006-01-02T15:04:05.000000000Z".len();

/// `time` as `2006-01-02T15:04:05.000000000Z`.
#[must_use]
pub fn stamp(time: SystemTime) -> String {
    let mut text = Vec::with_capacity(LENGTH);
    append(time, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends `time` as `2006-01-02T15:04:05.000000000Z`.
pub(crate) fn append(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let mut text = [0_u8; LENGTH];
    text.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], u64::from(since.subsec_nanos()));
    out.extend_from_slice(&text);
}

fn digits(into: &mut [u8], mut value: u64) {
    for place in into.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 as year, month, day: count from 1 March of year 0, when the leap day is
/// the last of its year, in eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        append(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(text(951_868_799, 999_999_999), "2000-02-29T23:59:59.999999999Z");
        assert_eq!(text(951_868_800, 0), "2000-03-01T00:00:00.000000000Z");
        assert_eq!(text(1_795_300_000, 120_000_000), "2026-11-21T22:26:40.120000000Z");
        assert_eq!(text(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z");
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = civil(0);
        for days in 1..146_097 {
            let day = civil(days);
            let next = day == (last.0, last.1, last.2 + 1)
                || day == (last.0, last.1 + 1, 1) && last.2 >= 28
                || day == (last.0 + 1, 1, 1) && (last.1, last.2) == (12, 31);
            assert!(next, "{last:?} is followed by {day:?}");
            last = day;
        }
    }
}
