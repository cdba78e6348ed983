//! Bandwidth limits from a pod's annotations, which are written as Kubernetes quantities.

use crate::Bandwidth;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// No burst limit of its own: the largest that the token bucket filter can express, in bits.
const BURST: u64 = u32::MAX as u64;

/// The bounds that Kubernetes documents for these annotations: 1k to 1P bits per second.
const ALLOWED: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// An annotation that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is not a rate from 1k to 1P bits per second")]
pub struct BandwidthError {
    /// Which annotation.
    pub annotation: &'static str,
    /// What it says.
    pub value: String,
}

impl Bandwidth {
    /// The limits that these annotations ask for; none if they ask for none.
    ///
    /// # Errors
    /// An annotation is there and is not a rate.
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Option<Bandwidth>, BandwidthError> {
        let mut bandwidth = Bandwidth::default();
        for (key, value) in annotations {
            if key == INGRESS {
                bandwidth.ingress_rate = rate(INGRESS, value)?;
                bandwidth.ingress_burst = BURST;
            } else if key == EGRESS {
                bandwidth.egress_rate = rate(EGRESS, value)?;
                bandwidth.egress_burst = BURST;
            }
        }
        Ok((bandwidth != Bandwidth::default()).then_some(bandwidth))
    }
}

fn rate(annotation: &'static str, value: &str) -> Result<u64, BandwidthError> {
    quantity(value)
        .filter(|rate| ALLOWED.contains(rate))
        .ok_or_else(|| BandwidthError { annotation, value: value.to_owned() })
}

/// A Kubernetes quantity, rounded up to a whole number: `10M`, `1.5Gi`, `2e6`, `500000m`.
fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let (multiplier, divisor) = scale(suffix)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = divisor.checked_mul(10_u128.pow(u32::try_from(fraction.len()).ok()?))?;
    u64::try_from(digits.checked_mul(multiplier)?.div_ceil(divisor)).ok()
}

/// What a suffix multiplies by and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let powers = |base: u128, letters: &str| {
        let power = letters.find(suffix.chars().next()?)?;
        base.checked_pow(u32::try_from(power).ok()? + 1)
    };
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        let exponent: i32 = exponent.parse().ok().filter(|e| (-18..=18).contains(e))?;
        let power = 10_u128.pow(exponent.unsigned_abs());
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    match suffix.as_bytes() {
        [] => Some((1, 1)),
        b"n" => Some((1, 1_000_000_000)),
        b"u" => Some((1, 1_000_000)),
        b"m" => Some((1, 1_000)),
        [_, b'i'] => Some((powers(1024, "KMGTPE")?, 1)),
        [_] => Some((powers(1000, "kMGTPE")?, 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("0", 0),
            ("1500", 1500),
            ("10M", 10_000_000),
            ("1k", 1000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            (".5k", 500),
            ("2e6", 2_000_000),
            ("2E3", 2000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in
            ["", ".", "M", "-1", "1.2.3", "1K", "1ki", "1x", "1MiB", "1e99", "99999E", "1 M"]
        {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn annotations_give_rates_with_a_free_burst() {
        let got = Bandwidth::from_annotations([(INGRESS, "1M"), ("other", "x")]).unwrap().unwrap();
        let want =
            Bandwidth { ingress_rate: 1_000_000, ingress_burst: BURST, ..Bandwidth::default() };
        assert_eq!(got, want);
        assert_eq!(Bandwidth::from_annotations([("other", "x")]), Ok(None));
    }

    #[test]
    fn a_rate_out_of_bounds_is_refused_and_named() {
        for value in ["999", "2P", "fast"] {
            let error = Bandwidth::from_annotations([(EGRESS, value)]).unwrap_err();
            assert_eq!(error.annotation, EGRESS);
        }
    }
}
